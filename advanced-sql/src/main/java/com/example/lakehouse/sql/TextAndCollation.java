package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.collate;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.nullif;
import static org.apache.spark.sql.functions.regexp_extract;
import static org.apache.spark.sql.functions.regexp_extract_all;
import static org.apache.spark.sql.functions.regexp_replace;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Text: regular expressions, and collations that compare and sort without regard to case and
 * accents, in filters, joins and groups, over Delta tables too; and what that costs.
 *
 * <p>Run: {@code ./run TextAndCollation}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: parts of texts by pattern; {@code jose} that finds José and JOSE; five orders of the same
 * names; a collated filter that reads all files, and a collated join that is never broadcast.
 *
 * <p>On Databricks: the same code; there a Delta table may also have collated columns.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/api/sql/#collate">Spark SQL: collate</a>
 */
public final class TextAndCollation {

  /** Neither case nor accents, by the rules of Unicode that hold for most languages. */
  private static final String ANY_CASE_AND_ACCENT = "UNICODE_CI_AI";

  private TextAndCollation() {}

  /**
   * {@code line INT, sku STRING, number INT, sizes ARRAY<STRING>, turned STRING}: parts of a text,
   * and the text with its dates turned from day.month.year to year-month-day. In {@code r'…'} a
   * backslash is one; in a plain {@code '\d'} Spark takes it away, and nothing is found. Where
   * nothing is found, extract gives an empty text, extract_all an empty array, and replace the text
   * as it was.
   *
   * @param lines a table or view with {@code line INT, text STRING}
   */
  public static Dataset<Row> parts(SparkSession spark, String lines) {
    return spark.sql(
        """
        SELECT line,
               regexp_extract(text, r'([A-Z]{2})-(\\d+)', 0) AS sku,
               CAST(nullif(regexp_extract(text, r'([A-Z]{2})-(\\d+)', 2), '') AS INT) AS number,
               regexp_extract_all(text, r'(\\d+) ?cm', 1) AS sizes,
               regexp_replace(text, r'(\\d{1,2})\\.(\\d{1,2})\\.(\\d{4})', '$3-$2-$1') AS turned
        FROM IDENTIFIER(:lines)
        """,
        Map.of("lines", lines));
  }

  /** {@link #parts} with columns. */
  public static Dataset<Row> parts(Dataset<Row> lines) {
    String sku = "([A-Z]{2})-(\\d+)";
    return lines.select(
        col("line"),
        regexp_extract(col("text"), sku, 0).as("sku"),
        nullif(regexp_extract(col("text"), sku, 2), lit("")).cast("int").as("number"),
        regexp_extract_all(col("text"), lit("(\\d+) ?cm"), lit(1)).as("sizes"),
        regexp_replace(col("text"), "(\\d{1,2})\\.(\\d{1,2})\\.(\\d{4})", "$3-$2-$1").as("turned"));
  }

  /**
   * The customers of a name, however it is written: {@code jose} finds José and JOSE.
   *
   * @param customers a table or view with {@code customer_id INT, name STRING}
   */
  public static Dataset<Row> named(SparkSession spark, String customers, String name) {
    return spark.sql(
        """
        SELECT customer_id, name
        FROM IDENTIFIER(:customers)
        WHERE name COLLATE UNICODE_CI_AI = :name
        """,
        Map.of("customers", customers, "name", name));
  }

  /** {@link #named} with columns. */
  public static Dataset<Row> named(Dataset<Row> customers, String name) {
    return customers
        .where(collate(col("name"), ANY_CASE_AND_ACCENT).equalTo(name))
        .select("customer_id", "name");
  }

  /**
   * {@code customer_id INT, guest_id INT}: pairs of the same name, however it is written.
   *
   * @param guests a table or view with {@code guest_id INT, name STRING}
   */
  public static Dataset<Row> sameNames(SparkSession spark, String customers, String guests) {
    return spark.sql(
        """
        SELECT c.customer_id, g.guest_id
        FROM IDENTIFIER(:customers) AS c
        JOIN IDENTIFIER(:guests) AS g ON c.name COLLATE UNICODE_CI_AI = g.name
        """,
        Map.of("customers", customers, "guests", guests));
  }

  /** {@link #sameNames} with columns. */
  public static Dataset<Row> sameNames(Dataset<Row> customers, Dataset<Row> guests) {
    return customers
        .join(
            guests, collate(customers.col("name"), ANY_CASE_AND_ACCENT).equalTo(guests.col("name")))
        .select("customer_id", "guest_id");
  }

  /**
   * {@code name STRING, customers BIGINT}: how often each name comes. Of several spellings {@code
   * min} takes the first in binary order, so that it is always the same.
   */
  public static Dataset<Row> countByName(SparkSession spark, String customers) {
    return spark.sql(
        """
        SELECT min(name) AS name, count(*) AS customers
        FROM IDENTIFIER(:customers)
        GROUP BY name COLLATE UNICODE_CI_AI
        """,
        Map.of("customers", customers));
  }

  /**
   * A view over a table whose names are compared without regard to case and accents wherever it is
   * used; the table stays as it is. Delta 4.4 refuses collated columns of its own.
   */
  public static void createView(SparkSession spark, String view, String customers) {
    spark.sql(
        """
        CREATE OR REPLACE VIEW IDENTIFIER(:view) AS
        SELECT customer_id, name COLLATE UNICODE_CI_AI AS name
        FROM %s
        """
            .formatted(customers),
        Map.of("view", view));
  }

  /**
   * The names in the order of a collation; what it takes for equal, in binary order.
   *
   * @param collation such as {@code UTF8_BINARY} (the default), {@code UTF8_LCASE}, {@code UNICODE}
   *     or {@code sv}
   */
  public static Dataset<Row> sorted(Dataset<Row> customers, String collation) {
    return customers.orderBy(collate(col("name"), collation), col("name"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TextAndCollation.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          notebook.step("Regular expressions");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1, 'Lamp LA-0042, 30 cm x 45cm, from 3.11.2025 on'),
                    (2, 'no code, no date')
                    AS lines (line, text)
                  """)
              .createOrReplaceTempView("lines");
          notebook.table("parts", parts(spark, "lines"));
          notebook.refused(
              "A pattern that is none",
              "INVALID_PARAMETER_VALUE.PATTERN",
              () -> spark.sql("SELECT regexp_extract('a', '(', 1)").collectAsList());

          notebook.step("A name, however it is written");
          spark.sql("CREATE TABLE customers (customer_id INT, name STRING) USING delta");
          // Two files, whose names do not overlap in binary order.
          spark.sql(
              """
              INSERT INTO customers
              SELECT /*+ COALESCE(1) */ * FROM VALUES (1, 'José'), (2, 'JOSE'), (3, 'Ann'), (4, 'ANN')
              """);
          spark.sql(
              """
              INSERT INTO customers
              SELECT /*+ COALESCE(1) */ * FROM VALUES (5, 'Zoë'), (6, 'Øyvind'), (7, 'zoe'), (8, 'Ängla')
              """);
          notebook.table("customers named jose", named(spark, "customers", "jose"));
          notebook.table("how often", countByName(spark, "customers").orderBy("name"));
          createView(spark, "people", "customers");
          notebook.table(
              "a view with a collated column",
              spark.sql(
                  "SELECT * FROM people WHERE name = 'ZOE' OR startswith(name, 'oy') ORDER BY"
                      + " customer_id"));

          notebook.step("Five orders");
          Map<String, String> orders = new LinkedHashMap<>();
          for (String collation :
              List.of("UTF8_BINARY", "UTF8_LCASE", "UNICODE", "UNICODE_CI_AI", "sv")) {
            orders.put(
                collation,
                String.join(
                    " ",
                    sorted(spark.table("customers"), collation).collectAsList().stream()
                        .map(customer -> customer.<String>getAs("name"))
                        .toList()));
          }
          orders.forEach((collation, names) -> notebook.text("%s: %s", collation, names));

          notebook.step("What it costs");
          spark
              .sql("SELECT * FROM VALUES (1, 'JOSÉ'), (2, 'Zoe') AS v (guest_id, name)")
              .createOrReplaceTempView("guests");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put(
              "name = 'Zoë'",
              QueryProfile.of(spark.sql("SELECT * FROM customers WHERE name = 'Zoë'")));
          profiles.put("collated", QueryProfile.of(named(spark, "customers", "zoe")));
          profiles.put(
              "join",
              QueryProfile.of(
                  spark.sql("SELECT * FROM customers AS c JOIN guests AS g ON c.name = g.name")));
          profiles.put("collated join", QueryProfile.of(sameNames(spark, "customers", "guests")));
          notebook.profiles("binary and collated", profiles);

          notebook.step("What is refused");
          notebook.refused(
              "A collated column of a Delta table",
              "DELTA_UNSUPPORTED_DATA_TYPES",
              () -> spark.sql("CREATE TABLE refused (name STRING COLLATE UNICODE_CI) USING delta"));
          notebook.refused(
              "Two collations at once",
              "COLLATION_MISMATCH.EXPLICIT",
              () ->
                  spark.sql("SELECT name COLLATE UTF8_LCASE = 'a' COLLATE UNICODE FROM customers"));
          notebook.refused(
              "LIKE, without regard to accents",
              "DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE",
              () -> spark.sql("SELECT name COLLATE UNICODE_CI_AI LIKE 'J%' FROM customers"));
        });
  }
}
