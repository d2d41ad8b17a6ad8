package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Notebook;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Enrichment: a stream of orders joined with a table of customers that changes meanwhile; which
 * state of it an order meets, and how to make that the one of the order's time.
 *
 * <p>Run: {@code ./run StreamStaticJoin}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a customer moves, and the next batch knows it from a Delta table, and does not from
 * Parquet files; an order that comes late, with the city of now and with that of its time; a
 * customer who comes after the order.
 *
 * <p>On Databricks: the same code; Unity Catalog names in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#stream-static-joins">Structured
 *     Streaming: stream-static joins</a>
 */
public final class StreamStaticJoin {

  private StreamStaticJoin() {}

  /**
   * Each order with its customer's columns as they are when its batch is run; NULLs if there is no
   * such customer. Nothing is kept between batches.
   *
   * @param orders a stream with {@code customer_id}
   * @param customers with {@code customer_id}, at most one row of each. {@code spark.table} of a
   *     Delta table is read anew for each batch. The files of a Parquet folder are listed once,
   *     when it is opened: new ones are not seen, and the stream fails when one is gone.
   */
  public static Dataset<Row> enrich(Dataset<Row> orders, Dataset<Row> customers) {
    return orders.join(customers, new String[] {"customer_id"}, "left");
  }

  /**
   * Each order with its customer's city at {@code order_time}, whenever the order comes; NULL if
   * the history has none for that time.
   *
   * @param orders a stream with {@code customer_id, order_time TIMESTAMP}
   * @param history a Delta table {@code customer_id, city, valid_from TIMESTAMP, valid_to
   *     TIMESTAMP}, as SlowlyChangingDimension keeps it: the time from {@code valid_from} until
   *     before {@code valid_to}, which is NULL in the current row. Where two rows of a customer
   *     overlap, an order comes out twice.
   */
  public static Dataset<Row> enrichAsOf(Dataset<Row> orders, Dataset<Row> history) {
    return orders
        .as("o")
        .join(
            history.as("h"),
            expr(
                """
                o.customer_id = h.customer_id AND o.order_time >= h.valid_from
                AND (o.order_time < h.valid_to OR h.valid_to IS NULL)
                """),
            "left")
        .selectExpr("o.*", "h.city");
  }

  /**
   * Sets the city of the orders for which the history says another one by now: their customer, or a
   * change of an earlier time, came after them. A stream does not come back to what it has written.
   *
   * @param table what {@link #enrichAsOf} has made
   * @param history as for {@link #enrichAsOf}
   * @throws org.apache.spark.sql.delta.DeltaUnsupportedOperationException
   *     DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE if the history has two cities for an
   *     order
   */
  public static void correct(SparkSession spark, String table, String history) {
    spark.sql(
        """
        MERGE INTO IDENTIFIER(:table) AS o USING IDENTIFIER(:history) AS h
        ON o.customer_id = h.customer_id AND o.order_time >= h.valid_from
          AND (o.order_time < h.valid_to OR h.valid_to IS NULL)
          AND NOT (o.city <=> h.city)
        WHEN MATCHED THEN UPDATE SET city = h.city
        """,
        Map.of("table", table, "history", history));
  }

  /** Appends to {@code table} what comes out for all rows that are there now, and ends. */
  public static StreamingQuery append(Dataset<Row> rows, String table, String checkpoint)
      throws TimeoutException {
    return rows.writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * As {@link #enrich}, with customers in a Parquet folder that is opened anew for each batch,
   * until the stream is stopped.
   *
   * @param application a name that only this stream uses: by it and the batch's number Delta knows
   *     a batch that is run again, and passes it over
   */
  public static StreamingQuery appendWithFiles(
      Dataset<Row> orders, String folder, String table, String application, String checkpoint)
      throws TimeoutException {
    return orders
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, batchId) ->
                    enrich(batch, batch.sparkSession().read().parquet(folder))
                        .write()
                        .format("delta")
                        .mode("append")
                        .option("txnAppId", application)
                        .option("txnVersion", batchId)
                        .saveAsTable(table))
        .start();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        StreamStaticJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String files = notebook.sandbox().path("files");
          spark.sql(
              "CREATE TABLE orders (order_id BIGINT, customer_id BIGINT, order_time TIMESTAMP)"
                  + " USING delta");
          spark.sql("CREATE TABLE customers (customer_id BIGINT, city STRING) USING delta");
          spark.sql("INSERT INTO customers VALUES (1, 'Bern'), (2, 'Lyon')");
          spark.table("customers").write().parquet(files);

          notebook.step("Customer 1 moves and customer 3 is new, while two streams run");
          Dataset<Row> orders = spark.readStream().table("orders");
          StreamingQuery withDelta =
              start(
                  enrich(orders, spark.table("customers")),
                  "with_delta",
                  notebook.sandbox().path("with_delta"));
          StreamingQuery withFiles =
              start(
                  enrich(orders, spark.read().parquet(files)),
                  "with_files",
                  notebook.sandbox().path("with_files"));
          try {
            spark.sql("INSERT INTO orders VALUES (11, 1, '2025-03-01 10:00:00')");
            withDelta.processAllAvailable();
            withFiles.processAllAvailable();
            spark.sql("UPDATE customers SET city = 'Rome' WHERE customer_id = 1");
            spark.sql("INSERT INTO customers VALUES (3, 'Oslo')");
            spark.table("customers").where("customer_id = 3").write().mode("append").parquet(files);
            spark.sql(
                "INSERT INTO orders VALUES (12, 1, '2025-05-01 10:00:00'), (13, 3, '2025-05-02"
                    + " 10:00:00')");
            withDelta.processAllAvailable();
            withFiles.processAllAvailable();
            notebook.text(
                "Operators with state in the stream: %d.",
                withDelta.lastProgress().stateOperators().length);
          } finally {
            withDelta.stop();
            withFiles.stop();
          }
          notebook.table("customers in Delta", spark.table("with_delta").orderBy("order_id"));
          notebook.table(
              "customers in Parquet, with the new file in the folder",
              spark.table("with_files").orderBy("order_id"));

          notebook.step("An order of March comes after the move of April");
          spark.sql(
              "CREATE TABLE history (customer_id BIGINT, city STRING, valid_from TIMESTAMP,"
                  + " valid_to TIMESTAMP) USING delta");
          spark.sql(
              """
              INSERT INTO history VALUES
                (1, 'Bern', '2025-01-01 00:00:00', '2025-04-01 00:00:00'),
                (1, 'Rome', '2025-04-01 00:00:00', NULL)
              """);
          spark.sql(
              "INSERT INTO orders VALUES (14, 1, '2025-03-20 10:00:00'), (15, 4, '2025-05-03"
                  + " 10:00:00')");
          append(
                  enrich(orders, spark.table("customers")),
                  "with_delta",
                  notebook.sandbox().path("with_delta"))
              .awaitTermination();
          append(
                  enrichAsOf(orders, spark.table("history")),
                  "as_of",
                  notebook.sandbox().path("as_of"))
              .awaitTermination();
          notebook.table("customer 1 as of now", spark.table("with_delta").where("order_id = 14"));
          notebook.table("as of the order's time", spark.table("as_of").orderBy("order_id"));

          notebook.step("Customers 3 and 4 come after their orders");
          spark.sql(
              "INSERT INTO history VALUES (3, 'Oslo', '2025-04-20 00:00:00', NULL), (4, 'Wien',"
                  + " '2025-05-01 00:00:00', NULL)");
          append(
                  enrichAsOf(orders, spark.table("history")),
                  "as_of",
                  notebook.sandbox().path("as_of"))
              .awaitTermination();
          notebook.text(
              "After another start of the stream %d orders still have no city.",
              spark.table("as_of").where("city IS NULL").count());
          correct(spark, "as_of", "history");
          notebook.table("corrected", spark.table("as_of").orderBy("order_id"));
        });
  }

  private static StreamingQuery start(Dataset<Row> rows, String table, String checkpoint)
      throws TimeoutException {
    return rows.writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .toTable(table);
  }
}
