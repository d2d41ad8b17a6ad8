package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.time.Instant;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Time travel: reading a table as it was at a version or at a time, and what changed since.
 *
 * <p>Run: {@code ./run TimeTravel}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: version 0 as it was written, although rows were added, changed and deleted since; the
 * rows that two versions differ in; a version and a time that do not exist.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-batch/#query-an-older-snapshot-of-a-table-time-travel">Delta
 *     Lake: time travel</a>
 */
public final class TimeTravel {

  private TimeTravel() {}

  /**
   * The table as it was at {@code version}.
   *
   * @throws org.apache.spark.sql.delta.VersionNotFoundException DELTA_VERSION_NOT_FOUND if there is
   *     no such version, or no longer
   * @throws AnalysisException DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION
   *     if it is older than {@code delta.deletedFileRetentionDuration}, a week by default: vacuum
   *     may have deleted its files
   */
  public static Dataset<Row> atVersion(SparkSession spark, String table, long version) {
    return spark.read().option("versionAsOf", version).table(table);
  }

  /**
   * The table as it was at {@code time}: the last version committed until then.
   *
   * @throws AnalysisException DELTA_TIMESTAMP_GREATER_THAN_COMMIT if {@code time} is after the last
   *     commit, DELTA_TIMESTAMP_EARLIER_THAN_COMMIT_RETENTION if it is before the first that is
   *     kept
   */
  public static Dataset<Row> atTime(SparkSession spark, String table, Instant time) {
    return spark.read().option("timestampAsOf", time.toString()).table(table);
  }

  /**
   * The rows that were added and removed from one version to another; an updated row is both.
   *
   * @return the table's columns and {@code change STRING}: {@code added} or {@code removed}
   */
  public static Dataset<Row> changesBetween(SparkSession spark, String table, long from, long to) {
    Dataset<Row> before = atVersion(spark, table, from);
    Dataset<Row> after = atVersion(spark, table, to);
    return after
        .exceptAll(before)
        .withColumn("change", lit("added"))
        .unionByName(before.exceptAll(after).withColumn("change", lit("removed")));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TimeTravel.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql("CREATE TABLE stock (product STRING, pieces INT) USING delta");
          spark.sql("INSERT INTO stock VALUES ('lamp', 10), ('chair', 4), ('clock', 7)");
          spark.sql("UPDATE stock SET pieces = 3 WHERE product = 'chair'");
          spark.sql("DELETE FROM stock WHERE product = 'clock'");
          spark.sql("INSERT INTO stock VALUES ('desk', 2)");

          notebook.step("Four changes, and the table now");
          Dataset<Row> history = DeltaTable.forName(spark, "stock").history();
          notebook.table("history", history.select("version", "timestamp", "operation"));
          notebook.table("stock", spark.table("stock").orderBy("product"));

          notebook.step("As it was at version 1");
          notebook.table("by DataFrame", atVersion(spark, "stock", 1).orderBy("product"));
          notebook.table(
              "in SQL", spark.sql("SELECT * FROM stock VERSION AS OF 1 ORDER BY product"));

          notebook.step("As it was at a time: when version 2 was committed");
          Instant time = history.where("version = 2").select("timestamp").head().<Instant>getAs(0);
          notebook.table("stock at " + time, atTime(spark, "stock", time).orderBy("product"));
          notebook.table(
              "in SQL",
              spark.sql("SELECT * FROM stock TIMESTAMP AS OF '" + time + "' ORDER BY product"));

          notebook.step("What changed from version 1 to version 4");
          notebook.table(
              "changes", changesBetween(spark, "stock", 1, 4).orderBy("product", "change"));

          notebook.step("What does not exist is not guessed");
          notebook.refused(
              "Version 99",
              "DELTA_VERSION_NOT_FOUND",
              () -> atVersion(spark, "stock", 99).collectAsList());
          notebook.refused(
              "Tomorrow",
              "DELTA_TIMESTAMP_GREATER_THAN_COMMIT",
              () -> atTime(spark, "stock", time.plusSeconds(86_400)).collectAsList());
        });
  }
}
