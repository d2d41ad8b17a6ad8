package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.avg;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.explode;
import static org.apache.spark.sql.functions.lag;
import static org.apache.spark.sql.functions.last;
import static org.apache.spark.sql.functions.lead;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.min;
import static org.apache.spark.sql.functions.sequence;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.unix_date;
import static org.apache.spark.sql.functions.unix_micros;

import com.example.lakehouse.common.Notebook;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.apache.spark.sql.expressions.WindowSpec;

/**
 * Window frames: which rows around the current one a window function sees; running totals, moving
 * averages over days with gaps, neighbours, and the last known value.
 *
 * <p>Run: {@code ./run WindowFrames}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the frame that you get when you name none adds up rows that tie; three rows are not three
 * days; each day of a calendar has the last count before it.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the views'.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-window.html">Spark
 *     SQL: window functions</a>
 */
public final class WindowFrames {

  private WindowFrames() {}

  /**
   * A shop's total after each payment: {@code shop STRING, day DATE, payment_id INT, amount INT,
   * total BIGINT}, and beside it the total and the last amount that the default frame gives.
   *
   * <p>With ORDER BY and no frame, the frame is RANGE from the first row to the current row and all
   * rows that tie with it. So {@code by_default} is the total at the end of the day, on each
   * payment of the day, and the last value of the frame is not that of the shop.
   *
   * @param payments the name of a table or view with {@code shop, day, payment_id, amount}
   */
  public static Dataset<Row> runningTotals(SparkSession spark, String payments) {
    return spark.sql(
        """
        SELECT shop, day, payment_id, amount,
               sum(amount) OVER (
                 PARTITION BY shop ORDER BY day, payment_id
                 ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS total,
               sum(amount) OVER (PARTITION BY shop ORDER BY day) AS by_default,
               last_value(amount) OVER (
                 PARTITION BY shop ORDER BY day, payment_id
                 ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last,
               last_value(amount) OVER (
                 PARTITION BY shop ORDER BY day, payment_id) AS last_by_default
        FROM IDENTIFIER(:payments)
        """,
        Map.of("payments", payments));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> runningTotals(Dataset<Row> payments) {
    WindowSpec byDay = Window.partitionBy("shop").orderBy("day");
    WindowSpec inOrder = Window.partitionBy("shop").orderBy("day", "payment_id");
    return payments.select(
        col("shop"),
        col("day"),
        col("payment_id"),
        col("amount"),
        sum("amount")
            .over(inOrder.rowsBetween(Window.unboundedPreceding(), Window.currentRow()))
            .as("total"),
        sum("amount").over(byDay).as("by_default"),
        last("amount")
            .over(inOrder.rowsBetween(Window.unboundedPreceding(), Window.unboundedFollowing()))
            .as("last"),
        last("amount").over(inOrder).as("last_by_default"));
  }

  /**
   * Moving averages: {@code shop STRING, day DATE, amount BIGINT}, the day's sum, and three
   * averages, DOUBLE: of the last three rows, however old; of those rows that are of the last three
   * days; and of the last three days, in which a day without a row counts as 0.
   *
   * @param payments as for {@link #runningTotals}
   */
  public static Dataset<Row> movingAverages(SparkSession spark, String payments) {
    return spark.sql(
        """
        SELECT shop, day, sum(amount) AS amount,
               avg(sum(amount)) OVER (
                 PARTITION BY shop ORDER BY day
                 ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS last_3_rows,
               avg(sum(amount)) OVER last_3_days AS rows_of_last_3_days,
               sum(sum(amount)) OVER last_3_days / 3 AS last_3_days
        FROM IDENTIFIER(:payments)
        GROUP BY shop, day
        WINDOW last_3_days AS (
          PARTITION BY shop ORDER BY day
          RANGE BETWEEN INTERVAL 2 DAYS PRECEDING AND CURRENT ROW)
        """,
        Map.of("payments", payments));
  }

  /**
   * The same, as a DataFrame. {@code rangeBetween} takes numbers and no intervals, so the order is
   * by the number of the day.
   */
  public static Dataset<Row> movingAverages(Dataset<Row> payments) {
    WindowSpec threeRows = Window.partitionBy("shop").orderBy("day").rowsBetween(-2, 0);
    WindowSpec threeDays =
        Window.partitionBy("shop").orderBy(unix_date(col("day"))).rangeBetween(-2, 0);
    return payments
        .groupBy("shop", "day")
        .agg(sum("amount").as("amount"))
        .withColumn("last_3_rows", avg("amount").over(threeRows))
        .withColumn("rows_of_last_3_days", avg("amount").over(threeDays))
        .withColumn("last_3_days", sum("amount").over(threeDays).divide(lit(3)));
  }

  /**
   * How many clicks each customer has made in the ten minutes up to each click, that click and all
   * of the same time included: {@code customer_id, event_time, recent BIGINT}.
   *
   * @param clicks the name of a table or view with {@code customer_id, event_time TIMESTAMP}
   */
  public static Dataset<Row> recentClicks(SparkSession spark, String clicks) {
    return spark.sql(
        """
        SELECT customer_id, event_time, count(*) OVER (
          PARTITION BY customer_id ORDER BY event_time
          RANGE BETWEEN INTERVAL 10 MINUTES PRECEDING AND CURRENT ROW) AS recent
        FROM IDENTIFIER(:clicks)
        """,
        Map.of("clicks", clicks));
  }

  /** The same, as a DataFrame: in microseconds, which is what a TIMESTAMP counts. */
  public static Dataset<Row> recentClicks(Dataset<Row> clicks) {
    WindowSpec tenMinutes =
        Window.partitionBy("customer_id")
            .orderBy(unix_micros(col("event_time")))
            .rangeBetween(-600_000_000L, 0);
    return clicks.select(
        col("customer_id"), col("event_time"), count(lit(1)).over(tenMinutes).as("recent"));
  }

  /**
   * A count beside its neighbours: {@code product, day, pieces, before, change, days_to_next}. The
   * first has nothing before it and the last nothing after it: NULL, or {@code lag}'s third
   * argument.
   *
   * @param counts the name of a table or view with {@code product STRING, day DATE, pieces INT}, at
   *     most one row for a product and a day
   */
  public static Dataset<Row> neighbours(SparkSession spark, String counts) {
    return spark.sql(
        """
        SELECT product, day, pieces,
               lag(pieces) OVER w AS before,
               pieces - lag(pieces, 1, 0) OVER w AS change,
               date_diff(lead(day) OVER w, day) AS days_to_next
        FROM IDENTIFIER(:counts)
        WINDOW w AS (PARTITION BY product ORDER BY day)
        """,
        Map.of("counts", counts));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> neighbours(Dataset<Row> counts) {
    WindowSpec w = Window.partitionBy("product").orderBy("day");
    return counts.select(
        col("product"),
        col("day"),
        col("pieces"),
        lag("pieces", 1).over(w).as("before"),
        col("pieces").minus(lag("pieces", 1, 0).over(w)).as("change"),
        unix_date(lead("day", 1).over(w)).minus(unix_date(col("day"))).as("days_to_next"));
  }

  /**
   * A row for each product and each day from the first to the last of all: {@code product, day,
   * pieces}, filled forward: the last count that is not NULL, or NULL before the first.
   *
   * @param counts as for {@link #neighbours}
   */
  public static Dataset<Row> everyDay(SparkSession spark, String counts) {
    return spark.sql(
        """
        WITH days AS (
          SELECT explode(sequence(min(day), max(day))) AS day FROM IDENTIFIER(:counts)
        ),
        products AS (SELECT DISTINCT product FROM IDENTIFIER(:counts))
        SELECT product, day,
               last_value(pieces) IGNORE NULLS OVER (
                 PARTITION BY product ORDER BY day
                 ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS pieces
        FROM products CROSS JOIN days LEFT JOIN IDENTIFIER(:counts) USING (product, day)
        """,
        Map.of("counts", counts));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> everyDay(Dataset<Row> counts) {
    Dataset<Row> days =
        counts
            .agg(min("day").as("first"), max("day").as("last"))
            .select(explode(sequence(col("first"), col("last"))).as("day"));
    WindowSpec upToNow =
        Window.partitionBy("product")
            .orderBy("day")
            .rowsBetween(Window.unboundedPreceding(), Window.currentRow());
    return counts
        .select("product")
        .distinct()
        .crossJoin(days)
        .join(counts, new String[] {"product", "day"}, "left")
        .select(col("product"), col("day"), last("pieces", true).over(upToNow).as("pieces"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        WindowFrames.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Berlin', DATE'2025-03-01', 1, 10),
                    ('Berlin', DATE'2025-03-02', 2, 20), ('Berlin', DATE'2025-03-02', 3, 30),
                    ('Berlin', DATE'2025-03-04', 4, 40), ('Berlin', DATE'2025-03-09', 5, 50),
                    ('Berlin', DATE'2025-03-10', 6, 70), ('Paris', DATE'2025-03-02', 7, 5)
                    AS payments (shop, day, payment_id, amount)
                  """)
              .createOrReplaceTempView("payments");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Lamp', DATE'2025-03-01', 5), ('Lamp', DATE'2025-03-03', NULL),
                    ('Lamp', DATE'2025-03-04', 2),
                    ('Desk', DATE'2025-03-02', 8), ('Desk', DATE'2025-03-03', 7)
                    AS counts (product, day, pieces)
                  """)
              .createOrReplaceTempView("counts");

          notebook.step("A running total, and the default frame's trap");
          notebook.table(
              "two payments on 2 March tie, and share a total by default",
              runningTotals(spark, "payments").orderBy("shop", "day", "payment_id"));

          notebook.step("Three rows are not three days");
          notebook.table(
              "moving averages", movingAverages(spark, "payments").orderBy("shop", "day"));

          notebook.step("The rows before and after");
          notebook.table("neighbours", neighbours(spark, "counts").orderBy("product", "day"));

          notebook.step("The last known value, on every day");
          notebook.table("filled forward", everyDay(spark, "counts").orderBy("product", "day"));

          notebook.step("What is refused");
          notebook.refused(
              "A distance of days, in an order by two columns",
              "DATATYPE_MISMATCH.RANGE_FRAME_MULTI_ORDER",
              () ->
                  spark.sql(
                      """
                      SELECT sum(amount) OVER (ORDER BY day, payment_id
                        RANGE BETWEEN INTERVAL 2 DAYS PRECEDING AND CURRENT ROW) FROM payments
                      """));
          notebook.refused(
              "rangeBetween on a DATE",
              "DATATYPE_MISMATCH.RANGE_FRAME_INVALID_TYPE",
              () ->
                  spark
                      .table("payments")
                      .select(sum("amount").over(Window.orderBy("day").rangeBetween(-2, 0))));
          notebook.refused(
              "A frame for lead",
              "_LEGACY_ERROR_TEMP_1035",
              () ->
                  spark.sql(
                      """
                      SELECT lead(amount) OVER (ORDER BY day
                        ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) FROM payments
                      """));
        });
  }
}
