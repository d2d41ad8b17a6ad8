package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static com.example.lakehouse.sql.Views.view;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class LateralJoinsTest {
  private Dataset<Row> customers;
  private Dataset<Row> orders;

  @BeforeEach
  void createViews(SparkSession spark, Sandbox sandbox) {
    customers =
        view(spark, "customers", "(1, 'Ada'), (2, 'Grace'), (3, 'Radia') AS v (customer_id, name)");
    // 10 and 13 are equal: the lower id goes first.
    orders =
        view(
            spark,
            "orders",
            "(13, 1, 20.00), (11, 1, 50.00), (12, 1, 30.00), (10, 1, 20.00), (14, 1, 10.00), (15,"
                + " 2, 40.00) AS v (order_id, customer_id, amount)");
  }

  @Test
  void eachCustomerHasThreeOrdersAtMostAndOneRowAtLeast(SparkSession spark) {
    Row[] expected = {
      row("Ada", 11, new BigDecimal("50.00")),
      row("Ada", 12, new BigDecimal("30.00")),
      row("Ada", 10, new BigDecimal("20.00")),
      row("Grace", 15, new BigDecimal("40.00")),
      row("Radia", null, null)
    };

    assertThat(LateralJoins.topThree(spark)).hasRows(expected);
    assertThat(LateralJoins.topThree(customers, orders)).hasRows(expected);
    assertThat(LateralJoins.topThreeByWindow(customers, orders)).hasRows(expected);
  }

  @Test
  void withoutLeftACustomerWithoutOrdersIsLeftOut(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT c.name, top.order_id FROM customers AS c,
                  LATERAL (SELECT order_id FROM orders AS o WHERE o.customer_id = c.customer_id LIMIT 3) AS top
                """))
        .hasRowCount(4);
  }

  @Test
  void hundredsOfCustomersGetWhatPlainJavaSortsOut(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(6_000).skew(0.1);
    data.customers().createOrReplaceTempView("customers");
    data.orders().createOrReplaceTempView("orders");
    Map<Long, List<Row>> ordersOf =
        data.orders().select("customer_id", "order_id", "amount").collectAsList().stream()
            .sorted(
                Comparator.comparing((Row order) -> order.getDecimal(2))
                    .reversed()
                    .thenComparing(order -> order.getLong(1)))
            .collect(Collectors.groupingBy(order -> order.getLong(0)));
    List<Row> expected = new ArrayList<>();
    for (Row customer : data.customers().select("customer_id", "name").collectAsList()) {
      List<Row> top = ordersOf.getOrDefault(customer.getLong(0), List.of(row(0L, null, null)));
      top.stream()
          .limit(3)
          .forEach(order -> expected.add(row(customer.get(1), order.get(1), order.get(2))));
    }

    assertThat(LateralJoins.topThree(spark)).hasRows(expected.toArray(Row[]::new));
    assertThat(LateralJoins.topThreeByWindow(spark.table("customers"), spark.table("orders")))
        .hasSameRowsAs(LateralJoins.topThree(spark));
  }

  @Test
  void sparkMakesOneWindowAndOneJoinOfItWhichIsNoLoop(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(6_000).skew(0.5);
    Dataset<Row> many = data.orders();
    QueryProfile lateral = QueryProfile.of(LateralJoins.topThree(data.customers(), many));
    QueryProfile window = QueryProfile.of(LateralJoins.topThreeByWindow(data.customers(), many));

    assertThat(lateral.joins()).containsExactly("BroadcastHashJoin");
    assertThat(window.joins()).containsExactly("BroadcastHashJoin");
    assertThat(lateral.exchanges())
        .isEqualTo(window.exchanges())
        .isEqualTo(Map.of("broadcast", 1, "hash", 1));
    // Three rows of a customer from each task are enough.
    assertThat(lateral.plans().get(0)).contains("WindowGroupLimit").contains("Partial");
  }

  /**
   * Spark 4.1 makes an inner join of it. Should this fail one day, the error is mended and the
   * example need not warn of it.
   */
  @Test
  void leftJoinLateralOfATableFunctionForgetsLeftWithoutOnTrue(SparkSession spark) {
    view(spark, "products", "('mug', ARRAY('gift')), ('pen', ARRAY()) AS v (product, tags)");
    String left =
        "SELECT p.product, t.tag FROM products AS p LEFT JOIN LATERAL explode(p.tags) AS t (tag)";

    assertThat(spark.sql(left)).hasRows(row("mug", "gift"));
    assertThat(spark.sql(left + " ON TRUE")).hasRows(row("mug", "gift"), row("pen", null));
  }

  @Test
  void aStepSeesTheStepsBefore(SparkSession spark) {
    // 50 / 1.19 = 42.0168, 30 / 1.19 = 25.2101
    assertThat(
            LateralJoins.steps(spark)
                .where("order_id IN (11, 12)")
                .selectExpr("order_id", "net", "tax", "CAST(gross AS DECIMAL(12, 2))"))
        .hasRows(
            row(11, new BigDecimal("42.02"), new BigDecimal("7.98"), new BigDecimal("50.00")),
            row(12, new BigDecimal("25.21"), new BigDecimal("4.79"), new BigDecimal("30.00")));
  }

  @Test
  void anArrayBecomesRowsAndAnEmptyOneStays(SparkSession spark) {
    Dataset<Row> products =
        view(
            spark,
            "products",
            "('mug', ARRAY('kitchen', 'gift')), ('pen', ARRAY()), ('cap', NULL) AS v (product,"
                + " tags)");
    Row[] expected = {
      row("mug", 0, "kitchen"),
      row("mug", 1, "gift"),
      row("pen", null, null),
      row("cap", null, null)
    };

    assertThat(LateralJoins.tags(spark)).hasRows(expected);
    assertThat(LateralJoins.tags(spark, products)).hasRows(expected);
    assertThat(spark.sql("SELECT product FROM products, LATERAL explode(tags) AS t (tag)"))
        .hasRows(row("mug"), row("mug"));
  }

  @Test
  void aStayHasARowForEachNightAndABackwardOneHasNone(SparkSession spark) {
    view(
        spark,
        "stays",
        "('Ada', DATE'2025-02-27', DATE'2025-03-02'), ('Grace', DATE'2025-03-01',"
            + " DATE'2025-03-01'), ('Radia', DATE'2025-03-05', DATE'2025-03-01') AS v (guest,"
            + " arrival, departure)");

    assertThat(LateralJoins.nights(spark))
        .hasRows(
            row("Ada", LocalDate.of(2025, 2, 27)),
            row("Ada", LocalDate.of(2025, 2, 28)),
            row("Ada", LocalDate.of(2025, 3, 1)));
  }

  @Test
  void columnsBecomeRowsAndNullsStay(SparkSession spark) {
    view(spark, "sales", "('mug', 3, 0, 5), ('pen', 8, NULL, 7) AS v (product, jan, feb, mar)");

    assertThat(LateralJoins.months(spark))
        .hasRows(
            row("mug", "jan", 3),
            row("mug", "feb", 0),
            row("mug", "mar", 5),
            row("pen", "jan", 8),
            row("pen", "feb", null),
            row("pen", "mar", 7));
    assertThat(spark.sql("SELECT * FROM sales UNPIVOT (sold FOR month IN (jan, feb, mar))"))
        .hasRowCount(5);
  }

  @Test
  void whatCannotLookToTheLeftIsRefused(SparkSession spark) {
    assertRefused(
        "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION",
        () -> spark.sql("SELECT * FROM customers AS c, (SELECT c.name) AS n"));
    assertRefused(
        "INVALID_LATERAL_JOIN_TYPE",
        () -> spark.sql("SELECT * FROM customers AS c RIGHT JOIN LATERAL (SELECT c.name) AS n"));
    assertRefused(
        "INVALID_LATERAL_JOIN_TYPE",
        () -> spark.sql("SELECT * FROM customers AS c FULL JOIN LATERAL (SELECT c.name) AS n"));
    assertRefused(
        "NON_FOLDABLE_ARGUMENT",
        () -> spark.sql("SELECT * FROM customers AS c, LATERAL range(c.customer_id) AS r"));
  }
}
