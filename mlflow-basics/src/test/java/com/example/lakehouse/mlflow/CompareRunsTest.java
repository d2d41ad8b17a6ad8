package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import org.apache.spark.sql.SparkSession;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.mlflow.api.proto.Service.CreateRun;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowHttpException;
import org.mlflow.tracking.RunsPage;

@SparkTest
@MlflowTest
class CompareRunsTest {
  private MlflowClient client;
  private String experiment;
  private long time = 1_750_000_000_000L;

  @BeforeEach
  void start(MlflowServer mlflow) {
    client = mlflow.client();
    experiment = client.createExperiment("compare-" + UUID.randomUUID());
  }

  /** A finished run, a second later than the one before it. */
  private String run(String name, double... errors) {
    time += 1_000;
    String run =
        client
            .createRun(
                CreateRun.newBuilder()
                    .setExperimentId(experiment)
                    .setRunName(name)
                    .setStartTime(time)
                    .build())
            .getRunId();
    for (int step = 0; step < errors.length; step++) {
      client.logMetric(run, "error", errors[step], time, step);
    }
    client.setTerminated(run);
    return run;
  }

  private List<String> names(String filter, String... order) {
    return names(CompareRuns.search(client, experiment, filter, List.of(order), 100));
  }

  private static List<String> names(List<Run> runs) {
    return runs.stream().map(run -> run.getInfo().getRunName()).toList();
  }

  private Optional<String> best(String filter, String metric) {
    return CompareRuns.best(client, experiment, filter, metric)
        .map(run -> run.getInfo().getRunName());
  }

  private static void assertRefused(String message, ThrowingCallable call) {
    assertThatThrownBy(call)
        .isInstanceOfSatisfying(
            MlflowHttpException.class,
            e ->
                assertThat(e.getBodyMessage())
                    .contains("\"error_code\": \"INVALID_PARAMETER_VALUE\"", message));
  }

  /** A client that tells of each page before it asks for it. */
  private static MlflowClient telling(MlflowServer mlflow, Consumer<String> ofPage) {
    return new MlflowClient(mlflow.uri()) {
      @Override
      public RunsPage searchRuns(
          List<String> experiments,
          String filter,
          ViewType view,
          int size,
          List<String> order,
          String page) {
        ofPage.accept(page);
        return super.searchRuns(experiments, filter, view, size, order, page);
      }
    };
  }

  @Test
  void allPagesAreRead(MlflowServer mlflow) {
    IntStream.range(0, 7).forEach(i -> run("r" + i, i * 5 % 7));
    List<String> pages = new ArrayList<>();
    try (MlflowClient counting = telling(mlflow, pages::add)) {
      List<Run> runs =
          CompareRuns.search(counting, experiment, "", List.of("metrics.error DESC"), 3);

      // 5 i mod 7 is 6 for i = 4, 5 for 1, 4 for 5, 3 for 2, 2 for 6, 1 for 3.
      assertThat(names(runs)).containsExactly("r4", "r1", "r5", "r2", "r6", "r3", "r0");
      assertThat(pages).hasSize(3);
    }
    // The first page alone is not all.
    assertThat(
            client
                .searchRuns(List.of(experiment), "", ViewType.ACTIVE_ONLY, 3, List.of())
                .getItems())
        .hasSize(3);
  }

  @Test
  void aRunThatIsAddedBetweenTwoPagesDoesNotBringAnotherOneTwice(MlflowServer mlflow) {
    List.of("a", "b", "c").forEach(this::run);
    List<String> pages = new ArrayList<>();
    try (MlflowClient busy =
        telling(
            mlflow,
            page -> {
              pages.add(page);
              if (pages.size() == 2) {
                // The latest run comes first, and the others move on by one.
                run("d");
              }
            })) {
      assertThat(names(CompareRuns.search(busy, experiment, "", List.of(), 2)))
          .containsExactly("c", "b", "a");
    }
    assertThat(names("")).containsExactly("d", "c", "b", "a");
  }

  @Test
  void filtersCompareMetricsAsNumbersAndParametersAsText() {
    for (int depth : new int[] {2, 9, 10}) {
      client.logParam(run("depth " + depth, depth * 1.5), "depth", String.valueOf(depth));
    }

    assertThat(names("metrics.error < 14 AND params.depth != '2'")).containsExactly("depth 9");
    assertThat(names("metrics.error >= 13.5", "metrics.error ASC"))
        .containsExactly("depth 9", "depth 10");
    assertThat(names("", "params.depth ASC")).containsExactly("depth 10", "depth 2", "depth 9");
    assertThat(names("attributes.status = 'FINISHED' AND attributes.run_name LIKE '%1%'"))
        .containsExactly("depth 10");
    assertRefused(
        "Invalid clause(s) in filter string: 'OR'",
        () -> names("metrics.error < 4 OR metrics.error > 14"));
    assertRefused("Expected numeric value type for metric", () -> names("metrics.error < 'x'"));
    assertRefused("Expected a quoted string value", () -> names("params.depth = 9"));
    assertRefused(
        "Invalid value 50001 for parameter 'max_results'",
        () -> CompareRuns.search(client, experiment, "", List.of(), 50_001));
  }

  @Test
  void theBestHasTheSmallestNumberAndIsFinished() {
    run("none");
    run("nan", Double.NaN);
    run("minus infinity", Double.NEGATIVE_INFINITY);
    run("infinity", Double.POSITIVE_INFINITY);
    client.setTerminated(run("failed", 1), RunStatus.FAILED);
    client.logMetric(TrackRun.start(client, experiment, "running"), "error", 1);
    client.deleteRun(run("deleted", 1));
    assertThat(best("", "error")).isEmpty();

    run("large", 7);
    run("first", -3);
    run("second", -3);

    assertThat(best("", "error")).hasValue("first");
    assertThat(best("metrics.error > 0", "error")).hasValue("large");
    assertThat(best("", "accuracy")).isEmpty();
    // In an order alone, what is no number comes last, and infinity among the numbers.
    assertThat(names("attributes.status = 'FINISHED'", "metrics.error ASC"))
        .containsExactly("minus infinity", "second", "first", "large", "infinity", "nan", "none");
    assertThat(names("attributes.status = 'FINISHED'", "metrics.error DESC"))
        .containsExactly("infinity", "large", "second", "first", "minus infinity", "nan", "none");
  }

  @Test
  void aMetricCountsWithItsLastStepNotWithItsSmallestValue() {
    run("was better once", 9, 1, 8);
    run("steady", 5, 5, 5);

    assertThat(best("", "error")).hasValue("steady");
    assertThat(names("metrics.error < 5")).isEmpty();
  }

  @Test
  void aMetricMayHaveAnyNameThatMlflowAllows() {
    String run = run("only");
    client.logMetric(run, "error/test: a-b.c d", 3);

    assertThat(best("", "error/test: a-b.c d")).hasValue("only");
    assertThatThrownBy(() -> best("", "a` > 0 AND metrics.`error"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("MLflow has no such key: a` > 0");
    assertRefused("Names may only contain", () -> client.logMetric(run, "a`b", 1));
  }

  @Test
  void aHostileValueFindsItsOwnRunAndNoOther() {
    List<String> values =
        List.of(
            "Ann's",
            "the \"best\"",
            "' AND params.depth = '1",
            "x' OR '1' = '1",
            "\" AND tags.team != \"",
            "'; DROP TABLE runs; --",
            "-- comment",
            "/* comment */",
            "a\\'b",
            "a\\\"b",
            "back\\slash",
            "''",
            "\"\"",
            "%",
            "_",
            "`",
            "a\nb",
            "(1, 2)",
            "NULL",
            "");
    for (int i = 0; i < values.size(); i++) {
      client.setTag(run("run " + i), "team", values.get(i));
    }

    for (int i = 0; i < values.size(); i++) {
      String condition = CompareRuns.is("tags", "team", values.get(i));
      assertThat(names(condition)).as(condition).containsExactly("run " + i);
      assertThat(names(condition + " AND attributes.status = 'FINISHED'"))
          .as(condition)
          .containsExactly("run " + i);
    }
  }

  @Test
  void aValueThatNoFilterCanSayIsRefused() {
    for (String value : List.of("Ann's \"best\"", "C:\\", "\\")) {
      assertThatThrownBy(() -> CompareRuns.is("tags", "team", value))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("MLflow has no filter for this value: " + value);
    }
    assertThatThrownBy(() -> CompareRuns.is("tags", "te`am", "x"))
        .isInstanceOf(IllegalArgumentException.class);
    // With a backslash before it MLflow takes the quote for a part of the value.
    assertRefused(
        "Invalid clause(s)", () -> names("tags.team = 'C:\\' AND attributes.status = 'FINISHED'"));
  }

  @Test
  void aPastedValueIsAnotherFilter() {
    String hostile = "' AND params.depth = '1";
    client.setTag(run("the team's"), "team", hostile);
    String other = run("other");
    client.setTag(other, "team", "");
    client.logParam(other, "depth", "1");

    assertThat(names("tags.team = '" + hostile + "'")).containsExactly("other");
    assertThat(names(CompareRuns.is("tags", "team", hostile))).containsExactly("the team's");
    assertRefused("Invalid clause(s)", () -> names("tags.team = 'Ann's'"));
  }

  @Test
  void runsBecomeRows(SparkSession spark) {
    client.logParam(run("a", 4, 2), "depth", "3");
    run("b");
    client.setTerminated(run("c", Double.NaN), RunStatus.FAILED);

    assertThat(
            CompareRuns.table(
                spark,
                CompareRuns.search(
                    client, experiment, "", List.of("attributes.start_time ASC"), 10),
                List.of("depth", "bins"),
                List.of("error")))
        .hasSchema("name STRING, status STRING, depth STRING, bins STRING, error DOUBLE")
        .hasRowsInOrder(
            row("a", "FINISHED", "3", null, 2.0),
            row("b", "FINISHED", null, null, null),
            row("c", "FAILED", null, null, Double.NaN));
    assertThat(CompareRuns.table(spark, List.of(), List.of(), List.of()))
        .hasSchema("name STRING, status STRING")
        .isEmpty();
  }
}
