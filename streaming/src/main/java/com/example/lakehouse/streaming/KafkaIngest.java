package com.example.lakehouse.streaming;

import static org.apache.spark.sql.avro.functions.from_avro;
import static org.apache.spark.sql.avro.functions.to_avro;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.struct;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * From Kafka into a Delta table: keys, values, headers and offsets, in batches of a bounded size,
 * with JSON or Avro inside.
 *
 * <p>Run: {@code ./run KafkaIngest}, or Run in the IDE; no JVM flags, no setup: it starts a broker
 * in this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: a record as Spark reads it; 3,000 events that arrived at once, taken in by 1,000; a
 * second start that goes on where the first one ended.
 *
 * <p>On Databricks: the same code; brokers and secrets from a secret scope.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/structured-streaming-kafka-integration.html">Structured
 *     Streaming: Kafka integration guide</a>
 */
public final class KafkaIngest {

  private KafkaIngest() {}

  /**
   * The records of a topic.
   *
   * @param options such as {@code startingOffsets}: {@code earliest}, {@code latest} (the default)
   *     or JSON; it counts for the first start only, later ones go on from the checkpoint
   * @return {@code key BINARY, value BINARY, topic STRING, partition INT, offset BIGINT, timestamp
   *     TIMESTAMP, timestampType INT, headers ARRAY<STRUCT<key STRING, value BINARY>>}
   */
  public static Dataset<Row> read(
      SparkSession spark, String servers, String topic, Map<String, String> options) {
    return spark
        .readStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", topic)
        .option("includeHeaders", true)
        .options(options)
        .load();
  }

  /**
   * The columns of JSON values, and where each record came from. What is not JSON becomes NULL in
   * every column of the schema.
   *
   * @param schema such as {@code event_id BIGINT, event_time TIMESTAMP}
   * @return the schema's columns, {@code kafka_partition INT, kafka_offset BIGINT, kafka_time
   *     TIMESTAMP}
   */
  public static Dataset<Row> parseJson(Dataset<Row> records, String schema) {
    return records
        .withColumn("event", from_json(col("value").cast("STRING"), schema, Map.of()))
        .selectExpr(
            "event.*",
            "partition AS kafka_partition",
            "offset AS kafka_offset",
            "timestamp AS kafka_time");
  }

  /**
   * As {@link #parseJson}, for values in Avro without a registry's prefix. A value that is not of
   * this schema stops the stream before its batch is written.
   *
   * @param avroSchema the writer's schema, as JSON
   */
  public static Dataset<Row> parseAvro(Dataset<Row> records, String avroSchema) {
    return records
        .withColumn("event", from_avro(col("value"), avroSchema, Map.of("mode", "FAILFAST")))
        .selectExpr(
            "event.*",
            "partition AS kafka_partition",
            "offset AS kafka_offset",
            "timestamp AS kafka_time");
  }

  /**
   * Appends all that the topic has now to {@code table}, and ends. A batch is a version of the
   * table; {@code maxOffsetsPerTrigger} among the options of {@link #read} bounds it.
   */
  public static StreamingQuery ingestAvailable(Dataset<Row> events, String table, String checkpoint)
      throws TimeoutException {
    return events
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * Sends rows as JSON.
   *
   * @param events with {@code customer_id}: the key, so that a customer's events stay in order
   */
  public static void sendJson(Dataset<Row> events, String servers, String topic) {
    events
        .selectExpr(
            "CAST(customer_id AS STRING) AS key",
            "to_json(struct(*)) AS value",
            "array(struct('source' AS key, CAST('shop' AS BINARY) AS value)) AS headers")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .option("includeHeaders", true)
        .save();
  }

  /** Sends rows in Avro. */
  public static void sendAvro(
      Dataset<Row> events, String avroSchema, String servers, String topic) {
    events
        .select(
            col("customer_id").cast("STRING").as("key"),
            to_avro(struct(col("*")), avroSchema).as("value"))
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .save();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        KafkaIngest.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            String topic = kafka.newTopic("events", 3);
            String checkpoint = notebook.sandbox().path("checkpoint");
            Dataset<Row> events = notebook.sampleData(3_000).events();
            String schema = events.schema().toDDL();
            sendJson(events, servers, topic);

            notebook.step("A record as Spark reads it");
            notebook.table(
                "from a batch read of the same topic",
                spark
                    .read()
                    .format("kafka")
                    .option("kafka.bootstrap.servers", servers)
                    .option("subscribe", topic)
                    .option("includeHeaders", true)
                    .load()
                    .select(
                        col("key").cast("STRING"),
                        expr("left(CAST(value AS STRING), 60) || ' …' AS value"),
                        expr("transform(headers, h -> h.key || '=' || CAST(h.value AS STRING))")
                            .as("headers"),
                        col("partition"),
                        col("offset"))
                    .orderBy("partition", "offset")
                    .limit(3));

            notebook.step("A burst of 3,000 records, taken in by 1,000");
            Map<String, String> bounded =
                Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "1000");
            StreamingQuery query =
                ingestAvailable(
                    parseJson(read(spark, servers, topic, bounded), schema), "events", checkpoint);
            query.awaitTermination();
            notebook.table(
                "the table's versions",
                spark
                    .sql("DESCRIBE HISTORY events")
                    .selectExpr("version", "operation", "operationMetrics.numOutputRows AS rows")
                    .orderBy("version"));
            notebook.table(
                "events",
                spark
                    .table("events")
                    .selectExpr(
                        "event_id", "customer_id", "event_type", "kafka_partition", "kafka_offset")
                    .orderBy("event_id")
                    .limit(4));

            notebook.step("A second start takes in what is new");
            sendJson(events.limit(10), servers, topic);
            ingestAvailable(
                    parseJson(read(spark, servers, topic, bounded), schema), "events", checkpoint)
                .awaitTermination();
            notebook.text("The table has %,d rows.", spark.table("events").count());
          }
        });
  }
}
