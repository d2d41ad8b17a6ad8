package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class SafeParametersTest {
  private static final List<String> HOSTILE =
      List.of(
          "' OR '1' = '1",
          "'; DROP TABLE customers; --",
          "' UNION ALL SELECT 1, 'x', 'y' --",
          "O'Neil",
          "\" OR \"\" = \"",
          "`name`",
          "\\",
          "\\'",
          "\\u0027 OR 1 = 1 --",
          "a\n; DELETE FROM customers",
          "/* */ -- #",
          ":name",
          "?",
          "${spark.app.name}",
          "%",
          "_",
          "NULL",
          "",
          "\u0000\u0007\u202e",
          "日本語 🦊 ".repeat(1_000));

  private static final Row ADA = row(1L, "Ada", "Berlin");

  /** The hostile names have the ids 100, 101, …, and each the city Xanten. */
  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    List<Row> rows =
        new ArrayList<>(List.of(ADA, row(2L, "Grace", "Paris"), row(3L, null, "Rome")));
    for (int i = 0; i < HOSTILE.size(); i++) {
      rows.add(RowFactory.create(100L + i, HOSTILE.get(i), "Xanten"));
    }
    spark
        .createDataFrame(rows, StructType.fromDDL("customer_id BIGINT, name STRING, city STRING"))
        .coalesce(1)
        .write()
        .saveAsTable("customers");
  }

  @Test
  void twentyHostileStringsFindTheOneRowThatHasThem(SparkSession spark) {
    assertThat(HOSTILE).hasSize(20).doesNotHaveDuplicates();
    for (int i = 0; i < HOSTILE.size(); i++) {
      String name = HOSTILE.get(i);
      Row only = row(100L + i, name, "Xanten");

      assertThat(SafeParameters.named(spark, name)).hasRows(only);
      assertThat(SafeParameters.namedInJava(spark, name)).hasRows(only);
      assertThat(SafeParameters.namedIn(spark, name, "Xanten")).hasRows(only);
      assertThat(SafeParameters.namedIn(spark, "Ada", name)).isEmpty();
      assertThat(SafeParameters.anyOf(spark, "Ada", name)).hasRows(ADA, only);
      SafeParameters.remember(spark, name);
      assertThat(SafeParameters.remembered(spark)).hasRows(only);
      assertThat(
              SafeParameters.immediately(spark, "SELECT * FROM customers WHERE name = :name", name))
          .hasRows(only);
    }
  }

  @Test
  void theBeginningOfANameIsNoPattern(SparkSession spark) {
    assertThat(SafeParameters.beginningWith(spark, "%")).hasRows(row(114L, "%", "Xanten"));
    assertThat(SafeParameters.beginningWith(spark, "Ad")).hasRows(ADA);
    assertThat(SafeParameters.beginningWith(spark, "\\"))
        .hasRows(
            row(106L, HOSTILE.get(6), "Xanten"),
            row(107L, HOSTILE.get(7), "Xanten"),
            row(108L, HOSTILE.get(8), "Xanten"));
    assertThat(spark.sql("SELECT * FROM customers WHERE name LIKE :name", Map.of("name", "%")))
        .as("a parameter of LIKE: all names but the null")
        .hasRowCount(22);
  }

  @Test
  void hostileStringsAreStoredAsTheyAre(SparkSession spark) {
    for (int i = 0; i < HOSTILE.size(); i++) {
      SafeParameters.add(spark, 200L + i, HOSTILE.get(i), "Oslo");
    }

    assertThat(
            spark.table("customers").where("city = 'Oslo'").orderBy("customer_id").collectAsList())
        .extracting(added -> added.getString(1))
        .containsExactlyElementsOf(HOSTILE);
    assertThat(spark.table("customers")).hasRowCount(43);
  }

  @Test
  void pastedIntoTheTextTheFirstOfThemOpensTheTable(SparkSession spark) {
    String pasted = "SELECT * FROM customers WHERE name = '" + HOSTILE.get(0) + "'";

    assertThat(spark.sql(pasted)).hasRowCount(23);
    // In the text, and in the text alone, this is a setting of Spark.
    assertThat(
            spark.sql(
                "SELECT '${spark.app.name}' AS pasted, :typed AS typed",
                Map.of("typed", "${spark.app.name}")))
        .hasRows(row(spark.conf().get("spark.app.name"), "${spark.app.name}"));
  }

  @Test
  void namesOfTablesAndColumnsAreOnesThatAreAllowed(SparkSession spark) {
    Dataset<Row> sorted = SafeParameters.sorted(spark, "customers", "name", "customers");
    assertThat(sorted.where("customer_id < 10").select("name").collectAsList())
        .containsExactly(row((Object) null), row("Ada"), row("Grace"));

    spark.sql("CREATE TABLE salaries (name STRING, salary INT) USING parquet");
    assertThatThrownBy(() -> SafeParameters.sorted(spark, "salaries", "name", "customers"))
        .isInstanceOf(IllegalArgumentException.class);
    for (String column : HOSTILE) {
      assertThatThrownBy(() -> SafeParameters.sorted(spark, "customers", column, "customers"))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("no such column");
    }
  }

  /** Nothing can be added to a name, and yet it may be the name of what nobody should see. */
  @Test
  void identifierTakesOneNameAndAnyName(SparkSession spark) {
    for (String attempt :
        List.of("customers; DROP TABLE customers", "customers WHERE true", "(SELECT 1)", "a b")) {
      assertRefused(
          "PARSE_SYNTAX_ERROR",
          () -> spark.sql("SELECT * FROM IDENTIFIER(:table)", Map.of("table", attempt)));
    }
    spark.sql("CREATE TABLE salaries (name STRING, salary INT) USING parquet");
    assertThat(spark.sql("SELECT * FROM IDENTIFIER(:table)", Map.of("table", "salaries")))
        .hasSchema("name STRING, salary INT");
  }

  @Test
  void aColumnComesBeforeAVariableOfItsName(SparkSession spark) {
    spark.sql("DECLARE OR REPLACE VARIABLE city STRING DEFAULT 'Paris'");

    assertThat(spark.sql("SELECT * FROM customers WHERE city = session.city"))
        .hasRows(row(2L, "Grace", "Paris"));
    assertThat(spark.sql("SELECT * FROM customers WHERE city = city"))
        .as("the column with itself")
        .hasRowCount(23);
    spark.sql("DROP TEMPORARY VARIABLE city");
  }

  @Test
  void anotherSessionHasVariablesOfItsOwn(SparkSession spark) {
    SafeParameters.remember(spark, "Ada");
    SparkSession another = spark.newSession();
    another.catalog().setCurrentDatabase(spark.catalog().currentDatabase());

    assertThat(SafeParameters.remembered(spark)).hasRows(ADA);
    assertThatThrownBy(() -> SafeParameters.remembered(another))
        .hasMessageContaining("wanted_name");
  }

  @Test
  void aParameterOfAnotherTypeIsRefusedAsAValue(SparkSession spark) {
    assertRefused(
        "CAST_INVALID_INPUT",
        () ->
            spark
                .sql("SELECT * FROM customers WHERE customer_id = :id", Map.of("id", "1 OR 1 = 1"))
                .collectAsList());
    assertRefused(
        "INVALID_LIMIT_LIKE_EXPRESSION.DATA_TYPE",
        () -> spark.sql("SELECT * FROM customers LIMIT :n", Map.of("n", "2")));
  }

  @Test
  void aParameterThatIsNotGivenIsRefused(SparkSession spark) {
    assertRefused(
        "UNBOUND_SQL_PARAMETER",
        () -> spark.sql("SELECT * FROM customers WHERE name = :name", Map.of("nam", "Ada")));
  }

  @Test
  void aStatementInATextIsOneStatement(SparkSession spark) {
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () ->
            SafeParameters.immediately(
                spark, "SELECT * FROM customers WHERE name = :name; DROP TABLE customers", "Ada"));
    assertThat(spark.table("customers")).hasRowCount(23);
  }

  @Test
  void aViewTakesNoParameter(SparkSession spark) {
    assertRefused(
        "UNSUPPORTED_FEATURE.PARAMETER_MARKER_IN_UNEXPECTED_STATEMENT",
        () ->
            spark.sql(
                "CREATE VIEW ada AS SELECT * FROM customers WHERE name = :name",
                Map.of("name", "Ada")));
  }
}
