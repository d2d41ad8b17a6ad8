package com.example.lakehouse.optimization.support;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@SparkTest
class JoinRowsTest {

  @ParameterizedTest
  @CsvSource({"true,true", "true,false", "false,true", "false,false"})
  void rowsAreCountedAfterTheFiltersOfEachSide(
      boolean adaptive, boolean generated, SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.adaptive.enabled", adaptive);
    if (generated) {
      Measured.generateCode(spark);
    }
    Dataset<Row> left =
        spark.range(1_000).selectExpr("id AS k", "id % 10 AS d").localCheckpoint().where("d = 0");
    Dataset<Row> right = spark.range(25).toDF("k");

    assertThat(JoinRows.of(left.join(right.hint("merge"), "k")))
        .containsExactly(new JoinRows("SortMergeJoin", 100, 25));
    assertThat(JoinRows.of(left.join(right.hint("broadcast"), "k")))
        .containsExactly(new JoinRows("BroadcastHashJoin", 100, 25));
  }

  @Test
  void aQueryWithoutAJoinHasNone(SparkSession spark) {
    assertThat(JoinRows.of(spark.range(3))).isEmpty();
  }
}
