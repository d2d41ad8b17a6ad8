import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.mlflow.LogModel;
import com.example.lakehouse.mlflow.ModelServing;
import com.example.lakehouse.mlflow.TrackRun;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.PythonModelServer;
import com.example.lakehouse.mlflow.support.RowScorer;
import com.example.lakehouse.mlflow.support.ScoringServer;
import com.example.lakehouse.mlflow.support.ScoringServer.Deployment;
import com.example.lakehouse.mlflow.support.ScoringServer.Version;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.tracking.MlflowClient;

/** Started by {@code bench/mlflow}, which says what it measures, with a folder to work in. */
public final class Mlflow {
  private static final int METRICS = 10_000;
  private static final int ONE_BY_ONE = 1_000;
  private static final double MAX_METRICS_RATIO = 0.1;

  private static final int MEGABYTES = 200;
  private static final int ROUNDS = 3;
  private static final double MIN_UPLOAD_RATIO = 0.8;

  private static final int CLIENTS = 8;
  private static final int SECONDS_TO_WARM_UP = 60;
  private static final int SECONDS = 120;
  private static final double MIN_REQUESTS_RATIO = 5;

  private final Path folder;
  private final HttpClient http =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private boolean passed = true;

  private interface Step {
    void run() throws Exception;
  }

  /** Requests per second, and the time in ms that 99 of 100 take at most. */
  private record Load(int requests, double perSecond, double p50, double p99) {}

  private Mlflow(Path folder) {
    this.folder = folder;
  }

  public static void main(String[] args) throws Exception {
    Mlflow bench = new Mlflow(Path.of(args[0]));
    try (MlflowServer server = MlflowServer.start(bench.folder.resolve("mlflow"))) {
      bench.metrics(server.client());
      bench.uploads(server);
    }
    SparkSession spark = SparkSessions.open("mlflow");
    try {
      bench.serving(spark);
    } finally {
      SparkSessions.close(spark);
    }
    System.exit(bench.passed ? 0 : 1);
  }

  private void bar(String what, double value, boolean met, String bar) {
    System.out.printf("%s %s: %.3f (bar: %s)%n", met ? "PASS" : "FAIL", what, value, bar);
    passed &= met;
  }

  private static double seconds(Step step) throws Exception {
    long start = System.nanoTime();
    step.run();
    return (System.nanoTime() - start) / 1e9;
  }

  private static double median(List<Double> values) {
    return values.stream().sorted().toList().get(values.size() / 2);
  }

  private void metrics(MlflowClient client) throws Exception {
    String experiment = client.createExperiment("bench");
    List<Metric> curve =
        TrackRun.curve(
            "loss", IntStream.range(0, METRICS).mapToObj(i -> 1.0 / (i + 1)).toList(), 0);
    String warm = client.createRun(experiment).getRunId();
    TrackRun.log(client, warm, List.of(), curve.subList(0, 1_000), List.of());
    for (Metric metric : curve.subList(1_000, 1_100)) {
      client.logMetric(
          warm, metric.getKey(), metric.getValue(), metric.getTimestamp(), metric.getStep());
    }

    String batch = client.createRun(experiment).getRunId();
    double together = seconds(() -> TrackRun.log(client, batch, List.of(), curve, List.of()));
    String single = client.createRun(experiment).getRunId();
    double oneByOne =
        seconds(
                () -> {
                  for (Metric metric : curve.subList(0, ONE_BY_ONE)) {
                    client.logMetric(
                        single,
                        metric.getKey(),
                        metric.getValue(),
                        metric.getTimestamp(),
                        metric.getStep());
                  }
                })
            * METRICS
            / ONE_BY_ONE;
    int stored = TrackRun.history(client, batch, "loss").size();
    System.out.printf(
        "%,d metrics in calls of 1,000: %.2f s; one by one: %.1f s, from %,d of them%n",
        stored, together, oneByOne, ONE_BY_ONE);
    bar(
        "share of the time",
        together / oneByOne,
        stored == METRICS && together <= MAX_METRICS_RATIO * oneByOne,
        "at most 0.1");
  }

  private void uploads(MlflowServer server) throws Exception {
    Path file = folder.resolve("artifact.bin");
    byte[] megabyte = new byte[1 << 20];
    Random random = new Random(1);
    try (var out = Files.newOutputStream(file)) {
      for (int i = 0; i < MEGABYTES; i++) {
        random.nextBytes(megabyte);
        out.write(megabyte);
      }
    }
    String run = server.client().createRun(server.client().createExperiment("uploads")).getRunId();
    List<Double> put = new ArrayList<>();
    List<Double> upload = new ArrayList<>();
    List<Double> putAndGet = new ArrayList<>();
    List<Double> checked = new ArrayList<>();
    // In turn, after a round that counts for nothing.
    for (int round = -1; round < ROUNDS; round++) {
      URI raw =
          URI.create(
              server.uri() + "/api/2.0/mlflow-artifacts/artifacts/bench/raw" + round + ".bin");
      String path = "round" + round;
      double one = seconds(() -> put(raw, file));
      double two = one + seconds(() -> get(raw));
      double three =
          seconds(
              () -> server.artifacts().withoutReadingBack().upload(run, file, path + "/unchecked"));
      double four = seconds(() -> server.artifacts().upload(run, file, path + "/checked"));
      if (round >= 0) {
        put.add(one);
        putAndGet.add(two);
        upload.add(three);
        checked.add(four);
      }
    }
    System.out.printf(
        "%d MB, medians of %d: PUT %.2f s, upload %.2f s; PUT and hashed GET %.2f s, upload that is"
            + " read back %.2f s%n",
        MEGABYTES, ROUNDS, median(put), median(upload), median(putAndGet), median(checked));
    double plain = median(put) / median(upload);
    bar("rate of the upload by that of PUT", plain, plain >= MIN_UPLOAD_RATIO, "at least 0.8");
    double read = median(putAndGet) / median(checked);
    bar("rate, read back, by that of PUT and GET", read, read >= MIN_UPLOAD_RATIO, "at least 0.8");
  }

  private void put(URI uri, Path file) throws IOException, InterruptedException {
    ok(
        http.send(
            HttpRequest.newBuilder(uri).PUT(BodyPublishers.ofFile(file)).build(),
            BodyHandlers.ofString()));
  }

  private void get(URI uri) throws Exception {
    HttpResponse<InputStream> answer =
        http.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofInputStream());
    try (InputStream in =
        new DigestInputStream(ok(answer).body(), MessageDigest.getInstance("SHA-256"))) {
      byte[] buffer = new byte[1 << 16];
      while (in.read(buffer) >= 0) {
        // Hashed on the way.
      }
    }
  }

  private static <T> HttpResponse<T> ok(HttpResponse<T> answer) {
    if (answer.statusCode() != 200) {
      throw new IllegalStateException(answer.uri() + " answered " + answer.statusCode());
    }
    return answer;
  }

  private void serving(SparkSession spark) throws Exception {
    SampleData shop = SampleData.of(spark).rows(3_000);
    Dataset<Row> baskets =
        LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
            .orderBy("order_id")
            .cache();
    Path model = folder.resolve("model");
    LogModel.save(LogModel.train(baskets, 5), baskets, model);
    List<String> bodies =
        baskets
            .select("segment", "order_date", "items", "dearest")
            .toJSON()
            .as(Encoders.STRING())
            .takeAsList(1_000)
            .stream()
            .map(row -> "{\"dataframe_records\": [" + row + "]}")
            .toList();
    Load java;
    try (ScoringServer server =
        ScoringServer.start(
            Deployment.of(new Version("1", RowScorer.load(spark, model))),
            1 << 20,
            1,
            rows -> {})) {
      java = warmAndLoad(server.uri(), bodies);
    }
    print("ModelServing", java);
    Load python;
    try (PythonModelServer server = PythonModelServer.start(model, folder.resolve("serve"))) {
      python = warmAndLoad(server.uri(), bodies);
    }
    print("mlflow models serve", python);
    double ratio = java.perSecond() / python.perSecond();
    bar("times the requests/s", ratio, ratio >= MIN_REQUESTS_RATIO, "at least 5");
  }

  private static void print(String server, Load load) {
    System.out.printf(
        "%s: %,d requests of %d clients in %d s, %,.0f a second, p50 %.1f ms, p99 %.1f ms%n",
        server, load.requests(), CLIENTS, SECONDS, load.perSecond(), load.p50(), load.p99());
  }

  /**
   * Once in some million times the JDK's client gives an answer that comes fast to whoever watches
   * the connection while it is not in use, and that closes it.
   */
  private HttpResponse<String> ask(String uri, String body)
      throws IOException, InterruptedException {
    try {
      return ModelServing.ask(http, uri, "", body);
    } catch (IOException e) {
      System.out.println("A request is sent again: " + e.getMessage());
      return ModelServing.ask(http, uri, "", body);
    }
  }

  private Load warmAndLoad(String uri, List<String> bodies) throws Exception {
    load(uri, bodies, SECONDS_TO_WARM_UP);
    return load(uri, bodies, SECONDS);
  }

  /** Each client sends its next request when it has the answer to the last. */
  private Load load(String uri, List<String> bodies, int seconds) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(CLIENTS);
    try {
      long start = System.nanoTime();
      long end = start + TimeUnit.SECONDS.toNanos(seconds);
      List<Callable<List<Double>>> clients = new ArrayList<>();
      for (int c = 0; c < CLIENTS; c++) {
        int first = c;
        clients.add(
            () -> {
              List<Double> millis = new ArrayList<>();
              while (System.nanoTime() < end) {
                String body = bodies.get((first + millis.size() * CLIENTS) % bodies.size());
                millis.add(1e3 * seconds(() -> ok(ask(uri, body))));
              }
              return millis;
            });
      }
      List<Double> millis = new ArrayList<>();
      for (Future<List<Double>> client : pool.invokeAll(clients)) {
        millis.addAll(client.get());
      }
      double took = (System.nanoTime() - start) / 1e9;
      Collections.sort(millis);
      return new Load(
          millis.size(),
          millis.size() / took,
          millis.get(millis.size() / 2),
          millis.get(millis.size() * 99 / 100));
    } finally {
      pool.shutdownNow();
    }
  }
}
