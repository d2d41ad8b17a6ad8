package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.within;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.PythonEnvironment;
import com.example.lakehouse.mlflow.support.ScoringServer;
import com.example.lakehouse.mlflow.support.ScoringServer.Deployment;
import com.example.lakehouse.mlflow.support.ScoringServer.ShadowCounts;
import com.example.lakehouse.mlflow.support.ScoringServer.Shadowed;
import com.example.lakehouse.mlflow.support.ScoringServer.Version;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
@MlflowTest
class ModelServingTest {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int MAX_BYTES = 200_000;

  private static final String ROW =
      "{\"segment\": \"consumer\", \"order_date\": \"2025-06-01\", \"items\": 2, \"dearest\":"
          + " 36.99}";

  @TempDir private static Path folder;
  private static Dataset<Row> baskets;
  private static PipelineModel model;
  private static List<String> rows;
  private static List<Double> predictions;
  private static List<Double> flatPredictions;
  private static Version champion;
  private static Version challenger;

  private final HttpClient http =
      HttpClient.newBuilder()
          .version(HttpClient.Version.HTTP_1_1)
          .connectTimeout(Duration.ofSeconds(20))
          .build();

  @BeforeAll
  static void saveTwoModels(SparkSession spark) {
    SampleData shop = SampleData.of(spark).rows(3_000);
    baskets =
        LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
            .orderBy("order_id")
            .cache();
    model = LogModel.train(baskets, 5);
    PipelineModel flat = LogModel.train(baskets, 2);
    LogModel.save(model, baskets, folder.resolve("deep"));
    LogModel.save(flat, baskets, folder.resolve("flat"));
    champion = ModelServing.version(spark, folder.resolve("deep"), "1");
    challenger = ModelServing.version(spark, folder.resolve("flat"), "2");
    rows =
        baskets
            .orderBy("order_id")
            .select("segment", "order_date", "items", "dearest")
            .toJSON()
            .collectAsList();
    predictions = predictions(model, baskets);
    flatPredictions = predictions(flat, baskets);
  }

  @AfterAll
  static void forget() {
    baskets.unpersist();
  }

  private static List<Double> predictions(PipelineModel model, Dataset<Row> rows) {
    return model
        .transform(rows.orderBy("order_id"))
        .select("prediction")
        .as(Encoders.DOUBLE())
        .collectAsList();
  }

  private static ScoringServer serve(Deployment deployment) {
    return ScoringServer.start(deployment, MAX_BYTES, 100, rows -> {});
  }

  private static String records(String form, List<String> rows) {
    return "{\"" + form + "\": [" + String.join(", ", rows) + "]}";
  }

  /** Columns in an order of their own, and one that the model does not take. */
  private static String split(List<String> rows) throws IOException {
    List<String> data = new ArrayList<>();
    for (String row : rows) {
      JsonNode values = JSON.readTree(row);
      data.add(
          "[%s, %s, 7, %s, %s]"
              .formatted(
                  values.get("dearest"),
                  values.get("segment"),
                  values.get("items"),
                  values.get("order_date")));
    }
    return "{\"dataframe_split\": {\"columns\": [\"dearest\", \"segment\", \"extra\", \"items\","
        + " \"order_date\"], \"data\": ["
        + String.join(", ", data)
        + "]}}";
  }

  private static List<Double> numbers(HttpResponse<String> answer) throws IOException {
    assertThat(answer.statusCode()).as(answer.body()).isEqualTo(200);
    List<Double> numbers = new ArrayList<>();
    JSON.readTree(answer.body()).get("predictions").forEach(n -> numbers.add(n.asDouble()));
    return numbers;
  }

  private HttpResponse<String> ask(String uri, String json) throws Exception {
    return ModelServing.ask(http, uri, "", json);
  }

  private HttpResponse<String> get(String uri) throws Exception {
    return http.send(HttpRequest.newBuilder(URI.create(uri)).build(), BodyHandlers.ofString());
  }

  private static String version(HttpResponse<String> answer) {
    return answer.headers().firstValue(ScoringServer.VERSION_HEADER).orElseThrow();
  }

  @Test
  void answersAreThoseOfMlflowsOwnServer() throws Exception {
    List<String> all = new ArrayList<>(rows);
    all.add(ROW.replace("consumer", "aliens"));
    all.add(ROW.replace("\"consumer\"", "null"));
    all.add(ROW.replace("2025-06-01", "2025-12-31T23:59:59.999999"));
    all.add(ROW.replace("2025-06-01", "2025-12-31 23:59:59"));
    all.add(ROW.replace("36.99", "1e3"));
    List<String> asked =
        List.of(split(rows), records("dataframe_records", rows), records("instances", rows));
    List<String> single = new ArrayList<>();
    all.subList(rows.size(), all.size())
        .forEach(row -> single.add(records("dataframe_records", List.of(row))));
    List<String> wrong =
        List.of(
            "{",
            "[]",
            "{}",
            "{\"dataframe_records\": {}}",
            "{\"dataframe_split\": []}",
            records("dataframe_records", List.of("{\"segment\": \"consumer\"}")),
            records("dataframe_records", List.of(ROW.replace("36.99", "\"cheap\""))),
            records("dataframe_records", List.of(ROW.replace("\"items\": 2", "\"items\": null"))),
            records("dataframe_records", List.of(ROW.replace("36.99", "null"))),
            records("dataframe_records", List.of(ROW.replace("2025-06-01", "someday"))));
    try (ScoringServer java = serve(Deployment.of(champion));
        PythonServer python = PythonServer.start(folder.resolve("deep"), folder.resolve("serve"))) {
      for (String json : asked) {
        assertThat(numbers(ask(java.uri(), json)))
            .hasSize(1_000)
            .isEqualTo(numbers(ask(python.uri(), json)))
            .isEqualTo(predictions);
      }
      for (String json : single) {
        assertThat(numbers(ask(java.uri(), json)))
            .as(json)
            .isEqualTo(numbers(ask(python.uri(), json)));
      }
      for (String json : wrong) {
        assertThat(ask(java.uri(), json).statusCode())
            .as(json)
            .isEqualTo(ask(python.uri(), json).statusCode())
            .isEqualTo(400);
      }
      for (String path : List.of("/ping", "/health", "/version")) {
        assertThat(get(java.uri() + path))
            .extracting(HttpResponse::statusCode, HttpResponse::body)
            .containsExactly(200, get(python.uri() + path).body());
      }
      // Where MLflow's server makes another number of a value, and answers, this one refuses.
      for (String changed :
          List.of(
              ROW.replace("36.99", "\"36.99\""), ROW.replace("\"items\": 2", "\"items\": 2.7"))) {
        String json = records("dataframe_records", List.of(changed));
        assertThat(ask(python.uri(), json).statusCode()).as(json).isEqualTo(200);
        assertThat(ask(java.uri(), json).statusCode()).as(json).isEqualTo(400);
      }
    }
  }

  /** {@code mlflow models serve} of a folder, in the environment with PySpark. */
  private record PythonServer(Process process, String uri) implements AutoCloseable {
    static PythonServer start(Path model, Path work) throws IOException {
      PythonEnvironment environment = MlflowExtension.orSkip(PythonEnvironment::scoring);
      int port;
      try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
        port = socket.getLocalPort();
      }
      Files.createDirectories(work);
      Path log = work.resolve("log.txt");
      ProcessBuilder builder =
          environment
              .process(
                  "-m",
                  "mlflow",
                  "models",
                  "serve",
                  "-m",
                  model.toString(),
                  "--env-manager",
                  "local",
                  "--host",
                  "127.0.0.1",
                  "-p",
                  String.valueOf(port))
              .directory(work.toFile())
              .redirectErrorStream(true)
              .redirectOutput(log.toFile());
      Map<String, String> variables = builder.environment();
      variables
          .keySet()
          .removeIf(
              n -> n.startsWith("MLFLOW_") || n.startsWith("PYSPARK_") || n.startsWith("SPARK_"));
      variables.put("JAVA_HOME", System.getProperty("java.home"));
      variables.put("SPARK_LOCAL_IP", "127.0.0.1");
      variables.put("SPARK_LOCAL_DIRS", work.toString());
      variables.put("PYSPARK_PYTHON", environment.python().toString());
      variables.put(
          "PYSPARK_SUBMIT_ARGS",
          "--driver-memory 1g --conf spark.ui.enabled=false --conf spark.sql.session.timeZone=UTC"
              + " pyspark-shell");
      variables.put("TZ", "UTC");
      variables.put("MLFLOW_DFS_TMP", work.resolve("dfs").toString());
      variables.put("MLFLOW_DISABLE_TELEMETRY", "true");
      variables.put("DO_NOT_TRACK", "true");
      PythonServer server = new PythonServer(builder.start(), "http://127.0.0.1:" + port);
      HttpClient http = HttpClient.newHttpClient();
      HttpRequest ping = HttpRequest.newBuilder(URI.create(server.uri + "/ping")).build();
      try {
        await()
            .atMost(Duration.ofMinutes(3))
            .pollInterval(Duration.ofMillis(200))
            .ignoreException(IOException.class)
            .until(
                () -> {
                  assertThat(server.process.isAlive()).as(Files.readString(log)).isTrue();
                  return http.send(ping, BodyHandlers.discarding()).statusCode() == 200;
                });
      } catch (RuntimeException | Error e) {
        server.close();
        throw e;
      }
      return server;
    }

    @Override
    public void close() {
      List<ProcessHandle> all =
          Stream.concat(process.descendants(), Stream.of(process.toHandle())).toList();
      all.forEach(ProcessHandle::destroyForcibly);
      all.forEach(handle -> handle.onExit().join());
    }
  }

  @Test
  void noRequestStartsASparkJob(SparkSession spark) throws Exception {
    AtomicInteger jobs = new AtomicInteger();
    SparkListener listener =
        new SparkListener() {
          @Override
          public void onJobStart(SparkListenerJobStart start) {
            jobs.incrementAndGet();
          }
        };
    spark.sparkContext().addSparkListener(listener);
    try (ScoringServer server = serve(Deployment.of(champion))) {
      for (int i = 0; i < 50; i++) {
        assertThat(numbers(ask(server.uri(), records("instances", List.of(rows.get(i))))))
            .containsExactly(predictions.get(i));
      }
      spark.sparkContext().listenerBus().waitUntilEmpty();
      assertThat(jobs).hasValue(0);
      // The listener does see jobs.
      predictions(model, baskets);
      spark.sparkContext().listenerBus().waitUntilEmpty();
      assertThat(jobs).hasPositiveValue();
    } finally {
      spark.sparkContext().removeSparkListener(listener);
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{\"dataframe_records\": [ | The body is not JSON",
        "{} {} | The body is not JSON",
        "{\"instances\": [], \"instances\": []} | Duplicate field 'instances'",
        "[] | exactly one of [dataframe_records, dataframe_split, instances]; it has none",
        "{\"inputs\": {}} | it has none",
        "{\"instances\": [], \"dataframe_records\": []} | it has [dataframe_records, instances]",
        "{\"instances\": []} | instances must be an array of objects, with one at least",
        "{\"instances\": [[1]]} | Row 0 of instances must be an object",
        "{\"dataframe_split\": {\"data\": []}} | must have the arrays columns and data",
        "{\"dataframe_split\": {\"columns\": [\"a\", \"a\"], \"data\": []}} | the column a twice",
        "{\"dataframe_split\": {\"columns\": [\"items\"], \"data\": []}} | The model is missing"
            + " inputs: [segment, order_date, dearest]",
        "{\"dataframe_records\": [{\"items\": 1, \"segment\": \"x\"}]} | The model is missing"
            + " inputs: [order_date, dearest]",
      })
  void whatIsNotARequestIsRefusedWithWhatIsWrong(String json, String reason) throws Exception {
    try (ScoringServer server = serve(Deployment.of(champion))) {
      assertRefused(ask(server.uri(), json), 400, reason);
    }
  }

  private static void assertRefused(HttpResponse<String> answer, int status, String reason)
      throws IOException {
    assertThat(answer.statusCode()).as(answer.body()).isEqualTo(status);
    JsonNode error = JSON.readTree(answer.body());
    assertThat(error.get("error_code").asText()).isEqualTo("BAD_REQUEST");
    assertThat(error.get("message").asText()).contains(reason).doesNotContain("\tat ");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "\"items\": 2 | \"items\": \"2\" | Column items of row 1 must be of type long, not \"2\"",
        "\"items\": 2 | \"items\": 2.7 | Column items of row 1 must be of type long, not 2.7",
        "\"items\": 2 | \"items\": 9223372036854775808 | Column items of row 1 must be of type"
            + " long",
        "\"items\": 2 | \"items\": null | Column items of row 1 must be of type long, not null",
        "36.99 | true | Column dearest of row 1 must be of type double, not true",
        "36.99 | \"cheap\" | Column dearest of row 1 must be of type double, not \"cheap\"",
        "\"consumer\" | 5 | Column segment of row 1 must be of type string, not 5",
        "2025-06-01 | someday | Column order_date of row 1 must be a date or a time without a zone",
        "2025-06-01 | 2025-06-01T00:00:00Z | a date or a time without a zone",
        "2025-06-01 | 2025-02-30 | a date or a time without a zone",
      })
  void aWrongTypeIsRefusedWithItsColumnAndRow(String right, String wrong, String reason)
      throws Exception {
    try (ScoringServer server = serve(Deployment.of(champion))) {
      String json = records("dataframe_records", List.of(ROW, ROW.replace(right, wrong)));

      assertRefused(ask(server.uri(), json), 400, reason);
    }
  }

  @Test
  void aValueThatAStageDoesNotTakeIsTheSendersError(SparkSession spark) throws Exception {
    PipelineModel strict =
        new Pipeline()
            .setStages(
                new PipelineStage[] {
                  new StringIndexer().setInputCol("segment").setOutputCol("prediction")
                })
            .fit(baskets);
    LogModel.save(strict, baskets, folder.resolve("strict"));
    Version version = ModelServing.version(spark, folder.resolve("strict"), "1");
    try (ScoringServer server = serve(Deployment.of(version))) {
      String json = records("instances", List.of("{\"segment\": \"aliens\"}"));

      assertRefused(ask(server.uri(), json), 400, "Unseen label: aliens");
    }
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aBodyThatIsTooLargeIsRefusedAndTheNextOneAnswered(boolean chunked) throws Exception {
    try (ScoringServer server = serve(Deployment.of(champion))) {
      String row = records("instances", List.of(ROW));
      byte[] fits = (row + " ".repeat(MAX_BYTES - row.length())).getBytes(StandardCharsets.UTF_8);
      byte[] tooLarge = (row + " ".repeat(MAX_BYTES)).getBytes(StandardCharsets.UTF_8);

      assertThat(numbers(send(server.uri(), fits, chunked, "application/json"))).hasSize(1);
      assertRefused(
          send(server.uri(), tooLarge, chunked, "application/json"),
          413,
          "The body has more than 200,000 bytes");
      assertThat(numbers(send(server.uri(), fits, chunked, "application/json"))).hasSize(1);
    }
  }

  private HttpResponse<String> send(String uri, byte[] body, boolean chunked, String type)
      throws Exception {
    return http.send(
        HttpRequest.newBuilder(URI.create(uri + "/invocations"))
            .header("Content-Type", type)
            .POST(
                chunked
                    ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body))
                    : BodyPublishers.ofByteArray(body))
            .build(),
        BodyHandlers.ofString());
  }

  @Test
  void whatIsNotJsonInUtf8IsRefused() throws Exception {
    try (ScoringServer server = serve(Deployment.of(champion))) {
      byte[] json = records("instances", List.of(ROW)).getBytes(StandardCharsets.UTF_8);

      assertThat(numbers(send(server.uri(), json, false, "application/json; charset=utf-8")))
          .hasSize(1);
      for (String type : List.of("text/csv", "application/json; charset=latin1")) {
        assertRefused(send(server.uri(), json, false, type), 415, "must be application/json");
      }
      byte[] latin1 = "{\"instances\": \"é\"}".getBytes(StandardCharsets.ISO_8859_1);
      assertRefused(
          send(server.uri(), latin1, false, "application/json"), 400, "The body is not JSON");
    }
  }

  @Test
  void aHundredClientsLoseNoRequestWhileTheModelIsSwapped() throws Exception {
    int clients = 100;
    int each = 20;
    AtomicInteger asked = new AtomicInteger();
    Deployment next = Deployment.of(challenger);
    ExecutorService pool = Executors.newFixedThreadPool(clients);
    try (ScoringServer server = serve(Deployment.of(champion))) {
      CountDownLatch together = new CountDownLatch(clients);
      List<Callable<List<String>>> tasks = new ArrayList<>();
      for (int client = 0; client < clients; client++) {
        int row = client;
        tasks.add(
            () -> {
              together.countDown();
              together.await();
              List<String> versions = new ArrayList<>();
              for (int i = 0; i < each; i++) {
                if (asked.incrementAndGet() == clients * each / 2) {
                  server.deploy(next);
                }
                HttpResponse<String> answer =
                    ask(server.uri(), records("instances", rows.subList(row, row + 2)));
                List<Double> of = version(answer).equals("1") ? predictions : flatPredictions;
                // Both rows, by the version that the header names.
                assertThat(numbers(answer)).isEqualTo(of.subList(row, row + 2));
                versions.add(version(answer));
              }
              return versions;
            });
      }
      List<String> all = new ArrayList<>();
      for (Future<List<String>> client : pool.invokeAll(tasks)) {
        // Once a client has seen the new version, it sees no other.
        assertThat(client.get()).hasSize(each).isSorted();
        all.addAll(client.get());
      }
      assertThat(all).hasSize(clients * each).contains("1", "2");
      assertThat(version(ask(server.uri(), records("instances", List.of(ROW))))).isEqualTo("2");
    } finally {
      pool.shutdownNow();
    }
  }

  @ParameterizedTest
  @ValueSource(doubles = {0, 0.01, 0.1, 0.5, 1})
  void theCanaryHasItsShareOfAHundredThousandKeys(double share) {
    Function<String, Version> route = ModelServing.canary(champion, challenger, share);

    long canaries =
        IntStream.range(0, 100_000).filter(i -> route.apply("key-" + i).equals(challenger)).count();

    // Three standard deviations of a fair draw: 0.0048 for a half, 0.0029 for a tenth.
    assertThat(canaries / 100_000.0)
        .isCloseTo(share, within(3 * Math.sqrt(share * (1 - share) / 100_000)));
  }

  @Test
  void aKeyGoesToOneVersionAndNeverBackWhileTheShareGrows() {
    List<Function<String, Version>> growing =
        Stream.of(0.05, 0.1, 0.3, 0.9)
            .map(share -> ModelServing.canary(champion, challenger, share))
            .toList();
    for (int i = 0; i < 10_000; i++) {
      String key = "key-" + i;
      assertThat(growing).extracting(route -> route.apply(key).name()).as(key).isSorted();
    }
  }

  @Test
  void aKeyGoesToTheSameVersionOnEveryMachine() {
    Function<String, Version> half = ModelServing.canary(champion, challenger, 0.5);

    // By sha256sum they begin with e83f, 61d1, 706d, 55ac, 6bcf and a573: below 8000 is half.
    assertThat(IntStream.rangeClosed(1, 6).mapToObj(i -> "customer-" + i))
        .extracting(key -> half.apply(key).name())
        .containsExactly("1", "2", "2", "2", "2", "1");
  }

  @Test
  void aRequestIsAnsweredByTheVersionOfItsKey() throws Exception {
    Function<String, Version> half = ModelServing.canary(champion, challenger, 0.5);
    try (ScoringServer server = serve(new Deployment(half, null))) {
      List<String> seen = new ArrayList<>();
      for (int i = 0; i < 40; i++) {
        String key = "key-" + i / 2;
        HttpResponse<String> answer =
            ModelServing.ask(http, server.uri(), key, records("instances", rows.subList(0, 1)));
        assertThat(version(answer)).isEqualTo(half.apply(key).name());
        seen.add(version(answer));
      }
      assertThat(seen).contains("1", "2");
      assertThat(version(ask(server.uri(), records("instances", List.of(ROW))))).isEqualTo("1");
    }
  }

  @ParameterizedTest
  @ValueSource(doubles = {-0.1, 1.1, Double.NaN})
  void aShareThatIsNoneIsRefused(double share) {
    assertThatIllegalArgumentException()
        .isThrownBy(() -> ModelServing.canary(champion, challenger, share));
  }

  @Test
  void theShadowsPredictionsAreInADeltaTableWhenTheServerIsClosed(
      SparkSession spark, Sandbox sandbox) throws Exception {
    String table = sandbox.table("shadow");
    ScoringServer server =
        ScoringServer.start(
            new Deployment(key -> champion, challenger),
            MAX_BYTES,
            1_000,
            ModelServing.shadowTable(spark, table));
    for (int i = 0; i < 100; i++) {
      HttpResponse<String> answer =
          ModelServing.ask(
              http, server.uri(), "k" + i, records("instances", rows.subList(i, i + 2)));
      assertThat(version(answer)).isEqualTo("1");
      assertThat(numbers(answer)).isEqualTo(predictions.subList(i, i + 2));
    }
    server.close();

    assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(100, 0, 0));
    List<Row> logged =
        spark
            .table(table)
            .selectExpr("int(substr(routing_key, 2)) AS k", "*")
            .orderBy("k", "row")
            .collectAsList();
    assertThat(logged).hasSize(200);
    for (int i = 0; i < 200; i++) {
      Row row = logged.get(i);
      int basket = i / 2 + i % 2;
      assertThat(row.<String>getAs("version")).isEqualTo("1");
      assertThat(row.<String>getAs("shadow_version")).isEqualTo("2");
      assertThat(row.<Double>getAs("prediction")).isEqualTo(predictions.get(basket));
      assertThat(row.<Double>getAs("shadow_prediction")).isEqualTo(flatPredictions.get(basket));
    }
    assertThat(spark.sql("DESCRIBE DETAIL " + table).first().<String>getAs("format"))
        .isEqualTo("delta");
  }

  @Test
  void aSlowSinkDelaysNoAnswerAndWhatDoesNotFitIsCounted() throws Exception {
    CountDownLatch open = new CountDownLatch(1);
    CountDownLatch first = new CountDownLatch(1);
    List<Shadowed> written = new CopyOnWriteArrayList<>();
    ScoringServer server =
        ScoringServer.start(
            new Deployment(key -> champion, challenger),
            MAX_BYTES,
            5,
            batch -> {
              first.countDown();
              try {
                open.await();
              } catch (InterruptedException e) {
                throw new IllegalStateException(e);
              }
              written.addAll(batch);
            });
    ask(server.uri(), records("instances", List.of(rows.get(0))));
    assertThat(first.await(30, TimeUnit.SECONDS)).isTrue();
    // The sink is at work, 5 wait, 4 more do not fit: all are answered.
    for (int i = 1; i < 10; i++) {
      assertThat(numbers(ask(server.uri(), records("instances", List.of(rows.get(i))))))
          .containsExactly(predictions.get(i));
    }
    await().untilAsserted(() -> assertThat(server.shadowCounts().dropped()).isEqualTo(4));
    open.countDown();
    server.close();

    assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(6, 4, 0));
    assertThat(written)
        .extracting(Shadowed::shadowPrediction)
        .isEqualTo(flatPredictions.subList(0, 6));
  }

  @Test
  void aSinkThatFailsIsCountedAndTheNextBatchIsWritten() throws Exception {
    AtomicInteger batches = new AtomicInteger();
    ScoringServer server =
        ScoringServer.start(
            new Deployment(key -> champion, challenger),
            MAX_BYTES,
            5,
            batch -> {
              if (batches.incrementAndGet() == 1) {
                throw new IllegalStateException("disk full");
              }
            });
    String json = records("instances", List.of(ROW));
    assertThat(numbers(ask(server.uri(), json))).hasSize(1);
    await().untilAsserted(() -> assertThat(server.shadowCounts().failed()).isEqualTo(1));
    assertThat(numbers(ask(server.uri(), json))).hasSize(1);
    server.close();

    assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(1, 0, 1));
  }
}
