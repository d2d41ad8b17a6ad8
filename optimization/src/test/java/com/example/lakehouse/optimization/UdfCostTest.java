package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.catalyst.plans.logical.Join;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.expressions.UserDefinedFunction;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class UdfCostTest {

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    UdfCost.createFunctions(spark);
  }

  @AfterEach
  void dropFunctions(SparkSession spark) {
    for (String function : List.of("points", "domain", "in_season")) {
      spark.sql("DROP TEMPORARY FUNCTION IF EXISTS " + function);
    }
  }

  /** 12 files of 1,000 orders: file k has days 1 to 28 of month k + 1, and month as a column. */
  private static Dataset<Row> orders(SparkSession spark, String... partitionedBy) {
    spark
        .range(0, 12_000, 1, 12)
        .selectExpr(
            "id AS order_id",
            "make_date(2025, CAST(id div 1000 + 1 AS INT), CAST(id % 28 + 1 AS INT)) AS order_date",
            "CAST(id div 1000 + 1 AS INT) AS month",
            "CAST(id AS DECIMAL(12,2)) AS amount",
            "concat_ws('', transform(sequence(1, 8), i -> md5(concat(id, '-', i)))) AS note")
        .write()
        .format("delta")
        .partitionBy(partitionedBy)
        .saveAsTable("orders");
    return spark.table("orders");
  }

  private static Map<String, Dataset<Row>> filters(Dataset<Row> orders) {
    Map<String, Dataset<Row>> filters = new LinkedHashMap<>();
    filters.put("expression", orders.where(UdfCost.inSeason(col("order_date"))));
    filters.put("SQL function", orders.where("in_season(order_date)"));
    filters.put("Java UDF", orders.where(UdfCost.inSeasonUdf().apply(col("order_date"))));
    filters.put("typed filter", UdfCost.inSeasonTyped(orders));
    return filters;
  }

  @Test
  void theFourFormsOfARuleOfNumbersAreEqual(SparkSession spark) {
    Dataset<Row> items =
        spark.sql("SELECT * FROM VALUES (0), (1), (2), (3), (4), (-1), (NULL) AS v (quantity)");
    Row[] points = {row(0), row(10), row(20), row(35), row(45), row(-10), row((Object) null)};

    assertThat(items.select(UdfCost.points(col("quantity")))).hasRowsInOrder(points);
    assertThat(items.selectExpr("points(quantity)")).hasRowsInOrder(points);
    assertThat(items.select(UdfCost.pointsUdf().apply(col("quantity")))).hasRowsInOrder(points);
    assertThat(UdfCost.pointsTyped(items).toDF()).hasRowsInOrder(points);
  }

  @Test
  void theFourFormsOfARuleOfTextsAreEqual(SparkSession spark) {
    Dataset<Row> items =
        spark.sql(
            """
            SELECT * FROM VALUES ('ann@Mail.Example'), ('a@b@C.de'), ('Nobody'), ('ann@'), (''), (NULL)
              AS v (email)
            """);
    Row[] domains = {
      row("mail.example"), row("c.de"), row("nobody"), row(""), row(""), row((Object) null)
    };

    assertThat(items.select(UdfCost.domain(col("email")))).hasRowsInOrder(domains);
    assertThat(items.selectExpr("domain(email)")).hasRowsInOrder(domains);
    assertThat(items.select(UdfCost.domainUdf().apply(col("email")))).hasRowsInOrder(domains);
    assertThat(UdfCost.domainTyped(items).toDF()).hasRowsInOrder(domains);
  }

  @Test
  void theFourFormsOfAFilterKeepTheSameDays(SparkSession spark) {
    Dataset<Row> days =
        spark.sql(
            """
            SELECT DATE(day) AS order_date
            FROM VALUES ('2025-11-30'), ('2025-12-01'), ('2025-12-31'), (NULL) AS v (day)
            """);

    filters(days)
        .forEach(
            (form, kept) ->
                assertThat(kept.selectExpr("day(order_date)").as(form))
                    .hasRowsInOrder(row(1), row(31)));
  }

  @Test
  void aMethodInAFilterHidesTheFilesRowsAndColumnsThatCouldBeLeftOut(SparkSession spark) {
    Map<String, QueryProfile> read = new LinkedHashMap<>();
    filters(orders(spark))
        .forEach((form, kept) -> read.put(form, QueryProfile.of(kept.select("amount"))));

    for (String seen : List.of("expression", "SQL function")) {
      assertThat(read.get(seen).filesRead()).as(seen).isEqualTo(1);
      assertThat(read.get(seen).filesPruned()).as(seen).isEqualTo(11);
      assertThat(read.get(seen).rowsRead()).as(seen).isEqualTo(1_000);
      assertThat(read.get(seen).plans().get(0))
          .contains(
              "PushedFilters: [IsNotNull(order_date), GreaterThanOrEqual(order_date,2025-12-01)]")
          .contains("ReadSchema: struct<order_date:date,amount:decimal(12,2)>");
    }
    for (String hidden : List.of("Java UDF", "typed filter")) {
      assertThat(read.get(hidden).filesRead()).as(hidden).isEqualTo(12);
      assertThat(read.get(hidden).rowsRead()).as(hidden).isEqualTo(12_000);
      assertThat(read.get(hidden).plans().get(0)).contains("PushedFilters: []");
    }
    assertThat(read.get("Java UDF").plans().get(0))
        .contains("ReadSchema: struct<order_date:date,amount:decimal(12,2)>");
    assertThat(read.get("typed filter").plans().get(0)).contains("month#").contains("note#");
    assertThat(read.get("typed filter").bytesRead())
        .isGreaterThan(3 * read.get("Java UDF").bytesRead());
    assertThat(read.values()).allSatisfy(profile -> assertThat(profile.rowsOut()).hasValue(1_000));
  }

  @Test
  void thePlainConditionBesideAUdfSkipsTheFilesAgain(SparkSession spark) {
    UDF1<String, Boolean> method = note -> note != null && note.startsWith("a");
    UserDefinedFunction startsWithA = udf(method, DataTypes.BooleanType);

    QueryProfile profile =
        QueryProfile.of(
            orders(spark)
                .where(startsWithA.apply(col("note")))
                .where(UdfCost.inSeason(col("order_date"))));

    assertThat(profile.filesRead()).isEqualTo(1);
    assertThat(profile.rowsRead()).isEqualTo(1_000);
  }

  /** Against common advice: a partition has one value, and Spark asks the UDF about it. */
  @Test
  void aUdfOfAPartitionColumnStillPrunesUnlessItIsMarkedNondeterministic(SparkSession spark) {
    Dataset<Row> orders = orders(spark, "month");
    UDF1<Integer, Boolean> method = month -> month != null && month == 12;
    UserDefinedFunction isDecember = udf(method, DataTypes.BooleanType);

    QueryProfile pruned = QueryProfile.of(orders.where(isDecember.apply(col("month"))));
    assertThat(pruned.filesRead()).isEqualTo(1);
    assertThat(pruned.filesPruned()).isEqualTo(11);
    assertThat(pruned.rowsOut()).hasValue(1_000);

    QueryProfile all =
        QueryProfile.of(orders.where(isDecember.asNondeterministic().apply(col("month"))));
    assertThat(all.filesRead()).isEqualTo(12);
    assertThat(all.rowsRead()).isEqualTo(12_000);
  }

  /**
   * Against common advice: each form is in one generated loop, with the scan and the projection.
   */
  @Test
  void noneOfTheFormsLeavesTheGeneratedCode(SparkSession spark) {
    Dataset<Row> items =
        spark.range(10).selectExpr("CAST(id AS INT) AS quantity", "CAST(id AS STRING) AS email");

    for (Dataset<?> query :
        List.of(
            items.select(UdfCost.points(col("quantity"))),
            items.select(expr("points(quantity)")),
            items.select(UdfCost.pointsUdf().apply(col("quantity"))),
            UdfCost.pointsTyped(items),
            items.select(UdfCost.domainUdf().apply(col("email"))),
            UdfCost.domainTyped(items),
            UdfCost.inSeasonTyped(items.selectExpr("DATE'2025-12-24' AS order_date", "email")))) {
      String plan = query.queryExecution().executedPlan().toString();
      assertThat(plan.lines().filter(line -> !line.isBlank()))
          .allMatch(line -> line.contains("*(1) "), plan);
    }
  }

  @Test
  void aSqlFunctionIsTheExpressionToTheOptimizerAndAUdfIsACall(SparkSession spark) {
    Map<String, Dataset<Row>> filters =
        filters(
            spark.range(9).selectExpr("date_add(DATE'2025-11-28', CAST(id AS INT)) AS order_date"));
    LogicalPlan expression = filters.get("expression").queryExecution().optimizedPlan();

    assertThat(filters.get("SQL function").queryExecution().optimizedPlan().sameResult(expression))
        .isTrue();
    assertThat(filters.get("Java UDF").queryExecution().optimizedPlan().toString())
        .contains("in_season_udf(");
  }

  @Test
  void aUdfThatDoesNotExpectNullStopsTheQueryWhereAnExpressionGivesNull(SparkSession spark) {
    UDF1<Integer, Integer> careless = quantity -> quantity * 10;
    Dataset<Row> none = spark.sql("SELECT CAST(NULL AS INT) AS quantity FROM range(1)");

    assertThat(none.selectExpr("quantity * 10")).hasRows(row((Object) null));
    assertRefused(
        "FAILED_EXECUTE_UDF",
        () ->
            none.select(udf(careless, DataTypes.IntegerType).apply(col("quantity")))
                .collectAsList());
  }

  /**
   * A filter on the right side of a left join drops the rows without a match, so the join can be an
   * inner one. Spark finds out by calling the UDF with null, while it plans.
   */
  @Test
  void aUdfIsCalledWithNullWhilePlanningAndTurnsALeftJoinIntoAnInnerOne(SparkSession spark) {
    // Tasks count in copies of their own.
    AtomicInteger calls = new AtomicInteger();
    UDF1<Long, Boolean> careful =
        n -> {
          calls.incrementAndGet();
          return n != null && n > 10;
        };
    UDF1<Long, Boolean> careless = n -> n > 10;

    assertThat(joinType(filteredLeftJoin(spark, careful))).isEqualTo("Inner");
    assertThat(calls.get()).as("calls before the query runs").isPositive();
    assertThat(joinType(filteredLeftJoin(spark, careless))).isEqualTo("LeftOuter");
    assertThat(filteredLeftJoin(spark, careful)).hasRowCount(39);
    assertRefused("FAILED_EXECUTE_UDF", () -> filteredLeftJoin(spark, careless).collectAsList());
  }

  /** 0 to 99 with the same number among 0 to 49, if it is more than 10. */
  private static Dataset<Row> filteredLeftJoin(SparkSession spark, UDF1<Long, Boolean> method) {
    Dataset<Row> left = spark.range(100).toDF("a");
    Dataset<Row> right = spark.range(50).toDF("b");
    return left.join(right, col("a").equalTo(col("b")), "left")
        .where(udf(method, DataTypes.BooleanType).apply(col("b")));
  }

  private static String joinType(Dataset<Row> query) {
    LogicalPlan plan = query.queryExecution().optimizedPlan();
    while (!(plan instanceof Join join)) {
      plan = plan.children().head();
    }
    return join.joinType().toString();
  }

  @Test
  void whereAnIntHasNoRoomAllFourFail(SparkSession spark) {
    Dataset<Row> items = spark.range(1).selectExpr("CAST(id + 300000000 AS INT) AS quantity");

    assertRefused(
        "ARITHMETIC_OVERFLOW", () -> items.select(UdfCost.points(col("quantity"))).collectAsList());
    assertRefused(
        "ARITHMETIC_OVERFLOW", () -> items.selectExpr("points(quantity)").collectAsList());
    for (Dataset<?> method :
        List.of(
            items.select(UdfCost.pointsUdf().apply(col("quantity"))), UdfCost.pointsTyped(items))) {
      assertThatThrownBy(method::collectAsList)
          .hasStackTraceContaining("java.lang.ArithmeticException: integer overflow");
    }
  }

  @Test
  void aUdfsFilterMovesBelowAJoinAndAnUnusedUdfIsDropped(SparkSession spark) {
    Dataset<Row> orders = orders(spark);
    Column inSeason = UdfCost.inSeasonUdf().apply(col("order_date"));

    String joined =
        orders
            .join(spark.range(10).toDF("order_id"), "order_id")
            .where(inSeason)
            .queryExecution()
            .optimizedPlan()
            .toString();
    String unused =
        orders
            .withColumn("in_season", inSeason)
            .select("order_id")
            .queryExecution()
            .optimizedPlan()
            .toString();

    assertThat(joined.indexOf("Join ")).isBetween(0, joined.indexOf("in_season_udf"));
    assertThat(unused).doesNotContain("in_season_udf");
  }
}
