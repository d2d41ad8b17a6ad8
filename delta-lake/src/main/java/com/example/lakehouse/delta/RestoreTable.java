package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Restore: undoing a bad write by going back to the version before it, in one commit.
 *
 * <p>Run: {@code ./run RestoreTable}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a discount on everything by mistake, undone; the history keeps the mistake and its
 * undoing; no file is written again.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-utility/#restore-a-delta-table-to-an-earlier-state">Delta
 *     Lake: restore</a>
 */
public final class RestoreTable {

  private RestoreTable() {}

  /**
   * Makes {@code table} what it was at {@code version}, as a new version. Data files are not
   * rewritten: those of the old version are named again.
   *
   * @return one row: {@code num_restored_files BIGINT, num_removed_files BIGINT} and more
   * @throws org.apache.spark.sql.AnalysisException DELTA_CANNOT_RESTORE_TABLE_VERSION if there is
   *     no such version
   * @throws IllegalArgumentException if vacuum has deleted files that the version needs; it names
   *     them, and the table stays as it was
   */
  public static Dataset<Row> restore(SparkSession spark, String table, long version) {
    return DeltaTable.forName(spark, table).restoreToVersion(version);
  }

  /** Undoes the latest commit, whatever it was. */
  public static Dataset<Row> undoLatest(SparkSession spark, String table) {
    DeltaTable deltaTable = DeltaTable.forName(spark, table);
    long latest = deltaTable.history(1).head().<Long>getAs("version");
    return deltaTable.restoreToVersion(latest - 1);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RestoreTable.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          notebook.sampleData(10_000).products().write().format("delta").saveAsTable("products");

          notebook.step("Half price for the garden, but the condition was forgotten");
          String prices =
              "SELECT category, sum(price) AS prices FROM products GROUP BY category ORDER BY category";
          notebook.table("before", spark.sql(prices));
          spark.sql("UPDATE products SET price = price / 2");
          notebook.table("after", spark.sql(prices));

          notebook.step("Undone");
          notebook.table("what restore did", undoLatest(spark, "products"));
          notebook.table("prices", spark.sql(prices));
          notebook.table(
              "the history keeps both",
              DeltaTable.forName(spark, "products")
                  .history()
                  .select("version", "operation", "operationParameters"));

          notebook.step("A version that never was");
          notebook.refused(
              "Nothing was changed",
              "DELTA_CANNOT_RESTORE_TABLE_VERSION",
              () -> restore(spark, "products", 99));
        });
  }
}
