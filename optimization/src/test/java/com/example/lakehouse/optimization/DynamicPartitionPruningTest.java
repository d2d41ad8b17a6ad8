package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.JoinRows;
import com.example.lakehouse.optimization.support.Measured;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class DynamicPartitionPruningTest {
  private static final int MONTHS = 12;
  private static final String NO_BROADCAST = "spark.sql.autoBroadcastJoinThreshold";
  private static final String REUSE_ONLY =
      "spark.sql.optimizer.dynamicPartitionPruning.reuseBroadcastOnly";

  private SparkSession spark;
  private SampleData data;
  private List<Row> orders;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    this.spark = spark;
    Measured.generateCode(spark);
    data = SampleData.of(spark).rows(30_000);
  }

  /** Twelve folders of a file each, and the months in one file. */
  private void createStar() {
    Dataset<Row> generated =
        data.orders().withColumn("order_month", expr("month(order_date)")).localCheckpoint();
    orders = generated.collectAsList();
    generated
        .repartition(col("order_month"))
        .write()
        .format("delta")
        .partitionBy("order_month")
        .saveAsTable("sales");
    spark
        .range(1, MONTHS + 1, 1, 1)
        .selectExpr(
            "CAST(id AS INT) AS month",
            "date_format(make_date(2025, CAST(id AS INT), 1), 'MMMM') AS name")
        .write()
        .format("delta")
        .saveAsTable("months");
    spark
        .udf()
        .register(
            "is_march",
            (UDF1<String, Boolean>) name -> name.equals("March"),
            DataTypes.BooleanType);
  }

  private long ofMarch() {
    return orders.stream().filter(order -> order.<Integer>getAs("order_month") == 3).count();
  }

  private void assertPruned(String query, int files, long rows) {
    Dataset<Row> result = spark.sql(query);
    assertThat(QueryProfile.of(result).filesPruned()).as(query).isEqualTo(files);
    assertThat(result.count()).as(query).isEqualTo(rows);
  }

  @Test
  void aFilterOnTheMonthsReadsOneFolderOfTwelve() {
    createStar();
    QueryProfile pruned = QueryProfile.of(DynamicPartitionPruning.salesOf(spark, "March"));
    spark.conf().set("spark.sql.optimizer.dynamicPartitionPruning.enabled", "false");
    QueryProfile all = QueryProfile.of(DynamicPartitionPruning.salesOf(spark, "March"));

    assertThat(pruned.filesPruned()).isEqualTo(MONTHS - 1);
    assertThat(pruned.exchanges()).containsOnlyKeys("broadcast", "reused");
    assertThat(pruned.rowsRead()).isEqualTo(ofMarch() + MONTHS);
    assertThat(all.filesPruned()).isZero();
    assertThat(all.rowsRead()).isEqualTo(orders.size() + MONTHS);
    assertThat(pruned.bytesRead()).isLessThan(all.bytesRead() / 4);
    assertThat(DynamicPartitionPruning.salesOf(spark, "March"))
        .hasSameRowsAs(spark.table("sales").where("order_month = 3").select("order_id", "amount"))
        .hasRowCount(ofMarch());
    assertThat(DynamicPartitionPruning.salesOf(spark, "no such month")).isEmpty();
  }

  @Test
  void severalFormsOfAJoinPrune() {
    createStar();
    for (String query :
        List.of(
            "SELECT s.* FROM sales s JOIN months ON order_month + 1 = month + 1 WHERE name ="
                + " 'March'",
            "SELECT s.* FROM sales s JOIN months ON CAST(order_month AS STRING) = CAST(month AS"
                + " STRING) WHERE name = 'March'",
            "SELECT s.* FROM sales s JOIN months ON order_month = month WHERE name LIKE '%rch'",
            "SELECT s.* FROM sales s LEFT SEMI JOIN months ON order_month = month AND name ="
                + " 'March'",
            "SELECT * FROM sales WHERE order_month IN (SELECT month FROM months WHERE name ="
                + " 'March')",
            "SELECT s.* FROM sales s JOIN (SELECT DISTINCT month FROM months WHERE name = 'March')"
                + " ON order_month = month")) {
      assertPruned(query, MONTHS - 1, ofMarch());
    }
  }

  @Test
  void whatIsNoSelectiveFilterOrNoJoinByTheFoldersReadsAll() {
    createStar();
    long all = orders.size();
    long ofDecember =
        orders.stream().filter(order -> order.<Integer>getAs("order_month") == 12).count();
    String join = "SELECT s.* FROM sales s JOIN months ON ";
    assertPruned(join + "order_month = month", 0, all);
    assertPruned(join + "order_month = month WHERE name IS NOT NULL", 0, all);
    assertPruned(join + "order_month = month WHERE is_march(name)", 0, ofMarch());
    assertPruned(join + "month(order_date) = month WHERE name = 'March'", 0, ofMarch());
    assertPruned(join + "order_month <=> month WHERE name = 'March'", 0, ofMarch());
    assertPruned(
        "SELECT s.* FROM sales s JOIN (SELECT max(month) AS month FROM months) ON order_month ="
            + " month",
        0,
        ofDecember);
    assertPruned(
        "SELECT s.* FROM sales s LEFT JOIN months ON order_month = month AND name = 'March'",
        0,
        all);
    assertPruned(
        "SELECT s.* FROM sales s LEFT ANTI JOIN months ON order_month = month AND name = 'March'",
        0,
        all - ofMarch());
  }

  @Test
  void monthsThatAreNoTableOrThatAreCachedReadAll() {
    createStar();
    // Spark filters rows of the query itself while it plans: what is left has no filter.
    assertPruned(
        "SELECT s.* FROM sales s JOIN VALUES (2, 'February'), (3, 'March') AS m (month, name)"
            + " ON order_month = month WHERE name = 'March'",
        0,
        ofMarch());
    spark.sql("CACHE TABLE march AS SELECT month FROM months WHERE name = 'March'");
    assertPruned("SELECT s.* FROM sales s JOIN march ON order_month = month", 0, ofMarch());
    spark.sql("UNCACHE TABLE march");
    // With a filter outside of the cache adaptive execution does not recognize the broadcast.
    spark.sql("CACHE TABLE cached_months AS SELECT * FROM months");
    assertPruned(
        "SELECT s.* FROM sales s JOIN cached_months ON order_month = month WHERE name = 'March'",
        0,
        ofMarch());
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    assertPruned(
        "SELECT s.* FROM sales s JOIN cached_months ON order_month = month WHERE name = 'March'",
        MONTHS - 1,
        ofMarch());
    spark.sql("UNCACHE TABLE cached_months");
  }

  @Test
  void withoutABroadcastNothingIsPrunedUnlessTheMonthsMayBeReadTwice() {
    createStar();
    spark.conf().set(NO_BROADCAST, "-1");
    QueryProfile sorted = QueryProfile.of(DynamicPartitionPruning.salesOf(spark, "March"));
    assertThat(sorted.joins()).containsExactly("SortMergeJoin");
    assertThat(sorted.filesPruned()).isZero();

    spark.conf().set(REUSE_ONLY, "false");
    QueryProfile twice = QueryProfile.of(DynamicPartitionPruning.salesOf(spark, "March"));
    assertThat(twice.joins()).containsExactly("SortMergeJoin");
    assertThat(twice.filesPruned()).isEqualTo(MONTHS - 1);
    assertThat(twice.shuffleBytes()).isLessThan(sorted.shuffleBytes() / 4);
    assertThat(twice.rowsRead()).isEqualTo(ofMarch() + 2 * MONTHS);
    assertThat(DynamicPartitionPruning.salesOf(spark, "March")).hasRowCount(ofMarch());
    spark.conf().unset(REUSE_ONLY);

    Dataset<Row> scalar = DynamicPartitionPruning.salesOfOneMonth(spark, "March");
    assertThat(QueryProfile.of(scalar).filesPruned()).isEqualTo(MONTHS - 1);
    assertThat(QueryProfile.of(scalar).joins()).isEmpty();
    assertThat(scalar).hasRowCount(ofMarch());
    spark.sql("INSERT INTO months VALUES (13, 'March')");
    assertRefused(
        "SCALAR_SUBQUERY_TOO_MANY_ROWS",
        () -> DynamicPartitionPruning.salesOfOneMonth(spark, "March").count());
  }

  @Test
  void aJoinDoesNotSkipFilesByStatisticsButConstantsDo() {
    createStar();
    data.orders()
        .withColumn("order_month", expr("month(order_date)"))
        .repartitionByRange(MONTHS, col("order_date"))
        .write()
        .format("delta")
        .saveAsTable("sorted_sales");
    Dataset<Row> sales = spark.table("sorted_sales");
    Dataset<Row> march = spark.table("months").where("name = 'March'").select("month");

    Dataset<Row> joined = sales.join(march, col("order_month").equalTo(col("month")), "left_semi");
    Dataset<Row> keysFirst = DynamicPartitionPruning.keysFirst(sales, "order_month", march);

    assertThat(QueryProfile.of(joined).filesPruned()).isZero();
    assertThat(QueryProfile.of(keysFirst).filesPruned()).isGreaterThanOrEqualTo(MONTHS - 3);
    assertThat(keysFirst).hasSameRowsAs(joined).hasRowCount(ofMarch());
    assertThat(
            DynamicPartitionPruning.keysFirst(
                sales, "order_month", spark.table("months").where("name = '?'").select("month")))
        .isEmpty();
  }

  private static final long CUSTOMER = 500;

  private void createOrdersAndItems() {
    data.orders().coalesce(2).write().format("delta").saveAsTable("orders");
    data.orderItems().coalesce(2).write().format("delta").saveAsTable("order_items");
    spark.conf().set(NO_BROADCAST, "-1");
  }

  /** By two loops over the collected rows. */
  private long itemsOfTheCustomer() {
    Set<Long> ids =
        data.orders().collectAsList().stream()
            .filter(order -> order.<Long>getAs("customer_id") == CUSTOMER)
            .map(order -> order.<Long>getAs("order_id"))
            .collect(Collectors.toSet());
    return data.orderItems().collectAsList().stream()
        .filter(item -> ids.contains(item.<Long>getAs("order_id")))
        .count();
  }

  @Test
  void withABloomFilterOnlyRowsWithAPartnerReachTheJoin() {
    createOrdersAndItems();
    long items = itemsOfTheCustomer();
    assertThat(items).isBetween(5L, 500L);

    JoinRows without = JoinRows.of(DynamicPartitionPruning.itemsOf(spark, CUSTOMER)).get(0);
    QueryProfile before = QueryProfile.of(DynamicPartitionPruning.itemsOf(spark, CUSTOMER));
    DynamicPartitionPruning.bloomFiltersFrom(1, spark);
    JoinRows with = JoinRows.of(DynamicPartitionPruning.itemsOf(spark, CUSTOMER)).get(0);
    QueryProfile after = QueryProfile.of(DynamicPartitionPruning.itemsOf(spark, CUSTOMER));

    assertThat(without.join()).isEqualTo("SortMergeJoin");
    assertThat(without.left()).isEqualTo(30_000);
    assertThat(with.join()).isEqualTo("SortMergeJoin");
    // None is lost; a few may pass by mistake.
    assertThat(with.left()).isBetween(items, items + 30);
    assertThat(with.right()).isEqualTo(without.right());
    assertThat(after.shuffleBytes()).isLessThan(before.shuffleBytes() / 10);
    // What it costs: the orders are read once more.
    assertThat(after.rowsRead()).isEqualTo(before.rowsRead() + data.orderCount());
    assertThat(DynamicPartitionPruning.itemsOf(spark, CUSTOMER)).hasRowCount(items);
  }

  @Test
  void aBloomFilterNeedsASelectiveFilterASmallSideAndAShuffle() {
    createOrdersAndItems();
    DynamicPartitionPruning.bloomFiltersFrom(1, spark);
    String join = "SELECT count(*) FROM order_items i JOIN orders o ON i.order_id = o.order_id";
    spark
        .udf()
        .register(
            "is_returned",
            (UDF1<String, Boolean>) status -> status.equals("returned"),
            DataTypes.BooleanType);

    assertThat(reachingRows(join + " WHERE o.customer_id = 500")).isLessThan(1_000);
    assertThat(reachingRows(join)).isEqualTo(30_000);
    assertThat(reachingRows(join + " WHERE o.status LIKE 'r%e%d'")).isEqualTo(30_000);
    assertThat(reachingRows(join + " WHERE is_returned(o.status)")).isEqualTo(30_000);
    assertThat(
            reachingRows(
                "SELECT count(o.status) FROM order_items i LEFT JOIN orders o"
                    + " ON i.order_id = o.order_id AND o.customer_id = 500"))
        .isEqualTo(30_000);

    spark.conf().set("spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold", "1KB");
    assertThat(reachingRows(join + " WHERE o.customer_id = 500")).isEqualTo(30_000);
    spark.conf().unset("spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold");

    spark.conf().set("spark.sql.optimizer.runtime.bloomFilter.enabled", "false");
    assertThat(reachingRows(join + " WHERE o.customer_id = 500")).isEqualTo(30_000);
    spark.conf().unset("spark.sql.optimizer.runtime.bloomFilter.enabled");

    spark.conf().set(NO_BROADCAST, "10MB");
    JoinRows broadcast = JoinRows.of(spark.sql(join + " WHERE o.customer_id = 500")).get(0);
    assertThat(broadcast.join()).isEqualTo("BroadcastHashJoin");
    assertThat(broadcast.left()).isEqualTo(30_000);
  }

  private long reachingRows(String query) {
    return JoinRows.of(spark.sql(query)).get(0).left();
  }
}
