package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.util.LongAccumulator;
import org.junit.jupiter.api.Test;

@SparkTest
class CommonTableExpressionsTest {
  private static final int ORDERS = 1_000;

  private static void few(SparkSession spark) {
    spark
        .createDataFrame(
            List.of(
                row("Ada", 11, "paid", 40),
                row("Ada", 12, "paid", 50),
                row("Ada", 12, "paid", 20),
                row("Ada", 12, "open", 99),
                row("Ken", 11, "paid", 20),
                row("Ken", 12, "paid", 5),
                row("Tony", 12, "paid", 30),
                row("Jean", 11, "paid", 12)),
            StructType.fromDDL("customer STRING, month INT, status STRING, amount INT"))
        .createOrReplaceTempView("few");
  }

  /** A thousand paid orders of a year; months and customers are in every file. */
  private static Dataset<Row> orders(SparkSession spark) {
    return SampleData.of(spark)
        .rows(3_000)
        .orders()
        .selectExpr(
            "pmod(customer_id, 50) AS customer",
            "month(order_time) AS month",
            "'paid' AS status",
            "CAST(amount AS INT) AS amount");
  }

  private static void fourFiles(SparkSession spark) {
    orders(spark).repartition(4).write().format("delta").saveAsTable("orders");
    assertThat(spark.table("orders")).hasRowCount(ORDERS);
    assertThat(spark.table("orders").inputFiles()).hasSize(4);
  }

  /** Makes {@code counted}, the orders with an amount that counts how often it is computed. */
  private static LongAccumulator counted(SparkSession spark, boolean deterministic) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    var seen =
        udf(
            (UDF1<Integer, Integer>)
                amount -> {
                  calls.add(1);
                  return amount;
                },
            DataTypes.IntegerType);
    spark.udf().register("seen", deterministic ? seen : seen.asNondeterministic());
    spark.sql(
        "CREATE OR REPLACE TEMP VIEW counted AS SELECT customer, month, status, seen(amount) AS"
            + " amount FROM orders");
    return calls;
  }

  private static Row[] changes(Dataset<Row> orders, int month) {
    Map<Long, Long> now = new HashMap<>();
    Map<Long, Long> before = new HashMap<>();
    for (Row order : orders.collectAsList()) {
      if (order.getInt(1) == month) {
        now.merge(order.getLong(0), (long) order.getInt(3), Long::sum);
      } else if (order.getInt(1) == month - 1) {
        before.merge(order.getLong(0), (long) order.getInt(3), Long::sum);
      }
    }
    now.keySet().retainAll(before.keySet());
    return now.entrySet().stream()
        .map(entry -> row(entry.getKey(), entry.getValue() - before.get(entry.getKey())))
        .toArray(Row[]::new);
  }

  @Test
  void stepsGiveTheCustomersAboveTheAverage(SparkSession spark, Sandbox sandbox) {
    few(spark);

    // Totals of 110, 25, 30 and 12: the average is 44.25.
    assertThat(CommonTableExpressions.aboveAverage(spark, "few")).hasRows(row("Ada", 110L));
    assertThat(CommonTableExpressions.aboveAverage(spark.table("few"))).hasRows(row("Ada", 110L));
  }

  @Test
  void everyWayGivesTheChangeOfThoseWhoPaidInBothMonths(SparkSession spark, Sandbox sandbox) {
    few(spark);
    Row[] expected = {row("Ada", 30L), row("Ken", -15L)};

    assertThat(CommonTableExpressions.change(spark, "few", 12)).hasRows(expected);
    assertThat(
            CommonTableExpressions.change(CommonTableExpressions.monthly(spark.table("few")), 12))
        .hasRows(expected);
    assertThat(CommonTableExpressions.changeInOnePass(spark, "few", 12)).hasRows(expected);
    CommonTableExpressions.writeMonthly(spark, "few", "monthly");
    assertThat(CommonTableExpressions.change(spark.table("monthly"), 12)).hasRows(expected);
  }

  @Test
  void changesOfAThousandOrdersAreThosePlainJavaAddsUp(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> orders = orders(spark);
    orders.createOrReplaceTempView("orders_view");
    Row[] expected = changes(orders, 12);

    assertThat(expected).hasSizeGreaterThan(20);
    assertThat(CommonTableExpressions.change(spark, "orders_view", 12)).hasRows(expected);
    assertThat(CommonTableExpressions.changeInOnePass(spark, "orders_view", 12)).hasRows(expected);
  }

  @Test
  void aStepThatIsUsedTwiceAlikeIsComputedOnce(SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    LongAccumulator calls = counted(spark, true);

    QueryProfile profile = QueryProfile.of(CommonTableExpressions.aboveAverage(spark, "counted"));

    assertThat(profile.filesRead()).isEqualTo(4);
    assertThat(profile.exchanges()).containsEntry("hash", 1).containsEntry("reused", 1);
    assertThat(calls.value()).isEqualTo(ORDERS);
    assertThat(
            QueryProfile.of(CommonTableExpressions.aboveAverage(spark.table("counted")))
                .filesRead())
        .isEqualTo(4);
  }

  @Test
  void aStepThatIsUsedWithTwoFiltersIsComputedTwice(SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    LongAccumulator calls = counted(spark, true);
    long ofBothMonths = spark.table("orders").where("month IN (11, 12)").count();

    QueryProfile profile = QueryProfile.of(CommonTableExpressions.change(spark, "counted", 12));

    assertThat(profile.filesRead()).isEqualTo(8);
    assertThat(profile.rowsRead()).isEqualTo(2 * ORDERS);
    assertThat(profile.exchanges()).containsEntry("hash", 2).doesNotContainKey("reused");
    // But each time for the rows of its own filter only.
    assertThat(calls.value()).isEqualTo(ofBothMonths).isLessThan(ORDERS);
  }

  @Test
  void onePassReadsEachFileOnce(SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    LongAccumulator calls = counted(spark, true);

    QueryProfile profile =
        QueryProfile.of(CommonTableExpressions.changeInOnePass(spark, "counted", 12));

    assertThat(profile.filesRead()).isEqualTo(4);
    assertThat(profile.exchanges()).containsExactly(Map.entry("hash", 1));
    assertThat(calls.value()).isPositive();
  }

  @Test
  void aTableOfItsOwnIsWrittenOnceAndReadByAny(SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    LongAccumulator calls = counted(spark, true);
    CommonTableExpressions.writeMonthly(spark, "counted", "monthly");
    assertThat(calls.value()).isEqualTo(ORDERS);

    for (int month = 2; month <= 12; month++) {
      assertThat(CommonTableExpressions.change(spark.table("monthly"), month))
          .hasRows(changes(spark.table("orders"), month));
    }

    assertThat(calls.value()).isEqualTo(ORDERS);
  }

  @Test
  void aCacheIsFilledOnceAndADataFrameWithoutOneIsComputedTwice(
      SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    Row[] expected = changes(spark.table("orders"), 12);
    LongAccumulator calls = counted(spark, true);
    Dataset<Row> monthly = CommonTableExpressions.monthly(spark.table("counted"));
    assertThat(QueryProfile.of(CommonTableExpressions.change(monthly, 12)).filesRead())
        .isEqualTo(8);

    calls.reset();
    monthly.cache();
    try {
      assertThat(CommonTableExpressions.change(monthly, 12)).hasRows(expected);
      assertThat(CommonTableExpressions.change(monthly, 11))
          .hasSchema("customer BIGINT, change BIGINT");
      CommonTableExpressions.change(monthly, 11).collectAsList();
      assertThat(calls.value()).isEqualTo(ORDERS);
    } finally {
      monthly.unpersist();
    }
  }

  @Test
  void computedTwiceMayReadLess(SparkSession spark, Sandbox sandbox) {
    orders(spark).repartition(1).write().format("delta").partitionBy("month").saveAsTable("orders");
    assertThat(spark.table("orders").inputFiles()).hasSize(12);

    // Each filter reaches the scan, which the whole step would read all of.
    assertThat(QueryProfile.of(CommonTableExpressions.change(spark, "orders", 12)).filesRead())
        .isEqualTo(2);
    assertThat(
            QueryProfile.of(
                    spark, () -> CommonTableExpressions.writeMonthly(spark, "orders", "monthly"))
                .filesRead())
        .isEqualTo(12);
  }

  @Test
  void aStepThatDrawsIsSharedAndAViewDrawsForEachUse(SparkSession spark, Sandbox sandbox) {
    spark
        .range(0, 1_000, 1, 4)
        .selectExpr("id AS customer")
        .write()
        .format("delta")
        .saveAsTable("customers");

    Dataset<Row> drawn = CommonTableExpressions.draw(spark, "customers");
    assertThat(drawn.groupBy("customer").count().where("count <> 1")).isEmpty();
    assertThat(drawn).hasRowCount(1_000);
    QueryProfile profile = QueryProfile.of(drawn);
    assertThat(profile.filesRead()).isEqualTo(4);
    assertThat(profile.exchanges())
        .containsExactlyInAnyOrderEntriesOf(Map.of("round robin", 1, "reused", 1));

    spark.sql(
        "CREATE OR REPLACE TEMP VIEW drawn AS SELECT customer, IF(rand() < 0.5, 'A', 'B') AS drawn"
            + " FROM customers");
    Dataset<Row> view =
        spark.sql(
            "SELECT * FROM drawn WHERE drawn = 'A' UNION ALL SELECT * FROM drawn WHERE drawn ="
                + " 'B'");
    assertThat(view.select("customer").distinct().count()).isBetween(500L, 950L);
    assertThat(QueryProfile.of(view).filesRead()).isEqualTo(8);
  }

  @Test
  void aStepThatIsNotDeterministicIsComputedOnceWhateverItsFilters(
      SparkSession spark, Sandbox sandbox) {
    fourFiles(spark);
    String query =
        "WITH step AS (SELECT month, seen(amount) AS amount FROM orders) SELECT sum(amount) FROM"
            + " step WHERE month = 11 UNION ALL SELECT max(amount) FROM step";
    LongAccumulator deterministic = counted(spark, true);
    spark.sql(query).collectAsList();
    LongAccumulator not = counted(spark, false);
    spark.sql(query).collectAsList();

    long ofNovember = spark.table("orders").where("month = 11").count();
    assertThat(deterministic.value()).isEqualTo(ORDERS + ofNovember);
    assertThat(not.value()).isEqualTo(ORDERS);
  }

  @Test
  void aStepHidesATableOfItsNameAndAnInnerStepAnOuterOne(SparkSession spark, Sandbox sandbox) {
    few(spark);

    assertThat(spark.sql("WITH few AS (SELECT 1 AS x) SELECT * FROM few")).hasRows(row(1));
    assertThat(
            spark.sql(
                "WITH a AS (SELECT 1 AS x), b AS (WITH a AS (SELECT 2 AS x) SELECT * FROM a) SELECT"
                    + " * FROM b"))
        .hasRows(row(2));
  }

  @Test
  void stepsOutOfOrderTwiceAndMaterializedAreRefused(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "TABLE_OR_VIEW_NOT_FOUND",
        () -> spark.sql("WITH b AS (SELECT * FROM a), a AS (SELECT 1 AS x) SELECT * FROM b"));
    assertRefused(
        "DUPLICATED_CTE_NAMES",
        () -> spark.sql("WITH a AS (SELECT 1 AS x), a AS (SELECT 2 AS x) SELECT * FROM a"));
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () -> spark.sql("WITH a AS MATERIALIZED (SELECT 1 AS x) SELECT * FROM a"));
  }
}
