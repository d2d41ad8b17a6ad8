package com.example.lakehouse.mlflow;

import static java.util.stream.Collectors.toMap;
import static org.apache.spark.sql.functions.not;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.Plot;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.regression.DecisionTreeRegressionModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowHttpException;
import org.mlflow.tracking.Page;

/**
 * Comparisons: which of many runs is the best, found with MLflow's filters and order, and with a
 * filter that no name can break.
 *
 * <p>Run: {@code ./run CompareRuns}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: trees of growing depth, whose error on new orders falls and then rises while that on the
 * old ones only falls; the best of them; a run without the metric, and one whose metric is not a
 * number, that are not it; a team's name that turns a filter into another one.
 *
 * <p>On Databricks: the same code, with {@code new MlflowClient("databricks")}.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/search/search-runs/">MLflow: search runs</a>
 */
public final class CompareRuns {

  private CompareRuns() {}

  /**
   * A condition that a parameter or tag has exactly this value. MLflow's filters know no escape and
   * no parameters, so the value is quoted with the quote that it does not have.
   *
   * @param kind {@code params}, {@code tags} or {@code attributes}
   * @throws IllegalArgumentException if no filter can say it: the value has both kinds of quotes or
   *     ends with a backslash, or the key has a quote or a backtick, as no key in MLflow does
   */
  public static String is(String kind, String key, String value) {
    if ((value.contains("'") && value.contains("\"")) || value.endsWith("\\")) {
      throw new IllegalArgumentException("MLflow has no filter for this value: " + value);
    }
    char quote = value.contains("'") ? '"' : '\'';
    return name(kind, key) + " = " + quote + value + quote;
  }

  /** The name of a parameter, metric or tag in a filter or an order, whatever characters it has. */
  private static String name(String kind, String key) {
    if (key.matches("(?s).*[`'\"].*")) {
      throw new IllegalArgumentException("MLflow has no such key: " + key);
    }
    return kind + ".`" + key + "`";
  }

  /**
   * All runs that a filter selects, a page after the other. A run that is added meanwhile may be
   * missing, or shift another one to the next page: that comes once all the same.
   *
   * @param filter conditions joined with AND, such as {@code metrics.error < 5 AND params.depth =
   *     '3'}; OR is refused. A metric counts with the value of its last step. Empty for all
   * @param order such as {@code metrics.error ASC}; parameters are ordered as text, 10 before 9
   * @param pageSize up to 50,000
   * @throws MlflowHttpException 400 with INVALID_PARAMETER_VALUE for a filter or an order that
   *     MLflow does not understand
   */
  public static List<Run> search(
      MlflowClient client, String experimentId, String filter, List<String> order, int pageSize) {
    Map<String, Run> runs = new LinkedHashMap<>();
    Page<Run> page =
        client.searchRuns(List.of(experimentId), filter, ViewType.ACTIVE_ONLY, pageSize, order);
    page.getItems().forEach(run -> runs.put(run.getInfo().getRunId(), run));
    while (page.hasNextPage()) {
      page = page.getNextPage();
      page.getItems().forEach(run -> runs.putIfAbsent(run.getInfo().getRunId(), run));
    }
    return List.copyOf(runs.values());
  }

  /**
   * The finished run with the smallest value of a metric, of equal ones the one that began first.
   * Runs without the metric, and those with NaN or an infinite value, are none.
   *
   * @param filter further conditions; empty for none
   */
  public static Optional<Run> best(
      MlflowClient client, String experimentId, String filter, String metric) {
    String name = name("metrics", metric);
    // MLflow's store has the largest doubles in place of infinity. NaN is neither smaller nor
    // larger.
    String all =
        "%s > %s AND %s < %s AND attributes.status = 'FINISHED'%s"
            .formatted(
                name,
                -Double.MAX_VALUE,
                name,
                Double.MAX_VALUE,
                filter.isEmpty() ? "" : " AND " + filter);
    return client
        .searchRuns(
            List.of(experimentId),
            all,
            ViewType.ACTIVE_ONLY,
            1,
            List.of(name + " ASC", "attributes.start_time ASC"))
        .getItems()
        .stream()
        .findFirst();
  }

  /**
   * Runs as rows, in their order.
   *
   * @return {@code name STRING, status STRING}, a STRING for each parameter and a DOUBLE for each
   *     metric, by their keys; NULL where a run has none
   */
  public static Dataset<Row> table(
      SparkSession spark, List<Run> runs, List<String> params, List<String> metrics) {
    StructType schema =
        new StructType().add("name", DataTypes.StringType).add("status", DataTypes.StringType);
    for (String param : params) {
      schema = schema.add(param, DataTypes.StringType);
    }
    for (String metric : metrics) {
      schema = schema.add(metric, DataTypes.DoubleType);
    }
    List<Row> rows = new ArrayList<>();
    for (Run run : runs) {
      Map<String, String> paramOf =
          run.getData().getParamsList().stream().collect(toMap(Param::getKey, Param::getValue));
      Map<String, Double> metricOf =
          run.getData().getMetricsList().stream().collect(toMap(Metric::getKey, Metric::getValue));
      List<Object> row = new ArrayList<>();
      row.add(run.getInfo().getRunName());
      row.add(run.getInfo().getStatus().name());
      params.forEach(param -> row.add(paramOf.get(param)));
      metrics.forEach(metric -> row.add(metricOf.get(metric)));
      rows.add(RowFactory.create(row.toArray()));
    }
    return spark.createDataFrame(rows, schema);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CompareRuns.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          Dataset<Row> training = baskets.where(not(HyperparameterSearch.heldOut())).cache();
          Dataset<Row> held = baskets.where(HyperparameterSearch.heldOut()).cache();
          Path folder = notebook.sandbox().folder();
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            MlflowClient client = mlflow.client();
            String experiment = client.createExperiment("compare-" + UUID.randomUUID());

            notebook.step("Runs to compare: trees of depth 1 to 10, of two teams");
            for (int depth : new int[] {1, 2, 3, 4, 6, 8, 10}) {
              String run = TrackRun.start(client, experiment, "depth " + depth);
              TrackRun.during(
                  client,
                  run,
                  () -> {
                    PipelineModel model =
                        HyperparameterSearch.train(training, Map.of("maxDepth", depth));
                    int leaves =
                        ((DecisionTreeRegressionModel) model.stages()[2]).numNodes() / 2 + 1;
                    Map<String, Double> metrics =
                        Map.of(
                            "leaves", (double) leaves,
                            "error", HyperparameterSearch.error(model, held),
                            "training_error", HyperparameterSearch.error(model, training));
                    metrics.forEach((key, value) -> client.logMetric(run, key, value));
                    client.logParam(run, "depth", String.valueOf(depth));
                    client.setTag(run, "team", depth % 2 == 0 ? "Ann's" : "Bob's");
                    return model;
                  });
            }
            String unfinished = TrackRun.start(client, experiment, "no metric");
            client.logParam(unfinished, "depth", "12");
            client.setTerminated(unfinished);
            String nan = TrackRun.start(client, experiment, "not a number");
            client.logMetric(nan, "error", Double.NaN);
            client.setTerminated(nan);

            notebook.step("All of them, by their error: NaN comes last, then what has none");
            List<Run> runs = search(client, experiment, "", List.of("metrics.error ASC"), 4);
            notebook.table(
                "nine runs, from three pages",
                table(spark, runs, List.of("depth"), List.of("leaves", "training_error", "error"))
                    .selectExpr(
                        "name",
                        "depth",
                        "leaves",
                        "round(training_error, 2) AS training_error",
                        "round(error, 2) AS error"));

            notebook.step("A tree that is too large knows the old orders, not the new ones");
            Plot plot = Plot.scatter("error by the size of the tree", "leaves", "error");
            for (Row run :
                table(spark, runs, List.of(), List.of("leaves", "training_error", "error"))
                    .where("leaves IS NOT NULL")
                    .orderBy("leaves")
                    .collectAsList()) {
              plot.point("orders it has learned from", run.getDouble(2), run.getDouble(3));
              plot.point("orders held out", run.getDouble(2), run.getDouble(4));
            }
            notebook.chart(plot);

            notebook.step("The best of all, and the best of a team");
            notebook.text(
                "The smallest error: %s.",
                best(client, experiment, "", "error").orElseThrow().getInfo().getRunName());
            notebook.text(
                "Bob's smallest error, by the filter %s: %s.",
                is("tags", "team", "Bob's"),
                best(client, experiment, is("tags", "team", "Bob's"), "error")
                    .orElseThrow()
                    .getInfo()
                    .getRunName());

            notebook.step("What a pasted name does");
            String hostile = "' AND params.depth = '1";
            client.setTag(nan, "team", hostile);
            notebook.text("A team is called %s", hostile);
            String pasted = "tags.team != '" + hostile + "'";
            notebook.text(
                "The runs of other teams, which are seven, with the name pasted in, %s: %s.",
                pasted,
                search(client, experiment, pasted, List.of(), 100).stream()
                    .map(run -> run.getInfo().getRunName())
                    .toList());
            notebook.text(
                "The team's runs, by %s: %s.",
                is("tags", "team", hostile),
                search(client, experiment, is("tags", "team", hostile), List.of(), 100).stream()
                    .map(run -> run.getInfo().getRunName())
                    .toList());
          }
        });
  }
}
