package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static com.example.lakehouse.sql.Views.view;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class UnpivotTest {
  private static final String QUARTERS = "shop STRING, q1 INT, q2 INT, q3 INT";

  @BeforeEach
  void createViews(SparkSession spark) {
    view(
        spark,
        "quarters",
        QUARTERS,
        List.of(
            row("Berlin", 10, 20, null),
            row("Paris", 30, null, 50),
            row("Rome", null, null, null)));
    view(
        spark,
        "pairs",
        "shop STRING, q1_pieces INT, q1_amount DECIMAL(12,2), q2_pieces INT, q2_amount"
            + " DECIMAL(12,2)",
        List.of(
            row("Berlin", 1, new BigDecimal("10.00"), 2, null),
            row("Paris", null, null, 3, new BigDecimal("5.50"))));
  }

  /** A thousand shops, a third of whose numbers are NULL. */
  private static List<Row> shops() {
    Random random = new Random(13);
    List<Row> shops = new ArrayList<>();
    for (int i = 0; i < 1_000; i++) {
      Integer[] sales = new Integer[3];
      for (int quarter = 0; quarter < 3; quarter++) {
        sales[quarter] = random.nextInt(3) == 0 ? null : random.nextInt(1_000);
      }
      shops.add(row("shop " + i, sales[0], sales[1], sales[2]));
    }
    return shops;
  }

  private static boolean hasSales(Row shop) {
    return !(shop.isNullAt(1) && shop.isNullAt(2) && shop.isNullAt(3));
  }

  @Test
  void nullsAreLeftOutAndWithThemAShop(SparkSession spark, Sandbox sandbox) {
    Row[] expected = {
      row("Berlin", "q1", 10),
      row("Berlin", "q2", 20),
      row("Paris", "q1", 30),
      row("Paris", "q3", 50)
    };

    assertThat(Unpivot.sales(spark, "quarters"))
        .hasSchema("shop STRING, quarter STRING, sales INT")
        .hasRows(expected);
    assertThat(Unpivot.sales(spark.table("quarters")))
        .hasSchema("shop STRING, quarter STRING, sales INT")
        .hasRows(expected);
  }

  @Test
  void withNullsThereAreThreeRowsForEachShop(SparkSession spark, Sandbox sandbox) {
    Row[] expected = {
      row("Berlin", "q1", 10),
      row("Berlin", "q2", 20),
      row("Berlin", "q3", null),
      row("Paris", "q1", 30),
      row("Paris", "q2", null),
      row("Paris", "q3", 50),
      row("Rome", "q1", null),
      row("Rome", "q2", null),
      row("Rome", "q3", null)
    };

    assertThat(Unpivot.allSales(spark, "quarters")).hasRows(expected);
    assertThat(Unpivot.allSales(spark.table("quarters"))).hasRows(expected);
  }

  @Test
  void aFourthQuarterNeedsNoChangeOfTheDataFrame(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> more =
        view(spark, "more", QUARTERS + ", q4 INT", List.of(row("Berlin", 1, 2, 3, 4)));

    assertThat(Unpivot.allSales(more))
        .hasRows(
            row("Berlin", "q1", 1),
            row("Berlin", "q2", 2),
            row("Berlin", "q3", 3),
            row("Berlin", "q4", 4));
    // In SQL, a column that is not listed is one of the row's other columns.
    assertThat(Unpivot.sales(spark, "more"))
        .hasRows(row("Berlin", 4, "q1", 1), row("Berlin", 4, "q2", 2), row("Berlin", 4, "q3", 3));
  }

  @Test
  void unpivotThenPivotIsTheStartIfNullsAreKept(SparkSession spark, Sandbox sandbox) {
    List<Row> shops = shops();
    view(spark, "quarters", QUARTERS, shops);
    Unpivot.allSales(spark, "quarters").createOrReplaceTempView("all_sales");
    Unpivot.sales(spark, "quarters").createOrReplaceTempView("sales");

    assertThat(spark.table("all_sales")).hasRowCount(3_000);
    assertThat(Unpivot.back(spark, "all_sales"))
        .hasSchema(QUARTERS)
        .hasRows(shops.toArray(Row[]::new));
    assertThat(Unpivot.back(spark.table("all_sales")))
        .hasSchema(QUARTERS)
        .hasRows(shops.toArray(Row[]::new));
    Row[] withSales = shops.stream().filter(UnpivotTest::hasSales).toArray(Row[]::new);
    assertThat(withSales).hasSizeBetween(940, 985);
    assertThat(Unpivot.back(spark, "sales")).hasRows(withSales);
  }

  @Test
  void pivotThenUnpivotIsTheStart(SparkSession spark, Sandbox sandbox) {
    List<Row> sales = new ArrayList<>();
    for (Row shop : shops()) {
      for (int quarter = 1; quarter <= 3; quarter++) {
        sales.add(row(shop.get(0), "q" + quarter, shop.get(quarter)));
      }
    }
    sales.removeIf(sale -> Objects.isNull(sale.get(2)));
    view(spark, "sales", "shop STRING, quarter STRING, sales INT", sales);
    Unpivot.back(spark, "sales").createOrReplaceTempView("quarters");

    assertThat(sales).hasSizeBetween(1_900, 2_100);
    assertThat(Unpivot.sales(spark, "quarters")).hasRows(sales.toArray(Row[]::new));
    assertThat(Unpivot.sales(spark.table("quarters"))).hasRows(sales.toArray(Row[]::new));
  }

  @Test
  void piecesAndAmountOfAQuarterStayTogether(SparkSession spark, Sandbox sandbox) {
    Row[] expected = {
      row("Berlin", "q1", 1, new BigDecimal("10.00")),
      // One of the two is NULL; Paris has neither in its first quarter.
      row("Berlin", "q2", 2, null),
      row("Paris", "q2", 3, new BigDecimal("5.50"))
    };
    String schema = "shop STRING, quarter STRING, pieces INT, amount DECIMAL(12,2)";

    assertThat(Unpivot.piecesAndAmounts(spark, "pairs")).hasSchema(schema).hasRows(expected);
    assertThat(Unpivot.piecesAndAmounts(spark.table("pairs"))).hasSchema(schema).hasRows(expected);
  }

  @Test
  void fieldsOfAnyTypesAreText(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> table =
        view(
            spark,
            "mixed",
            "id BIGINT, name STRING, `signed.up` DATE, `a``b` BOOLEAN",
            List.of(row(1L, "Ada", LocalDate.of(2025, 3, 1), true), row(2L, null, null, false)));

    assertThat(Unpivot.fields(table, "id"))
        .hasSchema("id BIGINT, field STRING, value STRING")
        .hasRows(
            row(1L, "name", "Ada"),
            row(1L, "signed.up", "2025-03-01"),
            row(1L, "a`b", "true"),
            row(2L, "name", null),
            row(2L, "signed.up", null),
            row(2L, "a`b", "false"));
  }

  @Test
  void numbersBecomeTheWiderTypeWhichMayLoseDigits(SparkSession spark, Sandbox sandbox) {
    assertThat(
            spark.sql(
                "SELECT * FROM (SELECT 1 AS a, 2L AS b, 3.5BD AS c) UNPIVOT (value FOR name IN (a,"
                    + " b, c))"))
        .hasSchema("name STRING, value DECIMAL(21,1)")
        .hasRows(
            row("a", new BigDecimal("1.0")),
            row("b", new BigDecimal("2.0")),
            row("c", new BigDecimal("3.5")));
    assertThat(
            spark.sql(
                """
                SELECT name, CAST(value AS BIGINT) AS value
                FROM (SELECT 9007199254740993L AS big, 0.5D AS half)
                UNPIVOT (value FOR name IN (big, half))
                """))
        .hasRows(row("big", 9_007_199_254_740_992L), row("half", 0L));
  }

  @Test
  void typesThatDoNotGoTogetherAreRefused(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "UNPIVOT_VALUE_DATA_TYPE_MISMATCH",
        () -> spark.sql("SELECT * FROM quarters UNPIVOT (value FOR name IN (shop, q1))"));
    assertRefused(
        "UNPIVOT_VALUE_DATA_TYPE_MISMATCH",
        () ->
            spark.sql(
                "SELECT * FROM (SELECT DATE'2025-03-01' AS d, 'x' AS s) UNPIVOT (value FOR name IN"
                    + " (d, s))"));
  }

  @Test
  void columnsThatAreNotThereAndExpressionsAreRefused(SparkSession spark, Sandbox sandbox) {
    String unpivot = "SELECT * FROM quarters UNPIVOT (sales FOR quarter IN (%s))";
    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION", () -> spark.sql(unpivot.formatted("q1, q9")));
    assertRefused("PARSE_SYNTAX_ERROR", () -> spark.sql(unpivot.formatted("q1 + q2")));
    assertRefused(
        "UNPIVOT_REQUIRES_VALUE_COLUMNS",
        () -> Unpivot.allSales(spark.table("quarters").select("shop")));
    // A pair that lacks a column is not refused with a condition of Spark's.
    assertThatThrownBy(
            () ->
                spark.sql(
                    "SELECT * FROM pairs UNPIVOT ((a, b) FOR q IN ((q1_pieces, q1_amount),"
                        + " (q2_pieces)))"))
        .isInstanceOf(IndexOutOfBoundsException.class);
  }
}
