package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class TryFunctionsTest {

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE raw_orders AS
        SELECT * FROM VALUES
          ('1', '01.03.2025', '2',   '20.00'),
          ('2', '30.02.2025', '1',   '35.50'),
          ('3', '03.03.2025', 'two', '12.00'),
          ('4', '04.03.2025', '3000000000', '99999999999.00'),
          ('5', NULL,         '1',   NULL),
          ('6', '06.03.2025', '0',   '0.00')
          AS raw_orders (order_id, ordered, quantity, amount)
        """);
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  @Test
  void oneBadValueFailsTheWholeStrictQuery(SparkSession spark) {
    Dataset<Row> strict = TryFunctions.strict(spark);

    assertRefused("CANNOT_PARSE_TIMESTAMP", () -> strict.where("order_id = 2").collectAsList());
    assertRefused("CAST_INVALID_INPUT", () -> strict.where("order_id = 3").collectAsList());
    assertRefused("DIVIDE_BY_ZERO", () -> strict.where("order_id = 6").collectAsList());
    assertRefused(
        "NUMERIC_VALUE_OUT_OF_RANGE.WITH_SUGGESTION",
        () -> strict.where("order_id = 4").select("amount").collectAsList());
    // All six rows at once: the good ones do not come either.
    assertRefused("CAST_INVALID_INPUT", () -> strict.where("order_id IN (1, 3)").collectAsList());
  }

  @Test
  void tryFunctionsKeepEveryRowAndTheValuesThatFit(SparkSession spark) {
    Dataset<Row> tolerant = TryFunctions.tolerant(spark);

    assertThat(tolerant)
        .hasRows(
            row("1", LocalDate.of(2025, 3, 1), 2, money("20.00"), money("10.0000000000000")),
            row("2", null, 1, money("35.50"), money("35.5000000000000")),
            row("3", LocalDate.of(2025, 3, 3), null, money("12.00"), null),
            row("4", LocalDate.of(2025, 3, 4), null, null, null),
            row("5", null, 1, null, null),
            row("6", LocalDate.of(2025, 3, 6), 0, money("0.00"), null));
    assertThat(TryFunctions.tolerantInJava(spark)).hasSameRowsAs(tolerant);
  }

  @Test
  void whereAllValuesFitBothAreEqual(SparkSession spark) {
    assertThat(TryFunctions.tolerant(spark).where("order_id IN (1, 5)"))
        .hasSameRowsAs(TryFunctions.strict(spark).where("order_id IN (1, 5)"));
  }

  @Test
  void whatIsLostIsSetAsideWithItsReasonAndAMissingValueIsNotLost(SparkSession spark) {
    Dataset<Row> rejected = TryFunctions.rejected(spark);

    assertThat(
            rejected.selectExpr(
                "order_id", "ordered", "quantity", "amount", "array_join(lost, ',')"))
        .hasRows(
            row("2", "30.02.2025", "1", "35.50", "ordered"),
            row("3", "03.03.2025", "two", "12.00", "quantity"),
            row("4", "04.03.2025", "3000000000", "99999999999.00", "quantity,amount"));
    assertThat(TryFunctions.rejectedInJava(spark)).hasSameRowsAs(rejected);
  }
}
