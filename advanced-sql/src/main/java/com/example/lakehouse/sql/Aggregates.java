package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.array_join;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.collect_set;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.count_distinct;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.hll_sketch_agg;
import static org.apache.spark.sql.functions.hll_sketch_estimate;
import static org.apache.spark.sql.functions.hll_union_agg;
import static org.apache.spark.sql.functions.median;
import static org.apache.spark.sql.functions.mode;
import static org.apache.spark.sql.functions.sort_array;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.util.sketch.CountMinSketch;

/**
 * Aggregates: FILTER, DISTINCT, lists, modes and percentiles; and sketches, which estimate in a few
 * kilobytes what exactly takes all rows, with an error that is measured here.
 *
 * <p>Run: {@code ./run Aggregates}, or Run in the IDE; no JVM flags, no setup; {@code --scale} for
 * more rows.
 *
 * <p>See: eight orders in one pass; the error of each estimate over 20 days of visitors; sketches
 * of days that add up, where the days' counts do not.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/api/sql/">Spark SQL: built-in functions</a>
 */
public final class Aggregates {

  private Aggregates() {}

  /**
   * Figures of each country in one pass over the orders. The names are not a {@code
   * listagg(DISTINCT …) WITHIN GROUP (…)}: beside another DISTINCT Spark 4.1 fails with a
   * ClassCastException.
   *
   * @return {@code country STRING, orders BIGINT, returned BIGINT, kept DECIMAL} (NULL if none is),
   *     {@code customers BIGINT, names STRING} (sorted), {@code by_amount STRING} (the statuses,
   *     that of the smallest order first), {@code usual_status STRING} (the first by the alphabet
   *     if several are) and {@code median DOUBLE}, of the table or view {@code orders (country,
   *     customer, status, amount)}
   */
  public static Dataset<Row> byCountry(SparkSession spark) {
    return spark.sql(
        """
        SELECT country,
               count(*) AS orders,
               count(*) FILTER (WHERE status = 'returned') AS returned,
               sum(amount) FILTER (WHERE status <> 'returned') AS kept,
               count(DISTINCT customer) AS customers,
               array_join(sort_array(collect_set(customer)), ', ') AS names,
               listagg(status, ', ') WITHIN GROUP (ORDER BY amount, status) AS by_amount,
               mode() WITHIN GROUP (ORDER BY status) AS usual_status,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) AS median
        FROM orders
        GROUP BY country
        """);
  }

  /** The same from a Dataset, which has FILTER and WITHIN GROUP in {@code expr} only. */
  public static Dataset<Row> byCountry(Dataset<Row> orders) {
    return orders
        .groupBy("country")
        .agg(
            count("*").as("orders"),
            count(when(col("status").equalTo("returned"), 1)).as("returned"),
            sum(when(col("status").notEqual("returned"), col("amount"))).as("kept"),
            count_distinct(col("customer")).as("customers"),
            array_join(sort_array(collect_set("customer")), ", ").as("names"),
            expr("listagg(status, ', ') WITHIN GROUP (ORDER BY amount, status)").as("by_amount"),
            mode(col("status"), true).as("usual_status"),
            median(col("amount")).as("median"));
  }

  /**
   * How many different visitors each day had, by four estimates. An exact {@code count(DISTINCT
   * visitor)} belongs in another query: in the same one Spark makes sketches for each day and
   * visitor, not for each day.
   *
   * @return {@code day DATE} and BIGINTs: {@code approx} with a standard error of 5 % at most,
   *     {@code approx_1} of 1 %; {@code hll} and {@code theta} of about 1.6 %; of the table or view
   *     {@code visits (day DATE, visitor BIGINT)}
   */
  public static Dataset<Row> distinctEstimates(SparkSession spark) {
    return spark.sql(
        """
        SELECT day,
               approx_count_distinct(visitor) AS approx,
               approx_count_distinct(visitor, 0.01) AS approx_1,
               hll_sketch_estimate(hll_sketch_agg(visitor)) AS hll,
               theta_sketch_estimate(theta_sketch_agg(visitor)) AS theta
        FROM visits
        GROUP BY day
        """);
  }

  /**
   * The value below which half of all are, then nine tenths, then 99 of a hundred: exactly and by
   * two estimates, whose error is one of rank. {@code approx_percentile} is off by no more than one
   * in 10,000 places, its third argument; the KLL sketch by about 1 %.
   *
   * @return one row of arrays: {@code exact ARRAY<DOUBLE>, approx ARRAY<BIGINT>, kll
   *     ARRAY<BIGINT>}, of the table or view {@code requests (millis BIGINT)}
   */
  public static Dataset<Row> percentiles(SparkSession spark) {
    return spark.sql(
        """
        SELECT percentile(millis, array(0.5, 0.9, 0.99)) AS exact,
               approx_percentile(millis, array(0.5, 0.9, 0.99), 10000) AS approx,
               kll_sketch_get_quantile_bigint(
                 kll_sketch_agg_bigint(millis), array(0.5D, 0.9D, 0.99D)) AS kll
        FROM requests
        """);
  }

  /**
   * One sketch of each day's visitors, to be kept: {@code day DATE, visitors BINARY}, of {@code
   * visits (day DATE, visitor BIGINT)}.
   */
  public static Dataset<Row> dailySketches(SparkSession spark) {
    return spark.sql("SELECT day, hll_sketch_agg(visitor) AS visitors FROM visits GROUP BY day");
  }

  /** The same from a Dataset. */
  public static Dataset<Row> dailySketches(Dataset<Row> visits) {
    return visits.groupBy("day").agg(hll_sketch_agg("visitor").as("visitors"));
  }

  /**
   * How many different visitors all days had together, from the days' sketches alone.
   *
   * @param sketches as of {@link #dailySketches}
   * @return one row: {@code visitors BIGINT}, an estimate
   */
  public static Dataset<Row> visitors(Dataset<Row> sketches) {
    return sketches.agg(hll_sketch_estimate(hll_union_agg("visitors")).as("visitors"));
  }

  /**
   * The five products that were sold most often, an estimate that is exact while there are fewer
   * than 10,000 products.
   *
   * @return {@code item BIGINT, count BIGINT} of the table or view {@code order_items (product_id
   *     BIGINT)}
   */
  public static Dataset<Row> mostSold(SparkSession spark) {
    return spark.sql("SELECT inline(approx_top_k(product_id, 5)) FROM order_items");
  }

  /**
   * A sketch that estimates how often any one value is there: never too few, and with a probability
   * of 99 % too many by no more than a thousandth of all rows.
   *
   * @param values with {@code value BIGINT}
   */
  public static CountMinSketch frequencies(Dataset<Row> values) throws IOException {
    byte[] sketch = values.selectExpr("count_min_sketch(value, 0.001D, 0.99D, 42)").head().getAs(0);
    return CountMinSketch.readFrom(new ByteArrayInputStream(sketch));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Aggregates.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW orders AS SELECT * FROM VALUES
                ('DE', 'Ada',   'delivered', 10.00),
                ('DE', 'Ada',   'returned',  30.00),
                ('DE', 'Emmy',  'delivered', 20.00),
                ('DE', 'Emmy',  'delivered', 80.00),
                ('FR', 'Grace', 'returned',  50.00),
                ('FR', 'Grace', 'delivered', 70.00),
                ('IT', 'Radia', 'returned',  40.00),
                ('IT', NULL,    'returned',   5.00)
                AS orders (country, customer, status, amount)
              """);
          notebook.step("One pass, many figures");
          notebook.table("orders", spark.table("orders"));
          notebook.table("each country", byCountry(spark).orderBy("country"));
          notebook.text(
              "No order of IT was kept: a sum of no rows is NULL, where a count is 0. A customer"
                  + " who is NULL is in no count of customers and in no list.");

          notebook.step("How many different visitors: estimates, and how far off they are");
          // 10,000 different visitors a day in 12,000 visits, half of them the next day's too.
          spark
              .range(240_000)
              .selectExpr("id % 20 AS d", "id % 20 * 5000 + id div 20 % 10000 AS visitor")
              .selectExpr("date_add(DATE'2025-03-01', CAST(d AS INT)) AS day", "visitor")
              .createOrReplaceTempView("visits");
          Dataset<Row> estimates = distinctEstimates(spark).cache();
          notebook.table(
              "the first days; exactly, each has 10,000", estimates.orderBy("day").limit(4));
          Chart errors = new Chart("root mean square error of 20 days", "%");
          for (String way : List.of("approx", "approx_1", "hll", "theta")) {
            errors.bar(
                way,
                estimates
                    .selectExpr("round(100 * sqrt(avg(pow(%s / 10000 - 1, 2))), 2)".formatted(way))
                    .head()
                    .getDouble(0));
          }
          notebook.chart(errors);
          estimates.unpersist();

          notebook.step("Sketches add up; distinct counts do not");
          notebook.table(
              "all 20 days",
              visitors(dailySketches(spark))
                  .selectExpr(
                      "(SELECT sum(n) FROM (SELECT count(DISTINCT visitor) AS n FROM visits GROUP"
                          + " BY day)) AS sum_of_daily_counts",
                      "visitors AS of_merged_sketches",
                      "(SELECT count(DISTINCT visitor) FROM visits) AS exact"));
          notebook.table(
              "a day's sketch, in bytes",
              dailySketches(spark).selectExpr("max(length(visitors)) AS hll_sketch"));

          notebook.step("Percentiles");
          // Every number of milliseconds once, in no order.
          long requests = notebook.sampleData(50_000).orderItemCount();
          spark
              .range(requests)
              .selectExpr("pmod(id * 7919, %dL) AS millis".formatted(requests))
              .createOrReplaceTempView("requests");
          notebook.table(
              "median, 90th and 99th percentile of 0 to %,d ms".formatted(requests - 1),
              percentiles(spark));

          notebook.step("What is frequent");
          notebook.sampleData(20_000).orderItems().createOrReplaceTempView("order_items");
          notebook.table("the products sold most often", mostSold(spark));
          CountMinSketch frequencies =
              frequencies(spark.table("order_items").selectExpr("product_id AS value"));
          notebook.text(
              "By the count-min sketch product 0 was sold %,d times; exactly, %,d.",
              frequencies.estimateCount(0L),
              spark.table("order_items").where("product_id = 0").count());

          notebook.step("What is refused");
          notebook.refused(
              "A list of DISTINCT values in the order of something else",
              "INVALID_WITHIN_GROUP_EXPRESSION.MISMATCH_WITH_DISTINCT_INPUT",
              () ->
                  spark.sql(
                      "SELECT listagg(DISTINCT customer, ', ') WITHIN GROUP (ORDER BY amount) FROM"
                          + " orders"));
          notebook.refused(
              "A union of sketches of two sizes",
              "HLL_UNION_DIFFERENT_LG_K",
              () ->
                  spark
                      .sql(
                          "SELECT hll_union(hll_sketch_agg(visitor, 10), hll_sketch_agg(visitor,"
                              + " 12)) FROM visits")
                      .collectAsList());
        });
  }
}
