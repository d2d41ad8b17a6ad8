package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.sql.TypedDatasets.Instalment;
import com.example.lakehouse.sql.TypedDatasets.Order;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.HashMap;
import java.util.Map;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import scala.Tuple2;

@SparkTest
class TypedDatasetsTest {
  private static final LocalDate OCTOBER = LocalDate.of(2025, 10, 1);

  private static Dataset<Row> orders(SparkSession spark) {
    return spark.sql(
        """
        SELECT * FROM VALUES
          (1L, 7L, DATE'2025-01-31', CAST(100.00 AS DECIMAL(12,2))),
          (2L, 7L, DATE'2025-03-01', CAST(0.01 AS DECIMAL(12,2))),
          (3L, 8L, DATE'2025-03-05', CAST(50.00 AS DECIMAL(12,2))),
          (4L, 7L, DATE'2025-03-02', CAST(1.99 AS DECIMAL(12,2)))
          AS orders (order_id, customer_id, order_date, amount)
        """);
  }

  /** Four files, one for each quarter, and a column that no bean has. */
  private static Dataset<Row> quarters(SparkSession spark) {
    spark
        .range(0, 4_000, 1, 4)
        .selectExpr(
            "id AS order_id",
            "id % 4 AS customer_id",
            "add_months(DATE'2025-01-01', CAST(id div 1000 AS INT) * 3) AS order_date",
            "CAST(id AS DECIMAL(12,2)) AS amount",
            "sha2(CAST(id AS STRING), 512) AS note")
        .write()
        .format("delta")
        .saveAsTable("orders");
    return spark.table("orders");
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  @Test
  void aMethodMakesOneValueOfEachRow(SparkSession spark) {
    assertThat(TypedDatasets.lines(TypedDatasets.typed(orders(spark))).collectAsList())
        .containsExactlyInAnyOrder(
            "2025-01-31: order 1, 100.00 EUR",
            "2025-03-01: order 2, 0.01 EUR",
            "2025-03-05: order 3, 50.00 EUR",
            "2025-03-02: order 4, 1.99 EUR");
  }

  /** 31 January and a month is 28 February, and two are 31 March; a cent does not divide. */
  @Test
  void instalmentsAreAMonthApartAndAddUp(SparkSession spark) {
    Dataset<Row> instalments =
        TypedDatasets.instalments(TypedDatasets.typed(orders(spark).where("order_id < 3"))).toDF();

    assertThat(instalments).hasSchema("amount DECIMAL(38,18), due DATE, orderId BIGINT");
    assertThat(instalments.selectExpr("orderId", "due", "CAST(amount AS DECIMAL(12,2))"))
        .hasRows(
            row(1L, LocalDate.of(2025, 1, 31), money("33.34")),
            row(1L, LocalDate.of(2025, 2, 28), money("33.33")),
            row(1L, LocalDate.of(2025, 3, 31), money("33.33")),
            row(2L, LocalDate.of(2025, 3, 1), money("0.01")),
            row(2L, LocalDate.of(2025, 4, 1), money("0.00")),
            row(2L, LocalDate.of(2025, 5, 1), money("0.00")));
  }

  @Test
  void theInstalmentsOfGeneratedOrdersAddUpToTheCent(SparkSession spark) {
    Dataset<Row> orders = SampleData.of(spark).rows(3_000).orders();
    Map<Long, BigDecimal> expected = new HashMap<>();
    orders
        .select("order_id", "amount")
        .collectAsList()
        .forEach(order -> expected.put(order.getLong(0), order.getDecimal(1)));

    Map<Long, BigDecimal> sums = new HashMap<>();
    for (Instalment part : TypedDatasets.instalments(TypedDatasets.typed(orders)).collectAsList()) {
      sums.merge(part.getOrderId(), part.getAmount().setScale(2), BigDecimal::add);
    }

    assertThat(sums).hasSize(1_000).isEqualTo(expected);
  }

  /** Customer 7 ordered on 31 January, and on 1 and 2 March: 29 days and 1. */
  @Test
  void theRowsOfAGroupComeSorted(SparkSession spark) {
    assertThat(
            TypedDatasets.longestPauses(
                    TypedDatasets.typed(orders(spark).orderBy(col("amount").desc())))
                .toDF())
        .hasRows(row(7L, 29L), row(8L, 0L));
  }

  @Test
  void aTotalByMethodIsTheTotalByExpressionAndThatOfJava(SparkSession spark) {
    Dataset<Order> orders = TypedDatasets.typed(SampleData.of(spark).rows(3_000).orders());
    Map<Long, BigDecimal> expected = new HashMap<>();
    for (Order order : orders.collectAsList()) {
      expected.merge(order.getCustomerId(), order.getAmount().setScale(2), BigDecimal::add);
    }

    Map<Long, BigDecimal> byMethod = new HashMap<>();
    for (Tuple2<Long, BigDecimal> total : TypedDatasets.totalsByMapGroups(orders).collectAsList()) {
      byMethod.put(total._1(), total._2().setScale(2));
    }
    Map<Long, BigDecimal> byExpression = new HashMap<>();
    TypedDatasets.totals(orders)
        .collectAsList()
        .forEach(total -> byExpression.put(total.getLong(0), total.getDecimal(1)));

    assertThat(byMethod).isEqualTo(expected);
    assertThat(byExpression).isEqualTo(expected);
  }

  @Test
  void aFilterByMethodReadsAllFilesAndOneByColumnLeavesThemOut(
      SparkSession spark, Sandbox sandbox) {
    Dataset<Order> orders = TypedDatasets.typed(quarters(spark));
    Dataset<Order> byColumn = TypedDatasets.since(orders, OCTOBER);
    Dataset<Order> byMethod = TypedDatasets.sinceByMethod(orders, OCTOBER);

    assertThat(byColumn.toDF()).hasRowCount(1_000).hasSameRowsAs(byMethod.toDF());
    QueryProfile column = QueryProfile.of(byColumn);
    QueryProfile method = QueryProfile.of(byMethod);
    assertThat(column.filesRead()).isEqualTo(1);
    assertThat(column.filesPruned()).isEqualTo(3);
    assertThat(column.plans().toString()).contains("GreaterThanOrEqual(order_date,2025-10-01)");
    assertThat(method.filesRead()).isEqualTo(4);
    assertThat(method.filesPruned()).isZero();
    assertThat(method.plans().toString()).contains("PushedFilters: []");
    assertThat(method.bytesRead()).isGreaterThan(column.bytesRead());
  }

  /** What is behind a map is not moved before it, and what is before it stays there. */
  @Test
  void aFilterHelpsBeforeAMapAndNotBehindIt(SparkSession spark, Sandbox sandbox) {
    Dataset<Order> orders = TypedDatasets.typed(quarters(spark));
    MapFunction<Order, Order> same = order -> order;

    Dataset<Order> before =
        TypedDatasets.since(orders, OCTOBER).map(same, Encoders.bean(Order.class));
    Dataset<Order> behind =
        TypedDatasets.since(orders.map(same, Encoders.bean(Order.class)), OCTOBER);

    assertThat(QueryProfile.of(before).filesRead()).isEqualTo(1);
    assertThat(QueryProfile.of(behind).filesRead()).isEqualTo(4);
    assertThat(before.toDF()).hasSameRowsAs(behind.toDF());
  }

  /** A method that uses one property of the bean has all four read; a column, one. */
  @Test
  void aMethodReadsAllColumnsOfTheBean(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> table = quarters(spark);
    MapFunction<Order, Long> id = Order::getOrderId;

    assertThat(
            QueryProfile.of(TypedDatasets.typed(table).map(id, Encoders.LONG())).plans().toString())
        .contains(
            "ReadSchema:"
                + " struct<order_id:bigint,customer_id:bigint,order_date:date,amount:decimal(12,2)>");
    assertThat(QueryProfile.of(TypedDatasets.typed(table).select("orderId")).plans().toString())
        .contains("ReadSchema: struct<order_id:bigint>");
  }

  /** A sum sends a row for each customer and partition: 16 rows, where mapGroups sends 4,000. */
  @Test
  void mapGroupsShufflesEveryRow(SparkSession spark, Sandbox sandbox) {
    Dataset<Order> orders = TypedDatasets.typed(quarters(spark));

    QueryProfile sum = QueryProfile.of(TypedDatasets.totals(orders));
    QueryProfile groups = QueryProfile.of(TypedDatasets.totalsByMapGroups(orders));

    assertThat(groups.shuffles()).isEqualTo(1);
    assertThat(sum.shuffles()).isEqualTo(1);
    assertThat(groups.shuffleBytes()).isGreaterThan(20 * sum.shuffleBytes());
    assertThat(sum.plans().toString()).contains("partial_sum");
  }

  /** A bean does not have it and no method sees it; a group takes it along. */
  @Test
  void aColumnThatTheBeanDoesNotHaveIsShuffledUnlessItIsLeftOut(
      SparkSession spark, Sandbox sandbox) {
    Dataset<Row> wide =
        quarters(spark)
            .withColumnsRenamed(
                Map.of(
                    "order_id", "orderId", "customer_id", "customerId", "order_date", "orderDate"));

    long all =
        QueryProfile.of(TypedDatasets.totalsByMapGroups(wide.as(Encoders.bean(Order.class))))
            .shuffleBytes();
    long selected =
        QueryProfile.of(TypedDatasets.totalsByMapGroups(TypedDatasets.typed(spark.table("orders"))))
            .shuffleBytes();

    assertThat(all).isGreaterThan(3 * selected);
  }

  @Test
  void columnsThatDoNotFitAreRefusedBeforeAnythingRuns(SparkSession spark) {
    Dataset<Row> orders = orders(spark);

    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION", () -> TypedDatasets.typed(orders.drop("amount")));
    assertRefused(
        "CANNOT_UP_CAST_DATATYPE",
        () -> TypedDatasets.typed(orders.withColumn("order_id", col("order_id").cast("string"))));
    assertThat(
            TypedDatasets.typed(orders.withColumn("order_id", col("order_id").cast("int")))
                .collectAsList())
        .extracting(Order::getOrderId)
        .containsExactlyInAnyOrder(1L, 2L, 3L, 4L);
  }

  @Test
  void aNullIsRefusedByAPrimitiveAndTakenByAnObject(SparkSession spark) {
    Dataset<Row> orders = orders(spark).limit(1);

    assertRefused(
        "NOT_NULL_ASSERT_VIOLATION",
        () ->
            TypedDatasets.typed(orders.withColumn("customer_id", lit(null).cast("bigint")))
                .collectAsList());
    assertThat(
            TypedDatasets.typed(orders.withColumn("amount", lit(null).cast("decimal(12,2)")))
                .collectAsList())
        .extracting(Order::getAmount)
        .containsExactly((BigDecimal) null);
  }

  /** The error has no condition; its cause is what the method threw. */
  @Test
  void aMethodThatThrowsFailsTheQueryWithItsOwnException(SparkSession spark) {
    MapFunction<Order, Long> strict =
        order -> {
          if (order.getOrderId() == 3) {
            throw new IllegalStateException("order " + order.getOrderId());
          }
          return order.getOrderId();
        };

    assertThatThrownBy(
            () ->
                TypedDatasets.typed(orders(spark).repartition(1))
                    .map(strict, Encoders.LONG())
                    .collectAsList())
        .hasRootCauseInstanceOf(IllegalStateException.class)
        .rootCause()
        .hasMessage("order 3");
  }
}
