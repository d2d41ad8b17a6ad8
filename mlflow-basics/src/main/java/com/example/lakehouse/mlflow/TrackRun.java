package com.example.lakehouse.mlflow;

import static java.util.stream.Collectors.joining;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.Plot;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.function.BiConsumer;
import org.mlflow.api.proto.Service.CreateRun;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.RunData;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowClientException;
import org.mlflow.tracking.MlflowHttpException;

/**
 * Runs: parameters, metrics, tags and a file of a training, in few calls; and what MLflow changes
 * or cuts off on the way.
 *
 * <p>Run: {@code ./run TrackRun}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a curve of 1,000 points, logged with all else in two calls and drawn from what comes
 * back; a file that comes back as it was; a parameter that cannot be changed and 1,001 points that
 * are too many for one call; a text that MLflow cuts off and an infinite loss that it changes; a
 * training that fails.
 *
 * <p>On Databricks: the same code, with {@code new MlflowClient("databricks")}.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/tracking/">MLflow: tracking</a>
 */
public final class TrackRun {
  /** MLflow's limits for one call of {@code logBatch}. */
  private static final int MAX_ITEMS = 1_000;

  private static final int MAX_PARAMS = 100;
  private static final int MAX_TAGS = 100;

  /** A longer value is cut off by the server, which says so in its own log alone. */
  private static final int MAX_PARAM_LENGTH = 6_000;

  private static final int MAX_TAG_LENGTH = 8_000;

  private static final ObjectMapper JSON = new ObjectMapper();

  private TrackRun() {}

  /**
   * Starts a run, to be ended by {@code client.setTerminated}.
   *
   * @return its id
   */
  public static String start(MlflowClient client, String experimentId, String name) {
    return client
        .createRun(
            CreateRun.newBuilder()
                .setExperimentId(experimentId)
                .setRunName(name)
                // A request without it makes a run of 1970.
                .setStartTime(System.currentTimeMillis())
                .build())
        .getRunId();
  }

  /**
   * Does the work of a run and ends it: FINISHED, or FAILED with the reason in the tag {@code
   * error}.
   *
   * @throws Exception what the work throws
   */
  public static <T> T during(MlflowClient client, String runId, Callable<T> work) throws Exception {
    T result;
    try {
      result = work.call();
    } catch (Throwable failure) {
      try {
        client.setTag(runId, "error", failure.toString());
        client.setTerminated(runId, RunStatus.FAILED);
      } catch (MlflowClientException e) {
        // That the server is gone, too, must not hide why the work failed.
        failure.addSuppressed(e);
      }
      throw failure;
    }
    client.setTerminated(runId, RunStatus.FINISHED);
    return result;
  }

  /** Parameters, as {@link #log} takes them. */
  public static List<Param> params(Map<String, ?> values) {
    return values.entrySet().stream()
        .map(p -> Param.newBuilder().setKey(p.getKey()).setValue(p.getValue().toString()).build())
        .toList();
  }

  /** Tags, as {@link #log} takes them. */
  public static List<RunTag> tags(Map<String, String> values) {
    return values.entrySet().stream()
        .map(t -> RunTag.newBuilder().setKey(t.getKey()).setValue(t.getValue()).build())
        .toList();
  }

  /**
   * The points of a curve, one for each step from 0 on.
   *
   * @param timestamp of all of them, in milliseconds since 1970
   */
  public static List<Metric> curve(String key, List<Double> values, long timestamp) {
    List<Metric> points = new ArrayList<>();
    for (double value : values) {
      points.add(
          Metric.newBuilder()
              .setKey(key)
              .setValue(value)
              .setStep(points.size())
              .setTimestamp(timestamp)
              .build());
    }
    return points;
  }

  /**
   * Logs in as few calls as MLflow's limits allow: 1,000 items each, of which 100 may be parameters
   * and 100 tags. If a call fails, those before it are done; all of it may be sent again, because
   * MLflow keeps equal points and equal parameters once.
   *
   * <p>MLflow's SQL stores keep NaN, but an infinite metric as the largest double, 1.8E308, and
   * -0.0 as 0.0.
   *
   * @return the number of calls
   * @throws IllegalArgumentException if a parameter has more than 6,000 characters or a tag more
   *     than 8,000, which MLflow would cut off; nothing is logged
   * @throws MlflowHttpException 400 with INVALID_PARAMETER_VALUE if a parameter is there with
   *     another value
   */
  public static int log(
      MlflowClient client,
      String runId,
      List<Param> params,
      List<Metric> metrics,
      List<RunTag> tags) {
    params.forEach(p -> requireAtMost(MAX_PARAM_LENGTH, p.getKey(), p.getValue()));
    tags.forEach(t -> requireAtMost(MAX_TAG_LENGTH, t.getKey(), t.getValue()));
    int calls = 0;
    int p = 0;
    int m = 0;
    int t = 0;
    while (p < params.size() || m < metrics.size() || t < tags.size()) {
      List<Param> someParams = params.subList(p, Math.min(p + MAX_PARAMS, params.size()));
      List<RunTag> someTags = tags.subList(t, Math.min(t + MAX_TAGS, tags.size()));
      int room = MAX_ITEMS - someParams.size() - someTags.size();
      List<Metric> someMetrics = metrics.subList(m, Math.min(m + room, metrics.size()));
      client.logBatch(runId, someMetrics, someParams, someTags);
      p += someParams.size();
      t += someTags.size();
      m += someMetrics.size();
      calls++;
    }
    return calls;
  }

  private static void requireAtMost(int limit, String key, String value) {
    if (value.codePointCount(0, value.length()) > limit) {
      throw new IllegalArgumentException(
          "MLflow would cut %s off after %,d characters: log it as a file".formatted(key, limit));
    }
  }

  /**
   * All points of a metric, by step. {@link MlflowClient#getMetricHistory} gives up to 25,000, and
   * throws UnsupportedOperationException if there are more.
   *
   * @return none if the run has no such metric
   */
  public static List<Metric> history(MlflowClient client, String runId, String key) {
    String query =
        "metrics/get-history?max_results=25000&run_id=%s&metric_key=%s"
            .formatted(runId, URLEncoder.encode(key, StandardCharsets.UTF_8));
    List<Metric> points = new ArrayList<>();
    String page = "";
    try {
      do {
        JsonNode answer = JSON.readTree(client.sendGet(query + page));
        for (JsonNode point : answer.path("metrics")) {
          points.add(
              Metric.newBuilder()
                  .setKey(key)
                  .setValue(point.path("value").asDouble())
                  .setStep(point.path("step").asLong())
                  .setTimestamp(point.path("timestamp").asLong())
                  .build());
        }
        String next = answer.path("next_page_token").asText("");
        page =
            next.isEmpty() ? "" : "&page_token=" + URLEncoder.encode(next, StandardCharsets.UTF_8);
      } while (!page.isEmpty());
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("MLflow's answer is no JSON", e);
    }
    points.sort(Comparator.comparingLong(Metric::getStep).thenComparingLong(Metric::getTimestamp));
    return points;
  }

  /** The loss of y = slope · x after each step of a gradient descent from slope 0. */
  private static List<Double> descend(double rate, int steps) {
    double[] x = {1, 2, 3, 4, 5, 6};
    double[] y = {2.1, 3.9, 6.2, 7.8, 10.1, 11.9};
    List<Double> losses = new ArrayList<>();
    double slope = 0;
    for (int step = 0; step < steps; step++) {
      double loss = 0;
      double gradient = 0;
      for (int i = 0; i < x.length; i++) {
        double error = slope * x[i] - y[i];
        loss += error * error / x.length;
        gradient += 2 * error * x[i] / x.length;
      }
      losses.add(loss);
      slope -= rate * gradient;
    }
    return losses;
  }

  private static String tag(MlflowClient client, String runId, String key) {
    return client.getRun(runId).getData().getTagsList().stream()
        .filter(tag -> tag.getKey().equals(key))
        .findFirst()
        .orElseThrow()
        .getValue();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TrackRun.class,
        args,
        notebook -> {
          BiConsumer<String, Runnable> refused =
              (what, attempt) -> {
                try {
                  attempt.run();
                } catch (MlflowHttpException e) {
                  notebook.text("%s: %s", what, e.getBodyMessage());
                  return;
                } catch (IllegalArgumentException e) {
                  notebook.text("%s: %s", what, e.getMessage());
                  return;
                }
                throw new IllegalStateException("this was not refused: " + what);
              };

          Path folder = notebook.sandbox().folder();
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            MlflowClient client = mlflow.client();
            ArtifactStore artifacts = mlflow.artifacts();
            String experiment = client.createExperiment("track-run-" + UUID.randomUUID());

            notebook.step("A training: 1,000 losses, three parameters, a tag and a file");
            List<Double> losses = descend(0.0001, 1_000);
            Path note = Files.writeString(folder.resolve("data.txt"), "six points, y = 2 x\n");
            String run = start(client, experiment, "slow and steady");
            int calls =
                during(
                    client,
                    run,
                    () -> {
                      artifacts.upload(run, note, "");
                      return log(
                          client,
                          run,
                          params(Map.of("rate", "0.0001", "steps", 1_000, "start", 0)),
                          curve("loss", losses, System.currentTimeMillis()),
                          tags(Map.of("data", "six points")));
                    });
            RunData data = client.getRun(run).getData();
            notebook.text("calls of logBatch: %d", calls);
            notebook.text(
                "parameters: %s; tags: %s; status: %s",
                data.getParamsList().stream()
                    .map(p -> p.getKey() + " = " + p.getValue())
                    .sorted()
                    .collect(joining(", ")),
                data.getTagsList().stream()
                    .map(t -> t.getKey() + " = " + t.getValue())
                    .sorted()
                    .collect(joining(", ")),
                client.getRun(run).getInfo().getStatus());

            notebook.step("Read back: the curve, to the last bit, and the file");
            List<Metric> history = history(client, run, "loss");
            Plot plot = Plot.curve("the loss as MLflow keeps it", "step", "mean squared error");
            for (Metric point : history) {
              plot.point("rate 0.0001", point.getStep(), point.getValue());
            }
            notebook.chart(plot);
            notebook.text(
                "%,d points came back; equal to those that were logged: %s.",
                history.size(), history.stream().map(Metric::getValue).toList().equals(losses));
            notebook.text(
                "data.txt: %s",
                Files.readString(artifacts.download(run, "data.txt", folder.resolve("back")))
                    .strip());

            notebook.step("What MLflow refuses");
            refused.accept(
                "Another value for a parameter", () -> client.logParam(run, "rate", "0.1"));
            refused.accept(
                "1,001 points in one call",
                () ->
                    client.logBatch(
                        run, curve("more", descend(0.0001, 1_001), 0), List.of(), List.of()));

            notebook.step("What MLflow changes without a word");
            client.setTag(run, "query", "SELECT 1 ".repeat(1_000));
            notebook.text(
                "A tag of 9,000 characters comes back with %,d.",
                tag(client, run, "query").length());
            refused.accept(
                "So the snippet refuses it",
                () ->
                    log(
                        client,
                        run,
                        List.of(),
                        List.of(),
                        tags(Map.of("query", "SELECT 1 ".repeat(1_000)))));
            List<Double> diverging = descend(0.2, 500);
            String wild = start(client, experiment, "too fast");
            during(
                client,
                wild,
                () ->
                    log(
                        client,
                        wild,
                        params(Map.of("rate", 0.2)),
                        curve("loss", diverging, System.currentTimeMillis()),
                        List.of()));
            int first = diverging.indexOf(Double.POSITIVE_INFINITY);
            notebook.text(
                "With a rate of 0.2 the loss is infinite from step %d on. MLflow keeps it there as"
                    + " %s, the largest double, and the NaN at the end as %s.",
                first,
                history(client, wild, "loss").get(first).getValue(),
                history(client, wild, "loss").get(499).getValue());

            notebook.step("A training that fails: its run says so, and why");
            String failed = start(client, experiment, "no data");
            try {
              during(
                  client,
                  failed,
                  () -> {
                    throw new IllegalStateException("the table has no rows");
                  });
            } catch (IllegalStateException e) {
              notebook.text(
                  "%s: %s",
                  client.getRun(failed).getInfo().getStatus(), tag(client, failed, "error"));
            }
          }
        });
  }
}
