package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.Map;
import org.apache.spark.SparkException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * ACID transactions: each append, update and delete happens whole or not at all, even when its job
 * dies half way.
 *
 * <p>Run: {@code ./run AcidTransactions}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: every change is one version; a job that fails on its last row has written most of its
 * files, and the table has none of their rows.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/concurrency-control/">Delta Lake: concurrency control</a>
 */
public final class AcidTransactions {

  private AcidTransactions() {}

  /**
   * Adds {@code orders} to {@code table}, in one commit.
   *
   * @param orders the table's columns
   */
  public static void append(String table, Dataset<Row> orders) {
    orders.write().format("delta").mode("append").saveAsTable(table);
  }

  /**
   * Adds {@code orders} if every one of them has a positive amount, and else none.
   *
   * @param orders the table's columns, with {@code amount DECIMAL(12,2)}
   * @throws SparkException if an amount is null, zero or less; its cause has the condition
   *     USER_RAISED_EXCEPTION and names the order
   */
  public static void appendChecked(String table, Dataset<Row> orders) throws SparkException {
    // The check runs row by row while the files are written: there is no second pass over the data.
    orders
        .withColumn(
            "amount",
            expr(
                """
                CASE WHEN amount > 0 THEN amount
                     ELSE raise_error(concat('order ', order_id, ' has the amount ', coalesce(cast(amount AS STRING), 'NULL')))
                END
                """))
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable(table);
  }

  /**
   * Sets the status of the orders up to a day that are in another one.
   *
   * @param from the status that they have
   * @param to the status that they get
   * @param untilDate the last day, such as {@code 2025-01-31}
   */
  public static void updateStatus(
      SparkSession spark, String table, String from, String to, String untilDate) {
    DeltaTable.forName(spark, table)
        .update(
            col("status").equalTo(from).and(col("order_date").leq(lit(untilDate).cast("date"))),
            Map.of("status", lit(to)));
  }

  /** Deletes the orders that have {@code status}. */
  public static void deleteByStatus(SparkSession spark, String table, String status) {
    DeltaTable.forName(spark, table).delete(col("status").equalTo(status));
  }

  /**
   * The table's commits, the latest first: {@code version BIGINT, operation STRING,
   * operationMetrics MAP<STRING, STRING>} and more.
   */
  public static Dataset<Row> history(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).history();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        AcidTransactions.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> orders = notebook.sampleData(30_000).orders();
          Dataset<Row> firstHalf = orders.where("order_date < '2025-07-01'");
          Dataset<Row> secondHalf = orders.where("order_date >= '2025-07-01'");

          notebook.step("Append, update, delete: one version each");
          append("orders", firstHalf);
          append("orders", secondHalf);
          updateStatus(spark, "orders", "open", "shipped", "2025-01-31");
          deleteByStatus(spark, "orders", "cancelled");
          notebook.table(
              "the history of orders",
              history(spark, "orders")
                  .selectExpr(
                      "version",
                      "operation",
                      "operationMetrics.numOutputRows AS written",
                      "operationMetrics.numUpdatedRows AS updated",
                      "operationMetrics.numDeletedRows AS deleted",
                      "operationMetrics.numAddedFiles AS files_added",
                      "operationMetrics.numRemovedFiles AS files_removed"));
          long rows = spark.table("orders").count();
          long version = history(spark, "orders").count() - 1;
          notebook.text("The table has %,d rows at version %d.", rows, version);

          notebook.step("A job that dies on the last of its rows");
          long last = orders.count() - 1;
          // In four tasks: three of them write their files to the end.
          Dataset<Row> bad =
              orders
                  .repartitionByRange(4, col("order_id"))
                  .withColumn("amount", expr("IF(order_id = " + last + ", -1.00BD, amount)"));
          notebook.refused(
              "The append of %,d rows failed".formatted(orders.count()),
              "USER_RAISED_EXCEPTION",
              () -> appendChecked("orders", bad));
          notebook.text(
              "The table still has %,d rows at version %d, and nobody has to clean up: the files that the job left"
                  + " behind are in no version.",
              spark.table("orders").count(), history(spark, "orders").count() - 1);
        });
  }
}
