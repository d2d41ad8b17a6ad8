package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.HashMap;
import java.util.Map;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class VariantColumnsTest {

  @BeforeEach
  void createEvents(SparkSession spark, Sandbox sandbox) {
    // Reading a shredded VARIANT by path needs generated code; interpreted, Spark 4.1 fails.
    spark.conf().set("spark.sql.codegen.wholeStage", "true");
    spark.conf().set("spark.sql.codegen.factoryMode", "FALLBACK");
    VariantColumns.create(spark, "events", false);
    arrive(
        spark,
        """
        (1L, '{"user": {"id": 7, "country": "DE"}, "items": [{"name": "Lamp", "quantity": 2}]}'),
        (2L, '{"user": {"id": 8}, "items": [{"name": "Desk", "quantity": 1}, {"name": "Chair", "quantity": 4}]}'),
        (3L, NULL)
        """);
    VariantColumns.load(spark, "events", "arrived");
  }

  private static void arrive(SparkSession spark, String values) {
    spark
        .sql("SELECT * FROM VALUES %s AS e (event_id, json)".formatted(values))
        .createOrReplaceTempView("arrived");
  }

  @Test
  void pathsGiveTypedValuesAndNullWhereThereIsNone(SparkSession spark) {
    assertThat(VariantColumns.users(spark, "events"))
        .hasSchema("event_id BIGINT, user_id BIGINT, country STRING, first_item STRING")
        .hasRows(row(1L, 7L, "DE", "Lamp"), row(2L, 8L, null, "Desk"), row(3L, null, null, null));
  }

  @Test
  void eachElementOfAnArrayIsARow(SparkSession spark) {
    assertThat(VariantColumns.items(spark, "events"))
        .hasSchema("event_id BIGINT, item STRING, quantity INT")
        .hasRows(row(1L, "Lamp", 2), row(2L, "Desk", 1), row(2L, "Chair", 4));
  }

  @Test
  void theSchemaOfAllRowsHasEveryField(SparkSession spark) {
    assertThat(VariantColumns.schema(spark, "events"))
        .isEqualTo(
            "OBJECT<items: ARRAY<OBJECT<name: STRING, quantity: BIGINT>>,"
                + " user: OBJECT<country: STRING, id: BIGINT>>");
  }

  @Test
  void aBatchWithOneBrokenRowIsRefusedWhole(SparkSession spark) {
    arrive(spark, "(4L, '{\"user\": {\"id\": 9}}'), (5L, '{\"user\": {\"id\": ')");

    assertRefused(
        "MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION",
        () -> VariantColumns.load(spark, "events", "arrived"));

    assertThat(spark.table("events")).hasRowCount(3);
    assertThat(TableState.version(spark, "events")).isEqualTo(1);
  }

  @Test
  void brokenRowsAreKeptApartAndNoneIsLost(SparkSession spark) {
    spark.sql("CREATE TABLE rejects (event_id BIGINT, json STRING) USING delta");
    arrive(
        spark,
        "(4L, '{\"user\": {\"id\": 9}}'), (5L, '{\"user\": '), (6L, ''), (7L, NULL), (8L, 'null')");

    VariantColumns.loadValid(spark, "events", "rejects", "arrived");

    assertThat(spark.table("rejects")).hasRows(row(5L, "{\"user\": "), row(6L, ""));
    assertThat(spark.sql("SELECT event_id FROM events WHERE event_id > 3"))
        .hasRows(row(4L), row(7L), row(8L));
  }

  @Test
  void aValueOfAnotherTypeIsRefusedWhenReadOrBecomesNull(SparkSession spark) {
    arrive(spark, "(4L, '{\"user\": {\"id\": \"nine\"}}')");
    VariantColumns.load(spark, "events", "arrived");

    assertRefused(
        "INVALID_VARIANT_CAST", () -> VariantColumns.users(spark, "events").collectAsList());
    assertThat(VariantColumns.usersLeniently(spark, "events"))
        .hasRows(row(1L, 7L), row(2L, 8L), row(3L, null), row(4L, null));
  }

  @Test
  void jsonComesBackAsItWasExceptForSpacesAndTheOrderOfFields(SparkSession spark) {
    assertThat(spark.sql("SELECT to_json(payload) FROM events WHERE event_id = 1"))
        .hasRows(
            row(
                "{\"items\":[{\"name\":\"Lamp\",\"quantity\":2}],\"user\":{\"country\":\"DE\",\"id\":7}}"));
  }

  /** What is often said, that a path query on a VARIANT reads fewer bytes, is not so here. */
  @Test
  void aPathQueryReadsAsManyBytesAsTheWholeColumnInAllThreeForms(SparkSession spark) {
    spark
        .range(0, 20_000, 1, 1)
        .selectExpr(
            "id AS event_id",
            "to_json(named_struct('user', named_struct('id', id), 'agent', sha2(CAST(id AS STRING), 512))) AS json")
        .createOrReplaceTempView("arrived");
    spark.sql("CREATE TABLE as_string (event_id BIGINT, payload STRING) USING delta");
    spark.sql("INSERT INTO as_string SELECT * FROM arrived");
    for (boolean shredded : new boolean[] {false, true}) {
      String table = shredded ? "as_shredded" : "as_variant";
      VariantColumns.create(spark, table, shredded);
      VariantColumns.load(spark, table, "arrived");
    }

    Map<String, Long> path = new HashMap<>();
    Map<String, Long> whole = new HashMap<>();
    for (String table : new String[] {"as_string", "as_variant", "as_shredded"}) {
      String id =
          table.equals("as_string")
              ? "CAST(get_json_object(payload, '$.user.id') AS BIGINT)"
              : "payload:user.id::bigint";
      var ids = spark.sql("SELECT %s AS id FROM %s".formatted(id, table));
      assertThat(ids.selectExpr("sum(id)")).hasRows(row(199_990_000L));
      path.put(table, QueryProfile.of(ids).bytesRead());
      whole.put(
          table, QueryProfile.of(spark.sql("SELECT payload FROM %s".formatted(table))).bytesRead());
    }

    assertThat(path).isEqualTo(whole);
    for (String table : new String[] {"as_variant", "as_shredded"}) {
      assertThat(path.get(table))
          .isBetween(path.get("as_string") * 9 / 10, path.get("as_string") * 11 / 10);
    }
  }
}
