package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.try_parse_json;
import static org.apache.spark.sql.functions.try_variant_get;
import static org.apache.spark.sql.functions.variant_get;

import com.example.lakehouse.common.Notebook;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * JSON: with a schema where the fields are known, as VARIANT where they are not; and what becomes
 * of lines that are not what they should be.
 *
 * <p>Run: {@code ./run JsonAndVariant}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: twelve lines, good, bad and odd, none of them lost; a reader in mode DROPMALFORMED that
 * gives 7 rows, counts 9 and selects 8; paths into a VARIANT; rows to JSON and back.
 *
 * <p>On Databricks: the same code.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-data-sources-json.html">Spark SQL: JSON
 *     files</a>
 */
public final class JsonAndVariant {
  private static final String SALE =
      "sale_id INT, quantity INT, price DECIMAL(12,2), _corrupt_record STRING";

  private JsonAndVariant() {}

  /**
   * {@code line INT, json STRING, sale_id INT, quantity INT, price DECIMAL(12,2), _corrupt_record
   * STRING}, a row for each line. A line that does not fit has its text in {@code _corrupt_record},
   * and what did fit in the other columns.
   *
   * @param lines a table or view with {@code line INT, json STRING}
   */
  public static Dataset<Row> parse(SparkSession spark, String lines) {
    return spark.sql(
        """
        SELECT line, json, sale.*
        FROM (
          SELECT line, json,
                 from_json(json, 'sale_id INT, quantity INT, price DECIMAL(12,2), _corrupt_record STRING') AS sale
          FROM IDENTIFIER(:lines))
        """,
        Map.of("lines", lines));
  }

  /** {@link #parse} with columns. */
  public static Dataset<Row> parse(Dataset<Row> lines) {
    return lines
        .withColumn("sale", from_json(col("json"), StructType.fromDDL(SALE), Map.of()))
        .select("line", "json", "sale.*");
  }

  /**
   * The sales of {@link #parse}: what fits, and has the one field that a sale must have. Nothing
   * but that finds an empty line, {@code null} or an object of something else: they fit.
   */
  public static Dataset<Row> accepted(Dataset<Row> parsed) {
    return parsed
        .where("sale_id IS NOT NULL AND _corrupt_record IS NULL")
        .select("line", "sale_id", "quantity", "price");
  }

  /** All other lines of {@link #parse}, as they came: {@code line INT, json STRING}. */
  public static Dataset<Row> rejected(Dataset<Row> parsed) {
    return parsed.where("sale_id IS NULL OR _corrupt_record IS NOT NULL").select("line", "json");
  }

  /**
   * {@link #parse} that stops at the first line that does not fit.
   *
   * @throws org.apache.spark.SparkException MALFORMED_RECORD_IN_PARSING, when the query runs
   */
  public static Dataset<Row> parseStrictly(SparkSession spark, String lines) {
    return spark.sql(
        """
        SELECT line, sale.*
        FROM (
          SELECT line,
                 from_json(json, 'sale_id INT, quantity INT, price DECIMAL(12,2)', map('mode', 'FAILFAST')) AS sale
          FROM IDENTIFIER(:lines))
        """,
        Map.of("lines", lines));
  }

  /**
   * The sales of files with one JSON object in each line: {@code sale_id INT, quantity INT, price
   * DECIMAL(12,2)}. The reader parses what a query needs, so with DROPMALFORMED the columns that
   * are selected decide which lines are malformed.
   *
   * @param mode {@code PERMISSIVE}, {@code DROPMALFORMED} or {@code FAILFAST}
   */
  public static Dataset<Row> read(SparkSession spark, String path, String mode) {
    return spark
        .read()
        .schema("sale_id INT, quantity INT, price DECIMAL(12,2)")
        .option("mode", mode)
        .json(path);
  }

  /**
   * {@code line INT, user_id INT, first_tag STRING, zip STRING}: fields by their paths, without a
   * schema; NULL for what is not there or not JSON. {@code ::} stops the query if a value is not of
   * its type, {@code try_variant_get} gives NULL.
   *
   * @param lines a table or view with {@code line INT, json STRING}
   */
  public static Dataset<Row> paths(SparkSession spark, String lines) {
    return spark.sql(
        """
        SELECT line,
               try_variant_get(doc, '$.user.id', 'int') AS user_id,
               doc:tags[0]::string AS first_tag,
               doc:user.address['zip code']::string AS zip
        FROM (SELECT line, try_parse_json(json) AS doc FROM IDENTIFIER(:lines))
        """,
        Map.of("lines", lines));
  }

  /** {@link #paths} with columns. */
  public static Dataset<Row> paths(Dataset<Row> lines) {
    return lines
        .withColumn("doc", try_parse_json(col("json")))
        .select(
            col("line"),
            try_variant_get(col("doc"), "$.user.id", "int").as("user_id"),
            variant_get(col("doc"), "$.tags[0]", "string").as("first_tag"),
            variant_get(col("doc"), "$.user.address['zip code']", "string").as("zip"));
  }

  /**
   * Rows as JSON, {@code json STRING}, so that {@code from_json} gives them back: by default
   * to_json leaves out NULLs, and cuts times off at the millisecond.
   */
  public static Dataset<Row> toJson(SparkSession spark, String rows) {
    return spark.sql(
        """
        SELECT to_json(
                 struct(*),
                 map('ignoreNullFields', 'false', 'timestampFormat', "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX")) AS json
        FROM IDENTIFIER(:rows)
        """,
        Map.of("rows", rows));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        JsonAndVariant.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
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
          notebook.step("from_json: every line is a row");
          Dataset<Row> parsed = parse(spark, "lines");
          notebook.table("parsed", parsed.orderBy("line"));
          notebook.table("accepted", accepted(parsed).orderBy("line"));
          notebook.table("rejected", rejected(parsed).orderBy("line"));
          notebook.text(
              "Lines 9 and 11 are taken without a word: parsing stops where the object ends, and"
                  + " the last of two equal keys wins. A VARIANT takes line 9 too, and refuses line"
                  + " 11.");
          notebook.refused(
              "FAILFAST: the first line that does not fit stops the query",
              "MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION",
              () -> parseStrictly(spark, "lines").collectAsList());
          notebook.refused(
              "DROPMALFORMED is for readers",
              "PARSE_MODE_UNSUPPORTED",
              () ->
                  spark
                      .sql(
                          """
                          SELECT from_json(json, 'sale_id INT', map('mode', 'DROPMALFORMED')) FROM lines
                          """)
                      .collectAsList());

          notebook.step("A reader: how many lines are malformed depends on the query");
          String path = notebook.sandbox().path("lines");
          spark.sql("SELECT json FROM lines WHERE json IS NOT NULL").coalesce(1).write().text(path);
          List<Row> counts = new ArrayList<>();
          for (String mode : List.of("PERMISSIVE", "DROPMALFORMED")) {
            Dataset<Row> sales = read(spark, path, mode);
            counts.add(
                RowFactory.create(
                    mode,
                    sales.collectAsList().size(),
                    (int) sales.count(),
                    sales.select("sale_id").collectAsList().size()));
          }
          notebook.table(
              "the same file",
              spark.createDataFrame(
                  counts,
                  StructType.fromDDL("mode STRING, all_columns INT, count INT, sale_id_only INT")));

          notebook.step("VARIANT: paths without a schema");
          spark
              .createDataset(
                  List.of(
                      "{\"user\": {\"id\": 7, \"address\": {\"zip code\": \"10115\"}}, \"tags\":"
                          + " [\"new\", \"eu\"]}",
                      "{\"user\": {\"id\": \"eight\"}, \"tags\": []}",
                      "{\"user\": "),
                  Encoders.STRING())
              .selectExpr("CAST(monotonically_increasing_id() AS INT) AS line", "value AS json")
              .createOrReplaceTempView("documents");
          notebook.table("documents", spark.table("documents"));
          notebook.table("paths", paths(spark, "documents"));

          notebook.step("Rows to JSON and back");
          spark
              .sql(
                  "SELECT 1 AS id, TIMESTAMP'2025-03-30 01:30:00.123456' AS at, CAST(NULL AS"
                      + " STRING) AS note")
              .createOrReplaceTempView("rows");
          notebook.table(
              "to_json as it is", spark.sql("SELECT to_json(struct(*)) AS json FROM rows"));
          notebook.table("with NULLs and microseconds", toJson(spark, "rows"));
        });
  }
}
