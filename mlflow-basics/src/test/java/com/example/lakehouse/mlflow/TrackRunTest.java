package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.mlflow.support.MlflowServer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.function.IntFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.RunInfo;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowHttpException;

/** Without Spark. */
@MlflowTest
class TrackRunTest {
  private static final long TIME = 1_750_000_000_000L;

  private MlflowClient client;
  private String run;
  private final List<Integer> calls = new ArrayList<>();

  /** A run of its own, and a client that notes how many items each call has. */
  @BeforeEach
  void start(MlflowServer mlflow) {
    client = mlflow.client();
    run = TrackRun.start(client, client.createExperiment("track-" + UUID.randomUUID()), "training");
  }

  private MlflowClient counting(MlflowServer mlflow) {
    return new MlflowClient(mlflow.uri()) {
      @Override
      public void logBatch(
          String runId, Iterable<Metric> metrics, Iterable<Param> params, Iterable<RunTag> tags) {
        int[] items = {0};
        metrics.forEach(m -> items[0]++);
        params.forEach(p -> items[0]++);
        tags.forEach(t -> items[0]++);
        calls.add(items[0]);
        super.logBatch(runId, metrics, params, tags);
      }
    };
  }

  private Map<String, String> params() {
    return client.getRun(run).getData().getParamsList().stream()
        .collect(Collectors.toMap(Param::getKey, Param::getValue));
  }

  /** Without MLflow's own. */
  private Map<String, String> tags(String runId) {
    return client.getRun(runId).getData().getTagsList().stream()
        .filter(tag -> !tag.getKey().startsWith("mlflow."))
        .collect(Collectors.toMap(RunTag::getKey, RunTag::getValue));
  }

  private List<Double> values(String key) {
    return TrackRun.history(client, run, key).stream().map(Metric::getValue).toList();
  }

  private static List<Double> points(int count) {
    return IntStream.range(0, count).mapToObj(i -> Math.sin(i) / (i + 1)).toList();
  }

  private static Map<String, String> map(int count, IntFunction<String> value) {
    return IntStream.range(0, count)
        .boxed()
        .collect(Collectors.toMap(i -> "key" + i, value::apply, (a, b) -> a, TreeMap::new));
  }

  private static void assertRefused(String code, String message, ThrowingCallable call) {
    assertThatThrownBy(call)
        .isInstanceOfSatisfying(
            MlflowHttpException.class,
            e ->
                assertThat(e.getBodyMessage())
                    .contains("\"error_code\": \"" + code + "\"", message));
  }

  @Test
  void aRunIsReadBackAsItWasLogged(MlflowServer mlflow, @TempDir Path folder) throws Exception {
    Path file = Files.write(folder.resolve("model.bin"), new byte[] {0, -1, 10, 13, 127});

    long before = System.currentTimeMillis();
    int done =
        TrackRun.during(
            client,
            run,
            () -> {
              mlflow.artifacts().upload(run, file, "files");
              return TrackRun.log(
                  client,
                  run,
                  TrackRun.params(
                      Map.of("depth", 5, "rate", 0.1, "note", "größer ≥ 5\n\"x\"", "e", "")),
                  TrackRun.curve("loss", points(1_000), TIME),
                  TrackRun.tags(Map.of("data", "orders@12", "team", "shop")));
            });

    assertThat(done).isEqualTo(2);
    assertThat(params())
        .isEqualTo(Map.of("depth", "5", "rate", "0.1", "note", "größer ≥ 5\n\"x\"", "e", ""));
    assertThat(tags(run)).isEqualTo(Map.of("data", "orders@12", "team", "shop"));
    assertThat(TrackRun.history(client, run, "loss"))
        .isEqualTo(TrackRun.curve("loss", points(1_000), TIME));
    assertThat(mlflow.artifacts().download(run, "files/model.bin", folder.resolve("back")))
        .hasSameBinaryContentAs(file);
    RunInfo info = client.getRun(run).getInfo();
    assertThat(info.getRunName()).isEqualTo("training");
    assertThat(info.getStatus()).isEqualTo(RunStatus.FINISHED);
    assertThat(info.getStartTime()).isBetween(before - 60_000, before);
    assertThat(info.getEndTime()).isBetween(before, System.currentTimeMillis());
  }

  @Test
  void aThousandPointsTakeOneCall(MlflowServer mlflow) {
    try (MlflowClient counting = counting(mlflow)) {
      int done =
          TrackRun.log(
              counting, run, List.of(), TrackRun.curve("loss", points(1_000), TIME), List.of());

      assertThat(done).isEqualTo(1);
      assertThat(calls).containsExactly(1_000);
    }
    assertThat(values("loss")).isEqualTo(points(1_000));
    // Beside the run stands the value of the last step.
    assertThat(client.getRun(run).getData().getMetricsList())
        .containsExactly(TrackRun.curve("loss", points(1_000), TIME).get(999));
  }

  @Test
  void whatIsMoreThanOneCallTakesGoesIntoSeveral(MlflowServer mlflow) {
    try (MlflowClient counting = counting(mlflow)) {
      int done =
          TrackRun.log(
              counting,
              run,
              TrackRun.params(map(250, i -> "p" + i)),
              TrackRun.curve("loss", points(2_500), TIME),
              TrackRun.tags(map(150, i -> "t" + i)));

      assertThat(done).isEqualTo(3);
      // 100 + 100 + 800, 100 + 50 + 850, 50 + 0 + 850.
      assertThat(calls).containsExactly(1_000, 1_000, 900);
      assertThat(TrackRun.log(counting, run, List.of(), List.of(), List.of())).isZero();
    }
    assertThat(params()).isEqualTo(map(250, i -> "p" + i));
    assertThat(tags(run)).isEqualTo(map(150, i -> "t" + i));
    assertThat(values("loss")).isEqualTo(points(2_500));
  }

  @Test
  void aCallBeyondMlflowsLimitsIsRefusedAndLogsNothing() {
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "can contain at most 1000 metrics. Got 1001 metrics",
        () ->
            client.logBatch(
                run, TrackRun.curve("loss", points(1_001), TIME), List.of(), List.of()));
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "can contain at most 100 params. Got 101 params",
        () -> client.logBatch(run, List.of(), TrackRun.params(map(101, i -> "")), List.of()));
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "can contain at most 100 tags. Got 101 tags",
        () -> client.logBatch(run, List.of(), List.of(), TrackRun.tags(map(101, i -> ""))));
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "can contain at most 1000 metrics, params, and tags. Got 1001",
        () ->
            client.logBatch(
                run,
                TrackRun.curve("loss", points(1_000), TIME),
                TrackRun.params(Map.of("one", 1)),
                List.of()));

    assertThat(values("loss")).isEmpty();
    assertThat(params()).isEmpty();
    assertThat(tags(run)).isEmpty();
  }

  @Test
  void whatIsSentTwiceIsStoredOnce() {
    for (int time = 0; time < 2; time++) {
      TrackRun.log(
          client,
          run,
          TrackRun.params(Map.of("depth", 5)),
          TrackRun.curve("loss", points(50), TIME),
          TrackRun.tags(Map.of("team", "shop")));
    }

    assertThat(values("loss")).isEqualTo(points(50));
    assertThat(params()).isEqualTo(Map.of("depth", "5"));
    // Another time makes another point.
    TrackRun.log(client, run, List.of(), TrackRun.curve("loss", points(50), TIME + 1), List.of());
    assertThat(values("loss")).hasSize(100);
  }

  @Test
  void aParameterKeepsItsValueAndATagDoesNot() {
    TrackRun.log(
        client,
        run,
        TrackRun.params(Map.of("depth", 3)),
        List.of(),
        TrackRun.tags(Map.of("team", "shop")));

    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "Changing param values is not allowed",
        () -> client.logParam(run, "depth", "5"));
    // Nor is anything else of the same call logged.
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "Changing param values is not allowed",
        () ->
            TrackRun.log(
                client,
                run,
                TrackRun.params(Map.of("depth", 5, "bins", 32)),
                TrackRun.curve("loss", points(10), TIME),
                TrackRun.tags(Map.of("team", "search"))));
    assertThat(params()).isEqualTo(Map.of("depth", "3"));
    assertThat(values("loss")).isEmpty();
    assertThat(tags(run)).isEqualTo(Map.of("team", "shop"));

    TrackRun.log(client, run, List.of(), List.of(), TrackRun.tags(Map.of("team", "search")));
    assertThat(tags(run)).isEqualTo(Map.of("team", "search"));
  }

  @Test
  void mlflowCutsLongValuesOffAndTheSnippetRefusesThem() {
    client.logParam(run, "cut", "x".repeat(6_001));
    client.setTag(run, "cut", "x".repeat(8_001));
    assertThat(params().get("cut")).hasSize(6_000);
    assertThat(tags(run).get("cut")).hasSize(8_000);

    assertThatThrownBy(
            () ->
                TrackRun.log(
                    client,
                    run,
                    TrackRun.params(Map.of("good", 1, "query", "x".repeat(6_001))),
                    TrackRun.curve("loss", points(1), TIME),
                    List.of()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("MLflow would cut query off after 6,000 characters: log it as a file");
    assertThatThrownBy(
            () ->
                TrackRun.log(
                    client,
                    run,
                    TrackRun.params(Map.of("good", 1)),
                    List.of(),
                    TrackRun.tags(Map.of("plan", "x".repeat(8_001)))))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("cut plan off after 8,000 characters");
    assertThat(params()).containsOnlyKeys("cut");
    assertThat(values("loss")).isEmpty();
    assertThat(tags(run)).containsOnlyKeys("cut");

    // A character beyond 16 bits is one character to MLflow, and two to Java.
    TrackRun.log(
        client,
        run,
        TrackRun.params(Map.of("longest", "𝄞".repeat(6_000))),
        List.of(),
        TrackRun.tags(Map.of("longest", "𝄞".repeat(8_000))));
    assertThat(params().get("longest")).isEqualTo("𝄞".repeat(6_000));
    assertThat(tags(run).get("longest")).isEqualTo("𝄞".repeat(8_000));
  }

  @Test
  void nanComesBackAndInfinityAsTheLargestDouble() {
    List<Double> special =
        List.of(
            Double.NaN,
            Double.POSITIVE_INFINITY,
            Double.NEGATIVE_INFINITY,
            -0.0,
            Double.MIN_VALUE,
            0.1 + 0.2);

    TrackRun.log(client, run, List.of(), TrackRun.curve("loss", special, TIME), List.of());

    assertThat(values("loss"))
        .containsExactly(
            Double.NaN,
            Double.MAX_VALUE,
            -Double.MAX_VALUE,
            0.0,
            Double.MIN_VALUE,
            0.30000000000000004);
  }

  @Test
  void aPointWithoutAValueIsNoPoint() {
    List<Double> values = new ArrayList<>(points(3));
    values.set(1, null);
    Map<String, String> nothing = new HashMap<>();
    nothing.put("depth", null);

    assertThatThrownBy(() -> TrackRun.curve("loss", values, TIME))
        .isInstanceOf(NullPointerException.class);
    assertThatThrownBy(() -> TrackRun.params(nothing)).isInstanceOf(NullPointerException.class);
    assertRefused(
        "INVALID_PARAMETER_VALUE",
        "Missing value for required parameter 'metrics[0].value'",
        () ->
            client.logBatch(
                run,
                List.of(Metric.newBuilder().setKey("loss").setTimestamp(TIME).build()),
                List.of(),
                List.of()));
    assertThat(values("loss")).isEmpty();
  }

  @Test
  void aCurveIsOrderedByStepWhateverTheTime() {
    List<Metric> backwards = new ArrayList<>();
    for (int step = 0; step < 10; step++) {
      backwards.add(
          Metric.newBuilder()
              .setKey("loss")
              .setValue(step)
              .setStep(step)
              .setTimestamp(TIME - step)
              .build());
    }
    TrackRun.log(client, run, List.of(), backwards, List.of());

    assertThat(TrackRun.history(client, run, "loss")).isEqualTo(backwards);
    List<Metric> byTime = new ArrayList<>(backwards);
    Collections.reverse(byTime);
    assertThat(client.getMetricHistory(run, "loss")).isEqualTo(byTime);
    assertThat(TrackRun.history(client, run, "none")).isEmpty();
  }

  @Test
  void aHistoryOfMoreThanOnePageIsWhole() {
    // A name with what a URL takes for its own.
    String key = "train/loss: a b";
    int done =
        TrackRun.log(client, run, List.of(), TrackRun.curve(key, points(25_001), TIME), List.of());

    assertThat(done).isEqualTo(26);
    assertThat(values(key)).isEqualTo(points(25_001));
    // MLflow's own method adds the second page to a list that cannot grow.
    assertThatThrownBy(() -> client.getMetricHistory(run, key))
        .isInstanceOf(UnsupportedOperationException.class);
  }

  @Test
  void aRunWhoseWorkFailsSaysSoAndWhy() {
    IllegalStateException failure = new IllegalStateException("the table has no rows");
    assertThatThrownBy(
            () ->
                TrackRun.during(
                    client,
                    run,
                    () -> {
                      throw failure;
                    }))
        .isSameAs(failure);
    assertThat(client.getRun(run).getInfo().getStatus()).isEqualTo(RunStatus.FAILED);
    assertThat(tags(run))
        .isEqualTo(Map.of("error", "java.lang.IllegalStateException: the table has no rows"));

    String other = TrackRun.start(client, client.getRun(run).getInfo().getExperimentId(), "other");
    assertThatThrownBy(
            () ->
                TrackRun.during(
                    client,
                    other,
                    () -> {
                      throw new StackOverflowError();
                    }))
        .isInstanceOf(StackOverflowError.class);
    assertThat(client.getRun(other).getInfo().getStatus()).isEqualTo(RunStatus.FAILED);
  }

  @Test
  void anUnknownRunHidesNothing() {
    IllegalStateException failure = new IllegalStateException("the table has no rows");
    assertThatThrownBy(
            () ->
                TrackRun.during(
                    client,
                    "nothere",
                    () -> {
                      throw failure;
                    }))
        .isSameAs(failure)
        .satisfies(
            e ->
                assertThat(e.getSuppressed())
                    .hasOnlyElementsOfType(MlflowHttpException.class)
                    .hasSize(1));
    assertRefused(
        "RESOURCE_DOES_NOT_EXIST",
        "Run with id=nothere not found",
        () ->
            TrackRun.log(client, "nothere", TrackRun.params(Map.of("a", 1)), List.of(), List.of()));
  }
}
