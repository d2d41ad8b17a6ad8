package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.row_number;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;

/**
 * Lateral joins: for each row, the rows of a subquery or of a table function that looks at it: top
 * three per customer, arrays to rows, columns to rows.
 *
 * <p>Run: {@code ./run LateralJoins}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: each customer's three largest orders, and the customer who has none; the plan beside that
 * of a window function; what becomes of an empty array.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-lateral-subquery.html">Spark
 *     SQL: LATERAL SUBQUERY</a>
 */
public final class LateralJoins {

  private LateralJoins() {}

  /**
   * Each customer's three largest orders; a customer without orders once, with NULLs. Without
   * {@code LEFT} such a customer is left out.
   *
   * @return {@code name STRING, order_id INT, amount DECIMAL} of the tables or views {@code
   *     customers (customer_id, name)} and {@code orders (order_id, customer_id, amount)}
   */
  public static Dataset<Row> topThree(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.name, top.order_id, top.amount
        FROM customers AS c
        LEFT JOIN LATERAL (
          SELECT o.order_id, o.amount
          FROM orders AS o
          WHERE o.customer_id = c.customer_id
          ORDER BY o.amount DESC, o.order_id -- the id decides between equal amounts
          LIMIT 3
        ) AS top
        """);
  }

  /** The same from Datasets: {@code outer()} marks the column of the left side. */
  public static Dataset<Row> topThree(Dataset<Row> customers, Dataset<Row> orders) {
    Dataset<Row> top =
        orders
            .as("o")
            .where(col("o.customer_id").equalTo(col("c.customer_id").outer()))
            .orderBy(col("o.amount").desc(), col("o.order_id"))
            .limit(3)
            .select("o.order_id", "o.amount");
    return customers
        .as("c")
        .lateralJoin(top.as("top"), lit(true), "left")
        .select("c.name", "top.order_id", "top.amount");
  }

  /** The same by a window function, which is what Spark makes of the lateral join. */
  public static Dataset<Row> topThreeByWindow(Dataset<Row> customers, Dataset<Row> orders) {
    Dataset<Row> top =
        orders
            .withColumn(
                "place",
                row_number()
                    .over(
                        Window.partitionBy("customer_id")
                            .orderBy(col("amount").desc(), col("order_id"))))
            .where("place <= 3");
    return customers
        .join(top, customers.col("customer_id").equalTo(top.col("customer_id")), "left")
        .select("name", "order_id", "amount");
  }

  /**
   * Steps of a calculation, each under a name that the next one uses.
   *
   * @return {@code order_id INT, net DECIMAL, tax DECIMAL, gross DECIMAL} of {@code orders}
   */
  public static Dataset<Row> steps(SparkSession spark) {
    return spark.sql(
        """
        SELECT o.order_id, a.net, b.tax, c.gross
        FROM orders AS o,
          LATERAL (SELECT CAST(o.amount / 1.19 AS DECIMAL(12, 2)) AS net) AS a,
          LATERAL (SELECT o.amount - a.net AS tax) AS b,
          LATERAL (SELECT a.net + b.tax AS gross) AS c
        """);
  }

  /**
   * A row for each tag, in the array's order; a product without tags once, with NULL.
   *
   * @return {@code product STRING, place INT, tag STRING} of {@code products (product, tags
   *     ARRAY<STRING>)}
   */
  public static Dataset<Row> tags(SparkSession spark) {
    return spark.sql(
        """
        SELECT p.product, t.place, t.tag
        FROM products AS p, LATERAL posexplode_outer(p.tags) AS t (place, tag)
        """);
  }

  /** The same from a Dataset; {@code tvf()} has the table functions. */
  public static Dataset<Row> tags(SparkSession spark, Dataset<Row> products) {
    return products
        .as("p")
        .lateralJoin(spark.tvf().posexplode_outer(col("p.tags").outer()).toDF("place", "tag"))
        .select("product", "place", "tag");
  }

  /**
   * A row for each day of a stay, the last one not included: that is when the guest leaves.
   *
   * @return {@code guest STRING, night DATE} of {@code stays (guest, arrival DATE, departure
   *     DATE)}; none for a stay that ends on the day when it begins, or before
   */
  public static Dataset<Row> nights(SparkSession spark) {
    return spark.sql(
        """
        SELECT s.guest, n.night
        FROM stays AS s, LATERAL explode(sequence(s.arrival, s.departure)) AS n (night)
        WHERE n.night < s.departure -- no day of a sequence that goes backwards
        """);
  }

  /**
   * A row for each of three columns, by {@code stack}. (UNPIVOT does it too, and leaves NULLs out.)
   *
   * @return {@code product STRING, month STRING, sold INT} of {@code sales (product, jan, feb,
   *     mar)}
   */
  public static Dataset<Row> months(SparkSession spark) {
    return spark.sql(
        """
        SELECT s.product, m.month, m.sold
        FROM sales AS s, LATERAL stack(3, 'jan', s.jan, 'feb', s.feb, 'mar', s.mar) AS m (month, sold)
        """);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        LateralJoins.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW customers AS SELECT * FROM VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Radia')
                AS customers (customer_id, name)
              """);
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW orders AS SELECT * FROM VALUES
                (10, 1, 20.00), (11, 1, 50.00), (12, 1, 30.00), (13, 1, 20.00), (14, 1, 10.00), (15, 2, 40.00)
                AS orders (order_id, customer_id, amount)
              """);
          notebook.step("Each customer's three largest orders");
          notebook.table("orders", spark.table("orders"));
          notebook.table("top three", topThree(spark).orderBy(col("name"), col("amount").desc()));

          notebook.step("What Spark makes of it");
          Dataset<Row> customers = notebook.sampleData(30_000).customers();
          Dataset<Row> orders = notebook.sampleData(30_000).orders();
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("lateral", QueryProfile.of(topThree(customers, orders)));
          profiles.put("window", QueryProfile.of(topThreeByWindow(customers, orders)));
          notebook.profiles(
              "%,d customers, %,d orders".formatted(customers.count(), orders.count()), profiles);
          notebook.text(
              "Not a query for each customer: both are one window and one join. The LIMIT became a"
                  + " row number within each customer, and no task sends more than three orders of"
                  + " a customer through the shuffle.");

          notebook.step("A calculation in steps");
          notebook.table("19 % tax", steps(spark).orderBy("order_id").limit(3));

          notebook.step("Arrays, dates and columns to rows");
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW products AS SELECT * FROM VALUES
                ('mug', ARRAY('kitchen', 'gift')), ('pen', ARRAY()), ('cap', NULL)
                AS products (product, tags)
              """);
          notebook.table("products", spark.table("products"));
          notebook.table("a row for each tag", tags(spark));
          notebook.text(
              "LEFT JOIN LATERAL explode(..) keeps the pen and the cap only with ON TRUE: %d rows"
                  + " with it, %d without, where Spark 4.1 forgets the LEFT. explode_outer needs"
                  + " neither.",
              spark
                  .sql(
                      "SELECT * FROM products AS p LEFT JOIN LATERAL explode(p.tags) AS t (tag) ON"
                          + " TRUE")
                  .count(),
              spark
                  .sql("SELECT * FROM products AS p LEFT JOIN LATERAL explode(p.tags) AS t (tag)")
                  .count());
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW stays AS SELECT * FROM VALUES
                ('Ada', DATE'2025-02-27', DATE'2025-03-02'), ('Grace', DATE'2025-03-01', DATE'2025-03-01')
                AS stays (guest, arrival, departure)
              """);
          notebook.table("a row for each night", nights(spark));
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW sales AS SELECT * FROM VALUES ('mug', 3, 0, 5), ('pen', 8, NULL, 7)
                AS sales (product, jan, feb, mar)
              """);
          notebook.table("a row for each month", months(spark));

          notebook.step("What is refused");
          notebook.refused(
              "A subquery that looks at its neighbour without LATERAL",
              "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION",
              () -> spark.sql("SELECT * FROM customers AS c, (SELECT c.name) AS n"));
          notebook.refused(
              "RIGHT JOIN LATERAL: the right side cannot be there without the left",
              "INVALID_LATERAL_JOIN_TYPE",
              () ->
                  spark.sql(
                      "SELECT * FROM customers AS c RIGHT JOIN LATERAL (SELECT c.name) AS n"));
          notebook.refused(
              "A range as long as a column says; explode(sequence(..)) takes one",
              "NON_FOLDABLE_ARGUMENT",
              () -> spark.sql("SELECT * FROM customers AS c, LATERAL range(c.customer_id) AS r"));
        });
  }
}
