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
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class JoinTypesTest {
  private static final Row ADA_10 = row("Ada", 10, new BigDecimal("20.00"));
  private static final Row ADA_11 = row("Ada", 11, new BigDecimal("50.00"));
  private static final Row GRACE_12 = row("Grace", 12, new BigDecimal("30.00"));
  private static final Row RADIA = row("Radia", null, null);
  private static final Row GUEST_13 = row(null, 13, new BigDecimal("10.00"));
  private static final Row UNKNOWN_14 = row(null, 14, new BigDecimal("40.00"));

  private Dataset<Row> customers;
  private Dataset<Row> orders;
  private Dataset<Row> couriers;

  @BeforeEach
  void createViews(SparkSession spark, Sandbox sandbox) {
    customers =
        view(
            spark,
            "customers",
            "(1, 'Ada', 'Berlin'), (2, 'Grace', 'Paris'), (3, 'Radia', NULL)"
                + " AS v (customer_id, name, city)");
    orders =
        view(
            spark,
            "orders",
            "(10, 1, 20.00), (11, 1, 50.00), (12, 2, 30.00), (13, NULL, 10.00), (14, 9, 40.00)"
                + " AS v (order_id, customer_id, amount)");
    couriers =
        view(
            spark,
            "couriers",
            "('Berlin', 'bicycle'), ('Paris', 'van'), (NULL, 'post') AS v (city, courier)");
  }

  private Dataset<Row> join(String type) {
    return JoinTypes.join(customers, orders, type).select("name", "order_id", "amount");
  }

  @Test
  void anInnerJoinKeepsThePairs(SparkSession spark) {
    assertThat(JoinTypes.inner(spark)).hasRows(ADA_10, ADA_11, GRACE_12);
    assertThat(join("inner")).hasRows(ADA_10, ADA_11, GRACE_12);
  }

  @Test
  void anOuterJoinKeepsWhatHasNoPartner(SparkSession spark) {
    assertThat(JoinTypes.leftOuter(spark)).hasRows(ADA_10, ADA_11, GRACE_12, RADIA);
    assertThat(join("left")).hasRows(ADA_10, ADA_11, GRACE_12, RADIA);
    assertThat(join("right")).hasRows(ADA_10, ADA_11, GRACE_12, GUEST_13, UNKNOWN_14);
    assertThat(JoinTypes.fullOuter(spark))
        .hasRows(ADA_10, ADA_11, GRACE_12, RADIA, GUEST_13, UNKNOWN_14);
    assertThat(join("full")).hasRows(ADA_10, ADA_11, GRACE_12, RADIA, GUEST_13, UNKNOWN_14);
  }

  @Test
  void aSemiJoinKeepsACustomerOnceAndAnAntiJoinTheOthers(SparkSession spark) {
    assertThat(JoinTypes.semi(spark)).hasRows(row("Ada"), row("Grace"));
    assertThat(JoinTypes.join(customers, orders, "left_semi"))
        .hasRows(row(1, "Ada", "Berlin"), row(2, "Grace", "Paris"));
    assertThat(JoinTypes.anti(spark)).hasRows(row("Radia"));
    assertThat(JoinTypes.join(customers, orders, "left_anti")).hasRows(row(3, "Radia", null));
  }

  @Test
  void aCrossJoinIsEveryPair(SparkSession spark) {
    Dataset<Row> pairs = JoinTypes.cross(spark);

    assertThat(pairs).hasRowCount(15);
    assertThat(pairs.dropDuplicates()).hasRowCount(15);
    assertThat(pairs)
        .hasSameRowsAs(customers.crossJoin(orders).select("name", "order_id", "amount"));
  }

  @Test
  void aNullOnTheRightEmptiesNotInAndNotTheAntiJoin(SparkSession spark) {
    assertThat(JoinTypes.notIn(spark)).isEmpty();

    orders.where("customer_id IS NOT NULL").createOrReplaceTempView("orders");

    assertThat(JoinTypes.notIn(spark)).hasRows(row("Radia"));
  }

  @Test
  void aNullOnTheLeftIsInNoResultOfNotInAndInThatOfTheAntiJoin(SparkSession spark) {
    String guests =
        """
        SELECT o.order_id FROM orders AS o
        WHERE o.customer_id NOT IN (SELECT customer_id FROM customers)
        """;
    String orphans =
        """
        SELECT o.order_id FROM orders AS o
        WHERE NOT EXISTS (SELECT * FROM customers AS c WHERE c.customer_id = o.customer_id)
        """;

    assertThat(spark.sql(guests)).hasRows(row(14));
    assertThat(spark.sql(orphans)).hasRows(row(13), row(14));
  }

  @Test
  void notInBroadcastsTheSubqueryHoweverLargeItIs(SparkSession spark) {
    // No side is small enough to be sent to all tasks.
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");
    SampleData data = SampleData.of(spark);
    data.customers().createOrReplaceTempView("customers");
    // An order may have no customer, for all that Spark knows.
    data.orders()
        .selectExpr("nullif(customer_id, -1) AS customer_id")
        .createOrReplaceTempView("orders");

    assertThat(QueryProfile.of(JoinTypes.anti(spark)).joins()).containsExactly("SortMergeJoin");
    assertThat(QueryProfile.of(JoinTypes.notIn(spark)).joins())
        .containsExactly("BroadcastHashJoin");
    assertThat(JoinTypes.notIn(spark)).hasSameRowsAs(JoinTypes.anti(spark));

    String twoColumns =
        """
        SELECT name FROM customers
        WHERE (customer_id, name) NOT IN (SELECT customer_id, CAST(customer_id AS STRING) FROM orders)
        """;
    assertThat(QueryProfile.of(spark.sql(twoColumns)).joins())
        .containsExactly("BroadcastNestedLoopJoin");
  }

  @Test
  void twoNullsMatchInANullSafeJoinOnly(SparkSession spark) {
    assertThat(JoinTypes.nullSafe(spark))
        .hasRows(row("Ada", "bicycle"), row("Grace", "van"), row("Radia", "post"));
    assertThat(JoinTypes.nullSafe(customers, couriers)).hasSameRowsAs(JoinTypes.nullSafe(spark));
    assertThat(
            spark.sql(
                """
                SELECT c.name, k.courier FROM customers AS c
                LEFT JOIN couriers AS k ON k.city IS NOT DISTINCT FROM c.city
                """))
        .hasSameRowsAs(JoinTypes.nullSafe(spark));
    assertThat(
            spark.sql(
                "SELECT c.name, k.courier FROM customers AS c LEFT JOIN couriers AS k ON k.city ="
                    + " c.city"))
        .hasRows(row("Ada", "bicycle"), row("Grace", "van"), row("Radia", null));
    // It is still a join by key, not a comparison of all pairs.
    assertThat(QueryProfile.of(JoinTypes.nullSafe(spark)).joins())
        .containsExactly("BroadcastHashJoin");
  }

  @Test
  void aCorrelatedSubqueryIsOneAggregationAndOneJoin(SparkSession spark) {
    // Ada's average is 35; Grace has one order, the guest none that equals NULL.
    assertThat(JoinTypes.aboveAverage(spark)).hasRows(row(11, new BigDecimal("50.00")));
    assertThat(JoinTypes.aboveAverage(orders)).hasRows(row(11, new BigDecimal("50.00")));

    assertThat(QueryProfile.of(JoinTypes.aboveAverage(spark)).joins()).hasSize(1);
  }

  @Test
  void aScalarSubqueryWithoutRowsIsNullAndItsCountIsZero(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT c.name,
                       (SELECT count(*) FROM orders AS o WHERE o.customer_id = c.customer_id) AS orders,
                       (SELECT sum(amount) FROM orders AS o WHERE o.customer_id = c.customer_id) AS total
                FROM customers AS c
                """))
        .hasRows(
            row("Ada", 2L, new BigDecimal("70.00")),
            row("Grace", 1L, new BigDecimal("30.00")),
            row("Radia", 0L, null));
  }

  @Test
  void countOfAllAfterALeftJoinCountsWhoHasNothingAsOne(SparkSession spark) {
    JoinTypes.leftOuter(spark).createOrReplaceTempView("joined");

    assertThat(spark.sql("SELECT name, count(*), count(order_id) FROM joined GROUP BY name"))
        .hasRows(row("Ada", 2L, 2L), row("Grace", 1L, 1L), row("Radia", 1L, 0L));
  }

  @Test
  void aConditionInWhereMakesALeftJoinAnInnerOne(SparkSession spark) {
    String leftJoin =
        """
        SELECT c.name, o.order_id FROM customers AS c
        LEFT JOIN orders AS o ON o.customer_id = c.customer_id
        """;

    assertThat(spark.sql(leftJoin + "AND o.amount > 40"))
        .hasRows(row("Ada", 11), row("Grace", null), row("Radia", null));
    assertThat(spark.sql(leftJoin + "WHERE o.amount > 40")).hasRows(row("Ada", 11));
    assertThat(QueryProfile.of(spark.sql(leftJoin + "WHERE o.amount > 40")).plans())
        .singleElement()
        .asString()
        .contains("Inner")
        .doesNotContain("LeftOuter");
  }

  @Test
  void aKeyThatIsThereTwiceDoublesTheOtherSidesAmount(SparkSession spark) {
    view(spark, "payments", "(11, 50.00), (12, 10.00), (12, 20.00) AS v (order_id, paid)");

    assertThat(spark.sql("SELECT sum(amount) FROM orders JOIN payments USING (order_id)"))
        .hasRows(row(new BigDecimal("110.00")));
    assertThat(spark.sql("SELECT sum(amount) FROM orders LEFT SEMI JOIN payments USING (order_id)"))
        .hasRows(row(new BigDecimal("80.00")));
  }

  @Test
  void usingMakesOneColumnOfTwo(SparkSession spark) {
    assertThat(
            spark.sql(
                "SELECT customer_id, name, order_id FROM customers FULL JOIN orders USING"
                    + " (customer_id)"))
        .hasRows(
            row(1, "Ada", 10),
            row(1, "Ada", 11),
            row(2, "Grace", 12),
            row(3, "Radia", null),
            row(null, null, 13),
            row(9, null, 14));
  }

  @Test
  void aColumnOfBothSidesIsRefused(SparkSession spark) {
    assertRefused(
        "AMBIGUOUS_REFERENCE",
        () ->
            spark.sql(
                "SELECT customer_id FROM customers AS c JOIN orders AS o ON o.customer_id ="
                    + " c.customer_id"));
    assertRefused(
        "AMBIGUOUS_REFERENCE",
        () -> JoinTypes.join(customers, orders, "inner").select("customer_id"));
    // Two Datasets of one table: without names Spark cannot tell whose column is meant.
    Dataset<Row> large = orders.where("amount > 20");
    assertRefused(
        "_LEGACY_ERROR_TEMP_1182",
        () -> orders.join(large, orders.col("amount").lt(large.col("amount"))));
  }

  @Test
  void aJoinThatPairsAllByMistakeIsRefusedIfTheSessionSaysSo(SparkSession spark) {
    String slip = "SELECT * FROM customers AS c JOIN orders AS o ON c.customer_id = c.customer_id";
    assertThat(spark.sql(slip)).hasRowCount(15);
    assertThat(spark.sql("SELECT * FROM customers JOIN orders")).hasRowCount(15);

    spark.conf().set("spark.sql.crossJoin.enabled", "false");

    assertRefused("_LEGACY_ERROR_TEMP_1211", () -> spark.sql(slip).collectAsList());
    assertRefused(
        "_LEGACY_ERROR_TEMP_1211",
        () -> spark.sql("SELECT * FROM customers JOIN orders").collectAsList());
    assertThat(JoinTypes.cross(spark)).hasRowCount(15);
    // It looks for a condition on both sides, not at how many pairs that lets through.
    assertThat(
            spark.sql(
                "SELECT * FROM customers AS c JOIN orders AS o ON c.customer_id < o.order_id"))
        .hasRowCount(15);
  }

  @Test
  void aScalarSubqueryOfTwoRowsOrColumnsIsRefused(SparkSession spark) {
    assertRefused(
        "SCALAR_SUBQUERY_TOO_MANY_ROWS",
        () ->
            spark
                .sql(
                    "SELECT (SELECT order_id FROM orders AS o WHERE o.customer_id = c.customer_id)"
                        + " FROM customers AS c")
                .collectAsList());
    assertRefused(
        "SCALAR_SUBQUERY_TOO_MANY_ROWS",
        () -> spark.sql("SELECT (SELECT order_id FROM orders)").collectAsList());
    // To count rows Spark need not run it, and so does not notice.
    assertThat(spark.sql("SELECT (SELECT order_id FROM orders)")).hasRowCount(1);
    assertRefused(
        "INVALID_SUBQUERY_EXPRESSION.SCALAR_SUBQUERY_RETURN_MORE_THAN_ONE_OUTPUT_COLUMN",
        () -> spark.sql("SELECT (SELECT order_id, amount FROM orders)"));
  }
}
