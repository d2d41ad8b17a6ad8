package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static java.util.stream.Collectors.groupingBy;
import static org.apache.spark.sql.functions.col;
import static org.assertj.core.api.Assertions.assertThat;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.CoalescedPartitionSpec;
import org.apache.spark.sql.execution.adaptive.AQEShuffleReadExec;
import org.apache.spark.sql.execution.joins.BroadcastHashJoinExec;
import org.apache.spark.sql.execution.joins.SortMergeJoinExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class AdaptiveExecutionTest {
  private static final long ITEMS = 30_000;
  private static final int MAP_TASKS = 4;
  private static final int PARTITIONS = 50;

  private Dataset<Row> items;
  private Dataset<Row> products;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", MAP_TASKS);
    spark.conf().set("spark.sql.shuffle.partitions", PARTITIONS);
    SampleData data = SampleData.of(spark).rows(ITEMS);
    items = data.orderItems();
    // Stored: of generated rows Spark knows what a filter on the name says of the key, and filters
    // the items too.
    data.products().write().format("parquet").saveAsTable("products");
    products = spark.table("products");
  }

  private Dataset<Row> fewProducts() {
    return products.where("name LIKE 'Quiet%'");
  }

  private Dataset<Row> noProducts() {
    return products.where("name LIKE '%Unicorn%'");
  }

  private static void broadcastAtRunTime(SparkSession spark) {
    spark.conf().set("spark.sql.adaptive.autoBroadcastJoinThreshold", 5_000);
  }

  private static List<Long> bytesOfPartitions(Observed run) {
    return run.nodes(AQEShuffleReadExec.class).stream()
        .flatMap(read -> asJava(read.partitionSpecs()).stream())
        .map(spec -> (Long) ((CoalescedPartitionSpec) spec).dataSize().get())
        .toList();
  }

  @Test
  void asPlannedEachPartitionIsATaskAndAdaptedTheyArePutTogether(SparkSession spark) {
    Dataset<Row> sales = AdaptiveExecution.salesByProduct(items);

    AdaptiveExecution.adapt(spark, false);
    Observed planned = Observed.of(sales);
    assertThat(planned.rowsOfTasks()).hasSize(PARTITIONS);
    assertThat(planned.finalPlan()).isEqualTo(planned.initialPlan());
    assertThat(QueryProfile.of(sales).tasks()).isEqualTo(MAP_TASKS + PARTITIONS);

    AdaptiveExecution.adapt(spark, true);
    Observed adapted = Observed.of(sales);
    assertThat(adapted.initialPlan()).isEqualTo(planned.initialPlan());
    assertThat(adapted.finalPlan())
        .contains("  AQEShuffleRead coalesced, partitions: 1", "    Exchange, partitions: 50");
    assertThat(QueryProfile.of(sales).tasks()).isEqualTo(MAP_TASKS + 1);
    assertThat(adapted.allRows()).isEqualTo(planned.allRows());
  }

  @Test
  void theRowsAreThoseOfPlainJavaEitherWay(SparkSession spark) {
    Row[] expected =
        items.collectAsList().stream()
            .collect(groupingBy(i -> i.<Long>getAs("product_id")))
            .entrySet()
            .stream()
            .map(
                product ->
                    row(
                        product.getKey(),
                        (long) product.getValue().size(),
                        product.getValue().stream()
                            .mapToLong(i -> i.<Integer>getAs("quantity"))
                            .sum()))
            .toArray(Row[]::new);
    assertThat(expected).hasSize(150);

    for (boolean on : new boolean[] {true, false}) {
      AdaptiveExecution.adapt(spark, on);
      assertThat(AdaptiveExecution.salesByProduct(items)).hasRows(expected);
    }
  }

  @Test
  void partitionsGetTheSizeThatIsAskedFor(SparkSession spark) {
    AdaptiveExecution.partitionsOf(spark, 64 << 10);

    List<Long> bytes = bytesOfPartitions(Observed.of(items.repartition(col("order_item_id"))));

    // About: small ones are added to their neighbour.
    assertThat(bytes).hasSizeGreaterThan(4).allMatch(b -> b > 32 << 10 && b < 128 << 10);
  }

  @Test
  void allThatFitsIntoOneIsOneAndNotOneForEachCore(SparkSession spark) {
    AdaptiveExecution.partitionsOf(spark, 64 << 20);
    // 8 bytes each that do not compress.
    Dataset<Row> hashes = spark.range(600_000).selectExpr("xxhash64(id) AS hash");

    List<Long> bytes = bytesOfPartitions(Observed.of(hashes.repartition(col("hash"))));

    assertThat(bytes).hasSize(1).first().satisfies(b -> assertThat(b).isGreaterThan(4_000_000));
  }

  @Test
  void aTargetBelowAMegabyteHasNoEffectByItself(SparkSession spark) {
    spark.conf().set("spark.sql.adaptive.coalescePartitions.parallelismFirst", false);
    spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", 64 << 10);

    Observed run = Observed.of(items.repartition(col("order_item_id")));

    assertThat(bytesOfPartitions(run)).hasSize(1);
  }

  @Test
  void fewPartitionsAreNotMadeMany(SparkSession spark) {
    spark.conf().set("spark.sql.shuffle.partitions", 3);
    AdaptiveExecution.partitionsOf(spark, 1_000);

    assertThat(Observed.of(AdaptiveExecution.withProducts(items, products)).rowsOfTasks())
        .hasSize(3);
  }

  @Test
  void aShuffleIsReadWhereItWasWrittenWhenTheJoinIsBroadcastAfterAll(SparkSession spark) {
    broadcastAtRunTime(spark);
    Dataset<Row> join = AdaptiveExecution.withProducts(items, fewProducts());

    Observed run = Observed.of(join);

    assertThat(run.initialPlan()).contains("  SortMergeJoin");
    assertThat(run.finalPlan()).contains("  BroadcastHashJoin");
    assertThat(run.nodes(AQEShuffleReadExec.class))
        .hasSize(2)
        .allMatch(AQEShuffleReadExec::isLocalRead);

    spark.conf().set("spark.sql.adaptive.localShuffleReader.enabled", false);

    assertThat(Observed.of(join).nodes(AQEShuffleReadExec.class))
        .hasSize(2)
        .noneMatch(AQEShuffleReadExec::isLocalRead);
  }

  @Test
  void aSideWithRowsInFewPartitionsIsNotBroadcast(SparkSession spark) {
    broadcastAtRunTime(spark);
    // One row, in one partition of 50: most tasks of a sort-merge join have nothing to do.
    Dataset<Row> join = AdaptiveExecution.withProducts(items, products.where("name LIKE '% 77'"));
    assertThat(Observed.of(join).nodes(SortMergeJoinExec.class)).hasSize(1);

    spark.conf().set("spark.sql.adaptive.nonEmptyPartitionRatioForBroadcastJoin", "0.01");

    assertThat(Observed.of(join).nodes(BroadcastHashJoinExec.class)).hasSize(1);
  }

  @Test
  void itIsReadByKeyWhereAGroupNeedsTheKeysTogether(SparkSession spark) {
    broadcastAtRunTime(spark);
    Dataset<Row> sales =
        AdaptiveExecution.withProducts(items, fewProducts()).groupBy("product_id").count();

    Observed run = Observed.of(sales);

    assertThat(run.nodes(BroadcastHashJoinExec.class)).hasSize(1);
    // The products' side only: the items' order spares the group a shuffle of its own.
    assertThat(run.nodes(AQEShuffleReadExec.class).stream().filter(AQEShuffleReadExec::isLocalRead))
        .hasSize(1);
    assertThat(QueryProfile.of(sales).exchanges()).isEqualTo(Map.of("hash", 2, "broadcast", 1));
  }

  @Test
  void aJoinWithNothingDisappears(SparkSession spark) {
    Observed run = Observed.of(AdaptiveExecution.withProducts(items, noProducts()));

    assertThat(run.initialPlan()).contains("  SortMergeJoin");
    assertThat(run.finalPlan()).containsExactly("EmptyRelation");
    assertThat(AdaptiveExecution.withProducts(items, noProducts())).isEmpty();
  }

  @Test
  void ofAnOuterJoinWithNothingTheOtherSideIsLeft(SparkSession spark) {
    Dataset<Row> none = noProducts();
    Column key = items.col("product_id").equalTo(none.col("product_id"));

    for (String type : List.of("left", "left_anti")) {
      Dataset<Row> join = items.join(none, key, type);
      Observed run = Observed.of(join);
      assertThat(run.initialPlan()).as(type).anyMatch(line -> line.contains("SortMergeJoin"));
      assertThat(run.nodes(SortMergeJoinExec.class)).as(type).isEmpty();
      assertThat(join).as(type).hasRowCount(ITEMS);
    }
    assertThat(Observed.of(items.join(none, key, "left_semi")).finalPlan())
        .containsExactly("EmptyRelation");
  }

  @Test
  void whenABroadcastIsEmptyTheOtherSideIsNotRead(SparkSession spark) {
    items.write().format("parquet").saveAsTable("items");
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", 10L << 20);
    Dataset<Row> stored = spark.table("items");

    QueryProfile few = QueryProfile.of(AdaptiveExecution.withProducts(stored, fewProducts()));
    QueryProfile none = QueryProfile.of(AdaptiveExecution.withProducts(stored, noProducts()));

    assertThat(few.rowsRead()).isEqualTo(ITEMS + products.count());
    assertThat(none.rowsRead()).isEqualTo(products.count());

    AdaptiveExecution.adapt(spark, false);
    assertThat(QueryProfile.of(AdaptiveExecution.withProducts(stored, noProducts())).rowsRead())
        .isEqualTo(ITEMS + products.count());
  }

  @Test
  void explainShowsTheFinalPlanOfADatasetThatWasCollected(SparkSession spark) {
    Dataset<Row> sales = AdaptiveExecution.salesByProduct(items);
    assertThat(AdaptiveExecution.plan(sales))
        .contains("isFinalPlan=false")
        .doesNotContain("AQEShuffleRead");

    sales.count();
    sales.write().format("noop").mode("overwrite").save();
    assertThat(AdaptiveExecution.plan(sales)).contains("isFinalPlan=false");

    sales.collectAsList();
    assertThat(AdaptiveExecution.plan(sales))
        .containsSubsequence(
            "isFinalPlan=true", "Final Plan", "AQEShuffleRead coalesced", "Initial Plan");
  }

  @Test
  void aNumberOfPartitionsThatIsAskedForIsKept(SparkSession spark) {
    assertThat(Observed.of(items.repartition(20)).rowsOfTasks()).hasSize(20);
    assertThat(Observed.of(items.repartition(20, col("product_id"))).rowsOfTasks()).hasSize(20);
    assertThat(Observed.of(items.repartition(col("product_id"))).rowsOfTasks()).hasSize(1);
  }

  @Test
  void aQueryWithoutAShuffleIsNotAdaptive(SparkSession spark) {
    assertThat(AdaptiveExecution.plan(items.where("quantity > 3")))
        .doesNotContain("AdaptiveSparkPlan");
  }

  @Test
  void aPlannedBroadcastIsNotTakenBack(SparkSession spark) {
    spark
        .range(1_000)
        .selectExpr("id AS product_id", "repeat('x', 1000) AS note")
        .coalesce(1)
        .write()
        .format("parquet")
        .saveAsTable("notes");
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", 100_000);
    spark.conf().set("spark.sql.adaptive.autoBroadcastJoinThreshold", 100_000);

    Observed run = Observed.of(AdaptiveExecution.withProducts(items, spark.table("notes")));

    // A million letters in memory, a few kilobytes as a file.
    assertThat(run.nodes(BroadcastHashJoinExec.class)).hasSize(1);
    assertThat(run.finalPlan()).isEqualTo(run.initialPlan());
  }
}
