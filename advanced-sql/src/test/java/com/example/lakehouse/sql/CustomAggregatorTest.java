package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.sql.CustomAggregator.AveragePrice;
import com.example.lakehouse.sql.CustomAggregator.LongestStreak;
import com.example.lakehouse.sql.CustomAggregator.Sale;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.util.HashMap;
import java.util.Map;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class CustomAggregatorTest {

  @BeforeEach
  void register(SparkSession spark) {
    CustomAggregator.register(spark);
  }

  @AfterEach
  void dropFunctions(SparkSession spark) {
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS longest_streak");
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS average_price");
  }

  private static void createDays(SparkSession spark) {
    spark
        .sql(
            """
            SELECT customer_id, CAST(day AS DATE) AS order_date FROM VALUES
              (1L, '2025-12-30'), (1L, '2025-12-31'), (1L, '2025-12-31'), (1L, '2026-01-01'),
              (1L, '2025-12-10'), (1L, '2025-12-12'), (1L, NULL),
              (2L, '2025-06-01'), (2L, '2025-06-03'),
              (3L, NULL)
              AS v (customer_id, day)
            """)
        .createOrReplaceTempView("days");
  }

  /** Customer 1 has three days over New Year, two of them in December. */
  @Test
  void aStreakGoesOverTheYearAndAFilterCutsIt(SparkSession spark) {
    createDays(spark);

    assertThat(CustomAggregator.streaks(spark, "days"))
        .hasSchema("customer_id BIGINT, streak INT, december INT")
        .hasRows(row(1L, 3, 2), row(2L, 1, 0), row(3L, 0, 0));
    assertThat(CustomAggregator.streaks(spark.table("days")))
        .hasSameRowsAs(CustomAggregator.streaks(spark, "days").drop("december"));
  }

  @Test
  void itWorksWhereverAnAggregateDoes(SparkSession spark) {
    createDays(spark);

    assertThat(spark.sql("SELECT longest_streak(order_date) FROM days WHERE customer_id = 9"))
        .hasRows(row(0));
    assertThat(
            spark.sql(
                "SELECT customer_id, longest_streak(DISTINCT order_date) AS s FROM days GROUP BY"
                    + " ROLLUP (customer_id)"))
        .hasRows(row(1L, 3), row(2L, 1), row(3L, 0), row(null, 3));
    assertThat(
            spark.sql(
                "SELECT order_date, longest_streak(order_date) OVER (PARTITION BY customer_id ORDER"
                    + " BY order_date) AS so_far FROM days WHERE customer_id = 2"))
        .hasRows(row(LocalDate.of(2025, 6, 1), 1), row(LocalDate.of(2025, 6, 3), 1));
    assertThat(
            spark.sql(
                "SELECT customer_id FROM days GROUP BY customer_id HAVING"
                    + " longest_streak(order_date) > 1"))
        .hasRows(row(1L));
  }

  @Test
  void typedRowsTakeTheAggregatorAsItIs(SparkSession spark) {
    createDays(spark);

    Dataset<Integer> streak =
        spark
            .sql("SELECT order_date FROM days WHERE order_date IS NOT NULL")
            .as(Encoders.LOCALDATE())
            .select(new LongestStreak().toColumn());

    assertThat(streak.collectAsList()).containsExactly(3);
  }

  /** Java sorts the days of each customer and counts; customer 0 has a tenth of the orders. */
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 7})
  void theStreaksAreThoseOfJavaOnAnyNumberOfPartitions(int partitions, SparkSession spark) {
    Dataset<Row> orders =
        SampleData.of(spark).rows(6_000).skew(0.1).orders().select("customer_id", "order_date");
    Map<Long, Integer> expected =
        orders.collectAsList().stream()
            .collect(
                Collectors.groupingBy(
                    order -> order.getLong(0),
                    TreeMap::new,
                    Collectors.collectingAndThen(
                        Collectors.mapping(
                            order -> order.<LocalDate>getAs(1),
                            Collectors.toCollection(TreeSet::new)),
                        CustomAggregatorTest::longestStreak)));
    assertThat(expected.values()).contains(1, 2).anyMatch(streak -> streak > 4);

    Map<Long, Integer> streaks = new TreeMap<>();
    CustomAggregator.streaks(orders.repartition(partitions))
        .collectAsList()
        .forEach(customer -> streaks.put(customer.getLong(0), customer.getInt(1)));

    assertThat(streaks).isEqualTo(expected);
  }

  private static int longestStreak(SortedSet<LocalDate> days) {
    int longest = 0;
    int length = 0;
    LocalDate previous = null;
    for (LocalDate day : days) {
      length = previous != null && previous.plusDays(1).equals(day) ? length + 1 : 1;
      longest = Math.max(longest, length);
      previous = day;
    }
    return longest;
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 7})
  void thePricesAreThoseOfJavaInSqlAndTyped(int partitions, SparkSession spark) {
    Dataset<Row> items =
        SampleData.of(spark)
            .rows(6_000)
            .orderItems()
            .selectExpr("product_id", "unit_price - order_id % 3 AS price", "quantity")
            .repartition(partitions);
    items.createOrReplaceTempView("items");
    Map<Long, BigDecimal> money = new HashMap<>();
    Map<Long, Long> pieces = new HashMap<>();
    for (Row item : items.collectAsList()) {
      long quantity = item.getInt(2);
      BigDecimal paid = item.getDecimal(1).multiply(BigDecimal.valueOf(quantity));
      money.merge(item.getLong(0), paid, BigDecimal::add);
      pieces.merge(item.getLong(0), quantity, Long::sum);
    }
    Map<Long, BigDecimal> expected = new HashMap<>();
    money.forEach(
        (product, paid) ->
            expected.put(
                product,
                paid.divide(BigDecimal.valueOf(pieces.get(product)), 2, RoundingMode.HALF_UP)));

    Map<Long, BigDecimal> inSql = new HashMap<>();
    spark
        .sql(
            "SELECT product_id, CAST(average_price(price, quantity) AS DECIMAL(12,2)) FROM items"
                + " GROUP BY product_id")
        .collectAsList()
        .forEach(product -> inSql.put(product.getLong(0), product.getDecimal(1)));
    Map<Long, BigDecimal> typed = new HashMap<>();
    MapFunction<Row, Long> product = item -> item.getLong(0);
    MapFunction<Row, Sale> sale = item -> new Sale(item.getDecimal(1), (long) item.getInt(2));
    CustomAggregator.averagePrices(items, product, sale)
        .collectAsList()
        .forEach(average -> typed.put(average._1(), average._2().setScale(2)));

    assertThat(inSql).hasSize(50).isEqualTo(expected);
    assertThat(typed).isEqualTo(expected);
  }

  @Test
  void whatIsNotASaleIsLeftOut(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT k, CAST(average_price(price, quantity) AS DECIMAL(12,2))
                FROM VALUES ('a', 2.00, 3), ('a', 4.00, 1), ('a', NULL, 5), ('a', 9.00, NULL), ('b', NULL, 1)
                  AS v (k, price, quantity)
                GROUP BY k
                """))
        .hasRows(row("a", new BigDecimal("2.50")), row("b", null));
    assertThat(spark.sql("SELECT average_price(1.00, 1) AS price"))
        .hasSchema("price DECIMAL(38,18)");
  }

  /** (3 * 2 + 1 * 4) / (2 + 4) = 1.67 in place of (2 * 3 + 4 * 1) / (3 + 1) = 2.50. */
  @Test
  void argumentsAreTakenInTheOrderOfThePropertiesNames(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT CAST(average_price(quantity, price) AS DECIMAL(12,2))
                FROM VALUES (2.00, 3), (4.00, 1) AS v (price, quantity)
                """))
        .hasRows(row(new BigDecimal("1.67")));
  }

  /** One too many is an internal error; with one too few there is an average, and it is wrong. */
  @Test
  void theNumberOfArgumentsIsNotChecked(SparkSession spark) {
    assertRefused("INTERNAL_ERROR", () -> spark.sql("SELECT average_price(2.00, 3, 4)"));
    assertThat(spark.sql("SELECT average_price(2.00) IS NULL")).hasRowCount(1);
  }

  @Test
  void wrongArgumentsAreRefused(SparkSession spark) {
    createDays(spark);

    assertRefused(
        "DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE", () -> spark.sql("SELECT longest_streak(1)"));
    assertRefused(
        "CAST_INVALID_INPUT",
        () -> spark.sql("SELECT longest_streak('soon') FROM days").collectAsList());
    assertThatThrownBy(
            () -> spark.sql("SELECT longest_streak(DATE'1969-12-31') FROM days").collectAsList())
        .hasRootCauseInstanceOf(IndexOutOfBoundsException.class);
  }

  /** Of 20,000 orders, two customers' and two partitions': four rows, with the days inside. */
  @Test
  void partitionsSendTheirResultsAndNotTheirRows(SparkSession spark) {
    Dataset<Row> orders =
        SampleData.of(spark)
            .rows(60_000)
            .orders()
            .selectExpr("customer_id % 2 AS customer_id", "order_date");

    QueryProfile results = QueryProfile.of(CustomAggregator.streaks(orders));
    QueryProfile rows = QueryProfile.of(orders.repartition(col("customer_id")));

    assertThat(results.plans().toString()).contains("partial_longeststreak");
    assertThat(results.shuffleBytes()).isLessThan(rows.shuffleBytes() / 10);
  }

  @Test
  void theAggregatorIsPlainJava() {
    LongestStreak streak = new LongestStreak();
    LocalDate day = LocalDate.of(2025, 1, 31);

    assertThat(
            streak.finish(
                streak.merge(
                    streak.reduce(streak.zero(), day),
                    streak.reduce(streak.reduce(streak.zero(), null), day.plusDays(1)))))
        .isEqualTo(2);
    assertThat(new AveragePrice().finish(new AveragePrice().zero())).isNull();
  }
}
