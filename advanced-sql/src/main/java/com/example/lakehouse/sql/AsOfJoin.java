package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.last;
import static org.apache.spark.sql.functions.lead;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.struct;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.apache.spark.sql.expressions.WindowSpec;

/**
 * As-of joins: the price that was valid when an order came in. Spark has no {@code ASOF JOIN};
 * three ways give the same rows from very different plans.
 *
 * <p>Run: {@code ./run AsOfJoin}, or Run in the IDE; no JVM flags, no setup; {@code --scale} for
 * more rows.
 *
 * <p>See: five orders and their prices; then thousands, and how many pairs or rows each way looks
 * at.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-window.html">Spark
 *     SQL: window functions</a>
 */
public final class AsOfJoin {

  private AsOfJoin() {}

  /**
   * For each order, looks for the latest price: the shortest text, and for few rows only. Spark
   * turns the inequality into pairs of every distinct {@code order_time} and every price of any
   * product, sorts those that fit, and takes the product into account afterwards.
   *
   * @return {@code order_id BIGINT, product_id BIGINT, order_time TIMESTAMP, price DECIMAL} of the
   *     tables or views {@code orders (order_id, product_id, order_time)} and {@code prices
   *     (product_id, valid_from TIMESTAMP, price)}, which has at most one row for a product and a
   *     time; NULL before a product's first price. A price that begins at the order's time is
   *     valid.
   */
  public static Dataset<Row> byLateral(SparkSession spark) {
    return spark.sql(
        """
        SELECT o.order_id, o.product_id, o.order_time, p.price
        FROM orders AS o
        LEFT JOIN LATERAL (
          SELECT price
          FROM prices
          WHERE prices.product_id = o.product_id AND prices.valid_from <= o.order_time
          ORDER BY prices.valid_from DESC
          LIMIT 1
        ) AS p
        """);
  }

  /** The same from Datasets. */
  public static Dataset<Row> byLateral(Dataset<Row> orders, Dataset<Row> prices) {
    Dataset<Row> latest =
        prices
            .as("p")
            .where(
                col("p.product_id")
                    .equalTo(col("o.product_id").outer())
                    .and(col("p.valid_from").leq(col("o.order_time").outer())))
            .orderBy(col("p.valid_from").desc())
            .limit(1)
            .select("p.price");
    return orders
        .as("o")
        .lateralJoin(latest.as("p"), lit(true), "left")
        .select("o.order_id", "o.product_id", "o.order_time", "p.price");
  }

  /**
   * Ends each price where the product's next begins, and joins by product and interval. Spark pairs
   * each order with all prices of its product, and then keeps one: good while a product has few.
   * Columns as of {@link #byLateral}.
   */
  public static Dataset<Row> byIntervals(SparkSession spark) {
    return spark.sql(
        """
        WITH intervals AS (
          SELECT *, lead(valid_from) OVER (PARTITION BY product_id ORDER BY valid_from) AS valid_to
          FROM prices
        )
        SELECT o.order_id, o.product_id, o.order_time, p.price
        FROM orders AS o
        LEFT JOIN intervals AS p
          ON p.product_id = o.product_id
          AND p.valid_from <= o.order_time
          AND (o.order_time < p.valid_to OR p.valid_to IS NULL)
        """);
  }

  /** The same from Datasets. */
  public static Dataset<Row> byIntervals(Dataset<Row> orders, Dataset<Row> prices) {
    Column next =
        lead("valid_from", 1).over(Window.partitionBy("product_id").orderBy("valid_from"));
    Dataset<Row> intervals = prices.withColumn("valid_to", next);
    return orders
        .as("o")
        .join(
            intervals.as("p"),
            col("p.product_id")
                .equalTo(col("o.product_id"))
                .and(col("p.valid_from").leq(col("o.order_time")))
                .and(col("o.order_time").lt(col("p.valid_to")).or(col("p.valid_to").isNull())),
            "left")
        .select("o.order_id", "o.product_id", "o.order_time", "p.price");
  }

  /**
   * Puts orders and prices into one list in the order of time, and carries the last price down it:
   * no join at all, each row is looked at once. Columns as of {@link #byLateral}.
   */
  public static Dataset<Row> byWindow(SparkSession spark) {
    return spark.sql(
        """
        WITH timeline AS (
          SELECT product_id, valid_from AS at, 0 AS kind, struct(price) AS known, NULL AS order_id
          FROM prices
          UNION ALL
          SELECT product_id, order_time, 1, NULL, order_id
          FROM orders
        ),
        filled AS (
          SELECT *,
                 last_value(known) IGNORE NULLS OVER (
                   PARTITION BY product_id
                   ORDER BY at, kind -- a price before an order of the same time
                   ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS latest
          FROM timeline
        )
        SELECT order_id, product_id, at AS order_time, latest.price
        FROM filled
        WHERE kind = 1
        """);
  }

  /**
   * The same from Datasets. The price travels in a struct: IGNORE NULLS would step over a price
   * that is NULL itself, and find the one before.
   */
  public static Dataset<Row> byWindow(Dataset<Row> orders, Dataset<Row> prices) {
    Dataset<Row> timeline =
        prices
            .select(
                col("product_id"),
                col("valid_from").as("at"),
                lit(0).as("kind"),
                struct("price").as("known"))
            .unionByName(
                orders.select(
                    col("product_id"),
                    col("order_time").as("at"),
                    lit(1).as("kind"),
                    col("order_id")),
                true);
    WindowSpec untilNow =
        Window.partitionBy("product_id")
            .orderBy("at", "kind")
            .rowsBetween(Window.unboundedPreceding(), Window.currentRow());
    return timeline
        .withColumn("latest", last("known", true).over(untilNow))
        .where("kind = 1")
        .select(
            col("order_id"), col("product_id"), col("at").as("order_time"), col("latest.price"));
  }

  /**
   * How many rows or pairs each way has to look at, counted. One row: {@code lateral BIGINT, … }.
   */
  public static Dataset<Row> looksAt(SparkSession spark) {
    return spark.sql(
        """
        SELECT (SELECT count(DISTINCT order_time) FROM orders) * (SELECT count(*) FROM prices) AS lateral_pairs,
               (SELECT count(*) FROM orders JOIN prices USING (product_id)) AS interval_pairs,
               (SELECT count(*) FROM orders) + (SELECT count(*) FROM prices) AS window_rows
        """);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        AsOfJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW prices AS SELECT * FROM VALUES
                (1L, TIMESTAMP'2025-03-01 00:00:00', 10.00),
                (1L, TIMESTAMP'2025-03-05 12:00:00', 12.00),
                (2L, TIMESTAMP'2025-03-03 00:00:00', 99.00)
                AS prices (product_id, valid_from, price)
              """);
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW orders AS SELECT * FROM VALUES
                (100L, 1L, TIMESTAMP'2025-03-02 09:00:00'),
                (101L, 1L, TIMESTAMP'2025-03-05 11:59:59'),
                (102L, 1L, TIMESTAMP'2025-03-05 12:00:00'),
                (103L, 2L, TIMESTAMP'2025-03-02 10:00:00'),
                (104L, 2L, TIMESTAMP'2025-03-09 10:00:00')
                AS orders (order_id, product_id, order_time)
              """);

          notebook.step("The price at the time of each order");
          notebook.table("prices", spark.table("prices"));
          notebook.table("orders with their price, by window", byWindow(spark).orderBy("order_id"));
          notebook.text(
              "Order 102 comes in the second in which the new price begins, and 103 before product"
                  + " 2 had one.");

          notebook.step("Three ways, the same rows");
          SampleData data = notebook.sampleData(3_000);
          long products = 20;
          data.orders()
              .selectExpr("order_id", "order_id % " + products + " AS product_id", "order_time")
              .createOrReplaceTempView("orders");
          // A new price every ninth day, for each product at another hour.
          spark
              .range(products * 40)
              .selectExpr(
                  "id % 20 AS product_id",
                  "TIMESTAMP'2025-01-03' + make_dt_interval(CAST(id div 20 * 9 AS INT), CAST(id %"
                      + " 20 AS INT)) AS valid_from",
                  "CAST(1 + xxhash64(id) % 500 / 1000 AS DECIMAL(12, 2)) AS price")
              .createOrReplaceTempView("prices");
          Map<String, Dataset<Row>> ways = new LinkedHashMap<>();
          ways.put("lateral", byLateral(spark));
          ways.put("intervals", byIntervals(spark));
          ways.put("window", byWindow(spark));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          ways.forEach((name, way) -> profiles.put(name, QueryProfile.of(way)));
          long different =
              byLateral(spark).exceptAll(byWindow(spark)).count()
                  + byIntervals(spark).exceptAll(byWindow(spark)).count();
          notebook.text(
              "%,d orders, %,d prices; rows in which the ways differ: %d.",
              spark.table("orders").count(), spark.table("prices").count(), different);
          Row looksAt = looksAt(spark).head();
          notebook.chart(
              new Chart("what each way looks at", "rows or pairs")
                  .bar("lateral", looksAt.<Long>getAs("lateral_pairs"))
                  .bar("intervals", looksAt.<Long>getAs("interval_pairs"))
                  .bar("window", looksAt.<Long>getAs("window_rows")));
          notebook.profiles("what each query did", profiles);
          notebook.text(
              "The lateral join keeps every pair that fits in time, of whatever product, and sorts"
                  + " them all; it makes them twice, because a sort of all rows first looks at a"
                  + " sample. The intervals are cheap while a product has few prices. The window"
                  + " sorts each row once, however many there are.");
        });
  }
}
