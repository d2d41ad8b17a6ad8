package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max_by;
import static org.apache.spark.sql.functions.regexp_replace;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.Checkpoints;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import io.delta.tables.DeltaTable;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Back to Kafka: keys, headers, tombstones and several topics; records that are sent again when a
 * batch is run again, and the consumer that takes each once.
 *
 * <p>Run: {@code ./run KafkaSink}, or Run in the IDE; no JVM flags, no setup: it starts a broker in
 * this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: six changes of orders as the records of two topics; a batch that is run again, after
 * which the topics have eight; a consumer that counts eight, and one that has six; a record that is
 * too large, and what of its batch was sent all the same.
 *
 * <p>On Databricks: the same code; brokers and secrets from a secret scope.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/structured-streaming-kafka-integration.html#writing-data-to-kafka">Structured
 *     Streaming: writing data to Kafka</a>
 */
public final class KafkaSink {

  private KafkaSink() {}

  /**
   * The records of changes. The key is the order, so that its changes stay in one partition; the
   * value is JSON, and NULL for a deleted order: a tombstone, after which a compacted topic forgets
   * the key. The header {@code change_id} comes from the data: an id that the query made itself,
   * such as {@code uuid()}, would be another one when the batch is run again.
   *
   * @param changes {@code change_id BIGINT, order_id BIGINT, country STRING, status STRING, amount
   *     DECIMAL(12,2)}; the status {@code deleted} is the last of an order
   * @param topic each record's topic, a STRING
   * @return {@code key STRING, value STRING, headers ARRAY<STRUCT<key STRING, value BINARY>>, topic
   *     STRING}
   */
  public static Dataset<Row> records(Dataset<Row> changes, Column topic) {
    return changes
        .withColumn("topic", topic)
        .selectExpr(
            "CAST(order_id AS STRING) AS key",
            "IF(status = 'deleted', NULL, to_json(struct(order_id, country, status, amount))) AS"
                + " value",
            "array(struct('change_id' AS key, CAST(CAST(change_id AS STRING) AS BINARY) AS value))"
                + " AS headers",
            "topic");
  }

  /**
   * Sends all that is there now, and ends. Each record is sent at least once: the sink does not
   * know what an earlier run of its batch has sent, and the producer's {@code enable.idempotence}
   * covers its own retries only. What a batch has sent before it failed is not taken back either.
   *
   * @param records as {@link #records} returns them; their {@code topic} counts only without the
   *     option {@code topic}
   * @param options such as {@code kafka.max.request.size}
   */
  public static StreamingQuery sendAvailable(
      Dataset<Row> records, String servers, Map<String, String> options, String checkpoint)
      throws TimeoutException {
    return records
        .writeStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .options(options)
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .start();
  }

  /**
   * What a consumer reads of {@link #records}.
   *
   * @param records as {@link KafkaIngest#read} gives them, with headers
   * @return {@code order_key STRING, change_id BIGINT, value STRING, topic STRING}
   */
  public static Dataset<Row> received(Dataset<Row> records) {
    return records.selectExpr(
        "CAST(key AS STRING) AS order_key",
        "CAST(CAST(filter(headers, h -> h.key = 'change_id')[0].value AS STRING) AS BIGINT) AS"
            + " change_id",
        "CAST(value AS STRING) AS value",
        "topic");
  }

  /**
   * Takes each change into {@code table} once, however often it was sent: in one batch or in
   * several, which is why dropping duplicates within a batch is not enough.
   *
   * @param received what {@link #received} returns, as a stream
   * @param table a Delta table of the same columns
   */
  public static StreamingQuery takeOnceAvailable(
      Dataset<Row> received, String table, String checkpoint) throws TimeoutException {
    return received
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, batchId) ->
                    DeltaTable.forName(batch.sparkSession(), table)
                        .as("t")
                        .merge(
                            batch.dropDuplicates("order_key", "change_id").alias("s"),
                            "t.order_key = s.order_key AND t.change_id = s.change_id")
                        .whenNotMatched()
                        .insertAll()
                        .execute())
        .start();
  }

  /**
   * The orders as their last change left them, without those whose last record is a tombstone.
   *
   * @return {@code order_key STRING, value STRING}
   */
  public static Dataset<Row> current(Dataset<Row> received) {
    return received
        .groupBy("order_key")
        .agg(max_by(col("value"), col("change_id")).as("value"))
        .where("value IS NOT NULL");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        KafkaSink.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path checkpoint = notebook.sandbox().folder().resolve("checkpoint");
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            String swiss = kafka.newTopic("orders-ch", 1);
            String abroad = kafka.newTopic("orders-abroad", 1);
            String both = swiss + "," + abroad;
            Column topic = when(col("country").equalTo("CH"), swiss).otherwise(abroad);
            spark.sql(
                "CREATE TABLE changes (change_id BIGINT, order_id BIGINT, country STRING, status"
                    + " STRING, amount DECIMAL(12,2)) USING delta");

            notebook.step(
                "Six changes of orders, to a topic for Switzerland and one for the others");
            for (String arrival :
                new String[] {
                  "(1, 101, 'CH', 'new', 20.00), (2, 102, 'FR', 'new', 35.50), (3, 103, 'CH',"
                      + " 'new', 8.90), (4, 101, 'CH', 'paid', 20.00)",
                  "(5, 102, 'FR', 'paid', 35.50), (6, 103, 'CH', 'deleted', 8.90)"
                }) {
              spark.sql("INSERT INTO changes SELECT /*+ COALESCE(1) */ * FROM VALUES " + arrival);
              sendAvailable(
                      records(spark.readStream().table("changes"), topic),
                      servers,
                      Map.of(),
                      checkpoint.toString())
                  .awaitTermination();
            }
            Dataset<Row> sent =
                spark
                    .read()
                    .format("kafka")
                    .option("kafka.bootstrap.servers", servers)
                    .option("subscribe", both)
                    .option("includeHeaders", true)
                    .load();
            notebook.table(
                "the records of both topics",
                sent.select(
                        regexp_replace(col("topic"), "-[^-]*$", "").as("topic"),
                        col("offset"),
                        col("key").cast("STRING").as("key"),
                        col("value").cast("STRING").as("value"),
                        expr("transform(headers, h -> h.key || '=' || CAST(h.value AS STRING))")
                            .as("headers"))
                    .orderBy(col("topic").desc(), col("offset")));
            notebook.table(
                "the orders that there are", current(received(sent)).orderBy("order_key"));

            notebook.step("The process dies before batch 1 is noted as done, and starts again");
            Checkpoints.forgetCommit(checkpoint, 1);
            sendAvailable(
                    records(spark.readStream().table("changes"), topic),
                    servers,
                    Map.of(),
                    checkpoint.toString())
                .awaitTermination();
            notebook.table(
                "how often each change was sent",
                received(sent)
                    .groupBy("order_key", "change_id")
                    .agg(count(lit(1)).as("records"))
                    .orderBy("change_id"));

            notebook.step("A consumer that appends, and one that takes each change once");
            Dataset<Row> stream =
                received(
                    KafkaIngest.read(spark, servers, both, Map.of("startingOffsets", "earliest")));
            KafkaIngest.ingestAvailable(stream, "appended", notebook.sandbox().path("appended"))
                .awaitTermination();
            received(sent).limit(0).write().format("delta").saveAsTable("once");
            takeOnceAvailable(stream, "once", notebook.sandbox().path("once")).awaitTermination();
            notebook.chart(
                new Chart("rows of six changes", "rows")
                    .bar("appended", spark.table("appended").count())
                    .bar("once", spark.table("once").count()));

            notebook.step("A record that is too large, between two others");
            spark.sql(
                """
                INSERT INTO changes SELECT /*+ COALESCE(1) */ * FROM VALUES
                  (7, 104, 'CH', 'new', 1.00), (8, 105, 'CH', repeat('!', 2000000), 1.00), (9, 106, 'CH', 'new', 1.00)
                """);
            try {
              sendAvailable(
                      records(spark.readStream().table("changes"), topic),
                      servers,
                      Map.of(),
                      checkpoint.toString())
                  .awaitTermination();
              throw new IllegalStateException("the record was not too large");
            } catch (StreamingQueryException e) {
              Throwable cause = e;
              while (cause.getCause() != null) {
                cause = cause.getCause();
              }
              notebook.text("%s: %s", cause.getClass().getSimpleName(), cause.getMessage());
            }
            kafka.awaitRecords(swiss, 6, Duration.ofSeconds(30));
            notebook.table(
                "what was sent of the batch that failed",
                received(sent).where("change_id > 6").drop("topic"));
          }
        });
  }
}
