package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static java.util.stream.Collectors.counting;
import static java.util.stream.Collectors.groupingBy;
import static java.util.stream.Collectors.mapping;
import static java.util.stream.Collectors.reducing;
import static java.util.stream.Collectors.toCollection;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.Instant;
import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

/** What the queries say of the generated shop is what a Java program makes of its rows. */
@SparkTest
class CustomerAnalyticsTest {
  private static final LocalDate DAY = LocalDate.of(2026, 1, 1);

  /** Writes the table and gives its rows. */
  private static List<Row> table(String name, Dataset<Row> rows) {
    rows.write().saveAsTable(name);
    return rows.sparkSession().table(name).collectAsList();
  }

  private static SampleData shop(SparkSession spark) {
    return SampleData.of(spark).rows(3_000);
  }

  @Test
  void rfmScoresAreThoseOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Map<Long, List<Row>> orders =
        table("orders", shop(spark).orders()).stream()
            .filter(o -> !List.of("cancelled", "returned").contains(o.<String>getAs("status")))
            .collect(groupingBy(o -> o.<Long>getAs("customer_id")));
    Map<Long, Integer> recency = new HashMap<>();
    Map<Long, Long> frequency = new HashMap<>();
    Map<Long, BigDecimal> monetary = new HashMap<>();
    orders.forEach(
        (customer, theirs) -> {
          LocalDate last =
              theirs.stream()
                  .map(o -> o.<LocalDate>getAs("order_date"))
                  .max(Comparator.naturalOrder())
                  .orElseThrow();
          recency.put(customer, (int) ChronoUnit.DAYS.between(last, DAY));
          frequency.put(customer, (long) theirs.size());
          monetary.put(
              customer,
              theirs.stream()
                  .map(o -> o.<BigDecimal>getAs("amount"))
                  .reduce(BigDecimal.ZERO, BigDecimal::add));
        });
    List<Row> expected = new ArrayList<>();
    for (Long customer : orders.keySet()) {
      int r = 5 - fifthsBelow(recency, customer);
      int f = 1 + fifthsBelow(frequency, customer);
      int m = 1 + fifthsBelow(monetary, customer);
      String segment;
      if (r >= 4 && f >= 4) {
        segment = "champions";
      } else if (r >= 3) {
        segment = f >= 3 ? "loyal" : "recent";
      } else {
        segment = f >= 3 ? "at risk" : "lost";
      }
      expected.add(
          row(
              customer,
              recency.get(customer),
              frequency.get(customer),
              monetary.get(customer),
              r,
              f,
              m,
              segment));
    }

    Dataset<Row> rfm = CustomerAnalytics.rfm(spark, DAY);

    assertThat(expected).hasSizeGreaterThan(80);
    assertThat(expected.stream().map(e -> e.getString(7)).distinct())
        .as("every segment is there")
        .hasSize(5);
    assertThat(rfm)
        .hasSchema(
            "customer_id BIGINT, recency INT, frequency BIGINT, monetary DECIMAL(22,2), r INT, f"
                + " INT, m INT, segment STRING")
        .hasRows(expected.toArray(Row[]::new));
    assertThat(CustomerAnalytics.rfmInJava(spark, DAY)).hasSameRowsAs(rfm);
  }

  /** How many of the four bounds between the fifths lie below a customer's value. */
  private static <T extends Comparable<T>> int fifthsBelow(Map<Long, T> values, Long customer) {
    List<T> sorted = values.values().stream().sorted().toList();
    int below = 0;
    for (int fifth = 1; fifth <= 4; fifth++) {
      T bound = sorted.get((fifth * sorted.size() + 4) / 5 - 1);
      below += values.get(customer).compareTo(bound) > 0 ? 1 : 0;
    }
    return below;
  }

  @Test
  void equalCustomersHaveEqualScores(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE orders AS
        SELECT id AS order_id, id AS customer_id, DATE'2025-06-01' AS order_date,
          'delivered' AS status, CAST(10 AS DECIMAL(12,2)) AS amount
        FROM range(7)
        """);

    assertThat(CustomerAnalytics.rfm(spark, DAY).select("r", "f", "m", "segment").distinct())
        .hasRows(row(5, 1, 1, "recent"));
  }

  @Test
  void retentionIsThatOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Map<Long, TreeSet<LocalDate>> months =
        table("orders", shop(spark).orders()).stream()
            .collect(
                groupingBy(
                    o -> o.<Long>getAs("customer_id"),
                    mapping(
                        o -> o.<LocalDate>getAs("order_date").withDayOfMonth(1),
                        toCollection(TreeSet::new))));
    Map<LocalDate, TreeMap<Integer, Long>> counts = new TreeMap<>();
    months
        .values()
        .forEach(
            active ->
                active.forEach(
                    month ->
                        counts
                            .computeIfAbsent(active.first(), cohort -> new TreeMap<>())
                            .merge(
                                (int) ChronoUnit.MONTHS.between(active.first(), month),
                                1L,
                                Long::sum)));
    List<Row> expected = new ArrayList<>();
    counts.forEach(
        (cohort, later) ->
            later.forEach(
                (month, customers) ->
                    expected.add(
                        row(cohort, month, customers, (double) customers / later.get(0)))));

    Dataset<Row> retention = CustomerAnalytics.retention(spark);

    assertThat(expected).hasSizeGreaterThan(30);
    assertThat(retention)
        .hasSchema("cohort DATE, months_later INT, customers BIGINT, share DOUBLE")
        .hasRows(expected.toArray(Row[]::new));
    assertThat(CustomerAnalytics.retentionInJava(spark)).hasSameRowsAs(retention);
  }

  @Test
  void theFunnelIsThatOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Map<List<Long>, List<Row>> visits =
        table("events", shop(spark).late(0.1).duplicates(0.1).events()).stream()
            .collect(groupingBy(e -> List.of(e.getLong(1), e.getLong(2))));
    long[] steps = new long[3];
    for (List<Row> visit : visits.values()) {
      Instant at = Instant.MIN;
      for (int step = 0; step < 3 && at != null; step++) {
        at = firstAfter(visit, List.of("view", "cart", "purchase").get(step), at);
        steps[step] += at == null ? 0 : 1;
      }
    }

    Dataset<Row> funnel = CustomerAnalytics.funnel(spark);

    assertThat(steps[2]).isPositive().isLessThan(steps[1]);
    assertThat(funnel).hasRows(row(steps[0], steps[1], steps[2]));
    assertThat(CustomerAnalytics.funnelInJava(spark)).hasSameRowsAs(funnel);
  }

  private static Instant firstAfter(List<Row> visit, String type, Instant after) {
    return visit.stream()
        .filter(e -> e.getString(3).equals(type))
        .map(e -> (Instant) e.get(4))
        .filter(time -> time.isAfter(after))
        .min(Comparator.naturalOrder())
        .orElse(null);
  }

  @Test
  void anEventOutOfOrderIsNoStep(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE events AS
        SELECT * FROM VALUES
          (1L, 7L, 'view', TIMESTAMP'2025-12-01 10:00:00'), (1L, 7L, 'cart', TIMESTAMP'2025-12-01 10:05:00'),
          (1L, 7L, 'purchase', TIMESTAMP'2025-12-01 10:01:00'),
          (1L, 8L, 'purchase', TIMESTAMP'2025-12-01 10:01:00'),
          (2L, 7L, 'cart', TIMESTAMP'2025-12-01 09:00:00'), (2L, 7L, 'view', TIMESTAMP'2025-12-01 09:30:00'),
          (3L, 7L, 'view', TIMESTAMP'2025-12-01 08:00:00'), (3L, 7L, 'purchase', TIMESTAMP'2025-12-01 08:10:00'),
          (4L, 9L, 'view', TIMESTAMP'2025-12-01 08:00:00'), (4L, 9L, 'cart', TIMESTAMP'2025-12-01 08:01:00'),
          (4L, 9L, 'purchase', TIMESTAMP'2025-12-01 08:02:00')
          AS events (customer_id, product_id, event_type, event_time)
        """);

    // Customers 1, 2, 3 and 4 viewed, 1 and 4 put into the cart after that, 4 bought after that.
    assertThat(CustomerAnalytics.funnel(spark)).hasRows(row(4L, 2L, 1L));
  }

  @Test
  void basketPairsAreThoseOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Map<Long, TreeSet<Long>> baskets =
        table("order_items", shop(spark).orderItems()).stream()
            .collect(
                groupingBy(
                    i -> i.<Long>getAs("order_id"),
                    mapping(i -> i.<Long>getAs("product_id"), toCollection(TreeSet::new))));
    Map<Long, Long> singles = new HashMap<>();
    Map<List<Long>, Long> pairs = new HashMap<>();
    for (TreeSet<Long> basket : baskets.values()) {
      for (Long a : basket) {
        singles.merge(a, 1L, Long::sum);
        basket.tailSet(a, false).forEach(b -> pairs.merge(List.of(a, b), 1L, Long::sum));
      }
    }
    List<Row> expected = new ArrayList<>();
    pairs.forEach(
        (pair, orders) -> {
          long a = singles.get(pair.get(0));
          long b = singles.get(pair.get(1));
          if (orders >= 5) {
            double lift = (double) (orders * baskets.size()) / (a * b);
            expected.add(row(pair.get(0), pair.get(1), orders, (double) orders / a, lift));
          }
        });

    Dataset<Row> found = CustomerAnalytics.pairs(spark, 5);

    assertThat(expected).hasSizeBetween(20, pairs.size() - 1);
    assertThat(found)
        .hasSchema(
            "product_a BIGINT, product_b BIGINT, orders BIGINT, confidence DOUBLE, lift DOUBLE")
        .hasRows(expected.toArray(Row[]::new));
    assertThat(CustomerAnalytics.pairsInJava(spark, 5)).hasSameRowsAs(found);
  }

  @Test
  void theParetoClassesAreThoseOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Map<Long, BigDecimal> revenues =
        table("order_items", shop(spark).orderItems()).stream()
            .collect(
                groupingBy(
                    i -> i.<Long>getAs("product_id"),
                    reducing(
                        BigDecimal.ZERO,
                        i ->
                            i.<BigDecimal>getAs("unit_price")
                                .multiply(BigDecimal.valueOf(i.<Integer>getAs("quantity"))),
                        BigDecimal::add)));
    BigDecimal all = revenues.values().stream().reduce(BigDecimal.ZERO, BigDecimal::add);
    List<Row> expected = new ArrayList<>();
    BigDecimal soFar = BigDecimal.ZERO;
    for (Map.Entry<Long, BigDecimal> product :
        revenues.entrySet().stream()
            .sorted(
                Map.Entry.<Long, BigDecimal>comparingByValue()
                    .reversed()
                    .thenComparing(Map.Entry.comparingByKey()))
            .toList()) {
      soFar = soFar.add(product.getValue());
      BigDecimal share = soFar.divide(all, 6, RoundingMode.HALF_UP);
      String letter;
      if (share.compareTo(new BigDecimal("0.80")) <= 0) {
        letter = "A";
      } else {
        letter = share.compareTo(new BigDecimal("0.95")) <= 0 ? "B" : "C";
      }
      expected.add(row(product.getKey(), product.getValue(), share, letter));
    }

    Dataset<Row> pareto = CustomerAnalytics.pareto(spark);

    assertThat(expected.stream().collect(groupingBy(e -> e.getString(3), counting())))
        .containsOnlyKeys("A", "B", "C");
    assertThat(pareto).hasRows(expected.toArray(Row[]::new));
    assertThat(CustomerAnalytics.paretoInJava(spark)).hasSameRowsAs(pareto);
  }
}
