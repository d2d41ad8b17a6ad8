package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.call_function;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF2;
import org.apache.spark.sql.types.DataTypes;

/**
 * SQL UDFs: a rule written once in SQL, kept in the catalog, and put into each query before it is
 * optimized: Delta still leaves out files, which a Java UDF prevents.
 *
 * <p>Run: {@code ./run SqlUdf}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: scalar functions with a default and named arguments, one that reads a table, a table
 * function; the same filter as a SQL UDF reads 3 files of 12, as a Java UDF all 12.
 *
 * <p>On Databricks: the same code; functions belong to a Unity Catalog schema and are granted like
 * tables.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-ddl-create-sql-function.html">Spark
 *     SQL: CREATE FUNCTION (SQL)</a>
 */
public final class SqlUdf {

  private SqlUdf() {}

  /**
   * {@code net(gross DECIMAL(12,2), rate INT DEFAULT 19)}: what is left of an amount without {@code
   * rate} per cent of VAT, {@code DECIMAL(12,2)}, in the current schema.
   */
  public static void createNet(SparkSession spark) {
    spark.sql(
        """
        CREATE OR REPLACE FUNCTION net(gross DECIMAL(12,2), rate INT DEFAULT 19)
        RETURNS DECIMAL(12,2)
        COMMENT 'What is left of an amount without VAT'
        RETURN gross * 100 / (100 + rate)
        """);
  }

  /**
   * {@code in_quarter(day DATE, first_day DATE)}: whether a day is in the quarter that begins so.
   */
  public static void createInQuarter(SparkSession spark) {
    spark.sql(
        """
        CREATE OR REPLACE FUNCTION in_quarter(day DATE, first_day DATE)
        RETURNS BOOLEAN
        RETURN day >= first_day AND day < first_day + INTERVAL '3' MONTH
        """);
  }

  /**
   * {@code vat_rate(code STRING)}: the rate of a country in {@code vat_rates}, INT; NULL if it has
   * none. The table has its schema before its name: Spark looks a bare name up in the schema of
   * whoever calls the function. {@code max} because a function gives one value, and Spark must be
   * sure of it.
   *
   * @param schema where {@code vat_rates (country STRING, rate INT)} is
   */
  public static void createVatRate(SparkSession spark, String schema) {
    spark.sql(
        """
        CREATE OR REPLACE FUNCTION vat_rate(code STRING)
        RETURNS INT
        READS SQL DATA
        RETURN SELECT max(rate) FROM %s.vat_rates WHERE country = code
        """
            .formatted(schema));
  }

  /**
   * {@code largest_sales(code STRING, n INT DEFAULT 1)}, a table function: a country's {@code n}
   * largest sales, {@code day DATE, amount DECIMAL(12,2)}. LIMIT takes no parameter, so the rows
   * are numbered.
   *
   * @param schema where {@code sales (day DATE, country STRING, amount DECIMAL(12,2))} is
   */
  public static void createLargestSales(SparkSession spark, String schema) {
    spark.sql(
        """
        CREATE OR REPLACE FUNCTION largest_sales(code STRING, n INT DEFAULT 1)
        RETURNS TABLE (day DATE, amount DECIMAL(12,2))
        READS SQL DATA
        RETURN
          SELECT day, amount
          FROM (
            SELECT day, amount, row_number() OVER (PARTITION BY country ORDER BY amount DESC, day) AS place
            FROM %s.sales
            WHERE country = code)
          WHERE place <= n
        """
            .formatted(schema));
  }

  /**
   * {@code day DATE, country STRING, net DECIMAL(12,2)}, with {@link #createNet} and {@link
   * #createVatRate}.
   *
   * @param sales a table or view with {@code day, country, amount}
   */
  public static Dataset<Row> netSales(SparkSession spark, String sales) {
    return spark.sql(
        """
        SELECT day, country, net(amount, rate => vat_rate(country)) AS net
        FROM IDENTIFIER(:sales)
        """,
        Map.of("sales", sales));
  }

  /** {@link #netSales} with the functions called from columns. */
  public static Dataset<Row> netSales(Dataset<Row> sales) {
    return sales.select(
        col("day"),
        col("country"),
        call_function("net", col("amount"), call_function("vat_rate", col("country"))).as("net"));
  }

  /**
   * The {@code n} largest sales of each country, {@code country STRING, day DATE, amount
   * DECIMAL(12,2)}: the table function is called for each row of {@code vat_rates}.
   */
  public static Dataset<Row> largestSalesOfEach(SparkSession spark, int n) {
    return spark.sql(
        """
        SELECT r.country, s.day, s.amount
        FROM vat_rates AS r, LATERAL largest_sales(r.country, n => :n) AS s
        """,
        Map.of("n", n));
  }

  /** The sales of one quarter, by {@link #createInQuarter}. */
  public static Dataset<Row> salesOfQuarter(SparkSession spark, String sales, LocalDate firstDay) {
    return spark.sql(
        """
        SELECT day, country, amount
        FROM IDENTIFIER(:sales)
        WHERE in_quarter(day, :first_day)
        """,
        Map.of("sales", sales, "first_day", firstDay));
  }

  /**
   * {@link #createInQuarter} in Java, for this session, as {@code in_quarter_java}. Spark cannot
   * look into it, so a filter with it has to read every row.
   */
  public static void registerInQuarterJava(SparkSession spark) {
    UDF2<LocalDate, LocalDate, Boolean> inQuarter =
        (day, first) ->
            day == null ? null : !day.isBefore(first) && day.isBefore(first.plusMonths(3));
    spark.udf().register("in_quarter_java", inQuarter, DataTypes.BooleanType);
  }

  /** {@link #salesOfQuarter} with the Java function. */
  public static Dataset<Row> salesOfQuarterInJava(Dataset<Row> sales, LocalDate firstDay) {
    return sales
        .where(call_function("in_quarter_java", col("day"), lit(firstDay)))
        .select("day", "country", "amount");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SqlUdf.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String schema = notebook.sandbox().schema();
          spark.sql("CREATE TABLE vat_rates (country STRING, rate INT) USING delta");
          spark.sql("INSERT INTO vat_rates VALUES ('DE', 19), ('FR', 20), ('LU', 17)");
          spark.sql(
              "CREATE TABLE sales (day DATE, country STRING, amount DECIMAL(12,2)) USING delta");
          // A file for each month.
          for (int month = 1; month <= 12; month++) {
            spark.sql(
                """
                INSERT INTO sales
                SELECT /*+ COALESCE(1) */ make_date(2025, :month, 10), country, amount * :month
                FROM VALUES ('DE', 119.00), ('FR', 60.00) AS v (country, amount)
                """,
                Map.of("month", month));
          }

          notebook.step("A scalar function: defaults, named arguments, a cast for each argument");
          createNet(spark);
          notebook.table(
              "net of VAT",
              spark.sql(
                  """
                  SELECT net(119) AS by_default, net(107, 7) AS by_place, net(rate => 7, gross => 107) AS by_name,
                         net('59.50') AS of_text, net(NULL) AS of_null
                  """));
          notebook.refused(
              "One argument too many",
              "WRONG_NUM_ARGS.WITHOUT_SUGGESTION",
              () -> spark.sql("SELECT net(119, 19, 0)"));
          notebook.refused(
              "An argument that cannot be cast",
              "CAST_INVALID_INPUT",
              () -> spark.sql("SELECT net('a lot')").collectAsList());

          notebook.step("A function that reads a table");
          createVatRate(spark, schema);
          notebook.table(
              "January and February",
              netSales(spark, "sales").where("day < DATE'2025-03-01'").orderBy("day", "country"));

          notebook.step("A table function, for each row of another table");
          createLargestSales(spark, schema);
          notebook.table(
              "the two largest sales of each country; Luxembourg has none",
              largestSalesOfEach(spark, 2).orderBy(col("country"), col("amount").desc()));

          notebook.step("Inlined: the optimizer sees the rule and not the function");
          createInQuarter(spark);
          registerInQuarterJava(spark);
          LocalDate secondQuarter = LocalDate.of(2025, 4, 1);
          Dataset<Row> bySql = salesOfQuarter(spark, "sales", secondQuarter);
          Dataset<Row> byJava = salesOfQuarterInJava(spark.table("sales"), secondQuarter);
          notebook.text(
              "The second quarter's total: %s by the SQL UDF, %s by the Java UDF.",
              total(bySql), total(byJava));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("SQL UDF", QueryProfile.of(bySql));
          profiles.put("Java UDF", QueryProfile.of(byJava));
          notebook.profiles("the second quarter of twelve files", profiles);

          notebook.step("What a function may not contain");
          notebook.refused(
              "Itself",
              "CYCLIC_FUNCTION_REFERENCE",
              () ->
                  spark.sql(
                      """
                      CREATE OR REPLACE FUNCTION net(gross DECIMAL(12,2), rate INT DEFAULT 19)
                      RETURNS DECIMAL(12,2)
                      RETURN net(gross, rate)
                      """));
          notebook.refused(
              "An aggregate of its argument",
              "USER_DEFINED_FUNCTIONS.CANNOT_CONTAIN_COMPLEX_FUNCTIONS",
              () -> spark.sql("CREATE FUNCTION total(x INT) RETURNS BIGINT RETURN sum(x)"));
        });
  }

  private static BigDecimal total(Dataset<Row> sales) {
    return sales.selectExpr("sum(amount)").head().getDecimal(0);
  }
}
