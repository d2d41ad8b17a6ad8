package com.example.lakehouse.common;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.TimeoutException;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerEvent;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.plans.physical.HashPartitioning;
import org.apache.spark.sql.catalyst.plans.physical.Partitioning;
import org.apache.spark.sql.catalyst.plans.physical.RangePartitioning;
import org.apache.spark.sql.catalyst.plans.physical.RoundRobinPartitioning;
import org.apache.spark.sql.catalyst.plans.physical.SinglePartition$;
import org.apache.spark.sql.delta.DeltaLogFileIndex;
import org.apache.spark.sql.delta.stats.PreparedDeltaFileIndex;
import org.apache.spark.sql.execution.CommandResultExec;
import org.apache.spark.sql.execution.FileSourceScanExec;
import org.apache.spark.sql.execution.InputAdapter;
import org.apache.spark.sql.execution.ProjectExec;
import org.apache.spark.sql.execution.RDDScanExec;
import org.apache.spark.sql.execution.SortExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.WholeStageCodegenExec;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.execution.columnar.InMemoryTableScanExec;
import org.apache.spark.sql.execution.datasources.FileIndex;
import org.apache.spark.sql.execution.datasources.v2.V2ExistingTableWriteExec;
import org.apache.spark.sql.execution.exchange.BroadcastExchangeExec;
import org.apache.spark.sql.execution.exchange.ReusedExchangeExec;
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec;
import org.apache.spark.sql.execution.joins.BaseJoinExec;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd;
import org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionStart;

/**
 * What one query, or one command with all the queries that it runs, really did: figures from
 * Spark's own task metrics and from the executed plans (with adaptive execution, the final ones).
 * The queries by which Delta reads its own log are left out.
 *
 * @param filesRead data files that the scans opened
 * @param filesPruned data files that the scans could leave out, by partition or by the statistics
 *     in Delta's log
 * @param bytesRead bytes that the tasks read from files and from caches
 * @param rowsRead rows that the tasks read from files and from caches
 * @param rowsOut rows that the last query returned or wrote; empty where its plan does not count
 *     them
 * @param exchanges exchanges by kind: {@code hash}, {@code range}, {@code single}, {@code round
 *     robin}, {@code broadcast}, {@code reused}
 * @param joins the join strategies by Spark's names, such as {@code BroadcastHashJoin}, one for
 *     each join
 * @param shuffleBytes bytes written to shuffles
 * @param spillBytes bytes that did not fit into memory and went to disk
 * @param tasks tasks that ended
 * @param medianTask median run time of the tasks of the stage that has the longest one
 * @param longestTask the longest task's run time
 * @param wallTime from start to end
 * @param rowsOfTasks rows that each task read from shuffles, the most first, in the stage that has
 *     the task that read most; empty without a shuffle
 * @param executed the executed plans, in the order in which they ended
 */
public record QueryProfile(
    long filesRead,
    long filesPruned,
    long bytesRead,
    long rowsRead,
    OptionalLong rowsOut,
    Map<String, Integer> exchanges,
    List<String> joins,
    long shuffleBytes,
    long spillBytes,
    int tasks,
    Duration medianTask,
    Duration longestTask,
    Duration wallTime,
    List<Long> rowsOfTasks,
    List<SparkPlan> executed) {

  /** Runs {@code query} to its last row, keeping none, and reports. */
  public static QueryProfile of(Dataset<?> query) {
    return of(query.sparkSession(), () -> query.write().format("noop").mode("overwrite").save());
  }

  /** Runs {@code action} and reports on all that it started from this thread. */
  public static QueryProfile of(SparkSession spark, Runnable action) {
    String tag = "profile-" + UUID.randomUUID();
    Collector collector = new Collector(tag);
    spark.sparkContext().addSparkListener(collector);
    spark.sparkContext().addJobTag(tag);
    long start = System.nanoTime();
    try {
      action.run();
      collector.wallTime = Duration.ofNanos(System.nanoTime() - start);
      // Spark hands events to its listeners from another thread.
      spark.sparkContext().listenerBus().waitUntilEmpty();
    } catch (TimeoutException e) {
      throw new IllegalStateException("Spark did not report on the query in time", e);
    } finally {
      spark.sparkContext().removeJobTag(tag);
      spark.sparkContext().removeSparkListener(collector);
    }
    return collector.profile();
  }

  /** The executed plans as text. */
  public List<String> plans() {
    return executed.stream().map(SparkPlan::toString).toList();
  }

  /**
   * All exchanges of data between tasks: those that shuffle, not those that broadcast or are
   * reused.
   */
  public int shuffles() {
    return exchanges.entrySet().stream()
        .filter(e -> !e.getKey().equals("broadcast") && !e.getKey().equals("reused"))
        .mapToInt(Map.Entry::getValue)
        .sum();
  }

  /** Called on Spark's listener thread only; read after the bus is empty. */
  private static final class Collector extends SparkListener {
    private static final String NO_EXECUTION = "";

    private final String tag;
    private final Map<Integer, String> executionOfStage = new HashMap<>();
    private final Map<Integer, List<TaskMetrics>> tasksOfStage = new HashMap<>();

    /** By execution, in the order in which they ended. */
    private final Map<String, SparkPlan> plans = new LinkedHashMap<>();

    private final Set<Long> started = new HashSet<>();
    private Duration wallTime = Duration.ZERO;

    Collector(String tag) {
      this.tag = tag;
    }

    @Override
    public void onJobStart(SparkListenerJobStart job) {
      if (job.properties().getProperty("spark.job.tags", "").contains(tag)) {
        String execution = job.properties().getProperty("spark.sql.execution.id", NO_EXECUTION);
        asJava(job.stageIds()).forEach(id -> executionOfStage.put((Integer) id, execution));
      }
    }

    @Override
    public void onTaskEnd(SparkListenerTaskEnd task) {
      if (executionOfStage.containsKey(task.stageId()) && task.taskMetrics() != null) {
        tasksOfStage
            .computeIfAbsent(task.stageId(), stage -> new ArrayList<>())
            .add(task.taskMetrics());
      }
    }

    @Override
    public void onOtherEvent(SparkListenerEvent event) {
      if (event instanceof SparkListenerSQLExecutionStart start) {
        if (start.jobTags().contains(tag)) {
          started.add(start.executionId());
        }
      } else if (event instanceof SparkListenerSQLExecutionEnd end
          && started.remove(end.executionId())
          && end.qe() != null) {
        plans.put(String.valueOf(end.executionId()), end.qe().executedPlan());
      }
    }

    QueryProfile profile() {
      Set<String> ofTheLog = new HashSet<>();
      plans.forEach(
          (execution, plan) -> {
            if (readsDeltasLog(plan)) {
              ofTheLog.add(execution);
            }
          });
      plans.keySet().removeAll(ofTheLog);
      tasksOfStage.keySet().removeIf(stage -> ofTheLog.contains(executionOfStage.get(stage)));

      PlanFigures figures = new PlanFigures();
      plans.values().forEach(figures::add);
      List<TaskMetrics> tasks = tasksOfStage.values().stream().flatMap(List::stream).toList();
      List<Long> slowest =
          tasksOfStage.values().stream()
              .map(stage -> stage.stream().map(TaskMetrics::executorRunTime).sorted().toList())
              .max(Comparator.comparing(millis -> millis.get(millis.size() - 1)))
              .orElse(List.of(0L));
      SparkPlan last = plans.values().stream().reduce((first, second) -> second).orElse(null);
      return new QueryProfile(
          figures.filesRead,
          figures.filesPruned,
          tasks.stream().mapToLong(task -> task.inputMetrics().bytesRead()).sum(),
          tasks.stream().mapToLong(task -> task.inputMetrics().recordsRead()).sum(),
          last == null ? OptionalLong.empty() : rowsOutOf(last),
          Collections.unmodifiableMap(figures.exchanges),
          List.copyOf(figures.joins),
          tasks.stream().mapToLong(task -> task.shuffleWriteMetrics().bytesWritten()).sum(),
          tasks.stream().mapToLong(TaskMetrics::diskBytesSpilled).sum(),
          tasks.size(),
          Duration.ofMillis(slowest.get((slowest.size() - 1) / 2)),
          Duration.ofMillis(slowest.get(slowest.size() - 1)),
          wallTime,
          rowsOfTasks(),
          List.copyOf(plans.values()));
    }

    private List<Long> rowsOfTasks() {
      return tasksOfStage.values().stream()
          .map(
              stage ->
                  stage.stream()
                      .map(task -> task.shuffleReadMetrics().recordsRead())
                      .sorted(Comparator.reverseOrder())
                      .toList())
          .filter(rows -> rows.get(0) > 0)
          .max(Comparator.comparing(rows -> rows.get(0)))
          .orElse(List.of());
    }
  }

  /**
   * Whether the plan is one of those by which Delta finds a table's files, before the query itself
   * runs.
   */
  private static boolean readsDeltasLog(SparkPlan node) {
    return (node instanceof RDDScanExec && node.nodeName().contains("Delta Table State"))
        || (node instanceof FileSourceScanExec files
            && files.relation().location() instanceof DeltaLogFileIndex)
        || below(node).stream().anyMatch(QueryProfile::readsDeltasLog);
  }

  private static final class PlanFigures {
    private final Map<String, Integer> exchanges = new TreeMap<>();
    private final List<String> joins = new ArrayList<>();
    private long filesRead;
    private long filesPruned;

    void add(SparkPlan node) {
      if (node instanceof ShuffleExchangeExec shuffle) {
        exchanges.merge(kind(shuffle.outputPartitioning()), 1, Integer::sum);
      } else if (node instanceof BroadcastExchangeExec) {
        exchanges.merge("broadcast", 1, Integer::sum);
      } else if (node instanceof ReusedExchangeExec) {
        exchanges.merge("reused", 1, Integer::sum);
        return;
      } else if (node instanceof BaseJoinExec) {
        joins.add(node.getClass().getSimpleName().replaceFirst("Exec$", ""));
      } else if (node instanceof FileSourceScanExec scan) {
        long read = metric(scan, "numFiles").orElse(0);
        filesRead += read;
        filesPruned += Math.max(0, filesOf(scan.relation().location()) - read);
      }
      below(node).forEach(this::add);
      asJava(node.subqueries()).forEach(this::add);
    }

    private static String kind(Partitioning partitioning) {
      if (partitioning instanceof HashPartitioning) {
        return "hash";
      } else if (partitioning instanceof RangePartitioning) {
        return "range";
      } else if (partitioning instanceof RoundRobinPartitioning) {
        return "round robin";
      } else if (partitioning == SinglePartition$.MODULE$) {
        return "single";
      }
      return partitioning.getClass().getSimpleName();
    }

    private static long filesOf(FileIndex index) {
      return index instanceof PreparedDeltaFileIndex delta
          ? (Long) delta.preparedScan().total().files().get()
          : index.inputFiles().length;
    }
  }

  /** A node's children, and of one that only holds a plan, that plan. */
  public static List<SparkPlan> below(SparkPlan node) {
    if (node instanceof AdaptiveSparkPlanExec adaptive) {
      return List.of(adaptive.executedPlan());
    } else if (node instanceof QueryStageExec stage) {
      return List.of(stage.plan());
    } else if (node instanceof CommandResultExec command) {
      return List.of(command.commandPhysicalPlan());
    } else if (node instanceof InMemoryTableScanExec cached) {
      return List.of(cached.relation().cachedPlan());
    }
    return asJava(node.children());
  }

  /**
   * Follows the plan down through nodes that give one row for each row, to one that counts its
   * rows.
   */
  private static OptionalLong rowsOutOf(SparkPlan node) {
    OptionalLong rows = metric(node, "numOutputRows");
    if (rows.isPresent()) {
      return rows;
    }
    boolean oneRowForEach =
        node instanceof AdaptiveSparkPlanExec
            || node instanceof QueryStageExec
            || node instanceof V2ExistingTableWriteExec
            || node instanceof WholeStageCodegenExec
            || node instanceof InputAdapter
            || node instanceof ProjectExec
            || node instanceof SortExec
            || node instanceof ShuffleExchangeExec;
    return oneRowForEach ? rowsOutOf(below(node).get(0)) : OptionalLong.empty();
  }

  private static OptionalLong metric(SparkPlan node, String name) {
    Optional<SQLMetric> metric = Optional.ofNullable(asJava(node.metrics()).get(name));
    return metric.isPresent() ? OptionalLong.of(metric.get().value()) : OptionalLong.empty();
  }
}
