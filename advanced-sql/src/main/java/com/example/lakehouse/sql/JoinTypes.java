package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.avg;
import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Joins: which rows each kind keeps, what NULL does to them, and the subqueries that are joins too.
 *
 * <p>Run: {@code ./run JoinTypes}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: three customers and five orders through each kind; {@code NOT IN} that finds nobody
 * because one order has no customer; a condition in the wrong place; a join that doubles a sum.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-join.html">Spark SQL:
 *     JOIN</a>
 */
public final class JoinTypes {

  private JoinTypes() {}

  /**
   * The pairs that match.
   *
   * @return {@code name STRING, order_id INT, amount DECIMAL} of the tables or views {@code
   *     customers (customer_id, name, city)} and {@code orders (order_id, customer_id, amount)}
   */
  public static Dataset<Row> inner(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name, o.order_id, o.amount
        FROM customers AS c
        JOIN orders AS o ON o.customer_id = c.customer_id
        """);
  }

  /** Each customer at least once; NULL where there is no order. Columns as of {@link #inner}. */
  public static Dataset<Row> leftOuter(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name, o.order_id, o.amount
        FROM customers AS c
        LEFT JOIN orders AS o ON o.customer_id = c.customer_id
        """);
  }

  /** Each customer and each order at least once. Columns as of {@link #inner}. */
  public static Dataset<Row> fullOuter(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name, o.order_id, o.amount
        FROM customers AS c
        FULL JOIN orders AS o ON o.customer_id = c.customer_id
        """);
  }

  /** The customers that have an order, once each, however many orders they have. */
  public static Dataset<Row> semi(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name
        FROM customers AS c
        LEFT SEMI JOIN orders AS o ON o.customer_id = c.customer_id
        """);
  }

  /** The customers that have no order. {@code NOT EXISTS} says the same in standard SQL. */
  public static Dataset<Row> anti(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name
        FROM customers AS c
        LEFT ANTI JOIN orders AS o ON o.customer_id = c.customer_id
        """);
  }

  /** Every customer with every order. Where all pairs are meant, {@code CROSS} says so. */
  public static Dataset<Row> cross(SparkSession spark) {
    return spark.sql(
        "SELECT c.name, o.order_id, o.amount FROM customers AS c CROSS JOIN orders AS o");
  }

  /**
   * The same from Datasets.
   *
   * @param type {@code inner}, {@code left}, {@code right}, {@code full}, {@code left_semi} or
   *     {@code left_anti}; the last two have the columns of {@code customers} only
   */
  public static Dataset<Row> join(Dataset<Row> customers, Dataset<Row> orders, String type) {
    return customers
        .as("c")
        .join(orders.as("o"), col("o.customer_id").equalTo(col("c.customer_id")), type);
  }

  /**
   * Who has no order, by {@code NOT IN}: nobody at all as soon as one order's {@code customer_id}
   * is NULL, for then it is unknown whose that order is. {@link #anti} is what is meant nearly
   * always.
   */
  public static Dataset<Row> notIn(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name
        FROM customers AS c
        WHERE c.customer_id NOT IN (SELECT customer_id FROM orders)
        """);
  }

  /**
   * Each customer's courier, where NULL is a city like any other: {@code <=>} is true of two NULLs,
   * and never NULL itself. {@code IS NOT DISTINCT FROM} is its name in standard SQL.
   *
   * @return {@code name STRING, courier STRING}, of {@code couriers (city, courier)}
   */
  public static Dataset<Row> nullSafe(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name, k.courier
        FROM customers AS c
        LEFT JOIN couriers AS k ON k.city <=> c.city
        """);
  }

  /** The same from Datasets. */
  public static Dataset<Row> nullSafe(Dataset<Row> customers, Dataset<Row> couriers) {
    return customers
        .as("c")
        .join(couriers.as("k"), col("k.city").eqNullSafe(col("c.city")), "left")
        .select("c.name", "k.courier");
  }

  /**
   * Each order that is above its customer's average: a subquery that belongs to the outer row.
   * Spark runs it as one aggregation and a join, not once for each row.
   *
   * @return {@code order_id INT, amount DECIMAL}
   */
  public static Dataset<Row> aboveAverage(SparkSession spark) {
    return spark.sql(
        """
        SELECT o.order_id, o.amount
        FROM orders AS o
        WHERE o.amount > (SELECT avg(i.amount) FROM orders AS i WHERE i.customer_id = o.customer_id)
        """);
  }

  /** The same from a Dataset: {@code outer()} marks the column of the outer row. */
  public static Dataset<Row> aboveAverage(Dataset<Row> orders) {
    Dataset<Row> average =
        orders
            .as("i")
            .where(col("i.customer_id").equalTo(col("o.customer_id").outer()))
            .select(avg("i.amount"));
    return orders.as("o").where(col("o.amount").gt(average.scalar())).select("order_id", "amount");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        JoinTypes.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW customers AS SELECT * FROM VALUES
                (1, 'Ada', 'Berlin'), (2, 'Grace', 'Paris'), (3, 'Radia', NULL)
                AS customers (customer_id, name, city)
              """);
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW orders AS SELECT * FROM VALUES
                (10, 1,    20.00),
                (11, 1,    50.00),
                (12, 2,    30.00),
                (13, NULL, 10.00), -- a guest's
                (14, 9,    40.00)  -- of a customer that is not in the table
                AS orders (order_id, customer_id, amount)
              """);
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW couriers AS SELECT * FROM VALUES
                ('Berlin', 'bicycle'), ('Paris', 'van'), (NULL, 'post')
                AS couriers (city, courier)
              """);

          notebook.step("Which rows each kind keeps");
          notebook.table("customers", spark.table("customers"));
          notebook.table("orders", spark.table("orders"));
          notebook.table("inner: the pairs", inner(spark).orderBy("order_id"));
          notebook.table("left outer: and who has no order", leftOuter(spark).orderBy("order_id"));
          notebook.table(
              "full outer: and orders without a customer", fullOuter(spark).orderBy("order_id"));
          notebook.table("semi: who has an order, once", semi(spark).orderBy("name"));
          notebook.table("anti: who has none", anti(spark));
          notebook.chart(
              new Chart("rows of each kind, from 3 customers and 5 orders", "rows")
                  .bar("inner", inner(spark).count())
                  .bar("left outer", leftOuter(spark).count())
                  .bar("full outer", fullOuter(spark).count())
                  .bar("semi", semi(spark).count())
                  .bar("anti", anti(spark).count())
                  .bar("cross", cross(spark).count()));

          notebook.step("NULL: no match, unless the join is null-safe");
          notebook.table("each customer's courier, with <=>", nullSafe(spark).orderBy("name"));
          notebook.text(
              "NOT IN finds %d customers without orders: the guest's order might be anybody's. The"
                  + " anti join finds %d.",
              notIn(spark).count(), anti(spark).count());

          notebook.step("A subquery for each row");
          notebook.table("orders above their customer's average", aboveAverage(spark));

          notebook.step("A condition on the right side: ON or WHERE?");
          notebook.table(
              "in ON it says which orders match, and every customer stays",
              spark.sql(
                  """
                  SELECT c.name, o.order_id FROM customers AS c
                  LEFT JOIN orders AS o ON o.customer_id = c.customer_id AND o.amount > 40
                  ORDER BY c.name
                  """));
          notebook.table(
              "in WHERE it throws the NULLs out: a left join no longer",
              spark.sql(
                  """
                  SELECT c.name, o.order_id FROM customers AS c
                  LEFT JOIN orders AS o ON o.customer_id = c.customer_id
                  WHERE o.amount > 40
                  """));

          notebook.step("A join that doubles a sum");
          notebook.table(
              "order 12 was paid in two parts",
              spark.sql(
                  """
                  WITH payments AS (
                    SELECT * FROM VALUES (11, 50.00), (12, 10.00), (12, 20.00) AS v (order_id, paid))
                  SELECT
                    (SELECT sum(o.amount) FROM orders AS o JOIN payments AS p ON p.order_id = o.order_id)
                      AS amount_by_join,
                    (SELECT sum(o.amount) FROM orders AS o LEFT SEMI JOIN payments AS p ON p.order_id = o.order_id)
                      AS amount_by_semi_join
                  """));

          notebook.step("What is refused, and what is not");
          notebook.refused(
              "A column that both sides have",
              "AMBIGUOUS_REFERENCE",
              () ->
                  spark.sql(
                      "SELECT customer_id FROM customers AS c JOIN orders AS o ON o.customer_id ="
                          + " c.customer_id"));
          notebook.refused(
              "A scalar subquery of two rows",
              "SCALAR_SUBQUERY_TOO_MANY_ROWS",
              () ->
                  spark
                      .sql(
                          "SELECT (SELECT o.order_id FROM orders AS o WHERE o.customer_id ="
                              + " c.customer_id) FROM customers AS c")
                      .collectAsList());
          notebook.text(
              "A slip of the pen, ON c.customer_id = c.customer_id, is true of every pair: %d rows"
                  + " and no error.",
              spark
                  .sql(
                      "SELECT * FROM customers AS c JOIN orders AS o ON c.customer_id ="
                          + " c.customer_id")
                  .count());
          spark.conf().set("spark.sql.crossJoin.enabled", "false");
          notebook.refused(
              "The same with spark.sql.crossJoin.enabled=false; CROSS JOIN is still allowed",
              "_LEGACY_ERROR_TEMP_1211",
              () ->
                  spark
                      .sql(
                          "SELECT * FROM customers AS c JOIN orders AS o ON c.customer_id ="
                              + " c.customer_id")
                      .count());
        });
  }
}
