package com.example.lakehouse.delta;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * VARIANT: JSON whose fields differ from row to row, parsed once when it is written and queried by
 * path.
 *
 * <p>Run: {@code ./run VariantColumns}, or Run in the IDE; no JVM flags, no setup; {@code --scale}
 * for more rows.
 *
 * <p>See: paths with types; JSON that is broken goes to a table of its own; a path query on a
 * VARIANT reads about as many bytes as on a string, shredded or not: what it saves is parsing.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a href="https://docs.delta.io/delta-type-variant/">Delta Lake: variant data type</a>
 */
public final class VariantColumns {

  private VariantColumns() {}

  /**
   * Creates {@code event_id BIGINT, payload VARIANT}.
   *
   * @param shredded whether fields that most rows have are stored as columns of their own inside
   *     the file
   */
  public static void create(SparkSession spark, String table, boolean shredded) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table) (event_id BIGINT, payload VARIANT) USING delta
        TBLPROPERTIES ('delta.enableVariantShredding' = '%s')
        """
            .formatted(shredded),
        Map.of("table", table));
  }

  /**
   * Adds events whose payload is JSON.
   *
   * @param events the name of a table or view with {@code event_id BIGINT, json STRING}
   * @throws org.apache.spark.SparkException with the cause
   *     MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION if one of them is not JSON; none is added
   */
  public static void load(SparkSession spark, String table, String events) {
    spark.sql(
        """
        INSERT INTO IDENTIFIER(:table)
        SELECT event_id, parse_json(json) FROM IDENTIFIER(:events)
        """,
        Map.of("table", table, "events", events));
  }

  /**
   * Adds the events that are JSON to {@code table}, and the others to {@code rejects} as they are.
   * Two tables are two commits: a job that dies in between has written the first.
   *
   * @param events the name of a table or view with {@code event_id BIGINT, json STRING}
   * @param rejects a table with the same columns
   */
  public static void loadValid(SparkSession spark, String table, String rejects, String events) {
    Map<String, Object> names = Map.of("table", table, "rejects", rejects, "events", events);
    spark.sql(
        """
        INSERT INTO IDENTIFIER(:table)
        SELECT event_id, try_parse_json(json) FROM IDENTIFIER(:events)
        WHERE json IS NULL OR try_parse_json(json) IS NOT NULL
        """,
        names);
    spark.sql(
        """
        INSERT INTO IDENTIFIER(:rejects)
        SELECT event_id, json FROM IDENTIFIER(:events)
        WHERE json IS NOT NULL AND try_parse_json(json) IS NULL
        """,
        names);
  }

  /**
   * Fields by their path: {@code event_id BIGINT, user_id BIGINT, country STRING, first_item
   * STRING}; NULL where a row does not have the field.
   *
   * @throws org.apache.spark.SparkRuntimeException INVALID_VARIANT_CAST if a {@code user_id} is
   *     there and not a number
   */
  public static Dataset<Row> users(SparkSession spark, String table) {
    return spark.sql(
        """
        SELECT event_id,
               payload:user.id::bigint AS user_id,
               payload:user.country::string AS country,
               payload:items[0].name::string AS first_item
        FROM IDENTIFIER(:table)
        """,
        Map.of("table", table));
  }

  /** Like {@link #users}, with a NULL where {@code user_id} is not a number. */
  public static Dataset<Row> usersLeniently(SparkSession spark, String table) {
    return spark.sql(
        """
        SELECT event_id, try_variant_get(payload, '$.user.id', 'bigint') AS user_id
        FROM IDENTIFIER(:table)
        """,
        Map.of("table", table));
  }

  /** The schema of all payloads together, as one text. */
  public static String schema(SparkSession spark, String table) {
    return spark
        .sql(
            "SELECT schema_of_variant_agg(payload) FROM IDENTIFIER(:table)", Map.of("table", table))
        .head()
        .getString(0);
  }

  /** One row for each item: {@code event_id BIGINT, item STRING, quantity INT}. */
  public static Dataset<Row> items(SparkSession spark, String table) {
    return spark.sql(
        """
        SELECT event_id, item.value:name::string AS item, item.value:quantity::int AS quantity
        FROM IDENTIFIER(:table), LATERAL variant_explode(payload:items) AS item
        """,
        Map.of("table", table));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        VariantColumns.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          // Reading a shredded VARIANT by path needs generated code; interpreted, Spark 4.1 fails.
          spark.conf().set("spark.sql.codegen.wholeStage", "true");
          spark.conf().set("spark.sql.codegen.factoryMode", "FALLBACK");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1L, '{"user": {"id": 7, "country": "DE"}, "items": [{"name": "Lamp", "quantity": 2}]}'),
                    (2L, '{"user": {"id": 8}, "items": [{"name": "Desk", "quantity": 1}, {"name": "Chair", "quantity": 4}]}'),
                    (3L, '{"user": {"id": 9, "country": "FR", "vip": true}}'),
                    (4L, '{"user": {"id": 10, ')
                    AS events (event_id, json)
                  """)
              .createOrReplaceTempView("arrived");
          create(spark, "events", false);
          spark.sql("CREATE TABLE rejects (event_id BIGINT, json STRING) USING delta");

          notebook.step("Broken JSON");
          notebook.refused(
              "A batch with one broken row",
              "MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION",
              () -> load(spark, "events", "arrived"));
          loadValid(spark, "events", "rejects", "arrived");
          notebook.table("kept apart", spark.table("rejects"));

          notebook.step("Paths");
          notebook.table("users", users(spark, "events").orderBy("event_id"));
          notebook.table("items", items(spark, "events").orderBy("event_id", "item"));
          notebook.text("The schema of all: %s", schema(spark, "events"));

          notebook.step("What a path query reads: string, VARIANT, shredded VARIANT");
          notebook
              .sampleData(50_000)
              .events()
              .selectExpr("event_id", manyFields() + " AS json")
              .createOrReplaceTempView("many");
          spark.sql("CREATE TABLE as_string (event_id BIGINT, payload STRING) USING delta");
          spark.sql("INSERT INTO as_string SELECT * FROM many");
          create(spark, "as_variant", false);
          load(spark, "as_variant", "many");
          create(spark, "as_shredded", true);
          load(spark, "as_shredded", "many");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put(
              "string",
              QueryProfile.of(
                  spark.sql(
                      "SELECT CAST(get_json_object(payload, '$.user.id') AS BIGINT) FROM as_string")));
          profiles.put("VARIANT", QueryProfile.of(userIds(spark, "as_variant")));
          profiles.put("shredded", QueryProfile.of(userIds(spark, "as_shredded")));
          notebook.profiles("the id of each event's user", profiles);
          Chart chart = new Chart("bytes that a query on one path reads", "bytes");
          profiles.forEach((kind, profile) -> chart.bar(kind, profile.bytesRead()));
          notebook.chart(chart);
        });
  }

  private static Dataset<Row> userIds(SparkSession spark, String table) {
    return spark.sql("SELECT payload:user.id::bigint FROM " + table);
  }

  private static String manyFields() {
    return """
        to_json(named_struct(
          'user', named_struct('id', customer_id, 'country', element_at(array('DE', 'FR', 'IT'), int(1 + customer_id % 3))),
          'product', product_id, 'type', event_type, 'time', event_time,
          'agent', sha2(CAST(event_id AS STRING), 512)))""";
  }
}
