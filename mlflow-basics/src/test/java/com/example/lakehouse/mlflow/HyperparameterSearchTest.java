package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.not;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.HyperparameterSearch.Objective;
import com.example.lakehouse.mlflow.HyperparameterSearch.Trial;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.MlflowClient;

@SparkTest
@MlflowTest
class HyperparameterSearchTest {
  private MlflowClient client;
  private String experiment;
  private String parent;

  @BeforeEach
  void start(MlflowServer mlflow) {
    client = mlflow.client();
    experiment = client.createExperiment("search-" + UUID.randomUUID());
    parent = TrackRun.start(client, experiment, "parent");
  }

  /** The runs that MLflow's pages show below the parent. */
  private List<Run> children() {
    return client
        .searchRuns(
            List.of(experiment),
            "tags.mlflow.parentRunId = '" + parent + "'",
            ViewType.ACTIVE_ONLY,
            100,
            List.of("attributes.start_time ASC"))
        .getItems();
  }

  private static Map<String, String> params(Run run) {
    return run.getData().getParamsList().stream()
        .collect(Collectors.toMap(Param::getKey, Param::getValue));
  }

  private static Map<String, Double> metrics(Run run) {
    return run.getData().getMetricsList().stream()
        .collect(Collectors.toMap(Metric::getKey, Metric::getValue));
  }

  private static Map<String, String> tags(Run run) {
    return run.getData().getTagsList().stream()
        .filter(tag -> !tag.getKey().startsWith("mlflow."))
        .collect(Collectors.toMap(RunTag::getKey, RunTag::getValue));
  }

  private static List<Map<String, Integer>> grid(List<Integer> depths, List<Integer> bins) {
    Map<String, List<Integer>> values = new LinkedHashMap<>();
    values.put("maxDepth", depths);
    values.put("maxBins", bins);
    return HyperparameterSearch.grid(values);
  }

  @Test
  void aGridHasEachCombinationOnce() {
    assertThat(grid(List.of(1, 2, 3), List.of(8, 32)))
        .containsExactly(
            Map.of("maxDepth", 1, "maxBins", 8),
            Map.of("maxDepth", 1, "maxBins", 32),
            Map.of("maxDepth", 2, "maxBins", 8),
            Map.of("maxDepth", 2, "maxBins", 32),
            Map.of("maxDepth", 3, "maxBins", 8),
            Map.of("maxDepth", 3, "maxBins", 32));
    assertThat(grid(List.of(1, 2), List.of())).isEmpty();
    assertThat(HyperparameterSearch.grid(Map.of())).containsExactly(Map.of());
  }

  /** Smallest, 0.5, at depth 4 with 8 bins. */
  private static double loss(Map<String, Integer> settings) {
    return Math.pow(settings.get("maxDepth") - 4, 2) + settings.get("maxBins") / 16.0;
  }

  @Test
  void eachTrialIsARunBelowTheParentWhichNotesTheBest() throws Exception {
    List<Trial> trials =
        HyperparameterSearch.search(
            client,
            parent,
            grid(List.of(2, 4, 6), List.of(8, 32)),
            2,
            HyperparameterSearchTest::loss);

    assertThat(trials.stream().map(Trial::settings))
        .containsExactlyElementsOf(grid(List.of(2, 4, 6), List.of(8, 32)));
    assertThat(trials.stream().map(trial -> trial.loss().orElseThrow()))
        .containsExactly(4.5, 6.0, 0.5, 2.0, 4.5, 6.0);
    assertThat(children()).hasSize(6);
    for (Trial trial : trials) {
      Run run = client.getRun(trial.runId());
      assertThat(children()).contains(run);
      assertThat(params(run))
          .isEqualTo(
              Map.of(
                  "maxDepth", "" + trial.settings().get("maxDepth"),
                  "maxBins", "" + trial.settings().get("maxBins")));
      assertThat(metrics(run)).isEqualTo(Map.of("loss", trial.loss().orElseThrow()));
      assertThat(run.getInfo().getStatus()).isEqualTo(RunStatus.FINISHED);
    }
    Run noted = client.getRun(parent);
    assertThat(noted.getInfo().getStatus()).isEqualTo(RunStatus.FINISHED);
    assertThat(tags(noted))
        .isEqualTo(
            Map.of(
                "best.run", trials.get(2).runId(), "best.settings", "maxDepth = 4, maxBins = 8"));
    assertThat(metrics(noted)).isEqualTo(Map.of("best.loss", 0.5));
  }

  @Test
  void aTrialThatFailsSaysWhyAndTheOthersGoOn() throws Exception {
    Objective objective =
        settings ->
            switch (settings.get("maxDepth")) {
              case 2 -> throw new IllegalArgumentException("too few bins");
              case 4 -> Double.NaN;
              case 5 -> Double.NEGATIVE_INFINITY;
              default -> loss(settings);
            };

    List<Trial> trials =
        HyperparameterSearch.search(
            client, parent, grid(List.of(2, 3, 4, 5, 6), List.of(8)), 1, objective);

    assertThat(trials.stream().map(Trial::loss))
        .containsExactly(
            Optional.empty(),
            Optional.of(1.5),
            Optional.empty(),
            Optional.empty(),
            Optional.of(4.5));
    List<Run> runs = trials.stream().map(trial -> client.getRun(trial.runId())).toList();
    assertThat(runs.stream().map(run -> run.getInfo().getStatus()))
        .containsExactly(
            RunStatus.FAILED,
            RunStatus.FINISHED,
            RunStatus.FAILED,
            RunStatus.FAILED,
            RunStatus.FINISHED);
    assertThat(runs.stream().map(run -> tags(run).get("error")))
        .containsExactly(
            "java.lang.IllegalArgumentException: too few bins",
            null,
            "java.lang.ArithmeticException: the loss is NaN",
            "java.lang.ArithmeticException: the loss is -Infinity",
            null);
    assertThat(metrics(runs.get(0))).isEmpty();
    assertThat(params(runs.get(0))).isEqualTo(Map.of("maxDepth", "2", "maxBins", "8"));
    Run noted = client.getRun(parent);
    assertThat(noted.getInfo().getStatus()).isEqualTo(RunStatus.FINISHED);
    assertThat(tags(noted)).containsEntry("best.run", trials.get(1).runId());
  }

  @Test
  void threeTrialsRunAtATimeAndNoMore() throws Exception {
    // Nobody passes before three are there.
    CyclicBarrier three = new CyclicBarrier(3);
    AtomicInteger running = new AtomicInteger();
    AtomicInteger most = new AtomicInteger();

    HyperparameterSearch.search(
        client,
        parent,
        grid(List.of(1, 2, 3), List.of(2, 4, 8)),
        3,
        settings -> {
          most.accumulateAndGet(running.incrementAndGet(), Math::max);
          three.await(30, TimeUnit.SECONDS);
          running.decrementAndGet();
          return 1;
        });

    assertThat(most).hasValue(3);
    assertThat(children())
        .hasSize(9)
        .allSatisfy(run -> assertThat(run.getInfo().getStatus()).isEqualTo(RunStatus.FINISHED));
  }

  @Test
  void ofEqualTrialsTheFirstOfTheGridIsTheBest() throws Exception {
    List<Trial> trials =
        HyperparameterSearch.search(
            client, parent, grid(List.of(1, 2, 3), List.of(8)), 3, settings -> 7);

    assertThat(tags(client.getRun(parent))).containsEntry("best.run", trials.get(0).runId());
  }

  @Test
  void ifAllTrialsFailTheParentDoesToo() {
    assertThatThrownBy(
            () ->
                HyperparameterSearch.search(
                    client,
                    parent,
                    grid(List.of(1, 2), List.of(8)),
                    2,
                    settings -> {
                      throw new IllegalStateException("no rows");
                    }))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("none of 2 trials succeeded");
    assertThat(client.getRun(parent).getInfo().getStatus()).isEqualTo(RunStatus.FAILED);
    assertThat(children())
        .hasSize(2)
        .allSatisfy(run -> assertThat(run.getInfo().getStatus()).isEqualTo(RunStatus.FAILED));
  }

  @Test
  void anInterruptedSearchLeavesNoRunRunning() throws Exception {
    CountDownLatch begun = new CountDownLatch(2);
    AtomicReference<Exception> end = new AtomicReference<>();
    Thread search =
        new Thread(
            () -> {
              try {
                HyperparameterSearch.search(
                    client,
                    parent,
                    grid(List.of(1, 2, 3, 4, 5), List.of(8)),
                    2,
                    settings -> {
                      begun.countDown();
                      new CountDownLatch(1).await();
                      return 0;
                    });
              } catch (Exception e) {
                end.set(e);
              }
            });
    search.start();
    assertThat(begun.await(30, TimeUnit.SECONDS)).isTrue();

    search.interrupt();
    search.join(TimeUnit.SECONDS.toMillis(60));

    assertThat(end.get()).isInstanceOf(InterruptedException.class);
    assertThat(client.getRun(parent).getInfo().getStatus()).isEqualTo(RunStatus.FAILED);
    assertThat(children())
        .hasSize(2)
        .allSatisfy(
            run -> {
              assertThat(run.getInfo().getStatus()).isEqualTo(RunStatus.FAILED);
              assertThat(tags(run)).containsEntry("error", "java.lang.InterruptedException");
            });
  }

  @Test
  void treesOfSparkAreTrainedOnSomeOrdersAndJudgedByOthers(SparkSession spark, Sandbox sandbox)
      throws Exception {
    SampleData shop = SampleData.of(spark).rows(1_000);
    Dataset<Row> baskets =
        LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
    Dataset<Row> training = baskets.where(not(HyperparameterSearch.heldOut())).cache();
    Dataset<Row> held = baskets.where(HyperparameterSearch.heldOut()).cache();

    List<Trial> trials =
        HyperparameterSearch.search(
            client,
            parent,
            grid(List.of(0, 4), List.of(3, 32)),
            2,
            settings ->
                HyperparameterSearch.error(HyperparameterSearch.train(training, settings), held));

    // A tree of depth 0 predicts the mean of what it has learned from.
    List<Double> learned = amounts(training);
    List<Double> judged = amounts(held);
    assertThat(learned.size() + judged.size()).isEqualTo((int) shop.orderCount());
    assertThat(judged.size()).isBetween(learned.size() / 6, learned.size() / 3);
    double mean = learned.stream().mapToDouble(a -> a).average().orElseThrow();
    double expected =
        Math.sqrt(
            judged.stream().mapToDouble(a -> (a - mean) * (a - mean)).average().orElseThrow());
    assertThat(trials.get(1).settings()).isEqualTo(Map.of("maxDepth", 0, "maxBins", 32));
    assertThat(trials.get(1).loss().orElseThrow()).isCloseTo(expected, within(1e-9 * expected));
    // One of depth 4 is better, and the best of all.
    assertThat(trials.get(3).loss().orElseThrow()).isLessThan(0.8 * expected);
    assertThat(tags(client.getRun(parent))).containsEntry("best.run", trials.get(3).runId());
    // Segments have four values, one of them for those that are new.
    for (Trial failed : List.of(trials.get(0), trials.get(2))) {
      assertThat(failed.loss()).isEmpty();
      assertThat(tags(client.getRun(failed.runId())).get("error"))
          .contains("DecisionTree requires maxBins (= 3) to be at least as large as");
    }
    baskets.unpersist();
    training.unpersist();
    held.unpersist();
  }

  private static List<Double> amounts(Dataset<Row> baskets) {
    return baskets.select("amount").collectAsList().stream().map(row -> row.getDouble(0)).toList();
  }

  @Test
  void aSettingThatATreeDoesNotHaveIsRefused(SparkSession spark) {
    Dataset<Row> baskets =
        spark.sql(
            "SELECT 1L AS order_id, 'public' AS segment, 1L AS items, 9.99 AS dearest, 1D AS"
                + " amount");

    assertThatThrownBy(() -> HyperparameterSearch.train(baskets, Map.of("maxLeaves", 3)))
        .isInstanceOf(NoSuchElementException.class)
        .hasMessageContaining("maxLeaves");
  }
}
