package com.example.lakehouse.streaming;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.Checkpoints;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.DataStreamWriter;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * From table to table: a stream reads the rows that a Delta table has and those that are added, and
 * writes each once; what it does when rows or columns are changed instead.
 *
 * <p>Run: {@code ./run DeltaSourceAndSink}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: where a stream begins; a batch that is run again and writes nothing; an update that stops
 * the stream, is skipped, or comes through as changes; a column that is added under a running
 * stream, and one that is renamed.
 *
 * <p>On Databricks: the same code; Unity Catalog names in place of the tables', a volume's path for
 * the checkpoint.
 *
 * @see <a href="https://docs.delta.io/delta-streaming/">Delta Lake: table streaming reads and
 *     writes</a>
 */
public final class DeltaSourceAndSink {

  private DeltaSourceAndSink() {}

  /**
   * The rows that {@code table} has at the first start, whatever its history, and then those that
   * each version adds. A version that updates or deletes rows stops the stream: it cannot take back
   * what it has delivered. So does one that adds a column; it is there after a new start, of a new
   * Dataset.
   */
  public static Dataset<Row> read(SparkSession spark, String table) {
    return spark.readStream().table(table);
  }

  /**
   * The rows that the versions from {@code version} on add. It says where the first start begins;
   * later ones go on where the checkpoint is.
   *
   * @param version one that is there; later versions must not change rows, as for {@link #read}
   */
  public static Dataset<Row> readFrom(SparkSession spark, String table, long version) {
    return spark.readStream().option("startingVersion", version).table(table);
  }

  /**
   * As {@link #read}, and versions that update or delete rows are passed over, with all that they
   * do: a MERGE that updates one row and inserts a thousand adds nothing.
   */
  public static Dataset<Row> readAppends(SparkSession spark, String table) {
    return spark.readStream().option("skipChangeCommits", "true").table(table);
  }

  /**
   * What happens to the rows: the table's columns, {@code _change_type} (insert, update_preimage,
   * update_postimage, delete), {@code _commit_version BIGINT} and {@code _commit_timestamp
   * TIMESTAMP}. The rows of the first start are inserts.
   *
   * @param table with {@code delta.enableChangeDataFeed} set
   */
  public static Dataset<Row> readChanges(SparkSession spark, String table) {
    return spark.readStream().option("readChangeFeed", "true").table(table);
  }

  /**
   * As {@link #read}, of a table with column mapping whose columns may be renamed or dropped. The
   * stream keeps the schema that it reads with beside its checkpoint: it delivers all rows from
   * before such a change, under the old names, and then stops to be told what to do.
   *
   * @param checkpoint of the stream that reads this, from its first start on
   */
  public static Dataset<Row> readTracked(SparkSession spark, String table, String checkpoint) {
    return spark
        .readStream()
        .option("schemaTrackingLocation", checkpoint + "/source_schema")
        .table(table);
  }

  /**
   * As {@link #readTracked}, and goes on after the change of one version. Say so when the sink is
   * ready for it.
   *
   * @param version the version that renamed or dropped columns
   */
  public static Dataset<Row> readAccepting(
      SparkSession spark, String table, String checkpoint, long version) {
    return spark
        .readStream()
        .option("schemaTrackingLocation", checkpoint + "/source_schema")
        .option("allowSourceColumnRename", version)
        .option("allowSourceColumnDrop", version)
        .table(table);
  }

  /**
   * Appends to a Delta table, each batch in one version that also names the batch: one that is run
   * again after a crash is passed over. Columns that the table lacks are refused.
   *
   * @param checkpoint a folder that only this stream uses; another one makes it another stream,
   *     which writes everything again
   */
  public static DataStreamWriter<Row> append(Dataset<Row> rows, String checkpoint) {
    return rows.writeStream().format("delta").option("checkpointLocation", checkpoint);
  }

  /** Runs {@link #append} for all that is there now, and ends. */
  public static StreamingQuery appendAvailable(Dataset<Row> rows, String table, String checkpoint)
      throws TimeoutException {
    return append(rows, checkpoint).trigger(Trigger.AvailableNow()).toTable(table);
  }

  /** As {@link #appendAvailable}, and adds columns that {@code table} lacks. */
  public static StreamingQuery appendWithNewColumns(
      Dataset<Row> rows, String table, String checkpoint) throws TimeoutException {
    return append(rows, checkpoint)
        .option("mergeSchema", "true")
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DeltaSourceAndSink.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String checkpoint = notebook.sandbox().path("checkpoint");
          spark.sql(
              """
              CREATE TABLE orders (order_id BIGINT, status STRING) USING delta
              TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')
              """);
          spark.sql("INSERT INTO orders VALUES (1, 'new'), (2, 'new')");
          spark.sql("UPDATE orders SET status = 'paid' WHERE order_id = 1");
          spark.sql("INSERT INTO orders VALUES (3, 'new')");

          notebook.step("Where a stream begins");
          appendAvailable(read(spark, "orders"), "copy", checkpoint).awaitTermination();
          notebook.table("the table as it is", spark.table("copy").orderBy("order_id"));
          appendAvailable(readFrom(spark, "orders", 3), "late", notebook.sandbox().path("late"))
              .awaitTermination();
          notebook.table("from version 3 on", spark.table("late"));

          notebook.step("A batch that is run again");
          long versions = spark.sql("DESCRIBE HISTORY copy").count();
          // As if the process had died before Spark noted that the batch was done.
          Checkpoints.forgetCommit(notebook.sandbox().folder().resolve("checkpoint"), 0);
          appendAvailable(read(spark, "orders"), "copy", checkpoint).awaitTermination();
          notebook.text(
              "The copy has %d versions before and %d after, and %d rows.",
              versions, spark.sql("DESCRIBE HISTORY copy").count(), spark.table("copy").count());

          notebook.step("An update and an insert, versions 4 and 5");
          spark.sql("UPDATE orders SET status = 'paid' WHERE order_id = 3");
          spark.sql("INSERT INTO orders VALUES (4, 'new')");
          notebook.refused(
              "A stream of rows that are added",
              "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
              () -> appendAvailable(read(spark, "orders"), "copy", checkpoint).awaitTermination());
          appendAvailable(readAppends(spark, "orders"), "copy", checkpoint).awaitTermination();
          notebook.table(
              "skipping changes: 4 is there, 3 is not paid",
              spark.table("copy").orderBy("order_id"));
          appendAvailable(
                  readChanges(spark, "orders").drop("_commit_timestamp"),
                  "changes",
                  notebook.sandbox().path("changes"))
              .awaitTermination();
          spark.sql("DELETE FROM orders WHERE order_id = 2");
          spark.sql("UPDATE orders SET status = 'sent' WHERE order_id = 3");
          appendAvailable(
                  readChanges(spark, "orders").drop("_commit_timestamp"),
                  "changes",
                  notebook.sandbox().path("changes"))
              .awaitTermination();
          notebook.table(
              "the change feed: all rows at the first start, then what versions 6 and 7 did",
              spark.table("changes").orderBy("_commit_version", "order_id", "_change_type"));

          notebook.step("A column is added under a running stream");
          spark.sql(
              "CREATE TABLE source (id BIGINT, name STRING) USING delta"
                  + " TBLPROPERTIES ('delta.columnMapping.mode' = 'name')");
          spark.sql(
              "CREATE TABLE target (id BIGINT, name STRING) USING delta"
                  + " TBLPROPERTIES ('delta.columnMapping.mode' = 'name')");
          spark.sql("INSERT INTO source VALUES (1, 'lamp')");
          String tracked = notebook.sandbox().path("tracked");
          StreamingQuery running =
              append(read(spark, "source"), notebook.sandbox().path("running")).toTable("copy2");
          try {
            running.processAllAvailable();
            spark.sql("ALTER TABLE source ADD COLUMN price INT");
            spark.sql("INSERT INTO source VALUES (2, 'chair', 80)");
            notebook.refused(
                "The next batch",
                "DELTA_SCHEMA_CHANGED_WITH_VERSION",
                running::processAllAvailable);
          } finally {
            running.stop();
          }
          appendWithNewColumns(read(spark, "source"), "copy2", notebook.sandbox().path("running"))
              .awaitTermination();
          notebook.table("started again, with mergeSchema", spark.table("copy2").orderBy("id"));

          notebook.step("A column is renamed, version 4 of the source");
          appendWithNewColumns(readTracked(spark, "source", tracked), "target", tracked)
              .awaitTermination();
          spark.sql("ALTER TABLE source RENAME COLUMN name TO title");
          spark.sql("INSERT INTO source VALUES (3, 'clock', 20)");
          notebook.refused(
              "Without a schema log",
              "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE_USE_SCHEMA_LOG",
              () ->
                  appendAvailable(
                          read(spark, "source"), "copy2", notebook.sandbox().path("running"))
                      .awaitTermination());
          notebook.refused(
              "With one: the first start notes the new schema",
              "DELTA_STREAMING_METADATA_EVOLUTION",
              () ->
                  appendAvailable(readTracked(spark, "source", tracked), "target", tracked)
                      .awaitTermination());
          notebook.refused(
              "and the second asks for consent",
              "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
              () ->
                  appendAvailable(readTracked(spark, "source", tracked), "target", tracked)
                      .awaitTermination());
          spark.sql("ALTER TABLE target RENAME COLUMN name TO title");
          appendAvailable(readAccepting(spark, "source", tracked, 4), "target", tracked)
              .awaitTermination();
          notebook.table(
              "the target's column renamed, the change accepted",
              spark.table("target").orderBy("id"));
        });
  }
}
