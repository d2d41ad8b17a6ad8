package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.io.Serializable;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.api.java.function.FilterFunction;
import org.apache.spark.api.java.function.FlatMapFunction;
import org.apache.spark.api.java.function.FlatMapGroupsFunction;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.api.java.function.MapGroupsFunction;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import scala.Tuple2;

/**
 * Typed Datasets: rows as beans, with logic in plain Java; and what the optimizer no longer sees of
 * it, so that more is read and more is shuffled.
 *
 * <p>Run: {@code ./run TypedDatasets}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: orders cut into instalments that add up to the cent; a filter as a lambda reads 12 files
 * of 12, as a column 2; a sum by mapGroups shuffles every row.
 *
 * <p>On Databricks: the same code, in a JAR on a cluster.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/sql-getting-started.html#creating-datasets">Spark
 *     SQL: creating Datasets</a>
 */
public final class TypedDatasets {
  private static final int INSTALMENTS = 3;

  private TypedDatasets() {}

  /** An order. A bean has a public constructor, getters and setters; records are refused. */
  public static final class Order implements Serializable {
    private long orderId;
    private long customerId;
    private LocalDate orderDate;
    private BigDecimal amount;

    public long getOrderId() {
      return orderId;
    }

    public void setOrderId(long orderId) {
      this.orderId = orderId;
    }

    public long getCustomerId() {
      return customerId;
    }

    public void setCustomerId(long customerId) {
      this.customerId = customerId;
    }

    public LocalDate getOrderDate() {
      return orderDate;
    }

    public void setOrderDate(LocalDate orderDate) {
      this.orderDate = orderDate;
    }

    public BigDecimal getAmount() {
      return amount;
    }

    public void setAmount(BigDecimal amount) {
      this.amount = amount;
    }
  }

  /** What is due of an order on one day. */
  public static final class Instalment implements Serializable {
    private long orderId;
    private LocalDate due;
    private BigDecimal amount;

    public Instalment() {}

    public Instalment(long orderId, LocalDate due, BigDecimal amount) {
      this.orderId = orderId;
      this.due = due;
      this.amount = amount;
    }

    public long getOrderId() {
      return orderId;
    }

    public void setOrderId(long orderId) {
      this.orderId = orderId;
    }

    public LocalDate getDue() {
      return due;
    }

    public void setDue(LocalDate due) {
      this.due = due;
    }

    public BigDecimal getAmount() {
      return amount;
    }

    public void setAmount(BigDecimal amount) {
      this.amount = amount;
    }
  }

  /**
   * Rows as beans: columns are found by their names, which are the properties'. Nothing else is
   * selected, for a column that the bean does not have would be read and shuffled all the same.
   *
   * @param orders with {@code order_id BIGINT, customer_id BIGINT, order_date DATE, amount DECIMAL}
   * @throws org.apache.spark.sql.AnalysisException UNRESOLVED_COLUMN.WITH_SUGGESTION if one of them
   *     is not there, CANNOT_UP_CAST_DATATYPE if its type is wider than the property's
   */
  public static Dataset<Order> typed(Dataset<Row> orders) {
    return orders
        .select(
            col("order_id").as("orderId"),
            col("customer_id").as("customerId"),
            col("order_date").as("orderDate"),
            col("amount"))
        .as(Encoders.bean(Order.class));
  }

  /** One line of text for each order. */
  public static Dataset<String> lines(Dataset<Order> orders) {
    MapFunction<Order, String> line =
        order ->
            "%s: order %d, %.2f EUR"
                .formatted(order.getOrderDate(), order.getOrderId(), order.getAmount());
    return orders.map(line, Encoders.STRING());
  }

  /**
   * Three instalments for each order, a month apart, that add up to its amount: the cents that do
   * not divide are in the first. Their type is {@code DECIMAL(38,18)}, as of each BigDecimal of a
   * bean.
   */
  public static Dataset<Instalment> instalments(Dataset<Order> orders) {
    FlatMapFunction<Order, Instalment> split =
        order -> {
          BigDecimal part =
              order.getAmount().divide(BigDecimal.valueOf(INSTALMENTS), 2, RoundingMode.DOWN);
          BigDecimal first = order.getAmount().subtract(part.multiply(BigDecimal.valueOf(2)));
          List<Instalment> parts = new ArrayList<>();
          for (int i = 0; i < INSTALMENTS; i++) {
            parts.add(
                new Instalment(
                    order.getOrderId(), order.getOrderDate().plusMonths(i), i == 0 ? first : part));
          }
          return parts.iterator();
        };
    return orders.flatMap(split, Encoders.bean(Instalment.class));
  }

  /**
   * The longest pause between two orders of a customer, in days; 0 if there is one. Spark sorts the
   * rows of each group, on disk if need be, and the method sees one after the other.
   */
  public static Dataset<Tuple2<Long, Long>> longestPauses(Dataset<Order> orders) {
    MapFunction<Order, Long> customer = Order::getCustomerId;
    FlatMapGroupsFunction<Long, Order, Tuple2<Long, Long>> longest =
        (id, sorted) -> {
          long pause = 0;
          LocalDate previous = sorted.next().getOrderDate();
          while (sorted.hasNext()) {
            LocalDate day = sorted.next().getOrderDate();
            pause = Math.max(pause, ChronoUnit.DAYS.between(previous, day));
            previous = day;
          }
          return List.of(new Tuple2<>(id, pause)).iterator();
        };
    return orders
        .groupByKey(customer, Encoders.LONG())
        .flatMapSortedGroups(
            new Column[] {col("orderDate")},
            longest,
            Encoders.tuple(Encoders.LONG(), Encoders.LONG()));
  }

  /**
   * A customer's total, by a method over all the orders: each of them is shuffled, and those of one
   * customer go through one task. {@link #totals} sends one sum for each customer and partition.
   */
  public static Dataset<Tuple2<Long, BigDecimal>> totalsByMapGroups(Dataset<Order> orders) {
    MapFunction<Order, Long> customer = Order::getCustomerId;
    MapGroupsFunction<Long, Order, Tuple2<Long, BigDecimal>> sum =
        (id, ordersOfOne) -> {
          BigDecimal total = BigDecimal.ZERO;
          while (ordersOfOne.hasNext()) {
            total = total.add(ordersOfOne.next().getAmount());
          }
          return new Tuple2<>(id, total);
        };
    return orders
        .groupByKey(customer, Encoders.LONG())
        .mapGroups(sum, Encoders.tuple(Encoders.LONG(), Encoders.DECIMAL()));
  }

  /** The same total as an expression: {@code customerId BIGINT, total DECIMAL}. */
  public static Dataset<Row> totals(Dataset<Order> orders) {
    return orders.groupBy("customerId").sum("amount").toDF("customerId", "total");
  }

  /** Orders from a day on, by a method that Spark cannot look into: it reads all. */
  public static Dataset<Order> sinceByMethod(Dataset<Order> orders, LocalDate day) {
    FilterFunction<Order> since = order -> !order.getOrderDate().isBefore(day);
    return orders.filter(since);
  }

  /** The same as an expression, which leaves out files; the result is typed all the same. */
  public static Dataset<Order> since(Dataset<Order> orders, LocalDate day) {
    return orders.where(col("orderDate").geq(day));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TypedDatasets.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> few =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (1L, 7L, DATE'2025-01-31', 100.00BD),
                    (2L, 7L, DATE'2025-03-01', 0.01BD),
                    (3L, 8L, DATE'2025-03-05', 50.00BD)
                    AS orders (order_id, customer_id, order_date, amount)
                  """);
          notebook.step("Rows as beans: map, flatMap, groups");
          notebook.table("orders", few);
          notebook.table("map", lines(typed(few)).toDF("line"));
          notebook.table(
              "flatMap: three instalments that add up to the cent",
              instalments(typed(few))
                  .selectExpr("orderId", "due", "CAST(amount AS DECIMAL(12,2)) AS amount")
                  .orderBy("orderId", "due"));
          notebook.table(
              "flatMapSortedGroups: the longest pause between two orders, in days",
              longestPauses(typed(few)).toDF("customerId", "pause").orderBy("customerId"));

          notebook.step("What Spark checks when a row becomes a bean");
          notebook.refused(
              "A column that is not there",
              "UNRESOLVED_COLUMN.WITH_SUGGESTION",
              () -> typed(few.drop("amount")));
          notebook.refused(
              "A text for a number: nothing is parsed",
              "CANNOT_UP_CAST_DATATYPE",
              () -> typed(few.withColumn("order_id", col("order_id").cast("string"))));
          notebook.refused(
              "A NULL for a long",
              "NOT_NULL_ASSERT_VIOLATION",
              () ->
                  lines(typed(few.withColumn("order_id", lit(null).cast("bigint"))))
                      .collectAsList());

          notebook.step("What the optimizer does not see");
          notebook
              .sampleData(60_000)
              .orders()
              .repartitionByRange(12, col("order_date"))
              .write()
              .format("delta")
              .saveAsTable("orders");
          Dataset<Order> orders = typed(spark.table("orders"));
          LocalDate december = LocalDate.of(2025, 12, 1);
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("column", QueryProfile.of(since(orders, december)));
          profiles.put("method", QueryProfile.of(sinceByMethod(orders, december)));
          profiles.put("sum", QueryProfile.of(totals(orders)));
          profiles.put("mapGroups", QueryProfile.of(totalsByMapGroups(orders)));
          notebook.profiles("orders since December, and each customer's total", profiles);
          Chart chart = new Chart("bytes shuffled for each customer's total", "bytes");
          chart.bar("sum", profiles.get("sum").shuffleBytes());
          chart.bar("mapGroups", profiles.get("mapGroups").shuffleBytes());
          notebook.chart(chart);
        });
  }
}
