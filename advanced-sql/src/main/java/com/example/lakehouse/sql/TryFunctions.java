package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.array_compact;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.size;
import static org.apache.spark.sql.functions.try_divide;
import static org.apache.spark.sql.functions.try_to_date;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Notebook;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Bad values: one of them fails the whole query, a {@code try_} function makes it null, and a
 * second query keeps what was lost.
 *
 * <p>Run: {@code ./run TryFunctions}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: six orders as text, of which three do not fit their types; the errors that each of them
 * is; the rows that come through, and the ones set aside, with the reasons.
 *
 * <p>On Databricks: the same SQL; warehouses follow the same ANSI rules.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-ansi-compliance.html">Spark SQL: ANSI
 *     compliance</a>
 */
public final class TryFunctions {

  private TryFunctions() {}

  /**
   * Reads text as typed columns, and fails at the first value that does not fit.
   *
   * @return {@code order_id STRING, ordered DATE, quantity INT, amount DECIMAL(12,2), unit_price
   *     DECIMAL}, of {@code raw_orders}, where all columns are text
   * @throws org.apache.spark.SparkThrowable when the rows are read: CAST_INVALID_INPUT,
   *     CANNOT_PARSE_TIMESTAMP, NUMERIC_VALUE_OUT_OF_RANGE or DIVIDE_BY_ZERO
   */
  public static Dataset<Row> strict(SparkSession spark) {
    return spark.sql(
        """
        SELECT order_id,
          to_date(ordered, 'dd.MM.yyyy') AS ordered,
          CAST(quantity AS INT) AS quantity,
          CAST(amount AS DECIMAL(12,2)) AS amount,
          CAST(amount AS DECIMAL(12,2)) / CAST(quantity AS INT) AS unit_price
        FROM raw_orders
        """);
  }

  /** The same, with null in place of each value that does not fit. */
  public static Dataset<Row> tolerant(SparkSession spark) {
    return spark.sql(
        """
        SELECT order_id,
          try_to_date(ordered, 'dd.MM.yyyy') AS ordered,
          try_cast(quantity AS INT) AS quantity,
          try_cast(amount AS DECIMAL(12,2)) AS amount,
          try_divide(try_cast(amount AS DECIMAL(12,2)), try_cast(quantity AS INT)) AS unit_price
        FROM raw_orders
        """);
  }

  /** {@link #tolerant} as a DataFrame. */
  public static Dataset<Row> tolerantInJava(SparkSession spark) {
    Column quantity = col("quantity").try_cast("INT");
    Column amount = col("amount").try_cast("DECIMAL(12,2)");
    return spark
        .table("raw_orders")
        .select(
            col("order_id"),
            try_to_date(col("ordered"), "dd.MM.yyyy").as("ordered"),
            quantity.as("quantity"),
            amount.as("amount"),
            try_divide(amount, quantity).as("unit_price"));
  }

  /**
   * The rows of which {@link #tolerant} loses a value: a text that is there, and no value of it. A
   * value that was missing from the start is not lost.
   *
   * @return the columns of {@code raw_orders} as they are, and {@code lost ARRAY<STRING>}, the
   *     names of the columns that do not fit
   */
  public static Dataset<Row> rejected(SparkSession spark) {
    return spark.sql(
        """
        SELECT *
        FROM (
          SELECT *, array_compact(array(
            IF(ordered IS NOT NULL AND try_to_date(ordered, 'dd.MM.yyyy') IS NULL, 'ordered', NULL),
            IF(quantity IS NOT NULL AND try_cast(quantity AS INT) IS NULL, 'quantity', NULL),
            IF(amount IS NOT NULL AND try_cast(amount AS DECIMAL(12,2)) IS NULL, 'amount', NULL)
          )) AS lost
          FROM raw_orders
        )
        WHERE size(lost) > 0
        """);
  }

  /** The same as a DataFrame. */
  public static Dataset<Row> rejectedInJava(SparkSession spark) {
    return spark
        .table("raw_orders")
        .withColumn(
            "lost",
            array_compact(
                array(
                    lost("ordered", try_to_date(col("ordered"), "dd.MM.yyyy")),
                    lost("quantity", col("quantity").try_cast("INT")),
                    lost("amount", col("amount").try_cast("DECIMAL(12,2)")))))
        .where(size(col("lost")).gt(0));
  }

  private static Column lost(String column, Column value) {
    return when(col(column).isNotNull().and(value.isNull()), lit(column));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TryFunctions.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('1', '01.03.2025', '2',    '20.00'),
                    ('2', '30.02.2025', '1',    '35.50'),
                    ('3', '03.03.2025', 'two',  '12.00'),
                    ('4', '04.03.2025', '1',    '99999999999.00'),
                    ('5', NULL,         '1',    '7.00'),
                    ('6', '06.03.2025', '0',    '0.00')
                    AS raw_orders (order_id, ordered, quantity, amount)
                  """)
              .write()
              .saveAsTable("raw_orders");

          notebook.step("Orders as they came, all text");
          notebook.table("raw_orders", spark.table("raw_orders").orderBy("order_id"));
          notebook.refused(
              "2: there is no 30 February",
              "CANNOT_PARSE_TIMESTAMP",
              () -> strict(spark).where("order_id = 2").collectAsList());
          notebook.refused(
              "3: two is not a number",
              "CAST_INVALID_INPUT",
              () -> strict(spark).where("order_id = 3").collectAsList());
          notebook.refused(
              "4: more than DECIMAL(12,2) holds",
              "NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION",
              () -> strict(spark).where("order_id = 4").collectAsList());
          notebook.refused(
              "6: nothing to divide by",
              "DIVIDE_BY_ZERO",
              () -> strict(spark).where("order_id = 6").collectAsList());

          notebook.step("With try_ functions all rows come through");
          notebook.table("orders", tolerant(spark).orderBy("order_id"));

          notebook.step("And what was lost is known");
          notebook.table("rejected", rejected(spark).orderBy("order_id"));
          notebook.text(
              "Order 5 had no date, so none is lost; order 6 has all its values, and no unit"
                  + " price.");
        });
  }
}
