package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.avg;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Common table expressions: a query in named steps, when a step that is used twice is also computed
 * twice, and three ways to have it computed once.
 *
 * <p>Run: {@code ./run CommonTableExpressions}, or Run in the IDE; no JVM flags, no setup; {@code
 * --scale} for more rows.
 *
 * <p>See: a step used twice alike reads its 4 files once, and used with two filters twice; one
 * pass, a cache and a table of its own; a random step that is shared, where a view draws again.
 *
 * <p>On Databricks: the same code; on serverless compute, which has no cache, a table.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-cte.html">Spark SQL:
 *     common table expression</a>
 */
public final class CommonTableExpressions {

  private CommonTableExpressions() {}

  /**
   * Customers whose paid orders come to more than the average customer's: {@code customer, total}.
   * The step {@code totals} is used twice, each time with the same columns and filters: Spark puts
   * its text in both places, sees that the two shuffles are equal, and makes one.
   *
   * @param orders the name of a table or view with {@code customer, month INT, status STRING,
   *     amount}
   */
  public static Dataset<Row> aboveAverage(SparkSession spark, String orders) {
    return spark.sql(
        """
        WITH paid AS (
          SELECT customer, amount FROM IDENTIFIER(:orders) WHERE status = 'paid'
        ),
        totals AS (
          SELECT customer, sum(amount) AS total FROM paid GROUP BY customer
        ),
        average AS (SELECT avg(total) AS average FROM totals)
        SELECT customer, total
        FROM totals CROSS JOIN average
        WHERE total > average
        """,
        Map.of("orders", orders));
  }

  /** The same, as a DataFrame: a step is a variable, and using it twice is no different. */
  public static Dataset<Row> aboveAverage(Dataset<Row> orders) {
    Dataset<Row> paid = orders.where("status = 'paid'").select("customer", "amount");
    Dataset<Row> totals = paid.groupBy("customer").agg(sum("amount").as("total"));
    Dataset<Row> average = totals.agg(avg("total").as("average"));
    return totals.crossJoin(average).where("total > average").select("customer", "total");
  }

  /**
   * How much more a customer paid than in the month before, of those who did in both: {@code
   * customer, change}. The step {@code monthly} is used twice, with a filter each: Spark puts the
   * filters into the step, so that two different queries come of it, and {@code orders} is read
   * twice.
   *
   * @param orders as for {@link #aboveAverage}
   */
  public static Dataset<Row> change(SparkSession spark, String orders, int month) {
    return spark.sql(
        """
        WITH monthly AS (
          SELECT customer, month, sum(amount) AS total
          FROM IDENTIFIER(:orders)
          WHERE status = 'paid'
          GROUP BY customer, month
        )
        SELECT now.customer, now.total - before.total AS change
        FROM monthly AS now JOIN monthly AS before ON now.customer = before.customer
        WHERE now.month = :month AND before.month = :month - 1
        """,
        Map.of("orders", orders, "month", month));
  }

  /**
   * The step {@code monthly} of {@link #change}, as a DataFrame: {@code customer, month, total}.
   */
  public static Dataset<Row> monthly(Dataset<Row> orders) {
    return orders
        .where("status = 'paid'")
        .groupBy("customer", "month")
        .agg(sum("amount").as("total"));
  }

  /**
   * {@link #change}, as a DataFrame.
   *
   * @param monthly {@link #monthly}, which is computed twice; after {@code cache()} once, and kept
   *     until {@code unpersist()}
   */
  public static Dataset<Row> change(Dataset<Row> monthly, int month) {
    return monthly
        .where(col("month").equalTo(month))
        .as("now")
        .join(monthly.where(col("month").equalTo(month - 1)).as("before"), "customer")
        .select(col("customer"), expr("now.total - before.total").as("change"));
  }

  /** {@link #change} in one pass: two sums with a filter each, and nothing is used twice. */
  public static Dataset<Row> changeInOnePass(SparkSession spark, String orders, int month) {
    return spark.sql(
        """
        WITH sums AS (
          SELECT customer,
                 sum(amount) FILTER (WHERE month = :month) AS now,
                 sum(amount) FILTER (WHERE month = :month - 1) AS before
          FROM IDENTIFIER(:orders)
          WHERE status = 'paid' AND month IN (:month, :month - 1)
          GROUP BY customer
        )
        SELECT customer, now - before AS change
        FROM sums
        WHERE now IS NOT NULL AND before IS NOT NULL
        """,
        Map.of("orders", orders, "month", month));
  }

  /**
   * Writes the step {@code monthly} of {@link #change} to a table, which any number of queries then
   * read.
   *
   * @param monthly the name of the table, which is replaced
   */
  public static void writeMonthly(SparkSession spark, String orders, String monthly) {
    spark.sql(
        """
        CREATE OR REPLACE TABLE IDENTIFIER(:monthly) USING delta AS
        SELECT customer, month, sum(amount) AS total
        FROM IDENTIFIER(:orders)
        WHERE status = 'paid'
        GROUP BY customer, month
        """,
        Map.of("orders", orders, "monthly", monthly));
  }

  /**
   * Draws a group for each customer, and lists group A, then group B: {@code customer, drawn
   * STRING}. A step that is not deterministic is never put in twice: Spark computes it once, behind
   * a shuffle of its own, and each customer is in one group. A view in its place would draw twice.
   *
   * @param customers the name of a table or view with a column {@code customer BIGINT}
   */
  public static Dataset<Row> draw(SparkSession spark, String customers) {
    return spark.sql(
        """
        WITH drawn AS (
          SELECT customer, IF(rand() < 0.5, 'A', 'B') AS drawn FROM IDENTIFIER(:customers)
        )
        SELECT * FROM drawn WHERE drawn = 'A'
        UNION ALL
        SELECT * FROM drawn WHERE drawn = 'B'
        """,
        Map.of("customers", customers));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CommonTableExpressions.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Ada', 11, 'paid', 40), ('Ada', 12, 'paid', 70), ('Ada', 12, 'open', 99),
                    ('Ken', 11, 'paid', 20), ('Ken', 12, 'paid', 5),
                    ('Tony', 12, 'paid', 30)
                    AS few (customer, month, status, amount)
                  """)
              .createOrReplaceTempView("few");
          notebook.step("A query in named steps");
          notebook.table("orders", spark.table("few"));
          notebook.table("above the average", aboveAverage(spark, "few").orderBy("customer"));
          notebook.table("December against November", change(spark, "few", 12).orderBy("customer"));

          notebook.step("Used twice: computed once, or twice?");
          notebook
              .sampleData(30_000)
              .orders()
              .selectExpr(
                  "order_id",
                  "customer_id AS customer",
                  "month(order_time) AS month",
                  "IF(status = 'open', 'open', 'paid') AS status",
                  "CAST(amount AS INT) AS amount")
              .repartition(4)
              .write()
              .format("delta")
              .saveAsTable("orders");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("used alike", QueryProfile.of(aboveAverage(spark, "orders")));
          profiles.put("with two filters", QueryProfile.of(change(spark, "orders", 12)));
          notebook.profiles("the table has 4 files", profiles);

          notebook.step("Three ways to compute it once");
          Map<String, QueryProfile> ways = new LinkedHashMap<>();
          ways.put("CTE, with two filters", profiles.get("with two filters"));
          ways.put("one pass", QueryProfile.of(changeInOnePass(spark, "orders", 12)));
          Dataset<Row> cached = monthly(spark.table("orders")).cache();
          ways.put("cache: filling it", QueryProfile.of(cached));
          ways.put("cache: each query", QueryProfile.of(change(cached, 12)));
          cached.unpersist();
          ways.put(
              "table: writing it",
              QueryProfile.of(spark, () -> writeMonthly(spark, "orders", "monthly")));
          ways.put("table: each query", QueryProfile.of(change(spark.table("monthly"), 12)));
          Chart read = new Chart("read for the same result", "bytes");
          Chart shuffled = new Chart("shuffled for the same result", "bytes");
          ways.forEach(
              (way, profile) -> {
                read.bar(way, profile.bytesRead());
                shuffled.bar(way, profile.shuffleBytes());
              });
          notebook.chart(read);
          notebook.chart(shuffled);
          notebook.text(
              "A cache or a table holds all months: it is worth it when more queries follow. What"
                  + " the queries then save is the scan and the shuffle.");

          notebook.step("A step that draws");
          spark
              .range(1_000)
              .selectExpr("id AS customer")
              .write()
              .format("delta")
              .saveAsTable("customers");
          Dataset<Row> drawn = draw(spark, "customers");
          spark.sql(
              "CREATE TEMP VIEW drawn AS SELECT customer, IF(rand() < 0.5, 'A', 'B') AS drawn FROM"
                  + " customers");
          Dataset<Row> view =
              spark.sql(
                  "SELECT * FROM drawn WHERE drawn = 'A' UNION ALL SELECT * FROM drawn WHERE drawn"
                      + " = 'B'");
          notebook.text(
              "Of 1,000 customers a CTE puts %,d into a group; a view, which draws for each use,"
                  + " %,d, and some of them into both.",
              drawn.select("customer").distinct().count(),
              view.select("customer").distinct().count());

          notebook.step("What is refused");
          notebook.refused(
              "A step that is used before it is there",
              "TABLE_OR_VIEW_NOT_FOUND",
              () -> spark.sql("WITH b AS (SELECT * FROM a), a AS (SELECT 1 AS x) SELECT * FROM b"));
          notebook.refused(
              "MATERIALIZED, as PostgreSQL has it",
              "PARSE_SYNTAX_ERROR",
              () -> spark.sql("WITH a AS MATERIALIZED (SELECT 1 AS x) SELECT * FROM a"));
        });
  }
}
