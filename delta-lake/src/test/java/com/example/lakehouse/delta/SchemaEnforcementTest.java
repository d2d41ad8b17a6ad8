package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@SparkTest
class SchemaEnforcementTest {
  private static final Row FIRST =
      row(1L, LocalDate.of(2025, 3, 1), new BigDecimal("19.90"), row("Berlin"));

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE orders (
          order_id BIGINT NOT NULL, order_date DATE, amount DECIMAL(12,2), address STRUCT<city: STRING>)
        USING delta
        """);
    spark.sql(
        "INSERT INTO orders VALUES (1, DATE'2025-03-01', 19.90, named_struct('city', 'Berlin'))");
  }

  @ParameterizedTest(name = "{0}: {1}")
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          an extra column             | DELTA_METADATA_MISMATCH                      | 2L AS order_id, 5.00BD AS amount, 'web' AS channel
          a nested extra field        | DELTA_METADATA_MISMATCH                      | 2L AS order_id, named_struct('city', 'Rome', 'zip', '00100') AS address
          a type of another kind      | DATATYPE_MISMATCH.CAST_WITH_FUNC_SUGGESTION  | 2L AS order_id, DATE'2025-03-02' AS amount
          a struct for a plain value  | DATATYPE_MISMATCH.CAST_WITHOUT_SUGGESTION    | 2L AS order_id, named_struct('value', 5) AS amount
          a text that is no number    | CAST_INVALID_INPUT                           | 2L AS order_id, 'nineteen' AS amount
          a number that is too large  | CAST_OVERFLOW_IN_TABLE_INSERT                 | 2L AS order_id, 99999999999.00BD AS amount
          a missing NOT NULL value    | DELTA_NOT_NULL_CONSTRAINT_VIOLATED           | CAST(NULL AS BIGINT) AS order_id, 5.00BD AS amount
          a missing NOT NULL column   | DELTA_MISSING_NOT_NULL_COLUMN_VALUE          | 5.00BD AS amount
          """)
  void isRefusedAndNothingIsWritten(
      String what, String condition, String columns, SparkSession spark) {
    assertRefused(
        condition, () -> SchemaEnforcement.append("orders", spark.sql("SELECT " + columns)));

    assertThat(spark.table("orders")).hasRows(FIRST);
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void oneBadRowOfManyRefusesTheWholeBatch(SparkSession spark) {
    assertRefused(
        "CAST_INVALID_INPUT",
        () ->
            SchemaEnforcement.append(
                "orders",
                spark
                    .range(0, 1_000, 1, 4)
                    .selectExpr(
                        "id AS order_id", "IF(id = 999, 'x', CAST(id AS STRING)) AS amount")));

    assertThat(spark.table("orders")).hasRows(FIRST);
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void columnsGoByNameAndASmallerTypeIsStoredAsTheTables(SparkSession spark) {
    SchemaEnforcement.append(
        "orders", spark.sql("SELECT 5 AS amount, DATE'2025-03-02' AS order_date, 2 AS ORDER_ID"));

    assertThat(spark.table("orders"))
        .hasSchema(
            "order_id BIGINT, order_date DATE, amount DECIMAL(12,2), address STRUCT<city: STRING>")
        .hasRows(FIRST, row(2L, LocalDate.of(2025, 3, 2), new BigDecimal("5.00"), null));
  }

  @Test
  void aColumnThatIsLeftOutBecomesNullUnlessTheBatchMustHaveAll(SparkSession spark) {
    var batch = spark.sql("SELECT 2L AS order_id, DATE'2025-03-02' AS order_date");

    assertThatThrownBy(() -> SchemaEnforcement.appendExactly(spark, "orders", batch))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "the batch for orders lacks [address struct<city:string>, amount decimal(12,2)] and has [] too many");
    assertThat(spark.table("orders")).hasRows(FIRST);

    SchemaEnforcement.append("orders", batch);
    assertThat(spark.table("orders")).hasRows(FIRST, row(2L, LocalDate.of(2025, 3, 2), null, null));
  }

  @Test
  void aColumnTooManyIsNamed(SparkSession spark) {
    assertThatThrownBy(
            () ->
                SchemaEnforcement.appendExactly(
                    spark, "orders", spark.table("orders").selectExpr("*", "1 AS channel")))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("the batch for orders lacks [] and has [channel int] too many");
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void aTimeIsStoredAsSecondsUnlessTheTypesMustBeExact(SparkSession spark) {
    var timed =
        spark.sql(
            """
            SELECT 2L AS order_id, DATE'2025-03-02' AS order_date,
                   TIMESTAMP'2025-03-02 10:00:00' AS amount, named_struct('city', 'Rome') AS address
            """);

    assertThatThrownBy(() -> SchemaEnforcement.appendExactly(spark, "orders", timed))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "the batch for orders lacks [amount decimal(12,2)] and has [amount timestamp] too many");
    assertThat(spark.table("orders")).hasRows(FIRST);

    SchemaEnforcement.append("orders", timed);
    assertThat(spark.table("orders").where("order_id = 2").select("amount"))
        .hasRows(row(new BigDecimal("1740909600.00")));
  }

  @Test
  void aBatchWithAllColumnsInAnyOrderIsWritten(SparkSession spark) {
    SchemaEnforcement.appendExactly(
        spark,
        "orders",
        spark.sql(
            """
            SELECT named_struct('city', 'Rome') AS address, CAST(7.5 AS DECIMAL(12,2)) AS amount,
                   DATE'2025-03-03' AS order_date, 3L AS Order_Id
            """));

    assertThat(spark.table("orders"))
        .hasRows(FIRST, row(3L, LocalDate.of(2025, 3, 3), new BigDecimal("7.50"), row("Rome")));
  }

  @Test
  void aTableThatDoesNotExistIsRefusedByTheExactAppend(SparkSession spark) {
    assertRefused(
        "TABLE_OR_VIEW_NOT_FOUND",
        () -> SchemaEnforcement.appendExactly(spark, "missing", spark.table("orders")));
  }

  @Test
  void anEmptyBatchAddsNothing(SparkSession spark) {
    SchemaEnforcement.append("orders", spark.table("orders").limit(0));

    assertThat(spark.table("orders")).hasRows(FIRST);
  }
}
