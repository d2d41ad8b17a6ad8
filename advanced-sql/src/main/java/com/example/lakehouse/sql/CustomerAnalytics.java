package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.broadcast;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.count_distinct;
import static org.apache.spark.sql.functions.datediff;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.first_value;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.min;
import static org.apache.spark.sql.functions.percentile_approx;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.trunc;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import java.time.LocalDate;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.apache.spark.sql.expressions.WindowSpec;

/**
 * Customer analytics: who buys how recently, how often and how much, who comes back, where a sale
 * is lost, what is bought together, and which products make the turnover.
 *
 * <p>Run: {@code ./run CustomerAnalytics --html}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a report of the shop in five parts, each a query and a chart.
 *
 * <p>On Databricks: the same SQL; {@code :day} and {@code :orders} are parameters of the query.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select.html">Spark SQL:
 *     SELECT</a>
 */
public final class CustomerAnalytics {

  private CustomerAnalytics() {}

  /**
   * RFM: scores each customer from 1 to 5 by recency, frequency and money, 5 being the best fifth.
   * Equal customers have equal scores. Cancelled and returned orders do not count.
   *
   * @param day as of which; orders after it are not expected
   * @return {@code customer_id BIGINT, recency INT, frequency BIGINT, monetary DECIMAL(22,2), r
   *     INT, f INT, m INT, segment STRING}, of {@code orders}; recency is in days since the last
   *     order
   */
  public static Dataset<Row> rfm(SparkSession spark, LocalDate day) {
    return spark.sql(
        """
        WITH measures AS (
          SELECT customer_id, datediff(:day, max(order_date)) AS recency,
            count(*) AS frequency, sum(amount) AS monetary
          FROM orders
          WHERE status NOT IN ('cancelled', 'returned')
          GROUP BY customer_id
        ),
        bounds AS (
          SELECT percentile_approx(recency, array(0.2, 0.4, 0.6, 0.8)) AS recencies,
            percentile_approx(frequency, array(0.2, 0.4, 0.6, 0.8)) AS frequencies,
            percentile_approx(monetary, array(0.2, 0.4, 0.6, 0.8)) AS sums
          FROM measures
        )
        SELECT customer_id, recency, frequency, monetary,
          5 - size(filter(recencies, bound -> recency > bound)) AS r,
          1 + size(filter(frequencies, bound -> frequency > bound)) AS f,
          1 + size(filter(sums, bound -> monetary > bound)) AS m,
          CASE
            WHEN r >= 4 AND f >= 4 THEN 'champions'
            WHEN r >= 3 AND f >= 3 THEN 'loyal'
            WHEN r >= 3 THEN 'recent'
            WHEN f >= 3 THEN 'at risk'
            ELSE 'lost'
          END AS segment
        FROM measures CROSS JOIN bounds
        """,
        Map.of("day", day));
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> rfmInJava(SparkSession spark, LocalDate day) {
    Dataset<Row> measures =
        spark
            .table("orders")
            .where(col("status").isin("cancelled", "returned").equalTo(false))
            .groupBy("customer_id")
            .agg(
                datediff(lit(day), max("order_date")).as("recency"),
                count(lit(1)).as("frequency"),
                sum("amount").as("monetary"));
    Column fifths = array(lit(0.2), lit(0.4), lit(0.6), lit(0.8));
    Dataset<Row> bounds =
        measures.agg(
            percentile_approx(col("recency"), fifths, lit(10_000)).as("recencies"),
            percentile_approx(col("frequency"), fifths, lit(10_000)).as("frequencies"),
            percentile_approx(col("monetary"), fifths, lit(10_000)).as("sums"));
    return measures
        .crossJoin(broadcast(bounds))
        .withColumn("r", expr("5 - size(filter(recencies, bound -> recency > bound))"))
        .withColumn("f", expr("1 + size(filter(frequencies, bound -> frequency > bound))"))
        .withColumn("m", expr("1 + size(filter(sums, bound -> monetary > bound))"))
        .withColumn(
            "segment",
            when(col("r").geq(4).and(col("f").geq(4)), "champions")
                .when(col("r").geq(3).and(col("f").geq(3)), "loyal")
                .when(col("r").geq(3), "recent")
                .when(col("f").geq(3), "at risk")
                .otherwise("lost"))
        .drop("recencies", "frequencies", "sums");
  }

  /**
   * Cohort retention: how many of those who first ordered in a month order again, months later.
   *
   * @return {@code cohort DATE, months_later INT, customers BIGINT, share DOUBLE}, of {@code
   *     orders}
   */
  public static Dataset<Row> retention(SparkSession spark) {
    return spark.sql(
        """
        WITH months AS (
          SELECT DISTINCT customer_id, trunc(order_date, 'MM') AS month
          FROM orders
        ),
        since_first AS (
          SELECT month, min(month) OVER (PARTITION BY customer_id) AS cohort
          FROM months
        ),
        counts AS (
          SELECT cohort, CAST(months_between(month, cohort) AS INT) AS months_later,
            count(*) AS customers
          FROM since_first
          GROUP BY ALL
        )
        SELECT *,
          customers / first_value(customers) OVER (PARTITION BY cohort ORDER BY months_later) AS share
        FROM counts
        """);
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> retentionInJava(SparkSession spark) {
    return spark
        .table("orders")
        .select(col("customer_id"), trunc(col("order_date"), "MM").as("month"))
        .distinct()
        .withColumn("cohort", min("month").over(Window.partitionBy("customer_id")))
        .groupBy(
            col("cohort"), expr("CAST(months_between(month, cohort) AS INT)").as("months_later"))
        .agg(count(lit(1)).as("customers"))
        .withColumn(
            "share",
            col("customers")
                .divide(
                    first_value(col("customers"))
                        .over(Window.partitionBy("cohort").orderBy("months_later"))));
  }

  /**
   * Funnel: how many customers viewed a product, put it into the cart after that, and bought it
   * after that. An event out of order does not count.
   *
   * @return one row {@code viewed BIGINT, carted BIGINT, bought BIGINT} of customers' products, of
   *     {@code events}
   */
  public static Dataset<Row> funnel(SparkSession spark) {
    return spark.sql(
        """
        WITH views AS (
          SELECT *, min(IF(event_type = 'view', event_time, NULL))
            OVER (PARTITION BY customer_id, product_id) AS viewed_at
          FROM events
        ),
        carts AS (
          SELECT *, min(IF(event_type = 'cart' AND event_time > viewed_at, event_time, NULL))
            OVER (PARTITION BY customer_id, product_id) AS carted_at
          FROM views
        ),
        products AS (
          SELECT min(viewed_at) AS viewed_at, min(carted_at) AS carted_at,
            min(IF(event_type = 'purchase' AND event_time > carted_at, event_time, NULL)) AS bought_at
          FROM carts
          GROUP BY customer_id, product_id
        )
        SELECT count(viewed_at) AS viewed, count(carted_at) AS carted, count(bought_at) AS bought
        FROM products
        """);
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> funnelInJava(SparkSession spark) {
    WindowSpec product = Window.partitionBy("customer_id", "product_id");
    return spark
        .table("events")
        .withColumn(
            "viewed_at",
            min(when(col("event_type").equalTo("view"), col("event_time"))).over(product))
        .withColumn("carted_at", min(firstAfter("cart", "viewed_at")).over(product))
        .groupBy("customer_id", "product_id")
        .agg(
            min("viewed_at").as("viewed_at"),
            min("carted_at").as("carted_at"),
            min(firstAfter("purchase", "carted_at")).as("bought_at"))
        .agg(
            count("viewed_at").as("viewed"),
            count("carted_at").as("carted"),
            count("bought_at").as("bought"));
  }

  private static Column firstAfter(String eventType, String before) {
    return when(
        col("event_type").equalTo(eventType).and(col("event_time").gt(col(before))),
        col("event_time"));
  }

  /**
   * Basket pairs: which products stand in one order, and how much more often than if they had
   * nothing to do with each other.
   *
   * @param orders the fewest common orders; a pair of less is chance
   * @return {@code product_a BIGINT, product_b BIGINT, orders BIGINT, confidence DOUBLE, lift
   *     DOUBLE}, of {@code order_items}; b has the higher id, confidence is the share with b of the
   *     orders with a, and a lift of 1 is chance
   */
  public static Dataset<Row> pairs(SparkSession spark, int orders) {
    return spark.sql(
        """
        WITH baskets AS (SELECT DISTINCT order_id, product_id FROM order_items),
        singles AS (SELECT product_id, count(*) AS orders FROM baskets GROUP BY product_id),
        pairs AS (
          SELECT a.product_id AS product_a, b.product_id AS product_b, count(*) AS orders
          FROM baskets AS a
          JOIN baskets AS b ON a.order_id = b.order_id AND a.product_id < b.product_id
          GROUP BY ALL
          HAVING count(*) >= :orders
        )
        SELECT product_a, product_b, pairs.orders,
          pairs.orders / a.orders AS confidence,
          pairs.orders * (SELECT count(DISTINCT order_id) FROM baskets) / (a.orders * b.orders) AS lift
        FROM pairs
        JOIN singles AS a ON a.product_id = product_a
        JOIN singles AS b ON b.product_id = product_b
        """,
        Map.of("orders", orders));
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> pairsInJava(SparkSession spark, int orders) {
    Dataset<Row> baskets = spark.table("order_items").select("order_id", "product_id").distinct();
    Dataset<Row> singles = baskets.groupBy("product_id").agg(count(lit(1)).as("orders"));
    return baskets
        .toDF("order_id", "product_a")
        .join(baskets.toDF("order_id", "product_b"), "order_id")
        .where(col("product_a").lt(col("product_b")))
        .groupBy("product_a", "product_b")
        .agg(count(lit(1)).as("orders"))
        .where(col("orders").geq(orders))
        .join(singles.toDF("product_a", "orders_a"), "product_a")
        .join(singles.toDF("product_b", "orders_b"), "product_b")
        .crossJoin(broadcast(baskets.agg(count_distinct(col("order_id")).as("all_orders"))))
        .select(
            col("product_a"),
            col("product_b"),
            col("orders"),
            col("orders").divide(col("orders_a")).as("confidence"),
            expr("orders * all_orders / (orders_a * orders_b)").as("lift"));
  }

  /**
   * Pareto: the products by falling revenue with the share that they and all before them make.
   * Class A makes the first 80 % of the revenue, B the next 15 %, C the rest.
   *
   * @return {@code product_id BIGINT, revenue DECIMAL(33,2), share DECIMAL(38,6), class STRING}, of
   *     {@code order_items}
   */
  public static Dataset<Row> pareto(SparkSession spark) {
    return spark.sql(
        """
        WITH revenues AS (
          SELECT product_id, sum(quantity * unit_price) AS revenue
          FROM order_items
          GROUP BY product_id
        )
        SELECT *,
          sum(revenue) OVER (
            ORDER BY revenue DESC, product_id ROWS UNBOUNDED PRECEDING
          ) / sum(revenue) OVER () AS share,
          CASE WHEN share <= 0.80 THEN 'A' WHEN share <= 0.95 THEN 'B' ELSE 'C' END AS class
        FROM revenues
        """);
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> paretoInJava(SparkSession spark) {
    WindowSpec soFar =
        Window.orderBy(col("revenue").desc(), col("product_id"))
            .rowsBetween(Window.unboundedPreceding(), Window.currentRow());
    return spark
        .table("order_items")
        .groupBy("product_id")
        .agg(sum(col("quantity").multiply(col("unit_price"))).as("revenue"))
        .withColumn(
            "share", sum("revenue").over(soFar).divide(sum("revenue").over(Window.partitionBy())))
        .withColumn(
            "class",
            when(col("share").leq(0.80), "A").when(col("share").leq(0.95), "B").otherwise("C"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CustomerAnalytics.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          notebook
              .sampleData(20_000)
              .tables()
              .forEach((name, rows) -> rows.write().saveAsTable(name));

          notebook.step("Who buys how recently, how often and how much?");
          Dataset<Row> rfm = rfm(spark, LocalDate.of(2026, 1, 1)).cache();
          notebook.table("the best ten customers", rfm.orderBy(col("monetary").desc()).limit(10));
          Dataset<Row> segments =
              rfm.groupBy("segment")
                  .agg(count(lit(1)).as("customers"), sum("monetary").as("turnover"))
                  .orderBy(col("turnover").desc());
          notebook.table("segments", segments);
          Chart people = new Chart("Segments", "% of all customers, and of the turnover");
          Row all = segments.agg(sum("customers"), sum("turnover").cast("double")).first();
          for (Row segment : segments.collectAsList()) {
            people
                .bar("customers", segment.getString(0), 100.0 * segment.getLong(1) / all.getLong(0))
                .bar(
                    "turnover",
                    segment.getString(0),
                    100 * segment.getDecimal(2).doubleValue() / all.getDouble(1));
          }
          notebook.chart(people);

          notebook.step("Who comes back?");
          Dataset<Row> retention = retention(spark).cache();
          notebook.table(
              "share of a month's new customers who order again, months later",
              retention
                  .where("months_later BETWEEN 1 AND 6")
                  .withColumn("share", expr("round(share, 2)"))
                  .groupBy("cohort")
                  .pivot("months_later")
                  .agg(expr("first(share)"))
                  .orderBy("cohort"));
          Chart back = new Chart("The customers of January, months later", "% who order");
          retention
              .where("cohort = DATE'2025-01-01' AND months_later > 0")
              .orderBy("months_later")
              .collectAsList()
              .forEach(
                  r ->
                      back.bar(r.getAs("months_later").toString(), 100 * r.<Double>getAs("share")));
          notebook.chart(back);

          notebook.step("Where is a sale lost?");
          Row funnel = funnel(spark).first();
          notebook.chart(
              new Chart("A customer and a product", "pairs")
                  .bar("viewed", funnel.getLong(0))
                  .bar("put into the cart", funnel.getLong(1))
                  .bar("bought", funnel.getLong(2)));

          notebook.step("What is bought together?");
          notebook.table(
              "the pairs with the highest lift, of those in at least 10 orders",
              pairs(spark, 10)
                  .orderBy(col("lift").desc(), col("product_a"))
                  .withColumn("confidence", expr("round(confidence, 3)"))
                  .withColumn("lift", expr("round(lift, 2)"))
                  .limit(10));
          notebook.text(
              "The customers of this shop choose each item by itself, so these lifts are chance:"
                  + " with 10 orders a pair proves nothing.");

          notebook.step("Which products make the turnover?");
          Dataset<Row> pareto = pareto(spark).cache();
          notebook.table("the best ten products", pareto.orderBy("share").limit(10));
          Chart classes = new Chart("Classes", "% of the products, and of the revenue");
          pareto
              .groupBy("class")
              .agg(count(lit(1)), sum("revenue").cast("double"))
              .join(pareto.agg(count(lit(1)), sum("revenue").cast("double")))
              .orderBy("class")
              .collectAsList()
              .forEach(
                  r ->
                      classes
                          .bar("products", r.getString(0), 100.0 * r.getLong(1) / r.getLong(3))
                          .bar("revenue", r.getString(0), 100 * r.getDouble(2) / r.getDouble(4)));
          notebook.chart(classes);
        });
  }
}
