package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static java.util.stream.Collectors.counting;
import static java.util.stream.Collectors.groupingBy;
import static java.util.stream.Collectors.toMap;
import static org.apache.spark.sql.functions.broadcast;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import java.math.BigInteger;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.SortExec;
import org.apache.spark.sql.execution.exchange.BroadcastExchangeExec;
import org.apache.spark.sql.execution.joins.BroadcastHashJoinExec;
import org.apache.spark.sql.execution.joins.SortMergeJoinExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class BroadcastJoinTest {
  private static final long ITEMS = 30_000;

  private Dataset<Row> items;
  private Dataset<Row> products;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    SampleData data = SampleData.of(spark).rows(ITEMS);
    items = data.orderItems();
    // Stored: of generated rows Spark knows what a filter on the name says of the key, and filters
    // the items too.
    data.products().write().format("parquet").saveAsTable("products");
    products = spark.table("products");
    neverBroadcast(spark);
  }

  /** Without a hint. */
  private static void neverBroadcast(SparkSession spark) {
    BroadcastJoin.broadcastUpTo(spark, -1);
    BroadcastJoin.broadcastAtRunTimeUpTo(spark, -1);
  }

  @Test
  void aBroadcastTakesThePlaceOfTwoShufflesAndTwoSorts(SparkSession spark) {
    Dataset<Row> merged = BroadcastJoin.withProducts(items, products, "merge");
    Dataset<Row> broadcast = BroadcastJoin.withProductsBroadcast(items, products);

    QueryProfile before = QueryProfile.of(merged);
    QueryProfile after = QueryProfile.of(broadcast);
    assertThat(before.joins()).containsExactly("SortMergeJoin");
    assertThat(before.exchanges()).isEqualTo(Map.of("hash", 2));
    // More than 4 bytes for each item.
    assertThat(before.shuffleBytes()).isGreaterThan(4 * ITEMS);
    assertThat(Observed.of(merged).nodes(SortExec.class)).hasSize(2);
    assertThat(after.joins()).containsExactly("BroadcastHashJoin");
    assertThat(after.exchanges()).isEqualTo(Map.of("broadcast", 1));
    assertThat(after.shuffleBytes()).isZero();
    assertThat(Observed.of(broadcast).nodes(SortExec.class)).isEmpty();
    assertThat(broadcast).hasSameRowsAs(merged);
    assertThat(broadcast).hasRowCount(ITEMS);
  }

  @Test
  void everyStrategyFindsWhatPlainJavaFinds(SparkSession spark) {
    Map<Long, String> categories =
        products.collectAsList().stream()
            .collect(toMap(p -> p.getAs("product_id"), p -> p.getAs("category")));
    Row[] expected =
        items.collectAsList().stream()
            .collect(groupingBy(i -> categories.get(i.<Long>getAs("product_id")), counting()))
            .entrySet()
            .stream()
            .map(category -> row(category.getKey(), category.getValue()))
            .toArray(Row[]::new);
    assertThat(expected).hasSize(5);

    Map.of(
            "broadcast", "BroadcastHashJoin",
            "merge", "SortMergeJoin",
            "shuffle_hash", "ShuffledHashJoin",
            "shuffle_replicate_nl", "CartesianProduct")
        .forEach(
            (hint, strategy) -> {
              Dataset<Row> sales =
                  BroadcastJoin.withProducts(items, products, hint).groupBy("category").count();
              assertThat(QueryProfile.of(sales).joins()).containsExactly(strategy);
              assertThat(sales).as(hint).hasRows(expected);
            });
  }

  @Test
  void theEstimateIsComparedWithTheThreshold(SparkSession spark) {
    long estimate = BroadcastJoin.estimatedBytes(products).longValueExact();
    Dataset<Row> join = BroadcastJoin.withProducts(items, products);

    BroadcastJoin.broadcastUpTo(spark, estimate);
    assertThat(QueryProfile.of(join).joins()).containsExactly("BroadcastHashJoin");

    BroadcastJoin.broadcastUpTo(spark, estimate - 1);
    assertThat(QueryProfile.of(join).joins()).containsExactly("SortMergeJoin");
  }

  @Test
  void aFilterDoesNotChangeTheEstimate(SparkSession spark) {
    Dataset<Row> few = products.where("name LIKE '% 77'");

    assertThat(few).hasRowCount(1);
    assertThat(BroadcastJoin.estimatedBytes(few)).isEqualTo(BroadcastJoin.estimatedBytes(products));
  }

  @Test
  void aFilterThatLeavesOutDeltasFilesLowersTheEstimate(SparkSession spark) {
    items.write().format("delta").partitionBy("quantity").saveAsTable("items");
    Dataset<Row> table = spark.table("items");

    long all = BroadcastJoin.estimatedBytes(table).longValueExact();

    assertThat(BroadcastJoin.estimatedBytes(table.where("quantity = 3")).longValueExact())
        .isBetween(1L, all / 2);
  }

  @Test
  void whatTurnsOutSmallIsBroadcastAtRunTimeAfterTheShuffle(SparkSession spark) {
    Dataset<Row> few = products.where("name LIKE '% 77'");
    Dataset<Row> join = BroadcastJoin.withProducts(items, few);

    Observed stays = Observed.of(join);
    assertThat(stays.nodes(SortMergeJoinExec.class)).hasSize(1);

    BroadcastJoin.broadcastAtRunTimeUpTo(spark, 1_000);

    Observed switches = Observed.of(join);
    assertThat(switches.initialPlan()).isEqualTo(stays.initialPlan());
    assertThat(switches.initialPlan()).anyMatch(line -> line.contains("SortMergeJoin"));
    assertThat(switches.nodes(BroadcastHashJoinExec.class)).hasSize(1);
    assertThat(switches.nodes(SortExec.class)).isEmpty();
    QueryProfile late = QueryProfile.of(join);
    assertThat(late.joins()).containsExactly("BroadcastHashJoin");
    assertThat(late.exchanges()).isEqualTo(Map.of("hash", 2, "broadcast", 1));
    // The items had gone through the shuffle by then. A hint, which is known before, spares that.
    assertThat(late.shuffleBytes()).isGreaterThan(4 * ITEMS);
    Dataset<Row> hinted = BroadcastJoin.withProductsBroadcast(items, few);
    assertThat(QueryProfile.of(hinted).shuffleBytes()).isZero();
    assertThat(join).hasSameRowsAs(hinted);
  }

  @Test
  void compressedFilesAreTakenForASmallTable(SparkSession spark) {
    spark
        .range(2_000)
        .selectExpr("id AS product_id", "repeat('As described. ', 100) AS description")
        .coalesce(1)
        .write()
        .format("delta")
        .saveAsTable("descriptions");
    Dataset<Row> join = BroadcastJoin.withProducts(items, spark.table("descriptions"));
    long threshold = 1L << 20;
    assertThat(BroadcastJoin.estimatedBytes(spark.table("descriptions")))
        .isLessThan(BigInteger.valueOf(100_000));

    BroadcastJoin.broadcastUpTo(spark, threshold);
    // 2,000 times 1,400 letters.
    assertThat(broadcastBytes(Observed.of(join))).isGreaterThan(2_800_000);

    // Measured, they are too many.
    BroadcastJoin.broadcastUpTo(spark, -1);
    BroadcastJoin.broadcastAtRunTimeUpTo(spark, threshold);
    assertThat(QueryProfile.of(join).joins()).containsExactly("SortMergeJoin");
  }

  private static long broadcastBytes(Observed run) {
    return run.nodes(BroadcastExchangeExec.class).stream()
        .mapToLong(exchange -> exchange.metrics().apply("dataSize").value())
        .sum();
  }

  @Test
  void aTableByABigintKeyTakesAMegabyteAtLeast(SparkSession spark) {
    Dataset<Row> few = products.where("name LIKE '% 77'");

    Observed run = Observed.of(BroadcastJoin.withProductsBroadcast(items, few));

    assertThat(broadcastBytes(run)).isBetween(1L << 20, 1_100_000L);
  }

  @Test
  void aBroadcastThatIsTooLargeFailsTheQuery(SparkSession spark) {
    BroadcastJoin.refuseBroadcastsOver(spark, 1L << 20);

    assertRefused(
        "_LEGACY_ERROR_TEMP_2249",
        () -> BroadcastJoin.withProductsBroadcast(items, products).count());
    assertThatThrownBy(() -> BroadcastJoin.withProductsBroadcast(items, products).count())
        .hasMessageContaining("Cannot broadcast the table that is larger than 1024.0 KiB");

    // Nothing else is wrong with the query, or with the session.
    assertThat(BroadcastJoin.withProducts(items, products)).hasRowCount(ITEMS);
    BroadcastJoin.refuseBroadcastsOver(spark, 2L << 20);
    assertThat(BroadcastJoin.withProductsBroadcast(items, products)).hasRowCount(ITEMS);
  }

  @Test
  void whichStrategyEachKindOfJoinEndsIn(SparkSession spark) {
    Dataset<Row> left = items.limit(200);
    Dataset<Row> right = products.limit(50);
    Column key = left.col("product_id").equalTo(right.col("product_id"));
    Column dearer = left.col("unit_price").gt(right.col("price").multiply(10));
    Map<Dataset<Row>, String> strategies = new LinkedHashMap<>();
    strategies.put(left.join(right, key), "SortMergeJoin");
    strategies.put(left.join(broadcast(right), key, "left"), "BroadcastHashJoin");
    // Each of these would need the side whose rows are all kept as the table to look up in.
    strategies.put(broadcast(left).join(right, key, "left"), "SortMergeJoin");
    strategies.put(left.join(broadcast(right), key, "full"), "SortMergeJoin");
    strategies.put(left.join(right.hint("shuffle_hash"), key, "full"), "ShuffledHashJoin");
    strategies.put(left.join(right, dearer), "CartesianProduct");
    strategies.put(left.join(right, key.or(dearer)), "CartesianProduct");
    strategies.put(left.join(broadcast(right), dearer), "BroadcastNestedLoopJoin");
    // Broadcast without a hint and with a threshold of -1: there is no other way.
    strategies.put(left.join(right, dearer, "left"), "BroadcastNestedLoopJoin");
    strategies.put(left.join(right, dearer, "full"), "BroadcastNestedLoopJoin");
    // Of several hints the first of these counts: broadcast, merge, shuffle_hash.
    strategies.put(left.hint("shuffle_hash").join(right.hint("merge"), key), "SortMergeJoin");
    strategies.put(left.hint("merge").join(broadcast(right), key), "BroadcastHashJoin");

    strategies.forEach(
        (join, strategy) ->
            assertThat(QueryProfile.of(join).joins())
                .as(join.queryExecution().logical().toString())
                .containsExactly(strategy));
  }

  @Test
  void anOuterJoinWithoutAnEqualityFailsWhenItsSideIsTooLarge(SparkSession spark) {
    BroadcastJoin.refuseBroadcastsOver(spark, 1_000);
    Column dearer = items.col("unit_price").gt(products.col("price").multiply(10));

    assertRefused("_LEGACY_ERROR_TEMP_2249", () -> items.join(products, dearer, "left").count());
  }

  @Test
  void smallPartitionsAreHashedAtRunTimeInPlaceOfASort(SparkSession spark) {
    // Not less than the size that partitions are meant to have, 64 MB: else it is not looked at.
    String threshold = "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold";
    spark.conf().set(threshold, "1m");
    Dataset<Row> join = BroadcastJoin.withProducts(items, products);
    assertThat(QueryProfile.of(join).joins()).containsExactly("SortMergeJoin");

    spark.conf().set(threshold, "64m");

    Observed run = Observed.of(join);
    assertThat(run.initialPlan()).anyMatch(line -> line.contains("SortMergeJoin"));
    assertThat(run.finalPlan()).anyMatch(line -> line.contains("ShuffledHashJoin"));
    assertThat(join).hasSameRowsAs(BroadcastJoin.withProducts(items, products, "merge"));
  }

  @Test
  void aMistypedHintIsRefusedByTheSnippetAndIgnoredBySpark(SparkSession spark) {
    assertThatThrownBy(() -> BroadcastJoin.withProducts(items, products, "broadcst"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("no such strategy: broadcst");

    assertThat(QueryProfile.of(items.join(products.hint("broadcst"), "product_id")).joins())
        .containsExactly("SortMergeJoin");
  }
}
