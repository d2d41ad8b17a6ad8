package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Shallow clones: a table of its own with another table's rows, made without copying a byte of
 * them.
 *
 * <p>Run: {@code ./run CloneTable}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: an experiment deletes most of a clone, and the source has every row; a vacuum of the
 * source takes away files that the clone still needs.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'. Deep clones, which
 * copy the files, exist there only.
 *
 * @see <a href="https://docs.delta.io/delta-utility/#shallow-clone-a-delta-table">Delta Lake:
 *     shallow clone</a>
 */
public final class CloneTable {

  private CloneTable() {}

  /**
   * Creates {@code target} with the rows, columns and properties that {@code source} has now.
   *
   * @throws org.apache.spark.sql.AnalysisException DELTA_TABLE_ALREADY_EXISTS if {@code target} is
   *     there
   */
  public static DeltaTable shallowClone(SparkSession spark, String source, String target) {
    boolean shallow = true;
    return DeltaTable.forName(spark, source).clone(target, shallow);
  }

  /**
   * Creates {@code target} as {@code source} was at a version: an experiment on last week's data.
   *
   * @throws org.apache.spark.sql.AnalysisException DELTA_TABLE_ALREADY_EXISTS if {@code target} is
   *     there; DELTA_VERSION_NOT_FOUND if there is no such version
   */
  public static DeltaTable shallowCloneAt(
      SparkSession spark, String source, long version, String target) {
    boolean shallow = true;
    return DeltaTable.forName(spark, source).cloneAtVersion(version, target, shallow);
  }

  /** The files of {@code clone} that belong to {@code source}: {@code file STRING}. */
  public static Dataset<Row> sharedFiles(SparkSession spark, String source, String clone) {
    String location =
        DeltaTable.forName(spark, source).detail().select("location").head().getString(0);
    return spark
        .table(clone)
        .selectExpr("_metadata.file_path AS file")
        .distinct()
        .where(col("file").startsWith(location));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CloneTable.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> orders = notebook.sampleData(30_000).orders();
          orders
              .repartitionByRange(4, orders.col("order_id"))
              .write()
              .format("delta")
              .saveAsTable("orders");

          notebook.step("A clone has the rows, and shares the files");
          shallowClone(spark, "orders", "experiment");
          notebook.text(
              "orders and experiment have %,d and %,d rows; %d of the clone's %d files are the source's.",
              spark.table("orders").count(),
              spark.table("experiment").count(),
              sharedFiles(spark, "orders", "experiment").count(),
              spark.table("experiment").inputFiles().length);

          notebook.step("An experiment that goes wrong");
          long last = orders.count() * 3 / 4;
          spark.sql("DELETE FROM experiment WHERE order_id < " + last);
          spark.sql("UPDATE experiment SET amount = 0");
          notebook.text(
              "The experiment has %,d rows and the amount %s; orders still has %,d rows.",
              spark.table("experiment").count(),
              spark.sql("SELECT sum(amount) FROM experiment").head().get(0),
              spark.table("orders").count());
          notebook.table(
              "the clone has a history of its own",
              DeltaTable.forName(spark, "experiment").history().select("version", "operation"));
          spark.sql("DROP TABLE experiment");
          notebook.text("Dropped: orders still has %,d rows.", spark.table("orders").count());

          notebook.step("The other direction is not safe: the source's vacuum");
          shallowClone(spark, "orders", "second");
          spark.sql("DELETE FROM orders WHERE order_id < " + last);
          spark.conf().set("spark.databricks.delta.retentionDurationCheck.enabled", "false");
          DeltaTable.forName(spark, "orders").vacuum(0);
          notebook.refused(
              "Reading a clone whose source was vacuumed",
              "FAILED_READ_FILE.FILE_NOT_EXIST",
              () -> spark.table("second").collectAsList());
        });
  }
}
