package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF0;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.expressions.UserDefinedFunction;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.util.LongAccumulator;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class JavaUdfTest {
  private static final UDF1<Integer, Object> SUCCESSOR = n -> n + 1;

  @BeforeEach
  void createPayments(SparkSession spark, Sandbox sandbox) {
    spark
        .sql(
            """
            SELECT * FROM VALUES
              (1, 'DE89 3704 0044 0532 0130 00'),
              (2, 'gb82west12345698765432'),
              (3, 'FR1420041010050500013M02606'),
              (4, 'DE89370400440532013001'),
              (5, 'GB28WEST12345698765432'),
              (6, 'cash'),
              (7, NULL)
              AS payments (payment_id, iban)
            """)
        .createOrReplaceTempView("payments");
  }

  @AfterEach
  void dropFunctions(SparkSession spark) {
    for (String function : List.of("is_iban", "successor", "class_of", "by_class")) {
      spark.sql("DROP TEMPORARY FUNCTION IF EXISTS " + function);
    }
  }

  /** The first three are the examples of the IBAN registry; 4 and 5 have two digits changed. */
  @Test
  void sqlAndColumnsCallTheSameClass(SparkSession spark) {
    JavaUdf.registerIsIban(spark);
    Dataset<Row> inSql = JavaUdf.checkInSql(spark, "payments");

    assertThat(inSql)
        .hasSchema("payment_id INT, is_iban BOOLEAN")
        .hasRows(
            row(1, true),
            row(2, true),
            row(3, true),
            row(4, false),
            row(5, false),
            row(6, false),
            row(7, null));
    assertThat(
            spark
                .table("payments")
                .select(col("payment_id"), JavaUdf.isIban(col("iban")).as("is_iban")))
        .hasSameRowsAs(inSql);
  }

  @Test
  void aRegisteredNameIsCheckedWhenTheQueryIsRead(SparkSession spark) {
    assertRefused("UNRESOLVED_ROUTINE", () -> JavaUdf.checkInSql(spark, "payments"));

    JavaUdf.registerIsIban(spark);

    assertThat(spark.sql("SELECT IS_IBAN('cash')")).hasRows(row(false));
    assertRefused("WRONG_NUM_ARGS.WITHOUT_SUGGESTION", () -> spark.sql("SELECT is_iban('a', 'b')"));
  }

  @Test
  void createFunctionTakesAClassThatItCannotCall(SparkSession spark) {
    spark.sql("CREATE TEMPORARY FUNCTION by_class AS '" + JavaUdf.IbanCheck.class.getName() + "'");

    assertRefused("NO_HANDLER_FOR_UDAF", () -> spark.sql("SELECT by_class('cash')"));
  }

  /** 2025-03-07 is a Friday. 0.50 at 1 % is 0.005, which half-even makes 0.00, and 0.015 0.02. */
  @Test
  void theFeeIsExactAndCastsWhatItIsGiven(SparkSession spark) {
    Dataset<Row> fees =
        spark
            .sql(
                """
                SELECT * FROM VALUES
                  ('100', '2025-03-07'), ('100', '2025-03-08'), ('100', '2025-03-09'),
                  ('0.5', '2025-03-10'), ('1.5', '2025-03-10'), (NULL, '2025-03-10'), ('1', NULL)
                  AS v (amount, day)
                """)
            .select(JavaUdf.fee(col("amount"), col("day")).as("fee"));

    assertThat(fees)
        .hasSchema("fee DECIMAL(12,2)")
        .hasRows(
            row(new BigDecimal("1.00")),
            row(new BigDecimal("2.00")),
            row(new BigDecimal("2.00")),
            row(new BigDecimal("0.00")),
            row(new BigDecimal("0.02")),
            row((Object) null),
            row((Object) null));
  }

  @Test
  void eachSqlTypeComesAsItsJavaClass(SparkSession spark) {
    UDF1<Object, String> classOf = x -> x == null ? "null" : x.getClass().getSimpleName();
    spark.udf().register("class_of", classOf, DataTypes.StringType);

    assertThat(
            spark.sql(
                """
                SELECT class_of(1), class_of(1L), class_of(1.5), class_of('x'), class_of(TRUE), class_of(X'00'),
                       class_of(DATE'2025-01-01'), class_of(TIMESTAMP'2025-01-01'),
                       class_of(TIMESTAMP_NTZ'2025-01-01'), class_of(INTERVAL '1' DAY), class_of(NULL)
                """))
        .hasRows(
            row(
                "Integer",
                "Long",
                "BigDecimal",
                "String",
                "Boolean",
                "byte[]",
                "LocalDate",
                "Instant",
                "LocalDateTime",
                "Duration",
                "null"));
  }

  @Test
  void anArrayComesAsAScalaSequenceAndMayGoOutAsAList(SparkSession spark) {
    UDF1<List<Integer>, Integer> size = List::size;
    UDF1<scala.collection.Seq<Integer>, List<Integer>> twice =
        seq -> {
          List<Integer> out = new ArrayList<>();
          for (int i = 0; i < seq.length(); i++) {
            out.add(seq.apply(i) * 2);
          }
          return out;
        };
    Dataset<Row> array = spark.sql("SELECT array(1, 2) AS a");

    assertRefused(
        "FAILED_EXECUTE_UDF",
        () -> array.select(udf(size, DataTypes.IntegerType).apply(col("a"))).collectAsList());
    assertThat(
            array
                .select(
                    udf(twice, DataTypes.createArrayType(DataTypes.IntegerType))
                        .apply(col("a"))
                        .as("a"))
                .selectExpr("a[0]", "a[1]"))
        .hasRows(row(2, 4));
  }

  @Test
  void argumentsAreNotCastToWhatTheMethodTakes(SparkSession spark) {
    UDF1<Long, Long> longs = n -> n + 1;
    UserDefinedFunction successor = udf(longs, DataTypes.LongType);
    Dataset<Row> ints = spark.sql("SELECT 1 AS n");

    assertRefused(
        "FAILED_EXECUTE_UDF", () -> ints.select(successor.apply(col("n"))).collectAsList());
    assertThat(ints.select(successor.apply(col("n").cast("bigint")))).hasRows(row(2L));
  }

  /** What comes out is not cast either: the error has no condition, and does not name the UDF. */
  @Test
  void aResultOfAnotherTypeThanDeclaredIsAnError(SparkSession spark) {
    for (DataType declared : List.of(DataTypes.LongType, DataTypes.DoubleType)) {
      assertThatThrownBy(() -> one(spark, udf(SUCCESSOR, declared)))
          .hasRootCauseInstanceOf(ClassCastException.class);
    }
    for (DataType declared : List.of(DataTypes.StringType, DataTypes.createDecimalType(12, 2))) {
      assertRefused("_LEGACY_ERROR_TEMP_3219", () -> one(spark, udf(SUCCESSOR, declared)));
    }
  }

  @Test
  void aDecimalIsRoundedToTheDeclaredScaleAndRefusedBeyondItsPrecision(SparkSession spark) {
    UDF1<Integer, BigDecimal> big = n -> new BigDecimal("12345678901.235");

    assertThat(one(spark, udf(big, DataTypes.createDecimalType(14, 2))))
        .containsExactly(row(new BigDecimal("12345678901.24")));
    assertRefused(
        "NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION",
        () -> one(spark, udf(big, DataTypes.createDecimalType(12, 2))));
  }

  private static List<Row> one(SparkSession spark, UserDefinedFunction function) {
    return spark.sql("SELECT 1 AS n").select(function.apply(col("n"))).collectAsList();
  }

  @Test
  void aNullThatTheMethodDoesNotExpectIsAnError(SparkSession spark) {
    assertRefused(
        "FAILED_EXECUTE_UDF",
        () ->
            spark
                .sql("SELECT CAST(NULL AS INT) AS n")
                .select(udf(SUCCESSOR, DataTypes.IntegerType).apply(col("n")))
                .collectAsList());
  }

  /** Spark believes asNonNullable: the null is a 0 in the result, and IS NULL finds nothing. */
  @Test
  void aNullFromAFunctionThatPromisedNoneBecomesZero(SparkSession spark) {
    UDF1<Integer, Integer> odd = n -> n % 2 == 0 ? null : n;
    Dataset<Row> numbers = spark.sql("SELECT * FROM VALUES (1), (2), (3) AS v (n)");
    Dataset<Row> promised =
        numbers.select(udf(odd, DataTypes.IntegerType).asNonNullable().apply(col("n")).as("f"));

    assertThat(promised).hasRows(row(1), row(0), row(3));
    assertThat(promised.where("f IS NULL")).isEmpty();
    assertThat(
            numbers
                .select(udf(odd, DataTypes.IntegerType).apply(col("n")).as("f"))
                .where("f IS NULL"))
        .hasRowCount(1);
  }

  @Test
  void oneBadRowStopsTheQueryAndTheErrorNamesIt(SparkSession spark) {
    Column required = JavaUdf.requireIban(col("payment_id"), col("iban")).as("iban");

    assertThat(spark.table("payments").where("payment_id IN (1, 7)").select(required))
        .hasRows(row("DE89 3704 0044 0532 0130 00"), row((Object) null));
    assertRefused(
        "FAILED_EXECUTE_UDF", () -> spark.table("payments").select(required).collectAsList());
    assertThatThrownBy(
            () -> spark.table("payments").where("payment_id = 4").select(required).collectAsList())
        .hasMessageContaining("require_iban")
        .hasMessageContaining("payment 4 has no IBAN: check digits")
        .hasMessageNotContaining("DE89370400440532013001")
        .hasRootCauseInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void badRowsAreKeptWithWhatIsWrong(SparkSession spark) {
    assertThat(
            spark
                .table("payments")
                .select(col("payment_id"), JavaUdf.ibanProblem(col("iban")).as("problem"))
                .where("problem IS NOT NULL"))
        .hasRows(row(4, "check digits"), row(5, "check digits"), row(6, "form"));
  }

  @Test
  void aWriteThatABadRowStopsWritesNothing(SparkSession spark) {
    spark.sql("CREATE TABLE accounts (iban STRING) USING delta");

    assertRefused(
        "FAILED_EXECUTE_UDF",
        () ->
            spark
                .table("payments")
                .select(JavaUdf.requireIban(col("payment_id"), col("iban")).as("iban"))
                .write()
                .insertInto("accounts"));

    assertThat(spark.table("accounts")).isEmpty();
  }

  /** A filter on the lot sees the number that comes out; unmarked, half of them are others. */
  @Test
  void aFilteredLotIsTheLotThatComesOut(SparkSession spark) {
    UDF0<Double> careless = () -> ThreadLocalRandom.current().nextDouble();
    Dataset<Row> unmarked =
        spark.range(1_000).select(udf(careless, DataTypes.DoubleType).apply().as("lot"));

    assertThat(fromOneHalfOn(spark.range(1_000).select(JavaUdf.lot().as("lot")))).isZero();
    assertThat(fromOneHalfOn(unmarked)).isBetween(100L, 400L);
  }

  private static long fromOneHalfOn(Dataset<Row> lots) {
    return lots.where("lot < 0.5").collectAsList().stream()
        .filter(lot -> lot.getDouble(0) >= 0.5)
        .count();
  }

  @Test
  void aMarkedFunctionIsCalledWhereItIsWrittenAndNowhereElse(SparkSession spark) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    UDF1<Integer, Integer> counting =
        n -> {
          calls.add(1);
          return n;
        };
    UserDefinedFunction plain = udf(counting, DataTypes.IntegerType);
    UserDefinedFunction marked = plain.asNondeterministic();
    Dataset<Row> hundred = spark.range(0, 100, 1, 2).selectExpr("CAST(id AS INT) AS n");
    Column f = plain.apply(col("n"));
    Column g = marked.apply(col("n"));

    // Not needed: not called.
    assertThat(calls(calls, hundred.withColumn("f", f).select("n"))).isZero();
    assertThat(calls(calls, hundred.withColumn("f", g).select("n"))).isZero();
    // Written twice: called once for both, unless marked.
    assertThat(calls(calls, hundred.select(f.as("a"), f.as("b")))).isEqualTo(100);
    assertThat(calls(calls, hundred.select(g.as("a"), g.as("b")))).isEqualTo(200);
    // A filter moves below the call, or takes a call of its own with it; not if marked.
    assertThat(calls(calls, hundred.withColumn("f", f).where("n < 50"))).isEqualTo(50);
    assertThat(calls(calls, hundred.withColumn("f", g).where("n < 50"))).isEqualTo(100);
    assertThat(calls(calls, hundred.withColumn("f", f).where("f < 50"))).isEqualTo(150);
    assertThat(calls(calls, hundred.withColumn("f", g).where("f < 50"))).isEqualTo(100);
    // Of a constant, once for each row all the same.
    assertThat(calls(calls, hundred.select(plain.apply(lit(7))))).isEqualTo(100);
  }

  private static long calls(LongAccumulator calls, Dataset<Row> query) {
    calls.reset();
    query.collectAsList();
    return calls.value();
  }

  @Test
  void aMarkedFunctionIsRefusedInJoinConditionsAndAggregates(SparkSession spark) {
    Dataset<Row> one = spark.range(1).toDF("n");
    Dataset<Row> other = spark.range(1).toDF("m");

    assertRefused(
        "INVALID_NON_DETERMINISTIC_EXPRESSIONS",
        () -> one.join(other, JavaUdf.lot().lt(other.col("m"))));
    assertRefused(
        "AGGREGATE_FUNCTION_WITH_NONDETERMINISTIC_EXPRESSION", () -> one.agg(max(JavaUdf.lot())));
    assertThat(one.withColumn("lot", JavaUdf.lot()).agg(max("lot"))).hasRowCount(1);
  }
}
