package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.Arrays;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructField;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ComplexTypesTest {

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    spark
        .sql(
            """
            SELECT order_id,
                   from_json(items, 'ARRAY<STRUCT<name: STRING, quantity: INT, price: DECIMAL(12,2)>>') AS items,
                   delivered, notes
            FROM VALUES
              (1, '[{"name": "Lamp", "quantity": 2, "price": 29.90}, {"name": "Bulb", "quantity": 4, "price": 2.50}]',
               array(2, 1), map('gift', 'yes', 'door', 'left')),
              (2, '[{"name": "Desk", "quantity": 1, "price": 199.00}, {"name": "Lamp", "quantity": 3}, {"name": "Desk", "quantity": 2, "price": 99.99}]',
               array(1), map('door', NULL)),
              (3, '[]', array(), map()),
              (4, NULL, NULL, NULL)
              AS v (order_id, items, delivered, notes)
            """)
        .createOrReplaceTempView("orders");
  }

  /** Arrays, maps and structs as Spark writes them, so that they can be compared with a text. */
  private static Dataset<Row> readable(Dataset<Row> rows) {
    return rows.select(
        Arrays.stream(rows.schema().fields())
            .map(
                (StructField field) ->
                    field.dataType().simpleString().matches("(array|map|struct).*")
                        ? col(field.name()).cast("string")
                        : col(field.name()))
            .toArray(Column[]::new));
  }

  /** 2 * 29.90 + 4 * 2.50 = 69.80; order 2 has an item without a price. */
  @Test
  void amountsAndTotalsAreComputedInsideTheRow(SparkSession spark) {
    Dataset<Row> totals = ComplexTypes.totals(spark, "orders");

    assertThat(totals).hasSchema("order_id INT, amounts ARRAY<DECIMAL(12,2)>, total DECIMAL(12,2)");
    assertThat(readable(totals))
        .hasRows(
            row(1, "[59.80, 10.00]", new BigDecimal("69.80")),
            row(2, "[199.00, null, 199.98]", null),
            row(3, "[]", new BigDecimal("0.00")),
            row(4, null, null));
    assertThat(ComplexTypes.totals(spark.table("orders"))).hasSameRowsAs(totals);
    assertThat(QueryProfile.of(totals).shuffles()).isZero();
  }

  @Test
  void aSumHasTheTypeThatItStartsWithOrIsRefused(SparkSession spark) {
    assertRefused(
        "DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE",
        () -> spark.sql("SELECT aggregate(items, 0, (s, i) -> s + i.price) FROM orders"));
    assertRefused(
        "DATATYPE_MISMATCH.UNEXPECTED_INPUT_TYPE",
        () ->
            spark.sql(
                "SELECT aggregate(items, CAST(0 AS DECIMAL(12,2)), (s, i) -> s + i.price) FROM"
                    + " orders"));
  }

  @Test
  void aFilterKeepsWhatIsTrueAndNotWhatIsUnknown(SparkSession spark) {
    Dataset<Row> dear = ComplexTypes.dearItems(spark, "orders", new BigDecimal("29.90"));

    assertThat(readable(dear))
        .hasRows(row(1, "[Lamp]"), row(2, "[Desk, Desk]"), row(3, "[]"), row(4, null));
    assertThat(ComplexTypes.dearItems(spark.table("orders"), new BigDecimal("29.90")))
        .hasSameRowsAs(dear);
  }

  /** Of order 2 one desk has been delivered, and nothing is known of the rest. */
  @Test
  void theShorterOfTwoArraysGoesOnWithNulls(SparkSession spark) {
    Dataset<Row> missing = ComplexTypes.missing(spark, "orders");

    assertThat(readable(missing))
        .hasRows(
            row(1, "[{Bulb, 3}]"), row(2, "[{Lamp, 3}, {Desk, 2}]"), row(3, "[]"), row(4, null));
    assertThat(ComplexTypes.missing(spark.table("orders"))).hasSameRowsAs(missing);
  }

  @Test
  void explodeLosesOrdersWithoutItemsAndExplodeOuterDoesNot(SparkSession spark) {
    Dataset<Row> items = ComplexTypes.itemRows(spark, "orders");

    assertThat(items)
        .hasSchema("order_id INT, position INT, name STRING")
        .hasRows(
            row(1, 0, "Lamp"),
            row(1, 1, "Bulb"),
            row(2, 0, "Desk"),
            row(2, 1, "Lamp"),
            row(2, 2, "Desk"),
            row(3, null, null),
            row(4, null, null));
    assertThat(ComplexTypes.itemRows(spark.table("orders"))).hasSameRowsAs(items);
    assertThat(spark.sql("SELECT DISTINCT order_id FROM orders, LATERAL explode(items)"))
        .hasRows(row(1), row(2));
  }

  /** A left join should keep them: in Spark 4.1 it does with ON TRUE only. */
  @Test
  void aLeftJoinWithExplodeLosesThemUnlessItSaysOnTrue(SparkSession spark) {
    assertThat(spark.sql("SELECT DISTINCT order_id FROM orders LEFT JOIN LATERAL explode(items)"))
        .hasRows(row(1), row(2));
    assertThat(
            spark.sql(
                "SELECT DISTINCT order_id FROM orders LEFT JOIN LATERAL explode(items) ON TRUE"))
        .hasRows(row(1), row(2), row(3), row(4));
  }

  @Test
  void twoExplodesMakeEveryPair(SparkSession spark) {
    assertThat(spark.sql("SELECT explode(array(1, 2)) AS a, explode(array('x', 'y', 'z')) AS b"))
        .hasRowCount(6);
  }

  @Test
  void aMapGivesNullForAKeyThatItDoesNotHave(SparkSession spark) {
    Dataset<Row> notes = ComplexTypes.notes(spark, "orders");

    assertThat(readable(notes))
        .hasRows(
            row(1, "yes", "{gift -> YES, door -> LEFT}"),
            row(2, null, "{door -> null}"),
            row(3, null, "{}"),
            row(4, null, null));
    assertThat(readable(ComplexTypes.notes(spark.table("orders")))).hasSameRowsAs(readable(notes));
  }

  @Test
  void aKeyTwiceIsRefusedUnlessItsValuesAreAddedUp(SparkSession spark) {
    assertRefused(
        "DUPLICATED_MAP_KEY",
        () ->
            spark
                .sql(
                    "SELECT map_from_entries(transform(items, i -> struct(i.name, i.quantity)))"
                        + " FROM orders")
                .collectAsList());
    assertThat(
            ComplexTypes.piecesByName(spark, "orders")
                .selectExpr("order_id", "items['Desk']", "items['Lamp']", "items['Bulb']"))
        .hasRows(row(1, null, 2L, 4L), row(2, 3L, 3L, null));
  }

  @Test
  void mapsAreGroupedWhateverTheirOrderButNotComparedOrSorted(SparkSession spark) {
    spark
        .sql("SELECT * FROM VALUES (map('a', 1, 'b', 2)), (map('b', 2, 'a', 1)) AS v (m)")
        .createOrReplaceTempView("maps");

    assertThat(spark.sql("SELECT count(*) FROM maps GROUP BY m")).hasRows(row(2L));
    assertRefused(
        "DATATYPE_MISMATCH.INVALID_ORDERING_TYPE", () -> spark.sql("SELECT m = m FROM maps"));
    assertRefused(
        "DATATYPE_MISMATCH.INVALID_ORDERING_TYPE",
        () -> spark.sql("SELECT m FROM maps ORDER BY m"));
    assertRefused(
        "UNSUPPORTED_FEATURE.SET_OPERATION_ON_MAP_TYPE",
        () -> spark.sql("SELECT DISTINCT m FROM maps"));
  }

  @Test
  void anIndexThatIsNotThereIsAnErrorOrNull(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT get(array(1, 2), 2), get(array(1, 2), -1), try_element_at(array(1, 2), 3),
                       element_at(array(1, 2), -1), element_at(array(1, 2), 1), array(1, 2)[1]
                """))
        .hasRows(row(null, null, null, 2, 1, 2));
    assertRefused("INVALID_ARRAY_INDEX", () -> spark.sql("SELECT array(1, 2)[2]").collectAsList());
    assertRefused(
        "INVALID_ARRAY_INDEX_IN_ELEMENT_AT",
        () -> spark.sql("SELECT element_at(array(1, 2), 3)").collectAsList());
    assertRefused(
        "INVALID_INDEX_OF_ZERO",
        () -> spark.sql("SELECT try_element_at(array(1, 2), 0)").collectAsList());
  }

  @Test
  void nullsAreOrderedLastOrFirst(SparkSession spark) {
    assertThat(
            readable(
                spark.sql(
                    """
                    SELECT array_sort(array(3, NULL, 1)) AS last, sort_array(array(3, NULL, 1)) AS first,
                           array_distinct(array(1, NULL, 1, NULL)) AS once,
                           array_contains(array(1, NULL), 2) AS unknown,
                           exists(array(1, NULL), x -> x > 1) AS unknown_too
                    """)))
        .hasRows(row("[1, 3, null]", "[null, 1, 3]", "[1, null]", null, null));
  }

  @Test
  void aFieldOfAFieldIsReplacedAndTheOthersStay(SparkSession spark) {
    Dataset<Row> orders =
        spark.sql(
            """
            SELECT 1 AS order_id, named_struct('name', 'Ada', 'address', named_struct('zip', '10115', 'city', 'Berlin')) AS customer
            UNION ALL SELECT 2, NULL
            """);

    assertThat(readable(ComplexTypes.withCity(orders, "Lisbon")))
        .hasRows(row(1, "{Ada, {10115, Lisbon}}"), row(2, null));
    assertThat(ComplexTypes.withCity(orders, "Lisbon"))
        .hasSchema(
            "order_id INT, customer STRUCT<name: STRING NOT NULL, "
                + "address: STRUCT<zip: STRING NOT NULL, city: STRING NOT NULL>>");
  }

  /** By their places, not by their names; and two NULLs in them are equal. */
  @Test
  void structsAreComparedFieldByField(SparkSession spark) {
    assertThat(
            spark.sql(
                """
                SELECT max(struct(quantity, name)).name, struct(1, 'a') < struct(1, 'b'),
                       named_struct('a', 1, 'b', 2) = named_struct('b', 1, 'a', 2), struct(1, NULL) = struct(1, NULL)
                FROM VALUES (1, 'z'), (3, 'a'), (2, 'b') AS v (quantity, name)
                """))
        .hasRows(row("a", true, true, true));
  }
}
