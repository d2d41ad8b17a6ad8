package com.example.lakehouse.optimization.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeoutException;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerEvent;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
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
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd;
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionStart;
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
    SparkSession spark = query.sparkSession();
    String tag = "observed-" + UUID.randomUUID();
    Collector collector = new Collector(tag);
    spark.sparkContext().addSparkListener(collector);
    spark.sparkContext().addJobTag(tag);
    try {
      query.write().format("noop").mode("overwrite").save();
      spark.sparkContext().listenerBus().waitUntilEmpty();
    } catch (TimeoutException e) {
      throw new IllegalStateException("Spark did not report on the query in time", e);
    } finally {
      spark.sparkContext().removeJobTag(tag);
      spark.sparkContext().removeSparkListener(collector);
    }
    List<String> initialPlan = new ArrayList<>();
    List<String> finalPlan = new ArrayList<>();
    List<SparkPlan> nodes = new ArrayList<>();
    outline(collector.plan, true, 0, initialPlan, new ArrayList<>());
    outline(collector.plan, false, 0, finalPlan, nodes);
    return new Observed(
        List.copyOf(initialPlan),
        List.copyOf(finalPlan),
        collector.rowsOfTasks(),
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
    if (node instanceof AdaptiveSparkPlanExec adaptive) {
      outline(
          initial ? adaptive.initialPlan() : adaptive.executedPlan(), initial, depth, lines, nodes);
    } else if (node instanceof QueryStageExec stage) {
      outline(stage.plan(), initial, depth, lines, nodes);
    } else if (node instanceof CommandResultExec command) {
      outline(command.commandPhysicalPlan(), initial, depth, lines, nodes);
    } else if (node instanceof V2TableWriteExec
        || node instanceof ColumnarToRowExec
        || node instanceof WholeStageCodegenExec
        || node instanceof InputAdapter) {
      outline(node.children().head(), initial, depth, lines, nodes);
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

  /** Called on Spark's listener thread only; read after the bus is empty. */
  private static final class Collector extends SparkListener {
    private final String tag;
    private final Set<Integer> stages = new HashSet<>();
    private final Set<Long> executions = new HashSet<>();
    private final Map<Integer, List<Long>> rowsOfStage = new HashMap<>();
    private SparkPlan plan;

    Collector(String tag) {
      this.tag = tag;
    }

    @Override
    public void onJobStart(SparkListenerJobStart job) {
      if (job.properties().getProperty("spark.job.tags", "").contains(tag)) {
        asJava(job.stageIds()).forEach(id -> stages.add((Integer) id));
      }
    }

    @Override
    public void onTaskEnd(SparkListenerTaskEnd task) {
      if (stages.contains(task.stageId()) && task.taskMetrics() != null) {
        rowsOfStage
            .computeIfAbsent(task.stageId(), stage -> new ArrayList<>())
            .add(task.taskMetrics().shuffleReadMetrics().recordsRead());
      }
    }

    @Override
    public void onOtherEvent(SparkListenerEvent event) {
      if (event instanceof SparkListenerSQLExecutionStart start && start.jobTags().contains(tag)) {
        executions.add(start.executionId());
      } else if (event instanceof SparkListenerSQLExecutionEnd end
          && executions.contains(end.executionId())
          && end.qe() != null) {
        plan = end.qe().executedPlan();
      }
    }

    List<Long> rowsOfTasks() {
      return rowsOfStage.values().stream()
          .map(rows -> rows.stream().sorted(Comparator.reverseOrder()).toList())
          .filter(rows -> rows.get(0) > 0)
          .max(Comparator.comparing(rows -> rows.get(0)))
          .orElse(List.of());
    }
  }
}
