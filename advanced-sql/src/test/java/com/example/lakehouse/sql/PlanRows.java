package com.example.lakehouse.sql;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.execution.SparkPlan;

/** What the nodes of a plan gave out, from Spark's own metrics. */
final class PlanRows {
  private PlanRows() {}

  /**
   * Runs {@code query} and sums the rows that its nodes of {@code type} gave out. The session's
   * {@code spark.sql.adaptive.enabled} must be false: then the plan is the one that runs.
   */
  static long of(Dataset<?> query, Class<? extends SparkPlan> type) {
    query.collectAsList();
    return sum(query.queryExecution().executedPlan(), type);
  }

  private static long sum(SparkPlan node, Class<? extends SparkPlan> type) {
    long below = asJava(node.children()).stream().mapToLong(child -> sum(child, type)).sum();
    return type.isInstance(node) ? below + node.metrics().apply("numOutputRows").value() : below;
  }
}
