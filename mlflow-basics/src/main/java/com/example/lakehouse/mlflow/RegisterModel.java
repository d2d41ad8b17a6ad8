package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.to_json;
import static org.apache.spark.sql.functions.xxhash64;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.DecimalType;
import org.apache.spark.sql.types.StructType;
import org.mlflow.api.proto.Service.DatasetInput;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.tracking.MlflowClient;

/**
 * The registry: every version of a model leads to the run that made it and to the rows that it
 * learned from.
 *
 * <p>Run: {@code ./run RegisterModel}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: two versions of a model, from two versions of a Delta table; the rows that the first one
 * learned from, read again after the table has moved on; both versions measured on the same orders,
 * which neither has seen; the versions that learned from a load of data that turns out wrong; a
 * model whose upload broke off, which is not registered.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's and the model's.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/model-registry/">MLflow: model registry</a>
 */
public final class RegisterModel {
  /** Tags of a model's version: the table, by Delta's own id, and its version. */
  public static final String TABLE_TAG = "data.table_id";

  public static final String TABLE_VERSION_TAG = "data.version";

  /** Tags of a model's version: its error, and the digest of the rows that it was measured on. */
  public static final String RMSE_TAG = "rmse";

  public static final String RMSE_DATA_TAG = "rmse.data";

  private static final ObjectMapper JSON = new ObjectMapper();

  private RegisterModel() {}

  /**
   * Trains on a Delta table as it is now, in a run that names its data and keeps the model.
   *
   * <p>Needs the snippets of {@link TrackRun}.
   *
   * @param table with the columns that {@link LogModel#baskets} gives
   * @return the run's id; the run is FINISHED, with the model's digest as a tag
   * @throws Exception what went wrong; the run is then FAILED, if the server can be reached
   */
  public static String train(
      SparkSession spark,
      MlflowClient client,
      ArtifactStore artifacts,
      String experimentId,
      String table,
      int depth)
      throws Exception {
    long version = DeltaTable.forName(spark, table).history(1).select("version").first().getLong(0);
    Dataset<Row> data = forTraining(read(spark, table, version));
    String run = client.createRun(experimentId).getRunId();
    return TrackRun.during(
        client,
        run,
        () -> {
          client.logParam(run, "depth", String.valueOf(depth));
          logData(client, run, table, version, data);
          PipelineModel model = LogModel.train(data, depth);
          client.setTag(run, LogModel.DIGEST_TAG, LogModel.log(artifacts, run, model, data));
          return run;
        });
  }

  private static Dataset<Row> read(SparkSession spark, String table, long version) {
    return spark.read().option("versionAsOf", version).table(table);
  }

  /** Four orders of five, the same ones whenever they are asked for. */
  public static Dataset<Row> forTraining(Dataset<Row> baskets) {
    return baskets.where("pmod(xxhash64(order_id), 5) <> 0");
  }

  /** The fifth one of five, which no model learns from. */
  public static Dataset<Row> heldOut(Dataset<Row> baskets) {
    return baskets.where("pmod(xxhash64(order_id), 5) = 0");
  }

  /**
   * Names the rows that a run learns from, as {@code mlflow.log_input} does in Python.
   *
   * @param data the rows of {@code table} that are learned from
   */
  public static void logData(
      MlflowClient client, String runId, String table, long version, Dataset<Row> data) {
    try {
      Map<String, Object> dataset =
          Map.of(
              "name",
              table + "@v" + version,
              "digest",
              digest(data),
              "source_type",
              "delta_table",
              "source",
              JSON.writeValueAsString(
                  Map.of(
                      "delta_table_name", table,
                      "delta_table_id", tableId(data.sparkSession(), table),
                      "delta_table_version", version)),
              "profile",
              JSON.writeValueAsString(Map.of("rows", data.count())));
      Map<String, String> context = Map.of("key", "mlflow.data.context", "value", "training");
      client.sendPost(
          "runs/log-inputs",
          JSON.writeValueAsString(
              Map.of(
                  "run_id",
                  runId,
                  "datasets",
                  List.of(Map.of("dataset", dataset, "tags", List.of(context))))));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** A table that is dropped and made anew has the same name and another id. */
  private static String tableId(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).detail().select("id").first().getString(0);
  }

  /**
   * A digest of rows, whatever their order: another one when a value, or the number of rows, is
   * another. It finds mistakes, not forgery.
   */
  public static String digest(Dataset<Row> rows) {
    // As JSON, because the hash of (NULL, 1) is that of (1, NULL).
    Row hash =
        rows.select(
                xxhash64(to_json(struct(col("*")), Map.of("ignoreNullFields", "false")))
                    .cast(new DecimalType(20, 0))
                    .as("hash"))
            .agg(sum("hash"), count(lit(1)))
            .first();
    return hash.isNullAt(0)
        ? "empty"
        : "%016x-%x".formatted(hash.getDecimal(0).longValue(), hash.getLong(1));
  }

  /**
   * Makes a run's model the next version of a registered model, if the run has finished and all
   * files of the model are on the server as they were logged.
   *
   * @return the version, with the model's digest and the table's id and version as tags
   * @throws MlflowException if the run has not finished, names no data, or its model is not whole;
   *     nothing is then registered
   */
  public static ModelVersion register(
      MlflowClient client,
      ArtifactStore artifacts,
      ModelRegistry registry,
      String name,
      String runId) {
    Run run = client.getRun(runId);
    String digest = tag(run, LogModel.DIGEST_TAG);
    if (run.getInfo().getStatus() != RunStatus.FINISHED) {
      throw new MlflowException("run %s is %s".formatted(runId, run.getInfo().getStatus()));
    } else if (digest.isEmpty() || run.getInputs().getDatasetInputsCount() == 0) {
      throw new MlflowException(
          "run %s does not say what its model is, or what it learned from".formatted(runId));
    }
    checkThatItIsWhole(artifacts, runId, digest);
    JsonNode source = source(run);
    String table = source.path("delta_table_name").asText();
    String tableVersion = source.path("delta_table_version").asText();
    registry.createModelIfAbsent(name);
    return registry.createVersion(
        name,
        "runs:/" + runId + "/" + LogModel.ARTIFACT_PATH,
        runId,
        "Learned from version %s of %s".formatted(tableVersion, table),
        Map.of(
            LogModel.DIGEST_TAG,
            digest,
            TABLE_TAG,
            source.path("delta_table_id").asText(),
            TABLE_VERSION_TAG,
            tableVersion));
  }

  private static String tag(Run run, String key) {
    return run.getData().getTagsList().stream()
        .filter(tag -> tag.getKey().equals(key))
        .map(tag -> tag.getValue())
        .findFirst()
        .orElse("");
  }

  private static JsonNode source(Run run) {
    try {
      return JSON.readTree(run.getInputs().getDatasetInputs(0).getDataset().getSource());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** By a download, which compares each file with the digest of the run. */
  private static void checkThatItIsWhole(ArtifactStore artifacts, String runId, String digest) {
    LogModel.inTemporaryFolder(
        folder -> artifacts.download(runId, LogModel.ARTIFACT_PATH, folder, digest));
  }

  /**
   * The rows that a version learned from, read again from its table as it was then.
   *
   * @throws IllegalStateException if they are others, because the table was dropped and made anew
   */
  public static Dataset<Row> trainingData(
      SparkSession spark, MlflowClient client, ModelVersion version) {
    Run run = client.getRun(version.runId());
    JsonNode source = source(run);
    Dataset<Row> rows =
        forTraining(
            read(
                spark,
                source.path("delta_table_name").asText(),
                source.path("delta_table_version").asLong()));
    DatasetInput then = run.getInputs().getDatasetInputs(0);
    if (!digest(rows).equals(then.getDataset().getDigest())) {
      throw new IllegalStateException(
          then.getDataset().getName() + " has other rows than " + version.uri() + " learned from");
    }
    return rows;
  }

  /** The versions, of all models, that learned from a table at one of its versions. */
  public static List<ModelVersion> learnedFrom(
      SparkSession spark, ModelRegistry registry, String table, long tableVersion) {
    return registry.searchVersions(
        "tags.`%s` = '%s' AND tags.`%s` = '%d'"
            .formatted(TABLE_TAG, tableId(spark, table), TABLE_VERSION_TAG, tableVersion));
  }

  /**
   * Measures all versions of a model on the same rows, and keeps each result as tags of the
   * version, beside the digest of the rows.
   *
   * @param heldOut rows with {@code amount}, which none of the versions has learned from
   * @param folder where models are kept
   * @return the root mean squared error of each version
   * @throws IllegalArgumentException if {@code heldOut} is empty
   */
  public static Map<Integer, Double> compare(
      ModelRegistry registry,
      ArtifactStore artifacts,
      String name,
      Dataset<Row> heldOut,
      Path folder) {
    String digest = digest(heldOut);
    if (digest.equals("empty")) {
      throw new IllegalArgumentException("there are no rows to measure " + name + " on");
    }
    Map<Integer, Double> errors = new TreeMap<>();
    for (ModelVersion version : registry.versions(name)) {
      double rmse =
          LogModel.load(artifacts, version, folder)
              .transform(heldOut)
              .select(expr("sqrt(avg(pow(prediction - amount, 2)))"))
              .first()
              .getDouble(0);
      errors.put(version.version(), rmse);
      registry.setVersionTag(name, version.version(), RMSE_TAG, String.valueOf(rmse));
      registry.setVersionTag(name, version.version(), RMSE_DATA_TAG, digest);
    }
    return errors;
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RegisterModel.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          String table = notebook.sandbox().table("baskets");
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            String unique = UUID.randomUUID().toString().substring(0, 8);
            String experiment = mlflow.client().createExperiment("register-model-" + unique);
            String name = "basket-amount-" + unique;

            notebook.step("Two runs: with the orders of a month, and with those of the year");
            baskets.where("order_date < '2025-02-01'").write().format("delta").saveAsTable(table);
            String first = train(spark, mlflow.client(), mlflow.artifacts(), experiment, table, 5);
            register(mlflow.client(), mlflow.artifacts(), mlflow.registry(), name, first);
            baskets
                .where("order_date >= '2025-02-01'")
                .write()
                .format("delta")
                .mode("append")
                .saveAsTable(table);
            String second = train(spark, mlflow.client(), mlflow.artifacts(), experiment, table, 5);
            register(mlflow.client(), mlflow.artifacts(), mlflow.registry(), name, second);
            notebook.table("the registry", versions(spark, mlflow.registry(), name));

            notebook.step("From a version to its rows, whatever the table has become since");
            ModelVersion old = mlflow.registry().version(name, 1);
            Dataset<Row> learned = trainingData(spark, mlflow.client(), old);
            DatasetInput data = mlflow.client().getRun(old.runId()).getInputs().getDatasetInputs(0);
            notebook.text(
                "%s learned from %s, with the digest %s. Read again: %,d rows, with the digest %s;"
                    + " the table has %,d now.",
                old.uri(),
                data.getDataset().getName(),
                data.getDataset().getDigest(),
                learned.count(),
                digest(learned),
                spark.table(table).count());

            notebook.step("Which of them is better? The same orders for both, seen by neither");
            compare(
                mlflow.registry(),
                mlflow.artifacts(),
                name,
                heldOut(spark.table(table)),
                folder.resolve("models"));
            notebook.table("measured", versions(spark, mlflow.registry(), name));

            notebook.step("The first load of data was wrong: what has learned from it?");
            learnedFrom(spark, mlflow.registry(), table, 0)
                .forEach(version -> notebook.text("%s", version.uri()));

            notebook.step("A model whose upload broke off is not registered");
            String broken = mlflow.client().createRun(experiment).getRunId();
            PipelineModel model = LogModel.train(baskets, 2);
            Path saved = folder.resolve("saved");
            LogModel.save(model, baskets, saved);
            logData(mlflow.client(), broken, table, 1, forTraining(spark.table(table)));
            mlflow.artifacts().upload(broken, saved.resolve("MLmodel"), LogModel.ARTIFACT_PATH);
            mlflow.client().setTag(broken, LogModel.DIGEST_TAG, ArtifactStore.digest(saved));
            mlflow.client().setTerminated(broken);
            try {
              register(mlflow.client(), mlflow.artifacts(), mlflow.registry(), name, broken);
              throw new IllegalStateException("half a model was registered");
            } catch (MlflowException e) {
              notebook.text("Refused: %s", e.getMessage());
            }
            notebook.text(
                "The registry has %d versions, as before.",
                mlflow.registry().versions(name).size());
          }
        });
  }

  private static Dataset<Row> versions(SparkSession spark, ModelRegistry registry, String name) {
    List<Row> rows = new ArrayList<>();
    for (ModelVersion version : registry.versions(name)) {
      rows.add(
          RowFactory.create(
              version.version(), version.description(), version.tags().get(RMSE_TAG)));
    }
    return spark.createDataFrame(
        rows, StructType.fromDDL("version INT, description STRING, rmse STRING"));
  }
}
