package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.TableSize;
import java.time.LocalDate;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class PartitioningTest {
  private static final int TASKS = 4;
  private static final int MONTHS = 3;
  private static final int DAYS = 31 + 28 + 31;
  private static final int SHOPS = 8;
  private static final LocalDate MARCH = LocalDate.of(2025, 3, 1);

  private Dataset<Row> orders;
  private List<Row> rows;

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    // As many files to a task as there are, on a machine of any number of cores.
    spark.conf().set("spark.sql.files.minPartitionNum", "1");
    orders =
        SampleData.of(spark)
            .rows(60_000)
            .skew(0.6)
            .orders()
            .where("order_date < '2025-04-01'")
            .withColumn("order_month", expr("trunc(order_date, 'MM')"))
            .withColumn("shop", expr("customer_id % 8"))
            .repartition(TASKS)
            .localCheckpoint();
    orders.createOrReplaceTempView("orders");
    rows = orders.collectAsList();
  }

  private static int files(Dataset<Row> table) {
    return table.inputFiles().length;
  }

  private static long largest(Dataset<Row> table) {
    return table.groupBy("_metadata.file_path").count().collectAsList().stream()
        .map(row -> row.getLong(1))
        .max(Comparator.naturalOrder())
        .orElseThrow();
  }

  private long inMarch() {
    return rows.stream().filter(row -> row.<LocalDate>getAs("order_month").equals(MARCH)).count();
  }

  @Test
  void aQueryReadsTheFoldersThatItNames(SparkSession spark) {
    Partitioning.write(orders, "no_folders");
    Partitioning.write(orders, "by_month", "order_month");
    String march = "order_month = '2025-03-01'";

    QueryProfile all = QueryProfile.of(spark.table("no_folders").where(march));
    QueryProfile folder = QueryProfile.of(spark.table("by_month").where(march));

    assertThat(all.filesRead()).isEqualTo(TASKS);
    assertThat(all.rowsRead()).isEqualTo(rows.size());
    assertThat(folder.filesRead()).isEqualTo(TASKS);
    assertThat(folder.filesPruned()).isEqualTo((MONTHS - 1) * TASKS);
    assertThat(folder.rowsRead()).isEqualTo(inMarch());
    assertThat(folder.bytesRead()).isLessThan(all.bytesRead() / 2);
    assertThat(spark.table("by_month").where(march)).hasRowCount(inMarch());
    assertThat(spark.table("by_month")).hasSameRowsAs(orders);
  }

  @Test
  void aFolderForEachDayTakesThreeTimesTheBytesAndFifteenTimesTheLog(SparkSession spark) {
    Partitioning.write(orders, "no_folders");
    Partitioning.write(orders, "by_day", "order_date");

    TableSize one = TableSize.of(spark, "no_folders");
    TableSize many = TableSize.of(spark, "by_day");

    assertThat(one.files()).isEqualTo(TASKS);
    assertThat(many.files()).isEqualTo(DAYS * TASKS);
    assertThat(many.bytes()).isGreaterThan(3 * one.bytes());
    assertThat(many.footerBytes()).isGreaterThan(many.bytes() * 2 / 5);
    assertThat(one.footerBytes()).isLessThan(one.bytes() / 10);
    assertThat(many.logBytes()).isGreaterThan(15 * one.logBytes());
    // Each file counts as 4 MB at least, and a task reads 128 MB.
    QueryProfile all = QueryProfile.of(spark.table("by_day"));
    assertThat(all.tasks()).isGreaterThanOrEqualTo(DAYS * TASKS * 4 / 128);
    assertThat(QueryProfile.of(spark.table("no_folders")).tasks()).isEqualTo(1);
    assertThat(spark.table("by_day")).hasSameRowsAs(orders);
  }

  @Test
  void eachTaskWritesAFileIntoEachFolderUnlessOneTaskHasTheFolder(SparkSession spark) {
    Partitioning.write(orders, "as_they_come", "order_month");
    QueryProfile coalesced =
        QueryProfile.of(
            spark, () -> Partitioning.write(orders.coalesce(1), "coalesced", "order_month"));
    QueryProfile shuffled =
        QueryProfile.of(
            spark,
            () ->
                Partitioning.write(
                    Partitioning.oneTaskForEachFolder(orders, "order_month"),
                    "shuffled",
                    "order_month"));

    assertThat(files(spark.table("as_they_come"))).isEqualTo(MONTHS * TASKS);
    assertThat(files(spark.table("coalesced"))).isEqualTo(MONTHS);
    assertThat(coalesced.tasks()).isEqualTo(1);
    assertThat(coalesced.shuffleBytes()).isZero();
    assertThat(files(spark.table("shuffled"))).isEqualTo(MONTHS);
    assertThat(shuffled.exchanges()).containsOnlyKeys("hash");
    assertThat(shuffled.shuffleBytes()).isPositive();
    assertThat(spark.table("coalesced")).hasSameRowsAs(orders);
    assertThat(spark.table("shuffled")).hasSameRowsAs(orders);
  }

  @Test
  void theHintSplitsALargeFolderAndRepartitionDoesNot(SparkSession spark) {
    spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", "40000");
    spark.conf().set("spark.sql.shuffle.partitions", "8");
    Partitioning.write(Partitioning.oneTaskForEachFolder(orders, "shop"), "repartitioned", "shop");
    Partitioning.write(Partitioning.rebalanced(orders, "shop"), "rebalanced", "shop");
    long hot = rows.stream().filter(row -> row.<Long>getAs("shop") == 0).count();
    assertThat(hot).isGreaterThan(rows.size() / 2);

    assertThat(files(spark.table("repartitioned"))).isEqualTo(SHOPS);
    assertThat(largest(spark.table("repartitioned"))).isEqualTo(hot);
    assertThat(files(spark.table("rebalanced").where("shop = 0"))).isGreaterThan(1);
    assertThat(largest(spark.table("rebalanced"))).isLessThan(hot * 2 / 3);
    assertThat(spark.table("rebalanced")).hasSameRowsAs(orders);
  }

  @Test
  void aSplitThatSharesItsTaskAmongFoldersMakesMoreFiles(SparkSession spark) {
    // Two shuffle partitions for 90 folders: each piece has rows of 45.
    spark.conf().set("spark.sql.shuffle.partitions", "2");
    Partitioning.write(Partitioning.rebalanced(orders, "order_date"), "at_64_mb", "order_date");
    spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", "40000");
    Partitioning.write(Partitioning.rebalanced(orders, "order_date"), "at_40_kb", "order_date");

    assertThat(files(spark.table("at_64_mb"))).isEqualTo(DAYS);
    assertThat(files(spark.table("at_40_kb"))).isGreaterThanOrEqualTo(2 * DAYS);
    assertThat(spark.table("at_40_kb")).hasSameRowsAs(orders);
  }

  @Test
  void aLimitOfRowsBeginsNewFilesAndMergesNone(SparkSession spark) {
    Partitioning.writeAtMost(1_000, orders.coalesce(1), "few", "order_month");
    Partitioning.writeAtMost(1_000_000, orders, "many", "order_month");

    int expected = 0;
    for (int month = 1; month <= MONTHS; month++) {
      LocalDate first = LocalDate.of(2025, month, 1);
      long ofMonth = rows.stream().filter(r -> r.getAs("order_month").equals(first)).count();
      expected += (int) ((ofMonth + 999) / 1_000);
    }
    assertThat(files(spark.table("few"))).isEqualTo(expected).isGreaterThan(MONTHS);
    assertThat(largest(spark.table("few"))).isEqualTo(1_000);
    assertThat(files(spark.table("many"))).isEqualTo(MONTHS * TASKS);
    assertThat(spark.table("few")).hasSameRowsAs(orders);
  }

  @Test
  void compactionGoesUpToTheSizeAndNotBeyondAFolder(SparkSession spark) {
    Partitioning.write(orders, "by_month", "order_month");
    Partitioning.write(orders.repartition(16), "no_folders");
    long bytes = TableSize.of(spark, "no_folders").bytes();
    String before = spark.conf().get("spark.databricks.delta.optimize.maxFileSize");

    Partitioning.compactInto(10 * bytes, spark, "by_month");
    Partitioning.compactInto(bytes / 3, spark, "no_folders");

    assertThat(files(spark.table("by_month"))).isEqualTo(MONTHS);
    assertThat(files(spark.table("no_folders"))).isBetween(3, 5);
    assertThat(spark.table("no_folders")).hasSameRowsAs(orders);
    assertThat(spark.conf().get("spark.databricks.delta.optimize.maxFileSize")).isEqualTo(before);
    assertRefused(
        "DELTA_UNKNOWN_CONFIGURATION",
        () ->
            spark.sql("ALTER TABLE by_month SET TBLPROPERTIES ('delta.targetFileSize' = '64mb')"));
  }

  @Test
  void anyFunctionOfThePartitionColumnAlonePrunes(SparkSession spark) {
    Partitioning.write(orders, "by_month", "order_month");
    spark
        .udf()
        .register(
            "month_of",
            (UDF1<LocalDate, Integer>) date -> date == null ? null : date.getMonthValue(),
            DataTypes.IntegerType);

    for (String filter :
        List.of(
            "order_month = '2025-03-01'",
            "order_month = TIMESTAMP'2025-03-01 00:00:00'",
            "month(order_month) = 3",
            "date_format(order_month, 'yyyy-MM') = '2025-03'",
            "CAST(order_month AS STRING) LIKE '2025-03%'",
            "month_of(order_month) = 3",
            "order_month = (SELECT max(order_date) - INTERVAL 30 DAYS FROM orders)",
            "rand() < 2 AND order_month = '2025-03-01'",
            // By the statistics of the files, not by the folder.
            "order_date BETWEEN '2025-03-01' AND '2025-03-31'",
            "order_time >= '2025-03-01' AND order_time < '2025-04-01'")) {
      assertPruned(spark, filter, (MONTHS - 1) * TASKS);
    }
  }

  @Test
  void aFunctionOfAnotherColumnDoesNotNorOneThatMixesThem(SparkSession spark) {
    Partitioning.write(orders, "by_month", "order_month");

    for (String filter :
        List.of(
            "month(order_date) = 3",
            "trunc(order_time, 'MM') = '2025-03-01'",
            "order_month = trunc(order_time, 'MM') AND month(order_time) = 3",
            "month(order_month) + month(order_date) = 6",
            "order_month = '2025-03-01' OR month(order_date) = 3",
            "order_month + CAST(rand() AS INT) = '2025-03-01'",
            "order_month IN (SELECT max(order_month) FROM orders)")) {
      assertPruned(spark, filter, 0);
    }
  }

  private void assertPruned(SparkSession spark, String filter, int files) {
    Dataset<Row> march = spark.table("by_month").where(filter);
    assertThat(QueryProfile.of(march).filesPruned()).as(filter).isEqualTo(files);
    assertThat(march.count()).as(filter).isEqualTo(inMarch());
  }

  @Test
  void anEmptyStringInAPartitionColumnComesBackAsNull(SparkSession spark) {
    Dataset<Row> rows = spark.sql("SELECT * FROM VALUES ('', 1), (NULL, 2), ('a', 3) AS v (k, id)");

    Partitioning.write(rows, "by_text", "k");
    Partitioning.write(rows, "no_folders");

    assertThat(spark.table("no_folders")).hasSameRowsAs(rows);
    assertThat(spark.table("by_text")).hasRows(row(null, 1), row(null, 2), row("a", 3));
    assertThat(spark.table("by_text").where("k = ''")).isEmpty();
  }

  @Test
  void foldersCannotBeChangedByAWriteNorBeAllColumns(SparkSession spark) {
    Partitioning.write(orders, "by_month", "order_month");
    String[] before = spark.table("by_month").inputFiles();

    assertRefused(
        "DELTA_METADATA_MISMATCH",
        () ->
            orders
                .write()
                .format("delta")
                .mode("overwrite")
                .partitionBy("order_date")
                .saveAsTable("by_month"));
    assertThatThrownBy(
            () ->
                orders
                    .write()
                    .format("delta")
                    .mode("append")
                    .partitionBy("order_date")
                    .saveAsTable("by_month"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("do not match the existing table");
    assertRefused(
        "ALL_PARTITION_COLUMNS_NOT_ALLOWED",
        () -> Partitioning.write(orders.select("shop"), "only_folders", "shop"));

    assertThat(Arrays.asList(spark.table("by_month").inputFiles())).containsExactly(before);
    assertThat(spark.catalog().tableExists("only_folders")).isFalse();
  }

  @Test
  void noRowsForAFileAreRefusedBeforeAnythingIsWritten(SparkSession spark) {
    assertThatThrownBy(() -> Partitioning.writeAtMost(0, orders, "t", "order_month"))
        .isInstanceOf(IllegalArgumentException.class);
    assertThat(spark.catalog().tableExists("t")).isFalse();
  }

  @Test
  void compactingLeavesTheFileSizeAsItWas(SparkSession spark) {
    String key = "spark.databricks.delta.optimize.maxFileSize";
    orders.write().format("delta").saveAsTable("t");
    Partitioning.compactInto(1 << 30, spark, "t");
    assertThat(spark.conf().getAll().contains(key)).isFalse();

    spark.conf().set(key, "1000");
    Partitioning.compactInto(1 << 30, spark, "t");
    assertThat(spark.conf().get(key)).isEqualTo("1000");
  }
}
