package com.example.lakehouse.common.testing;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class DatasetAssertTest {

  private static Dataset<Row> stock(SparkSession spark) {
    return spark.sql("SELECT * FROM VALUES ('lamp', 10), ('desk', 2) AS v (product, pieces)");
  }

  @Test
  void rowsAreComparedInAnyOrder(SparkSession spark) {
    assertThat(stock(spark)).hasRows(row("desk", 2), row("lamp", 10));
  }

  @Test
  void aDifferenceNamesTheRows(SparkSession spark) {
    assertThatThrownBy(() -> assertThat(stock(spark)).hasRows(row("lamp", 10), row("desk", 3)))
        .isInstanceOf(AssertionError.class)
        .hasMessageContaining("[desk, 3]")
        .hasMessageContaining("[desk, 2]");
  }

  @Test
  void aRowThatIsThereTwiceIsExpectedTwice(SparkSession spark) {
    Dataset<Row> twice = stock(spark).union(stock(spark));

    assertThatThrownBy(() -> assertThat(twice).hasRows(row("lamp", 10), row("desk", 2)))
        .isInstanceOf(AssertionError.class);
    assertThatThrownBy(() -> assertThat(twice).hasSameRowsAs(stock(spark)))
        .hasMessageContaining("surplus rows");
    assertThatThrownBy(() -> assertThat(stock(spark)).hasSameRowsAs(twice))
        .hasMessageContaining("missing rows");
  }

  @Test
  void aValueOfAnotherTypeDiffers(SparkSession spark) {
    assertThatThrownBy(() -> assertThat(spark.range(1).toDF()).hasRows(row(0)))
        .hasMessageContaining("[0L]");
  }

  @Test
  void theSchemaIsComparedByNameAndType(SparkSession spark) {
    assertThat(stock(spark)).hasSchema("product STRING, pieces INT");
    assertThatThrownBy(() -> assertThat(stock(spark)).hasSchema("product STRING, pieces BIGINT"))
        .hasMessageContaining("pieces BIGINT");
  }

  @Test
  void theOrderCountsWhereItIsAskedFor(SparkSession spark) {
    assertThatThrownBy(
            () ->
                assertThat(stock(spark).orderBy("pieces"))
                    .hasRowsInOrder(row("lamp", 10), row("desk", 2)))
        .isInstanceOf(AssertionError.class);
  }
}
