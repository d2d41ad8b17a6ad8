package com.example.lakehouse.optimization.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.QueryProfile;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.ColumnarToRowExec;
import org.apache.spark.sql.execution.CommandResultExec;
import org.apache.spark.sql.execution.InputAdapter;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.WholeStageCodegenExec;
import org.apache.spark.sql.execution.adaptive.AQEShuffleReadExec;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.execution.datasources.v2.V2TableWriteExec;
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec;
import org.apache.spark.sql.types.StructType;

/**
 * What a run did beside the figures of a {@code QueryProfile}: the plan that it began with, the one
 * that it ended with, and how evenly a shuffle's rows fell to the tasks that read them.
 *
 * @param initialPlan the nodes before the first task ran, a line for each, indented by its depth
 * @param finalPlan the same after the last task; without adaptive execution they are equal
 * @param rowsOfTasks the rows that each task read from shuffles, the most first, in the stage that
 *     has the task that read most; empty without a shuffle
 * @param nodes the final plan's nodes, from the top
 */
public record Observed(
    List<String> initialPlan,
    List<String> finalPlan,
    List<Long> rowsOfTasks,
    List<SparkPlan> nodes) {

  /** Runs {@code query} to its last row, keeping none. */
  public static Observed of(Dataset<?> query) {
    return of(QueryProfile.of(query));
  }

  /** What a run did that has been profiled, in the last of its plans. */
  public static Observed of(QueryProfile profile) {
    SparkPlan plan = profile.executed().get(profile.executed().size() - 1);
    List<String> initialPlan = new ArrayList<>();
    List<String> finalPlan = new ArrayList<>();
    List<SparkPlan> nodes = new ArrayList<>();
    outline(plan, true, 0, initialPlan, new ArrayList<>());
    outline(plan, false, 0, finalPlan, nodes);
    return new Observed(
        List.copyOf(initialPlan),
        List.copyOf(finalPlan),
        profile.rowsOfTasks(),
        List.copyOf(nodes));
  }

  /** The rows of the task that read most. */
  public long mostRows() {
    return rowsOfTasks.get(0);
  }

  /** The rows of the task in the middle of those that read any. */
  public long medianRows() {
    List<Long> some = rowsOfTasks.stream().filter(rows -> rows > 0).toList();
    return some.get(some.size() / 2);
  }

  /** The rows of all these tasks. */
  public long allRows() {
    return rowsOfTasks.stream().mapToLong(Long::longValue).sum();
  }

  /** The final plan's nodes of {@code type}, from the top. */
  public <T extends SparkPlan> List<T> nodes(Class<T> type) {
    return nodes.stream().filter(type::isInstance).map(type::cast).toList();
  }

  /** {@code initial STRING, final STRING}: both plans, line by line. */
  public Dataset<Row> plans(SparkSession spark) {
    List<Row> lines = new ArrayList<>();
    for (int i = 0; i < Math.max(initialPlan.size(), finalPlan.size()); i++) {
      lines.add(RowFactory.create(line(initialPlan, i), line(finalPlan, i)));
    }
    return spark.createDataFrame(lines, StructType.fromDDL("initial STRING, final STRING"));
  }

  private static String line(List<String> plan, int i) {
    return i < plan.size() ? plan.get(i) : "";
  }

  /** Without the nodes that only hold others, and the one that throws the rows away. */
  private static void outline(
      SparkPlan node, boolean initial, int depth, List<String> lines, List<SparkPlan> nodes) {
    if (initial && node instanceof AdaptiveSparkPlanExec adaptive) {
      outline(adaptive.initialPlan(), true, depth, lines, nodes);
    } else if (node instanceof AdaptiveSparkPlanExec
        || node instanceof QueryStageExec
        || node instanceof CommandResultExec
        || node instanceof V2TableWriteExec
        || node instanceof ColumnarToRowExec
        || node instanceof WholeStageCodegenExec
        || node instanceof InputAdapter) {
      outline(QueryProfile.below(node).get(0), initial, depth, lines, nodes);
    } else {
      lines.add("  ".repeat(depth) + label(node));
      nodes.add(node);
      asJava(node.children()).forEach(child -> outline(child, initial, depth + 1, lines, nodes));
    }
  }

  private static String label(SparkPlan node) {
    if (node instanceof ShuffleExchangeExec shuffle) {
      return "Exchange, partitions: " + shuffle.outputPartitioning().numPartitions();
    } else if (node instanceof AQEShuffleReadExec read) {
      return read.simpleString(1) + ", partitions: " + read.partitionSpecs().size();
    }
    // A table's name without its catalog and schema.
    return node.nodeName().replaceAll(" (\\w+\\.)+", " ");
  }
}
