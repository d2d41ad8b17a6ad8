package com.example.lakehouse.common;

import static org.apache.spark.sql.functions.broadcast;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import io.delta.tables.DeltaTable;
import java.io.File;
import java.net.URI;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SaveMode;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class QueryProfileTest {

  @Test
  void countsTheFilesThatAPartitionFilterLeaves(SparkSession spark, Sandbox sandbox) {
    spark
        .range(0, 40, 1, 1)
        .withColumn("day", col("id").mod(4))
        .write()
        .partitionBy("day")
        .parquet(sandbox.path("days"));

    QueryProfile profile =
        QueryProfile.of(spark.read().parquet(sandbox.path("days")).where("day = 2"));

    assertThat(profile.filesRead()).isEqualTo(1);
    assertThat(profile.filesPruned()).isEqualTo(3);
    assertThat(profile.rowsRead()).isEqualTo(10);
    assertThat(profile.rowsOut()).hasValue(10);
    assertThat(profile.bytesRead()).isPositive();
    assertThat(profile.exchanges()).isEmpty();
    assertThat(profile.joins()).isEmpty();
  }

  @Test
  void countsTheFilesThatDeltasStatisticsLeave(SparkSession spark, Sandbox sandbox) {
    spark.range(0, 100, 1, 5).write().format("delta").saveAsTable("numbers");

    QueryProfile profile = QueryProfile.of(spark.table("numbers").where("id BETWEEN 15 AND 24"));

    assertThat(profile.filesRead()).isEqualTo(2);
    assertThat(profile.filesPruned()).isEqualTo(3);
    assertThat(profile.rowsRead()).isEqualTo(40);
    assertThat(profile.rowsOut()).hasValue(10);
  }

  @Test
  void countsTheBytesOfTheColumnsThatAreRead(SparkSession spark, Sandbox sandbox) {
    spark
        .range(0, 20_000, 1, 1)
        .selectExpr("id", "repeat(uuid(), 2) AS text")
        .write()
        .parquet(sandbox.path("texts"));
    Dataset<Row> texts = spark.read().parquet(sandbox.path("texts"));
    long size = new File(URI.create(texts.inputFiles()[0])).length();

    assertThat(QueryProfile.of(texts.select("text")).bytesRead())
        .as("bytes read of a file of %d", size)
        .isBetween(size / 2, size + size / 10);
    assertThat(QueryProfile.of(texts.select("id")).bytesRead()).isLessThan(size / 5);
  }

  @Test
  void countsOneTaskForEachPartition(SparkSession spark) {
    assertThat(QueryProfile.of(spark.range(0, 100, 1, 3)).tasks()).isEqualTo(3);
  }

  @Test
  void namesABroadcastJoinAndSeesNoShuffle(SparkSession spark) {
    QueryProfile profile =
        QueryProfile.of(spark.range(1000).join(broadcast(spark.range(10).toDF()), "id"));

    assertThat(profile.joins()).containsExactly("BroadcastHashJoin");
    assertThat(profile.exchanges()).isEqualTo(Map.of("broadcast", 1));
    assertThat(profile.shuffles()).isZero();
    assertThat(profile.shuffleBytes()).isZero();
    assertThat(profile.rowsOut()).hasValue(10);
  }

  @Test
  void namesASortMergeJoinAndItsTwoExchanges(SparkSession spark) {
    QueryProfile profile =
        QueryProfile.of(spark.range(1000).hint("merge").join(spark.range(500).toDF(), "id"));

    assertThat(profile.joins()).containsExactly("SortMergeJoin");
    assertThat(profile.exchanges()).isEqualTo(Map.of("hash", 2));
    assertThat(profile.shuffles()).isEqualTo(2);
    assertThat(profile.shuffleBytes()).isPositive();
  }

  @Test
  void reportsTheFinalPlanOfAdaptiveExecution(SparkSession spark, Sandbox sandbox) {
    // The size of the filtered side is known only when it has run.
    spark.range(0, 20_000, 1, 2).write().parquet(sandbox.path("left"));
    spark.range(0, 20_000, 1, 2).write().parquet(sandbox.path("right"));
    Dataset<Row> left = spark.read().parquet(sandbox.path("left"));
    Dataset<Row> right = spark.read().parquet(sandbox.path("right")).where("id % 1000 = 0");
    String before = spark.conf().get("spark.sql.autoBroadcastJoinThreshold");
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "2k");
    try {
      Dataset<Row> joined = left.join(right, "id");
      assertThat(joined.queryExecution().executedPlan().toString()).contains("SortMergeJoin");

      assertThat(QueryProfile.of(joined).joins()).containsExactly("BroadcastHashJoin");
    } finally {
      spark.conf().set("spark.sql.autoBroadcastJoinThreshold", before);
    }
  }

  @Test
  void tellsTheKindsOfExchangesApart(SparkSession spark) {
    Dataset<Row> numbers = spark.range(0, 100, 1, 2).toDF();

    assertThat(QueryProfile.of(numbers.agg(sum("id"))).exchanges()).isEqualTo(Map.of("single", 1));
    assertThat(QueryProfile.of(numbers.orderBy(col("id").desc())).exchanges())
        .isEqualTo(Map.of("range", 1));
    assertThat(QueryProfile.of(numbers.repartition(3)).exchanges())
        .isEqualTo(Map.of("round robin", 1));
    assertThat(QueryProfile.of(numbers.groupBy(col("id").mod(3)).agg(count(lit(1)))).exchanges())
        .isEqualTo(Map.of("hash", 1));
  }

  @Test
  void countsAnExchangeThatTwoBranchesShareOnce(SparkSession spark) {
    Dataset<Row> totals = spark.range(100).groupBy(col("id").mod(5).as("k")).agg(count(lit(1)));

    assertThat(QueryProfile.of(totals.union(totals)).exchanges())
        .isEqualTo(Map.of("hash", 1, "reused", 1));
  }

  @Test
  void countsSpilledBytes(SparkSession spark) {
    String rows = "SELECT id, sum(id) OVER (PARTITION BY id % 2) FROM range(10000)";
    assertThat(QueryProfile.of(spark.sql(rows)).spillBytes()).isZero();
    spark.conf().set("spark.sql.windowExec.buffer.in.memory.threshold", "10");
    spark.conf().set("spark.sql.windowExec.buffer.spill.threshold", "1000");
    try {
      assertThat(QueryProfile.of(spark.sql(rows)).spillBytes()).isPositive();
    } finally {
      spark.conf().unset("spark.sql.windowExec.buffer.in.memory.threshold");
      spark.conf().unset("spark.sql.windowExec.buffer.spill.threshold");
    }
  }

  @Test
  void addsUpTheQueriesThatOneCommandRuns(SparkSession spark, Sandbox sandbox) {
    spark.range(0, 100, 1, 5).write().format("delta").saveAsTable("numbers");

    QueryProfile profile =
        QueryProfile.of(
            spark,
            () ->
                DeltaTable.forName(spark, "numbers")
                    .as("n")
                    .merge(spark.range(15, 25).toDF().as("c"), "n.id = c.id")
                    .whenMatched()
                    .delete()
                    .execute());

    assertThat(profile.plans()).hasSizeGreaterThan(1);
    assertThat(String.join("", profile.plans())).doesNotContain("Delta Table State");
    assertThat(profile.joins()).isNotEmpty();
    assertThat(profile.filesRead()).isPositive();
  }

  @Test
  void leavesOutWhatRanBefore(SparkSession spark) {
    spark.range(100).write().format("noop").mode(SaveMode.Overwrite).save();

    QueryProfile nothing = QueryProfile.of(spark, () -> {});

    assertThat(nothing.tasks()).isZero();
    assertThat(nothing.plans()).isEmpty();
    assertThat(nothing.rowsOut()).isEmpty();
  }

  @Test
  void passesOnAnErrorOfTheQuery(SparkSession spark) {
    assertThatThrownBy(() -> QueryProfile.of(spark.sql("SELECT raise_error('no') FROM range(1)")))
        .hasMessageContaining("no");
  }
}
