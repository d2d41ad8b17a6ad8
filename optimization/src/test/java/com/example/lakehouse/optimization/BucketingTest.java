package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static java.util.stream.Collectors.toMap;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count_distinct;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.SortExec;
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class BucketingTest {
  private static final int ITEMS = 6_000;
  private static final int ORDERS = 2_000;
  private static final int BUCKETS = 8;

  private Dataset<Row> items;
  private Dataset<Row> orders;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", 2);
    spark.conf().set("spark.sql.shuffle.partitions", 3);
    spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", false);
    SampleData data = SampleData.of(spark).rows(ITEMS);
    items = data.orderItems().select("order_item_id", "order_id", "product_id");
    orders = data.orders().select("order_id", "customer_id");
  }

  private Dataset<Row> bucketedItems(SparkSession spark) {
    Bucketing.writeBucketed(items, "items", BUCKETS, "order_id");
    return spark.table("items");
  }

  private Dataset<Row> bucketedOrders(SparkSession spark, int buckets) {
    Bucketing.writeBucketed(orders, "orders", buckets, "order_id");
    return spark.table("orders");
  }

  private static int sorts(Dataset<Row> query) {
    return Observed.of(query).nodes(SortExec.class).size();
  }

  @Test
  void equalBucketsJoinWithoutAnExchangeInATaskEach(SparkSession spark) {
    Dataset<Row> plain = Bucketing.withOrders(items, orders);
    Dataset<Row> bucketed =
        Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, BUCKETS));

    QueryProfile before = QueryProfile.of(plain);
    assertThat(before.exchanges()).isEqualTo(Map.of("hash", 2));
    assertThat(before.shuffleBytes()).isGreaterThan(2 * ITEMS);
    QueryProfile after = QueryProfile.of(bucketed);
    assertThat(after.joins()).containsExactly("SortMergeJoin");
    assertThat(after.exchanges()).isEmpty();
    assertThat(after.shuffleBytes()).isZero();
    assertThat(after.tasks()).isEqualTo(BUCKETS);
    assertThat(bucketed).hasSameRowsAs(plain);
  }

  @Test
  void theRowsAreThoseOfPlainJava(SparkSession spark) {
    Map<Long, Long> customers =
        orders.collectAsList().stream()
            .collect(toMap(o -> o.getAs("order_id"), o -> o.getAs("customer_id")));
    assertThat(customers).hasSize(ORDERS);

    assertThat(Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, BUCKETS)))
        .hasRows(
            items.collectAsList().stream()
                .map(
                    i ->
                        row(
                            i.getAs("order_id"),
                            i.getAs("order_item_id"),
                            i.getAs("product_id"),
                            customers.get(i.<Long>getAs("order_id"))))
                .toArray(Row[]::new));
  }

  @Test
  void aChangedBucketCountBringsOneExchangeBack(SparkSession spark) {
    Dataset<Row> join = Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, 4));

    assertThat(QueryProfile.of(join).exchanges()).isEqualTo(Map.of("hash", 1));

    Bucketing.joinUnequalBuckets(spark);

    QueryProfile coalesced = QueryProfile.of(join);
    assertThat(coalesced.exchanges()).isEmpty();
    assertThat(coalesced.tasks()).isEqualTo(4);
    assertThat(join).hasSameRowsAs(Bucketing.withOrders(items, orders));
  }

  @Test
  void countsThatAreNoMultiplesAreNotReadAsOne(SparkSession spark) {
    Bucketing.joinUnequalBuckets(spark);

    assertThat(
            QueryProfile.of(Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, 3)))
                .exchanges())
        .isEqualTo(Map.of("hash", 1));
  }

  @Test
  void oneSideInBucketsSparesOneExchangeAndSetsTheOthersPartitions(SparkSession spark) {
    Observed run = Observed.of(Bucketing.withOrders(bucketedItems(spark), orders));

    // 8, where spark.sql.shuffle.partitions is 3.
    assertThat(run.nodes(ShuffleExchangeExec.class))
        .hasSize(1)
        .allMatch(exchange -> exchange.outputPartitioning().numPartitions() == BUCKETS);
  }

  @Test
  void aKeyOfAnotherTypeHasNoUseForTheBuckets(SparkSession spark) {
    orders = orders.selectExpr("CAST(order_id AS INT) AS order_id", "customer_id");

    Dataset<Row> join = Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, BUCKETS));

    assertThat(QueryProfile.of(join).exchanges()).isEqualTo(Map.of("hash", 1));
  }

  @Test
  void aJoinByMoreThanTheKeyShufflesBothUnlessToldNotTo(SparkSession spark) {
    Dataset<Row> left = bucketedItems(spark);
    Dataset<Row> right = bucketedOrders(spark, BUCKETS);
    Column both =
        left.col("order_id")
            .equalTo(right.col("order_id"))
            .and(left.col("product_id").equalTo(right.col("customer_id")));
    Dataset<Row> join = left.join(right, both);
    assertThat(QueryProfile.of(join).exchanges()).isEqualTo(Map.of("hash", 2));
    long rows = join.count();

    Bucketing.joinByMoreThanTheKey(spark);

    assertThat(QueryProfile.of(join).exchanges()).isEmpty();
    assertThat(join).hasRowCount(rows);
    assertThat(rows).isPositive();
  }

  @Test
  void groupsAndWindowsByTheKeyNeedNoExchangeAndOthersDo(SparkSession spark) {
    Dataset<Row> bucketed = bucketedItems(spark);

    assertThat(QueryProfile.of(bucketed.groupBy("order_id").count()).exchanges()).isEmpty();
    assertThat(
            QueryProfile.of(bucketed.groupBy("order_id").agg(count_distinct(col("product_id"))))
                .exchanges())
        .isEmpty();
    assertThat(QueryProfile.of(bucketed.groupBy("order_id", "product_id").count()).exchanges())
        .isEmpty();
    assertThat(
            QueryProfile.of(bucketed.selectExpr("count(*) OVER (PARTITION BY order_id) AS items"))
                .exchanges())
        .isEmpty();
    assertThat(QueryProfile.of(bucketed.groupBy("product_id").count()).exchanges())
        .isEqualTo(Map.of("hash", 1));
    assertThat(bucketed.groupBy("order_id").count())
        .hasSameRowsAs(items.groupBy("order_id").count());
  }

  @Test
  void sortedBucketsAreSortedAgainUnlessTrusted(SparkSession spark) {
    Dataset<Row> join = Bucketing.withOrders(bucketedItems(spark), bucketedOrders(spark, BUCKETS));
    assertThat(sorts(join)).isEqualTo(2);

    Bucketing.trustSortedBuckets(spark);

    assertThat(sorts(join)).isZero();
    assertThat(join).hasSameRowsAs(Bucketing.withOrders(items, orders));

    // A second file in a bucket, and the order within the bucket is gone.
    spark.sql("INSERT INTO orders SELECT order_id + 10000, customer_id FROM orders");
    Dataset<Row> after = Bucketing.withOrders(spark.table("items"), spark.table("orders"));
    assertThat(sorts(after)).isEqualTo(1);
    assertThat(QueryProfile.of(after).exchanges()).isEmpty();
    assertThat(after).hasSameRowsAs(Bucketing.withOrders(items, orders));
  }

  @Test
  void eachTaskWritesAFileForEachBucketUnlessItsRowsComeTogetherBefore(SparkSession spark) {
    Bucketing.writeBucketedByEachTask(orders.repartition(5), "by_task", BUCKETS, "order_id");

    assertThat(spark.table("by_task").inputFiles()).hasSize(5 * BUCKETS);
    assertThat(bucketedOrders(spark, BUCKETS).inputFiles()).hasSize(BUCKETS);
    assertThat(spark.table("by_task")).hasSameRowsAs(orders);
    assertThat(spark.table("orders")).hasSameRowsAs(orders);
    // They join alike.
    Dataset<Row> join = Bucketing.withOrders(bucketedItems(spark), spark.table("by_task"));
    assertThat(QueryProfile.of(join).exchanges()).isEmpty();
  }

  @Test
  void aFilterOnOneKeyReadsOneBucketAndARangeReadsAll(SparkSession spark) {
    Dataset<Row> bucketed = bucketedItems(spark);
    long ofTheBucket = items.where("pmod(hash(order_id), 8) = pmod(hash(77L), 8)").count();

    QueryProfile one = QueryProfile.of(bucketed.where("order_id = 77"));
    QueryProfile range = QueryProfile.of(bucketed.where("order_id BETWEEN 77 AND 78"));

    assertThat(one.rowsRead()).isEqualTo(ofTheBucket).isBetween(ITEMS / 16L, ITEMS / 4L);
    assertThat(one.tasks()).isEqualTo(1);
    assertThat(range.rowsRead()).isEqualTo(ITEMS);
  }

  @Test
  void aScanThatHasNoUseForTheBucketsIsNotATaskEach(SparkSession spark) {
    assertThat(QueryProfile.of(bucketedItems(spark).where("product_id > 3")).tasks())
        .isLessThan(BUCKETS);
  }

  @Test
  void filesThatAreReadByTheirPathHaveNoBuckets(SparkSession spark) {
    String[] files = bucketedOrders(spark, BUCKETS).inputFiles();

    Dataset<Row> join = Bucketing.withOrders(bucketedItems(spark), spark.read().parquet(files));

    assertThat(QueryProfile.of(join).exchanges()).isEqualTo(Map.of("hash", 1));
  }

  @Test
  void deltaRefusesBuckets(SparkSession spark) {
    assertRefused(
        "DELTA_OPERATION_NOT_ALLOWED_DETAIL",
        () -> orders.write().format("delta").bucketBy(8, "order_id").saveAsTable("delta_orders"));
    assertRefused(
        "DELTA_OPERATION_NOT_ALLOWED_DETAIL",
        () ->
            spark.sql(
                "CREATE TABLE delta_orders (order_id BIGINT) USING delta CLUSTERED BY (order_id)"
                    + " INTO 8 BUCKETS"));

    assertThat(spark.catalog().tableExists("delta_orders")).isFalse();
  }

  @Test
  void otherBucketsThanTheTablesAreRefusedAndNothingIsWritten(SparkSession spark) {
    bucketedOrders(spark, BUCKETS);

    assertRefused(
        "_LEGACY_ERROR_TEMP_1164",
        () ->
            orders
                .write()
                .format("parquet")
                .mode("append")
                .bucketBy(4, "order_id")
                .saveAsTable("orders"));
    assertRefused(
        "TABLE_OR_VIEW_ALREADY_EXISTS",
        () -> Bucketing.writeBucketed(orders, "orders", 4, "order_id"));

    assertThat(spark.table("orders")).hasRowCount(ORDERS);
  }

  @Test
  void bucketsWithoutATableOrAColumnAreRefused(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "_LEGACY_ERROR_TEMP_1312",
        () ->
            orders.write().format("parquet").bucketBy(8, "order_id").save(sandbox.path("orders")));
    assertRefused(
        "COLUMN_NOT_DEFINED_IN_TABLE",
        () -> Bucketing.writeBucketedByEachTask(orders, "orders", 8, "no_such_column"));
    assertRefused(
        "INVALID_BUCKET_COUNT",
        () -> Bucketing.writeBucketedByEachTask(orders, "orders", 0, "order_id"));

    assertThat(spark.catalog().tableExists("orders")).isFalse();
  }
}
