package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class TableStatisticsTest {
  private static final String THRESHOLD = "spark.sql.autoBroadcastJoinThreshold";
  private static final int CUSTOMERS = 2_000;

  private SampleData data;

  @BeforeEach
  void generate(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    data = SampleData.of(spark).rows(30 * CUSTOMERS);
  }

  private void createTables(String format) {
    data.orderItems().write().format(format).saveAsTable("items");
    data.products().write().format(format).saveAsTable("products");
    data.orders().write().format(format).saveAsTable("orders");
    data.customers().write().format(format).saveAsTable("customers");
  }

  private static void analyzeAll(SparkSession spark) {
    TableStatistics.optimizeByCost(spark);
    TableStatistics.analyzeColumns(spark, "customers", "customer_id", "country", "segment");
    TableStatistics.analyzeColumns(spark, "orders", "order_id", "customer_id", "status");
    TableStatistics.analyzeColumns(spark, "items", "order_id", "product_id");
    TableStatistics.analyzeColumns(spark, "products", "product_id");
  }

  private static long estimate(SparkSession spark, String table, String condition) {
    return TableStatistics.estimatedRows(spark.table(table).where(condition)).orElseThrow();
  }

  /** The rows that came out of each join, in the order in which they ran. */
  private static List<Long> rowsThroughJoins(SparkSession spark, Dataset<Row> query) {
    query.collectAsList();
    return ReadingPlans.operators(spark, ReadingPlans.finalPlan(query))
        .where("operator LIKE '%Join %'")
        .collectAsList()
        .stream()
        .map(join -> join.<Long>getAs("rows_out"))
        .toList();
  }

  private static String about(SparkSession spark, String column, String what) {
    return TableStatistics.columnStatistics(spark, "customers", column)
        .where("info_name = '" + what + "'")
        .head()
        .getString(1);
  }

  @Test
  void withoutStatisticsSparkKnowsTheBytesOfTheFilesAndNoRows(SparkSession spark) {
    data.customers().write().saveAsTable("customers");
    TableStatistics.optimizeByCost(spark);
    Dataset<Row> customers = spark.table("customers");

    assertThat(TableStatistics.estimatedRows(customers)).isEmpty();
    assertThat(TableStatistics.estimatedBytes(customers.where("country = 'DE'")))
        .isEqualTo(TableStatistics.estimatedBytes(customers));
  }

  @Test
  void analyzeCountsRowsAndForColumnsWhatIsInThem(SparkSession spark) {
    data.customers().write().saveAsTable("customers");
    TableStatistics.optimizeByCost(spark);

    TableStatistics.analyze(spark, "customers");
    assertThat(estimate(spark, "customers", "true")).isEqualTo(CUSTOMERS);
    // Without the columns' statistics a filter changes nothing.
    assertThat(estimate(spark, "customers", "country = 'DE'")).isEqualTo(CUSTOMERS);

    TableStatistics.analyzeColumns(spark, "customers", "customer_id", "country");
    assertThat(about(spark, "country", "distinct_count")).isEqualTo("8");
    assertThat(about(spark, "customer_id", "max")).isEqualTo("1999");
    assertThat(about(spark, "email", "distinct_count")).isEqualTo("NULL");
    assertThat(estimate(spark, "customers", "country = 'DE'")).isEqualTo(CUSTOMERS / 8);
    assertThat(estimate(spark, "customers", "customer_id < 200")).isCloseTo(200, within(2L));
  }

  @Test
  void estimatesAreWrongWhereValuesAreNotSpreadEvenlyOrHidden(SparkSession spark) {
    data.customers().write().saveAsTable("customers");
    TableStatistics.optimizeByCost(spark);
    TableStatistics.analyzeColumns(spark, "customers", "country");

    long german = spark.table("customers").where("country = 'DE'").count();
    assertThat(german).isGreaterThan(3 * CUSTOMERS / 16);
    assertThat(estimate(spark, "customers", "country = 'DE'")).isEqualTo(CUSTOMERS / 8);
    assertThat(estimate(spark, "customers", "country = 'XX'")).isEqualTo(CUSTOMERS / 8);
    assertThat(estimate(spark, "customers", "upper(country) = 'DE'")).isEqualTo(CUSTOMERS);
  }

  @Test
  void aHistogramKnowsASkewedColumn(SparkSession spark) {
    data.orders().write().saveAsTable("orders");
    TableStatistics.optimizeByCost(spark);
    String first = "customer_id < 20";
    long real = spark.table("orders").where(first).count();

    TableStatistics.analyzeColumns(spark, "orders", "customer_id");
    assertThat(estimate(spark, "orders", first)).isLessThan(real / 5);

    TableStatistics.withHistograms(spark);
    TableStatistics.analyzeColumns(spark, "orders", "customer_id");
    assertThat(estimate(spark, "orders", first)).isCloseTo(real, within(real / 10));
  }

  @Test
  void joinsAreOrderedByCost(SparkSession spark) {
    createTables("parquet");
    spark.conf().set(THRESHOLD, "-1");
    Dataset<Row> asWritten = TableStatistics.returnsByCategory(spark);
    List<Long> before = rowsThroughJoins(spark, asWritten);
    QueryProfile profileBefore = QueryProfile.of(asWritten);
    Row[] rows = asWritten.collectAsList().toArray(Row[]::new);

    analyzeAll(spark);
    Dataset<Row> byCost = TableStatistics.returnsByCategory(spark);
    List<Long> after = rowsThroughJoins(spark, byCost);
    QueryProfile profileAfter = QueryProfile.of(byCost);

    // By loops: the orders that were returned, those of them by Germans, and their items.
    Map<Long, Boolean> german = new HashMap<>();
    data.customers()
        .collectAsList()
        .forEach(c -> german.put(c.getAs("customer_id"), c.getAs("country").equals("DE")));
    Set<Long> returned = new HashSet<>();
    Set<Long> ofGermans = new HashSet<>();
    for (Row order : data.orders().collectAsList()) {
      if (order.getAs("status").equals("returned")) {
        returned.add(order.getAs("order_id"));
        if (german.get(order.<Long>getAs("customer_id"))) {
          ofGermans.add(order.getAs("order_id"));
        }
      }
    }
    List<Long> itemsOrders =
        data.orderItems().collectAsList().stream()
            .map(item -> item.<Long>getAs("order_id"))
            .toList();
    long itemsReturned = itemsOrders.stream().filter(returned::contains).count();
    long itemsOfGermans = itemsOrders.stream().filter(ofGermans::contains).count();
    assertThat(before).containsExactly(30L * CUSTOMERS, itemsReturned, itemsOfGermans);
    assertThat(after).containsExactly((long) ofGermans.size(), itemsOfGermans, itemsOfGermans);
    assertThat(profileAfter.shuffleBytes()).isLessThan(profileBefore.shuffleBytes() * 4 / 5);
    assertThat(byCost).hasRows(rows);
    assertThat(rows).hasSizeGreaterThan(3);
  }

  @Test
  void oneTableWithoutRowsLeavesTheOrderAsItIs(SparkSession spark) {
    createTables("parquet");
    spark.conf().set(THRESHOLD, "-1");
    analyzeAll(spark);
    // Which throws its statistics away.
    spark.sql("INSERT INTO customers SELECT * FROM customers LIMIT 0");

    List<Long> rows = rowsThroughJoins(spark, TableStatistics.returnsByCategory(spark));

    assertThat(rows.get(0)).isEqualTo(30L * CUSTOMERS);
  }

  @Test
  void aFilteredTableIsBroadcastByItsStatistics(SparkSession spark) {
    createTables("parquet");
    // The choice by estimates alone.
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    Dataset<Row> few = spark.table("customers").where("country = 'DE' AND segment = 'public'");
    long files = TableStatistics.estimatedBytes(few);
    spark.conf().set(THRESHOLD, files - 1);
    assertThat(QueryProfile.of(spark.table("orders").join(few, "customer_id")).joins())
        .containsExactly("SortMergeJoin");

    analyzeAll(spark);

    few = spark.table("customers").where("country = 'DE' AND segment = 'public'");
    assertThat(TableStatistics.estimatedBytes(few)).isLessThan(files / 2);
    assertThat(QueryProfile.of(spark.table("orders").join(few, "customer_id")).joins())
        .containsExactly("BroadcastHashJoin");
  }

  @Test
  void aWholeTableIsLargerThanItsFilesAndNotBroadcastAnyMore(SparkSession spark) {
    createTables("parquet");
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    long files = TableStatistics.estimatedBytes(spark.table("customers"));
    spark.conf().set(THRESHOLD, files);
    Dataset<Row> join = spark.table("orders").join(spark.table("customers"), "customer_id");
    assertThat(QueryProfile.of(join).joins()).containsExactly("BroadcastHashJoin");

    analyzeAll(spark);

    assertThat(TableStatistics.estimatedBytes(spark.table("customers"))).isGreaterThan(4 * files);
    join = spark.table("orders").join(spark.table("customers"), "customer_id");
    assertThat(QueryProfile.of(join).joins()).containsExactly("SortMergeJoin");
  }

  @Test
  void anEstimateBeyondALongIsTheLargestOne(SparkSession spark) {
    Dataset<Row> huge = spark.range(Long.MAX_VALUE).toDF("a").crossJoin(spark.range(9).toDF("b"));

    assertThat(TableStatistics.estimatedBytes(huge)).isEqualTo(Long.MAX_VALUE);
    TableStatistics.optimizeByCost(spark);
    assertThat(TableStatistics.estimatedRows(huge.select("*"))).hasValue(Long.MAX_VALUE);
  }

  @Test
  void anInsertThrowsStatisticsAwayAndFilesFromOutsideMakeThemWrong(
      SparkSession spark, Sandbox sandbox) {
    data.customers().write().saveAsTable("customers");
    TableStatistics.optimizeByCost(spark);
    TableStatistics.analyzeColumns(spark, "customers", "country");

    data.customers().write().mode("append").parquet(sandbox.path("schema/customers"));
    spark.catalog().refreshTable("customers");
    assertThat(spark.table("customers")).hasRowCount(2 * CUSTOMERS);
    assertThat(estimate(spark, "customers", "true")).isEqualTo(CUSTOMERS);

    spark.sql("INSERT INTO customers SELECT * FROM customers LIMIT 1");
    assertThat(TableStatistics.estimatedRows(spark.table("customers"))).isEmpty();
    assertThat(about(spark, "country", "distinct_count")).isEqualTo("NULL");
  }

  @Test
  void aDeltaTableIsNotAnalyzed(SparkSession spark) {
    data.customers().write().format("delta").saveAsTable("customers");

    assertRefused(
        "NOT_SUPPORTED_COMMAND_FOR_V2_TABLE", () -> TableStatistics.analyze(spark, "customers"));
    assertRefused(
        "NOT_SUPPORTED_COMMAND_FOR_V2_TABLE",
        () -> TableStatistics.analyzeColumns(spark, "customers", "country"));
    assertThat(TableStatistics.estimatedRows(spark.table("customers"))).isEmpty();
  }

  @Test
  void aDeltaTablesBytesComeFromItsLogUntilItsSchemaIsAnalyzed(SparkSession spark) {
    data.customers().limit(100).write().format("delta").saveAsTable("customers");
    long few = TableStatistics.estimatedBytes(spark.table("customers"));
    data.customers().limit(100).write().format("delta").mode("append").saveAsTable("customers");
    assertThat(TableStatistics.estimatedBytes(spark.table("customers"))).isGreaterThan(few);

    // Is not refused, and what it puts into the catalog stays.
    spark.sql("ANALYZE TABLES COMPUTE STATISTICS");
    long analyzed = TableStatistics.estimatedBytes(spark.table("customers"));
    data.customers().write().format("delta").mode("append").saveAsTable("customers");

    assertThat(spark.table("customers")).hasRowCount(CUSTOMERS + 200);
    assertThat(TableStatistics.estimatedBytes(spark.table("customers"))).isEqualTo(analyzed);
    TableStatistics.optimizeByCost(spark);
    assertThat(estimate(spark, "customers", "true")).isEqualTo(200);

    // So that a table of any size is broadcast.
    data.orders().write().format("delta").saveAsTable("orders");
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    spark.conf().set(THRESHOLD, TableStatistics.estimatedBytes(spark.table("customers")));
    Dataset<Row> join = spark.table("orders").join(spark.table("customers"), "customer_id");
    assertThat(QueryProfile.of(join).joins()).containsExactly("BroadcastHashJoin");
  }

  @Test
  void aCachedViewOfADeltaTableIsAnalyzed(SparkSession spark) {
    data.customers().write().format("delta").saveAsTable("delta_customers");
    spark.table("delta_customers").createOrReplaceTempView("customers");
    TableStatistics.optimizeByCost(spark);
    spark.sql("CACHE TABLE customers");
    try {
      TableStatistics.analyzeColumns(spark, "customers", "country");

      assertThat(estimate(spark, "customers", "country = 'DE'")).isEqualTo(CUSTOMERS / 8);
    } finally {
      spark.sql("UNCACHE TABLE customers");
    }
  }

  @Test
  void aColumnOrTableThatIsNotThereIsRefusedAndANameIsNoCode(SparkSession spark) {
    spark.sql("CREATE TABLE odd (`a``b, c` INT) USING parquet");
    spark.sql("INSERT INTO odd VALUES (1), (2)");
    TableStatistics.optimizeByCost(spark);

    TableStatistics.analyzeColumns(spark, "odd", "a`b, c");

    assertThat(TableStatistics.columnStatistics(spark, "odd", "a`b, c"))
        .hasSchema("info_name STRING, info_value STRING");
    assertThat(TableStatistics.columnStatistics(spark, "odd", "a`b, c").where("info_name = 'max'"))
        .hasRows(row("max", "2"));
    assertRefused(
        "COLUMN_NOT_FOUND", () -> TableStatistics.analyzeColumns(spark, "odd", "no_such_column"));
    assertRefused("TABLE_OR_VIEW_NOT_FOUND", () -> TableStatistics.analyze(spark, "no_such_table"));
  }
}
