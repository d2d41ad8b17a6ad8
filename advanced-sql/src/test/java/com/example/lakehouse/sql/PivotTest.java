package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class PivotTest {
  /** Names that would do harm in SQL text, or look like another. */
  private static final List<String> HOSTILE =
      List.of(
          "'); DROP TABLE sales; --",
          "a.b",
          "a`b",
          "`",
          "a'b",
          "a\\",
          "a\\'b",
          ":sales",
          "${x}",
          "%s",
          "two words",
          "tab\tand\nline",
          "é",
          "NULL",
          "1",
          "*");

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  @BeforeEach
  void createSales(SparkSession spark) {
    spark
        .createDataFrame(
            List.of(
                row(1, "Berlin", "audio", 1, money("10.00")),
                row(2, "Berlin", "audio", 2, money("20.00")),
                row(3, "Berlin", "books", 1, money("5.00")),
                row(4, "Paris", "audio", 3, money("7.50")),
                row(5, "Paris", null, 1, money("1.25")),
                row(6, "Rome", "toys", 4, money("8.00"))),
            StructType.fromDDL(
                "sale_id INT, shop STRING, category STRING, pieces INT, amount DECIMAL(12,2)"))
        .createOrReplaceTempView("sales");
  }

  private static Dataset<Row> of(SparkSession spark, String... categories) {
    List<Row> rows = new ArrayList<>();
    for (int i = 0; i < categories.length; i++) {
      rows.add(row("Berlin", categories[i], i + 1));
    }
    return spark.createDataFrame(
        rows, StructType.fromDDL("shop STRING, category STRING, amount INT"));
  }

  @Test
  void eachCategoryHasAColumnForEachAggregate(SparkSession spark, Sandbox sandbox) {
    assertThat(Pivot.byCategory(spark, "sales"))
        .hasSchema(
            "shop STRING, audio_pieces BIGINT, audio_amount DECIMAL(22,2), books_pieces BIGINT,"
                + " books_amount DECIMAL(22,2), unknown_pieces BIGINT, unknown_amount"
                + " DECIMAL(22,2)")
        .hasRows(
            row("Berlin", 3L, money("30.00"), 1L, money("5.00"), null, null),
            row("Paris", 3L, money("7.50"), null, null, 1L, money("1.25")),
            // Toys are not listed.
            row("Rome", null, null, null, null, null, null));
  }

  @Test
  void theDataFramesAreTheSame(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales = spark.table("sales");
    List<String> categories = Pivot.categories(sales, 4);

    assertThat(Pivot.byCategory(sales)).hasSameRowsAs(Pivot.byCategory(spark, "sales"));
    assertThat(Pivot.byEach(sales, categories))
        .hasSameRowsAs(Pivot.byEach(spark, "sales", categories));
  }

  @Test
  void columnsAreFoundWithNullAmongThem(SparkSession spark, Sandbox sandbox) {
    List<String> categories = Pivot.categories(spark.table("sales"), 4);

    assertThat(categories).containsExactly(null, "audio", "books", "toys");
    assertThat(Pivot.byEach(spark.table("sales"), categories))
        .hasSchema(
            "shop STRING, null DECIMAL(22,2), audio DECIMAL(22,2), books DECIMAL(22,2), toys"
                + " DECIMAL(22,2)")
        .hasRows(
            row("Berlin", null, money("30.00"), money("5.00"), null),
            row("Paris", money("1.25"), money("7.50"), null, null),
            row("Rome", null, null, null, money("8.00")));
  }

  @Test
  void aPivotOfThousandsOfOrdersIsThatOfPlainJava(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales =
        SampleData.of(spark)
            .rows(9_000)
            .orders()
            .selectExpr("'shop ' || pmod(customer_id, 7) AS shop", "status AS category", "amount");
    sales.createOrReplaceTempView("orders");
    List<String> categories = Pivot.categories(sales, 10);
    Map<String, BigDecimal[]> sums = new TreeMap<>();
    for (Row sale : sales.collectAsList()) {
      int at = categories.indexOf(sale.getString(1));
      BigDecimal[] ofShop =
          sums.computeIfAbsent(sale.getString(0), shop -> new BigDecimal[categories.size()]);
      ofShop[at] = ofShop[at] == null ? sale.getDecimal(2) : ofShop[at].add(sale.getDecimal(2));
    }
    Row[] expected =
        sums.entrySet().stream()
            .map(
                entry -> {
                  List<Object> values = new ArrayList<>(List.of(entry.getKey()));
                  values.addAll(Arrays.asList(entry.getValue()));
                  return RowFactory.create(values.toArray());
                })
            .toArray(Row[]::new);

    assertThat(categories).containsExactly("cancelled", "delivered", "open", "returned", "shipped");
    assertThat(Pivot.byEach(spark, "orders", categories)).hasRows(expected);
    assertThat(Pivot.byEach(sales, categories)).hasRows(expected);
  }

  @Test
  void hostileCategoriesAreNamesOfColumnsAndNoMore(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales = of(spark, HOSTILE.toArray(String[]::new));
    sales.createOrReplaceTempView("hostile");
    List<String> categories = Pivot.categories(sales, 100);
    assertThat(categories).containsExactlyInAnyOrderElementsOf(HOSTILE);

    for (Dataset<Row> pivoted :
        List.of(Pivot.byEach(sales, categories), Pivot.byEach(spark, "hostile", categories))) {
      assertThat(pivoted.columns()).endsWith(categories.toArray(String[]::new));
      Row only = pivoted.head();
      assertThat(IntStream.range(0, HOSTILE.size()).mapToObj(i -> only.get(i + 1)))
          .containsExactlyElementsOf(
              categories.stream().map(c -> (Object) (HOSTILE.indexOf(c) + 1L)).toList());
      for (String category : categories) {
        assertThat(pivoted.select(Pivot.column(category)))
            .hasRows(row(HOSTILE.indexOf(category) + 1L));
      }
    }
    assertThat(spark.table("sales")).hasRowCount(6);
  }

  @Test
  void quotingIsNoGuardAgainstASettingThatSparkPutsIn(SparkSession spark, Sandbox sandbox) {
    spark.conf().set("shop.name", "x`, 'injected' AS `y");

    assertThat(spark.sql("SELECT 1 AS `${shop.name}`")).hasRows(row(1, "injected"));
    Dataset<Row> sales = of(spark, "${shop.name}");
    sales.createOrReplaceTempView("hostile");
    assertThat(Pivot.byEach(spark, "hostile", Pivot.categories(sales, 1)))
        .hasSchema("shop STRING, `${shop.name}` BIGINT")
        .hasRows(row("Berlin", 1L));
  }

  @Test
  void aDotInANameLeadsIntoAStructUnlessItIsQuoted(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales = of(spark, "a.b");
    Dataset<Row> pivoted = Pivot.byEach(sales, Pivot.categories(sales, 1));

    assertRefused("UNRESOLVED_COLUMN.WITH_SUGGESTION", () -> pivoted.select("a.b"));
    assertThat(pivoted.select(Pivot.column("a.b"))).hasRows(row(1L));
  }

  @Test
  void deltaTakesSuchNamesWithColumnMappingOnly(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales = of(spark, "two words", "a.b", "a;b");
    Dataset<Row> pivoted = Pivot.byEach(sales, Pivot.categories(sales, 3));

    assertRefused(
        "DELTA_INVALID_CHARACTERS_IN_COLUMN_NAMES",
        () -> pivoted.write().format("delta").saveAsTable("pivoted"));
    assertThat(spark.catalog().tableExists("pivoted")).isFalse();
    pivoted
        .write()
        .format("delta")
        .option("delta.columnMapping.mode", "name")
        .saveAsTable("pivoted");
    assertThat(spark.table("pivoted").select("`two words`", "`a.b`", "`a;b`"))
        .hasRows(row(1L, 2L, 3L));
  }

  @Test
  void tooManyCategoriesAndTwoForOneColumnAreRefused(SparkSession spark, Sandbox sandbox) {
    assertThatThrownBy(() -> Pivot.categories(spark.table("sales"), 3))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("more than 3 categories");
    assertThatThrownBy(() -> Pivot.categories(of(spark, "Audio", "audio"), 3))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("two categories for the column audio");
    assertThatThrownBy(() -> Pivot.categories(of(spark, null, "null"), 3))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("two categories for the column null");
  }

  @Test
  void withoutAListSparkMakesTwoColumnsOfOneNameAndNeitherCanBeRead(
      SparkSession spark, Sandbox sandbox) {
    Dataset<Row> pivoted =
        of(spark, "Audio", "audio").groupBy("shop").pivot("category").sum("amount");

    assertThat(pivoted.columns()).containsExactly("shop", "Audio", "audio");
    assertRefused("AMBIGUOUS_REFERENCE", () -> pivoted.select("audio"));
  }

  @Test
  void withoutAListSparkRunsAQueryToFindTheValues(SparkSession spark, Sandbox sandbox) {
    spark.table("sales").write().format("delta").saveAsTable("stored");
    Dataset<Row> stored = spark.table("stored");

    assertThat(QueryProfile.of(spark, () -> stored.groupBy("shop").pivot("category").sum("amount")))
        .satisfies(profile -> assertThat(profile.filesRead()).isPositive())
        .satisfies(profile -> assertThat(profile.plans()).hasSize(1));
    assertThat(QueryProfile.of(spark, () -> Pivot.byCategory(stored)).plans()).isEmpty();
  }

  @Test
  void anotherColumnIsAnotherGroup(SparkSession spark, Sandbox sandbox) {
    assertThat(
            spark.sql("SELECT * FROM sales PIVOT (sum(amount) FOR category IN ('audio', 'books'))"))
        .hasSchema("sale_id INT, shop STRING, pieces INT, audio DECIMAL(22,2), books DECIMAL(22,2)")
        .hasRowCount(6);
  }

  @Test
  void whatIsNotThereIsNullEvenWhenItIsCounted(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> counts =
        spark.sql(
            """
            SELECT * FROM (SELECT shop, category FROM sales)
            PIVOT (count(*) FOR category IN ('audio', 'books'))
            """);
    assertThat(counts)
        .hasRows(row("Berlin", 2L, 1L), row("Paris", 1L, null), row("Rome", null, null));
    assertThat(counts.na().fill(0))
        .hasRows(row("Berlin", 2L, 1L), row("Paris", 1L, 0L), row("Rome", 0L, 0L));
  }

  @Test
  void valuesOfAnotherTypeFindNothingAndAValueTwiceFailsLate(SparkSession spark, Sandbox sandbox) {
    String pivot =
        "SELECT * FROM (SELECT shop, category, pieces FROM sales) PIVOT (sum(pieces) FOR category"
            + " IN (%s))";
    assertThat(spark.sql(pivot.formatted("1, 2")))
        .hasRows(row("Berlin", null, null), row("Paris", null, null), row("Rome", null, null));
    Dataset<Row> twice = spark.sql(pivot.formatted("'audio', 'audio'"));
    assertThatThrownBy(twice::collectAsList)
        .as("no error until it runs, and then INVALID_ARRAY_INDEX or, under -ea, an AssertionError")
        .isInstanceOf(SparkThrowable.class)
        .hasMessageNotContaining("audio");
  }

  @Test
  void whatIsNotAListOfLiteralsIsRefused(SparkSession spark, Sandbox sandbox) {
    String pivot = "SELECT * FROM sales PIVOT (%s FOR category IN (%s))";
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () -> spark.sql(pivot.formatted("sum(amount)", "SELECT DISTINCT category FROM sales")));
    assertRefused(
        "NON_LITERAL_PIVOT_VALUES", () -> spark.sql(pivot.formatted("sum(amount)", "shop")));
    assertRefused("_LEGACY_ERROR_TEMP_1006", () -> spark.sql(pivot.formatted("amount", "'audio'")));
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () ->
            spark.sql(
                pivot.formatted("sum(amount)", "'audio' AS IDENTIFIER(:name)"),
                Map.of("name", "audio")));
  }

  @Test
  void theLimitIsForValuesThatAreFoundNotForThoseThatAreListed(
      SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.pivotMaxValues", 3);
    Dataset<Row> sales = spark.table("sales");

    assertRefused(
        "_LEGACY_ERROR_TEMP_1324", () -> sales.groupBy("shop").pivot("category").sum("amount"));
    assertThat(Pivot.byEach(sales, Pivot.categories(sales, 4))).hasRowCount(3);
  }
}
