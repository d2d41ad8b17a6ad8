package com.example.lakehouse.optimization.support;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.aggregate.HashAggregateExec;
import org.junit.jupiter.api.Test;

@SparkTest
class ObservedTest {

  @Test
  void bothPlansAndTheRowsOfEachTaskAreThoseOfTheRun(SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.shuffle.partitions", "3");
    spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", "false");

    // Keys 0 to 9 in each of 4 tasks.
    Observed run =
        Observed.of(spark.range(0, 1_000, 1, 4).selectExpr("id % 10 AS k").groupBy("k").count());

    assertThat(run.initialPlan())
        .containsExactly(
            "HashAggregate",
            "  Exchange, partitions: 3",
            "    HashAggregate",
            "      Project",
            "        Range");
    assertThat(run.finalPlan()).isEqualTo(run.initialPlan());
    assertThat(run.rowsOfTasks()).hasSize(3);
    assertThat(run.allRows()).isEqualTo(40);
    assertThat(run.mostRows()).isGreaterThanOrEqualTo(run.medianRows());
    assertThat(run.nodes(HashAggregateExec.class)).hasSize(2);
  }

  @Test
  void aPlanThatChangesIsShownBesideTheFirst(SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.shuffle.partitions", "3");

    Observed run = Observed.of(spark.range(10).selectExpr("id % 2 AS k").groupBy("k").count());

    assertThat(run.plans(spark))
        .hasRowsInOrder(
            row("HashAggregate", "HashAggregate"),
            row("  Exchange, partitions: 3", "  AQEShuffleRead coalesced, partitions: 1"),
            row("    HashAggregate", "    Exchange, partitions: 3"),
            row("      Project", "      HashAggregate"),
            row("        Range", "        Project"),
            row("", "          Range"));
  }

  @Test
  void withoutAShuffleNoTaskReadsFromOne(SparkSession spark) {
    assertThat(Observed.of(spark.range(10)).rowsOfTasks()).isEmpty();
  }
}
