package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.max_by;
import static org.apache.spark.sql.functions.struct;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.storage.StorageLevel;

/**
 * Upsert from a stream: a MERGE for each batch, and several tables from one source, so that a batch
 * that is run again changes nothing.
 *
 * <p>Run: {@code ./run ForeachBatchUpsert}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the last change of each order in a table, the same after all of them have come once more;
 * two tables from one reading; sums that a repeated batch does not grow.
 *
 * <p>On Databricks: the same code; Lakeflow's {@code AUTO CDC} does the merge from a declaration.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-update/#upsert-from-streaming-queries-using-foreachbatch">
 *     Delta Lake: upsert from streaming queries</a>
 */
public final class ForeachBatchUpsert {

  private ForeachBatchUpsert() {}

  /**
   * The last change of each order. A MERGE refuses two source rows for one target row, and a batch
   * may well have them.
   *
   * @param changes with {@code order_id BIGINT, changed_at TIMESTAMP} and more
   * @return one row for each {@code order_id}; of two at the same time, the one that sorts last
   */
  public static Dataset<Row> latest(Dataset<Row> changes) {
    return changes
        .withColumn("change", struct(col("*")))
        .groupBy("order_id")
        .agg(max_by(col("change"), struct(col("changed_at"), col("change"))).as("change"))
        .select("change.*");
  }

  /**
   * Takes the last change of each order into {@code table}. It may be called again with the same
   * changes, or with older ones: an order never goes back.
   *
   * @param changes {@code order_id BIGINT, status STRING, amount DECIMAL(12,2), changed_at
   *     TIMESTAMP}, in any order, with repetitions
   * @param table a Delta table of the same columns
   */
  public static void upsert(Dataset<Row> changes, String table) {
    DeltaTable.forName(changes.sparkSession(), table)
        .as("t")
        .merge(latest(changes).as("s"), "t.order_id = s.order_id")
        .whenMatched("s.changed_at > t.changed_at")
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  /** Runs {@link #upsert} for each batch of all that is there now, and ends. */
  public static StreamingQuery upsertAvailable(
      Dataset<Row> changes, String table, String checkpoint) throws TimeoutException {
    return changes
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (batch, batchId) -> upsert(batch, table))
        .start();
  }

  /**
   * Adds a batch up, which may not be done twice: a row keeps the number of the last batch that is
   * in it, and both change in one commit.
   *
   * <p>The numbers begin at 0 again with a new checkpoint; the table needs {@code last_batch} set
   * to -1 then, or what comes is taken for repetitions.
   *
   * @param payments {@code shop STRING, amount DECIMAL(12,2)}
   * @param table a Delta table {@code shop STRING, turnover DECIMAL(22,2), last_batch BIGINT}
   */
  public static void addToTurnover(Dataset<Row> payments, long batchId, String table) {
    Dataset<Row> sums =
        payments
            .groupBy("shop")
            .sum("amount")
            .toDF("shop", "amount")
            .selectExpr("*", batchId + "L AS batch");
    DeltaTable.forName(payments.sparkSession(), table)
        .as("t")
        .merge(sums.as("s"), "t.shop = s.shop")
        .whenMatched("t.last_batch < s.batch")
        .updateExpr(Map.of("turnover", "t.turnover + s.amount", "last_batch", "s.batch"))
        .whenNotMatched()
        .insertExpr(Map.of("shop", "s.shop", "turnover", "s.amount", "last_batch", "s.batch"))
        .execute();
  }

  /**
   * Two tables from one reading of the source: {@code raw} gets every change, {@code current} the
   * last of each order. If the process dies between the two, the batch is run again: Delta skips
   * the append that it has already, by the application's name and the batch's number, and the merge
   * goes on.
   *
   * @param application a name that only this query uses, the same at each start
   */
  public static StreamingQuery writeBoth(
      Dataset<Row> changes, String raw, String current, String application, String checkpoint)
      throws TimeoutException {
    return changes
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, batchId) -> {
                  // Without this the source would be read once for each table.
                  batch.persist(StorageLevel.MEMORY_AND_DISK());
                  try {
                    batch
                        .write()
                        .format("delta")
                        .mode("append")
                        .option("txnAppId", application)
                        .option("txnVersion", batchId)
                        .saveAsTable(raw);
                    upsert(batch, current);
                  } finally {
                    batch.unpersist();
                  }
                })
        .start();
  }

  /** Runs {@link #addToTurnover} for each batch of all that is there now, and ends. */
  public static StreamingQuery addAvailable(Dataset<Row> payments, String table, String checkpoint)
      throws TimeoutException {
    return payments
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, batchId) -> addToTurnover(batch, batchId, table))
        .start();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ForeachBatchUpsert.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String columns =
              "(order_id BIGINT, status STRING, amount DECIMAL(12,2), changed_at TIMESTAMP) USING delta";
          for (String table : new String[] {"changes", "orders", "raw", "current"}) {
            spark.sql("CREATE TABLE " + table + columns);
          }
          String checkpoint = notebook.sandbox().path("checkpoint");

          notebook.step("Changes of orders arrive, an order's more than once and not in order");
          spark.sql(
              """
              INSERT INTO changes VALUES
                (1, 'paid', 20.00, '2025-03-01 10:05:00'), (1, 'new', 20.00, '2025-03-01 10:00:00'),
                (2, 'new', 35.50, '2025-03-01 10:01:00'), (3, 'new', 12.00, '2025-03-01 10:02:00')
              """);
          upsertAvailable(spark.readStream().table("changes"), "orders", checkpoint)
              .awaitTermination();
          notebook.table("orders", spark.table("orders").orderBy("order_id"));

          notebook.step("The next batch has a change that is older than the table's");
          spark.sql(
              """
              INSERT INTO changes VALUES
                (1, 'checked', 20.00, '2025-03-01 10:03:00'), (2, 'paid', 35.50, '2025-03-01 10:20:00'),
                (4, 'new', 8.90, '2025-03-01 10:21:00')
              """);
          upsertAvailable(spark.readStream().table("changes"), "orders", checkpoint)
              .awaitTermination();
          notebook.table("orders", spark.table("orders").orderBy("order_id"));

          notebook.step("Everything once more, as after the loss of the checkpoint");
          upsertAvailable(
                  spark.readStream().table("changes"),
                  "orders",
                  notebook.sandbox().path("new_checkpoint"))
              .awaitTermination();
          notebook.table("orders, the same", spark.table("orders").orderBy("order_id"));

          notebook.step("Two tables from one reading");
          writeBoth(
                  spark.readStream().table("changes"),
                  "raw",
                  "current",
                  "orders-to-both",
                  notebook.sandbox().path("both"))
              .awaitTermination();
          notebook.text(
              "raw has all %d changes, current the last of each of %d orders.",
              spark.table("raw").count(), spark.table("current").count());

          notebook.step("Sums, where a batch that is run again may not be added again");
          spark.sql("CREATE TABLE payments (shop STRING, amount DECIMAL(12,2)) USING delta");
          spark.sql(
              "CREATE TABLE turnover (shop STRING, turnover DECIMAL(22,2), last_batch BIGINT) USING delta");
          spark.sql("INSERT INTO payments VALUES ('Bern', 10.00), ('Bern', 5.00), ('Lyon', 7.00)");
          String sums = notebook.sandbox().path("sums");
          addAvailable(spark.readStream().table("payments"), "turnover", sums).awaitTermination();
          spark.sql("INSERT INTO payments VALUES ('Bern', 1.00)");
          addAvailable(spark.readStream().table("payments"), "turnover", sums).awaitTermination();
          notebook.table("turnover", spark.table("turnover").orderBy("shop"));
          addToTurnover(
              spark.sql("SELECT 'Bern' AS shop, CAST(1 AS DECIMAL(12,2)) AS amount"),
              1,
              "turnover");
          notebook.table("after batch 1 once more", spark.table("turnover").orderBy("shop"));
        });
  }
}
