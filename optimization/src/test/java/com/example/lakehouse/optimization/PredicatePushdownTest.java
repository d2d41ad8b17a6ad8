package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static org.apache.spark.sql.functions.col;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import java.io.IOException;
import java.math.BigDecimal;
import java.time.YearMonth;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.column.statistics.Statistics;
import org.apache.parquet.hadoop.ParquetFileReader;
import org.apache.parquet.hadoop.metadata.BlockMetaData;
import org.apache.parquet.hadoop.util.HadoopInputFile;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class PredicatePushdownTest {
  private static final int ORDERS = 60_000;
  private static final long ROW_GROUP = 256 << 10;
  private static final String ONE_ORDER = "order_id = 30000";

  private Dataset<Row> generated;
  private Dataset<Row> orders;

  @BeforeEach
  void writeOrders(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    SampleData data = SampleData.of(spark).rows(3 * ORDERS);
    assertThat(data.orderCount()).isEqualTo(ORDERS);
    generated =
        data.orders().repartitionByRange(1, col("order_id")).sortWithinPartitions("order_id");
    PredicatePushdown.rowGroupsOf(spark, ROW_GROUP);
    orders = written(spark, sandbox, "orders", generated);
    if (!spark.catalog().functionExists("same")) {
      spark.udf().register("same", (UDF1<Long, Long>) id -> id, DataTypes.LongType);
    }
  }

  private static Dataset<Row> written(
      SparkSession spark, Sandbox sandbox, String name, Dataset<Row> rows) {
    rows.write().parquet(sandbox.path(name));
    return spark.read().parquet(sandbox.path(name));
  }

  /** As the files' footers have them. */
  private static List<BlockMetaData> rowGroups(Dataset<Row> rows) throws IOException {
    List<BlockMetaData> groups = new ArrayList<>();
    for (String file : rows.inputFiles()) {
      try (ParquetFileReader reader =
          ParquetFileReader.open(HadoopInputFile.fromPath(new Path(file), new Configuration()))) {
        groups.addAll(reader.getRowGroups());
      }
    }
    return groups;
  }

  private static Statistics<?> statistics(BlockMetaData group, String column) {
    return group.getColumns().stream()
        .filter(chunk -> chunk.getPath().toDotString().equals(column))
        .findFirst()
        .orElseThrow()
        .getStatistics();
  }

  /**
   * The rows of the row groups in which {@code order_id} can be from {@code low} to {@code high}.
   */
  private static long rowsThatMayMatch(Dataset<Row> rows, long low, long high) throws IOException {
    long sum = 0;
    for (BlockMetaData group : rowGroups(rows)) {
      Statistics<?> ids = statistics(group, "order_id");
      if ((Long) ids.genericGetMin() <= high && (Long) ids.genericGetMax() >= low) {
        sum += group.getRowCount();
      }
    }
    return sum;
  }

  private static long rowsRead(Dataset<Row> query) {
    return QueryProfile.of(query).rowsRead();
  }

  @Test
  void onlyRowGroupsThatMayHaveTheRowAreRead() throws IOException {
    assertThat(rowGroups(orders)).hasSizeBetween(6, 60);

    assertThat(PredicatePushdown.pushedFilters(orders.where(ONE_ORDER)))
        .isEqualTo("[IsNotNull(order_id), EqualTo(order_id,30000)]");
    long ofOne = rowsThatMayMatch(orders, 30_000, 30_000);
    assertThat(ofOne).isLessThan(ORDERS / 5);
    assertThat(rowsRead(orders.where(ONE_ORDER))).isEqualTo(ofOne);
    assertThat(rowsRead(orders.where("order_id BETWEEN 20000 AND 50000")))
        .isEqualTo(rowsThatMayMatch(orders, 20_000, 50_000));
    assertThat(rowsRead(orders.where("order_id > 60000"))).isZero();
  }

  @Test
  void conditionsOnTheColumnArePushed() throws IOException {
    long ofOne = rowsThatMayMatch(orders, 30_000, 30_000);
    for (String condition :
        List.of(
            "order_id = '30000'",
            "order_id = 30000.0",
            "order_id = 30000 AND same(order_id) = 30000",
            "order_id = (SELECT 30000L)",
            "order_id IN (29999, 30000)")) {
      assertThat(rowsRead(orders.where(condition))).as(condition).isEqualTo(ofOne);
    }
  }

  @Test
  void whatHidesTheColumnIsNotAndGivesTheSameRow() {
    Row order = orders.where(ONE_ORDER).head();
    for (String condition :
        List.of(
            "same(order_id) = 30000",
            "order_id = 30000 OR same(order_id) = 30000",
            "CAST(order_id AS STRING) = '30000'",
            "CAST(order_id AS INT) = 30000",
            "order_id = 30000D",
            "order_id - 1 = 29999",
            "CASE WHEN order_id = 30000 THEN true ELSE false END")) {
      Dataset<Row> query = orders.where(condition);
      assertThat(PredicatePushdown.pushedFilters(query))
          .as(condition)
          .isIn("[]", "[IsNotNull(order_id)]");
      assertThat(rowsRead(query)).as(condition).isEqualTo(ORDERS);
      assertThat(query).as(condition).hasRows(order);
    }
  }

  @Test
  void aDecimalIsPushedAndADoubleIsNot(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> byAmount =
        written(spark, sandbox, "by_amount", generated.orderBy("amount").coalesce(1));
    Dataset<Row> decimal = PredicatePushdown.dearerThan(byAmount, new BigDecimal("1000.50"));
    Dataset<Row> asDouble = byAmount.where(col("amount").gt(1000.5));

    assertThat(PredicatePushdown.pushedFilters(decimal))
        .isEqualTo("[IsNotNull(amount), GreaterThan(amount,1000.50)]");
    assertThat(PredicatePushdown.pushedFilters(asDouble)).isEqualTo("[IsNotNull(amount)]");
    assertThat(rowsRead(decimal)).isLessThan(ORDERS / 2);
    assertThat(rowsRead(asDouble)).isEqualTo(ORDERS);
    assertThat(decimal).hasSameRowsAs(asDouble);
  }

  @Test
  void aRangeOfDatesIsPushedAndAFunctionOfADateIsNot() {
    Dataset<Row> range = PredicatePushdown.ofMonth(orders, YearMonth.of(2025, 12));
    Dataset<Row> function = orders.where("year(order_date) = 2025 AND month(order_date) = 12");

    assertThat(PredicatePushdown.pushedFilters(range))
        .contains("GreaterThanOrEqual(order_date,2025-12-01)", "LessThan(order_date,2026-01-01)");
    assertThat(rowsRead(range)).isLessThan(ORDERS / 3);
    assertThat(rowsRead(function)).isEqualTo(ORDERS);
    assertThat(range).hasSameRowsAs(function);
  }

  @Test
  void aTimestampIsPushedAndSkipsNothingUnlessItHasStatistics(SparkSession spark, Sandbox sandbox)
      throws IOException {
    String day = "CAST(order_time AS DATE) = '2025-06-01'";
    PredicatePushdown.timestampsWithStatistics(spark);
    Dataset<Row> micros = written(spark, sandbox, "micros", generated);

    // Spark makes a range of the cast, for both.
    assertThat(PredicatePushdown.pushedFilters(orders.where(day)))
        .isEqualTo(PredicatePushdown.pushedFilters(micros.where(day)))
        .contains(
            "GreaterThanOrEqual(order_time,2025-06-01T00:00:00Z)",
            "LessThan(order_time,2025-06-02T00:00:00Z)");
    assertThat(statistics(rowGroups(orders).get(0), "order_time").hasNonNullValue()).isFalse();
    assertThat(statistics(rowGroups(micros).get(0), "order_time").hasNonNullValue()).isTrue();
    assertThat(rowsRead(orders.where(day))).isEqualTo(ORDERS);
    assertThat(rowsRead(micros.where(day))).isLessThan(ORDERS / 4);
    assertThat(micros.where(day)).hasSameRowsAs(orders.where(day));
  }

  @Test
  void aFilterOnRowsInNoOrderIsPushedAndReadsMoreThanNone(SparkSession spark) {
    Dataset<Row> shipped = orders.where("status = 'shipped'").select("order_id", "status");
    Dataset<Row> ending = orders.where("status LIKE '%ped'").select("order_id", "status");
    QueryProfile pushed = QueryProfile.of(shipped);

    assertThat(PredicatePushdown.pushedFilters(shipped)).contains("EqualTo(status,shipped)");
    assertThat(PredicatePushdown.pushedFilters(ending)).contains("StringEndsWith(status,ped)");
    assertThat(pushed.rowsRead()).isEqualTo(ORDERS);
    assertThat(rowsRead(ending)).isEqualTo(ORDERS);

    spark.conf().set("spark.sql.parquet.filterPushdown", "false");
    QueryProfile without = QueryProfile.of(shipped);
    assertThat(without.rowsOut()).isEqualTo(pushed.rowsOut());
    assertThat(without.bytesRead()).isLessThan(pushed.bytesRead());
  }

  @Test
  void thePlanSaysThatFiltersArePushedEvenWherePushingIsOff(SparkSession spark) {
    spark.conf().set("spark.sql.parquet.filterPushdown", "false");
    Dataset<Row> query = orders.where(ONE_ORDER);

    assertThat(PredicatePushdown.pushedFilters(query)).contains("EqualTo(order_id,30000)");
    assertThat(rowsRead(query)).isEqualTo(ORDERS);
  }

  @Test
  void inOneRowGroupPagesOfTwentyThousandRowsAreLeftOut(SparkSession spark, Sandbox sandbox)
      throws IOException {
    PredicatePushdown.rowGroupsOf(spark, 128 << 20);
    Dataset<Row> one = written(spark, sandbox, "one", generated);
    assertThat(rowGroups(one)).hasSize(1);

    assertThat(rowsRead(one.where("order_id = 30000"))).isEqualTo(20_000);

    Dataset<Row> withoutIndex =
        spark
            .read()
            .option("parquet.filter.columnindex.enabled", "false")
            .parquet(sandbox.path("one"));
    assertThat(rowsRead(withoutIndex.where("order_id = 30000"))).isEqualTo(ORDERS);
  }

  @Test
  void onlyTheColumnsThatAQueryNeedsAreRead(SparkSession spark, Sandbox sandbox) {
    PredicatePushdown.rowGroupsOf(spark, 128 << 20);
    Dataset<Row> one = written(spark, sandbox, "one", generated);
    Dataset<Row> two = one.where("status = 'shipped'").select("amount");

    assertThat(PredicatePushdown.readSchema(two))
        .isEqualTo("struct<status:string,amount:decimal(12,2)>");
    assertThat(QueryProfile.of(two).bytesRead()).isLessThan(QueryProfile.of(one).bytesRead() / 2);
    assertThat(PredicatePushdown.readSchema(one.groupBy().count())).isEqualTo("struct<>");
  }

  @Test
  void aPathReadsOneFieldAndWhatTakesTheStructReadsAll(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> nested =
        written(
            spark,
            sandbox,
            "nested",
            generated
                .limit(100)
                .selectExpr(
                    "struct(customer_id AS id, struct(status, order_date AS day) AS last) AS c",
                    "array(struct(order_id AS id, amount)) AS orders"));
    String wholeStruct = "struct<c:struct<id:bigint,last:struct<status:string,day:date>>>";
    String wholeArray = "struct<orders:array<struct<id:bigint,amount:decimal(12,2)>>>";
    Map<String, String> readSchemas =
        Map.of(
            "c.id",
            "struct<c:struct<id:bigint>>",
            "c.last.status",
            "struct<c:struct<last:struct<status:string>>>",
            "orders.id",
            "struct<orders:array<struct<id:bigint>>>",
            "orders[0].id",
            "struct<orders:array<struct<id:bigint>>>",
            "c",
            wholeStruct,
            "to_json(c)",
            wholeStruct,
            "hash(c)",
            wholeStruct,
            "transform(orders, o -> o.id)",
            wholeArray);

    readSchemas.forEach(
        (expression, schema) ->
            assertThat(PredicatePushdown.readSchema(nested.selectExpr(expression)))
                .as(expression)
                .isEqualTo(schema));
    assertThat(PredicatePushdown.pushedFilters(nested.where("c.last.status = 'shipped'")))
        .isEqualTo("[IsNotNull(c.last.status), EqualTo(c.last.status,shipped)]");
    assertThat(PredicatePushdown.pushedFilters(nested.where("orders[0].id = 7")))
        .isEqualTo("[IsNotNull(orders)]");

    spark.conf().set("spark.sql.optimizer.nestedSchemaPruning.enabled", "false");
    assertThat(PredicatePushdown.readSchema(nested.selectExpr("c.id"))).isEqualTo(wholeStruct);
  }

  @Test
  void onDeltaTheSameConditionsLeaveOutFiles(SparkSession spark) throws IOException {
    generated.repartitionByRange(8, col("order_id")).write().format("delta").saveAsTable("orders");
    Dataset<Row> delta = spark.table("orders");

    QueryProfile pushed = QueryProfile.of(delta.where(ONE_ORDER));
    assertThat(pushed.filesRead()).isEqualTo(1);
    assertThat(pushed.filesPruned()).isEqualTo(7);
    // Within the file, row groups.
    assertThat(pushed.rowsRead()).isEqualTo(rowsThatMayMatch(delta, 30_000, 30_000));
    assertThat(pushed.rowsRead()).isLessThan(ORDERS / 8);
    for (String condition :
        List.of("same(order_id) = 30000", "order_id = 30000D", "CAST(order_id AS INT) = 30000")) {
      QueryProfile profile = QueryProfile.of(delta.where(condition));
      assertThat(profile.filesRead()).as(condition).isEqualTo(8);
      assertThat(profile.rowsRead()).as(condition).isEqualTo(ORDERS);
    }
  }

  @Test
  void theSizeOfRowGroupsIsASettingOfTheSessionAndForDeltaNoOption(
      SparkSession spark, Sandbox sandbox) throws IOException {
    int groups = rowGroups(orders).size();
    spark.conf().unset("parquet.block.size");
    generated.write().option("parquet.block.size", ROW_GROUP).parquet(sandbox.path("by_option"));
    generated
        .write()
        .format("delta")
        .option("parquet.block.size", ROW_GROUP)
        .saveAsTable("by_option");

    assertThat(rowGroups(spark.read().parquet(sandbox.path("by_option")))).hasSize(groups);
    assertThat(rowGroups(spark.table("by_option"))).hasSize(1);

    PredicatePushdown.rowGroupsOf(spark, ROW_GROUP);
    generated.write().format("delta").saveAsTable("by_setting");
    assertThat(rowGroups(spark.table("by_setting"))).hasSize(groups);
  }

  @Test
  void aQueryWithoutFilesHasNoScan(SparkSession spark) {
    assertThatThrownBy(() -> PredicatePushdown.pushedFilters(spark.range(3)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("no scan of files");
  }
}
