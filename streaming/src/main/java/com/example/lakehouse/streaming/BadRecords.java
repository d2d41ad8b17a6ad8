package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.concat;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.is_valid_utf8;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.not;
import static org.apache.spark.sql.functions.try_parse_json;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.streaming.support.Checkpoints;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import io.delta.tables.DeltaTable;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.storage.StorageLevel;

/**
 * Bad records: what cannot be read goes to a quarantine table, with the reason and its offset, the
 * rest flows on, and after a fix the quarantined records get into the table, once.
 *
 * <p>Run: {@code ./run BadRecords}, or Run in the IDE; no JVM flags, no setup: it starts a broker
 * in this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: eight records, of which two are good; the reason of each of the others; a batch that is
 * run again and writes nothing; one record that a better schema brings into the table, twice run
 * and once there; 10,000 events, 500 of them cut off, which the sender sends again.
 *
 * <p>On Databricks: the same code. Lakeflow's expectations count such rows and drop them; a
 * quarantine is a second table there too.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-streaming/#idempotent-table-writes-in-foreachbatch">Delta
 *     Lake: idempotent table writes in foreachBatch</a>
 */
public final class BadRecords {

  private BadRecords() {}

  /**
   * Reads JSON values, and says why one is no event. The reasons are, in this order: {@code no
   * value}, {@code not UTF-8}, {@code not JSON}, {@code not of the schema} (a field of another
   * type, or no object), and {@code not: } with the first of {@code rules} that is not met.
   *
   * <p>{@code from_json} alone lets more through: it replaces bytes that are not UTF-8, reads the
   * first of two objects and forgets the second, and takes a time in milliseconds for one in
   * seconds, which only a rule can tell.
   *
   * @param records as Kafka gives them, or as they stand in the quarantine
   * @param schema the event's columns, such as {@code event_id BIGINT, event_time TIMESTAMP}
   * @param rules conditions on {@code event} and the record's columns, such as {@code
   *     event.event_id IS NOT NULL}; one that is NULL is not met
   * @return the record's columns, {@code event STRUCT<…, unread STRING>, reason STRING}, which is
   *     NULL for an event
   */
  public static Dataset<Row> parse(Dataset<Row> records, String schema, List<String> rules) {
    Column text = col("value").cast("STRING");
    Column reason =
        when(col("value").isNull(), "no value")
            .when(not(is_valid_utf8(text)), "not UTF-8")
            // In an object of its own, or what follows the first object would not be looked at.
            .when(try_parse_json(concat(lit("{\"v\":"), text, lit("}"))).isNull(), "not JSON")
            .when(col("event").isNull().or(col("event.unread").isNotNull()), "not of the schema");
    for (String rule : rules) {
      reason = reason.when(not(coalesce(expr(rule), lit(false))), "not: " + rule);
    }
    return records
        .withColumn(
            "event",
            from_json(
                text,
                schema + ", unread STRING",
                Map.of("mode", "PERMISSIVE", "columnNameOfCorruptRecord", "unread")))
        .withColumn("reason", reason);
  }

  /**
   * The events among parsed records.
   *
   * @return the event's columns, {@code kafka_topic STRING, kafka_partition INT, kafka_offset
   *     BIGINT}
   */
  public static Dataset<Row> events(Dataset<Row> parsed) {
    return parsed
        .where("reason IS NULL")
        .selectExpr(
            "event.*",
            "topic AS kafka_topic",
            "partition AS kafka_partition",
            "offset AS kafka_offset")
        .drop("unread");
  }

  /**
   * The others among parsed records.
   *
   * @return the record's columns, byte for byte, {@code reason STRING, replayed BOOLEAN}
   */
  public static Dataset<Row> rejected(Dataset<Row> parsed) {
    return parsed.where("reason IS NOT NULL").drop("event").withColumn("replayed", lit(false));
  }

  /**
   * Takes all that is there now into two tables, and ends. The source is read once for both. If the
   * process dies between the two, the batch is run again, and Delta skips the table that has it: by
   * the application's name and the batch's number, which it keeps in each table's log.
   *
   * @param parsed a stream of what {@link #parse} returns
   * @param application a name for this query with this checkpoint. With a new checkpoint the
   *     batches count from 0 again: under the old name Delta skips them, and their records are in
   *     neither table
   */
  public static StreamingQuery ingestAvailable(
      Dataset<Row> parsed, String events, String quarantine, String application, String checkpoint)
      throws TimeoutException {
    return parsed
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, batchId) -> {
                  // Without this the topic would be read and parsed once for each table.
                  batch.persist(StorageLevel.MEMORY_AND_DISK());
                  try {
                    append(events(batch), events, application, batchId);
                    append(rejected(batch), quarantine, application, batchId);
                  } finally {
                    batch.unpersist();
                  }
                })
        .start();
  }

  private static void append(Dataset<Row> rows, String table, String application, long batchId) {
    rows.write()
        .format("delta")
        .mode("append")
        .option("txnAppId", application)
        .option("txnVersion", batchId)
        .saveAsTable(table);
  }

  /**
   * Takes repaired records into {@code events} and marks them in {@code quarantine}. A record is
   * known by its topic, partition and offset, so that this may be run again, also when it has died
   * between the two.
   *
   * @param repaired the columns of {@code events}, {@code kafka_topic} and so on among them
   */
  public static void replay(Dataset<Row> repaired, String events, String quarantine) {
    Dataset<Row> once =
        repaired.dropDuplicates("kafka_topic", "kafka_partition", "kafka_offset").alias("s");
    String sameRecord =
        "t.%s = s.kafka_topic AND t.%s = s.kafka_partition AND t.%s = s.kafka_offset";
    DeltaTable.forName(repaired.sparkSession(), events)
        .as("t")
        .merge(once, sameRecord.formatted("kafka_topic", "kafka_partition", "kafka_offset"))
        .whenNotMatched()
        .insertAll()
        .execute();
    DeltaTable.forName(repaired.sparkSession(), quarantine)
        .as("t")
        .merge(once, sameRecord.formatted("topic", "partition", "offset"))
        .whenMatched("NOT t.replayed")
        .updateExpr(Map.of("replayed", "TRUE"))
        .execute();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        BadRecords.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path checkpoint = notebook.sandbox().folder().resolve("checkpoint");
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            Map<String, String> earliest = Map.of("startingOffsets", "earliest");

            notebook.step("Eight records, of which two are events");
            String topic = kafka.newTopic("clicks", 1);
            String schema = "event_id BIGINT, customer_id BIGINT, event_time TIMESTAMP";
            List<String> rules =
                List.of(
                    "event.event_id IS NOT NULL",
                    "event.event_time <= timestamp + INTERVAL 1 HOUR",
                    "try_cast(event.customer_id AS BIGINT) IS NOT NULL");
            spark
                .sql(
                    """
                    SELECT CAST(value AS BINARY) AS value FROM VALUES
                      (1, '{"event_id": 1, "customer_id": 7, "event_time": "2025-12-01T10:00:00Z"}'),
                      (2, '{"event_id": 2, "customer_id": 7, "event_ti'),
                      (3, '{"event_id": 3, "customer_id": "8", "event_time": "2025-12-01T10:00:02Z"}'),
                      (4, '{"event_id": 4, "customer_id": 8, "event_time": "2025-12-01T10:00:03Z"}'),
                      (5, '{"event_id": 5, "customer_id": 9, "event_time": 1764583204000}'),
                      (6, '{"customer_id": 9, "event_time": "2025-12-01T10:00:05Z"}'),
                      (7, '{"event_id": 7}{"event_id": 8}'),
                      (8, NULL) AS v (n, value)
                    """)
                .coalesce(1)
                .write()
                .format("kafka")
                .option("kafka.bootstrap.servers", servers)
                .option("topic", topic)
                .save();
            Dataset<Row> records = KafkaIngest.read(spark, servers, topic, earliest);
            ingestAvailable(
                    parse(records, schema, rules),
                    "clicks",
                    "clicks_quarantine",
                    "clicks",
                    checkpoint.toString())
                .awaitTermination();
            notebook.table(
                "clicks",
                spark.table("clicks").drop("kafka_topic", "kafka_partition").orderBy("event_id"));
            Dataset<Row> quarantine =
                spark
                    .table("clicks_quarantine")
                    .selectExpr("offset", "reason", "CAST(value AS STRING) AS value", "replayed")
                    .orderBy("offset");
            notebook.table("clicks_quarantine", quarantine.drop("replayed"));

            notebook.step("The process dies before the batch is noted as done");
            Checkpoints.forgetCommit(checkpoint, 0);
            StreamingQuery again =
                ingestAvailable(
                    parse(records, schema, rules),
                    "clicks",
                    "clicks_quarantine",
                    "clicks",
                    checkpoint.toString());
            again.awaitTermination();
            notebook.text(
                "The next start runs batch %d again: the tables have %d and %d rows, as before.",
                again.recentProgress()[0].batchId(),
                spark.table("clicks").count(),
                spark.table("clicks_quarantine").count());

            notebook.step("A better schema: customer_id may be a text");
            for (int run = 1; run <= 2; run++) {
              Dataset<Row> repaired =
                  events(
                          parse(
                              spark.table("clicks_quarantine"),
                              schema.replace("customer_id BIGINT", "customer_id STRING"),
                              rules))
                      .withColumn("customer_id", expr("try_cast(customer_id AS BIGINT)"));
              replay(repaired, "clicks", "clicks_quarantine");
              notebook.text(
                  "Run %d: %d of %d quarantined records can be read, clicks has %d rows.",
                  run, repaired.count(), quarantine.count(), spark.table("clicks").count());
            }
            notebook.table("clicks_quarantine", quarantine.drop("value"));

            notebook.step("10,000 events, a twentieth of them cut off");
            SampleData data = notebook.sampleData(10_000).malformed(0.05);
            String busy = kafka.newTopic("events", 2);
            data.rawEvents()
                .select("value")
                .write()
                .format("kafka")
                .option("kafka.bootstrap.servers", servers)
                .option("topic", busy)
                .save();
            Dataset<Row> sent = data.events().drop("arrival_time");
            ingestAvailable(
                    parse(
                        KafkaIngest.read(spark, servers, busy, earliest),
                        sent.schema().toDDL(),
                        rules),
                    "events",
                    "events_quarantine",
                    "events",
                    notebook.sandbox().path("events_checkpoint"))
                .awaitTermination();
            Chart chart = new Chart("where the records are", "records");
            chart.bar("first", "events", spark.table("events").count());
            chart.bar("first", "quarantine", spark.table("events_quarantine").count());
            // The first forty characters still have the id: what the sender has kept by it.
            Dataset<Row> sentAgain =
                spark
                    .table("events_quarantine")
                    .where("NOT replayed")
                    .selectExpr(
                        "CAST(regexp_extract(CAST(value AS STRING), '\"event_id\":(\\\\d+)') AS"
                            + " BIGINT) AS event_id",
                        "topic AS kafka_topic",
                        "partition AS kafka_partition",
                        "offset AS kafka_offset")
                    .join(sent, "event_id");
            replay(sentAgain, "events", "events_quarantine");
            chart.bar("after the replay", "events", spark.table("events").count());
            chart.bar(
                "after the replay",
                "quarantine",
                spark.table("events_quarantine").where("NOT replayed").count());
            notebook.chart(chart);
          }
        });
  }
}
