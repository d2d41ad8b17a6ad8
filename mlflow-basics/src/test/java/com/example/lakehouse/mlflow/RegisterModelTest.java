package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.tuple;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.sun.net.httpserver.HttpServer;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.mlflow.api.proto.Service.DatasetInput;
import org.mlflow.api.proto.Service.RunInfo;
import org.mlflow.api.proto.Service.RunStatus;

@SparkTest
@MlflowTest
class RegisterModelTest {
  private static final String JANUARY = "order_date < '2025-02-01'";

  private static Dataset<Row> baskets;

  private final String name = "register-model-test-" + UUID.randomUUID();
  private String table;
  private String experiment;

  @BeforeAll
  static void makeBaskets(SparkSession spark) {
    SampleData shop = SampleData.of(spark).rows(3_000);
    baskets = LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
  }

  @AfterAll
  static void forgetBaskets() {
    baskets.unpersist();
  }

  @BeforeEach
  void createTable(Sandbox sandbox, MlflowServer mlflow) {
    table = sandbox.table("baskets");
    baskets.where(JANUARY).write().format("delta").saveAsTable(table);
    experiment = mlflow.client().createExperiment(name);
  }

  private void append(String condition) {
    baskets.where(condition).write().format("delta").mode("append").saveAsTable(table);
  }

  private String train(SparkSession spark, MlflowServer mlflow) throws Exception {
    return RegisterModel.train(spark, mlflow.client(), mlflow.artifacts(), experiment, table, 3);
  }

  private ModelVersion register(MlflowServer mlflow, String run) {
    return RegisterModel.register(
        mlflow.client(), mlflow.artifacts(), mlflow.registry(), name, run);
  }

  @Test
  void eachVersionNamesItsRunItsTableAndWhatTheTableWasThen(SparkSession spark, MlflowServer mlflow)
      throws Exception {
    String first = train(spark, mlflow);
    register(mlflow, first);
    append("order_date >= '2025-02-01'");
    String second = train(spark, mlflow);
    register(mlflow, second);

    String id = DeltaTable.forName(spark, table).detail().select("id").first().getString(0);
    assertThat(mlflow.registry().versions(name))
        .extracting(
            ModelVersion::version,
            ModelVersion::runId,
            ModelVersion::description,
            v -> v.tags().get("data.table_id"),
            v -> v.tags().get("data.version"))
        .containsExactly(
            tuple(2, second, "Learned from version 1 of " + table, id, "1"),
            tuple(1, first, "Learned from version 0 of " + table, id, "0"));
  }

  @Test
  void theRunNamesItsDataAsMlflowDoes(SparkSession spark, MlflowServer mlflow) throws Exception {
    String run = train(spark, mlflow);

    DatasetInput input = mlflow.client().getRun(run).getInputs().getDatasetInputs(0);
    long rows = RegisterModel.forTraining(spark.table(table)).count();
    assertThat(input.getDataset().getName()).isEqualTo(table + "@v0");
    assertThat(input.getDataset().getSourceType()).isEqualTo("delta_table");
    assertThat(input.getDataset().getSource())
        .contains("\"delta_table_name\":\"" + table + "\"", "\"delta_table_version\":0");
    assertThat(input.getDataset().getDigest())
        .isEqualTo(RegisterModel.digest(RegisterModel.forTraining(baskets.where(JANUARY))))
        .endsWith("-" + Long.toHexString(rows));
    assertThat(input.getDataset().getProfile()).isEqualTo("{\"rows\":" + rows + "}");
    assertThat(input.getTagsList())
        .extracting(tag -> tag.getKey() + "=" + tag.getValue())
        .containsExactly("mlflow.data.context=training");
    assertThat(mlflow.client().getRun(run).getData().getParamsList())
        .extracting(param -> param.getKey() + "=" + param.getValue())
        .containsExactly("depth=3");
  }

  @Test
  void theRowsThatAVersionLearnedFromAreReadAgainAfterTheTableHasMovedOn(
      SparkSession spark, MlflowServer mlflow) throws Exception {
    ModelVersion version = register(mlflow, train(spark, mlflow));
    append("order_date >= '2025-02-01'");
    spark.sql("UPDATE " + table + " SET amount = 0");

    assertThat(RegisterModel.trainingData(spark, mlflow.client(), version))
        .hasSameRowsAs(RegisterModel.forTraining(baskets.where(JANUARY)));
  }

  @Test
  void aTableThatWasMadeAnewIsNotTakenForTheOneOfThen(SparkSession spark, MlflowServer mlflow)
      throws Exception {
    ModelVersion version = register(mlflow, train(spark, mlflow));
    spark.sql("DROP TABLE " + table);
    baskets.where("order_date >= '2025-12-01'").write().format("delta").saveAsTable(table);

    assertThatIllegalStateException()
        .isThrownBy(() -> RegisterModel.trainingData(spark, mlflow.client(), version))
        .withMessage("%s@v0 has other rows than %s learned from", table, version.uri());
    assertThat(RegisterModel.learnedFrom(spark, mlflow.registry(), table, 0)).isEmpty();
  }

  @Test
  void noOrderIsBothLearnedFromAndMeasuredOn() {
    Dataset<Row> training = RegisterModel.forTraining(baskets).select("order_id");
    Dataset<Row> heldOut = RegisterModel.heldOut(baskets).select("order_id");

    assertThat(training.intersect(heldOut)).isEmpty();
    assertThat(training.union(heldOut)).hasRowCount(1_000);
    assertThat(heldOut.count()).isBetween(150L, 250L);
  }

  @Test
  void aDigestChangesWithAValueAndNotWithTheOrder(SparkSession spark) {
    String digest = digest(spark, "(1, NULL), (2, 'x'), (2, 'x')");

    assertThat(digest).matches("[0-9a-f]{16}-3");
    assertThat(digest(spark, "(2, 'x'), (1, NULL), (2, 'x')")).isEqualTo(digest);
    assertThat(digest(spark, "(1, NULL), (2, 'x')")).isNotEqualTo(digest);
    assertThat(digest(spark, "(1, NULL), (2, 'x'), (2, 'y')")).isNotEqualTo(digest);
    assertThat(digest(spark, "(1, NULL), (2, 'x'), (2, NULL)")).isNotEqualTo(digest);
    assertThat(RegisterModel.digest(spark.sql("SELECT 1 AS a WHERE FALSE"))).isEqualTo("empty");
    // Not so with the hash of the columns.
    assertThat(spark.sql("SELECT xxhash64(NULL, 1) = xxhash64(1, NULL)")).hasRows(row(true));
    assertThat(RegisterModel.digest(spark.sql("SELECT INT(NULL) AS a, 1 AS b")))
        .isNotEqualTo(RegisterModel.digest(spark.sql("SELECT 1 AS a, INT(NULL) AS b")));
  }

  private static String digest(SparkSession spark, String values) {
    return RegisterModel.digest(spark.sql("SELECT * FROM VALUES " + values + " AS v (a, b)"));
  }

  @Test
  void bothVersionsAreMeasuredOnTheSameRows(
      SparkSession spark, Sandbox sandbox, MlflowServer mlflow) throws Exception {
    register(mlflow, train(spark, mlflow));
    append("order_date >= '2025-02-01'");
    register(mlflow, train(spark, mlflow));
    Dataset<Row> heldOut = RegisterModel.heldOut(baskets);

    Map<Integer, Double> errors =
        RegisterModel.compare(
            mlflow.registry(),
            mlflow.artifacts(),
            name,
            heldOut,
            sandbox.folder().resolve("models"));

    double january = rmse(LogModel.train(RegisterModel.forTraining(baskets.where(JANUARY)), 3));
    double year = rmse(LogModel.train(RegisterModel.forTraining(baskets), 3));
    assertThat(errors.get(1)).isCloseTo(january, within(1e-6));
    assertThat(errors.get(2)).isCloseTo(year, within(1e-6));
    assertThat(errors).hasSize(2);
    assertThat(year).isLessThan(january);
    assertThat(mlflow.registry().versions(name))
        .allSatisfy(
            version ->
                assertThat(version.tags())
                    .containsEntry("rmse", String.valueOf(errors.get(version.version())))
                    .containsEntry("rmse.data", RegisterModel.digest(heldOut)));
  }

  private static double rmse(PipelineModel model) {
    List<Row> rows =
        model
            .transform(RegisterModel.heldOut(baskets))
            .select("prediction", "amount")
            .collectAsList();
    return Math.sqrt(
        rows.stream()
            .mapToDouble(row -> Math.pow(row.getDouble(0) - row.getDouble(1), 2))
            .average()
            .orElseThrow());
  }

  @Test
  void nothingIsMeasuredOnNoRows(SparkSession spark, Sandbox sandbox, MlflowServer mlflow)
      throws Exception {
    ModelVersion version = register(mlflow, train(spark, mlflow));

    assertThatIllegalArgumentException()
        .isThrownBy(
            () ->
                RegisterModel.compare(
                    mlflow.registry(),
                    mlflow.artifacts(),
                    name,
                    baskets.limit(0),
                    sandbox.folder()));
    assertThat(mlflow.registry().version(name, version.version()).tags()).doesNotContainKey("rmse");
  }

  @Test
  void theVersionsThatLearnedFromOneLoadOfDataAreFoundWhateverTheirModel(
      SparkSession spark, MlflowServer mlflow) throws Exception {
    String run = train(spark, mlflow);
    ModelVersion one = register(mlflow, run);
    ModelVersion same =
        RegisterModel.register(
            mlflow.client(), mlflow.artifacts(), mlflow.registry(), name + "-b", run);
    append("order_date >= '2025-12-01'");
    ModelVersion later = register(mlflow, train(spark, mlflow));

    assertThat(RegisterModel.learnedFrom(spark, mlflow.registry(), table, 0))
        .extracting(ModelVersion::uri)
        .containsExactlyInAnyOrder(one.uri(), same.uri());
    assertThat(RegisterModel.learnedFrom(spark, mlflow.registry(), table, 1))
        .extracting(ModelVersion::uri)
        .containsExactly(later.uri());
    assertThat(RegisterModel.learnedFrom(spark, mlflow.registry(), table, 2)).isEmpty();
  }

  /** Hands requests on to the server, but refuses files after the first {@code takes}. */
  private record Gateway(HttpServer http, AtomicInteger puts) implements AutoCloseable {
    static Gateway to(String server, int takes) throws IOException {
      HttpServer http =
          HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
      HttpClient client = HttpClient.newHttpClient();
      AtomicInteger puts = new AtomicInteger();
      http.createContext(
          "/",
          exchange -> {
            byte[] body = exchange.getRequestBody().readAllBytes();
            boolean put = exchange.getRequestMethod().equals("PUT");
            int status = 413;
            byte[] answer = "too large".getBytes(UTF_8);
            if (!put || puts.incrementAndGet() <= takes) {
              HttpRequest request =
                  HttpRequest.newBuilder(URI.create(server + exchange.getRequestURI()))
                      .method(exchange.getRequestMethod(), BodyPublishers.ofByteArray(body))
                      .build();
              HttpResponse<byte[]> response =
                  client.sendAsync(request, BodyHandlers.ofByteArray()).join();
              status = response.statusCode();
              answer = response.body();
            }
            exchange.sendResponseHeaders(status, answer.length == 0 ? -1 : answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
          });
      http.start();
      return new Gateway(http, puts);
    }

    ArtifactStore artifacts() {
      return new ArtifactStore(Credentials.of("http://127.0.0.1:" + http.getAddress().getPort()));
    }

    @Override
    public void close() {
      http.stop(0);
    }
  }

  @Test
  void aModelWhoseUploadBreaksOffFailsItsRunAndIsNotRegistered(
      SparkSession spark, MlflowServer mlflow) throws IOException {
    try (Gateway gateway = Gateway.to(mlflow.uri(), 7)) {
      assertThatThrownBy(
              () ->
                  RegisterModel.train(
                      spark, mlflow.client(), gateway.artifacts(), experiment, table, 3))
          .isInstanceOfSatisfying(
              MlflowException.class, e -> assertThat(e.status()).isEqualTo(413));
      assertThat(gateway.puts()).hasValue(8);
    }

    RunInfo run = mlflow.client().listRunInfos(experiment).get(0);
    assertThat(run.getStatus()).isEqualTo(RunStatus.FAILED);
    // Files that were uploaded are there, their manifest is not.
    assertThat(mlflow.artifacts().list(run.getRunId(), ""))
        .extracting(ArtifactStore.ArtifactFile::path)
        .containsExactly("model");
    assertThatThrownBy(() -> register(mlflow, run.getRunId()))
        .isInstanceOf(MlflowException.class)
        .hasMessage("run %s is FAILED", run.getRunId());
    assertThat(mlflow.registry().searchModels("name = '" + name + "'")).isEmpty();
  }

  /** As if the process had gone on, or another one had taken the run for a finished one. */
  @Test
  void halfAModelIsNotRegisteredEvenIfItsRunSaysThatItHasFinished(
      SparkSession spark, Sandbox sandbox, MlflowServer mlflow) throws Exception {
    String whole = train(spark, mlflow);
    String digest =
        mlflow.client().getRun(whole).getData().getTagsList().stream()
            .filter(tag -> tag.getKey().equals(LogModel.DIGEST_TAG))
            .findFirst()
            .orElseThrow()
            .getValue();
    String half = mlflow.client().createRun(experiment).getRunId();
    RegisterModel.logData(mlflow.client(), half, table, 0, baskets);
    mlflow.client().setTag(half, LogModel.DIGEST_TAG, digest);
    mlflow.client().setTerminated(half);
    try (Gateway gateway = Gateway.to(mlflow.uri(), 7)) {
      assertThatThrownBy(
              () ->
                  gateway
                      .artifacts()
                      .upload(
                          half,
                          mlflow.artifacts().download(whole, "model", sandbox.folder()),
                          "model"))
          .isInstanceOf(MlflowException.class);
    }

    assertThatThrownBy(() -> register(mlflow, half))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("not what was uploaded");
    assertThat(mlflow.registry().searchModels("name = '" + name + "'")).isEmpty();
    assertThat(register(mlflow, whole).version()).isEqualTo(1);
  }

  @Test
  void aRunThatIsNotDoneOrNamesNoDataIsNotRegistered(MlflowServer mlflow) {
    String run = mlflow.client().createRun(experiment).getRunId();

    assertThatThrownBy(() -> register(mlflow, run))
        .isInstanceOf(MlflowException.class)
        .hasMessage("run %s is RUNNING", run);
    mlflow.client().setTerminated(run);
    assertThatThrownBy(() -> register(mlflow, run)).hasMessageContaining("what it learned from");
    mlflow.client().setTag(run, LogModel.DIGEST_TAG, "0".repeat(64));
    assertThatThrownBy(() -> register(mlflow, run)).hasMessageContaining("what it learned from");
    ModelRegistry registry = mlflow.registry();
    assertThat(registry.searchModels("name = '" + name + "'")).isEmpty();
  }
}
