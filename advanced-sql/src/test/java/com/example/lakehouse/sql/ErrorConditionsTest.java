package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.LocalDate;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What Spark says to bad input, beside {@link TryFunctions}. */
@SparkTest
class ErrorConditionsTest {

  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE customers (customer_id BIGINT, name STRING) USING delta");
  }

  /** Found when the text is read, on an empty table too: no row is touched. */
  @ParameterizedTest(name = "{0}: {1}")
  @CsvSource(
      delimiter = ';',
      quoteCharacter = '~',
      textBlock =
          """
          PARSE_SYNTAX_ERROR;                       SELEC name FROM customers
          UNRESOLVED_COLUMN.WITH_SUGGESTION;        SELECT nam FROM customers
          AMBIGUOUS_REFERENCE;                      SELECT name FROM customers AS a JOIN customers AS b ON a.name = b.name
          TABLE_OR_VIEW_NOT_FOUND;                  SELECT * FROM no_such_table
          UNRESOLVED_ROUTINE;                       SELECT no_such_function(name) FROM customers
          WRONG_NUM_ARGS.WITHOUT_SUGGESTION;        SELECT upper(name, 2) FROM customers
          DATATYPE_MISMATCH.BINARY_OP_DIFF_TYPES;   SELECT true + 1
          DATATYPE_MISMATCH.FILTER_NOT_BOOLEAN;     SELECT * FROM customers WHERE name
          DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE;  SELECT DATE'2025-01-01' + 'x'
          MISSING_GROUP_BY;                         SELECT name, count(*) FROM customers
          NESTED_AGGREGATE_FUNCTION;                SELECT sum(count(*)) FROM customers
          INVALID_WHERE_CONDITION;                  SELECT * FROM customers WHERE count(*) > 1
          DELTA_INSERT_COLUMN_ARITY_MISMATCH;       INSERT INTO customers VALUES (1)
          """)
  void aQueryThatCannotBeRightIsRefusedBeforeItRuns(
      String condition, String sql, SparkSession spark) {
    assertRefused(condition, () -> spark.sql(sql));
  }

  @Test
  void theMessageNamesTheColumnsThatAreThere(SparkSession spark) {
    Throwable refusal = catchThrowable(() -> spark.sql("SELECT nam FROM customers"));

    assertThat(refusal).hasMessageContaining("[`name`, `customer_id`]");
  }

  /** Found when a row is reached: the query's other rows do not come either. */
  @ParameterizedTest(name = "{0}: {1}")
  @CsvSource(
      delimiter = ';',
      quoteCharacter = '~',
      textBlock =
          """
          DIVIDE_BY_ZERO;                             1 / x;                             0;             try_divide(1, x)
          REMAINDER_BY_ZERO;                          5 % x;                             0;             try_mod(5, x)
          ARITHMETIC_OVERFLOW;                        x + 1;                             2147483647;    try_add(x, 1)
          ARITHMETIC_OVERFLOW;                        x - 1;                             -2147483648;   try_subtract(x, 1)
          ARITHMETIC_OVERFLOW;                        x * 2;                             2147483647;    try_multiply(x, 2)
          BINARY_ARITHMETIC_OVERFLOW;                 x + 1Y;                            127Y;          try_add(x, 1Y)
          ARITHMETIC_OVERFLOW;                        sum(x);                            9223372036854775807L), (1L; try_sum(x)
          CAST_INVALID_INPUT;                         CAST(x AS INT);                    'two';         try_cast(x AS INT)
          CAST_INVALID_INPUT;                         CAST(x AS INT);                    '';            try_cast(x AS INT)
          CAST_INVALID_INPUT;                         CAST(x AS INT);                    '12.7';        try_cast(x AS INT)
          CAST_INVALID_INPUT;                         CAST(x AS DATE);                   '2025-02-30';  try_cast(x AS DATE)
          CAST_INVALID_INPUT;                         x + 1;                             'two';         try_cast(x AS INT) + 1
          CAST_OVERFLOW;                              CAST(x AS INT);                    3000000000L;   try_cast(x AS INT)
          NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION; CAST(x AS DECIMAL(4,2));           123.45;        try_cast(x AS DECIMAL(4,2))
          CANNOT_PARSE_TIMESTAMP;                     to_date(x, 'dd.MM.yyyy');          '30.02.2025';  try_to_date(x, 'dd.MM.yyyy')
          INVALID_FORMAT.MISMATCH_INPUT;              to_number(x, '99');                '1x';          try_to_number(x, '99')
          CONVERSION_INVALID_INPUT;                   to_binary(x, 'hex');               'zz';          try_to_binary(x, 'hex')
          DATETIME_FIELD_OUT_OF_BOUNDS.WITH_SUGGESTION; make_timestamp(2025, 2, x, 0, 0, 0); 30;        try_make_timestamp(2025, 2, x, 0, 0, 0)
          INVALID_ARRAY_INDEX;                        array(1, 2)[x];                    2;             get(array(1, 2), x)
          INVALID_ARRAY_INDEX_IN_ELEMENT_AT;          element_at(array(1, 2), x);        3;             try_element_at(array(1, 2), x)
          INVALID_URL;                                parse_url(x, 'HOST');              'http://a b';  try_parse_url(x, 'HOST')
          MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION; parse_json(x);                 '{a';          try_parse_json(x)
          INVALID_VARIANT_CAST;                       variant_get(parse_json(x), '$', 'int'); '"two"';  try_variant_get(parse_json(x), '$', 'int')
          """)
  void aValueThatDoesNotFitFailsTheQueryAndATryFunctionMakesItNull(
      String condition, String strict, String value, String tolerant, SparkSession spark) {
    String from = " AS result FROM VALUES (" + value + ") AS v (x)";

    assertRefused(condition, () -> spark.sql("SELECT " + strict + from).collectAsList());

    assertThat(spark.sql("SELECT " + tolerant + from)).hasRows(row((Object) null));
  }

  @Test
  void aTryFunctionForgivesItsOwnErrorOnly(SparkSession spark) {
    assertRefused(
        "CAST_INVALID_INPUT",
        () ->
            spark
                .sql("SELECT try_divide(1, CAST(x AS INT)) FROM VALUES ('two') AS v (x)")
                .collectAsList());
  }

  @Test
  void aBadRowFailsTheInsertAndNoRowIsWritten(SparkSession spark) {
    assertRefused(
        "CAST_OVERFLOW_IN_TABLE_INSERT",
        () -> spark.sql("INSERT INTO customers VALUES (1, 'Ada'), (1.5e30, 'Grace')"));
    assertRefused(
        "CAST_INVALID_INPUT",
        () -> spark.sql("INSERT INTO customers VALUES ('1', 'Ada'), ('two', 'Grace')"));

    assertThat(spark.table("customers")).isEmpty();
    assertThat(spark.sql("DESCRIBE HISTORY customers")).hasRowCount(1);
  }

  @Test
  void aSubqueryOfTwoRowsIsNoValue(SparkSession spark) {
    spark.sql("INSERT INTO customers VALUES (1, 'Ada'), (2, 'Grace')");

    assertRefused(
        "SCALAR_SUBQUERY_TOO_MANY_ROWS",
        () -> spark.sql("SELECT (SELECT name FROM customers)").collectAsList());
  }

  /** Nulls at best, and wrong numbers where there is no null. */
  @Test
  void withoutAnsiModeNothingIsRefused(SparkSession spark) {
    spark.conf().set("spark.sql.ansi.enabled", "false");
    Dataset<Row> wrong =
        spark.sql(
            """
            SELECT 1 / 0, CAST('two' AS INT), CAST('2025-02-30' AS DATE), array(1)[5],
              2147483647 + 1, CAST(3000000000L AS INT)
            """);

    assertThat(wrong).hasRows(row(null, null, null, null, -2147483648, -1294967296));
  }

  /** ANSI mode does not see everything. */
  @Test
  void whatIsWrongAndNotRefused(SparkSession spark) {
    assertThat(spark.sql("SELECT 1e308 * 10 AS x")).hasRows(row(Double.POSITIVE_INFINITY));
    assertThat(spark.sql("SELECT date_add(DATE'2025-01-01', 2147483647) AS x"))
        .hasRows(row(LocalDate.of(-5877586, 6, 22)));
    assertThat(spark.sql("SELECT CAST(12.7 AS INT) AS x")).hasRows(row(12));
    assertThat(spark.sql("SELECT element_at(map('a', 1), 'b') AS x")).hasRows(row((Object) null));
    assertThat(spark.sql("SELECT from_json('{\"a\": \"two\"}', 'a INT').a AS x"))
        .hasRows(row((Object) null));
  }
}
