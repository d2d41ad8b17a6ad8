import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.mlflow.LogModel;
import com.example.lakehouse.mlflow.ModelServing;
import com.example.lakehouse.mlflow.TrackRun;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.PythonEnvironment;
import com.example.lakehouse.mlflow.support.ScoringServer;
import com.example.lakehouse.mlflow.support.ScoringServer.Deployment;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
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
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;
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
  private static final int JAVA_REQUESTS = 20_000;
  private static final int PYTHON_REQUESTS = 200;
  private static final double MIN_REQUESTS_RATIO = 5;
  private static final long START_SECONDS = 180;

  private final Path folder;
  private final HttpClient http =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private boolean passed = true;

  private interface Step {
    void run() throws Exception;
  }

  /** Requests per second, and the time in ms that 99 of 100 take at most. */
  private record Load(double perSecond, double p50, double p99) {}

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
            Deployment.of(ModelServing.version(spark, model, "1")), 1 << 20, 1, rows -> {})) {
      load(server.uri(), bodies, JAVA_REQUESTS / 2);
      java = load(server.uri(), bodies, JAVA_REQUESTS);
    }
    print("ModelServing", java);
    Load python = python(model, bodies);
    print("mlflow models serve", python);
    double ratio = java.perSecond() / python.perSecond();
    bar("times the requests/s", ratio, ratio >= MIN_REQUESTS_RATIO, "at least 5");
    bar("p99 by p99", java.p99() / python.p99(), java.p99() <= python.p99(), "at most 1");
  }

  private static void print(String server, Load load) {
    System.out.printf(
        "%s: %,.0f requests/s of %d clients, p50 %.1f ms, p99 %.1f ms%n",
        server, load.perSecond(), CLIENTS, load.p50(), load.p99());
  }

  /** Each client sends its next request when it has the answer to the last. */
  private Load load(String uri, List<String> bodies, int requests) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(CLIENTS);
    try {
      List<Callable<double[]>> clients = new ArrayList<>();
      for (int c = 0; c < CLIENTS; c++) {
        int first = c;
        clients.add(
            () -> {
              double[] millis = new double[requests / CLIENTS];
              for (int i = 0; i < millis.length; i++) {
                String body = bodies.get((first + i * CLIENTS) % bodies.size());
                millis[i] = 1e3 * seconds(() -> ok(ModelServing.ask(http, uri, "", body)));
              }
              return millis;
            });
      }
      long start = System.nanoTime();
      List<double[]> all = new ArrayList<>();
      for (Future<double[]> client : pool.invokeAll(clients)) {
        all.add(client.get());
      }
      double took = (System.nanoTime() - start) / 1e9;
      double[] millis = all.stream().flatMapToDouble(Arrays::stream).sorted().toArray();
      return new Load(
          millis.length / took, millis[millis.length / 2], millis[millis.length * 99 / 100]);
    } finally {
      pool.shutdownNow();
    }
  }

  private Load python(Path model, List<String> bodies) throws Exception {
    PythonEnvironment environment = PythonEnvironment.scoring();
    int port;
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      port = socket.getLocalPort();
    }
    Path work = Files.createDirectories(folder.resolve("serve"));
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
            .redirectOutput(work.resolve("log.txt").toFile());
    Map<String, String> variables = builder.environment();
    variables.put("JAVA_HOME", System.getProperty("java.home"));
    variables.put("SPARK_LOCAL_IP", "127.0.0.1");
    variables.put("SPARK_LOCAL_DIRS", work.toString());
    variables.put("PYSPARK_PYTHON", environment.python().toString());
    variables.put("PYSPARK_SUBMIT_ARGS", "--conf spark.ui.enabled=false pyspark-shell");
    variables.put("TZ", "UTC");
    variables.put("MLFLOW_DFS_TMP", work.resolve("dfs").toString());
    variables.put("MLFLOW_DISABLE_TELEMETRY", "true");
    variables.put("DO_NOT_TRACK", "true");
    Process process = builder.start();
    Thread hook = new Thread(() -> end(process));
    Runtime.getRuntime().addShutdownHook(hook);
    try {
      String uri = "http://127.0.0.1:" + port;
      awaitPing(process, uri, work.resolve("log.txt"));
      load(uri, bodies, PYTHON_REQUESTS / 2);
      return load(uri, bodies, PYTHON_REQUESTS);
    } finally {
      end(process);
      Runtime.getRuntime().removeShutdownHook(hook);
    }
  }

  private void awaitPing(Process process, String uri, Path log) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(START_SECONDS);
    HttpRequest ping = HttpRequest.newBuilder(URI.create(uri + "/ping")).build();
    while (!process.waitFor(200, TimeUnit.MILLISECONDS) && System.nanoTime() < deadline) {
      try {
        if (http.send(ping, BodyHandlers.discarding()).statusCode() == 200) {
          return;
        }
      } catch (IOException e) {
        // Not yet.
      }
    }
    throw new IllegalStateException(
        "mlflow models serve does not answer:\n" + Files.readString(log));
  }

  private static void end(Process process) {
    List<ProcessHandle> all =
        Stream.concat(process.descendants(), Stream.of(process.toHandle())).toList();
    all.forEach(ProcessHandle::destroyForcibly);
    all.forEach(handle -> handle.onExit().join());
  }
}
