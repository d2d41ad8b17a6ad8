package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.example.lakehouse.mlflow.support.PythonModelServer;
import com.example.lakehouse.mlflow.support.RowScorer;
import com.example.lakehouse.mlflow.support.ScoringServer;
import com.example.lakehouse.mlflow.support.ScoringServer.Deployment;
import com.example.lakehouse.mlflow.support.ScoringServer.ShadowCounts;
import com.example.lakehouse.mlflow.support.ScoringServer.Shadowed;
import com.example.lakehouse.mlflow.support.ScoringServer.Version;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.delta.tables.DeltaTable;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.ConnectException;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.SQLTransformer;
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

  /** It serves the champion. A server takes a second to close, while a client may still use it. */
  private static ScoringServer shared;

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
    champion = new Version("1", RowScorer.load(spark, folder.resolve("deep")));
    challenger = new Version("2", RowScorer.load(spark, folder.resolve("flat")));
    rows =
        baskets
            .orderBy("order_id")
            .select("segment", "order_date", "items", "dearest")
            .toJSON()
            .collectAsList();
    predictions = predictions(model, baskets);
    flatPredictions = predictions(flat, baskets);
    shared = serve(Deployment.of(champion));
  }

  @AfterAll
  static void forget() {
    shared.close();
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
    return ScoringServer.start(deployment, MAX_BYTES, MAX_BYTES, rows -> {});
  }

  private static ScoringServer shadowed(
      Version version, Version shadow, Consumer<List<Shadowed>> sink) {
    return ScoringServer.start(new Deployment(key -> version, shadow), MAX_BYTES, MAX_BYTES, sink);
  }

  /** A model as it is served from a folder, which has the columns in the order of {@code data}. */
  private static Version served(String name, Dataset<Row> data, PipelineStage... stages) {
    Path saved = folder.resolve(name + "-" + UUID.randomUUID());
    LogModel.save(new Pipeline().setStages(stages).fit(data), data, saved);
    return new Version(name, RowScorer.load(data.sparkSession(), saved));
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
    all.add(ROW.replace("2025-06-01", "2025-12-31T23:59:59.999999"));
    all.add(ROW.replace("2025-06-01", "2025-12-31 23:59:59"));
    all.add(ROW.replace("36.99", "1e3"));
    all.add(ROW.replace("\"items\": 2", "\"items\": 2.0"));
    List<String> asked =
        List.of(split(rows), records("dataframe_records", rows), records("instances", rows));
    List<String> single = new ArrayList<>();
    all.subList(rows.size(), all.size())
        .forEach(row -> single.add(records("dataframe_records", List.of(row))));
    String noText = ROW.replace("\"consumer\"", "null");
    single.add(records("dataframe_records", List.of(noText, ROW)));
    List<String> wrong =
        List.of(
            "{",
            "[]",
            "{}",
            "{\"dataframe_records\": {}}",
            "{\"dataframe_split\": []}",
            "{\"dataframe_split\": {\"columns\": [\"segment\", \"order_date\", \"items\","
                + " \"dearest\"], \"data\": []}}",
            records("dataframe_records", List.of("{\"segment\": \"consumer\"}")),
            records("dataframe_records", List.of(ROW.replace("36.99", "\"cheap\""))),
            records("dataframe_records", List.of(ROW.replace("\"items\": 2", "\"items\": null"))),
            records("dataframe_records", List.of(ROW.replace("36.99", "null"))),
            records("dataframe_records", List.of(ROW.replace("2025-06-01", "someday"))));
    try (ScoringServer java = serve(Deployment.of(champion));
        PythonModelServer python =
            MlflowExtension.orSkip(
                () -> PythonModelServer.start(folder.resolve("deep"), folder.resolve("serve")))) {
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
      // PySpark, in MLflow's server, knows no type for a column without a value.
      String nothingElse = records("dataframe_records", List.of(noText));
      assertThat(ask(python.uri(), nothingElse).body()).contains("CANNOT_DETERMINE_TYPE");
      assertThat(numbers(ask(java.uri(), nothingElse)))
          .isEqualTo(numbers(ask(java.uri(), single.get(single.size() - 1))).subList(0, 1));
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

  @Test
  void theChampionIsServedFromTheRegistry(MlflowServer mlflow, SparkSession spark)
      throws Exception {
    ModelVersion registered = register(mlflow, LogModel.DIGEST_TAG);

    Version version =
        ModelServing.version(spark, mlflow.artifacts(), registered, folder.resolve("models"));
    try (ScoringServer server = serve(Deployment.of(version))) {
      HttpResponse<String> answer = ask(server.uri(), records("instances", rows));

      assertThat(version(answer)).isEqualTo("1");
      assertThat(numbers(answer)).isEqualTo(predictions);
    }
  }

  @Test
  void aModelWithoutADigestIsNotServed(MlflowServer mlflow, SparkSession spark) {
    ModelVersion registered = register(mlflow, "some.other.tag");

    assertThatThrownBy(
            () ->
                ModelServing.version(
                    spark, mlflow.artifacts(), registered, folder.resolve("unchecked")))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("has no tag model.digest");
    assertThat(folder.resolve("unchecked")).doesNotExist();
  }

  private static ModelVersion register(MlflowServer mlflow, String tag) {
    String name = "served-" + UUID.randomUUID();
    String run = mlflow.client().createRun(mlflow.client().createExperiment(name)).getRunId();
    String digest = LogModel.log(mlflow.artifacts(), run, model, baskets);
    mlflow.registry().createModelIfAbsent(name);
    return mlflow
        .registry()
        .createVersion(name, "runs:/" + run + "/model", run, "", Map.of(tag, digest));
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
        "{\"dataframe_records\": [ | The body is not JSON, in line 1 at column 24: Unexpected"
            + " end-of-input: expected close marker for Array",
        "{} {} | The body is not JSON",
        "{\"instances\": [], \"instances\": []} | Duplicate field 'instances'",
        "[] | exactly one of [dataframe_records, dataframe_split, instances]; it has none",
        "{\"inputs\": {}} | it has none",
        "{\"instances\": [], \"dataframe_records\": []} | it has [dataframe_records, instances]",
        "{\"instances\": []} | instances must be an array of objects, with one at least",
        "{\"instances\": [[1]]} | Row 0 of instances must be an object",
        "{\"dataframe_split\": {\"data\": [[1]]}} | must have the arrays columns and data",
        "{\"dataframe_split\": {\"columns\": [\"items\"], \"data\": []}} | with one row at least",
        "{\"dataframe_split\": {\"columns\": [\"a\", \"a\"], \"data\": [[1, 2]]}} | the column a twice",
        "{\"dataframe_split\": {\"columns\": [\"items\"], \"data\": [[1]]}} | The model is missing"
            + " inputs: [segment, order_date, dearest]",
        "{\"dataframe_records\": [{\"items\": 1, \"segment\": \"x\"}]} | The model is missing"
            + " inputs: [order_date, dearest]",
      })
  void whatIsNotARequestIsRefusedWithWhatIsWrong(String json, String reason) throws Exception {
    assertRefused(ask(shared.uri(), json), 400, reason);
  }

  private static void assertRefused(HttpResponse<String> answer, int status, String reason)
      throws IOException {
    assertThat(answer.statusCode()).as(answer.body()).isEqualTo(status);
    assertThat(version(answer)).isNotEmpty();
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
        "36.99 | 1e400 | Column dearest of row 1 must be of type double, not",
        "36.99 | true | Column dearest of row 1 must be of type double, not true",
        "36.99 | \"cheap\" | Column dearest of row 1 must be of type double, not \"cheap\"",
        "\"consumer\" | 5 | Column segment of row 1 must be of type string, not 5",
        "2025-06-01 | someday | Column order_date of row 1 must be a date or a time without a zone",
        "2025-06-01 | 2025-06-01T00:00:00Z | a date or a time without a zone",
        "2025-06-01 | 2025-02-30 | a date or a time without a zone",
      })
  void aWrongTypeIsRefusedWithItsColumnAndRow(String right, String wrong, String reason)
      throws Exception {
    String json = records("dataframe_records", List.of(ROW, ROW.replace(right, wrong)));

    assertRefused(ask(shared.uri(), json), 400, reason);
  }

  @Test
  void aValueThatAStageDoesNotTakeIsTheSendersError() throws Exception {
    try (ScoringServer server = serve(Deployment.of(strict()))) {
      String row = "{\"segment\": \"%s\"}";
      String json =
          records("instances", List.of(row.formatted("consumer"), row.formatted("aliens")));

      assertRefused(
          ask(server.uri(), json), 400, "The model does not take row 1: Unseen label: aliens");
    }
  }

  /** Takes no segment that it has not learned. */
  private static Version strict() {
    return served(
        "strict", baskets, new StringIndexer().setInputCol("segment").setOutputCol("prediction"));
  }

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aBodyThatIsTooLargeIsRefusedAndTheNextOneAnswered(boolean chunked) throws Exception {
    String row = records("instances", List.of(ROW));
    byte[] fits = (row + " ".repeat(MAX_BYTES - row.length())).getBytes(StandardCharsets.UTF_8);
    byte[] tooLarge = (row + " ".repeat(MAX_BYTES)).getBytes(StandardCharsets.UTF_8);

    assertThat(numbers(send(shared.uri(), fits, chunked, "application/json"))).hasSize(1);
    assertRefused(
        send(shared.uri(), tooLarge, chunked, "application/json"),
        413,
        "The body has more than 200,000 bytes");
    assertThat(numbers(send(shared.uri(), fits, chunked, "application/json"))).hasSize(1);
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
  void anotherMethodOrPathIsNoRequest() throws Exception {
    assertThat(get(shared.uri() + "/invocations").statusCode()).isEqualTo(405);
    assertThat(get(shared.uri() + "/models").statusCode()).isEqualTo(404);
  }

  @Test
  void aRequestThatHasBegunIsAnsweredBeforeTheServerCloses() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    ScoringServer server =
        serve(
            new Deployment(
                key -> {
                  begun.countDown();
                  return champion;
                },
                null));
    URI uri = URI.create(server.uri());
    CompletableFuture<Void> closed;
    try (Socket client = new Socket(uri.getHost(), uri.getPort())) {
      OutputStream out = client.getOutputStream();
      out.write(
          """
          POST /invocations HTTP/1.1
          Host: localhost
          Content-Type: application/json
          Connection: close
          Transfer-Encoding: chunked

          """
              .replace("\n", "\r\n")
              .getBytes(StandardCharsets.US_ASCII));
      // Jetty calls nobody before there is content.
      chunk(out, " ");
      assertThat(begun.await(30, TimeUnit.SECONDS)).isTrue();
      closed = CompletableFuture.runAsync(server::close);
      await()
          .pollInterval(Duration.ofMillis(20))
          .until(
              () -> {
                // A sender that pauses for a second is given up.
                chunk(out, " ");
                return isRefused(uri);
              });
      assertThat(closed).isNotDone();
      chunk(out, records("instances", rows.subList(0, 1)));
      chunk(out, "");

      assertThat(new String(client.getInputStream().readAllBytes(), StandardCharsets.US_ASCII))
          .startsWith("HTTP/1.1 200 ")
          .contains("{\"predictions\":[" + predictions.get(0) + "]}");
    }
    assertThat(closed).succeedsWithin(Duration.ofSeconds(30));
  }

  private static void chunk(OutputStream out, String text) throws IOException {
    out.write("%x\r\n%s\r\n".formatted(text.length(), text).getBytes(StandardCharsets.US_ASCII));
    out.flush();
  }

  private static boolean isRefused(URI uri) throws IOException {
    try (Socket socket = new Socket(uri.getHost(), uri.getPort())) {
      return !socket.isConnected();
    } catch (ConnectException e) {
      return true;
    }
  }

  @Test
  void whatIsNotJsonInUtf8IsRefused() throws Exception {
    byte[] json = records("instances", List.of(ROW)).getBytes(StandardCharsets.UTF_8);

    assertThat(numbers(send(shared.uri(), json, false, "application/json; charset=utf-8")))
        .hasSize(1);
    for (String type : List.of("text/csv", "application/json; charset=latin1")) {
      assertRefused(send(shared.uri(), json, false, type), 415, "must be application/json");
      assertRefused(
          send(shared.uri(), new byte[2 * MAX_BYTES], true, type), 415, "must be application/json");
    }
    byte[] latin1 = "{\"instances\": \"é\"}".getBytes(StandardCharsets.ISO_8859_1);
    assertRefused(
        send(shared.uri(), latin1, false, "application/json"), 400, "The body is not JSON");
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
  void aRequestWithoutAKeyIsTheChampionsWhateverTheShare() {
    assertThat(ModelServing.canary(champion, challenger, 1).apply("")).isEqualTo(champion);
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
    try (ScoringServer server =
        shadowed(champion, challenger, ModelServing.shadowTable(spark, table))) {
      for (int i = 0; i < 100; i++) {
        HttpResponse<String> answer =
            ModelServing.ask(
                http, server.uri(), "k" + i, records("instances", rows.subList(i, i + 2)));
        assertThat(version(answer)).isEqualTo("1");
        assertThat(numbers(answer)).isEqualTo(predictions.subList(i, i + 2));
      }
      server.close();

      assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(100, 0, 0));
    }
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
    Row detail = spark.sql("DESCRIBE DETAIL " + table).first();
    assertThat(detail.<String>getAs("format")).isEqualTo("delta");
    // Requests that come within a second share a commit, and its file for each task.
    assertThat(DeltaTable.forName(spark, table).history().count()).isLessThan(50);
  }

  @Test
  void theShadowHasItsOwnColumnsInTheirOwnOrder(SparkSession spark) throws Exception {
    Version first = difference(spark, "a - b", "a", "b");
    Version second = difference(spark, "a - b", "b", "a");
    List<Shadowed> written = new CopyOnWriteArrayList<>();
    try (ScoringServer server = shadowed(first, second, written::addAll)) {
      String json = records("instances", List.of("{\"a\": 5.0, \"b\": 3.0}"));
      assertThat(numbers(ask(server.uri(), json))).containsExactly(2.0);
    }
    assertThat(written).extracting(Shadowed::shadowPrediction).containsExactly(2.0);
  }

  /** A model of two columns, which its signature has in this order. */
  private static Version difference(SparkSession spark, String formula, String one, String other) {
    return served(
        one + other,
        spark.range(3).selectExpr("double(id) AS " + one, "double(7) AS " + other),
        new SQLTransformer().setStatement("SELECT " + formula + " AS prediction FROM __THIS__"));
  }

  @Test
  void aSlowSinkDelaysNoAnswerAndWhatDoesNotFitIsCounted() throws Exception {
    int length = 200;
    CountDownLatch open = new CountDownLatch(1);
    CountDownLatch first = new CountDownLatch(1);
    List<Shadowed> written = new CopyOnWriteArrayList<>();
    try (ScoringServer server =
        ScoringServer.start(
            new Deployment(key -> champion, challenger),
            MAX_BYTES,
            6 * length,
            batch -> {
              first.countDown();
              try {
                open.await();
              } catch (InterruptedException e) {
                throw new IllegalStateException(e);
              }
              written.addAll(batch);
            })) {
      try {
        // The sink works on the first one, 5 wait, 4 more do not fit: all are answered.
        for (int i = 0; i < 10; i++) {
          String json = records("instances", List.of(rows.get(i)));
          String padded = json + " ".repeat(length - json.length());
          assertThat(numbers(ask(server.uri(), padded))).containsExactly(predictions.get(i));
          if (i == 0) {
            assertThat(first.await(30, TimeUnit.SECONDS)).isTrue();
          }
        }
        await().untilAsserted(() -> assertThat(server.shadowCounts().dropped()).isEqualTo(4));
      } finally {
        open.countDown();
      }
      server.close();

      assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(6, 4, 0));
    }
    assertThat(written)
        .extracting(Shadowed::shadowPrediction)
        .isEqualTo(flatPredictions.subList(0, 6));
  }

  @Test
  void aRowThatTheShadowDoesNotTakeIsCountedAndTheNextOneWritten() throws Exception {
    List<Shadowed> written = new CopyOnWriteArrayList<>();
    Version strict = strict();
    try (ScoringServer server = shadowed(champion, strict, written::addAll)) {
      for (String row : List.of(ROW.replace("consumer", "aliens"), ROW)) {
        assertThat(numbers(ask(server.uri(), records("instances", List.of(row))))).hasSize(1);
      }
      server.close();

      assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(1, 0, 1));
    }
    assertThat(written).hasSize(1);
  }

  @Test
  void aTableThatDoesNotTakeTheShadowsRowsIsCountedAndTheNextBatchIsWritten(
      SparkSession spark, Sandbox sandbox) throws Exception {
    String table = sandbox.table("shadow");
    spark.range(1).write().format("delta").saveAsTable(table);
    try (ScoringServer server =
        shadowed(champion, challenger, ModelServing.shadowTable(spark, table))) {
      String json = records("instances", List.of(ROW));
      assertThat(numbers(ask(server.uri(), json))).hasSize(1);
      await().untilAsserted(() -> assertThat(server.shadowCounts().failed()).isEqualTo(1));
      spark.sql("DROP TABLE " + table);
      assertThat(numbers(ask(server.uri(), json))).hasSize(1);
      server.close();

      assertThat(server.shadowCounts()).isEqualTo(new ShadowCounts(1, 0, 1));
    }
    assertThat(spark.table(table).count()).isEqualTo(1);
  }
}
