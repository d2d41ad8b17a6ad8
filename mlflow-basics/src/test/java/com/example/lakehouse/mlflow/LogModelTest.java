package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static java.util.stream.Collectors.joining;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.SQLTransformer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
@MlflowTest
class LogModelTest {
  private static final ObjectMapper JSON = new ObjectMapper();

  /** Each answer is what the model predicts for a frame of its own, or why it does not. */
  private static final String SCRIPT =
      """
      import json, sys
      from decimal import Decimal
      import mlflow, pandas as pd

      with open(sys.argv[1]) as file:
          task = json.load(file)
      rows = pd.DataFrame(task["rows"])
      rows["order_date"] = pd.to_datetime(rows["order_date"])
      saved = mlflow.pyfunc.load_model(task["saved"])
      champion = mlflow.pyfunc.load_model(task["champion"])

      def answer(frame):
          try:
              return [float(p) for p in champion.predict(frame)]
          except Exception as e:
              return str(e)

      two = rows.head(2)
      out = {
          "saved": [float(p) for p in saved.predict(rows)],
          "champion": answer(rows),
          "example": answer(champion.input_example),
          "run": champion.metadata.run_id,
          "signature": champion.metadata.signature.to_dict(),
          "missing": answer(two.drop(columns=["items", "segment"])),
          "extra": answer(two.assign(amount=1.0)),
          "float": answer(two.assign(items=[1.0, 2.0])),
          "text": answer(two.assign(dearest=["cheap", "96.99"])),
          "digits": answer(two.assign(dearest=["36.99", "96.99"])),
          "decimals": answer(two.assign(dearest=[Decimal("36.99"), Decimal("96.99")])),
          "null_text": answer(two.assign(segment=[None, "consumer"])),
          "null_number": answer(two.assign(items=[None, 2])),
          "dates": answer(two.assign(order_date=two["order_date"].dt.date)),
          "date_text": answer(two.assign(order_date=["2025-01-01", "2025-01-01"])),
          "unknown_segment": answer(two.assign(segment="aliens")),
          "order": answer(two[["dearest", "items", "order_date", "segment"]]),
      }
      with open(sys.argv[2], "w") as file:
          json.dump(out, file)
      """;

  @TempDir private static Path folder;
  private static Dataset<Row> baskets;
  private static PipelineModel model;
  private static String run;
  private static String digest;
  private static ModelVersion version;
  private static JsonNode python;

  @BeforeAll
  static void logAModel(SparkSession spark, MlflowServer mlflow) {
    SampleData shop = SampleData.of(spark).rows(3_000);
    baskets =
        LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
            .orderBy("order_id")
            .cache();
    model = LogModel.train(baskets, 5);
    LogModel.save(model, baskets, folder.resolve("saved"));
    String name = "log-model-test-" + UUID.randomUUID();
    run = newRun(mlflow);
    digest = LogModel.log(mlflow.artifacts(), run, model, baskets);
    version = LogModel.register(mlflow.registry(), name, run, digest);
    mlflow.registry().setAlias(name, "champion", version.version());
  }

  @AfterAll
  static void forget() {
    baskets.unpersist();
    python = null;
  }

  private static String newRun(MlflowServer mlflow) {
    String experiment = mlflow.client().createExperiment("log-model-test-" + UUID.randomUUID());
    return mlflow.client().createRun(experiment).getRunId();
  }

  /** Predictions in the order of {@code order_id}, which is that of the rows. */
  private static List<Double> predictions(PipelineModel model) {
    return model
        .transform(baskets)
        .orderBy("order_id")
        .select("prediction")
        .as(Encoders.DOUBLE())
        .collectAsList();
  }

  private static synchronized JsonNode python(MlflowServer mlflow)
      throws IOException, InterruptedException {
    if (python == null) {
      List<JsonNode> rows = new ArrayList<>();
      for (String row :
          baskets
              .orderBy("order_id")
              .select("segment", "order_date", "items", "dearest")
              .toJSON()
              .collectAsList()) {
        rows.add(JSON.readTree(row));
      }
      python =
          PythonScript.run(
              SCRIPT,
              Map.of(
                  "rows",
                  rows,
                  "saved",
                  folder.resolve("saved").toString(),
                  "champion",
                  "models:/" + version.name() + "@champion"),
              folder.resolve("python"),
              mlflow.uri());
    }
    return python;
  }

  private static List<Double> numbers(JsonNode answer) {
    assertThat(answer.isArray()).as(answer.toString()).isTrue();
    List<Double> numbers = new ArrayList<>();
    answer.forEach(number -> numbers.add(number.asDouble()));
    return numbers;
  }

  @Test
  void aSavedModelHasAllThatMlflowReads() throws IOException {
    Path saved = folder.resolve("saved");
    try (Stream<Path> files = Files.list(saved)) {
      assertThat(files.map(file -> file.getFileName().toString()))
          .containsExactlyInAnyOrder(
              "MLmodel",
              "conda.yaml",
              "input_example.json",
              "python_env.yaml",
              "requirements.txt",
              "serving_input_example.json",
              "sparkml");
    }
    assertThat(saved.resolve("requirements.txt"))
        .hasContent("mlflow==3.17.2\npandas<3\npyspark==4.1.0");
    assertThat(saved.resolve("input_example.json"))
        .hasContent(
            """
            {"columns":["segment","order_date","items","dearest"],"data":[["consumer","2025-01-01",1,36.99],\
            ["consumer","2025-01-01",2,96.99],["consumer","2025-01-01",3,22.99],\
            ["consumer","2025-01-02",4,264.99],["consumer","2025-01-02",5,261.99]]}\
            """);
  }

  @Test
  void theSignatureHasWhatThePipelineTakesAndNeitherTheKeyNorTheLabel() throws IOException {
    assertThat(Files.readString(folder.resolve("saved").resolve("MLmodel")))
        .contains(
            """
            signature:
              inputs: '[{"type":"string","required":true,"name":"segment"},\
            {"type":"datetime","required":true,"name":"order_date"},\
            {"type":"long","required":true,"name":"items"},\
            {"type":"double","required":true,"name":"dearest"}]'
              outputs: '[{"type":"double","required":true}]'
            """);
  }

  @Test
  void eachTypeThatMlflowKnowsIsInTheSignatureAndInTheExample(SparkSession spark)
      throws IOException {
    Dataset<Row> rows =
        spark.sql(
            """
            SELECT * FROM VALUES
              (1Y, 2S, 3, 4L, 1.5F, 0.1D, 9.99, 'x', X'00FF', DATE'2025-03-01',
               TIMESTAMP'2025-03-01 08:00:00.123456', TRUE, array(1.5D), CAST(1 AS DECIMAL(15,0))),
              (1Y, 2S, NULL, 4L, 1.5F, 0.1D, 9.99, 'y', X'00FF', DATE'2025-03-01',
               TIMESTAMP'2025-03-01 08:00:00', TRUE, array(1.5D), CAST(1 AS DECIMAL(15,0)))
              AS v (b, s, i, l, f, d, money, `it's "x"`, bin, day, at, yes, many, whole)
            """);
    Path target = folder.resolve("types");

    LogModel.save(transformer(rows), rows, target);

    String mlmodel = Files.readString(target.resolve("MLmodel"));
    String inputs = mlmodel.replaceAll("(?s).*inputs: '(.*?)'\\n.*", "$1").replace("''", "'");
    assertThat(JSON.readTree(inputs))
        .extracting(c -> c.path("name").asText() + " " + c.path("type").asText())
        .containsExactly(
            "b integer",
            "s integer",
            "i integer",
            "l long",
            "f float",
            "d double",
            "money double",
            "it's \"x\" string",
            "bin binary",
            "day datetime",
            "at datetime",
            "yes boolean",
            "many array",
            "whole double");
    // The row with a NULL is left out: pandas has none for whole numbers.
    assertThat(JSON.readTree(target.resolve("input_example.json").toFile()).path("data"))
        .hasToString(
            "[[1,2,3,4,1.5,0.1,9.99,\"x\",\"AP8=\",\"2025-03-01\",\"2025-03-01T08:00:00.123456\","
                + "true,[1.5],1]]");
  }

  private static PipelineModel transformer(Dataset<Row> rows) {
    String list = Stream.of(rows.columns()).map(c -> "`" + c + "`").collect(joining(", "));
    return new Pipeline()
        .setStages(
            new PipelineStage[] {
              new SQLTransformer()
                  .setStatement("SELECT " + list + ", 1.0D AS prediction FROM __THIS__")
            })
        .fit(rows);
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "CAST(1 AS DECIMAL(16,2))",
        "TIMESTAMP_NTZ'2025-01-01 00:00:00'",
        "map('a', 1)",
        "named_struct('a', 1)",
        "INTERVAL '1' DAY",
        "array(CAST(1 AS DECIMAL(38,0)))"
      })
  void aTypeThatMlflowDoesNotKnowIsRefusedAndNothingIsWritten(String value, SparkSession spark) {
    Dataset<Row> rows = spark.sql("SELECT " + value + " AS strange");
    Path target = folder.resolve("refused");

    assertThatIllegalArgumentException()
        .isThrownBy(() -> LogModel.save(transformer(rows), rows, target))
        .withMessageContaining("no type for strange");
    assertThat(target).doesNotExist();
  }

  @Test
  void anExampleWithoutAColumnThatTheModelTakesIsRefusedAndNothingIsWritten() {
    Path target = folder.resolve("refused");

    assertThatThrownBy(() -> LogModel.save(model, baskets.drop("dearest"), target))
        .hasMessageContaining("dearest");
    assertThat(target).doesNotExist();
  }

  @Test
  void theLoadedModelPredictsWhatItDidBefore(MlflowServer mlflow) {
    PipelineModel loaded = LogModel.load(mlflow.artifacts(), version, folder.resolve("loaded"));

    assertThat(predictions(loaded)).hasSize(1_000).isEqualTo(predictions(model));
    assertThat(predictions(loaded).stream().distinct().count()).isGreaterThan(10);
  }

  /** Loads a version by its alias in a JVM of its own, and writes its predictions. */
  static final class Scorer {
    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("scorer");
      Credentials server = Credentials.of(args[0]);
      ModelVersion champion = new ModelRegistry(server).byAlias(args[1], "champion").orElseThrow();
      LogModel.load(new ArtifactStore(server), champion, Path.of(args[2]))
          .transform(spark.read().parquet(args[3]))
          .select("order_id", "prediction")
          .write()
          .parquet(args[4]);
      SparkSessions.close(spark);
    }
  }

  @Test
  void aNewSessionLoadsTheChampionAndPredictsTheSame(SparkSession spark, MlflowServer mlflow)
      throws IOException, InterruptedException {
    String rows = folder.resolve("rows").toString();
    String scored = folder.resolve("scored").toString();
    baskets.write().parquet(rows);

    ChildJvm child =
        ChildJvm.run(
            Scorer.class,
            List.of("-Xmx1g"),
            mlflow.uri(),
            version.name(),
            folder.resolve("child").toString(),
            rows,
            scored);

    assertThat(child.exitCode()).as(child.output()).isZero();
    assertThat(spark.read().parquet(scored))
        .hasRowCount(1_000)
        .hasSameRowsAs(model.transform(baskets).select("order_id", "prediction"));
  }

  @Test
  void pythonLoadsTheSavedFolderAndTheChampionAndPredictsTheSame(MlflowServer mlflow)
      throws IOException, InterruptedException {
    List<Double> expected = predictions(model);

    assertThat(numbers(python(mlflow).path("saved"))).hasSize(1_000).isEqualTo(expected);
    assertThat(numbers(python(mlflow).path("champion"))).isEqualTo(expected);
    assertThat(python(mlflow).path("run").asText()).isEqualTo(run);
  }

  @Test
  void pythonReadsTheInputExampleAndTheSignature(MlflowServer mlflow)
      throws IOException, InterruptedException {
    assertThat(numbers(python(mlflow).path("example"))).isEqualTo(predictions(model).subList(0, 5));
    assertThat(JSON.readTree(python(mlflow).path("signature").path("inputs").asText()))
        .extracting(column -> column.path("name").asText())
        .containsExactly("segment", "order_date", "items", "dearest");
  }

  @Test
  void pythonNamesTheColumnsThatAreMissing(MlflowServer mlflow)
      throws IOException, InterruptedException {
    assertThat(python(mlflow).path("missing").asText())
        .endsWith("Error: Model is missing inputs ['segment', 'items'].");
  }

  @Test
  void pythonRefusesAColumnOfAnotherType(MlflowServer mlflow)
      throws IOException, InterruptedException {
    assertThat(python(mlflow).path("float").asText())
        .endsWith(
            "Error: Incompatible input types for column items. Can not safely convert float64 to"
                + " int64.");
    assertThat(python(mlflow).path("text").asText())
        .endsWith("Error: Failed to convert column dearest from type object to DataType.double.");
  }

  @Test
  void pythonHasNoNullForAWholeNumberButOneForText(MlflowServer mlflow)
      throws IOException, InterruptedException {
    assertThat(python(mlflow).path("null_number").asText())
        .contains("Error: Incompatible input types for column items.")
        .contains("likely caused by missing values");
    assertThat(numbers(python(mlflow).path("null_text"))).hasSize(2);
  }

  @Test
  void pythonTakesColumnsInAnyOrderMoreThanItNeedsAndValuesThatItCanConvert(MlflowServer mlflow)
      throws IOException, InterruptedException {
    List<Double> two = predictions(model).subList(0, 2);

    assertThat(numbers(python(mlflow).path("extra"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("order"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("dates"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("decimals"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("digits"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("date_text"))).isEqualTo(two);
    assertThat(numbers(python(mlflow).path("unknown_segment"))).hasSize(2);
  }

  @Test
  void filesThatWereChangedOnTheServerAreNotLoaded(MlflowServer mlflow) throws IOException {
    ArtifactStore artifacts = mlflow.artifacts();
    String other = newRun(mlflow);
    String before = LogModel.log(artifacts, other, model, baskets);
    ModelVersion changed = LogModel.register(mlflow.registry(), version.name(), other, before);
    Path forged = artifacts.download(changed.uri(), "", folder.resolve("forged"));
    Files.writeString(forged.resolve("requirements.txt"), "pyspark==3.5.0\n");
    // With the checksums beside the files.
    String after = artifacts.upload(other, forged, LogModel.ARTIFACT_PATH);

    assertThatThrownBy(() -> LogModel.load(artifacts, changed, folder.resolve("changed")))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("not what was uploaded")
        .hasMessageContaining(before)
        .hasMessageContaining(after);
    try (Stream<Path> files = Files.walk(folder.resolve("changed"))) {
      assertThat(files.filter(Files::isRegularFile)).isEmpty();
    }
  }

  @Test
  void aVersionWithoutADigestOrWithAnotherOneIsRefused(MlflowServer mlflow) {
    ModelRegistry registry = mlflow.registry();
    ModelVersion none =
        registry.createVersion(version.name(), "runs:/" + run + "/model", run, "", Map.of());
    ModelVersion outside = LogModel.register(registry, version.name(), run, "../../etc");
    ModelVersion other = LogModel.register(registry, version.name(), run, digest.replace('a', 'b'));
    Path target = folder.resolve("none");

    for (ModelVersion bad : List.of(none, outside)) {
      assertThatThrownBy(() -> LogModel.load(mlflow.artifacts(), bad, target))
          .isInstanceOf(MlflowException.class)
          .hasMessage("%s has no tag model.digest to check its files against", bad.uri());
    }
    assertThatThrownBy(() -> LogModel.load(mlflow.artifacts(), other, target))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("not what was uploaded");
  }

  @Test
  void aModelIsDownloadedOnceAndCheckedEachTime(MlflowServer mlflow) throws IOException {
    Path target = folder.resolve("kept");
    LogModel.load(mlflow.artifacts(), version, target);
    ArtifactStore nowhere = new ArtifactStore(Credentials.of("http://127.0.0.1:9"));

    assertThat(predictions(LogModel.load(nowhere, version, target))).isEqualTo(predictions(model));

    Files.writeString(target.resolve(digest).resolve("model").resolve("MLmodel"), "changed");
    assertThatThrownBy(() -> LogModel.load(nowhere, version, target))
        .isInstanceOf(MlflowException.class)
        .hasMessageEndingWith("was changed since it was downloaded");
  }

  @Test
  void theNextModelIsTheNextVersion(MlflowServer mlflow) {
    String name = "log-model-test-" + UUID.randomUUID();

    ModelVersion first = LogModel.register(mlflow.registry(), name, run, digest);
    ModelVersion second = LogModel.register(mlflow.registry(), name, run, digest);

    assertThat(first.version()).isEqualTo(1);
    assertThat(second.version()).isEqualTo(2);
    assertThat(second.runId()).isEqualTo(run);
    assertThat(second.source()).isEqualTo("runs:/" + run + "/model");
    assertThat(mlflow.registry().version(name, 2).tags())
        .containsEntry(LogModel.DIGEST_TAG, digest);
  }
}
