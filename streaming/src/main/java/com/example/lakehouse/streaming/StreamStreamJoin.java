package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Orders and payments: two streams joined within bounds of time, when what has no match comes out,
 * and how much state it takes.
 *
 * <p>Run: {@code ./run StreamStreamJoin}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: what an inner, a left outer, a left semi and a full outer join emit after each of the
 * same three arrivals; the rows that a join keeps with bounds of time, and without them.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#stream-stream-joins">Structured
 *     Streaming: stream-stream joins</a>
 */
public final class StreamStreamJoin {

  private StreamStreamJoin() {}

  /**
   * Joins an order with the payments that follow within an hour. An order is kept until the
   * watermark is more than an hour past it, a payment until the watermark is past it. The watermark
   * is the lower one of both inputs, so one that sends nothing holds all back.
   *
   * @param orders with {@code order_id BIGINT, order_time TIMESTAMP}, up to 20 minutes late
   * @param payments with {@code paid_order_id BIGINT, payment_time TIMESTAMP}, up to 10 minutes
   *     late; what comes later may be dropped, and its order then has no payment
   */
  private static Dataset<Row> withinAnHour(
      Dataset<Row> orders, Dataset<Row> payments, String type) {
    return orders
        .withWatermark("order_time", "20 minutes")
        .join(
            payments.withWatermark("payment_time", "10 minutes"),
            expr(
                """
                order_id = paid_order_id
                AND payment_time BETWEEN order_time AND order_time + INTERVAL 1 HOUR
                """),
            type);
  }

  /**
   * Orders and their payments, as soon as both are there.
   *
   * @return {@code order_id BIGINT, order_time TIMESTAMP, payment_time TIMESTAMP}
   */
  public static Dataset<Row> paid(Dataset<Row> orders, Dataset<Row> payments) {
    return withinAnHour(orders, payments, "inner").select("order_id", "order_time", "payment_time");
  }

  /**
   * As {@link #paid}, and the orders without a payment, with a NULL in its place, when none can
   * come anymore.
   */
  public static Dataset<Row> paidOrNot(Dataset<Row> orders, Dataset<Row> payments) {
    return withinAnHour(orders, payments, "left_outer")
        .select("order_id", "order_time", "payment_time");
  }

  /**
   * The orders without a payment, when none can come anymore. Spark has no anti join of two
   * streams; this is one.
   *
   * @return {@code order_id BIGINT, order_time TIMESTAMP}
   */
  public static Dataset<Row> unpaid(Dataset<Row> orders, Dataset<Row> payments) {
    return withinAnHour(orders, payments, "left_outer")
        .where("paid_order_id IS NULL")
        .select("order_id", "order_time");
  }

  /**
   * As {@link #paidOrNot}, and the payments without an order, when none can come anymore.
   *
   * @return {@code order_id BIGINT, order_time TIMESTAMP, payment_time TIMESTAMP}
   */
  public static Dataset<Row> reconciled(Dataset<Row> orders, Dataset<Row> payments) {
    return withinAnHour(orders, payments, "full_outer")
        .selectExpr("coalesce(order_id, paid_order_id) AS order_id", "order_time", "payment_time");
  }

  /**
   * The orders that have a payment, once, however many payments they have.
   *
   * @return {@code order_id BIGINT, order_time TIMESTAMP}
   */
  public static Dataset<Row> ordersWithPayment(Dataset<Row> orders, Dataset<Row> payments) {
    return withinAnHour(orders, payments, "left_semi").select("order_id", "order_time");
  }

  /**
   * Orders and their payments, however far apart: every row of both is kept for ever, whatever the
   * watermarks, as its match may still come.
   *
   * @return {@code order_id BIGINT, order_time TIMESTAMP, payment_time TIMESTAMP}
   */
  public static Dataset<Row> paidAtAnyTime(Dataset<Row> orders, Dataset<Row> payments) {
    return orders
        .withWatermark("order_time", "20 minutes")
        .join(
            payments.withWatermark("payment_time", "10 minutes"), expr("order_id = paid_order_id"))
        .select("order_id", "order_time", "payment_time");
  }

  /** Appends to {@code table} what a join emits for all rows that are there, and ends. */
  public static StreamingQuery appendAvailable(Dataset<Row> joined, String table, String checkpoint)
      throws TimeoutException {
    return joined
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /** The rows of both inputs that a join kept after a batch. */
  public static long keptRows(StreamingQueryProgress batch) {
    return Arrays.stream(batch.stateOperators()).mapToLong(kept -> kept.numRowsTotal()).sum();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        StreamStreamJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql("CREATE TABLE orders (order_id BIGINT, order_time TIMESTAMP) USING delta");
          spark.sql(
              "CREATE TABLE payments (paid_order_id BIGINT, payment_time TIMESTAMP) USING delta");
          spark.sql(
              """
              CREATE TABLE emitted (order_id BIGINT, order_time TIMESTAMP, payment_time TIMESTAMP,
                join STRING, arrival INT) USING delta
              """);
          Dataset<Row> orders = spark.readStream().table("orders");
          Dataset<Row> payments = spark.readStream().table("payments");
          Map<String, Dataset<Row>> joins =
              Map.of(
                  "inner", paid(orders, payments),
                  "left outer", paidOrNot(orders, payments),
                  "left semi", ordersWithPayment(orders, payments),
                  "full outer", reconciled(orders, payments));
          // Orders, payments and what to see.
          String[][] arrivals = {
            {
              "(1, '10:00'), (2, '10:05'), (3, '10:10')",
              "(1, '10:20'), (1, '10:25'), (9, '10:15')",
              "Order 1 is paid twice; there is no order 9. The orders' watermark is 9:50."
            },
            {
              "(4, '11:45')",
              "(2, '10:40')",
              "The payments' watermark is 10:30: no order can come for the payment of 10:15."
            },
            {
              "(5, '13:00')",
              "(3, '10:29'), (4, '12:10')",
              "The payment of 10:29 is too late. The watermark is 12:00: order 3 has none."
            }
          };
          AtomicInteger arrival = new AtomicInteger();
          List<StreamingQuery> queries = new ArrayList<>();
          try {
            for (Map.Entry<String, Dataset<Row>> join : joins.entrySet()) {
              queries.add(
                  join.getValue()
                      .writeStream()
                      .option("checkpointLocation", notebook.sandbox().path(join.getKey()))
                      .foreachBatch(
                          (VoidFunction2<Dataset<Row>, Long>)
                              (rows, batch) ->
                                  rows.withColumn("join", lit(join.getKey()))
                                      .withColumn("arrival", lit(arrival.get()))
                                      .write()
                                      .format("delta")
                                      .mode("append")
                                      .saveAsTable("emitted"))
                      .start());
            }
            for (String[] rows : arrivals) {
              notebook.step("Orders " + rows[0] + "; payments " + rows[1]);
              notebook.text(rows[2]);
              arrival.incrementAndGet();
              for (int i = 0; i < 2; i++) {
                spark.sql(
                    "INSERT INTO %s SELECT id, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (id, time)"
                        .formatted(i == 0 ? "orders" : "payments", rows[i]));
              }
              for (StreamingQuery query : queries) {
                query.processAllAvailable();
              }
              notebook.table(
                  "what came out",
                  spark
                      .table("emitted")
                      .where(col("arrival").equalTo(arrival.get()))
                      .selectExpr(
                          "join",
                          "order_id",
                          "date_format(order_time, 'HH:mm') AS order_time",
                          "date_format(payment_time, 'HH:mm') AS payment_time")
                      .orderBy("join", "order_id", "payment_time"));
            }
          } finally {
            for (StreamingQuery query : queries) {
              query.stop();
            }
          }

          notebook.step("A year of orders: what a join keeps");
          SampleData data = notebook.sampleData(6_000);
          Dataset<Row> ofTheYear = data.orders().select("order_id", "order_time");
          long batch = data.orderCount() / 5;
          for (int i = 0; i < 5; i++) {
            Dataset<Row> some = ofTheYear.where("order_id div %d = %d".formatted(batch, i));
            some.coalesce(1).write().format("delta").mode("append").saveAsTable("year_orders");
            some.selectExpr(
                    "order_id AS paid_order_id",
                    "order_time + make_dt_interval(0, 0, order_id % 60) AS payment_time")
                .coalesce(1)
                .write()
                .format("delta")
                .mode("append")
                .saveAsTable("year_payments");
          }
          Dataset<Row> yearOrders =
              spark.readStream().option("maxFilesPerTrigger", 1).table("year_orders");
          Dataset<Row> yearPayments =
              spark.readStream().option("maxFilesPerTrigger", 1).table("year_payments");
          Map<String, Dataset<Row>> bounds = new LinkedHashMap<>();
          bounds.put("within an hour", paid(yearOrders, yearPayments));
          bounds.put("at any time", paidAtAnyTime(yearOrders, yearPayments));
          Chart kept =
              new Chart("%,d orders and their payments".formatted(data.orderCount()), "rows kept");
          for (Map.Entry<String, Dataset<Row>> join : bounds.entrySet()) {
            String table = join.getKey().replace(' ', '_');
            StreamingQuery query =
                appendAvailable(join.getValue(), table, notebook.sandbox().path("year_" + table));
            query.awaitTermination();
            notebook.text(
                "%s: %,d orders with a payment", join.getKey(), spark.table(table).count());
            for (StreamingQueryProgress progress : query.recentProgress()) {
              kept.bar(join.getKey(), "batch " + progress.batchId(), keptRows(progress));
            }
          }
          notebook.chart(kept);

          notebook.step("What is refused");
          notebook.refused(
              "An outer join without bounds: an order could get its payment at any time",
              "_LEGACY_ERROR_TEMP_3102",
              () ->
                  appendAvailable(
                      orders.join(payments, expr("order_id = paid_order_id"), "left_outer"),
                      "refused",
                      notebook.sandbox().path("refused")));
          notebook.refused(
              "An anti join",
              "_LEGACY_ERROR_TEMP_3102",
              () ->
                  appendAvailable(
                      withinAnHour(orders, payments, "left_anti"),
                      "refused",
                      notebook.sandbox().path("refused")));
        });
  }
}
