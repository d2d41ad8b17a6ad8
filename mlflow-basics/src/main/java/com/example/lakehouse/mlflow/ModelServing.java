package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.to_json;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import com.example.lakehouse.mlflow.support.RowScorer;
import com.example.lakehouse.mlflow.support.ScoringServer;
import com.example.lakehouse.mlflow.support.ScoringServer.Deployment;
import com.example.lakehouse.mlflow.support.ScoringServer.ShadowCounts;
import com.example.lakehouse.mlflow.support.ScoringServer.Shadowed;
import com.example.lakehouse.mlflow.support.ScoringServer.Version;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * Serving: a Spark pipeline answers HTTP requests from Java, row by row, without a Spark job.
 *
 * <p>Run: {@code ./run ModelServing}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: MLflow's scoring protocol, as {@code mlflow models serve} has it; what is wrong with a
 * request that is refused; a canary that the same keys always go to; 100 clients while the model is
 * swapped, none of them without an answer; the predictions of a model in the shadow, in a Delta
 * table.
 *
 * <p>On Databricks: Model Serving has the protocol, the split and the log of requests as settings
 * of an endpoint; a model that {@link LogModel} logged is served there.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/">MLflow: local
 *     inference server</a>
 */
public final class ModelServing {
  private static final int MAX_BYTES = 1 << 20;
  private static final int MAX_SHADOW_BYTES = 16 << 20;

  /** A {@code float} has 24 binary digits, a hash of 32 bits as an integer has them all. */
  private static final double HASHES = 1L << 32;

  private static final String SHADOW_COLUMNS =
      "at TIMESTAMP, routing_key STRING, row INT, version STRING, prediction DOUBLE,"
          + " shadow_version STRING, shadow_prediction DOUBLE";

  private ModelServing() {}

  /**
   * A version of a registered model, ready to answer, if its files are those that were logged.
   *
   * @param folder where models are kept, as {@link LogModel#download} has it
   * @return named as the version is: its answers say so in the header {@code X-Model-Version}
   * @throws com.example.lakehouse.mlflow.support.MlflowException as {@link LogModel#download} does
   * @throws IllegalArgumentException if a prediction takes more than its row, such as a filter or a
   *     join: such a model is for batches
   */
  public static Version version(
      SparkSession spark, ArtifactStore artifacts, ModelVersion version, Path folder) {
    return new Version(
        String.valueOf(version.version()),
        RowScorer.load(spark, LogModel.download(artifacts, version, folder)));
  }

  /**
   * Sends a share of the keys to the challenger: the same key always to the same version. A larger
   * share has all keys of a smaller one, so no key goes back while the share grows.
   *
   * @param share from 0 to 1
   * @return which version answers a key; a request without one is the champion's
   */
  public static Function<String, Version> canary(
      Version champion, Version challenger, double share) {
    if (!(share >= 0 && share <= 1)) {
      throw new IllegalArgumentException("a share is between 0 and 1, not " + share);
    }
    return key -> !key.isEmpty() && position(key) < share ? challenger : champion;
  }

  /**
   * From 0 to 1, the same on every machine: a hash of Java's is of 32 bits that are badly mixed.
   */
  private static double position(String key) {
    try {
      byte[] hash =
          MessageDigest.getInstance("SHA-256").digest(key.getBytes(StandardCharsets.UTF_8));
      return Integer.toUnsignedLong(ByteBuffer.wrap(hash).getInt()) / HASHES;
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has SHA-256", e);
    }
  }

  /**
   * Appends what a shadow predicted to a Delta table, made on first use: {@code at TIMESTAMP,
   * routing_key STRING, row INT, version STRING, prediction DOUBLE, shadow_version STRING,
   * shadow_prediction DOUBLE}.
   */
  public static Consumer<List<Shadowed>> shadowTable(SparkSession spark, String table) {
    StructType schema = StructType.fromDDL(SHADOW_COLUMNS);
    return batch ->
        spark
            .createDataFrame(
                batch.stream()
                    .map(
                        row ->
                            RowFactory.create(
                                row.at(),
                                row.key(),
                                row.row(),
                                row.version(),
                                row.prediction(),
                                row.shadowVersion(),
                                row.shadowPrediction()))
                    .toList(),
                schema)
            .write()
            .format("delta")
            .mode("append")
            .saveAsTable(table);
  }

  /**
   * Asks a server that has MLflow's scoring protocol, this one or {@code mlflow models serve}.
   *
   * @param key what the canary is split by, or ""
   * @param json with {@code dataframe_split}, {@code dataframe_records} or {@code instances}
   */
  public static HttpResponse<String> ask(HttpClient http, String uri, String key, String json)
      throws IOException, InterruptedException {
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(uri + "/invocations"))
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(30))
            .POST(BodyPublishers.ofString(json));
    if (!key.isEmpty()) {
      request.header(ScoringServer.KEY_HEADER, key);
    }
    return http.send(request.build(), BodyHandlers.ofString());
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ModelServing.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
                  .orderBy("order_id")
                  .cache();
          List<String> rows =
              baskets
                  .select(
                      to_json(
                          struct(col("segment"), col("order_date"), col("items"), col("dearest"))))
                  .as(Encoders.STRING())
                  .takeAsList(1_000);
          HttpClient http = HttpClient.newHttpClient();
          String table = notebook.sandbox().table("shadow_predictions");
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            String id = UUID.randomUUID().toString().substring(0, 8);
            String name = "basket-amount-" + id;
            ModelRegistry registry = mlflow.registry();
            String experiment = mlflow.client().createExperiment("model-serving-" + id);
            for (int depth : new int[] {5, 2}) {
              LogModel.trainVersion(
                  mlflow.client(), mlflow.artifacts(), registry, experiment, name, baskets, depth);
            }
            registry.setAlias(name, "champion", 1);
            registry.setAlias(name, "challenger", 2);
            Path models = folder.resolve("models");
            ModelVersion best = registry.byAlias(name, "champion").orElseThrow();
            Version champion = version(spark, mlflow.artifacts(), best, models);
            Version challenger =
                version(
                    spark,
                    mlflow.artifacts(),
                    registry.byAlias(name, "challenger").orElseThrow(),
                    models);
            try (ScoringServer server =
                ScoringServer.start(
                    Deployment.of(champion),
                    MAX_BYTES,
                    MAX_SHADOW_BYTES,
                    shadowTable(spark, table))) {
              notebook.step("Ask for two rows at %s/invocations".formatted(server.uri()));
              String two = records(rows.subList(0, 2));
              notebook.text("%s", two);
              HttpResponse<String> answer = ask(http, server.uri(), "", two);
              notebook.text(
                  "%d, by version %s: %s",
                  answer.statusCode(),
                  answer.headers().firstValue(ScoringServer.VERSION_HEADER).orElseThrow(),
                  answer.body());
              notebook.table(
                  "what a Spark job predicts for them",
                  LogModel.load(mlflow.artifacts(), best, models)
                      .transform(baskets)
                      .select("order_id", "prediction")
                      .limit(2));

              notebook.step("Wrong requests are told what is wrong with them");
              for (String wrong :
                  List.of(
                      "{\"dataframe_records\": [",
                      "{\"dataframe_records\": [{\"segment\": \"consumer\"}]}",
                      two.replaceFirst("\"items\":\\d+", "\"items\":1.5"),
                      " ".repeat(MAX_BYTES + 1))) {
                HttpResponse<String> refused = ask(http, server.uri(), "", wrong);
                notebook.text("%d %s", refused.statusCode(), refused.body());
              }

              notebook.step("A canary: a tenth of the customers get version 2");
              Function<String, Version> tenth = canary(champion, challenger, 0.1);
              server.deploy(new Deployment(tenth, null));
              long canaries =
                  IntStream.range(0, 100_000)
                      .filter(i -> tenth.apply("customer-" + i).equals(challenger))
                      .count();
              notebook.text("Of 100,000 customers, %,d get it, and always.", canaries);

              notebook.step("100 clients ask 20 times each; the model is swapped meanwhile");
              notebook.text("Version 2 becomes the one that answers, version 1 its shadow.");
              Map<String, Integer> answers = new TreeMap<>();
              AtomicInteger asked = new AtomicInteger();
              server.deploy(Deployment.of(champion));
              ExecutorService pool = Executors.newFixedThreadPool(100);
              try {
                List<Callable<List<HttpResponse<String>>>> clients = new ArrayList<>();
                for (int client = 0; client < 100; client++) {
                  String key = "customer-" + client;
                  List<String> own = rows.subList(client, client + 1);
                  clients.add(
                      () -> {
                        List<HttpResponse<String>> got = new ArrayList<>();
                        for (int i = 0; i < 20; i++) {
                          if (asked.incrementAndGet() == 1_000) {
                            server.deploy(new Deployment(any -> challenger, champion));
                          }
                          got.add(ask(http, server.uri(), key, records(own)));
                        }
                        return got;
                      });
                }
                for (Future<List<HttpResponse<String>>> client : pool.invokeAll(clients)) {
                  for (HttpResponse<String> got : client.get()) {
                    String version =
                        got.headers().firstValue(ScoringServer.VERSION_HEADER).orElse("none");
                    answers.merge(got.statusCode() + " by version " + version, 1, Integer::sum);
                  }
                }
              } finally {
                pool.shutdownNow();
              }
              Chart chart = new Chart("2,000 requests, swapped after 1,000", "answers");
              answers.forEach(chart::bar);
              notebook.chart(chart);
              server.close();
              notebook.step("What the shadow would have answered");
              ShadowCounts counts = server.shadowCounts();
              notebook.text(
                  "Of %,d requests its predictions were written; %,d were left out, %,d failed.",
                  counts.written(), counts.dropped(), counts.failed());
              notebook.table(
                  "both predictions",
                  spark
                      .table(table)
                      .select(
                          "routing_key",
                          "version",
                          "prediction",
                          "shadow_version",
                          "shadow_prediction")
                      .distinct()
                      .orderBy("routing_key")
                      .limit(5));
              notebook.table(
                  "how far they are apart",
                  spark
                      .table(table)
                      .selectExpr(
                          "count(*) AS predictions",
                          "round(avg(abs(prediction - shadow_prediction)), 2) AS apart"));
            }
          }
        });
  }

  private static String records(List<String> rows) {
    return "{\"dataframe_records\": [" + String.join(", ", rows) + "]}";
  }
}
