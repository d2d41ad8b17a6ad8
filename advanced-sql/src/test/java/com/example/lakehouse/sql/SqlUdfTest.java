package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.util.LongAccumulator;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

@SparkTest
class SqlUdfTest {
  private static final LocalDate JANUARY = LocalDate.of(2025, 1, 10);
  private static final LocalDate FEBRUARY = LocalDate.of(2025, 2, 10);

  @AfterEach
  void dropFunctions(SparkSession spark) {
    for (String function : List.of("in_quarter_java", "square", "counted", "session_only")) {
      spark.sql("DROP TEMPORARY FUNCTION IF EXISTS " + function);
    }
    // Dropping a schema leaves its functions in the session, where OR REPLACE finds them and fails.
    for (String function :
        List.of("net", "in_quarter", "vat_rate", "largest_sales", "first_rate", "bare_rate")) {
      spark.sql("DROP FUNCTION IF EXISTS " + function);
    }
  }

  private static void createSales(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE vat_rates (country STRING, rate INT) USING delta");
    spark.sql("INSERT INTO vat_rates VALUES ('DE', 19), ('FR', 20), ('LU', 17)");
    spark.sql("CREATE TABLE sales (day DATE, country STRING, amount DECIMAL(12,2)) USING delta");
    spark.sql(
        """
        INSERT INTO sales VALUES
          (DATE'2025-01-10', 'DE', 119.00), (DATE'2025-02-10', 'DE', 238.00),
          (DATE'2025-01-10', 'FR', 60.00), (DATE'2025-02-10', 'FR', 60.00),
          (DATE'2025-01-10', 'CH', 50.00)
        """);
    SqlUdf.createNet(spark);
    SqlUdf.createVatRate(spark, sandbox.schema());
    SqlUdf.createLargestSales(spark, sandbox.schema());
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  /** 107 without 7 % is 100; 100 without 19 % is 84.0336. */
  @Test
  void argumentsHaveDefaultsNamesAndTypes(SparkSession spark, Sandbox sandbox) {
    SqlUdf.createNet(spark);

    assertThat(
            spark.sql(
                "SELECT net(119) AS a, net(107, 7), net(rate => 7, gross => 107), net('100'),"
                    + " net(NULL), net(100, NULL)"))
        .hasRows(
            row(money("100.00"), money("100.00"), money("100.00"), money("84.03"), null, null));
    assertThat(spark.sql("SELECT net(119) AS net")).hasSchema("net DECIMAL(12,2)");
  }

  @Test
  void wrongArgumentsAreRefused(SparkSession spark, Sandbox sandbox) {
    SqlUdf.createNet(spark);

    assertRefused("WRONG_NUM_ARGS.WITHOUT_SUGGESTION", () -> spark.sql("SELECT net()"));
    assertRefused("WRONG_NUM_ARGS.WITHOUT_SUGGESTION", () -> spark.sql("SELECT net(1, 2, 3)"));
    assertRefused("UNRECOGNIZED_PARAMETER_NAME", () -> spark.sql("SELECT net(1, vat => 7)"));
    assertRefused("CAST_INVALID_INPUT", () -> spark.sql("SELECT net('a lot')").collectAsList());
    assertRefused(
        "NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION",
        () -> spark.sql("SELECT net(99999999999.99)").collectAsList());
    assertRefused("NOT_A_TABLE_FUNCTION", () -> spark.sql("SELECT * FROM net(1)"));
  }

  /** 238 / 1.19 = 200; 60 / 1.2 = 50; Switzerland has no rate. */
  @Test
  void aFunctionReadsATableAndIsTheSameFromColumns(SparkSession spark, Sandbox sandbox) {
    createSales(spark, sandbox);
    Dataset<Row> net = SqlUdf.netSales(spark, "sales");

    assertThat(net)
        .hasRows(
            row(JANUARY, "DE", money("100.00")),
            row(FEBRUARY, "DE", money("200.00")),
            row(JANUARY, "FR", money("50.00")),
            row(FEBRUARY, "FR", money("50.00")),
            row(JANUARY, "CH", null));
    assertThat(SqlUdf.netSales(spark.table("sales"))).hasSameRowsAs(net);
  }

  @Test
  void aTableFunctionIsCalledForEachRowOfAnother(SparkSession spark, Sandbox sandbox) {
    createSales(spark, sandbox);

    assertThat(spark.sql("SELECT * FROM largest_sales('DE')"))
        .hasSchema("day DATE, amount DECIMAL(12,2)")
        .hasRows(row(FEBRUARY, money("238.00")));
    assertThat(SqlUdf.largestSalesOfEach(spark, 1))
        .hasRows(row("DE", FEBRUARY, money("238.00")), row("FR", JANUARY, money("60.00")));
    assertThat(SqlUdf.largestSalesOfEach(spark, 9)).hasRowCount(4);
    assertRefused("NOT_A_SCALAR_FUNCTION", () -> spark.sql("SELECT largest_sales('DE')"));
  }

  @Test
  void aFunctionThatFindsTwoValuesFailsUnlessItAggregates(SparkSession spark, Sandbox sandbox) {
    createSales(spark, sandbox);
    spark.sql(
        "CREATE FUNCTION first_rate(code STRING) RETURNS INT RETURN SELECT rate FROM vat_rates"
            + " WHERE country = code");
    spark.sql("INSERT INTO vat_rates VALUES ('DE', 16)");

    assertRefused(
        "SCALAR_SUBQUERY_TOO_MANY_ROWS",
        () -> spark.sql("SELECT first_rate(country) FROM sales").collectAsList());
    assertThat(spark.sql("SELECT DISTINCT vat_rate(country) FROM sales WHERE country = 'DE'"))
        .hasRows(row(19));
  }

  /** A bare table name is the caller's: another schema's table of that name is read in silence. */
  @Test
  void aBareTableNameIsLookedUpInTheCallersSchema(SparkSession spark, Sandbox sandbox) {
    createSales(spark, sandbox);
    String home = sandbox.schema();
    String other = home + "_other";
    spark.sql(
        "CREATE FUNCTION bare_rate(code STRING) RETURNS INT RETURN SELECT max(rate) FROM vat_rates"
            + " WHERE country = code");
    spark.sql("CREATE SCHEMA " + other + " LOCATION '" + sandbox.path("other") + "'");
    try {
      spark.sql("USE " + other);
      assertThat(spark.sql("SELECT " + home + ".vat_rate('DE')")).hasRows(row(19));
      assertRefused(
          "TABLE_OR_VIEW_NOT_FOUND", () -> spark.sql("SELECT " + home + ".bare_rate('DE')"));

      spark.sql("CREATE TABLE vat_rates USING delta AS SELECT 'DE' AS country, 7 AS rate");
      assertThat(spark.sql("SELECT " + home + ".bare_rate('DE')")).hasRows(row(7));
    } finally {
      spark.sql("USE " + home);
      spark.sql("DROP SCHEMA " + other + " CASCADE");
    }
  }

  @Test
  void theOptimizerLooksIntoASqlFunctionAndNotIntoAJavaFunction(
      SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE sales (day DATE, country STRING, amount DECIMAL(12,2)) USING delta");
    for (int month = 1; month <= 12; month++) {
      spark.sql("INSERT INTO sales VALUES (DATE'2025-%02d-10', 'DE', %d)".formatted(month, month));
    }
    SqlUdf.createInQuarter(spark);
    SqlUdf.registerInQuarterJava(spark);
    LocalDate april = LocalDate.of(2025, 4, 1);
    Dataset<Row> bySql = SqlUdf.salesOfQuarter(spark, "sales", april);
    Dataset<Row> byJava = SqlUdf.salesOfQuarterInJava(spark.table("sales"), april);

    assertThat(bySql)
        .hasRows(
            row(LocalDate.of(2025, 4, 10), "DE", money("4.00")),
            row(LocalDate.of(2025, 5, 10), "DE", money("5.00")),
            row(LocalDate.of(2025, 6, 10), "DE", money("6.00")));
    assertThat(byJava).hasSameRowsAs(bySql);
    QueryProfile sql = QueryProfile.of(bySql);
    QueryProfile java = QueryProfile.of(byJava);
    assertThat(sql.filesRead()).isEqualTo(3);
    assertThat(sql.filesPruned()).isEqualTo(9);
    assertThat(sql.plans().toString())
        .contains("GreaterThanOrEqual(day,2025-04-01), LessThan(day,2025-07-01)")
        .doesNotContain("in_quarter");
    assertThat(java.filesRead()).isEqualTo(12);
    assertThat(java.filesPruned()).isZero();
    assertThat(java.plans().toString()).contains("PushedFilters: []", "in_quarter_java");
  }

  @Test
  void theEdgesOfAQuarterAreItsFirstDayAndNotTheNextOnes(SparkSession spark, Sandbox sandbox) {
    SqlUdf.createInQuarter(spark);

    assertThat(
            spark.sql(
                """
                SELECT day FROM VALUES (DATE'2025-03-31'), (DATE'2025-04-01'), (DATE'2025-06-30'), (DATE'2025-07-01'), (NULL) AS v (day)
                WHERE in_quarter(day, DATE'2025-04-01')
                """))
        .hasRows(row(LocalDate.of(2025, 4, 1)), row(LocalDate.of(2025, 6, 30)));
  }

  @Test
  void anArgumentIsComputedOnceHoweverOftenTheBodyUsesIt(SparkSession spark) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    UDF1<Integer, Integer> counting =
        n -> {
          calls.add(1);
          return n;
        };
    spark.udf().register("counted", udf(counting, DataTypes.IntegerType).asNondeterministic());
    spark.sql("CREATE TEMPORARY FUNCTION square(n INT) RETURNS INT RETURN n * n");

    assertThat(spark.sql("SELECT square(counted(CAST(id AS INT))) FROM range(4)"))
        .hasRows(row(0), row(1), row(4), row(9));
    assertThat(calls.value()).isEqualTo(4);
  }

  @Test
  void aReplacedFunctionIsWhatItsViewsUse(SparkSession spark, Sandbox sandbox) {
    createSales(spark, sandbox);
    spark.sql(
        "CREATE VIEW january AS SELECT net(amount, 0) AS net FROM sales WHERE country = 'CH'");
    assertThat(spark.table("january")).hasRows(row(money("50.00")));

    spark.sql(
        "CREATE OR REPLACE FUNCTION net(gross DECIMAL(12,2), rate INT) RETURNS DECIMAL(12,2) RETURN"
            + " -gross");

    assertThat(spark.table("january")).hasRows(row(money("-50.00")));
    assertRefused(
        "ROUTINE_ALREADY_EXISTS",
        () -> spark.sql("CREATE FUNCTION net(gross INT) RETURNS INT RETURN gross"));
  }

  @Test
  void whatABodyMayNotContainIsRefusedWhenItIsCreated(SparkSession spark, Sandbox sandbox) {
    SqlUdf.createNet(spark);
    spark.sql("CREATE TEMPORARY FUNCTION session_only(x INT) RETURNS INT RETURN x");

    assertRefused(
        "CYCLIC_FUNCTION_REFERENCE",
        () ->
            spark.sql(
                "CREATE OR REPLACE FUNCTION net(gross DECIMAL(12,2), rate INT) RETURNS"
                    + " DECIMAL(12,2) RETURN net(gross, rate)"));
    assertRefused(
        "INVALID_TEMP_OBJ_REFERENCE",
        () -> spark.sql("CREATE FUNCTION f(x INT) RETURNS INT RETURN session_only(x)"));
    assertRefused(
        "USER_DEFINED_FUNCTIONS.CANNOT_CONTAIN_COMPLEX_FUNCTIONS",
        () -> spark.sql("CREATE FUNCTION f(x INT) RETURNS BIGINT RETURN sum(x)"));
    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION",
        () -> spark.sql("CREATE FUNCTION f(x INT) RETURNS INT RETURN y"));
    assertRefused(
        "INVALID_LIMIT_LIKE_EXPRESSION.IS_UNFOLDABLE",
        () ->
            spark.sql(
                "CREATE FUNCTION f(n INT) RETURNS TABLE (id BIGINT) RETURN SELECT id FROM range(9)"
                    + " LIMIT n"));
    assertThat(spark.sql("SHOW USER FUNCTIONS LIKE 'f'")).isEmpty();
  }

  /** A lambda can call a Java UDF. */
  @Test
  void aLambdaAndAnAggregatesOrderByTakeNoSqlFunction(SparkSession spark) {
    spark.sql("CREATE TEMPORARY FUNCTION square(n INT) RETURNS INT RETURN n * n");
    UDF1<Integer, Integer> inJava = n -> n * n;
    spark.udf().register("counted", inJava, DataTypes.IntegerType);
    spark.sql("SELECT * FROM VALUES (1), (2), (2) AS v (n)").createOrReplaceTempView("numbers");

    assertRefused(
        "MISSING_ATTRIBUTES.RESOLVED_ATTRIBUTE_MISSING_FROM_INPUT",
        () -> spark.sql("SELECT transform(array(1, 2), x -> square(x))"));
    assertRefused(
        "UNSUPPORTED_SQL_UDF_USAGE",
        () ->
            spark.sql(
                "SELECT square(n) AS s, count(*) FROM numbers GROUP BY s ORDER BY square(n)"));
    assertThat(spark.sql("SELECT s[1] FROM (SELECT transform(array(1, 2), x -> counted(x)) AS s)"))
        .hasRows(row(4));
    assertThat(spark.sql("SELECT square(n) AS s, count(*) FROM numbers GROUP BY s ORDER BY s"))
        .hasRowsInOrder(row(1, 1L), row(4, 2L));
  }
}
