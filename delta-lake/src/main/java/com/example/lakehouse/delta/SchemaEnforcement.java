package com.example.lakehouse.delta;

import static java.util.stream.Collectors.toCollection;

import com.example.lakehouse.common.Notebook;
import java.util.Arrays;
import java.util.SortedSet;
import java.util.TreeSet;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Schema enforcement: a batch that does not fit the table's columns is refused before a row of it
 * is written.
 *
 * <p>Run: {@code ./run SchemaEnforcement}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: an extra column, a wrong type and a missing NOT NULL value are refused; a column that is
 * left out and a time where the table has a number are not, so a snippet checks for them.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#schema-validation">Delta Lake: schema
 *     validation</a>
 */
public final class SchemaEnforcement {

  private SchemaEnforcement() {}

  /**
   * Adds {@code batch} to {@code table}, matching columns by name. A column that the batch does not
   * have becomes NULL.
   *
   * @throws org.apache.spark.sql.AnalysisException DELTA_METADATA_MISMATCH if the batch has a
   *     column that the table lacks, or a nested type that differs; DATATYPE_MISMATCH if the values
   *     of a column cannot be cast to the table's type; nothing is written
   * @throws org.apache.spark.SparkException with the cause DELTA_NOT_NULL_CONSTRAINT_VIOLATED if a
   *     NOT NULL column has no value
   */
  public static void append(String table, Dataset<Row> batch) {
    batch.write().format("delta").mode("append").saveAsTable(table);
  }

  /**
   * Adds {@code batch} only if it has exactly the table's columns and types, in any order. Delta by
   * itself fills a column that is left out with NULL, and casts where ANSI SQL can: a TIMESTAMP
   * becomes a number of seconds.
   *
   * @throws IllegalArgumentException naming the columns that are missing or too many
   */
  public static void appendExactly(SparkSession spark, String table, Dataset<Row> batch) {
    SortedSet<String> wanted = columns(spark.table(table));
    SortedSet<String> extra = columns(batch);
    SortedSet<String> missing = new TreeSet<>(wanted);
    missing.removeAll(extra);
    extra.removeAll(wanted);
    if (!missing.isEmpty() || !extra.isEmpty()) {
      throw new IllegalArgumentException(
          "the batch for %s lacks %s and has %s too many".formatted(table, missing, extra));
    }
    batch.write().format("delta").mode("append").saveAsTable(table);
  }

  private static SortedSet<String> columns(Dataset<Row> dataset) {
    return Arrays.stream(dataset.schema().fields())
        .map(field -> field.name() + " " + field.dataType().simpleString())
        .collect(toCollection(() -> new TreeSet<>(String.CASE_INSENSITIVE_ORDER)));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SchemaEnforcement.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE TABLE orders (order_id BIGINT NOT NULL, order_date DATE, amount DECIMAL(12,2))
              USING delta
              """);
          spark.sql("INSERT INTO orders VALUES (1, DATE'2025-03-01', 19.90)");

          notebook.step("Refused, each with its condition, and nothing is written");
          notebook.refused(
              "A column too many",
              "DELTA_METADATA_MISMATCH",
              () ->
                  append(
                      "orders",
                      spark.sql(
                          "SELECT 2L AS order_id, DATE'2025-03-02' AS order_date, 5.00BD AS amount, 'web' AS channel")));
          notebook.refused(
              "A day where the table has an amount",
              "DATATYPE_MISMATCH.CAST_WITH_FUNC_SUGGESTION",
              () ->
                  append(
                      "orders",
                      spark.sql(
                          "SELECT 2L AS order_id, DATE'2025-03-02' AS order_date, DATE'2025-03-02' AS amount")));
          notebook.refused(
              "A text that is no number",
              "CAST_INVALID_INPUT",
              () ->
                  append(
                      "orders",
                      spark.sql(
                          "SELECT 2L AS order_id, DATE'2025-03-02' AS order_date, 'nineteen' AS amount")));
          notebook.refused(
              "An amount that the type cannot hold",
              "CAST_OVERFLOW_IN_TABLE_INSERT",
              () ->
                  append(
                      "orders",
                      spark.sql(
                          "SELECT 2L AS order_id, DATE'2025-03-02' AS order_date, 99999999999.00BD AS amount")));
          notebook.refused(
              "No order_id",
              "DELTA_NOT_NULL_CONSTRAINT_VIOLATED",
              () ->
                  append(
                      "orders",
                      spark.sql(
                          "SELECT CAST(NULL AS BIGINT) AS order_id, DATE'2025-03-02' AS order_date, 5.00BD AS amount")));
          notebook.table("orders", spark.table("orders"));

          notebook.step("Not refused: a column that is left out, and a time stored as seconds");
          append("orders", spark.sql("SELECT 2L AS order_id, DATE'2025-03-02' AS order_date"));
          Dataset<Row> timed =
              spark.sql(
                  "SELECT 3L AS order_id, DATE'2025-03-02' AS order_date, TIMESTAMP'2025-03-02 10:00:00' AS amount");
          append("orders", timed);
          notebook.table(
              "one amount is NULL, one is 1.7 billion", spark.table("orders").orderBy("order_id"));

          notebook.step("With a check that names the columns");
          try {
            appendExactly(spark, "orders", timed);
            throw new IllegalStateException("a TIMESTAMP was stored as DECIMAL");
          } catch (IllegalArgumentException e) {
            notebook.text("Refused: %s", e.getMessage());
          }
        });
  }
}
