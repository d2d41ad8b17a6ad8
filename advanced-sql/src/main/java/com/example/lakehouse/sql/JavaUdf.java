package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.udf;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.RoundingMode;
import java.time.DayOfWeek;
import java.time.LocalDate;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF0;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.api.java.UDF2;
import org.apache.spark.sql.expressions.UserDefinedFunction;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.util.LongAccumulator;

/**
 * Java UDFs: a method of your own as a function for SQL and for columns; what it gets for NULL, how
 * often it is called, and what happens when it throws.
 *
 * <p>Run: {@code ./run JavaUdf}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: account numbers checked by their check digits, in SQL and in Java; the calls that one
 * query makes for 100 rows, 0 to 200; an error that names the row.
 *
 * <p>On Databricks: the same code on a cluster with dedicated access. A SQL warehouse runs no Java:
 * see SqlUdf.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-functions-udf-scalar.html">Spark SQL:
 *     scalar user-defined functions</a>
 */
public final class JavaUdf {

  private JavaUdf() {}

  /**
   * Whether a text is an IBAN by form and check digits (ISO 7064, mod 97-10), a remainder of
   * numbers that are too long for a DECIMAL; NULL for NULL. A class can be tested without Spark,
   * and has a public constructor without parameters, so that it can be registered by whoever has
   * the JAR.
   */
  public static final class IbanCheck implements UDF1<String, Boolean> {
    @Override
    public Boolean call(String iban) {
      // Spark hands NULL over as null; a primitive parameter would be a NullPointerException.
      return iban == null ? null : problem(iban) == null;
    }

    static String problem(String iban) {
      String bare = iban.replace(" ", "").toUpperCase(Locale.ROOT);
      if (!bare.matches("[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")) {
        return "form";
      }
      StringBuilder digits = new StringBuilder();
      (bare.substring(4) + bare.substring(0, 4))
          .chars()
          .forEach(c -> digits.append(Character.digit(c, 36)));
      BigInteger remainder = new BigInteger(digits.toString()).mod(BigInteger.valueOf(97));
      return remainder.equals(BigInteger.ONE) ? null : "check digits";
    }
  }

  /** {@link IbanCheck} as a column; Spark has to be told the type that comes out. */
  public static Column isIban(Column iban) {
    return udf(new IbanCheck(), DataTypes.BooleanType).apply(iban);
  }

  /** {@link IbanCheck} for SQL, as {@code is_iban}, until the session ends. */
  public static void registerIsIban(SparkSession spark) {
    spark.udf().register("is_iban", new IbanCheck(), DataTypes.BooleanType);
  }

  /**
   * {@code payment_id INT, is_iban BOOLEAN}, with the function of {@link #registerIsIban}.
   *
   * @param payments a table or view with {@code payment_id INT, iban STRING}
   */
  public static Dataset<Row> checkInSql(SparkSession spark, String payments) {
    return spark.sql(
        """
        SELECT payment_id, is_iban(iban) AS is_iban
        FROM IDENTIFIER(:payments)
        """,
        Map.of("payments", payments));
  }

  /**
   * A fee of 1 % of the amount, 2 % at weekends, {@code DECIMAL(12,2)}: money is BigDecimal, a DATE
   * is LocalDate, a TIMESTAMP is Instant. Spark casts no argument to what the method takes, so this
   * does; and it rounds what comes out to the declared scale without a word, so the method does.
   */
  public static Column fee(Column amount, Column day) {
    UDF2<BigDecimal, LocalDate, BigDecimal> fee =
        (a, d) -> {
          if (a == null || d == null) {
            return null;
          }
          boolean weekend = d.getDayOfWeek().compareTo(DayOfWeek.SATURDAY) >= 0;
          return a.multiply(new BigDecimal(weekend ? "0.02" : "0.01"))
              .setScale(2, RoundingMode.HALF_EVEN);
        };
    return udf(fee, DataTypes.createDecimalType(12, 2))
        .withName("fee")
        .apply(amount.cast("decimal(12,2)"), day.cast("date"));
  }

  /**
   * A random number from 0 to 1 for each row, that stays what it is. Without {@code
   * asNondeterministic} Spark may call the method again wherever the column is used: a filter on
   * the column would see one number and the result another.
   */
  public static Column lot() {
    UDF0<Double> lot = () -> ThreadLocalRandom.current().nextDouble();
    return udf(lot, DataTypes.DoubleType).asNondeterministic().withName("lot").apply();
  }

  /**
   * The IBAN, if it is one. One row that is not stops the whole query, so the error has to say
   * which row it is, and not what is in it.
   *
   * @throws org.apache.spark.SparkException FAILED_EXECUTE_UDF, when the query runs, for an IBAN
   *     that is none
   */
  public static Column requireIban(Column paymentId, Column iban) {
    UDF2<Integer, String, String> require =
        (id, text) -> {
          String problem = text == null ? null : IbanCheck.problem(text);
          if (problem != null) {
            throw new IllegalArgumentException("payment " + id + " has no IBAN: " + problem);
          }
          return text;
        };
    return udf(require, DataTypes.StringType)
        .withName("require_iban")
        .apply(paymentId.cast("int"), iban);
  }

  /** What is wrong with an IBAN, {@code form} or {@code check digits}; NULL if nothing is. */
  public static Column ibanProblem(Column iban) {
    UDF1<String, String> problem = text -> text == null ? null : IbanCheck.problem(text);
    return udf(problem, DataTypes.StringType).withName("iban_problem").apply(iban);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        JavaUdf.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> payments =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (1, 'DE89 3704 0044 0532 0130 00', DATE'2025-03-07', 100.00BD),
                    (2, 'GB82WEST12345698765432',      DATE'2025-03-08', 100.00BD),
                    (3, 'DE89370400440532013001',      DATE'2025-03-09', 0.50BD),
                    (4, 'cash',                        DATE'2025-03-10', 12.50BD),
                    (5, NULL,                          DATE'2025-03-10', NULL)
                    AS payments (payment_id, iban, day, amount)
                  """);
          payments.createOrReplaceTempView("payments");

          notebook.step("A class, for SQL and for columns");
          registerIsIban(spark);
          notebook.table("payments", payments);
          notebook.table("in SQL", checkInSql(spark, "payments"));
          notebook.table(
              "as a column, with a fee of 1 %, at weekends 2 %",
              payments.select(
                  col("payment_id"),
                  isIban(col("iban")).as("is_iban"),
                  fee(col("amount"), col("day")).as("fee")));
          spark.sql("CREATE TEMPORARY FUNCTION by_class AS '" + IbanCheck.class.getName() + "'");
          notebook.refused(
              "CREATE FUNCTION … AS a Java class is taken, and fails when it is used",
              "NO_HANDLER_FOR_UDAF",
              () -> spark.sql("SELECT by_class('cash')").collectAsList());

          notebook.step("One bad row stops the query");
          notebook.refused(
              "The error has the function's name and what the method said",
              "FAILED_EXECUTE_UDF",
              () -> payments.select(requireIban(col("payment_id"), col("iban"))).collectAsList());
          notebook.table(
              "better: keep the row, and say what is wrong",
              payments.select(col("payment_id"), ibanProblem(col("iban")).as("problem")));
          UDF1<Long, Long> successor = n -> n + 1;
          UserDefinedFunction plusOne = udf(successor, DataTypes.LongType).withName("plus_one");
          notebook.refused(
              "An INT for a method that takes Long: nothing is cast",
              "FAILED_EXECUTE_UDF",
              () -> payments.select(plusOne.apply(col("payment_id"))).collectAsList());
          notebook.refused(
              "A NULL for a method that counts on a number",
              "FAILED_EXECUTE_UDF",
              () ->
                  spark
                      .sql("SELECT CAST(NULL AS BIGINT) AS n")
                      .select(plusOne.apply(col("n")))
                      .collectAsList());

          notebook.step("How often is it called?");
          LongAccumulator calls = spark.sparkContext().longAccumulator();
          UDF1<Long, Long> same =
              n -> {
                calls.add(1);
                return n;
              };
          UserDefinedFunction plain = udf(same, DataTypes.LongType);
          UserDefinedFunction marked = plain.asNondeterministic();
          Dataset<Row> hundred = spark.range(100).toDF("n");
          Chart chart = new Chart("calls for 100 rows", "calls");
          for (UserDefinedFunction function : new UserDefinedFunction[] {plain, marked}) {
            Column called = function.apply(col("n"));
            Map<String, Dataset<Row>> queries = new LinkedHashMap<>();
            queries.put("not used", hundred.withColumn("f", called).select("n"));
            queries.put("used", hundred.select(called.as("f")));
            queries.put("written twice", hundred.select(called.as("f"), called.plus(1).as("g")));
            queries.put("filtered: f < 50", hundred.select(called.as("f")).where("f < 50"));
            queries.put("filtered: n < 50", hundred.withColumn("f", called).where("n < 50"));
            queries.forEach(
                (query, rows) -> {
                  calls.reset();
                  rows.collectAsList();
                  chart.bar(
                      function == plain ? "as it is" : "asNondeterministic", query, calls.value());
                });
          }
          notebook.chart(chart);
          Dataset<Row> drawn = spark.range(1_000).select(lot().as("lot"));
          UDF0<Double> careless = () -> ThreadLocalRandom.current().nextDouble();
          Dataset<Row> carelesslyDrawn =
              spark.range(1_000).select(udf(careless, DataTypes.DoubleType).apply().as("lot"));
          notebook.text(
              "1,000 lots, filtered by lot < 0.5: of what comes out %,d are 0.5 and more. Without"
                  + " asNondeterministic: %,d, for each row drew twice.",
              drawn.where("lot < 0.5").collectAsList().stream()
                  .filter(r -> r.getDouble(0) >= 0.5)
                  .count(),
              carelesslyDrawn.where("lot < 0.5").collectAsList().stream()
                  .filter(r -> r.getDouble(0) >= 0.5)
                  .count());
        });
  }
}
