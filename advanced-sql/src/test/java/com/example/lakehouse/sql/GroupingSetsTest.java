package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.ExpandExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class GroupingSetsTest {
  private Dataset<Row> sales;

  @BeforeEach
  void createSales(SparkSession spark, Sandbox sandbox) {
    sales =
        spark.sql(
            """
            SELECT * FROM VALUES
              ('north', 'mug', 10.00), ('north', 'mug', 5.00), ('north', 'pen', 20.00),
              ('south', 'mug', 30.00), ('south', NULL, 7.00), (NULL, 'pen', 4.00)
              AS sales (region, product, amount)
            """);
    sales.createOrReplaceTempView("sales");
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  @Test
  void aRollupHasASubtotalForEachRegionAndOneGrandTotal(SparkSession spark) {
    Row[] expected = {
      row("north", "mug", money("15.00")),
      row("north", "pen", money("20.00")),
      row("north", "all products", money("35.00")),
      row("south", "mug", money("30.00")),
      row("south", "(unknown)", money("7.00")),
      row("south", "all products", money("37.00")),
      row("(unknown)", "pen", money("4.00")),
      row("(unknown)", "all products", money("4.00")),
      row("all regions", "all products", money("76.00"))
    };

    assertThat(GroupingSets.rollup(spark)).hasRows(expected);
    assertThat(GroupingSets.rollup(sales)).hasRows(expected);
  }

  @Test
  void aLabelByCoalesceTakesANullForASubtotal(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT coalesce(region, 'all regions') AS region, sum(amount) AS amount
                FROM sales GROUP BY ROLLUP (region)
                """))
        .hasRows(
            row("north", money("35.00")),
            row("south", money("37.00")),
            row("all regions", money("4.00")),
            row("all regions", money("76.00")));
  }

  @Test
  void aCubeHasAllCombinationsAndALevelForEach(SparkSession spark) {
    Row[] expected = {
      row("north", "mug", 0L, 2L, money("15.00")),
      row("north", "pen", 0L, 1L, money("20.00")),
      row("south", "mug", 0L, 1L, money("30.00")),
      row("south", null, 0L, 1L, money("7.00")),
      row(null, "pen", 0L, 1L, money("4.00")),
      row("north", null, 1L, 3L, money("35.00")),
      row("south", null, 1L, 2L, money("37.00")),
      row(null, null, 1L, 1L, money("4.00")),
      row(null, "mug", 2L, 3L, money("45.00")),
      row(null, "pen", 2L, 2L, money("24.00")),
      row(null, null, 2L, 1L, money("7.00")),
      row(null, null, 3L, 6L, money("76.00"))
    };

    assertThat(GroupingSets.cube(spark)).hasRows(expected);
    assertThat(GroupingSets.cube(sales)).hasRows(expected);
  }

  @Test
  void groupingSetsAreTheGroupsThatAreNamed(SparkSession spark) {
    Row[] expected = {
      row("north", null, 1L, 3L, money("35.00")),
      row("south", null, 1L, 2L, money("37.00")),
      row(null, null, 1L, 1L, money("4.00")),
      row(null, "mug", 2L, 3L, money("45.00")),
      row(null, "pen", 2L, 2L, money("24.00")),
      row(null, null, 2L, 1L, money("7.00")),
      row(null, null, 3L, 6L, money("76.00"))
    };

    assertThat(GroupingSets.groupingSets(spark)).hasRows(expected);
    assertThat(GroupingSets.byUnion(spark)).hasRows(expected);
  }

  @Test
  void whatStandsOutsideOfRollupIsInEveryGroup(SparkSession spark) {
    assertThat(GroupingSets.withinRegions(spark))
        .hasRows(
            row("north", "mug", 0L, 2L, money("15.00")),
            row("north", "pen", 0L, 1L, money("20.00")),
            row("north", null, 1L, 3L, money("35.00")),
            row("south", "mug", 0L, 1L, money("30.00")),
            row("south", null, 0L, 1L, money("7.00")),
            row("south", null, 1L, 2L, money("37.00")),
            row(null, "pen", 0L, 1L, money("4.00")),
            row(null, null, 1L, 1L, money("4.00")));
  }

  @Test
  void aThousandOrdersGiveTheSubtotalsThatPlainJavaAddsUp(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(3_000);
    // A fifth of the countries is not known.
    Dataset<Row> generated =
        data.orders()
            .join(data.customers(), "customer_id")
            .selectExpr(
                "IF(order_id % 5 = 0, NULL, country) AS region", "status AS product", "amount");
    generated.createOrReplaceTempView("sales");
    Map<List<Object>, Long> count = new HashMap<>();
    Map<List<Object>, BigDecimal> total = new HashMap<>();
    for (Row sale : generated.collectAsList()) {
      for (long level = 0; level < 4; level++) {
        List<Object> group = new ArrayList<>();
        group.add((level & 2) == 0 ? sale.get(0) : null);
        group.add((level & 1) == 0 ? sale.get(1) : null);
        group.add(level);
        count.merge(group, 1L, Long::sum);
        total.merge(group, sale.getDecimal(2), BigDecimal::add);
      }
    }

    assertThat(GroupingSets.cube(spark))
        .hasRows(
            count.entrySet().stream()
                .map(
                    group ->
                        row(
                            group.getKey().get(0),
                            group.getKey().get(1),
                            group.getKey().get(2),
                            group.getValue(),
                            total.get(group.getKey())))
                .toArray(Row[]::new));
  }

  @Test
  void threeSetsReadAndShuffleOnceWhatAUnionDoesThreeTimes(SparkSession spark) {
    sales.write().format("delta").saveAsTable("stored");
    spark.table("stored").createOrReplaceTempView("sales");

    QueryProfile sets = QueryProfile.of(GroupingSets.groupingSets(spark));
    QueryProfile union = QueryProfile.of(GroupingSets.byUnion(spark));

    assertThat(sets.rowsRead()).isEqualTo(6);
    assertThat(sets.shuffles()).isEqualTo(1);
    assertThat(union.rowsRead()).isEqualTo(18);
    assertThat(union.shuffles()).isEqualTo(3);
    // The price: each row is copied for each set before it is aggregated.
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    assertThat(PlanRows.of(GroupingSets.groupingSets(spark), ExpandExec.class)).isEqualTo(18);
    assertThat(PlanRows.of(GroupingSets.cube(spark), ExpandExec.class)).isEqualTo(24);
  }

  @Test
  void sumsOfSubtotalsCountEachSaleOftenAndDistinctCountsDoNotAddUp(SparkSession spark) {
    // Once as itself, once in its region, once in the total.
    assertThat(GroupingSets.rollup(spark).selectExpr("sum(amount)")).hasRows(row(money("228.00")));

    assertThat(
            spark.sql(
                """
                SELECT region, grouping(region) AS total, count(DISTINCT product) AS products
                FROM sales GROUP BY ROLLUP (region)
                """))
        .hasRows(
            row("north", (byte) 0, 2L),
            row("south", (byte) 0, 1L),
            row(null, (byte) 0, 1L),
            row(null, (byte) 1, 2L));
  }

  @Test
  void ofNoSalesThereIsNotEvenAGrandTotal(SparkSession spark) {
    sales.limit(0).createOrReplaceTempView("sales");

    assertThat(GroupingSets.rollup(spark)).isEmpty();
    assertThat(GroupingSets.groupingSets(spark)).isEmpty();
    // Without GROUP BY there is one row, always.
    assertThat(GroupingSets.byUnion(spark)).hasRows(row(null, null, 3L, 0L, null));
  }

  @Test
  void groupingIsRefusedWhereItMeansNothing(SparkSession spark) {
    assertRefused(
        "UNSUPPORTED_GROUPING_EXPRESSION",
        () -> spark.sql("SELECT region, grouping(region) FROM sales GROUP BY region"));
    assertRefused(
        "GROUPING_ID_COLUMN_MISMATCH",
        () -> spark.sql("SELECT grouping_id(product) FROM sales GROUP BY CUBE (region, product)"));
    assertRefused(
        "GROUPING_COLUMN_MISMATCH",
        () -> spark.sql("SELECT grouping(product) FROM sales GROUP BY ROLLUP (region)"));
    assertRefused(
        "MISSING_AGGREGATION",
        () -> spark.sql("SELECT region, product, sum(amount) FROM sales GROUP BY region"));
  }
}
