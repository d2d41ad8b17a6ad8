package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Notebook;
import java.util.Arrays;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Parameters: what a user typed goes into a query as a value, by name, by position or through a
 * variable, and never as SQL.
 *
 * <p>Run: {@code ./run SafeParameters}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a text that opens the whole table when it is pasted into the query, and finds nobody when
 * it is a parameter; the name of a column, which no value can be, checked before it is used.
 *
 * <p>On Databricks: the same SQL; the editor asks for {@code :name} in a field above the query.
 *
 * @see <a href="https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-parameter-marker">
 *     Databricks: parameter markers</a>
 */
public final class SafeParameters {

  private SafeParameters() {}

  /**
   * The customers of a name.
   *
   * @return {@code customer_id BIGINT, name STRING, city STRING}, of {@code customers}
   */
  public static Dataset<Row> named(SparkSession spark, String name) {
    return spark.sql(
        """
        SELECT customer_id, name, city
        FROM customers
        WHERE name = :name
        """,
        Map.of("name", name));
  }

  /** The same as a DataFrame, which holds values only: there is no text to break out of. */
  public static Dataset<Row> namedInJava(SparkSession spark, String name) {
    return spark.table("customers").where(col("name").equalTo(name));
  }

  /** The customers of a name in a city, by position. */
  public static Dataset<Row> namedIn(SparkSession spark, String name, String city) {
    return spark.sql(
        """
        SELECT customer_id, name, city
        FROM customers
        WHERE name = ? AND city = ?
        """,
        new Object[] {name, city});
  }

  /** The customers of any of some names: one parameter for all of them. */
  public static Dataset<Row> anyOf(SparkSession spark, String... names) {
    return spark.sql(
        """
        SELECT customer_id, name, city
        FROM customers
        WHERE array_contains(:names, name)
        """,
        Map.of("names", names));
  }

  /**
   * The customers whose name begins with {@code prefix}. In {@code LIKE} a parameter is a value
   * too, but a pattern all the same: {@code %} would find everyone.
   */
  public static Dataset<Row> beginningWith(SparkSession spark, String prefix) {
    return spark.sql(
        """
        SELECT customer_id, name, city
        FROM customers
        WHERE startswith(name, :prefix)
        """,
        Map.of("prefix", prefix));
  }

  /** Adds a customer. */
  public static void add(SparkSession spark, long id, String name, String city) {
    spark.sql(
        """
        INSERT INTO customers VALUES (:id, :name, :city)
        """,
        Map.of("id", id, "name", name, "city", city));
  }

  /**
   * Sets the session's variable {@code wanted_name}, which queries of this session use without a
   * parameter; another session has one of its own.
   */
  public static void remember(SparkSession spark, String name) {
    spark.sql("DECLARE OR REPLACE VARIABLE wanted_name STRING");
    spark.sql("SET VARIABLE wanted_name = :name", Map.of("name", name));
  }

  /**
   * The customers of the name that {@link #remember} was given. The prefix says that it is a
   * variable: a column of the same name would come first.
   */
  public static Dataset<Row> remembered(SparkSession spark) {
    return spark.sql(
        """
        SELECT customer_id, name, city
        FROM customers
        WHERE name = session.wanted_name
        """);
  }

  /**
   * Runs a query that is a text itself, such as one from a table of reports. Its values come by
   * {@code USING}, as parameters.
   *
   * @param query with the parameter {@code :name}, from a source that may run any SQL
   */
  public static Dataset<Row> immediately(SparkSession spark, String query, String name) {
    return spark.sql(
        """
        EXECUTE IMMEDIATE :query USING :name AS name
        """,
        Map.of("query", query, "name", name));
  }

  /**
   * The rows of a table in the order of a column, both chosen by a user. {@code IDENTIFIER} makes a
   * name of a text and takes nothing else, but any name: which ones a user may choose is for the
   * caller to say.
   *
   * @param table one of {@code allowed}
   * @param column one of the table's columns
   * @throws IllegalArgumentException if they are not
   */
  public static Dataset<Row> sorted(
      SparkSession spark, String table, String column, String... allowed) {
    if (!Arrays.asList(allowed).contains(table)) {
      throw new IllegalArgumentException("no such table");
    }
    if (!Arrays.asList(spark.table(table).columns()).contains(column)) {
      throw new IllegalArgumentException("no such column");
    }
    return spark.sql(
        """
        SELECT *
        FROM IDENTIFIER(:table)
        ORDER BY IDENTIFIER(:column)
        """,
        Map.of("table", table, "column", column));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SafeParameters.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql("CREATE TABLE customers (customer_id BIGINT, name STRING, city STRING)");
          spark.sql(
              """
              INSERT INTO customers VALUES
                (1, 'Ada', 'Berlin'), (2, 'Grace', 'Paris'), (3, 'Radia', 'Rome'), (4, 'A%', 'Oslo')
              """);
          String typed = "nobody' OR '1' = '1";

          notebook.step("A user typed: " + typed);
          String pasted = "SELECT * FROM customers WHERE name = '" + typed + "'";
          notebook.table(pasted, spark.sql(pasted).orderBy("customer_id"));
          notebook.table("as a parameter", named(spark, typed));

          notebook.step("It is a name like any other");
          add(spark, 5, typed, "Vienna");
          notebook.table("by name", named(spark, typed));
          notebook.table("by position", namedIn(spark, typed, "Vienna"));
          notebook.table("one of several", anyOf(spark, "Ada", typed).orderBy("customer_id"));
          remember(spark, typed);
          notebook.table("by a variable of the session", remembered(spark));
          notebook.table(
              "in a query that is a text",
              immediately(spark, "SELECT * FROM customers WHERE name = :name", typed));

          notebook.step("A pattern stays a pattern");
          notebook.table(
              "LIKE :name with A%",
              spark
                  .sql("SELECT * FROM customers WHERE name LIKE :name", Map.of("name", "A%"))
                  .orderBy("customer_id"));
          notebook.table("startswith(name, :prefix) with A%", beginningWith(spark, "A%"));

          notebook.step("Names of tables and columns");
          notebook.table("sorted by city", sorted(spark, "customers", "city", "customers"));
          notebook.refused(
              "IDENTIFIER takes a name and nothing else",
              "PARSE_SYNTAX_ERROR",
              () ->
                  spark.sql(
                      "SELECT * FROM IDENTIFIER(:table)",
                      Map.of("table", "customers; DROP TABLE customers")));
        });
  }
}
