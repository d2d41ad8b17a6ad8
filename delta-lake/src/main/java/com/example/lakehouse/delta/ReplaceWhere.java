package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import java.time.LocalDate;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Replacing a part: one day of a table is put in place of the old one, in one commit, and the rest
 * is not touched.
 *
 * <p>Run: {@code ./run ReplaceWhere}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a day loaded again after a correction; a batch with a row of another day refused; only
 * the partitions that a batch has replaced.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#selective-overwrite">Delta Lake: selective
 *     overwrite</a>
 */
public final class ReplaceWhere {

  private ReplaceWhere() {}

  /**
   * Puts {@code orders} in place of the rows of {@code day}. Readers see the old day or the new
   * one, and a job that runs again leaves the same table.
   *
   * @param orders the table's columns; every row with {@code order_date = day}
   * @throws AnalysisException DELTA_REPLACE_WHERE_MISMATCH if a row is of another day; the table
   *     stays as it was
   */
  public static void replaceDay(String table, Dataset<Row> orders, LocalDate day) {
    orders
        .write()
        .format("delta")
        .mode("overwrite")
        .option("replaceWhere", "order_date = DATE'" + day + "'")
        .saveAsTable(table);
  }

  /**
   * Puts {@code orders} in place of the partitions that it has rows of; the others stay.
   *
   * @param table partitioned
   * @param orders the table's columns, any number of partitions
   */
  public static void replacePartitions(String table, Dataset<Row> orders) {
    orders
        .write()
        .format("delta")
        .mode("overwrite")
        .option("partitionOverwriteMode", "dynamic")
        .saveAsTable(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ReplaceWhere.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> week =
              notebook
                  .sampleData(30_000)
                  .orders()
                  .where("order_date BETWEEN '2025-06-02' AND '2025-06-08'");
          week.write().format("delta").partitionBy("order_date").saveAsTable("orders");
          LocalDate tuesday = LocalDate.of(2025, 6, 3);
          String perDay =
              """
              SELECT order_date, count(*) AS orders, sum(amount) AS amount
              FROM orders GROUP BY order_date ORDER BY order_date
              """;
          notebook.step("A week of orders");
          notebook.table("per day", spark.sql(perDay));

          notebook.step("Tuesday again, without the cancelled orders");
          Dataset<Row> corrected =
              week.where("order_date = '2025-06-03' AND status <> 'cancelled'");
          replaceDay("orders", corrected, tuesday);
          notebook.table("per day", spark.sql(perDay));

          notebook.step("A batch for Tuesday that has a row of Wednesday");
          notebook.refused(
              "Nothing was replaced",
              "DELTA_REPLACE_WHERE_MISMATCH",
              () ->
                  replaceDay(
                      "orders",
                      corrected.union(week.where("order_date = '2025-06-04'").limit(1)),
                      tuesday));

          notebook.step("Whatever days the batch has: Saturday and Sunday");
          replacePartitions(
              "orders", week.where("order_date >= '2025-06-07' AND status = 'delivered'"));
          notebook.table("per day", spark.sql(perDay));
        });
  }
}
