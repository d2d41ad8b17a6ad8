package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Notebook;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * The checkpoint: what a query notes so that its next start goes on where it was, and which changes
 * to the query it allows.
 *
 * <p>Run: {@code ./run CheckpointRecovery}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the batches in the checkpoint; a stop and a start, and what the second one reads; changes
 * of the query that go on from the same checkpoint, and others that are refused.
 *
 * <p>On Databricks: the same code, with the checkpoint in a volume; a job that is set to run
 * continuously starts a failed query again by itself.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#recovery-semantics-after-changes-in-a-streaming-query">Structured
 *     Streaming: recovery semantics after changes in a streaming query</a>
 */
public final class CheckpointRecovery {

  private CheckpointRecovery() {}

  /**
   * Appends what comes to the Delta table at {@code location}. Delta notes the number of the batch
   * with its rows, so a batch that the process did not live to note is not in the table twice.
   *
   * @param checkpoint a folder for this query alone, on storage that outlives the machine
   */
  public static StreamingQuery append(Dataset<Row> rows, String location, String checkpoint)
      throws TimeoutException {
    return rows.writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .start(location);
  }

  /**
   * Counts by {@code key}, and brings {@code table} up to date with all that is there. The counts
   * so far are in the checkpoint as well: it is more than a place in the source.
   *
   * @param key an expression over the events' columns
   * @return when it has ended: {@code key, count BIGINT}, all counts
   */
  public static StreamingQuery count(
      Dataset<Row> events, String key, String table, String checkpoint) throws TimeoutException {
    return events
        .groupBy(expr(key).as("key"))
        .count()
        .writeStream()
        .format("delta")
        .outputMode("complete")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * What a checkpoint has noted: before a batch begins, how far it will read, and after it has
   * ended, that it is done. A batch that is not done is the one that the next start runs again,
   * with the same rows.
   *
   * @return {@code batch BIGINT, offsets STRING, done BOOLEAN}: each source's offset as JSON, in
   *     lines
   */
  public static Dataset<Row> batches(SparkSession spark, String checkpoint) {
    // Their number is the file's name; the first two lines are the version and the settings.
    Dataset<Row> offsets =
        spark
            .read()
            .option("wholetext", true)
            .option("pathGlobFilter", "[0-9]*")
            .text(checkpoint + "/offsets")
            .selectExpr(
                "CAST(_metadata.file_name AS BIGINT) AS batch",
                "array_join(slice(split(value, '\\n'), 3, 100), '\\n') AS offsets");
    Dataset<Row> commits =
        spark
            .read()
            .option("wholetext", true)
            .option("pathGlobFilter", "[0-9]*")
            .text(checkpoint + "/commits")
            .selectExpr("CAST(_metadata.file_name AS BIGINT) AS batch", "TRUE AS committed");
    return offsets
        .join(commits, offsets.col("batch").equalTo(commits.col("batch")), "left")
        .select(offsets.col("batch"), col("offsets"), col("committed").isNotNull().as("done"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CheckpointRecovery.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String checkpoint = notebook.sandbox().path("checkpoint");
          Dataset<Row> events = notebook.sampleData(9_000).events();
          events.where("event_id < 3000").write().format("delta").saveAsTable("events");

          notebook.step("A first start, and what it notes");
          count(spark.readStream().table("events"), "event_type", "counts", checkpoint)
              .awaitTermination();
          notebook.table(
              "the checkpoint",
              batches(spark, checkpoint)
                  .selectExpr(
                      "batch",
                      "get_json_object(offsets, '$.reservoirVersion') AS `next version`",
                      "get_json_object(offsets, '$.index') AS `next file`",
                      "done")
                  .orderBy("batch"));

          notebook.step("More events arrive; the second start reads only these");
          events
              .where("event_id >= 3000")
              .write()
              .format("delta")
              .mode("append")
              .saveAsTable("events");
          StreamingQuery second =
              count(spark.readStream().table("events"), "event_type", "counts", checkpoint);
          second.awaitTermination();
          notebook.text(
              "It read %,d of %,d events, and the counts are those of all:",
              second.recentProgress()[0].numInputRows(), spark.table("events").count());
          notebook.table("counts", spark.table("counts").orderBy("key"));

          notebook.step(
              "A change that the checkpoint allows: a filter, for what comes from now on");
          spark.sql("INSERT INTO events SELECT * FROM events WHERE event_id < 100");
          count(
                  spark.readStream().table("events").where("event_type <> 'view'"),
                  "event_type",
                  "counts",
                  checkpoint)
              .awaitTermination();
          notebook.table("counts: views as before", spark.table("counts").orderBy("key"));

          notebook.step("Changes that it refuses");
          // Without a new row there is no batch, and without a batch the state is not looked at.
          spark.sql("INSERT INTO events SELECT * FROM events WHERE event_id < 100");
          notebook.refused(
              "Another key: the counts so far are by event type",
              "STATE_STORE_KEY_SCHEMA_NOT_COMPATIBLE",
              () ->
                  count(spark.readStream().table("events"), "customer_id", "counts", checkpoint)
                      .awaitTermination());
          notebook.refused(
              "Another operation: what it keeps is not what a count needs",
              "STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA",
              () ->
                  append(
                          spark.readStream().table("events").dropDuplicates("event_id"),
                          notebook.sandbox().path("other"),
                          checkpoint)
                      .processAllAvailable());
          spark.sql("CREATE TABLE other_events SHALLOW CLONE events");
          notebook.refused(
              "Another table as the source: the place in the one is none in the other",
              "DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE",
              () ->
                  count(
                          spark.readStream().table("other_events"),
                          "event_type",
                          "counts",
                          checkpoint)
                      .awaitTermination());
        });
  }
}
