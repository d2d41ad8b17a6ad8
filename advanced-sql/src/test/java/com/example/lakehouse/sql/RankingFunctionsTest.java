package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.functions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class RankingFunctionsTest {
  private static final String SCHEMA = "category STRING, product STRING, sold INT";

  /** Most sold first, products without a number last, then by name. */
  private static final Comparator<Row> IN_ORDER =
      Comparator.comparing(
              (Row row) -> (Integer) row.get(2), Comparator.nullsLast(Comparator.reverseOrder()))
          .thenComparing(row -> row.getString(1));

  @BeforeEach
  void createProducts(SparkSession spark) {
    view(
        spark,
        row("audio", "Radio", 40),
        row("audio", "Headphones", 70),
        row("audio", "Stand", null),
        row("audio", "Cable", 70),
        row("audio", "Speaker", 90),
        row("books", "Poems", 30),
        row("books", "Diary", 10),
        row("books", "Atlas", 30),
        row("books", "Novel", 30));
  }

  private static void view(SparkSession spark, Row... products) {
    Views.view(spark, "products", SCHEMA, List.of(products));
  }

  /** Orders by status: some tie, every fiftieth has no number. */
  private static Dataset<Row> orders(SparkSession spark, long items) {
    return SampleData.of(spark)
        .rows(items)
        .orders()
        .selectExpr(
            "status AS category",
            "lpad(order_id, 8, '0') AS product",
            "IF(order_id % 50 = 7, NULL, CAST(amount / 10 AS INT)) AS sold");
  }

  private static Map<String, List<Row>> inOrder(Dataset<Row> products) {
    return products.collectAsList().stream()
        .sorted(IN_ORDER)
        .collect(Collectors.groupingBy(row -> row.getString(0), TreeMap::new, Collectors.toList()));
  }

  @Test
  void eachFunctionNumbersTiesAndNullsInItsWay(SparkSession spark, Sandbox sandbox) {
    assertThat(RankingFunctions.ranks(spark, "products"))
        .hasSchema(
            SCHEMA + ", row_number INT, rank INT, dense_rank INT, half INT, percent_rank DOUBLE")
        .hasRows(
            row("audio", "Speaker", 90, 1, 1, 1, 1, 0.0),
            row("audio", "Cable", 70, 2, 2, 2, 1, 0.25),
            row("audio", "Headphones", 70, 3, 2, 2, 1, 0.25),
            row("audio", "Radio", 40, 4, 4, 3, 2, 0.75),
            row("audio", "Stand", null, 5, 5, 4, 2, 1.0),
            row("books", "Atlas", 30, 1, 1, 1, 1, 0.0),
            row("books", "Novel", 30, 2, 1, 1, 1, 0.0),
            row("books", "Poems", 30, 3, 1, 1, 2, 0.0),
            row("books", "Diary", 10, 4, 4, 2, 2, 1.0));
  }

  @Test
  void nullsTieWithEachOtherAndOneRowHasPercentRankZero(SparkSession spark, Sandbox sandbox) {
    view(spark, row("a", "x", null), row("a", "y", null), row("a", "z", 1), row("b", "w", null));

    assertThat(RankingFunctions.ranks(spark, "products").drop("half"))
        .hasRows(
            row("a", "z", 1, 1, 1, 1, 0.0),
            row("a", "x", null, 2, 2, 2, 0.5),
            row("a", "y", null, 3, 2, 2, 0.5),
            row("b", "w", null, 1, 1, 1, 0.0));
  }

  @Test
  void upwardsWithoutNullsLastTheUnsoldProductComesFirst(SparkSession spark, Sandbox sandbox) {
    assertThat(
            spark.sql(
                """
                SELECT product, rank() OVER (ORDER BY sold) AS trap,
                       rank() OVER (ORDER BY sold NULLS LAST) AS rank
                FROM products WHERE category = 'audio'
                """))
        .hasRows(
            row("Stand", 1, 5),
            row("Radio", 2, 1),
            row("Cable", 3, 2),
            row("Headphones", 3, 2),
            row("Speaker", 5, 4));
  }

  @Test
  void ranksOfThousandsOfRowsAreThosePlainJavaCounts(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> orders = orders(spark, 9_000);
    orders.createOrReplaceTempView("products");

    List<Row> expected = new ArrayList<>();
    inOrder(orders)
        .forEach(
            (category, rows) -> {
              int rank = 0;
              int dense = 0;
              for (int i = 0; i < rows.size(); i++) {
                Object sold = rows.get(i).get(2);
                if (i == 0 || !Objects.equals(sold, rows.get(i - 1).get(2))) {
                  rank = i + 1;
                  dense++;
                }
                // The first half has the odd row.
                int half = i < (rows.size() + 1) / 2 ? 1 : 2;
                expected.add(
                    row(
                        category,
                        rows.get(i).getString(1),
                        sold,
                        i + 1,
                        rank,
                        dense,
                        half,
                        (rank - 1.0) / (rows.size() - 1)));
              }
            });
    assertThat(expected).hasSize(3_000);
    assertThat(RankingFunctions.ranks(spark, "products")).hasRows(expected.toArray(Row[]::new));
  }

  @Test
  void theFirstTwoByRowNumberAreTwo(SparkSession spark, Sandbox sandbox) {
    assertThat(RankingFunctions.top(spark, "products", 2))
        .hasSchema(SCHEMA)
        .hasRows(
            row("audio", "Speaker", 90),
            row("audio", "Cable", 70),
            row("books", "Atlas", 30),
            row("books", "Novel", 30));
    assertThat(RankingFunctions.top(spark, "products", 9)).hasRowCount(9);
  }

  @Test
  void theFirstTwoByRankAreAllThatTie(SparkSession spark, Sandbox sandbox) {
    assertThat(RankingFunctions.topWithTies(spark, "products", 2))
        .hasSchema(SCHEMA)
        .hasRows(
            row("audio", "Speaker", 90),
            row("audio", "Cable", 70),
            row("audio", "Headphones", 70),
            row("books", "Atlas", 30),
            row("books", "Novel", 30),
            row("books", "Poems", 30));
    assertThat(RankingFunctions.topWithTies(spark, "products", 9)).hasRowCount(8);
  }

  @Test
  void theDataFramesAreTheSame(SparkSession spark, Sandbox sandbox) {
    orders(spark, 3_000).union(spark.table("products")).createOrReplaceTempView("both");
    Dataset<Row> both = spark.table("both");

    assertThat(RankingFunctions.ranks(both)).hasSameRowsAs(RankingFunctions.ranks(spark, "both"));
    assertThat(RankingFunctions.top(both, 3)).hasSameRowsAs(RankingFunctions.top(spark, "both", 3));
    assertThat(RankingFunctions.topWithTies(both, 3))
        .hasSameRowsAs(RankingFunctions.topWithTies(spark, "both", 3));
  }

  @Test
  void aTopThreeSendsItsOwnRowsOnly(SparkSession spark, Sandbox sandbox) {
    orders(spark, 30_000).write().format("delta").saveAsTable("orders");
    List<Row> expected =
        inOrder(spark.table("orders")).values().stream()
            .flatMap(rows -> rows.stream().limit(3))
            .toList();

    assertThat(RankingFunctions.top(spark, "orders", 3)).hasRows(expected.toArray(Row[]::new));
    QueryProfile three = QueryProfile.of(RankingFunctions.top(spark, "orders", 3));
    assertThat(three.plans()).last().asString().contains("WindowGroupLimit");
    spark.conf().set("spark.sql.optimizer.windowGroupLimitThreshold", -1);
    QueryProfile all = QueryProfile.of(RankingFunctions.top(spark, "orders", 3));
    assertThat(all.plans()).last().asString().doesNotContain("WindowGroupLimit");

    assertThat(three.shuffles()).isEqualTo(all.shuffles()).isEqualTo(1);
    assertThat(three.shuffleBytes()).isLessThan(all.shuffleBytes() / 20);
  }

  @Test
  void aWindowFunctionIsRefusedInWhereAndHaving(SparkSession spark, Sandbox sandbox) {
    String first = "rank() OVER (PARTITION BY category ORDER BY sold DESC) = 1";
    assertRefused(
        "_LEGACY_ERROR_TEMP_1034", () -> spark.sql("SELECT * FROM products WHERE " + first));
    assertRefused(
        "_LEGACY_ERROR_TEMP_1034",
        () -> spark.table("products").where(functions.expr(first)).collectAsList());
    assertRefused(
        "_LEGACY_ERROR_TEMP_1034",
        () ->
            spark.sql(
                "SELECT category, sold FROM products GROUP BY category, sold HAVING " + first));
  }

  @Test
  void qualifyIsNotSparksWord(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () -> spark.sql("SELECT * FROM products QUALIFY rank() OVER (ORDER BY sold) = 1"));
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () ->
            spark.sql(
                "SELECT * FROM products WHERE sold > 0 QUALIFY rank() OVER (ORDER BY sold) = 1"));
  }

  @Test
  void aRankNeedsAnOrderItsOwnFrameAndAtLeastOneBucket(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "_LEGACY_ERROR_TEMP_1037",
        () -> spark.sql("SELECT row_number() OVER (PARTITION BY category) FROM products"));
    assertRefused(
        "_LEGACY_ERROR_TEMP_1036",
        () ->
            spark.sql(
                "SELECT rank() OVER (ORDER BY sold ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM"
                    + " products"));
    assertRefused(
        "DATATYPE_MISMATCH.VALUE_OUT_OF_RANGE",
        () -> spark.sql("SELECT ntile(0) OVER (ORDER BY sold) FROM products"));
  }
}
