package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.Arrays;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@SparkTest
class TextAndCollationTest {

  /** Two files, whose names do not overlap. */
  private static void createCustomers(SparkSession spark) {
    spark.sql("CREATE TABLE customers (customer_id INT, name STRING) USING delta");
    spark
        .sql(
            "SELECT * FROM VALUES (1, 'José'), (2, 'JOSE'), (3, 'Ann'), (4, 'ANN') AS v"
                + " (customer_id, name)")
        .coalesce(1)
        .write()
        .insertInto("customers");
    spark
        .sql("SELECT * FROM VALUES (5, 'Zoë'), (6, 'zoe'), (7, NULL) AS v (customer_id, name)")
        .coalesce(1)
        .write()
        .insertInto("customers");
    spark
        .sql(
            "SELECT * FROM VALUES (1, 'JOSÉ'), (2, 'Zoe'), (3, 'Bob'), (4, NULL) AS v (guest_id,"
                + " name)")
        .createOrReplaceTempView("guests");
  }

  @Test
  void partsOfATextAreFoundByPattern(SparkSession spark) {
    spark
        .sql(
            """
            SELECT * FROM VALUES
              (1, 'Lamp LA-0042, 30 cm x 45cm, from 3.11.2025 on'), (2, 'no code, no date'), (3, NULL)
              AS lines (line, text)
            """)
        .createOrReplaceTempView("lines");
    Dataset<Row> parts = TextAndCollation.parts(spark, "lines");

    assertThat(parts)
        .hasSchema("line INT, sku STRING, number INT, sizes ARRAY<STRING>, turned STRING");
    assertThat(parts.withColumn("sizes", parts.col("sizes").cast("string")))
        .hasRows(
            row(1, "LA-0042", 42, "[30, 45]", "Lamp LA-0042, 30 cm x 45cm, from 2025-11-3 on"),
            row(2, "", null, "[]", "no code, no date"),
            row(3, null, null, null, null));
    assertThat(TextAndCollation.parts(spark.table("lines"))).hasSameRowsAs(parts);
  }

  /** None of the three is an error. */
  @Test
  void threePatternsThatFindNothingInSilence(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT regexp_extract('AB-12', '(\\d+)', 1), regexp_extract('AB-12', r'(\\d+)', 1),
                       regexp_replace('AB-12', r'(?<n>\\d+)', '<${n}>'),
                       regexp_like('JOSÉ', '(?i)josé'), regexp_like('JOSÉ', '(?iu)josé')
                """))
        .hasRows(row("", "12", "AB-<>", false, true));
  }

  @Test
  void aPatternThatIsNoneOrAGroupThatIsNotThereIsRefused(SparkSession spark) {
    assertRefused(
        "INVALID_PARAMETER_VALUE.PATTERN",
        () -> spark.sql("SELECT regexp_extract('a', '(', 1)").collectAsList());
    assertRefused(
        "INVALID_PARAMETER_VALUE.REGEX_GROUP_INDEX",
        () -> spark.sql("SELECT regexp_extract('1', r'(\\d+)', 2)").collectAsList());
    // Only where the pattern is found.
    assertThat(spark.sql("SELECT regexp_extract('a', r'(\\d+)', 2)")).hasRows(row(""));
  }

  @Test
  void aNameIsFoundHoweverItIsWritten(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);
    Dataset<Row> named = TextAndCollation.named(spark, "customers", "jose");

    assertThat(named)
        .hasSchema("customer_id INT, name STRING")
        .hasRows(row(1, "José"), row(2, "JOSE"));
    assertThat(TextAndCollation.named(spark.table("customers"), "jose")).hasSameRowsAs(named);
    assertThat(spark.sql("SELECT name FROM customers WHERE name COLLATE UTF8_LCASE = 'jose'"))
        .hasRows(row("JOSE"));
    assertThat(spark.sql("SELECT name FROM customers WHERE name COLLATE UNICODE_AI = 'Jose'"))
        .hasRows(row("José"));
  }

  @ParameterizedTest
  @CsvSource({
    "José, jose, UNICODE_CI_AI, true",
    "José, jose, UNICODE_CI, false",
    "José, jose, UTF8_LCASE, false",
    "ö, o, UNICODE_CI_AI, true",
    "ö, o, de_CI_AI, true",
    "ö, o, sv_CI_AI, false",
    "straße, STRASSE, UNICODE_CI_AI, true",
    "straße, STRASSE, UNICODE_CI, false",
    "Müller, Mueller, UNICODE_CI_AI, false",
    "ø, o, UNICODE_CI_AI, true",
    "'a ', a, UTF8_BINARY_RTRIM, true",
    "'a ', A, UNICODE_CI_RTRIM, true",
    "'a ', a, UNICODE_CI, false",
    "e\u0301, é, UTF8_BINARY, false",
    "e\u0301, é, UNICODE, true"
  })
  void whatACollationTakesForEqual(
      String left, String right, String collation, boolean equal, SparkSession spark) {
    assertThat(spark.sql("SELECT '%s' COLLATE %s = '%s'".formatted(left, collation, right)))
        .hasRows(row(equal));
  }

  @Test
  void namesAreJoinedHoweverTheyAreWritten(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);
    Dataset<Row> pairs = TextAndCollation.sameNames(spark, "customers", "guests");

    assertThat(pairs).hasRows(row(1, 1), row(2, 1), row(5, 2), row(6, 2));
    assertThat(TextAndCollation.sameNames(spark.table("customers"), spark.table("guests")))
        .hasSameRowsAs(pairs);
  }

  @Test
  void spellingsOfANameAreOneGroup(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);

    assertThat(TextAndCollation.countByName(spark, "customers"))
        .hasRows(row("JOSE", 2L), row("ANN", 2L), row("Zoë", 2L), row(null, 1L));
    assertThat(
            spark.sql(
                "SELECT count(DISTINCT name), count(DISTINCT name COLLATE UNICODE_CI_AI) FROM"
                    + " customers"))
        .hasRows(row(6L, 3L));
  }

  @Test
  void aViewComparesWithoutRegardToCaseAndAccentsOverADeltaTable(
      SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);
    TextAndCollation.createView(spark, "people", "customers");

    assertThat(spark.sql("SELECT customer_id FROM people WHERE name = 'ZOE'"))
        .hasRows(row(5), row(6));
    assertThat(spark.sql("SELECT customer_id FROM people WHERE startswith(name, 'an')"))
        .hasRows(row(3), row(4));
    assertThat(spark.sql("SELECT count(*) FROM people GROUP BY name"))
        .hasRows(row(2L), row(2L), row(2L), row(1L));
    assertThat(spark.table("people"))
        .hasSchema("customer_id INT, name STRING COLLATE UNICODE_CI_AI");
    assertThat(spark.table("customers")).hasSchema("customer_id INT, name STRING");
  }

  /** A Delta table keeps its names binary, and a merge compares them as it is told to. */
  @Test
  void aMergeFindsANameHoweverItIsWritten(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);

    spark.sql(
        """
        MERGE INTO customers AS c USING (SELECT 9 AS customer_id, 'BOB' AS name UNION ALL SELECT 10, 'ÁNN') AS n
        ON c.name COLLATE UNICODE_CI_AI = n.name
        WHEN MATCHED THEN DELETE
        WHEN NOT MATCHED THEN INSERT *
        """);

    assertThat(spark.sql("SELECT customer_id FROM customers"))
        .hasRows(row(1), row(2), row(5), row(6), row(7), row(9));
  }

  @ParameterizedTest
  @CsvSource({
    "UTF8_BINARY, A B Z a b e z é ö",
    "UTF8_LCASE, A a B b e Z z é ö",
    "UNICODE, a A b B e é ö z Z",
    "UNICODE_CI_AI, A a B b e é ö Z z",
    "sv, a A b B e é z Z ö"
  })
  void eachCollationHasItsOrder(String collation, String expected, SparkSession spark) {
    Dataset<Row> names =
        spark.sql(
            "SELECT name FROM VALUES ('b'), ('A'), ('a'), ('B'), ('é'), ('e'), ('z'), ('Z'), ('ö')"
                + " AS v (name)");

    assertThat(TextAndCollation.sorted(names, collation))
        .hasRowsInOrder(
            Arrays.stream(expected.split(" ")).map(name -> row(name)).toArray(Row[]::new));
  }

  /** What the log says of a file is in binary order, so a collated filter leaves out none. */
  @Test
  void aCollatedFilterReadsAllFiles(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);

    QueryProfile binary = QueryProfile.of(spark.sql("SELECT * FROM customers WHERE name = 'Zoë'"));
    QueryProfile collated = QueryProfile.of(TextAndCollation.named(spark, "customers", "zoe"));

    assertThat(binary.filesRead()).isEqualTo(1);
    assertThat(binary.filesPruned()).isEqualTo(1);
    assertThat(collated.filesRead()).isEqualTo(2);
    assertThat(collated.filesPruned()).isZero();
  }

  /** Hash joins and hash aggregates want texts that are equal byte by byte. */
  @Test
  void aCollatedJoinAndAGroupAreSorted(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);

    QueryProfile binary =
        QueryProfile.of(
            spark.sql("SELECT 1 FROM customers AS c JOIN guests AS g ON c.name = g.name"));
    QueryProfile collated =
        QueryProfile.of(TextAndCollation.sameNames(spark, "customers", "guests"));
    QueryProfile groups = QueryProfile.of(TextAndCollation.countByName(spark, "customers"));

    assertThat(binary.joins()).containsExactly("BroadcastHashJoin");
    assertThat(collated.joins()).containsExactly("SortMergeJoin");
    assertThat(collated.exchanges()).containsEntry("hash", 2);
    assertThat(groups.plans().toString()).contains("SortAggregate").doesNotContain("HashAggregate");
  }

  @Test
  void deltaRefusesCollatedColumnsAndParquetDoesNot(SparkSession spark, Sandbox sandbox) {
    for (String column :
        List.of("name STRING COLLATE UTF8_LCASE", "name STRING COLLATE UNICODE_CI_AI")) {
      assertRefused(
          "DELTA_UNSUPPORTED_DATA_TYPES",
          () -> spark.sql("CREATE TABLE refused (%s) USING delta".formatted(column)));
    }
    assertThat(spark.catalog().tableExists("refused")).isFalse();
    spark.sql("CREATE TABLE names (name STRING COLLATE UTF8_LCASE) USING parquet");
    spark.sql("INSERT INTO names VALUES ('Ann'), ('ANN'), ('Bob')");
    assertThat(spark.sql("SELECT count(*) FROM names WHERE name = 'ann'")).hasRows(row(2L));
    assertRefused(
        "INVALID_PARTITION_COLUMN_DATA_TYPE",
        () ->
            spark.sql(
                "CREATE TABLE refused (id INT, name STRING COLLATE UTF8_LCASE) USING parquet"
                    + " PARTITIONED BY (name)"));
  }

  @Test
  void whatACollationCannotDoIsRefused(SparkSession spark, Sandbox sandbox) {
    createCustomers(spark);

    assertRefused(
        "COLLATION_INVALID_NAME", () -> spark.sql("SELECT name COLLATE NOPE FROM customers"));
    assertRefused(
        "COLLATION_MISMATCH.EXPLICIT",
        () -> spark.sql("SELECT name COLLATE UTF8_LCASE = 'a' COLLATE UNICODE FROM customers"));
    assertRefused(
        "INDETERMINATE_COLLATION_IN_EXPRESSION",
        () ->
            spark.sql(
                "SELECT a = b FROM (SELECT name COLLATE UTF8_LCASE AS a, name COLLATE UNICODE AS b"
                    + " FROM customers)"));
    for (String match : List.of("LIKE 'J%'", "RLIKE 'J.*'")) {
      assertRefused(
          "DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE",
          () -> spark.sql("SELECT name COLLATE UNICODE_CI_AI " + match + " FROM customers"));
    }
    assertThat(
            spark.sql(
                "SELECT customer_id FROM customers WHERE name COLLATE UTF8_LCASE LIKE 'jos%' AND"
                    + " startswith(name COLLATE UNICODE_CI_AI, 'JOS')"))
        .hasRows(row(1), row(2));
  }
}
