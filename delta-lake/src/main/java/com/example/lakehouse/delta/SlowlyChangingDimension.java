package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Slowly changing dimension, type 2: each version of a customer is a row with the time in which it
 * was true, kept by one {@code MERGE}.
 *
 * <p>Run: {@code ./run SlowlyChangingDimension}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a move closes one row and opens another; a change that comes late finds its place between
 * two rows; the same batch again changes nothing.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-update/">Delta Lake: table deletes, updates, and
 *     merges</a>
 */
public final class SlowlyChangingDimension {

  private SlowlyChangingDimension() {}

  /**
   * Creates the dimension: {@code customer_id BIGINT, city STRING, valid_from TIMESTAMP} and {@code
   * valid_to TIMESTAMP}, which is NULL in a customer's current row. {@code valid_to} is the next
   * row's {@code valid_from}: it belongs to the row after.
   */
  public static void create(SparkSession spark, String table) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table)
          (customer_id BIGINT, city STRING, valid_from TIMESTAMP, valid_to TIMESTAMP)
        USING delta
        """,
        Map.of("table", table));
  }

  /**
   * Applies a batch of changes, in one commit. They may come in any order, late, several for one
   * customer, and again.
   *
   * <p>The source of the merge is the whole history of the customers in the batch: their rows and
   * their changes in the order of time, a change that repeats the row before left out, each row
   * ending where the next begins. What differs from the table is then updated or inserted.
   *
   * @param changes the name of a table or view with {@code customer_id, city, changed_at
   *     TIMESTAMP}; at most one row for a customer and a time
   * @throws IllegalArgumentException if {@code changes} has two cities for one customer and time,
   *     or a row without a customer or time
   */
  public static void apply(SparkSession spark, String table, String changes) {
    Dataset<Row> unclear =
        spark.sql(
            """
            SELECT customer_id, changed_at FROM IDENTIFIER(:changes)
            GROUP BY customer_id, changed_at
            HAVING count(DISTINCT struct(city)) > 1 OR customer_id IS NULL OR changed_at IS NULL
            """,
            Map.of("changes", changes));
    if (!unclear.isEmpty()) {
      throw new IllegalArgumentException(
          "more than one city, or no customer_id or changed_at: " + unclear.first());
    }
    spark.sql(
        """
        MERGE INTO IDENTIFIER(:table) AS t
        USING (
          WITH versions AS (
            SELECT customer_id, city, valid_from, TRUE AS known
            FROM IDENTIFIER(:table)
            WHERE customer_id IN (SELECT customer_id FROM IDENTIFIER(:changes))
            UNION ALL
            SELECT customer_id, city, changed_at, FALSE
            FROM IDENTIFIER(:changes)
          ),
          latest AS ( -- a change to a time that has a row corrects that row
            SELECT customer_id, valid_from, max_by(city, NOT known) AS city, bool_or(known) AS known
            FROM versions
            GROUP BY customer_id, valid_from
          ),
          compared AS (
            SELECT *, known OR row_number() OVER w = 1 OR NOT (city <=> lag(city) OVER w) AS differs
            FROM latest
            WINDOW w AS (PARTITION BY customer_id ORDER BY valid_from)
          )
          SELECT customer_id, city, valid_from,
                 lead(valid_from) OVER (PARTITION BY customer_id ORDER BY valid_from) AS valid_to
          FROM compared
          WHERE differs
        ) AS s
        ON t.customer_id = s.customer_id AND t.valid_from = s.valid_from
        WHEN MATCHED AND NOT (t.valid_to <=> s.valid_to AND t.city <=> s.city) THEN UPDATE SET *
        WHEN NOT MATCHED THEN INSERT *
        """,
        Map.of("table", table, "changes", changes));
  }

  /** Each customer's row as of now. */
  public static Dataset<Row> current(SparkSession spark, String table) {
    return spark.table(table).where("valid_to IS NULL");
  }

  /**
   * Each customer's row as it was true at a time.
   *
   * @param time such as {@code 2025-03-01 12:00:00}
   */
  public static Dataset<Row> asOf(SparkSession spark, String table, String time) {
    return spark.sql(
        """
        SELECT * FROM IDENTIFIER(:table)
        WHERE valid_from <= CAST(:time AS TIMESTAMP)
          AND (valid_to > CAST(:time AS TIMESTAMP) OR valid_to IS NULL)
        """,
        Map.of("table", table, "time", time));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SlowlyChangingDimension.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          create(spark, "customers");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1L, 'Berlin', TIMESTAMP'2025-01-01 00:00:00'),
                    (2L, 'Paris',  TIMESTAMP'2025-01-01 00:00:00')
                    AS changes (customer_id, city, changed_at)
                  """)
              .createOrReplaceTempView("first");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (2L, 'Madrid', TIMESTAMP'2025-05-01 00:00:00'),
                    (3L, 'Rome',   TIMESTAMP'2025-05-01 00:00:00')
                    AS changes (customer_id, city, changed_at)
                  """)
              .createOrReplaceTempView("moves");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (2L, 'Lyon', TIMESTAMP'2025-03-01 00:00:00')
                    AS changes (customer_id, city, changed_at)
                  """)
              .createOrReplaceTempView("late");

          notebook.step("Customer 2 moves: one row is closed, one is opened");
          apply(spark, "customers", "first");
          notebook.table("before", history(spark));
          apply(spark, "customers", "moves");
          notebook.table("after", history(spark));

          notebook.step("A change of March arrives after that of May");
          apply(spark, "customers", "late");
          notebook.table("it finds its place", history(spark));

          notebook.step("The same batch again");
          apply(spark, "customers", "moves");
          notebook.table("nothing has changed", history(spark));

          notebook.step("Who lived where on 15 April?");
          notebook.table(
              "customers as of 15 April",
              asOf(spark, "customers", "2025-04-15 00:00:00").orderBy("customer_id"));
          notebook.table("customers now", current(spark, "customers").orderBy("customer_id"));
        });
  }

  private static Dataset<Row> history(SparkSession spark) {
    return spark.table("customers").orderBy("customer_id", "valid_from");
  }
}
