package com.example.lakehouse.optimization.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.Map;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class MeasuredTest {

  @Test
  void theSameRowsInAnotherOrderAreTheSame(SparkSession spark) {
    assertThat(
            Measured.sameRows(
                Map.of(
                    "up", spark.range(1_000).selectExpr("id", "id * 2 AS twice"),
                    "down",
                        spark
                            .range(1_000)
                            .selectExpr("id", "id + id")
                            .orderBy("id")
                            .repartition(3))))
        .isEqualTo(1_000);
  }

  @Test
  void aRowThatDiffersIsNamedWithBothFigures(SparkSession spark) {
    assertThatThrownBy(
            () ->
                Measured.sameRows(
                    Map.of(
                        "all", spark.range(1_000).toDF(),
                        "changed", spark.range(1_000).selectExpr("nullif(id, 7)"))))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContainingAll("different rows", "all=[1000,", "changed=[1000,");
  }

  @Test
  void rowsThatAreThereTwiceDoNotCancelOut(SparkSession spark) {
    assertThatThrownBy(
            () ->
                Measured.sameRows(
                    Map.of(
                        "twice", spark.sql("VALUES (1), (1), (2)"),
                        "other", spark.sql("VALUES (1), (2), (2)"))))
        .isInstanceOf(IllegalStateException.class);
  }

  @Test
  void codeIsGeneratedWithinTheSandboxOnly(SparkSession spark) {
    try (Sandbox sandbox = new Sandbox(spark, "generated", false)) {
      Measured.generateCode(spark);

      assertThat(plan(spark)).contains("*(1)");
    }
    assertThat(plan(spark)).doesNotContain("*(1)");
  }

  private static String plan(SparkSession spark) {
    return spark.range(10).selectExpr("id + 1").queryExecution().executedPlan().toString();
  }
}
