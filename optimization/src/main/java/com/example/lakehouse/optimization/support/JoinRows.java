package com.example.lakehouse.optimization.support;

import com.example.lakehouse.common.QueryProfile;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.joins.BaseJoinExec;

/**
 * The rows that reached a join from each of its sides, from Spark's own metrics.
 *
 * @param join Spark's name of the strategy, such as {@code SortMergeJoin}
 */
public record JoinRows(String join, long left, long right) {
  /** Of a scan, a filter or a broadcast; of a shuffle. */
  private static final List<String> ROWS = List.of("numOutputRows", "shuffleRecordsWritten");

  /** Runs {@code query} to its last row and reports its joins, the outermost first. */
  public static List<JoinRows> of(Dataset<?> query) {
    return of(QueryProfile.of(query));
  }

  /** The joins of a run that has been profiled, the outermost first. */
  public static List<JoinRows> of(QueryProfile profile) {
    return Observed.of(profile).nodes().stream()
        .filter(BaseJoinExec.class::isInstance)
        .map(
            node ->
                new JoinRows(
                    node.getClass().getSimpleName().replaceFirst("Exec$", ""),
                    rows(((BaseJoinExec) node).left()),
                    rows(((BaseJoinExec) node).right())))
        .toList();
  }

  /** Down through nodes that give a row for each row, to the first that counts them. */
  private static long rows(SparkPlan node) {
    for (String name : ROWS) {
      if (node.metrics().contains(name)) {
        return node.metrics().apply(name).value();
      }
    }
    return rows(QueryProfile.below(node).get(0));
  }
}
