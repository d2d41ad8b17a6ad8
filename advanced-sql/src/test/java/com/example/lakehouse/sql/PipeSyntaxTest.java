package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static java.util.stream.Collectors.groupingBy;
import static java.util.stream.Collectors.toList;
import static java.util.stream.Collectors.toMap;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

@SparkTest
class PipeSyntaxTest {
  private List<Row> products;
  private List<Row> items;

  @BeforeEach
  void createTables(SparkSession spark, Sandbox sandbox) {
    SampleData shop = SampleData.of(spark);
    shop.products().write().saveAsTable("products");
    shop.orderItems().write().saveAsTable("order_items");
    products = shop.products().collectAsList();
    items = shop.orderItems().collectAsList();
  }

  @Test
  void theReportHasTheRowsThatPlainJavaComputes(SparkSession spark) {
    Map<Long, BigDecimal> revenues =
        items.stream()
            .filter(item -> item.<Integer>getAs("quantity") > 1)
            .collect(
                toMap(
                    item -> item.getAs("product_id"),
                    item ->
                        item.<BigDecimal>getAs("unit_price")
                            .multiply(BigDecimal.valueOf(item.<Integer>getAs("quantity"))),
                    BigDecimal::add));
    List<Row> expected = new ArrayList<>();
    products.stream()
        .filter(product -> revenues.containsKey(product.getLong(0)))
        .collect(groupingBy(product -> product.<String>getAs("category"), TreeMap::new, toList()))
        .forEach(
            (category, inIt) -> {
              List<Row> best =
                  inIt.stream()
                      .sorted(
                          Comparator.comparing((Row product) -> revenues.get(product.getLong(0)))
                              .reversed()
                              .thenComparing(product -> product.getLong(0)))
                      .limit(2)
                      .toList();
              for (int place = 1; place <= best.size(); place++) {
                Row product = best.get(place - 1);
                expected.add(
                    row(category, place, product.getAs("name"), revenues.get(product.getLong(0))));
              }
            });
    assertThat(expected).hasSize(10);

    for (Dataset<Row> report :
        List.of(PipeSyntax.nested(spark), PipeSyntax.piped(spark), PipeSyntax.chained(spark))) {
      assertThat(report).hasRowsInOrder(expected.toArray(Row[]::new));
    }
  }

  @Test
  void theThreeFormsHaveOnePlan(SparkSession spark) {
    assertThat(PipeSyntax.samePlan(PipeSyntax.piped(spark), PipeSyntax.nested(spark))).isTrue();
    assertThat(PipeSyntax.samePlan(PipeSyntax.piped(spark), PipeSyntax.chained(spark))).isTrue();
  }

  @TestFactory
  Stream<DynamicTest> eachOperatorHasThePlanAndTheRowsOfItsQuery(SparkSession spark) {
    return PipeSyntax.operators().entrySet().stream()
        .map(
            e ->
                DynamicTest.dynamicTest(
                    e.getKey(),
                    () -> {
                      Dataset<Row> piped = spark.sql(e.getKey());
                      Dataset<Row> query = spark.sql(e.getValue());
                      assertThat(PipeSyntax.samePlan(piped, query))
                          .as("%s%n%s", piped.queryExecution(), query.queryExecution())
                          .isTrue();
                      assertThat(piped).hasSameRowsAs(query);
                    }));
  }

  @Test
  void otherQueriesHaveOtherPlans(SparkSession spark) {
    Dataset<Row> names = spark.sql("FROM products |> SELECT name");

    assertThat(PipeSyntax.samePlan(names, spark.sql("SELECT category FROM products"))).isFalse();
    assertThat(
            PipeSyntax.samePlan(
                spark.sql("FROM products |> SELECT price * 2 AS twice"),
                spark.sql("SELECT price * 2 AS doubled FROM products")))
        .as("the names of the columns count, which Spark's own comparison leaves out")
        .isFalse();
    assertThat(
            PipeSyntax.samePlan(
                spark.sql("FROM products |> WHERE price > 1 |> LIMIT 5"),
                spark.sql("FROM products |> LIMIT 5 |> WHERE price > 1")))
        .as("the order of the steps counts")
        .isFalse();
  }

  @Test
  void aStepSeesOnlyWhatTheStepBeforeGives(SparkSession spark) {
    spark.sql("SELECT name FROM products ORDER BY price");
    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION",
        () -> spark.sql("FROM products |> SELECT name |> ORDER BY price"));
    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION",
        () -> spark.sql("FROM products |> DROP price |> WHERE price > 1"));
  }

  @Test
  void aggregatesStandInAggregateAlone(SparkSession spark) {
    assertRefused(
        "PIPE_OPERATOR_CONTAINS_AGGREGATE_FUNCTION",
        () -> spark.sql("FROM products |> SELECT max(price)"));
    assertRefused(
        "PIPE_OPERATOR_AGGREGATE_EXPRESSION_CONTAINS_NO_AGGREGATE_FUNCTION",
        () -> spark.sql("FROM products |> AGGREGATE price GROUP BY category"));
  }
}
