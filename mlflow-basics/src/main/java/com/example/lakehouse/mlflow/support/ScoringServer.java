package com.example.lakehouse.mlflow.support;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.javalin.Javalin;
import io.javalin.http.Context;
import java.io.IOException;
import java.io.InputStream;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Consumer;
import java.util.function.Function;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * MLflow's scoring protocol on the loopback interface: {@code /ping}, {@code /health}, {@code
 * /version} and {@code /invocations}, answered by {@link RowScorer}s. Each answer has the version
 * of its model in the header {@value #VERSION_HEADER}.
 *
 * <p>A second model can be asked in its shadow: it never answers, but its predictions go to a sink
 * with those that were answered, from a thread of their own. Requests wait for it up to so many
 * bytes: what comes while there is no room is counted, and left out.
 */
public final class ScoringServer implements AutoCloseable {
  /** Of an answer: the version that it is from. */
  public static final String VERSION_HEADER = "X-Model-Version";

  /** Of a request: what the canary is split by, such as a customer. */
  public static final String KEY_HEADER = "X-Routing-Key";

  private static final Logger LOG = LoggerFactory.getLogger(ScoringServer.class);
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int SHADOW_BATCH = 1_000;

  /** For more to come: a sink that makes a file of each batch would make one of each request. */
  private static final long NANOS_TO_LINGER = TimeUnit.SECONDS.toNanos(1);

  private static final int MAX_DRAIN = 16;

  /** For requests that have begun when the server is closed. */
  private static final long MILLIS_TO_STOP = 30_000;

  /** A model, by the name that its answers carry. */
  public record Version(String name, RowScorer scorer) {}

  /**
   * Who answers. A deployment is swapped as a whole.
   *
   * @param route from a request's key, "" if it has none, to the version that answers it
   * @param shadow is asked too, but does not answer; null for none
   */
  public record Deployment(Function<String, Version> route, Version shadow) {
    public static Deployment of(Version version) {
      return new Deployment(key -> version, null);
    }
  }

  /** Two predictions for one row: the one that was answered, and that of the shadow. */
  public record Shadowed(
      Instant at,
      String key,
      int row,
      String version,
      double prediction,
      String shadowVersion,
      double shadowPrediction) {}

  /** What happened to requests for the shadow. */
  public record ShadowCounts(long written, long dropped, long failed) {}

  // It is handed from one thread to another, and never compared.
  @SuppressWarnings("ArrayRecordComponent")
  private record ShadowTask(
      Instant at, String key, byte[] body, String version, double[] predictions, Version shadow) {}

  private final AtomicReference<Deployment> deployment;
  private final int maxBytes;
  private final Semaphore shadowBytes;
  private final BlockingQueue<ShadowTask> queue = new LinkedBlockingQueue<>();
  private final Consumer<List<Shadowed>> sink;
  private final Thread writer;
  private final AtomicLong written = new AtomicLong();
  private final AtomicLong dropped = new AtomicLong();
  private final AtomicLong failed = new AtomicLong();
  private final Javalin http;
  private volatile boolean closed;

  private ScoringServer(
      Deployment deployment, int maxBytes, int maxShadowBytes, Consumer<List<Shadowed>> sink) {
    this.deployment = new AtomicReference<>(deployment);
    this.maxBytes = maxBytes;
    this.shadowBytes = new Semaphore(maxShadowBytes);
    this.sink = sink;
    this.writer = new Thread(this::writeShadows, "shadow-predictions");
    this.http =
        Javalin.create(
                config -> {
                  config.showJavalinBanner = false;
                  config.http.prefer405over404 = true;
                  config.jetty.modifyServer(jetty -> jetty.setStopTimeout(MILLIS_TO_STOP));
                })
            .get("/ping", this::ping)
            .get("/health", this::ping)
            .get("/version", this::version)
            .post("/invocations", this::invocations);
  }

  /**
   * Starts on a free port.
   *
   * @param maxBytes of a request's body
   * @param maxShadowBytes of all requests that wait for the shadow, or that it works on
   * @param sink takes what the shadow predicted, in batches, from one thread
   */
  public static ScoringServer start(
      Deployment deployment, int maxBytes, int maxShadowBytes, Consumer<List<Shadowed>> sink) {
    ScoringServer server = new ScoringServer(deployment, maxBytes, maxShadowBytes, sink);
    server.http.start("127.0.0.1", 0);
    server.writer.start();
    return server;
  }

  public String uri() {
    return "http://127.0.0.1:" + http.port();
  }

  /** From now on; requests that are being answered keep the deployment that they began with. */
  public void deploy(Deployment next) {
    deployment.set(next);
  }

  public ShadowCounts shadowCounts() {
    return new ShadowCounts(written.get(), dropped.get(), failed.get());
  }

  /**
   * Takes no more requests, answers those that have begun unless their sender pauses for a second,
   * and writes what waits for the shadow.
   */
  @Override
  public void close() {
    try {
      http.stop();
    } finally {
      closed = true;
      try {
        writer.join();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private void ping(Context request) {
    request.contentType("application/json").result("\n");
  }

  /** Of MLflow, not of the model: so the protocol has it. */
  private void version(Context request) {
    request
        .contentType("application/json")
        .result(deployment.get().route().apply("").scorer().mlflowVersion());
  }

  private void invocations(Context request) throws IOException, InterruptedException {
    // Once: a swap in between must not mix two deployments in one answer.
    Deployment now = deployment.get();
    String key = request.header(KEY_HEADER) == null ? "" : request.header(KEY_HEADER);
    Version version = now.route().apply(key);
    request.header(VERSION_HEADER, version.name());
    byte[] body = body(request);
    String type = request.contentType() == null ? "" : request.contentType();
    if (!type.replace(" ", "").matches("(?i)application/json(;charset=\"?utf-8\"?)?")) {
      refuse(request, 415, "The content type must be application/json in UTF-8, not " + type);
      return;
    }
    if (body == null) {
      refuse(request, 413, "The body has more than %,d bytes".formatted(maxBytes));
      return;
    }
    double[] predictions;
    try {
      predictions = predict(version, body);
    } catch (ScoringRequest.Invalid e) {
      refuse(request, 400, e.getMessage());
      return;
    } catch (IllegalArgumentException e) {
      LOG.warn("Version {} refuses a request", version.name(), e);
      refuse(request, 400, e.getMessage());
      return;
    }
    request
        .contentType("application/json")
        .result(JSON.writeValueAsBytes(Map.of("predictions", predictions)));
    if (now.shadow() == null) {
      return;
    }
    if (shadowBytes.tryAcquire(body.length)) {
      queue.add(
          new ShadowTask(Instant.now(), key, body, version.name(), predictions, now.shadow()));
    } else {
      dropped.incrementAndGet();
    }
  }

  private static double[] predict(Version version, byte[] body)
      throws ScoringRequest.Invalid, InterruptedException {
    RowScorer scorer = version.scorer();
    return scorer.predict(ScoringRequest.rows(body, scorer.inputs(), scorer.zone()));
  }

  /** What is too large is read to a certain length: who still sends reads no answer. */
  private byte[] body(Context request) throws IOException {
    InputStream in = request.bodyInputStream();
    byte[] body = in.readNBytes(maxBytes + 1);
    if (body.length <= maxBytes) {
      return body;
    }
    byte[] rest = new byte[8192];
    long drain = (long) MAX_DRAIN * maxBytes;
    for (int n = in.read(rest); n >= 0 && drain > 0; n = in.read(rest)) {
      drain -= n;
    }
    return null;
  }

  /** In the form of MLflow's errors. */
  private static void refuse(Context request, int status, String message)
      throws JsonProcessingException {
    request
        .status(status)
        .contentType("application/json")
        .result(JSON.writeValueAsBytes(Map.of("error_code", "BAD_REQUEST", "message", message)));
  }

  private void writeShadows() {
    try {
      while (!(closed && queue.isEmpty())) {
        List<ShadowTask> tasks = nextShadows();
        if (!tasks.isEmpty()) {
          write(tasks);
          shadowBytes.release(tasks.stream().mapToInt(task -> task.body().length).sum());
        }
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private List<ShadowTask> nextShadows() throws InterruptedException {
    List<ShadowTask> tasks = new ArrayList<>();
    long deadline = System.nanoTime() + NANOS_TO_LINGER;
    while (tasks.size() < SHADOW_BATCH && System.nanoTime() < deadline) {
      ShadowTask task = queue.poll(100, TimeUnit.MILLISECONDS);
      if (task != null) {
        tasks.add(task);
      } else if (closed) {
        break;
      }
    }
    return tasks;
  }

  private void write(List<ShadowTask> tasks) throws InterruptedException {
    List<Shadowed> rows = new ArrayList<>();
    int scored = 0;
    for (ShadowTask task : tasks) {
      try {
        double[] shadow = predict(task.shadow(), task.body());
        for (int i = 0; i < shadow.length; i++) {
          rows.add(
              new Shadowed(
                  task.at(),
                  task.key(),
                  i,
                  task.version(),
                  task.predictions()[i],
                  task.shadow().name(),
                  shadow[i]));
        }
        scored++;
      } catch (ScoringRequest.Invalid | RuntimeException e) {
        LOG.warn("The shadow {} does not take a request", task.shadow().name(), e);
        failed.incrementAndGet();
      }
    }
    try {
      if (!rows.isEmpty()) {
        sink.accept(rows);
      }
      written.addAndGet(scored);
    } catch (Exception e) {
      // Spark's are checked ones, which Scala does not declare: none may end this thread.
      LOG.warn("Shadow predictions of {} requests were not written", scored, e);
      failed.addAndGet(scored);
    }
  }
}
