package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.util.QueryExecutionListener;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ReadingPlansTest {
  private static final LocalDate DECEMBER = LocalDate.of(2025, 12, 1);

  private final Map<Long, String> businessCustomers = new HashMap<>();
  private final Map<String, BigDecimal> revenue = new HashMap<>();
  private final Map<String, Long> orders = new HashMap<>();
  private long decemberOrders;
  private long joined;

  @BeforeEach
  void createTables(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    SampleData data = SampleData.of(spark).rows(15_000);
    data.orders().write().format("delta").saveAsTable("orders");
    data.customers().write().format("delta").saveAsTable("customers");
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");
    spark.conf().set("spark.sql.adaptive.autoBroadcastJoinThreshold", "10MB");
    spark.conf().set("spark.sql.shuffle.partitions", "8");
    compute(spark);
  }

  /** The query by loops. */
  private void compute(SparkSession spark) {
    for (Row customer : spark.table("customers").collectAsList()) {
      if (customer.getAs("segment").equals("business")) {
        businessCustomers.put(customer.getAs("customer_id"), customer.getAs("country"));
      }
    }
    for (Row order : spark.table("orders").collectAsList()) {
      if (!order.<LocalDate>getAs("order_date").isBefore(DECEMBER)) {
        decemberOrders++;
        String country = businessCustomers.get(order.<Long>getAs("customer_id"));
        if (country != null) {
          joined++;
          revenue.merge(country, order.getAs("amount"), BigDecimal::add);
          orders.merge(country, 1L, Long::sum);
        }
      }
    }
  }

  private Row[] expected() {
    return revenue.entrySet().stream()
        .sorted(Map.Entry.<String, BigDecimal>comparingByValue().reversed())
        .map(e -> row(e.getKey(), orders.get(e.getKey()), e.getValue()))
        .toArray(Row[]::new);
  }

  /** The names of the operators, from the bottom up. */
  private static List<String> names(SparkSession spark, SparkPlan plan) {
    return ReadingPlans.operators(spark, plan).collectAsList().stream()
        .map(ReadingPlansTest::name)
        .toList();
  }

  private static String name(Row operator) {
    return operator.<String>getAs("operator").strip().split("[ (\\[]", 2)[0];
  }

  /** The rows of the operators whose line contains {@code text}, from the bottom up. */
  private static List<Long> rowsOut(SparkSession spark, SparkPlan plan, String text) {
    return ReadingPlans.operators(spark, plan).collectAsList().stream()
        .filter(operator -> operator.<String>getAs("operator").contains(text))
        .map(operator -> operator.<Long>getAs("rows_out"))
        .toList();
  }

  private static long metric(SparkSession spark, SparkPlan plan, String operator, String metric) {
    return ReadingPlans.metrics(spark, plan).collectAsList().stream()
        .filter(row -> row.<String>getAs("operator").endsWith(operator))
        .filter(row -> row.getAs("metric").equals(metric))
        .mapToLong(row -> row.<Long>getAs("value"))
        .sum();
  }

  @Test
  void theInitialPlanIsThatOfEstimatesAndHasRunNothing(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);

    SparkPlan plan = ReadingPlans.initialPlan(query);

    assertThat(names(spark, plan))
        .containsExactly(
            "FileScan",
            "Filter",
            "Project",
            "Exchange",
            "Sort",
            "FileScan",
            "Filter",
            "Project",
            "Exchange",
            "Sort",
            "SortMergeJoin",
            "Project",
            "HashAggregate",
            "Exchange",
            "HashAggregate",
            "Exchange",
            "Sort");
    assertThat(ReadingPlans.operators(spark, plan).where("rows_out > 0")).isEmpty();
  }

  @Test
  void theFinalPlanIsThatOfMeasuredSizes(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);

    assertThat(query).hasRowsInOrder(expected());

    // Both sides turn out small enough: the shuffle that ends first is the one that is broadcast.
    List<String> side = List.of("FileScan", "ColumnarToRow", "Filter", "Project");
    List<String> shuffled = List.of("Exchange", "AQEShuffleRead");
    assertThat(names(spark, ReadingPlans.finalPlan(query)))
        .startsWith(side.toArray(String[]::new))
        .containsSubsequence(shuffled)
        .containsOnlyOnce("BroadcastExchange")
        .endsWith(
            "BroadcastHashJoin",
            "Project",
            "HashAggregate",
            "Exchange",
            "AQEShuffleRead",
            "HashAggregate",
            "Exchange",
            "AQEShuffleRead",
            "Sort")
        .hasSize(22);
    // And the initial one is still there.
    assertThat(names(spark, ReadingPlans.initialPlan(query))).contains("SortMergeJoin");
  }

  @Test
  void eachOperatorSaysHowManyRowsItGave(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);
    query.collectAsList();
    SparkPlan plan = ReadingPlans.finalPlan(query);

    assertThat(rowsOut(spark, plan, "Filter ("))
        .containsExactly(decemberOrders, (long) businessCustomers.size());
    assertThat(rowsOut(spark, plan, "BroadcastHashJoin")).containsExactly(joined);
    assertThat(rowsOut(spark, plan, "Exchange hashpartitioning(customer_id"))
        .containsExactly(decemberOrders, (long) businessCustomers.size());
    assertThat(rowsOut(spark, plan, "Exchange rangepartitioning"))
        .containsExactly((long) revenue.size());
    assertThat(rowsOut(spark, plan, "Project")).containsOnly((Long) null);
    assertThat(decemberOrders).isBetween(500L, 1_000L);
    assertThat(joined).isLessThan(decemberOrders / 2);
  }

  @Test
  void whatASortSamplesIsCountedTwice(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);
    query.collectAsList();
    Dataset<Row> unsorted = spark.sql("SELECT country, count(*) FROM customers GROUP BY country");
    int countries = unsorted.collectAsList().size();

    List<Long> aggregates = rowsOut(spark, ReadingPlans.finalPlan(query), "HashAggregate");

    assertThat(aggregates.get(1)).isEqualTo(2L * revenue.size());
    assertThat(rowsOut(spark, ReadingPlans.finalPlan(unsorted), "HashAggregate").get(1))
        .isEqualTo(countries);
  }

  @Test
  void theMetricsOfEachOperatorAreThereByName(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);
    query.collectAsList();
    SparkPlan plan = ReadingPlans.finalPlan(query);
    Dataset<Row> metrics = ReadingPlans.metrics(spark, plan);

    assertThat(metrics)
        .hasSchema("step INT, operator STRING, metric STRING, value BIGINT, type STRING");
    assertThat(metric(spark, plan, ".customers", "number of output rows")).isEqualTo(500);
    // Delta leaves one of two files out, by the statistics of order_date.
    assertThat(metric(spark, plan, ".orders", "number of files read")).isEqualTo(1);
    assertThat(metric(spark, plan, ".orders", "number of output rows")).isEqualTo(2_500);
    assertThat(metric(spark, plan, "AQEShuffleRead", "number of coalesced partitions"))
        .isPositive();
    // The time of a generated function is with the operator at its top.
    assertThat(
            metrics
                .where("operator LIKE 'WholeStageCodegen%' AND metric = 'duration'")
                .selectExpr("step")
                .distinct()
                .join(
                    ReadingPlans.operators(spark, plan).where("operator LIKE '%FileScan%'"),
                    "step"))
        .isEmpty();
  }

  @Test
  void aSubqueryIsPartOfThePlan(SparkSession spark) {
    Dataset<Row> query =
        spark.sql(
            "SELECT name FROM customers WHERE customer_id > (SELECT avg(customer_id) FROM customers)");
    query.collectAsList();

    // The query itself adds nothing up.
    assertThat(names(spark, ReadingPlans.finalPlan(query))).contains("HashAggregate");
  }

  @Test
  void aQueryThatHasNotRunHasNoFinalPlan(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);

    assertThatThrownBy(() -> ReadingPlans.finalPlan(query))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("collectAsList()");
  }

  @Test
  void onlyActionsOnTheDatasetsOwnPlanMakeItFinal(SparkSession spark) {
    Map<String, Consumer<Dataset<Row>>> actions =
        Map.of(
            "count",
            Dataset::count,
            "take",
            d -> d.takeAsList(5),
            "isEmpty",
            Dataset::isEmpty,
            "write",
            d -> d.write().format("noop").mode("overwrite").save(),
            "collect",
            Dataset::collectAsList,
            "iterate",
            d -> d.toLocalIterator().forEachRemaining(r -> {}));
    List<String> showTheFinalPlan = new ArrayList<>();
    actions.forEach(
        (name, action) -> {
          Dataset<Row> query = ReadingPlans.revenueByCountry(spark);
          action.accept(query);
          if (ReadingPlans.formatted(query).contains("isFinalPlan=true")) {
            showTheFinalPlan.add(name);
          }
        });

    assertThat(showTheFinalPlan).containsExactlyInAnyOrder("collect", "iterate");
  }

  @Test
  void aListenerIsHandedThePlansOfOtherActions(SparkSession spark) throws TimeoutException {
    Map<String, SparkPlan> plans = new ConcurrentHashMap<>();
    QueryExecutionListener listener = ReadingPlans.plansOfActions(plans::put);
    // By an expression: Spark knows that the numbers of a range need no shuffle.
    Dataset<Row> query = spark.range(100).selectExpr("id * 7 AS key").groupBy("key").count();
    spark.listenerManager().register(listener);
    try {
      query.count();
      query.write().format("noop").mode("overwrite").save();
      spark.sparkContext().listenerBus().waitUntilEmpty();
    } finally {
      spark.listenerManager().unregister(listener);
    }

    assertThat(plans).containsOnlyKeys("count", "overwrite");
    for (SparkPlan plan : plans.values()) {
      assertThat(names(spark, plan)).contains("AQEShuffleRead");
      assertThat(rowsOut(spark, plan, "Exchange hashpartitioning(key")).containsExactly(100L);
    }
  }

  @Test
  void aPlanWithoutExchangesIsOnePlan(SparkSession spark) {
    Dataset<Row> query = spark.table("customers").where("segment = 'business'");

    assertThat(ReadingPlans.finalPlan(query)).isSameAs(ReadingPlans.initialPlan(query));
    query.collectAsList();
    assertThat(rowsOut(spark, ReadingPlans.finalPlan(query), "Filter ("))
        .containsExactly((long) businessCustomers.size());
  }

  @Test
  void theFormattedTextHasATreeAndAParagraphForEachOperator(SparkSession spark) {
    Dataset<Row> query = ReadingPlans.revenueByCountry(spark);

    String text = ReadingPlans.formatted(query);

    assertThat(text)
        .contains("(1) Scan parquet", "PushedFilters: [IsNotNull(order_date), GreaterThanOrEqual")
        .contains("ReadSchema: struct<customer_id:bigint,order_date:date,amount:decimal(12,2)>")
        .containsPattern(
            "Exchange\\s+Input \\[2]: .*\\s+Arguments: hashpartitioning\\(customer_id");
    query.collectAsList();
    assertThat(ReadingPlans.formatted(query)).contains("== Final Plan ==", "== Initial Plan ==");
  }
}
