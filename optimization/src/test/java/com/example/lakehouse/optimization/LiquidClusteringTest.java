package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import io.delta.tables.DeltaTable;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.LongStream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class LiquidClusteringTest {
  private static final String FILE_SIZE = "spark.databricks.delta.optimize.maxFileSize";
  private static final String CUBE_SIZE =
      "spark.databricks.delta.optimize.clustering.mergeStrategy.minCubeSize.threshold";

  private SparkSession spark;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    this.spark = spark;
    Measured.generateCode(spark);
  }

  /** Two columns of 2,000 values, one of 8, and the number of the row. */
  private Dataset<Row> rows(long from, long to, int files) {
    return spark
        .range(from, to, 1, files)
        .selectExpr(
            "pmod(xxhash64(id, 1), 2000) AS a",
            "pmod(xxhash64(id, 2), 2000) AS b",
            "pmod(xxhash64(id, 3), 8) AS kind",
            "id");
  }

  private void aFileTakes(String share, String table) {
    long bytes = DeltaTable.forName(spark, table).detail().head().getAs("sizeInBytes");
    spark.conf().set(FILE_SIZE, bytes / Integer.parseInt(share.substring(2)));
  }

  private Set<String> files(String table) {
    return new TreeSet<>(List.of(spark.table(table).inputFiles()));
  }

  private long read(String table, String condition) {
    return QueryProfile.of(spark.table(table).where(condition)).filesRead();
  }

  private Row last(String table) {
    return DeltaTable.forName(spark, table).history(1).head();
  }

  private Map<String, String> metrics(String table) {
    Row last = last(table);
    return last.getJavaMap(last.fieldIndex("operationMetrics"));
  }

  private List<String> keys(String table) {
    return DeltaTable.forName(spark, table).detail().head().getList(keysAt(table));
  }

  private int keysAt(String table) {
    return DeltaTable.forName(spark, table).detail().schema().fieldIndex("clusteringColumns");
  }

  /** The files that a value is in, over all values, by the statistics, as a multiple of √N. */
  private double share(String table, String column) {
    List<Row> ranges =
        ZOrdering.statistics(spark, table, column)
            .selectExpr("CAST(min AS BIGINT)", "CAST(max AS BIGINT)")
            .collectAsList();
    return LongStream.range(0, 2_000)
            .map(v -> ranges.stream().filter(r -> r.getLong(0) <= v && v <= r.getLong(1)).count())
            .average()
            .orElseThrow()
        / Math.sqrt(ranges.size());
  }

  @Test
  void eachLayoutServesItsOwnQueries() {
    Dataset<Row> rows = rows(0, 64_000, 64);
    rows.write().format("delta").saveAsTable("as_written");
    rows.coalesce(8).write().format("delta").partitionBy("kind").saveAsTable("partitioned");
    rows.write().format("delta").saveAsTable("z_ordered");
    LiquidClustering.create(rows, "clustered", "a", "b");
    aFileTakes("1/64", "as_written");
    DeltaTable.forName(spark, "z_ordered").optimize().executeZOrderBy("a", "b");

    // The rows are in the table, but not in order.
    assertThat(read("clustered", "a = 1234")).isEqualTo(64);
    LiquidClustering.cluster(spark, "clustered");

    for (String ordered : List.of("z_ordered", "clustered")) {
      double root = Math.sqrt(files(ordered).size());
      for (String condition : List.of("a = 501", "b = 1234")) {
        assertThat((double) read(ordered, condition))
            .as("%s %s", ordered, condition)
            .isLessThanOrEqualTo(2.5 * root);
      }
      assertThat(read(ordered, "a = 501 AND b = 1234")).isLessThanOrEqualTo(4);
      assertThat(read(ordered, "kind = 3")).isEqualTo(files(ordered).size());
    }
    // Hilbert's curve does not jump: hardly a file reaches into a second range of either column.
    assertThat(share("clustered", "a")).isLessThanOrEqualTo(1.5);
    assertThat(share("clustered", "b")).isLessThanOrEqualTo(1.5);
    assertThat(share("clustered", "a") + share("clustered", "b"))
        .isLessThan(share("z_ordered", "a") + share("z_ordered", "b"));
    assertThat(read("partitioned", "kind = 3")).isEqualTo(8);
    assertThat(read("partitioned", "a = 1234")).isGreaterThanOrEqualTo(20);
    assertThat(read("as_written", "a = 1234")).isEqualTo(64);
    for (String table : List.of("partitioned", "z_ordered", "clustered")) {
      assertThat(spark.table(table)).as(table).hasSameRowsAs(rows);
    }
  }

  @Test
  void newKeysRewriteNoFileUntilOptimizeFull() {
    LiquidClustering.create(rows(0, 16_000, 8), "t", "a", "b");
    aFileTakes("1/16", "t");
    LiquidClustering.cluster(spark, "t");
    Set<String> before = files("t");
    assertThat(read("t", "a = 1234")).isLessThanOrEqualTo(8);

    LiquidClustering.changeKeys(spark, "t", "id");

    assertThat(keys("t")).containsExactly("id");
    assertThat(last("t").<String>getAs("operation")).isEqualTo("CLUSTER BY");
    assertThat(files("t")).isEqualTo(before);
    long version = last("t").getAs("version");
    LiquidClustering.cluster(spark, "t");
    assertThat(last("t").<Long>getAs("version")).isEqualTo(version);

    rows(16_000, 18_000, 4).write().format("delta").mode("append").saveAsTable("t");
    LiquidClustering.cluster(spark, "t");
    assertThat(metrics("t")).containsEntry("numRemovedFiles", "4");
    assertThat(files("t")).containsAll(before);
    // Old rows are in order by a and b still, and not by id.
    assertThat(read("t", "id = 8000")).isGreaterThan(8);
    assertThat(read("t", "id = 17000")).isLessThan(read("t", "id = 8000"));

    LiquidClustering.clusterAll(spark, "t");

    assertThat(Collections.disjoint(files("t"), before)).isTrue();
    assertThat(read("t", "id = 8000")).isLessThanOrEqualTo(2);
    assertThat(read("t", "a = 1234")).isGreaterThan(8);
    assertThat(spark.table("t")).hasSameRowsAs(rows(0, 18_000, 2));
  }

  @Test
  void optimizeRewritesWhatIsNewAndWhatIsBelowTheThreshold() {
    LiquidClustering.create(rows(0, 16_000, 8), "t", "a", "b");
    aFileTakes("1/8", "t");
    LiquidClustering.cluster(spark, "t");
    int clustered = files("t").size();
    long version = last("t").getAs("version");

    LiquidClustering.cluster(spark, "t");
    assertThat(last("t").<Long>getAs("version")).isEqualTo(version);

    rows(16_000, 18_000, 4).write().format("delta").mode("append").saveAsTable("t");
    LiquidClustering.cluster(spark, "t");
    // 100 GB by default: all of it.
    assertThat(metrics("t")).containsEntry("numRemovedFiles", String.valueOf(clustered + 4));

    spark.conf().set(CUBE_SIZE, "10000");
    Set<String> before = files("t");
    rows(18_000, 20_000, 4).write().format("delta").mode("append").saveAsTable("t");
    LiquidClustering.cluster(spark, "t");
    assertThat(metrics("t")).containsEntry("numRemovedFiles", "4");
    assertThat(files("t")).containsAll(before);
    assertThat(spark.table("t")).hasSameRowsAs(rows(0, 20_000, 2));

    // A Z-order of the same rows rewrites all of them, new or not.
    rows(0, 20_000, 8).write().format("delta").saveAsTable("z");
    DeltaTable.forName(spark, "z").optimize().executeZOrderBy("a", "b");
    int all = files("z").size();
    DeltaTable.forName(spark, "z").optimize().executeZOrderBy("a", "b");
    assertThat(metrics("z")).containsEntry("numRemovedFiles", String.valueOf(all));
  }

  @Test
  void withoutKeysOptimizeClustersNoLonger() {
    LiquidClustering.create(rows(0, 4_000, 4), "t", "a", "b");
    Set<String> before = files("t");
    LiquidClustering.removeKeys(spark, "t");
    assertThat(keys("t")).isEmpty();
    assertThat(files("t")).as("nothing is rewritten").isEqualTo(before);

    LiquidClustering.cluster(spark, "t");

    assertThat(files("t")).hasSize(1);
    assertThat(spark.table("t")).hasSameRowsAs(rows(0, 4_000, 1));
    assertRefused(
        "DELTA_OPTIMIZE_FULL_NOT_SUPPORTED", () -> LiquidClustering.clusterAll(spark, "t"));
  }

  @Test
  void aColumnWithoutNullTodayCanHaveOneTomorrow() {
    LiquidClustering.create(rows(0, 10, 1), "t", "a");

    spark.sql("INSERT INTO t VALUES (NULL, NULL, NULL, NULL)");

    assertThat(spark.table("t").where("id IS NULL")).hasRowCount(1);
  }

  @Test
  void noKeyIsRefusedBeforeATableIsMade() {
    assertThatThrownBy(() -> LiquidClustering.create(rows(0, 10, 1), "t"))
        .isInstanceOf(IllegalArgumentException.class);
    assertThat(spark.catalog().tableExists("t")).isFalse();
  }

  @Test
  void aTableThatIsThereGetsKeys() {
    rows(0, 4_000, 4).write().format("delta").saveAsTable("t");
    assertThat(keys("t")).isEmpty();

    LiquidClustering.changeKeys(spark, "t", "a", "kind");
    LiquidClustering.cluster(spark, "t");

    assertThat(keys("t")).containsExactly("a", "kind");
    assertThat(last("t").getJavaMap(last("t").fieldIndex("operationParameters")))
        .containsEntry("clusterBy", "[\"a\",\"kind\"]");
    assertThat(spark.table("t")).hasSameRowsAs(rows(0, 4_000, 1));
  }

  @Test
  void aKeyOfFewValuesBesideOneOfManyHasNoWeight() {
    LiquidClustering.create(rows(0, 16_000, 16), "t", "a", "kind");
    aFileTakes("1/16", "t");
    LiquidClustering.cluster(spark, "t");

    assertThat(read("t", "kind = 3")).isEqualTo(files("t").size()).isGreaterThanOrEqualTo(10);
    assertThat(read("t", "a = 1234")).isLessThanOrEqualTo(2);
  }

  @Test
  void whatDoesNotGoTogetherIsRefused() {
    LiquidClustering.create(rows(0, 100, 1), "t", "a", "b");
    rows(0, 100, 1).write().format("delta").partitionBy("kind").saveAsTable("partitioned");
    long version = last("t").getAs("version");

    assertRefused(
        "DELTA_CLUSTERING_WITH_ZORDER_BY", () -> spark.sql("OPTIMIZE t ZORDER BY (kind)"));
    assertRefused(
        "DELTA_CLUSTERING_WITH_PARTITION_PREDICATE", () -> spark.sql("OPTIMIZE t WHERE kind = 1"));
    assertRefused(
        "DELTA_ALTER_TABLE_CLUSTER_BY_ON_PARTITIONED_TABLE_NOT_ALLOWED",
        () -> LiquidClustering.changeKeys(spark, "partitioned", "a"));
    assertRefused(
        "DELTA_COLUMN_NOT_FOUND_IN_SCHEMA",
        () -> LiquidClustering.changeKeys(spark, "t", "no_such_column"));
    assertRefused(
        "DELTA_CLUSTER_BY_INVALID_NUM_COLUMNS",
        () ->
            LiquidClustering.create(
                rows(0, 100, 1).selectExpr("*", "1 AS c"), "five", "a", "b", "kind", "id", "c"));
    assertRefused(
        "DELTA_CLUSTERING_COLUMNS_DATATYPE_NOT_SUPPORTED",
        () -> LiquidClustering.create(rows(0, 9, 1).selectExpr("a > 5 AS c", "b"), "flags", "c"));
    assertRefused(
        "DELTA_CLUSTERING_COLUMN_MISSING_STATS",
        () ->
            spark.sql(
                """
                CREATE TABLE hidden (a INT, b INT) USING delta CLUSTER BY (b)
                TBLPROPERTIES ('delta.dataSkippingNumIndexedCols' = '1')
                """));
    // Spark 4 has it, Delta 4.4 does not take it.
    assertRefused(
        "DELTA_OPERATION_NOT_ALLOWED",
        () -> rows(0, 9, 1).write().format("delta").clusterBy("a").saveAsTable("written"));

    assertThat(last("t").<Long>getAs("version")).isEqualTo(version);
    for (String table : List.of("five", "flags", "hidden", "written")) {
      assertThat(spark.catalog().tableExists(table)).as(table).isFalse();
    }
  }
}
