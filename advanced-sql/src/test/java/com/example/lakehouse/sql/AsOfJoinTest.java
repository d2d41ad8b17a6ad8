package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assertions.assertAll;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.function.BiConsumer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.joins.BroadcastHashJoinExec;
import org.apache.spark.sql.execution.joins.BroadcastNestedLoopJoinExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

@SparkTest
class AsOfJoinTest {
  private static final Instant START = Instant.parse("2025-03-01T00:00:00Z");
  private static final String ORDERS = "order_id BIGINT, product_id BIGINT, order_time TIMESTAMP";
  private static final String PRICES =
      "product_id BIGINT, valid_from TIMESTAMP, price DECIMAL(12,2)";

  private final List<Row> orders = new ArrayList<>();
  private final List<Row> prices = new ArrayList<>();
  private final List<Row> expected = new ArrayList<>();

  /** Times are few, so that many orders and prices meet at the same one. */
  @BeforeEach
  void generate(SparkSession spark, Sandbox sandbox) {
    Random random = new Random(11);
    Map<Long, TreeMap<Instant, BigDecimal>> history = new HashMap<>();
    for (long product = 0; product < 8; product++) {
      history.put(product, new TreeMap<>());
    }
    for (int i = 0; i < 160; i++) {
      BigDecimal price =
          random.nextInt(10) == 0 ? null : BigDecimal.valueOf(random.nextInt(9_999), 2);
      history
          .get((long) random.nextInt(7)) // product 7 never has one
          .put(START.plusSeconds(600L * random.nextInt(200)), price);
    }
    history.forEach(
        (product, byTime) ->
            byTime.forEach((from, price) -> prices.add(row(product, from, price))));
    for (long id = 0; id < 300; id++) {
      orders.add(
          row(id, (long) random.nextInt(8), START.plusSeconds(600L * random.nextInt(200) - 3_000)));
    }
    for (Row order : orders) {
      Map.Entry<Instant, BigDecimal> valid =
          history.get(order.getLong(1)).floorEntry(order.<Instant>getAs(2));
      expected.add(
          row(order.get(0), order.get(1), order.get(2), valid == null ? null : valid.getValue()));
    }
    createViews(spark, orders, prices);
  }

  private static void createViews(SparkSession spark, List<Row> orders, List<Row> prices) {
    Views.view(spark, "orders", ORDERS, orders);
    Views.view(spark, "prices", PRICES, prices);
  }

  /** Checks all ways, and names each that fails. */
  private static void assertEachWay(SparkSession spark, BiConsumer<String, Dataset<Row>> check) {
    assertAll(
        ways(spark).entrySet().stream()
            .<Executable>map(way -> () -> check.accept(way.getKey(), way.getValue())));
  }

  private static Map<String, Dataset<Row>> ways(SparkSession spark) {
    Dataset<Row> orders = spark.table("orders");
    Dataset<Row> prices = spark.table("prices");
    Map<String, Dataset<Row>> ways = new LinkedHashMap<>();
    ways.put("lateral", AsOfJoin.byLateral(spark));
    ways.put("lateral, Datasets", AsOfJoin.byLateral(orders, prices));
    ways.put("intervals", AsOfJoin.byIntervals(spark));
    ways.put("intervals, Datasets", AsOfJoin.byIntervals(orders, prices));
    ways.put("window", AsOfJoin.byWindow(spark));
    ways.put("window, Datasets", AsOfJoin.byWindow(orders, prices));
    return ways;
  }

  @Test
  void eachWayFindsThePriceThatATreeMapFinds(SparkSession spark) {
    // The data has what is hard: equal times, prices that are NULL, orders before the first price.
    assertThat(prices).anyMatch(price -> price.isNullAt(2));
    assertThat(orders)
        .anyMatch(
            order ->
                prices.stream()
                    .anyMatch(
                        price ->
                            price.get(0).equals(order.get(1))
                                && price.get(1).equals(order.get(2))));

    assertEachWay(
        spark,
        (name, way) ->
            assertThat(way)
                .as(name)
                .hasSchema(ORDERS + ", price DECIMAL(12,2)")
                .hasRows(expected.toArray(Row[]::new)));
  }

  @Test
  void theWindowLooksAtEachRowOnceWithoutAJoin(SparkSession spark) {
    QueryProfile window = QueryProfile.of(AsOfJoin.byWindow(spark));

    assertThat(window.joins()).isEmpty();
    assertThat(window.exchanges()).isEqualTo(Map.of("hash", 1));
    assertThat(AsOfJoin.looksAt(spark).select("window_rows"))
        .hasRows(row((long) orders.size() + prices.size()));
  }

  @Test
  void theIntervalsPairAnOrderWithThePricesOfItsProductByKey(SparkSession spark) {
    long pairs =
        orders.stream()
            .mapToLong(order -> prices.stream().filter(p -> p.get(0).equals(order.get(1))).count())
            .sum();
    assertThat(AsOfJoin.looksAt(spark).select("interval_pairs")).hasRows(row(pairs));

    QueryProfile intervals = QueryProfile.of(AsOfJoin.byIntervals(spark));
    assertThat(intervals.joins()).containsExactly("BroadcastHashJoin");

    // One row for each order leaves the join.
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    assertThat(PlanRows.of(AsOfJoin.byIntervals(spark), BroadcastHashJoinExec.class))
        .isEqualTo(orders.size());
  }

  @Test
  void theLateralJoinPairsEveryTimeWithThePricesOfAllProducts(SparkSession spark) {
    List<Object> times = orders.stream().map(order -> order.get(2)).distinct().toList();
    assertThat(AsOfJoin.looksAt(spark).select("lateral_pairs"))
        .hasRows(row((long) times.size() * prices.size()));
    assertThat(QueryProfile.of(AsOfJoin.byLateral(spark)).joins())
        .containsExactlyInAnyOrder("BroadcastHashJoin", "BroadcastNestedLoopJoin");

    // What passes the inequality is kept and sorted, whatever its product.
    long kept =
        times.stream()
            .mapToLong(
                time ->
                    prices.stream()
                        .filter(price -> !price.<Instant>getAs(1).isAfter((Instant) time))
                        .count())
            .sum();
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    assertThat(PlanRows.of(AsOfJoin.byLateral(spark), BroadcastNestedLoopJoinExec.class))
        // Twice: the ORDER BY sorts all of them by range, and ranges are found by a first run.
        .isEqualTo(2 * kept)
        .isGreaterThan(70L * orders.size());
  }

  @Test
  void aPriceThatBeginsInTheOrdersSecondIsValidAndOneASecondLaterIsNot(SparkSession spark) {
    createViews(
        spark,
        List.of(
            row(1L, 1L, START),
            row(2L, 1L, START.plusSeconds(9)),
            row(3L, 1L, START.plusSeconds(10))),
        List.of(
            row(1L, START, new BigDecimal("1.00")),
            row(1L, START.plusSeconds(10), new BigDecimal("2.00"))));

    assertEachWay(
        spark,
        (name, way) ->
            assertThat(way.select("order_id", "price"))
                .as(name)
                .hasRows(
                    row(1L, new BigDecimal("1.00")),
                    row(2L, new BigDecimal("1.00")),
                    row(3L, new BigDecimal("2.00"))));
  }

  @Test
  void twoPricesAtOneTimeStillGiveEachOrderOneRow(SparkSession spark) {
    createViews(
        spark,
        List.of(row(1L, 1L, START.plusSeconds(5))),
        List.of(row(1L, START, new BigDecimal("1.00")), row(1L, START, new BigDecimal("2.00"))));

    // Which of the two is chance.
    assertEachWay(spark, (name, way) -> assertThat(way).as(name).hasRowCount(1));
  }

  @Test
  void ignoreNullsWithoutAStructStepsOverAPriceThatIsNull(SparkSession spark) {
    createViews(
        spark,
        List.of(row(1L, 1L, START.plusSeconds(20))),
        List.of(row(1L, START, new BigDecimal("1.00")), row(1L, START.plusSeconds(10), null)));

    assertEachWay(
        spark, (name, way) -> assertThat(way.select("price")).as(name).hasRows(row((Object) null)));
    assertThat(
            spark.sql(
                """
                SELECT last_value(price) IGNORE NULLS OVER (PARTITION BY product_id ORDER BY at) AS price
                FROM (SELECT product_id, valid_from AS at, price FROM prices
                      UNION ALL SELECT product_id, order_time, NULL FROM orders)
                ORDER BY at DESC LIMIT 1
                """))
        .hasRows(row(new BigDecimal("1.00")));
  }
}
