package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class JsonAndVariantTest {
  private static final String CUT = "{\"sale_id\": 3, \"quantity\": ";
  private static final String TWO = "{\"sale_id\": \"two\", \"quantity\": 3}";
  private static final String HALF = "{\"sale_id\": 8, \"quantity\": 2.5}";
  private static final String ARRAY = "[{\"sale_id\": 10}, {\"sale_id\": 11}]";

  @BeforeEach
  void createLines(SparkSession spark, Sandbox sandbox) {
    spark
        .sql(
            """
            SELECT * FROM VALUES
              (1, '{"sale_id": 1, "quantity": 2, "price": 9.99}'),
              (2, '{"sale_id": "two", "quantity": 3}'),
              (3, '{"sale_id": 3, "quantity": '),
              (4, ''),
              (5, NULL),
              (6, '{"sale_id": 6}'),
              (7, '{"sale_id": 7, "quantity": 1, "colour": "red"}'),
              (8, '{"sale_id": 8, "quantity": 2.5}'),
              (9, '{"sale_id": 9, "quantity": 1} and more'),
              (10, '[{"sale_id": 10}, {"sale_id": 11}]'),
              (11, '{"sale_id": 11, "sale_id": 12}'),
              (12, 'null')
              AS lines (line, json)
            """)
        .createOrReplaceTempView("lines");
  }

  @Test
  void everyLineIsARowWithWhatDidFit(SparkSession spark) {
    Dataset<Row> parsed = JsonAndVariant.parse(spark, "lines");

    assertThat(parsed.drop("json"))
        .hasSchema(
            "line INT, sale_id INT, quantity INT, price DECIMAL(12,2), _corrupt_record STRING")
        .hasRows(
            row(1, 1, 2, new BigDecimal("9.99"), null),
            row(2, null, 3, null, TWO),
            row(3, null, null, null, CUT),
            row(4, null, null, null, null),
            row(5, null, null, null, null),
            row(6, 6, null, null, null),
            row(7, 7, 1, null, null),
            row(8, 8, null, null, HALF),
            row(9, 9, 1, null, null),
            row(10, null, null, null, ARRAY),
            row(11, 12, null, null, null),
            row(12, null, null, null, null));
    assertThat(JsonAndVariant.parse(spark.table("lines"))).hasSameRowsAs(parsed);
  }

  @Test
  void aLineIsAcceptedOrRejectedAndNeverBothOrNeither(SparkSession spark) {
    Dataset<Row> parsed = JsonAndVariant.parse(spark, "lines");

    assertThat(JsonAndVariant.accepted(parsed))
        .hasRows(
            row(1, 1, 2, new BigDecimal("9.99")),
            row(6, 6, null, null),
            row(7, 7, 1, null),
            row(9, 9, 1, null),
            row(11, 12, null, null));
    assertThat(JsonAndVariant.rejected(parsed))
        .hasRows(
            row(2, TWO),
            row(3, CUT),
            row(4, ""),
            row(5, null),
            row(8, HALF),
            row(10, ARRAY),
            row(12, "null"));
  }

  /** Of 10,000 events 200 are cut off in the middle, and those are the rejected ones. */
  @Test
  void theCutLinesOfGeneratedEventsAreThoseRejected(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(10_000).malformed(0.02);
    data.rawEvents()
        .selectExpr(
            "CAST(event_id AS INT) AS line",
            "replace(value, 'event_id', 'sale_id') AS json",
            "value LIKE '%}' AS whole")
        .createOrReplaceTempView("events");

    Dataset<Row> parsed = JsonAndVariant.parse(spark, "events");

    assertThat(data.malformedCount()).isEqualTo(200);
    assertThat(JsonAndVariant.rejected(parsed)).hasRowCount(200);
    assertThat(JsonAndVariant.rejected(parsed).where("json LIKE '%}'")).isEmpty();
    assertThat(JsonAndVariant.accepted(parsed)).hasRowCount(9_800);
    assertThat(JsonAndVariant.accepted(parsed).where("line <> sale_id")).isEmpty();
  }

  @Test
  void failFastStopsAtWhatDoesNotFitAndAtNothingElse(SparkSession spark) {
    Map<Integer, String> refused =
        Map.of(
            2, "CANNOT_PARSE_JSON_FIELD",
            3, "MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION",
            8, "CANNOT_PARSE_JSON_FIELD",
            10, "MALFORMED_RECORD_IN_PARSING.CANNOT_PARSE_JSON_ARRAYS_AS_STRUCTS",
            12, "INVALID_JSON_ROOT_FIELD");

    refused.forEach(
        (line, condition) -> {
          spark.table("lines").where("line = " + line).createOrReplaceTempView("one");
          assertRefused(
              condition, () -> JsonAndVariant.parseStrictly(spark, "one").collectAsList());
        });
    spark.table("lines").where("line IN (1, 4, 5, 6, 7, 9, 11)").createOrReplaceTempView("fitting");
    assertThat(JsonAndVariant.parseStrictly(spark, "fitting").select("line", "sale_id"))
        .hasRows(
            row(1, 1), row(4, null), row(5, null), row(6, 6), row(7, 7), row(9, 9), row(11, 12));
    assertRefused(
        "PARSE_MODE_UNSUPPORTED",
        () ->
            spark
                .sql(
                    "SELECT from_json(json, 'sale_id INT', map('mode', 'DROPMALFORMED')) FROM"
                        + " lines")
                .collectAsList());
  }

  /** An array in a line is a row for each element, and an empty line is none. */
  @Test
  void whatDropMalformedDropsDependsOnTheColumnsThatAreRead(SparkSession spark, Sandbox sandbox) {
    String path = write(spark, sandbox);
    Dataset<Row> dropped = JsonAndVariant.read(spark, path, "DROPMALFORMED");

    assertThat(dropped)
        .hasRows(
            row(1, 2, new BigDecimal("9.99")),
            row(6, null, null),
            row(7, 1, null),
            row(9, 1, null),
            row(10, null, null),
            row(11, null, null),
            row(12, null, null));
    assertThat(dropped.count()).isEqualTo(9);
    assertThat(dropped.select("sale_id"))
        .hasRows(row(1), row(6), row(7), row(8), row(9), row(10), row(11), row(12));
  }

  @Test
  void permissiveCountsTheRowsThatItGives(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales = JsonAndVariant.read(spark, write(spark, sandbox), "PERMISSIVE");

    assertThat(sales.collectAsList()).hasSize(11);
    assertThat(sales.count()).isEqualTo(11);
    assertThat(sales.select("sale_id").collectAsList()).hasSize(11);
  }

  @Test
  void aReaderThatFailsFastNamesTheFile(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> strict = JsonAndVariant.read(spark, write(spark, sandbox), "FAILFAST");

    assertRefused("CANNOT_PARSE_JSON_FIELD", strict::collectAsList);
    assertThat(catchThrowable(strict::collectAsList))
        .hasMessageContaining("FAILED_READ_FILE")
        .hasMessageContaining("part-00000");
  }

  @Test
  void theCorruptLinesAloneCannotBeReadFromFiles(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> sales =
        spark
            .read()
            .schema("sale_id INT, _corrupt_record STRING")
            .json(write(spark, sandbox))
            .where("_corrupt_record IS NOT NULL");

    assertRefused(
        "UNSUPPORTED_FEATURE.QUERY_ONLY_CORRUPT_RECORD_COLUMN",
        () -> sales.select("_corrupt_record").collectAsList());
    assertThat(sales).hasRows(row(null, TWO), row(null, CUT), row(null, "null"));
  }

  private static String write(SparkSession spark, Sandbox sandbox) {
    String path = sandbox.path("lines");
    spark.sql("SELECT json FROM lines WHERE json IS NOT NULL").coalesce(1).write().text(path);
    return path;
  }

  @Test
  void pathsGiveNullForWhatIsNotThereOrNotOfTheType(SparkSession spark) {
    documents(
        spark,
        "(1, '{\"user\": {\"id\": 7, \"address\": {\"zip code\": \"10115\"}}, \"tags\": [\"new\","
            + " 5]}')",
        "(2, '{\"user\": {\"id\": \"eight\"}, \"tags\": []}')",
        "(3, '{\"user\": ')",
        "(4, '{\"user\": null, \"tags\": [5]}')",
        "(5, '[]')",
        "(6, NULL)");
    Dataset<Row> paths = JsonAndVariant.paths(spark, "documents");

    assertThat(paths)
        .hasSchema("line INT, user_id INT, first_tag STRING, zip STRING")
        .hasRows(
            row(1, 7, "new", "10115"),
            row(2, null, null, null),
            row(3, null, null, null),
            row(4, null, "5", null),
            row(5, null, null, null),
            row(6, null, null, null));
    assertThat(JsonAndVariant.paths(spark.table("documents"))).hasSameRowsAs(paths);
    assertRefused(
        "INVALID_VARIANT_CAST",
        () ->
            spark
                .sql("SELECT parse_json(json):user.id::int FROM documents WHERE line = 2")
                .collectAsList());
  }

  private static void documents(SparkSession spark, String... rows) {
    spark
        .sql("SELECT * FROM VALUES %s AS d (line, json)".formatted(String.join(", ", rows)))
        .createOrReplaceTempView("documents");
  }

  @Test
  void aJsonNullIsThereAndAMissingFieldIsNot(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT doc:a IS NULL, is_variant_null(doc:a), doc:b IS NULL, is_variant_null(doc:b), doc:a::int
                FROM (SELECT parse_json('{"a": null}') AS doc)
                """))
        .hasRows(row(false, true, true, false, null));
  }

  @Test
  void aVariantIsNeitherComparedNorGrouped(SparkSession spark) {
    spark.sql("SELECT parse_json('1') AS v").createOrReplaceTempView("documents");

    assertRefused(
        "DATATYPE_MISMATCH.INVALID_ORDERING_TYPE", () -> spark.sql("SELECT v = v FROM documents"));
    assertRefused(
        "GROUP_EXPRESSION_TYPE_IS_NOT_ORDERABLE",
        () -> spark.sql("SELECT count(*) FROM documents GROUP BY v"));
    assertRefused(
        "UNSUPPORTED_FEATURE.SET_OPERATION_ON_VARIANT_TYPE",
        () -> spark.sql("SELECT DISTINCT v FROM documents"));
    assertThat(spark.sql("SELECT v::int, count(*) FROM documents GROUP BY v::int"))
        .hasRows(row(1, 1L));
  }

  /** Lines 11 and 9; from_json takes both. */
  @Test
  void aVariantRefusesAKeyThatComesTwiceAndTakesATail(SparkSession spark) {
    assertRefused(
        "VARIANT_DUPLICATE_KEY",
        () -> spark.sql("SELECT parse_json(json) FROM lines WHERE line = 11").collectAsList());
    assertThat(
            spark.sql("SELECT line FROM lines WHERE json <> '' AND try_parse_json(json) IS NULL"))
        .hasRows(row(3), row(11));
    assertThat(spark.sql("SELECT to_json(parse_json(json)) FROM lines WHERE line = 9"))
        .hasRows(row("{\"quantity\":1,\"sale_id\":9}"));
  }

  @Test
  void aVariantKeepsNumbersExactlyAndWritesThemInItsOwnWay(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT to_json(parse_json('{"b": 1.10, "a": 12345678901234567890123, "c": 1e3, "d": [null, {}]}')),
                       from_json('{"a": 12345678901234567890123}', 'a DOUBLE').a
                """))
        .hasRows(
            row(
                "{\"a\":12345678901234567890123,\"b\":1.1,\"c\":1000.0,\"d\":[null,{}]}",
                1.2345678901234568e22));
  }

  @Test
  void rowsComeBackAsTheyWere(SparkSession spark) {
    spark
        .sql(
            """
            SELECT 1 AS id, TIMESTAMP'2025-03-30 01:30:00.123456' AS at, CAST(9.90 AS DECIMAL(12,2)) AS price,
                   CAST(NULL AS STRING) AS note, array('a', 'b') AS tags, DATE'2025-03-30' AS day
            UNION ALL SELECT 2, NULL, NULL, 'a "quote"', array(), NULL
            """)
        .createOrReplaceTempView("rows");
    JsonAndVariant.toJson(spark, "rows").createOrReplaceTempView("written");

    assertThat(spark.sql("SELECT json FROM written WHERE json LIKE '{\"id\":1,%'"))
        .hasRows(
            row(
                "{\"id\":1,\"at\":\"2025-03-30T01:30:00.123456Z\",\"price\":9.90,\"note\":null,"
                    + "\"tags\":[\"a\",\"b\"],\"day\":\"2025-03-30\"}"));
    assertThat(
            spark.sql(
                """
                SELECT r.* FROM (
                  SELECT from_json(json, 'id INT, at TIMESTAMP, price DECIMAL(12,2), note STRING, tags ARRAY<STRING>, day DATE') AS r
                  FROM written)
                """))
        .hasSameRowsAs(spark.table("rows"));
  }

  @Test
  void asItIsToJsonCutsMicrosecondsAndLeavesOutNulls(SparkSession spark) {
    String row =
        "named_struct('at', TIMESTAMP'2025-03-30 01:30:00.123456', 'note', CAST(NULL AS STRING))";

    assertThat(spark.sql("SELECT to_json(%1$s), to_json(to_variant_object(%1$s))".formatted(row)))
        .hasRows(
            row(
                "{\"at\":\"2025-03-30T01:30:00.123Z\"}",
                "{\"at\":\"2025-03-30 01:30:00.123456+00:00\",\"note\":null}"));
  }
}
