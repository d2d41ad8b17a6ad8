package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Iterator;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Vacuum: deletes the files that no recent version needs, and with them the way back to older ones.
 *
 * <p>Run: {@code ./run Vacuum}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a dry run names the files; a number of hours in the statement has no effect; with the
 * safety check switched off, a reader that is under way fails and the old version cannot be read.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's. Predictive
 * optimization vacuums managed tables by itself.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-utility/#remove-files-no-longer-referenced-by-a-delta-table">Delta
 *     Lake: vacuum</a>
 */
public final class Vacuum {

  private Vacuum() {}

  /**
   * The files that {@link #vacuum} would delete: {@code path STRING}.
   *
   * @throws IllegalArgumentException if {@code table} is anything but a name
   */
  public static Dataset<Row> filesToDelete(SparkSession spark, String table) {
    // This statement is Delta's own, which takes no parameters, not even IDENTIFIER(:table).
    if (!table.matches("\\w+(\\.\\w+){0,2}")) {
      throw new IllegalArgumentException("not a name: " + table);
    }
    return spark.sql("VACUUM %s DRY RUN".formatted(table));
  }

  /**
   * Deletes the files below the table's folder that no version needs any more: those that were
   * removed from the table longer ago than its retention, and those as old as that which never came
   * into it because their job died.
   *
   * <p>The retention is the table's {@code delta.deletedFileRetentionDuration}, 168 hours unless
   * set. Delta 4.4 ignores a number of hours in the statement, whether more or less, with one
   * exception: 0, which means all that is not in the latest version.
   */
  public static void vacuum(SparkSession spark, String table) {
    DeltaTable.forName(spark, table).vacuum();
  }

  /**
   * Deletes all that is not in the latest version, at once. Readers and writers that are under way
   * fail, or worse: stop them first.
   *
   * @throws IllegalArgumentException DELTA_VACUUM_RETENTION_PERIOD_TOO_SHORT unless {@code
   *     spark.databricks.delta.retentionDurationCheck.enabled} is switched off; nothing is deleted
   */
  public static void vacuumAll(SparkSession spark, String table) {
    DeltaTable.forName(spark, table).vacuum(0);
  }

  /**
   * Changes how long the table keeps removed files, which is how far back time travel goes.
   *
   * @param hours longer than the longest query and the longest job
   */
  public static void keepRemovedFiles(SparkSession spark, String table, int hours) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval "
            + hours
            + " hours')",
        Map.of("table", table));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Vacuum.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> orders = notebook.sampleData(30_000).orders();
          orders.repartition(4).write().format("delta").saveAsTable("orders");
          spark.sql("UPDATE orders SET status = 'shipped' WHERE status = 'open'");
          spark.sql("DELETE FROM orders WHERE status = 'cancelled'");

          notebook.step("Nothing is old enough yet");
          Path folder = notebook.sandbox().folder().resolve("schema/orders");
          notebook.text(
              "The table's folder has %d files, of which the latest version needs %d; vacuum would delete %d.",
              files(folder),
              spark.table("orders").inputFiles().length,
              filesToDelete(spark, "orders").count());
          notebook.text(
              "With RETAIN 1 HOURS it would delete %d: Delta 4.4 goes by the table's retention.",
              spark.sql("VACUUM orders RETAIN 1 HOURS DRY RUN").count());
          notebook.refused(
              "A vacuum of all that is not in the latest version",
              "DELTA_VACUUM_RETENTION_PERIOD_TOO_SHORT",
              () -> vacuumAll(spark, "orders"));

          notebook.step("All the same, while somebody reads");
          Iterator<Row> reader = spark.table("orders").toLocalIterator();
          reader.next();
          spark.sql("UPDATE orders SET status = 'returned' WHERE status = 'shipped'");
          spark.conf().set("spark.databricks.delta.retentionDurationCheck.enabled", "false");
          vacuumAll(spark, "orders");
          notebook.text("After the vacuum the folder has %d files.", files(folder));

          notebook.step("What that costs");
          notebook.refused(
              "A reader that was under way",
              "FAILED_READ_FILE.FILE_NOT_EXIST",
              () -> reader.forEachRemaining(row -> {}));
          notebook.table(
              "the history still knows every version, and who vacuumed",
              DeltaTable.forName(spark, "orders")
                  .history()
                  .selectExpr(
                      "version", "operation", "operationMetrics.numDeletedFiles AS files_deleted"));
          notebook.refused(
              "Time travel to version 0",
              "FAILED_READ_FILE.FILE_NOT_EXIST",
              () -> spark.sql("SELECT * FROM orders VERSION AS OF 0").collectAsList());

          notebook.step("A table that keeps removed files for a day");
          keepRemovedFiles(spark, "orders", 24);
          notebook.table(
              "its properties",
              spark.sql("SHOW TBLPROPERTIES orders").where("key LIKE '%Retention%'"));
        });
  }

  private static long files(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.filter(file -> file.toString().endsWith(".parquet")).count();
    }
  }
}
