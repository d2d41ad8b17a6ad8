package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ConstraintsTest {
  private static final Row LAMP = row(1L, 29);
  private static final Row CHAIR = row(2L, 149);

  @BeforeEach
  void createProducts(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE products (product_id BIGINT NOT NULL, price INT) USING delta");
    spark.sql("INSERT INTO products VALUES (1, 29), (2, 149)");
  }

  @Test
  void aBatchWithOneBadRowIsRefusedWhole(SparkSession spark) {
    Constraints.addCheck(spark, "products", "positive", "price > 0");

    assertRefused(
        "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
        () -> spark.sql("INSERT INTO products VALUES (3, 19), (4, 0)"));

    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @Test
  void updatesAndMergesMustMeetItToo(SparkSession spark) {
    Constraints.addCheck(spark, "products", "positive", "price > 0");

    assertRefused(
        "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
        () -> spark.sql("UPDATE products SET price = price - 100"));
    assertRefused(
        "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
        () ->
            spark.sql(
                """
                MERGE INTO products AS t USING (SELECT 1L AS product_id, -5 AS price) AS s
                ON t.product_id = s.product_id WHEN MATCHED THEN UPDATE SET *
                """));

    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @Test
  void aConditionThatIsNullIsRefused(SparkSession spark) {
    Constraints.addCheck(spark, "products", "positive", "price > 0");

    assertRefused(
        "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
        () -> spark.sql("INSERT INTO products VALUES (3, NULL)"));
    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @Test
  void aMissingValueOfANotNullColumnIsRefused(SparkSession spark) {
    assertRefused(
        "DELTA_NOT_NULL_CONSTRAINT_VIOLATED",
        () -> spark.sql("INSERT INTO products VALUES (3, 19), (NULL, 20)"));
    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @Test
  void aConstraintThatExistingRowsBreakIsNotAdded(SparkSession spark) {
    assertRefused(
        "DELTA_NEW_CHECK_CONSTRAINT_VIOLATION",
        () -> Constraints.addCheck(spark, "products", "cheap", "price < 100"));

    spark.sql("INSERT INTO products VALUES (3, 500)");
    assertThat(spark.table("products")).hasRows(LAMP, CHAIR, row(3L, 500));
  }

  @Test
  void aSecondConstraintOfTheSameNameIsRefused(SparkSession spark) {
    Constraints.addCheck(spark, "products", "positive", "price > 0");

    assertRefused(
        "DELTA_CONSTRAINT_ALREADY_EXISTS",
        () -> Constraints.addCheck(spark, "products", "positive", "price > 1"));
  }

  @Test
  void withoutTheConstraintTheRowIsWritten(SparkSession spark) {
    Constraints.addCheck(spark, "products", "positive", "price > 0");

    Constraints.dropCheck(spark, "products", "positive");

    spark.sql("INSERT INTO products VALUES (3, 0)");
    assertThat(spark.table("products")).hasRows(LAMP, CHAIR, row(3L, 0));
  }

  @Test
  void droppingAConstraintThatDoesNotExistIsRefused(SparkSession spark) {
    assertRefused(
        "DELTA_CONSTRAINT_DOES_NOT_EXIST",
        () -> Constraints.dropCheck(spark, "products", "positive"));
  }

  @Test
  void aNameThatIsMoreThanANameIsRefused(SparkSession spark) {
    assertThatThrownBy(
            () -> Constraints.addCheck(spark, "products", "x CHECK (true); --", "price > 0"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: x CHECK (true); --");
    assertThat(TableState.version(spark, "products")).isEqualTo(1);
  }
}
