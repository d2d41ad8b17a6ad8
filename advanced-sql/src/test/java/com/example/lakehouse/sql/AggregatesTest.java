package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.aggregate.ObjectHashAggregateExec;
import org.apache.spark.util.sketch.CountMinSketch;
import org.junit.jupiter.api.Test;

@SparkTest
class AggregatesTest {
  private static final long VISITORS_A_DAY = 10_000;

  private static Dataset<Row> orders(SparkSession spark) {
    Dataset<Row> orders =
        spark.sql(
            """
            SELECT * FROM VALUES
              ('DE', 'Emmy', 'delivered', 10.00), ('DE', 'Ada', 'returned', 30.00),
              ('DE', 'Ada', 'delivered', 20.00), ('DE', 'Emmy', 'delivered', 80.00),
              ('FR', 'Grace', 'returned', 50.00), ('FR', 'Grace', 'delivered', 70.00),
              ('IT', 'Radia', 'returned', 40.00), ('IT', NULL, 'returned', 5.00)
              AS orders (country, customer, status, amount)
            """);
    orders.createOrReplaceTempView("orders");
    return orders;
  }

  /** 20 days; a day has half of its visitors from the day before. */
  private static Dataset<Row> visits(SparkSession spark) {
    Dataset<Row> visits =
        spark
            .range(240_000)
            .selectExpr(
                "date_add(DATE'2025-03-01', CAST(id % 20 AS INT)) AS day",
                "id % 20 * 5000 + id div 20 % 10000 AS visitor");
    visits.createOrReplaceTempView("visits");
    return visits;
  }

  @Test
  void onePassHasAllFiguresOfACountry(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> orders = orders(spark);
    Row[] expected = {
      row(
          "DE",
          4L,
          1L,
          new BigDecimal("110.00"),
          2L,
          "Ada, Emmy",
          "delivered, delivered, returned, delivered",
          "delivered",
          25.0),
      // Delivered and returned once each: the first by the alphabet.
      row(
          "FR",
          2L,
          1L,
          new BigDecimal("70.00"),
          1L,
          "Grace",
          "returned, delivered",
          "delivered",
          60.0),
      row("IT", 2L, 2L, null, 1L, "Radia", "returned, returned", "returned", 22.5)
    };

    assertThat(Aggregates.byCountry(spark)).hasRows(expected);
    assertThat(Aggregates.byCountry(orders)).hasRows(expected);
  }

  @Test
  void aThousandOrdersGiveWhatPlainJavaComputes(SparkSession spark, Sandbox sandbox) {
    SampleData data = SampleData.of(spark).rows(3_000);
    Dataset<Row> generated =
        data.orders()
            .join(data.customers(), "customer_id")
            .selectExpr(
                "country",
                "IF(customer_id % 10 = 0, NULL, 'c' || customer_id % 30) AS customer",
                "status",
                "amount");
    generated.createOrReplaceTempView("orders");
    List<Row> expected = new ArrayList<>();
    generated.collectAsList().stream()
        .collect(Collectors.groupingBy(order -> order.getString(0)))
        .forEach((country, orders) -> expected.add(figures(country, orders)));

    assertThat(Aggregates.byCountry(spark)).hasRows(expected.toArray(Row[]::new));
    assertThat(Aggregates.byCountry(generated)).hasRows(expected.toArray(Row[]::new));
  }

  private static Row figures(String country, List<Row> orders) {
    List<Row> kept =
        orders.stream().filter(order -> !order.getString(2).equals("returned")).toList();
    TreeSet<String> names = new TreeSet<>();
    orders.stream().map(order -> order.getString(1)).filter(Objects::nonNull).forEach(names::add);
    Map<String, Long> statuses =
        orders.stream()
            .collect(
                Collectors.groupingBy(
                    order -> order.getString(2), TreeMap::new, Collectors.counting()));
    long most = statuses.values().stream().max(Comparator.naturalOrder()).orElseThrow();
    String usual =
        statuses.entrySet().stream()
            .filter(status -> status.getValue() == most)
            .findFirst()
            .orElseThrow()
            .getKey();
    double[] amounts =
        orders.stream().mapToDouble(order -> order.getDecimal(3).doubleValue()).sorted().toArray();
    int middle = amounts.length / 2;
    double median =
        amounts.length % 2 == 1
            ? amounts[middle]
            // As Spark interpolates.
            : 0.5 * amounts[middle - 1] + 0.5 * amounts[middle];
    return row(
        country,
        (long) orders.size(),
        (long) orders.size() - kept.size(),
        kept.stream().map(order -> order.getDecimal(3)).reduce(BigDecimal::add).orElse(null),
        (long) names.size(),
        String.join(", ", names),
        orders.stream()
            .sorted(
                Comparator.comparing((Row order) -> order.getDecimal(3))
                    .thenComparing(order -> order.getString(2)))
            .map(order -> order.getString(2))
            .collect(Collectors.joining(", ")),
        usual,
        median);
  }

  @Test
  void nullIsInNoAverageAndInNoDistinctCountNotEvenBesideAnother(
      SparkSession spark, Sandbox sandbox) {
    assertThat(
            spark.sql(
                """
                SELECT avg(x) AS average, sum(x) / count(*) AS over_all_rows,
                       count(DISTINCT x) AS xs, count(DISTINCT x, y) AS pairs,
                       count(DISTINCT struct(x, y)) AS structs
                FROM VALUES (1, NULL), (1, 2), (4, NULL), (NULL, NULL) AS v (x, y)
                """))
        .hasRows(row(2.0, 1.5, 2L, 1L, 4L));
  }

  @Test
  void anEstimateErrsByAboutWhatIsPromised(SparkSession spark, Sandbox sandbox) {
    visits(spark);
    assertThat(
            spark.sql(
                "SELECT DISTINCT n FROM (SELECT count(DISTINCT visitor) AS n FROM visits GROUP BY"
                    + " day)"))
        .hasRows(row(VISITORS_A_DAY));

    List<Row> days = Aggregates.distinctEstimates(spark).collectAsList();

    assertThat(days).hasSize(20);
    assertThat(error(days, "approx")).isBetween(0.02, 0.06);
    assertThat(error(days, "approx_1")).isBetween(0.001, 0.012);
    assertThat(error(days, "hll")).isBetween(0.005, 0.025);
    assertThat(error(days, "theta")).isBetween(0.005, 0.025);
  }

  @Test
  void aSketchBesideADistinctCountIsMadeForEachVisitor(SparkSession spark, Sandbox sandbox) {
    // Two tasks, each with 500 visitors on two days.
    spark
        .range(0, 2_000, 1, 2)
        .selectExpr(
            "date_add(DATE'2025-03-01', CAST(id % 2 AS INT)) AS day", "id div 2 % 500 AS visitor")
        .createOrReplaceTempView("visits");
    String sketch = "SELECT day, hll_sketch_agg(visitor) AS sketch%s FROM visits GROUP BY day";
    spark.conf().set("spark.sql.adaptive.enabled", "false");

    // Rows that carry a sketch: one for each day from each task, and one for each day.
    assertThat(PlanRows.of(spark.sql(sketch.formatted("")), ObjectHashAggregateExec.class))
        .isEqualTo(6);
    assertThat(
            PlanRows.of(
                spark.sql(sketch.formatted(", count(DISTINCT visitor) AS exact")),
                ObjectHashAggregateExec.class))
        .isGreaterThan(3_000);
  }

  /**
   * Should this fail one day, the error is mended, and {@link Aggregates#byCountry} can say {@code
   * listagg(DISTINCT customer, ', ') WITHIN GROUP (ORDER BY customer)}.
   */
  @Test
  void anOrderedListOfDistinctValuesFailsBesideAnotherDistinct(
      SparkSession spark, Sandbox sandbox) {
    orders(spark);
    String names = "listagg(DISTINCT customer, ', ') WITHIN GROUP (ORDER BY customer)";

    assertThat(spark.sql("SELECT " + names + " FROM orders"))
        .hasRows(row("Ada, Emmy, Grace, Radia"));
    assertThatThrownBy(
            () ->
                spark
                    .sql("SELECT count(DISTINCT customer), " + names + " FROM orders")
                    .collectAsList())
        .hasStackTraceContaining("ClassCastException")
        .hasStackTraceContaining("SortOrder");
  }

  /** Root mean square, as a share. */
  private static double error(List<Row> days, String way) {
    return Math.sqrt(
        days.stream()
            .mapToDouble(day -> Math.pow((double) day.<Long>getAs(way) / VISITORS_A_DAY - 1, 2))
            .average()
            .orElseThrow());
  }

  @Test
  void mergedSketchesCountAVisitorOfTwoDaysOnce(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> visits = visits(spark);
    Dataset<Row> sketches = Aggregates.dailySketches(spark);
    // 10,000 of the first day, and 5,000 new ones of each other.
    long exact = 105_000;

    assertThat(sketches).hasSchema("day DATE, visitors BINARY").hasRowCount(20);
    double merged = Aggregates.visitors(sketches).head().<Long>getAs("visitors");
    assertThat(merged).isCloseTo((double) exact, within(exact * 0.05));
    double sum = sketches.selectExpr("sum(hll_sketch_estimate(visitors))").head().getLong(0);
    assertThat(sum).isCloseTo(200_000, within(200_000 * 0.05));
    assertThat(
            (double)
                Aggregates.visitors(Aggregates.dailySketches(visits))
                    .head()
                    .<Long>getAs("visitors"))
        .isCloseTo((double) exact, within(exact * 0.05));
    // However many visits it has seen.
    assertThat(sketches.selectExpr("max(length(visitors)) < 4200")).hasRows(row(true));
  }

  @Test
  void anEstimatedPercentileIsOffByAFewPlaces(SparkSession spark, Sandbox sandbox) {
    // 0 to 49,999, each once, in no order: a value is its own rank.
    spark
        .range(50_000)
        .selectExpr("pmod(id * 7919, 50000) AS millis")
        .createOrReplaceTempView("requests");

    Row percentiles = Aggregates.percentiles(spark).head();

    List<Double> exact = percentiles.getList(0);
    List<Long> approx = percentiles.getList(1);
    List<Long> kll = percentiles.getList(2);
    double[] shares = {0.5, 0.9, 0.99};
    for (int i = 0; i < shares.length; i++) {
      assertThat(exact.get(i)).isCloseTo(49_999 * shares[i], within(0.001));
      assertThat((double) approx.get(i)).isCloseTo(50_000 * shares[i], within(6.0));
      // Its bound is 1.3 % in 99 cases of 100, and it is not the same twice: it throws coins.
      assertThat((double) kll.get(i)).isCloseTo(50_000 * shares[i], within(50_000 * 0.03));
    }
    assertThat(kll).as("estimates").isNotEqualTo(approx);
  }

  @Test
  void theMostSoldProductsAreThoseThatPlainJavaCounts(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> items = SampleData.of(spark).rows(20_000).orderItems();
    items.createOrReplaceTempView("order_items");
    Map<Long, Long> sold =
        items.select("product_id").collectAsList().stream()
            .collect(Collectors.groupingBy(item -> item.getLong(0), Collectors.counting()));

    assertThat(Aggregates.mostSold(spark))
        .hasRowsInOrder(
            sold.entrySet().stream()
                .sorted(Map.Entry.<Long, Long>comparingByValue().reversed())
                .limit(5)
                .map(product -> row(product.getKey(), product.getValue()))
                .toArray(Row[]::new));
  }

  @Test
  void aCountMinSketchNeverSaysTooFewAndSeldomMuchTooMany(SparkSession spark, Sandbox sandbox)
      throws IOException {
    // 5,000 values, more than the sketch has columns: value v is there v % 8 times.
    Dataset<Row> values =
        spark.sql(
            "SELECT id AS value FROM range(5000), LATERAL explode(array_repeat(0, CAST(id % 8 AS"
                + " INT)))");
    CountMinSketch sketch = Aggregates.frequencies(values);

    assertThat(sketch.totalCount()).isEqualTo(values.count()).isEqualTo(17_500);
    List<Long> surplus = new ArrayList<>();
    for (long value = 0; value < 5_000; value++) {
      surplus.add(sketch.estimateCount(value) - value % 8);
    }
    assertThat(surplus).allMatch(s -> s >= 0).anyMatch(s -> s > 0);
    assertThat(surplus.stream().filter(s -> s > 17)).hasSizeLessThan(50);
  }

  @Test
  void anAggregateThatMakesNoSenseIsRefused(SparkSession spark, Sandbox sandbox) {
    orders(spark);
    assertRefused(
        "INVALID_WITHIN_GROUP_EXPRESSION.MISMATCH_WITH_DISTINCT_INPUT",
        () ->
            spark.sql(
                "SELECT listagg(DISTINCT customer, ', ') WITHIN GROUP (ORDER BY amount) FROM"
                    + " orders"));
    // Numbers are listed as text, and ordered as text too: so this is something else.
    assertRefused(
        "INVALID_WITHIN_GROUP_EXPRESSION.MISMATCH_WITH_DISTINCT_INPUT",
        () ->
            spark.sql(
                "SELECT listagg(DISTINCT amount, ', ') WITHIN GROUP (ORDER BY amount) FROM"
                    + " orders"));
    assertRefused(
        "INVALID_WITHIN_GROUP_EXPRESSION.WITHIN_GROUP_MISSING",
        () -> spark.sql("SELECT percentile_cont(0.5) FROM orders"));
    assertRefused(
        "INVALID_AGGREGATE_FILTER.NOT_BOOLEAN",
        () -> spark.sql("SELECT sum(amount) FILTER (WHERE status) FROM orders"));
    assertRefused(
        "HLL_UNION_DIFFERENT_LG_K",
        () ->
            spark
                .sql(
                    "SELECT hll_union(hll_sketch_agg(customer, 10), hll_sketch_agg(customer, 12))"
                        + " FROM orders")
                .collectAsList());
    assertRefused(
        "ARITHMETIC_OVERFLOW",
        () ->
            spark
                .sql("SELECT sum(x) FROM VALUES (9223372036854775807L), (1L) AS v (x)")
                .collectAsList());
  }
}
