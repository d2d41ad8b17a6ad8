package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.LongSummaryStatistics;
import java.util.Map;
import java.util.stream.LongStream;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ZOrderingTest {
  private static final int FILES = 64;
  private static final int VALUES = 2_000;
  private static final long[] SOME = {499, 1_234};

  private Dataset<Row> rows;

  @BeforeEach
  void createRows(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    // Two columns of 2,000 values and one of 8, none of which tells anything of another.
    rows =
        spark
            .range(0, 64_000, 1, FILES)
            .selectExpr(
                "pmod(xxhash64(id, 1), 2000) AS a",
                "pmod(xxhash64(id, 2), 2000) AS b",
                "pmod(xxhash64(id, 3), 8) AS kind",
                "id");
  }

  private void write(String table) {
    rows.write().format("delta").saveAsTable(table);
  }

  private static QueryProfile where(SparkSession spark, String table, String condition) {
    return QueryProfile.of(spark.table(table).where(condition));
  }

  private static long files(SparkSession spark, String table) {
    return spark.table(table).inputFiles().length;
  }

  /** Over all values of a column, by its statistics: how many files have each in their range. */
  private static LongSummaryStatistics filesOfAValue(
      SparkSession spark, String table, String column, long values) {
    List<Row> ranges =
        ZOrdering.statistics(spark, table, column)
            .selectExpr("CAST(min AS BIGINT)", "CAST(max AS BIGINT)")
            .collectAsList();
    return LongStream.range(0, values)
        .map(v -> ranges.stream().filter(r -> r.getLong(0) <= v && v <= r.getLong(1)).count())
        .summaryStatistics();
  }

  @Test
  void ofNFilesAboutTheRootOfNAreReadForEitherColumn(SparkSession spark) {
    write("unordered");
    write("z_ordered");
    ZOrdering.writeSorted(rows, "sorted", FILES, "a");
    ZOrdering.zOrder(spark, "z_ordered", FILES, "a", "b");

    long n = files(spark, "z_ordered");
    assertThat(n).isGreaterThanOrEqualTo(64);
    for (String condition : List.of("a = 501", "b = 1234")) {
      QueryProfile z = where(spark, "z_ordered", condition);
      assertThat((double) z.filesRead())
          .as(condition)
          .isLessThanOrEqualTo(2.5 * Math.sqrt((double) n));
      assertThat(z.filesRead() + z.filesPruned()).isEqualTo(n);
      assertThat(z.rowsOut()).hasValue(rows.where(condition).count());
      assertThat(where(spark, "unordered", condition).filesRead()).isEqualTo(FILES);
    }
    // The bits of the second column are the last: its ranges are the first to be cut through.
    double a = filesOfAValue(spark, "z_ordered", "a", VALUES).getAverage() / Math.sqrt((double) n);
    double b = filesOfAValue(spark, "z_ordered", "b", VALUES).getAverage() / Math.sqrt((double) n);
    assertThat(a).isBetween(1.0, 1.5);
    assertThat(b).isBetween(a + 0.2, 2.1);
    assertThat((a + b) / 2).isLessThanOrEqualTo(1.7);
    assertThat(where(spark, "sorted", "a = 501").filesRead()).isLessThanOrEqualTo(2);
    assertThat(where(spark, "sorted", "b = 1234").filesRead()).isEqualTo(files(spark, "sorted"));
    assertThat(where(spark, "z_ordered", "a = 501 AND b = 1234").filesRead())
        .isLessThanOrEqualTo(4);
    assertThat(spark.table("z_ordered")).hasSameRowsAs(rows);
    assertThat(spark.table("sorted")).hasSameRowsAs(rows);
  }

  @Test
  void withAFileForEachCellJustTheRootOfNFilesAreRead(SparkSession spark) {
    write("t");
    ZOrdering.zOrderIntoCells(spark, "t", 8, "a", "b");

    assertThat(files(spark, "t")).isEqualTo(64);
    for (String column : List.of("a", "b")) {
      LongSummaryStatistics files = filesOfAValue(spark, "t", column, VALUES);
      assertThat(files.getMax()).as(column).isEqualTo(8);
      // At the edge of a range a value may happen to have no row in one of its cells.
      assertThat(files.getAverage()).as(column).isGreaterThan(7.9);
      assertThat(where(spark, "t", column + " = 1234").filesRead()).isEqualTo(8);
    }
    assertThat(where(spark, "t", "a = 501 AND b = 1234").filesRead()).isEqualTo(1);
    assertThat(spark.table("t")).hasSameRowsAs(rows);
  }

  @Test
  void theStatisticsSayWhichFilesAreRead(SparkSession spark) {
    ZOrdering.writeSorted(rows, "sorted", FILES, "a");
    List<Row> statistics =
        ZOrdering.statistics(spark, "sorted", "a")
            .selectExpr("CAST(min AS BIGINT)", "CAST(max AS BIGINT)")
            .collectAsList();

    assertThat(statistics).hasSize((int) files(spark, "sorted"));
    for (long value : SOME) {
      long inRange =
          statistics.stream().filter(r -> r.getLong(0) <= value && value <= r.getLong(1)).count();
      assertThat(where(spark, "sorted", "a = " + value).filesRead()).isEqualTo(inRange);
    }
    // Files that are removed count no more.
    spark.sql("DELETE FROM sorted WHERE a < 1000");
    assertThat(ZOrdering.statistics(spark, "sorted", "a").selectExpr("min(CAST(min AS BIGINT))"))
        .hasRows(row(1_000L));
  }

  @Test
  void theStatisticsAreOfTheLatestVersionsFilesWhateverCameBetween(SparkSession spark) {
    spark.sql(
        """
        CREATE TABLE t (a BIGINT, `the.b` BIGINT) USING delta
        TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')
        """);
    spark.range(0, 40, 1, 4).selectExpr("id AS a", "id AS `the.b`").createOrReplaceTempView("new");
    spark.sql("INSERT INTO t SELECT * FROM new");
    spark.sql("DELETE FROM t WHERE a = 15");
    List<Row> ranges = List.of(row("0", "9"), row("10", "19"), row("20", "29"), row("30", "39"));
    // Its file stays, and the log has removed and added it.
    assertThat(ZOrdering.statistics(spark, "t", "A").select("min", "max"))
        .hasRows(ranges.toArray(Row[]::new));

    spark.sql("DELETE FROM t WHERE a < 20");
    assertThat(ZOrdering.statistics(spark, "t", "a").select("min", "max"))
        .hasRows(ranges.get(2), ranges.get(3));
    spark.sql("RESTORE TABLE t TO VERSION AS OF 1");

    assertThat(ZOrdering.statistics(spark, "t", "the.b").select("min", "max"))
        .hasRows(ranges.toArray(Row[]::new));
  }

  @Test
  void statisticsOfAColumnThatIsNotThereAreRefused(SparkSession spark) {
    write("t");

    assertThatThrownBy(() -> ZOrdering.statistics(spark, "t", "c"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("t has no column c");
  }

  @Test
  void aNameWithADotAndAQuoteCanHaveStatisticsAndNoOther(SparkSession spark) {
    spark
        .range(10)
        .selectExpr("id AS `it's.b`", "id AS c")
        .write()
        .format("delta")
        .saveAsTable("t");

    ZOrdering.collectStatisticsOf(spark, "t", "`it's.b`");

    spark.sql("INSERT INTO t VALUES (20, 20)");
    assertThat(ZOrdering.statistics(spark, "t", "it's.b").where("min = '20'")).hasRowCount(1);
    assertThat(ZOrdering.statistics(spark, "t", "c").where("min = '20'")).isEmpty();
  }

  @Test
  void noFilesAndOneRangeAreRefusedAndChangeNoSetting(SparkSession spark) {
    write("t");
    Map<String, String> before = asJava(spark.conf().getAll());

    assertThatThrownBy(() -> ZOrdering.zOrder(spark, "t", 0, "a"))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> ZOrdering.zOrderIntoCells(spark, "t", 1, "a", "b"))
        .isInstanceOf(IllegalArgumentException.class);

    assertThat(asJava(spark.conf().getAll())).isEqualTo(before);
  }

  @Test
  void anyOfNoValuesIsNoRow(SparkSession spark) {
    assertThat(rows.where(ZOrdering.isAnyOf("a"))).isEmpty();
  }

  @Test
  void aThirdColumnIsPaidForByTheFirstTwo(SparkSession spark) {
    write("three");
    ZOrdering.zOrder(spark, "three", FILES, "a", "b", "id");

    // N to the power of 2/3 is 16 of 64, where the root is 8.
    double least = Math.pow((double) files(spark, "three"), 2.0 / 3);
    assertThat(filesOfAValue(spark, "three", "a", VALUES).getAverage())
        .isBetween(least, 1.5 * least);
    assertThat(filesOfAValue(spark, "three", "b", VALUES).getAverage()).isBetween(least, 2 * least);
  }

  @Test
  void aColumnOfFewValuesHasNoWeightUnlessThereAreAsFewRanges(SparkSession spark) {
    write("t");
    ZOrdering.zOrder(spark, "t", FILES, "a", "kind");
    assertThat(where(spark, "t", "kind = 4").filesRead()).isEqualTo(files(spark, "t"));
    assertThat(where(spark, "t", "a = 1234").filesRead()).isLessThanOrEqualTo(2);

    ZOrdering.zOrderIntoCells(spark, "t", 8, "a", "kind");

    // Eight values may share seven ranges: they are cut by numbers of rows, from a sample.
    assertThat(files(spark, "t")).isBetween(56L, 64L);
    assertThat(where(spark, "t", "kind = 4").filesRead()).isEqualTo(8);
    assertThat(where(spark, "t", "a = 1234").filesRead()).isLessThanOrEqualTo(8);
    assertThat(spark.table("t")).hasSameRowsAs(rows);
  }

  @Test
  void aColumnWithoutStatisticsSkipsNothingUntilItsFilesAreRewritten(SparkSession spark) {
    spark.sql(
        """
        CREATE TABLE t (a BIGINT, b BIGINT, kind BIGINT, id BIGINT) USING delta
        TBLPROPERTIES ('delta.dataSkippingNumIndexedCols' = '1')
        """);
    rows.repartitionByRange(16, col("b")).write().format("delta").mode("append").saveAsTable("t");
    assertThat(ZOrdering.statistics(spark, "t", "b").where("min IS NOT NULL")).isEmpty();
    assertThat(ZOrdering.statistics(spark, "t", "a").where("min IS NOT NULL")).hasRowCount(16);
    assertThat(where(spark, "t", "b = 1234").filesRead()).isEqualTo(16);
    assertRefused(
        "DELTA_ZORDERING_ON_COLUMN_WITHOUT_STATS",
        () -> ZOrdering.zOrder(spark, "t", 16, "a", "b"));

    ZOrdering.collectStatisticsOf(spark, "t", "b", "kind");

    // Nothing has been written yet.
    assertThat(where(spark, "t", "b = 1234").filesRead()).isEqualTo(16);
    ZOrdering.zOrder(spark, "t", 16, "b");
    assertThat(where(spark, "t", "b = 1234").filesRead()).isLessThanOrEqualTo(2);
    assertThat(ZOrdering.statistics(spark, "t", "b").where("min IS NULL")).isEmpty();
    assertThat(ZOrdering.statistics(spark, "t", "a").where("min IS NOT NULL")).isEmpty();
    assertThat(spark.table("t")).hasSameRowsAs(rows);

    // A column that the property leaves out loses its statistics at once, though the log has them.
    ZOrdering.collectStatisticsOf(spark, "t", "kind");
    assertThat(ZOrdering.statistics(spark, "t", "b").where("min IS NULL")).isEmpty();
    assertThat(where(spark, "t", "b = 1234").filesRead()).isEqualTo(files(spark, "t"));
    assertRefused(
        "DELTA_COLUMN_NOT_FOUND_IN_SCHEMA",
        () -> ZOrdering.collectStatisticsOf(spark, "t", "no_such_column"));
  }

  @Test
  void ofATextThe32FirstCharactersCountUnlessThePropertySaysMore(SparkSession spark) {
    Dataset<Row> pages =
        rows.selectExpr("concat('https://shop.example.com/catalogue/', lpad(id, 6, '0')) AS url");
    String one = "url = 'https://shop.example.com/catalogue/030000'";
    pages.repartitionByRange(8, col("url")).write().format("delta").saveAsTable("short");
    spark.sql(
        """
        CREATE TABLE long (url STRING) USING delta
        TBLPROPERTIES ('delta.dataSkippingStringPrefixLength' = '64')
        """);
    pages
        .repartitionByRange(8, col("url"))
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("long");

    assertThat(where(spark, "short", one).filesRead()).isEqualTo(8);
    assertThat(where(spark, "long", one).filesRead()).isEqualTo(1);
    assertThat(spark.table("long").where(one)).hasRowCount(1);
    assertThat(ZOrdering.statistics(spark, "short", "url").select("min").distinct())
        .hasRows(row("https://shop.example.com/catalog"));
  }

  @Test
  void aComparisonWithAConstantSkipsAndAnExpressionOfTheColumnDoesNot(SparkSession spark) {
    ZOrdering.writeSorted(rows, "sorted", 16, "id");
    long n = files(spark, "sorted");

    for (String condition :
        List.of(
            "id = 30000",
            "id = '30000'",
            "id = 30000.0",
            "id >= 30000 AND id < 30001",
            "NOT (id <> 30000)",
            "id = (SELECT 30000)")) {
      assertThat(where(spark, "sorted", condition).filesRead()).as(condition).isEqualTo(1);
    }
    for (String condition :
        List.of(
            "id + 1 = 30001",
            "CAST(id AS STRING) = '30000'",
            "abs(id) = 30000",
            "id = (SELECT max(id) - 33999 FROM sorted)")) {
      QueryProfile profile = where(spark, "sorted", condition);
      assertThat(profile.filesPruned()).as(condition).isZero();
      assertThat(profile.filesRead()).as(condition).isGreaterThanOrEqualTo(n);
      assertThat(spark.table("sorted").where(condition)).hasRowCount(1);
    }
  }

  @Test
  void inReadsAllBetweenItsLeastAndItsGreatestValue(SparkSession spark) {
    ZOrdering.writeSorted(rows, "sorted", 16, "id");
    Column either = ZOrdering.isAnyOf("id", 5L, 63_000L);

    assertThat(where(spark, "sorted", "id IN (5, 63000)").filesRead())
        .isEqualTo(files(spark, "sorted"));
    assertThat(QueryProfile.of(spark.table("sorted").where(either)).filesRead()).isEqualTo(2);
    assertThat(spark.table("sorted").where(either).select("id")).hasRows(row(5L), row(63_000L));
    assertThat(expr("id IN (5, 63000)").toString()).isNotEqualTo(either.toString());
  }

  @Test
  void eachZOrderRewritesAllFilesAndASortByAPartitionColumnIsRefused(SparkSession spark) {
    write("t");
    ZOrdering.zOrder(spark, "t", 10, "a", "b");
    long n = files(spark, "t");

    Row again = ZOrdering.zOrder(spark, "t", 10, "a", "b").select("metrics.*").head();

    assertThat(again.<Long>getAs("numFilesRemoved")).isEqualTo(n);
    assertThat(again.<Long>getAs("numFilesAdded")).isGreaterThan(n / 2);
    assertThat(spark.conf().get("spark.databricks.delta.optimize.maxFileSize"))
        .isEqualTo(String.valueOf(1L << 30));
    ZOrdering.zOrderIntoCells(spark, "t", 2, "a", "b");
    assertThat(files(spark, "t")).isEqualTo(4);
    assertThat(spark.conf().get("spark.databricks.io.skipping.mdc.rangeId.max")).isEqualTo("1000");
    assertThat(spark.conf().get("spark.databricks.io.skipping.mdc.addNoise")).isEqualTo("true");

    rows.limit(100).write().format("delta").partitionBy("kind").saveAsTable("by_kind");
    assertRefused(
        "DELTA_ZORDERING_ON_PARTITION_COLUMN",
        () -> ZOrdering.zOrder(spark, "by_kind", 10, "kind"));
    assertThat(DeltaTable.forName(spark, "by_kind").history()).hasRowCount(1);
  }
}
