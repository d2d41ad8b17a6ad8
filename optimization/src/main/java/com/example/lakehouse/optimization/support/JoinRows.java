package com.example.lakehouse.optimization.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.execution.joins.BaseJoinExec;

/**
 * The rows that reached a join from each of its sides, from Spark's own metrics.
 *
 * @param join Spark's name of the strategy, such as {@code SortMergeJoin}
 */
public record JoinRows(String join, long left, long right) {
  /** Of a scan, a filter or a broadcast; of a shuffle. */
  private static final List<String> ROWS = List.of("numOutputRows", "shuffleRecordsWritten");

  /**
   * Runs {@code query} and reports its joins, the outermost first.
   *
   * @param query one whose result is small: its rows are collected
   */
  public static List<JoinRows> of(Dataset<?> query) {
    query.collectAsList();
    List<JoinRows> joins = new ArrayList<>();
    find(query.queryExecution().executedPlan(), joins);
    return joins;
  }

  private static void find(SparkPlan node, List<JoinRows> joins) {
    if (node instanceof BaseJoinExec join) {
      joins.add(
          new JoinRows(
              node.getClass().getSimpleName().replaceFirst("Exec$", ""),
              rows(join.left()),
              rows(join.right())));
    }
    below(node).forEach(child -> find(child, joins));
  }

  /** Down through nodes that give a row for each row, to the first that counts them. */
  private static long rows(SparkPlan node) {
    for (String name : ROWS) {
      if (node.metrics().contains(name)) {
        return node.metrics().apply(name).value();
      }
    }
    return rows(below(node).get(0));
  }

  private static List<SparkPlan> below(SparkPlan node) {
    if (node instanceof AdaptiveSparkPlanExec adaptive) {
      return List.of(adaptive.executedPlan());
    } else if (node instanceof QueryStageExec stage) {
      return List.of(stage.plan());
    }
    return asJava(node.children());
  }
}
