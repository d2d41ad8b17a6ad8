package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.IngestProcess;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/**
 * Exactly once: a job from Kafka to Delta is killed again and again, and every record is in the
 * table once.
 *
 * <p>Run: {@code ./run ExactlyOnce}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a process that is killed three times while it writes; after each kill no record is
 * missing below the highest offset of its partition, and none is there twice.
 *
 * <p>On Databricks: the same code; there the job is started again by the workflow's retries.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/getting-started.html#fault-tolerance-semantics">Structured
 *     Streaming: fault tolerance semantics</a>
 */
public final class ExactlyOnce {

  private ExactlyOnce() {}

  /**
   * Appends a topic's records to {@code table}, each once, however often the job dies and starts
   * again. What makes it so: the checkpoint says which offsets a batch has before it begins, Kafka
   * gives the same records for the same offsets, and Delta keeps the number of the stream's last
   * batch in the same commit as its rows.
   *
   * @param location a Delta table's folder: {@code kafka_partition INT, kafka_offset BIGINT, value
   *     STRING}
   * @param checkpoint the job's own; with another one it begins anew, and has everything twice
   */
  public static StreamingQuery ingest(
      SparkSession spark, String servers, String topic, String location, String checkpoint)
      throws TimeoutException {
    return spark
        .readStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        // Small batches here, so that a kill hits many different moments.
        .option("maxOffsetsPerTrigger", 2_000)
        .load()
        .selectExpr(
            "partition AS kafka_partition",
            "offset AS kafka_offset",
            "CAST(value AS STRING) AS value")
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .start(location);
  }

  /**
   * Whether each record up to the highest offset of its partition is there, once.
   *
   * @param table with {@code kafka_partition INT, kafka_offset BIGINT}
   * @return {@code kafka_partition INT, records BIGINT, missing BIGINT, twice BIGINT}
   */
  public static Dataset<Row> audit(Dataset<Row> table) {
    return table
        .groupBy("kafka_partition")
        .agg(
            count(lit(1)).as("records"),
            expr("max(kafka_offset) + 1 - count(DISTINCT kafka_offset)").as("missing"),
            expr("count(*) - count(DISTINCT kafka_offset)").as("twice"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ExactlyOnce.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String topic = kafka.newTopic("events", 2);
            String table = notebook.sandbox().path("events");
            String checkpoint = notebook.sandbox().path("checkpoint");
            long records = 60_000;
            spark
                .range(records)
                .selectExpr("CAST(id AS STRING) AS key", "CAST(id AS STRING) AS value")
                .write()
                .format("kafka")
                .option("kafka.bootstrap.servers", kafka.bootstrapServers())
                .option("topic", topic)
                .save();
            spark
                .sql("SELECT 0 AS kafka_partition, 0L AS kafka_offset, '' AS value WHERE FALSE")
                .write()
                .format("delta")
                .save(table);
            Dataset<Row> events = spark.read().format("delta").load(table);

            for (int kill = 1; kill <= 3; kill++) {
              notebook.step("Start %d, and a kill".formatted(kill));
              long before = events.count();
              try (IngestProcess process =
                  IngestProcess.start(kafka.bootstrapServers(), topic, table, checkpoint)) {
                process.await(() -> events.count() > before);
                process.kill();
              }
              notebook.table("audit", audit(events).orderBy("kafka_partition"));
            }

            notebook.step("A last start, to the end");
            try (IngestProcess process =
                IngestProcess.start(kafka.bootstrapServers(), topic, table, checkpoint)) {
              process.await(() -> events.count() == records);
            }
            notebook.table("audit", audit(events).orderBy("kafka_partition"));
            notebook.text(
                "%,d records were sent, %,d different values are in the table.",
                records, events.select("value").distinct().count());
          }
        });
  }
}
