package com.example.lakehouse.mlflow;

import static java.util.stream.Collectors.joining;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.to_json;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.SQLTransformer;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.ArrayType;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DecimalType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import org.mlflow.tracking.MlflowClient;

/**
 * Models: a Spark pipeline logged from Java is one that Python loads as its own.
 *
 * <p>Run: {@code ./run LogModel}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the folder that makes a pipeline an MLflow model, with its signature and an input
 * example; the model loaded from the registry predicts what it did before it was logged; the four
 * lines that load it in Python; a file that is changed on the server is found before the model is
 * loaded.
 *
 * <p>On Databricks: the same code, with a folder of a Unity Catalog volume for {@code save}.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/model/">MLflow: models</a>
 */
public final class LogModel {
  /** The tag of a model's version that keeps the digest of its files. */
  public static final String DIGEST_TAG = "model.digest";

  /** The folder of the model among a run's artifacts. */
  public static final String ARTIFACT_PATH = "model";

  private static final int EXAMPLE_ROWS = 5;
  private static final String MLFLOW = "3.17.2";
  private static final String PYTHON = "3.11.9";
  private static final ObjectMapper JSON = new ObjectMapper();

  private LogModel() {}

  /**
   * Orders with what is known when the basket is full, and what they came to.
   *
   * @param orders with {@code order_id, customer_id, order_date DATE, amount DECIMAL}
   * @param orderItems with {@code order_id, unit_price DECIMAL}
   * @param customers with {@code customer_id, segment STRING}
   * @return {@code order_id BIGINT, segment STRING, order_date DATE, items BIGINT, dearest
   *     DECIMAL(12,2), amount DOUBLE}
   */
  public static Dataset<Row> baskets(
      Dataset<Row> orders, Dataset<Row> orderItems, Dataset<Row> customers) {
    Dataset<Row> items =
        orderItems
            .groupBy("order_id")
            .agg(count(lit(1)).as("items"), max("unit_price").as("dearest"));
    return orders
        .join(items, "order_id")
        .join(customers, "customer_id")
        .select(
            col("order_id"),
            col("segment"),
            col("order_date"),
            col("items"),
            col("dearest"),
            col("amount").cast("double"));
  }

  /**
   * A pipeline that predicts {@code amount}: a tree over a category, a month, a number and a price.
   *
   * @param baskets as {@link #baskets} gives them
   * @param depth of the tree
   */
  public static PipelineModel train(Dataset<Row> baskets, int depth) {
    return new Pipeline()
        .setStages(
            new PipelineStage[] {
              new SQLTransformer()
                  .setStatement("SELECT *, month(order_date) AS month FROM __THIS__"),
              new StringIndexer()
                  .setInputCol("segment")
                  .setOutputCol("segment_index")
                  .setHandleInvalid("keep"),
              new VectorAssembler()
                  .setInputCols(new String[] {"segment_index", "month", "items", "dearest"})
                  .setOutputCol("features"),
              new DecisionTreeRegressor().setLabelCol("amount").setMaxDepth(depth).setSeed(42)
            })
        .fit(baskets);
  }

  /**
   * Writes a pipeline as an MLflow model: {@code MLmodel} with the flavors {@code spark} and {@code
   * python_function}, the signature, an input example of up to 5 rows, what Python needs to load
   * it, and the pipeline itself in {@code sparkml}.
   *
   * @param model has a column {@code prediction}: Python gives that one back
   * @param example rows to predict; the signature has those of its columns that the model cannot do
   *     without, so the training data will do
   * @param folder a new one; on a cluster, one that all machines see
   * @throws IllegalArgumentException if {@code example} lacks a column that the model takes, or the
   *     model takes one whose type MLflow does not know; nothing is written
   */
  public static void save(PipelineModel model, Dataset<Row> example, Path folder) {
    StructType inputs = inputs(model, example.schema());
    DataType prediction = model.transformSchema(inputs).apply("prediction").dataType();
    String spark = example.sparkSession().version();
    List<String> requirements = List.of("mlflow==" + MLFLOW, "pandas<3", "pyspark==" + spark);
    try {
      String split = JSON.writeValueAsString(split(example, inputs));
      String mlmodel =
          """
          flavors:
            python_function:
              loader_module: mlflow.spark
              data: sparkml
              env:
                conda: conda.yaml
                virtualenv: python_env.yaml
              python_version: %s
            spark:
              model_class: pyspark.ml.pipeline.PipelineModel
              model_data: sparkml
              pyspark_version: %s
          mlflow_version: %s
          saved_input_example_info:
            artifact_path: input_example.json
            pandas_orient: split
            serving_input_path: serving_input_example.json
            type: dataframe
          signature:
            inputs: %s
            outputs: %s
          utc_time_created: '%s'
          """
              .formatted(
                  PYTHON,
                  spark,
                  MLFLOW,
                  quoted(columns(inputs)),
                  quoted(List.of(column("prediction", prediction))),
                  Instant.now());
      Files.createDirectories(folder);
      model.save(folder.resolve("sparkml").toUri().toString());
      Files.writeString(folder.resolve("MLmodel"), mlmodel);
      Files.writeString(folder.resolve("input_example.json"), split);
      Files.writeString(
          folder.resolve("serving_input_example.json"), "{\"dataframe_split\": " + split + "}");
      Files.write(folder.resolve("requirements.txt"), requirements);
      Files.writeString(
          folder.resolve("python_env.yaml"),
          "python: %s\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n"
              .formatted(PYTHON));
      Files.writeString(
          folder.resolve("conda.yaml"),
          "name: mlflow-env\nchannels:\n- conda-forge\ndependencies:\n- python=%s\n- pip\n- pip:\n  - %s\n"
              .formatted(PYTHON, String.join("\n  - ", requirements)));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Those that the model cannot do without: a label, or a key, is none of them. */
  private static StructType inputs(PipelineModel model, StructType schema) {
    model.transformSchema(schema);
    StructType inputs = schema;
    for (StructField field : schema.fields()) {
      StructType rest =
          new StructType(
              Arrays.stream(inputs.fields())
                  .filter(other -> !other.name().equals(field.name()))
                  .toArray(StructField[]::new));
      if (accepts(model, rest)) {
        inputs = rest;
      }
    }
    return inputs;
  }

  private static boolean accepts(PipelineModel model, StructType schema) {
    try {
      // A StringIndexer leaves out what it has no input for.
      return List.of(model.transformSchema(schema).fieldNames()).contains("prediction");
    } catch (Exception e) {
      // What Spark throws depends on the stage that needs a column.
      return false;
    }
  }

  /**
   * In the form of pandas' {@code orient="split"}, and without NULL, which pandas has not for whole
   * numbers: MLflow reads no other example back.
   */
  private static ObjectNode split(Dataset<Row> example, StructType inputs) throws IOException {
    Map<String, String> options =
        Map.of("ignoreNullFields", "false", "timestampFormat", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS");
    ObjectNode split = JSON.createObjectNode();
    ArrayNode columns = split.putArray("columns");
    for (String name : inputs.fieldNames()) {
      columns.add(name);
    }
    ArrayNode data = split.putArray("data");
    for (String row :
        example
            .select(Arrays.stream(inputs.fieldNames()).map(LogModel::column).toArray(Column[]::new))
            .na()
            .drop()
            .select(to_json(struct(col("*")), options))
            .as(Encoders.STRING())
            .takeAsList(EXAMPLE_ROWS)) {
      // Its fields are in the order of the columns.
      JSON.readTree(row).forEach(data.addArray()::add);
    }
    return split;
  }

  /** Whatever its name is. */
  private static Column column(String name) {
    return col("`" + name.replace("`", "``") + "`");
  }

  private static List<ObjectNode> columns(StructType schema) {
    return Arrays.stream(schema.fields())
        .map(field -> column(field.name(), field.dataType()).put("name", field.name()))
        .toList();
  }

  private static ObjectNode column(String name, DataType type) {
    return mlflowType(name, type).put("required", true);
  }

  /**
   * MLflow knows neither dates, which come back as timestamps, nor decimals. A double stands for
   * each decimal of up to 15 digits, and for that only.
   */
  private static ObjectNode mlflowType(String name, DataType type) {
    ObjectNode mlflow = JSON.createObjectNode();
    if (type instanceof ArrayType array) {
      mlflow.put("type", "array").set("items", mlflowType(name, array.elementType()));
      return mlflow;
    } else if (type instanceof DecimalType decimal && decimal.precision() <= 15) {
      return mlflow.put("type", "double");
    }
    return switch (type.typeName()) {
      case "byte", "short", "integer" -> mlflow.put("type", "integer");
      case "date", "timestamp" -> mlflow.put("type", "datetime");
      case "boolean", "long", "float", "double", "string", "binary" ->
          mlflow.put("type", type.typeName());
      default ->
          throw new IllegalArgumentException(
              "MLflow's signature has no type for %s %s: cast it before the pipeline, or make it in the pipeline"
                  .formatted(name, type.sql()));
    };
  }

  /** As text in YAML. */
  private static String quoted(Object json) throws IOException {
    return "'" + JSON.writeValueAsString(json).replace("'", "''") + "'";
  }

  /**
   * Saves a pipeline and uploads it as the artifact {@code model} of a run. After a failure take a
   * new run: what was uploaded would stay among the files of a second try, which have another
   * digest.
   *
   * @return the digest of its files, to be kept where they are not: {@link #register} does
   * @throws IllegalArgumentException as {@link #save} does
   */
  public static String log(
      ArtifactStore artifacts, String runId, PipelineModel model, Dataset<Row> example) {
    return inTemporaryFolder(
        temporary -> {
          Path folder = temporary.resolve(ARTIFACT_PATH);
          save(model, example, folder);
          Files.writeString(
              folder.resolve("MLmodel"),
              "run_id: %s\nartifact_path: %s\n".formatted(runId, ARTIFACT_PATH),
              StandardOpenOption.APPEND);
          return artifacts.upload(runId, folder, ARTIFACT_PATH);
        });
  }

  /** Work with files that nobody needs when it is done. */
  @FunctionalInterface
  interface FileWork<T> {
    T in(Path folder) throws IOException;
  }

  static <T> T inTemporaryFolder(FileWork<T> work) {
    try {
      Path folder = Files.createTempDirectory("model-");
      try {
        return work.in(folder);
      } finally {
        try (Stream<Path> files = Files.walk(folder)) {
          for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
            Files.delete(file);
          }
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Makes a run's model the next version of a registered model, with the digest as a tag.
   *
   * @param digest what {@link #log} returned
   */
  public static ModelVersion register(
      ModelRegistry registry, String name, String runId, String digest) {
    registry.createModelIfAbsent(name);
    return registry.createVersion(
        name, "runs:/" + runId + "/" + ARTIFACT_PATH, runId, "", Map.of(DIGEST_TAG, digest));
  }

  /**
   * Trains a tree in a run of its own, and makes it the next version of a registered model: {@link
   * #train}, {@link #log} and {@link #register}.
   *
   * @param baskets as {@link #baskets} gives them
   * @param depth of the tree
   */
  public static ModelVersion trainVersion(
      MlflowClient client,
      ArtifactStore artifacts,
      ModelRegistry registry,
      String experimentId,
      String name,
      Dataset<Row> baskets,
      int depth) {
    String run = client.createRun(experimentId).getRunId();
    String digest = log(artifacts, run, train(baskets, depth), baskets);
    client.setTerminated(run);
    return register(registry, name, run, digest);
  }

  /**
   * Downloads a version's model, if its files are those that were logged.
   *
   * @param folder where models are kept: a version that is there is not downloaded again; on a
   *     cluster, one that all machines see
   * @return the model's own folder, with {@code MLmodel} and {@code sparkml}
   * @throws MlflowException if the version has no digest, or its files have another one; nothing of
   *     them is then in {@code folder}
   */
  public static Path download(ArtifactStore artifacts, ModelVersion version, Path folder) {
    String digest = version.tags().get(DIGEST_TAG);
    if (digest == null || !digest.matches("[0-9a-f]{64}")) {
      throw new MlflowException(
          "%s has no tag %s to check its files against".formatted(version.uri(), DIGEST_TAG));
    }
    Path home = folder.resolve(digest);
    Path model;
    try (Stream<Path> kept = Files.exists(home) ? Files.list(home) : Stream.empty()) {
      model =
          kept.filter(f -> !f.getFileName().toString().startsWith("."))
              .findFirst()
              .orElseGet(() -> artifacts.download(version.uri(), "", home, digest));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    if (!ArtifactStore.digest(model).equals(digest)) {
      throw new MlflowException(model + " was changed since it was downloaded");
    }
    return model;
  }

  /**
   * Loads a version's model, if its files are those that were logged.
   *
   * @param folder as {@link #download} has it
   * @throws MlflowException as {@link #download} does
   */
  public static PipelineModel load(ArtifactStore artifacts, ModelVersion version, Path folder) {
    Path model = download(artifacts, version, folder);
    return PipelineModel.load(model.resolve("sparkml").toUri().toString());
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        LogModel.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              baskets(shop.orders(), shop.orderItems(), shop.customers())
                  .orderBy("order_id")
                  .cache();
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());

            notebook.step("Train: what will an order come to?");
            PipelineModel model = train(baskets, 5);
            notebook.table("what it learns from", baskets.limit(5));
            Dataset<Row> before = model.transform(baskets).select("order_id", "prediction");

            notebook.step("Save: the folder that makes a pipeline an MLflow model");
            Path saved = folder.resolve("saved");
            save(model, baskets, saved);
            try (Stream<Path> files = Files.list(saved)) {
              notebook.text(
                  "%s", files.map(f -> f.getFileName().toString()).sorted().collect(joining(", ")));
            }
            Dataset<Row> mlmodel = spark.read().text(saved.resolve("MLmodel").toUri().toString());
            notebook.table("MLmodel begins with how to load it", mlmodel.limit(12));
            notebook.table(
                "and has the signature: the four columns that the pipeline takes, not the key, not"
                    + " the label",
                mlmodel.where("value RLIKE '^ +(inputs|outputs):'"));
            notebook.text("MLflow has no type for DATE and DECIMAL: they are datetime and double.");
            notebook.text(
                "The input example: %s", Files.readString(saved.resolve("input_example.json")));

            notebook.step("Log it to a run, and register it with the digest of its files");
            String experiment = mlflow.client().createExperiment("log-model-" + UUID.randomUUID());
            String run = mlflow.client().createRun(experiment).getRunId();
            String digest = log(mlflow.artifacts(), run, model, baskets);
            mlflow.client().setTerminated(run);
            String name = "basket-amount-" + run.substring(0, 8);
            ModelVersion version = register(mlflow.registry(), name, run, digest);
            mlflow.registry().setAlias(name, "champion", version.version());
            notebook.text("%s, with the digest %s", version.uri(), digest);

            notebook.step("Load it: the predictions are those from before it was logged");
            PipelineModel loaded = load(mlflow.artifacts(), version, folder.resolve("models"));
            Dataset<Row> after = loaded.transform(baskets).select("order_id", "prediction");
            notebook.table("predictions of the loaded model", after.orderBy("order_id").limit(5));
            notebook.text(
                "Of %,d predictions, %,d differ.", before.count(), before.exceptAll(after).count());

            notebook.step("Python loads the same model as its own");
            notebook.text("import mlflow");
            notebook.text("mlflow.set_tracking_uri('%s')", mlflow.uri());
            notebook.text("model = mlflow.pyfunc.load_model('models:/%s@champion')", name);
            notebook.text("model.predict(model.input_example)");

            notebook.step("Somebody changes a file on the server, and the checksums beside it");
            Path forged = mlflow.artifacts().download(version.uri(), "", folder.resolve("forged"));
            Files.writeString(forged.resolve("requirements.txt"), "pyspark==3.5.0\n");
            mlflow.artifacts().upload(run, forged, ARTIFACT_PATH);
            try {
              load(mlflow.artifacts(), version, folder.resolve("checked"));
              throw new IllegalStateException("a model that was changed was loaded");
            } catch (MlflowException e) {
              notebook.text("Refused, before Spark reads any of it: %s", e.getMessage());
            }
          }
        });
  }
}
