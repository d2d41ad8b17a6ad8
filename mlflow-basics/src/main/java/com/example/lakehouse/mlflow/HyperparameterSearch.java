package com.example.lakehouse.mlflow;

import static java.util.stream.Collectors.joining;
import static java.util.stream.Collectors.toMap;
import static org.apache.spark.sql.functions.avg;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.not;
import static org.apache.spark.sql.functions.pmod;
import static org.apache.spark.sql.functions.pow;
import static org.apache.spark.sql.functions.round;
import static org.apache.spark.sql.functions.sqrt;
import static org.apache.spark.sql.functions.xxhash64;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.tracking.MlflowClient;

/**
 * Hyperparameters: a grid of trials, some at a time, each a run of its own below one parent run; a
 * trial that fails does not stop the others.
 *
 * <p>Run: {@code ./run HyperparameterSearch}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: twelve trees trained two at a time, and the error of each; four of them cannot be
 * trained, and say why; the best one is noted on the parent run.
 *
 * <p>On Databricks: the same code, with {@code new MlflowClient("databricks")}; the jobs of several
 * trials share the cluster.
 *
 * @see <a
 *     href="https://mlflow.org/docs/latest/ml/traditional-ml/tutorials/hyperparameter-tuning/part1-child-runs/">MLflow:
 *     parent and child runs</a>
 */
public final class HyperparameterSearch {
  /** MLflow's pages show a run below the one that this tag names. */
  private static final String PARENT = "mlflow.parentRunId";

  private HyperparameterSearch() {}

  /** What one trial computes: the smaller, the better. */
  @FunctionalInterface
  public interface Objective {
    double loss(Map<String, Integer> settings) throws Exception;
  }

  /**
   * A trial and what came of it.
   *
   * @param loss empty if it failed
   */
  public record Trial(String runId, Map<String, Integer> settings, Optional<Double> loss) {}

  /**
   * Every combination of the values, the last setting changing fastest.
   *
   * @param values the values of each setting by its name; a setting without values makes an empty
   *     grid
   */
  public static List<Map<String, Integer>> grid(Map<String, List<Integer>> values) {
    List<Map<String, Integer>> grid = List.of(Map.of());
    for (Map.Entry<String, List<Integer>> setting : values.entrySet()) {
      List<Map<String, Integer>> longer = new ArrayList<>();
      for (Map<String, Integer> some : grid) {
        for (int value : setting.getValue()) {
          Map<String, Integer> more = new LinkedHashMap<>(some);
          more.put(setting.getKey(), value);
          longer.add(more);
        }
      }
      grid = longer;
    }
    return grid;
  }

  /**
   * Runs a trial for each entry of a grid, in threads. A trial is a run with its settings as
   * parameters and its {@code loss} as a metric: FINISHED, or FAILED with the reason in the tag
   * {@code error}. The parent run gets the tags {@code best.run} and {@code best.settings} and the
   * metric {@code best.loss}, and ends FINISHED if a trial did.
   *
   * <p>Needs the snippets of {@link TrackRun}.
   *
   * @param parent a running run
   * @param threads the most trials at a time
   * @return the trials, in the order of the grid
   * @throws IllegalStateException if all trials failed
   * @throws InterruptedException if this thread is interrupted: the trials that run are interrupted
   *     and fail, the others are not begun
   */
  public static List<Trial> search(
      MlflowClient client,
      String parent,
      List<Map<String, Integer>> grid,
      int threads,
      Objective objective)
      throws Exception {
    return TrackRun.during(
        client,
        parent,
        () -> {
          String experiment = client.getRun(parent).getInfo().getExperimentId();
          List<Callable<Trial>> work = new ArrayList<>();
          for (Map<String, Integer> settings : grid) {
            work.add(() -> run(client, experiment, parent, settings, objective));
          }
          List<Trial> trials = new ArrayList<>();
          ExecutorService pool = Executors.newFixedThreadPool(threads);
          try {
            for (Future<Trial> trial : pool.invokeAll(work)) {
              trials.add(trial.get());
            }
          } finally {
            pool.shutdown();
            // After an interrupt they have been told to end: none outlives the search.
            pool.awaitTermination(1, TimeUnit.MINUTES);
          }
          Trial best = best(trials);
          client.setTag(parent, "best.run", best.runId());
          client.setTag(parent, "best.settings", text(best.settings()));
          client.logMetric(parent, "best.loss", best.loss().orElseThrow());
          return trials;
        });
  }

  private static Trial run(
      MlflowClient client,
      String experiment,
      String parent,
      Map<String, Integer> settings,
      Objective objective) {
    String run = TrackRun.start(client, experiment, text(settings));
    try {
      return TrackRun.during(
          client,
          run,
          () -> {
            TrackRun.log(
                client,
                run,
                TrackRun.params(settings),
                List.of(),
                TrackRun.tags(Map.of(PARENT, parent)));
            double loss = objective.loss(settings);
            if (!Double.isFinite(loss)) {
              // MLflow would order NaN after the numbers, and infinity among them.
              throw new ArithmeticException("the loss is " + loss);
            }
            client.logMetric(run, "loss", loss);
            return new Trial(run, settings, Optional.of(loss));
          });
    } catch (Exception e) {
      // The run says why.
      return new Trial(run, settings, Optional.empty());
    }
  }

  private static Trial best(List<Trial> trials) {
    return trials.stream()
        .filter(trial -> trial.loss().isPresent())
        .min(Comparator.comparingDouble(trial -> trial.loss().orElseThrow()))
        .orElseThrow(
            () ->
                new IllegalStateException("none of %d trials succeeded".formatted(trials.size())));
  }

  private static String text(Map<String, Integer> settings) {
    return settings.entrySet().stream()
        .map(setting -> setting.getKey() + " = " + setting.getValue())
        .collect(joining(", "));
  }

  /**
   * Trains a tree that predicts {@code amount}.
   *
   * @param baskets as {@link LogModel#baskets} gives them
   * @param settings of Spark's {@code DecisionTreeRegressor}, such as {@code maxDepth}
   * @throws java.util.NoSuchElementException if the tree has no such setting
   */
  public static PipelineModel train(Dataset<Row> baskets, Map<String, Integer> settings) {
    DecisionTreeRegressor tree = new DecisionTreeRegressor().setLabelCol("amount").setSeed(42);
    settings.forEach((name, value) -> tree.set(tree.getParam(name), value));
    return new Pipeline()
        .setStages(
            new PipelineStage[] {
              new StringIndexer()
                  .setInputCol("segment")
                  .setOutputCol("segment_index")
                  .setHandleInvalid("keep"),
              new VectorAssembler()
                  .setInputCols(new String[] {"segment_index", "items", "dearest"})
                  .setOutputCol("features"),
              tree
            })
        .fit(baskets);
  }

  /** A fifth of the orders, the same in every trial: what a model must not learn from. */
  public static Column heldOut() {
    return pmod(xxhash64(col("order_id")), lit(5)).equalTo(0);
  }

  /** The root of the mean squared error of a model's predictions of {@code amount}. */
  public static double error(PipelineModel model, Dataset<Row> baskets) {
    return model
        .transform(baskets)
        .agg(sqrt(avg(pow(col("prediction").minus(col("amount")), lit(2)))))
        .head()
        .getDouble(0);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        HyperparameterSearch.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          Dataset<Row> training = baskets.where(not(heldOut())).cache();
          Dataset<Row> held = baskets.where(heldOut()).cache();
          Path folder = notebook.sandbox().folder();
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            MlflowClient client = mlflow.client();

            notebook.step("A grid of twelve trees, trained two at a time");
            Map<String, List<Integer>> values = new LinkedHashMap<>();
            values.put("maxDepth", List.of(1, 3, 5, 10));
            values.put("maxBins", List.of(3, 8, 64));
            notebook.text(
                "%,d orders to learn from, %,d held out to measure the error.",
                training.count(), held.count());
            String experiment = client.createExperiment("search-" + UUID.randomUUID());
            String parent = TrackRun.start(client, experiment, "which tree?");
            List<Trial> trials =
                search(
                    client,
                    parent,
                    grid(values),
                    2,
                    settings -> error(train(training, settings), held));

            notebook.step("Each trial is a run below the parent, and says what came of it");
            List<Row> rows = new ArrayList<>();
            Chart chart = new Chart("error on the orders held out", "root mean squared error");
            for (Trial trial : trials) {
              Run run = client.getRun(trial.runId());
              rows.add(
                  RowFactory.create(
                      trial.settings().get("maxDepth"),
                      trial.settings().get("maxBins"),
                      run.getInfo().getStatus().name(),
                      trial.loss().orElse(null)));
              trial
                  .loss()
                  .ifPresent(
                      loss ->
                          chart.bar(
                              trial.settings().get("maxBins") + " bins",
                              "depth " + trial.settings().get("maxDepth"),
                              loss));
            }
            StructType columns =
                StructType.fromDDL("max_depth INT, max_bins INT, status STRING, loss DOUBLE");
            notebook.table(
                "the trials, the best one first",
                spark
                    .createDataFrame(rows, columns)
                    .orderBy(col("loss").asc_nulls_last())
                    .withColumn("loss", round(col("loss"), 2)));
            notebook.chart(chart);

            notebook.step("Why four of them failed");
            Trial failed =
                trials.stream().filter(trial -> trial.loss().isEmpty()).findFirst().orElseThrow();
            notebook.text(
                "%s: %s", text(failed.settings()), tags(client, failed.runId()).get("error"));

            notebook.step("What the parent run keeps");
            notebook.text(
                "%s; %s; loss %.2f",
                client.getRun(parent).getInfo().getStatus(),
                tags(client, parent).get("best.settings"),
                client.getRun(parent).getData().getMetrics(0).getValue());
          }
        });
  }

  private static Map<String, String> tags(MlflowClient client, String runId) {
    return client.getRun(runId).getData().getTagsList().stream()
        .collect(toMap(RunTag::getKey, RunTag::getValue));
  }
}
