package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.row_number;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;

/**
 * Pipe syntax: a query as steps in the order in which they happen, with {@code |>}, instead of
 * queries inside queries; Spark makes the same plan of both.
 *
 * <p>Run: {@code ./run PipeSyntax}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the two best-selling products of each category three times, nested, piped and as a
 * DataFrame; the one plan of all three; what each operator stands for.
 *
 * <p>On Databricks: the same SQL, from Databricks Runtime 16.2 on.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-pipe-syntax.html">Spark SQL: pipe
 *     syntax</a>
 */
public final class PipeSyntax {

  private PipeSyntax() {}

  /**
   * The best-selling products of each category, from the innermost query outwards.
   *
   * @return {@code category STRING, place INT, name STRING, revenue DECIMAL}, two of a category, of
   *     {@code products} and {@code order_items} in the current schema
   */
  public static Dataset<Row> nested(SparkSession spark) {
    return spark.sql(
        """
        SELECT category, place, name, revenue
        FROM (
          SELECT *,
            row_number() OVER (PARTITION BY category ORDER BY revenue DESC, product_id) AS place
          FROM (
            SELECT category, product_id, name, sum(quantity * unit_price) AS revenue
            FROM order_items JOIN products USING (product_id)
            WHERE quantity > 1
            GROUP BY category, product_id, name
          )
        )
        WHERE place <= 2
        ORDER BY category, place
        """);
  }

  /** The same from top to bottom. Each step sees the columns that the step before it gives. */
  public static Dataset<Row> piped(SparkSession spark) {
    return spark.sql(
        """
        FROM order_items
        |> JOIN products USING (product_id)
        |> WHERE quantity > 1
        |> AGGREGATE sum(quantity * unit_price) AS revenue GROUP BY category, product_id, name
        |> EXTEND row_number() OVER (PARTITION BY category ORDER BY revenue DESC, product_id) AS place
        |> WHERE place <= 2
        |> SELECT category, place, name, revenue
        |> ORDER BY category, place
        """);
  }

  /** The same as a DataFrame, whose methods stand in the same order. */
  public static Dataset<Row> chained(SparkSession spark) {
    return spark
        .table("order_items")
        .join(spark.table("products"), "product_id")
        .where(col("quantity").gt(1))
        .groupBy("category", "product_id", "name")
        .agg(sum(col("quantity").multiply(col("unit_price"))).as("revenue"))
        .withColumn(
            "place",
            row_number()
                .over(
                    Window.partitionBy("category")
                        .orderBy(col("revenue").desc(), col("product_id"))))
        .where(col("place").leq(2))
        .select("category", "place", "name", "revenue")
        .orderBy("category", "place");
  }

  /** Whether Spark has the same work to do for both, which must also name their columns alike. */
  public static boolean samePlan(Dataset<Row> one, Dataset<Row> other) {
    return String.join(",", one.columns()).equals(String.join(",", other.columns()))
        && one.queryExecution().optimizedPlan().sameResult(other.queryExecution().optimizedPlan());
  }

  /**
   * Queries with each of the operators, and what they stand for, over {@code products (product_id,
   * name, category, price)}.
   */
  public static Map<String, String> operators() {
    Map<String, String> operators = new LinkedHashMap<>();
    operators.put(
        "FROM products |> EXTEND price * 2 AS twice", "SELECT *, price * 2 AS twice FROM products");
    operators.put(
        "FROM products |> SET price = price * 2",
        "SELECT product_id, name, category, price * 2 AS price FROM products");
    operators.put("FROM products |> DROP name, category", "SELECT product_id, price FROM products");
    operators.put("FROM products |> AGGREGATE count(*) AS n", "SELECT count(*) AS n FROM products");
    operators.put(
        "FROM products |> AGGREGATE max(price) AS top GROUP BY category |> WHERE top > 100",
        "SELECT category, max(price) AS top FROM products GROUP BY category HAVING top > 100");
    operators.put(
        "FROM products |> AS p |> JOIN products AS q ON p.price = q.price |> SELECT p.name,"
            + " q.category",
        "SELECT p.name, q.category FROM products AS p JOIN products AS q ON p.price = q.price");
    operators.put(
        "FROM products |> SELECT name |> UNION ALL (SELECT category FROM products)",
        "SELECT name FROM products UNION ALL SELECT category FROM products");
    operators.put(
        "FROM products |> ORDER BY price DESC |> LIMIT 3 |> SELECT name",
        "SELECT name FROM (SELECT * FROM products ORDER BY price DESC LIMIT 3)");
    operators.put(
        "FROM products |> SELECT category, price |> PIVOT (max(price) FOR category IN ('books',"
            + " 'sport'))",
        "SELECT * FROM (SELECT category, price FROM products)"
            + " PIVOT (max(price) FOR category IN ('books', 'sport'))");
    return operators;
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        PipeSyntax.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData shop = notebook.sampleData(5_000);
          shop.products().write().saveAsTable("products");
          shop.orderItems().write().saveAsTable("order_items");

          notebook.step("The best-selling products of each category");
          Dataset<Row> piped = piped(spark);
          notebook.table("from the piped query", piped);
          notebook.text("The nested query has the same plan: %s.", samePlan(nested(spark), piped));
          notebook.text("The DataFrame has the same plan: %s.", samePlan(chained(spark), piped));

          notebook.step("What each operator stands for");
          operators()
              .forEach(
                  (pipe, query) ->
                      notebook.text(
                          "%s%nis %s%n(the same plan: %s)",
                          pipe, query, samePlan(spark.sql(pipe), spark.sql(query))));

          notebook.step("What it does not take");
          notebook.refused(
              "An aggregate function outside of AGGREGATE",
              "PIPE_OPERATOR_CONTAINS_AGGREGATE_FUNCTION",
              () -> spark.sql("FROM products |> SELECT max(price)"));
          notebook.refused(
              "AGGREGATE of a column that is not aggregated",
              "PIPE_OPERATOR_AGGREGATE_EXPRESSION_CONTAINS_NO_AGGREGATE_FUNCTION",
              () -> spark.sql("FROM products |> AGGREGATE price GROUP BY category"));
        });
  }
}
