package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Idempotent writes: a job that is retried writes its batch once, because Delta remembers the
 * batch's number.
 *
 * <p>Run: {@code ./run IdempotentWrites}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the same batch written twice is in the table once; without the number it is there twice;
 * the number stands in the table's log.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#idempotent-writes">Delta Lake: idempotent
 *     writes</a>
 */
public final class IdempotentWrites {

  private IdempotentWrites() {}

  /**
   * Adds {@code batch} to {@code table} unless this application has written a batch with this or a
   * higher number.
   *
   * @param application names the job: the same in every run of it, and in no other job that writes
   *     to the table
   * @param batchNumber rises with every batch; the same when a batch is written again
   * @throws IllegalArgumentException if {@code batchNumber} is negative
   */
  public static void writeOnce(
      String table, Dataset<Row> batch, String application, long batchNumber) {
    if (batchNumber < 0) {
      throw new IllegalArgumentException("a batch's number must not be negative: " + batchNumber);
    }
    batch
        .write()
        .format("delta")
        .mode("append")
        .option("txnAppId", application)
        .option("txnVersion", batchNumber)
        .saveAsTable(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        IdempotentWrites.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> orders = notebook.sampleData(30_000).orders();
          Dataset<Row> monday = orders.where("order_date = '2025-06-02'");
          Dataset<Row> tuesday = orders.where("order_date = '2025-06-03'");
          orders.limit(0).write().format("delta").saveAsTable("orders");
          orders.limit(0).write().format("delta").saveAsTable("plain");

          notebook.step(
              "Monday's batch, and the same again: the job did not know that it had succeeded");
          writeOnce("orders", monday, "daily-orders", 1);
          writeOnce("orders", monday, "daily-orders", 1);
          monday.write().format("delta").mode("append").saveAsTable("plain");
          monday.write().format("delta").mode("append").saveAsTable("plain");
          notebook.text(
              "Monday has %d orders; the table has %d, and one that was written without numbers has %d.",
              monday.count(), spark.table("orders").count(), spark.table("plain").count());

          notebook.step("Tuesday's batch has the next number");
          writeOnce("orders", tuesday, "daily-orders", 2);
          notebook.text(
              "Tuesday has %d orders; the table has %d.",
              tuesday.count(), spark.table("orders").count());
          notebook.table(
              "history: a batch that was there already made no version",
              DeltaTable.forName(spark, "orders")
                  .history()
                  .selectExpr("version", "operation", "operationMetrics.numOutputRows AS rows"));

          notebook.step("Another job has numbers of its own");
          writeOnce("orders", monday.limit(1), "corrections", 1);
          notebook.text("The table has %d orders.", spark.table("orders").count());
        });
  }
}
