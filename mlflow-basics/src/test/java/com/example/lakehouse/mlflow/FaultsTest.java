package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.PromoteModel.Decision;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.LoopbackProxy;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import dev.failsafe.Failsafe;
import dev.failsafe.RetryPolicy;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.LongStream;
import java.util.stream.Stream;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowClientException;
import org.mlflow.tracking.MlflowHttpException;

/** What becomes of runs, models and aliases when the server dies or a request fails. */
@MlflowTest
class FaultsTest {
  private static final LoopbackProxy.Fault UNAVAILABLE =
      LoopbackProxy.answer(503, "starting", Map.of("Retry-After", "0"));

  private final String name = "faults-" + UUID.randomUUID();
  private ModelRegistry registry;
  private LoopbackProxy gateway;
  private Credentials throughGateway;

  @BeforeEach
  void openGateway(MlflowServer mlflow) {
    registry = mlflow.registry();
    gateway = new LoopbackProxy(mlflow.uri());
    throughGateway = Credentials.of(gateway.uri());
  }

  @AfterEach
  void closeGateway() {
    gateway.close();
  }

  @Nested
  class KilledServer {
    private final ExecutorService thread = Executors.newSingleThreadExecutor();

    @AfterEach
    void stopThread() {
      thread.shutdownNow();
    }

    /** A training that logs 200 times 10 points; the server is killed after the twentieth time. */
    @Test
    void aRunInWhichTheServerWasKilledIsWhole(@TempDir Path folder) throws Exception {
      AtomicInteger logged = new AtomicInteger();
      AtomicInteger failed = new AtomicInteger();
      CountDownLatch twenty = new CountDownLatch(20);
      String uri;
      String run;
      Future<?> training;
      try (MlflowServer server = start(folder);
          MlflowClient client = Credentials.of(server.uri()).client()) {
        uri = server.uri();
        run = client.createRun().getRunId();
        client.logParam(run, "rate", "0.1");
        training =
            thread.submit(
                () -> {
                  try (MlflowClient own = Credentials.of(uri).client()) {
                    for (int i = 0; i < 200; i++) {
                      List<Metric> points = points(10 * i);
                      untilItAnswers(failed, () -> own.logBatch(run, points, List.of(), List.of()));
                      logged.incrementAndGet();
                      twenty.countDown();
                    }
                    untilItAnswers(failed, () -> own.setTerminated(run));
                  }
                });
        assertThat(twenty.await(1, TimeUnit.MINUTES)).isTrue();
        server.kill();
      }
      int before = logged.get();
      assertThat(before).isBetween(20, 199);

      try (MlflowServer server = start(folder)) {
        assertThat(server.uri()).as("where the training still asks").isEqualTo(uri);
        assertThat(steps(server.client(), run))
            .as("what was logged before")
            .containsAll(LongStream.range(0, 10L * before).boxed().toList());
        training.get(1, TimeUnit.MINUTES);

        assertThat(failed).as("the training met the dead server").hasPositiveValue();
        assertThat(steps(server.client(), run))
            .as("each point, once")
            .isEqualTo(LongStream.range(0, 2_000).boxed().toList());
        Run whole = server.client().getRun(run);
        assertThat(whole.getInfo().getStatus()).isEqualTo(RunStatus.FINISHED);
        assertThat(whole.getData().getParams(0).getValue()).isEqualTo("0.1");
        assertThat(
                server.client().searchRuns(List.of("0"), "", ViewType.ACTIVE_ONLY, 10).getItems())
            .as("the run, and no second one")
            .hasSize(1);
      }
    }

    /** The process that trained may be gone too: a run that was left is RUNNING, and goes on. */
    @Test
    void aRunThatWasLeftInTheMiddleIsTakenUpByItsIdAndItsUploadIsRepeated(@TempDir Path parent)
        throws Exception {
      Path folder = parent.resolve("server");
      Path files = Files.createDirectories(parent.resolve("files"));
      for (int i = 0; i < 5; i++) {
        Files.writeString(files.resolve("part-" + i), "part " + i);
      }
      String run;
      CountDownLatch killed = new CountDownLatch(1);
      Future<String> upload;
      try (MlflowServer server = start(folder);
          LoopbackProxy before = new LoopbackProxy(server.uri())) {
        run = server.client().createRun().getRunId();
        server.client().logMetric(run, "loss", 0.5, 1_000, 0);
        before.next(
            "PUT .*part-3",
            exchange -> {
              server.kill();
              killed.countDown();
              throw new IOException("the server is dead");
            });
        upload =
            thread.submit(
                () -> new ArtifactStore(Credentials.of(before.uri())).upload(run, files, "files"));
        assertThat(killed.await(1, TimeUnit.MINUTES)).isTrue();

        try (MlflowServer again = start(folder)) {
          assertThat(upload.get(1, TimeUnit.MINUTES)).isEqualTo(ArtifactStore.digest(files));
          assertThat(before.count("PUT .*part-0")).as("not from the start").isEqualTo(1);
          Path back = again.artifacts().download(run, "files", parent.resolve("back"));
          assertThat(ArtifactStore.digest(back)).isEqualTo(ArtifactStore.digest(files));

          assertThat(again.client().getRun(run).getInfo().getStatus()).isEqualTo(RunStatus.RUNNING);
          again.client().logMetric(run, "loss", 0.25, 2_000, 1);
          again.client().setTerminated(run);
          assertThat(again.client().getRun(run).getInfo().getStatus())
              .isEqualTo(RunStatus.FINISHED);
          assertThat(again.client().getMetricHistory(run, "loss"))
              .extracting(Metric::getValue)
              .containsExactly(0.5, 0.25);
        }
      }
    }

    private static MlflowServer start(Path folder) {
      return MlflowExtension.orSkip(() -> MlflowServer.start(folder));
    }

    /** MLflow keeps a point that comes twice once: so a call whose answer was lost is repeated. */
    private static void untilItAnswers(AtomicInteger failed, Runnable call) {
      Failsafe.with(
              RetryPolicy.builder()
                  .handle(MlflowClientException.class)
                  .withDelay(Duration.ofMillis(200))
                  .withMaxRetries(-1)
                  .withMaxDuration(Duration.ofMinutes(1))
                  .onFailedAttempt(attempt -> failed.incrementAndGet())
                  .build())
          .run(call::run);
    }

    private static List<Metric> points(int first) {
      return IntStream.range(first, first + 10)
          .mapToObj(
              step ->
                  Metric.newBuilder()
                      .setKey("loss")
                      .setValue(1.0 / (1 + step))
                      .setTimestamp(1_000 + step)
                      .setStep(step)
                      .build())
          .toList();
    }

    private static List<Long> steps(MlflowClient client, String run) {
      return client.getMetricHistory(run, "loss").stream().map(Metric::getStep).sorted().toList();
    }
  }

  @Nested
  class Unavailable {

    @Test
    void a503IsRetriedWithDelaysThatGrow() {
      List<Long> times = Collections.synchronizedList(new ArrayList<>());
      gateway.each(
          "registered-models/create",
          exchange -> {
            times.add(System.nanoTime());
            if (times.size() <= 3) {
              LoopbackProxy.answer(503, "starting").handle(exchange);
            } else {
              gateway.pass(exchange);
            }
          });

      new ModelRegistry(throughGateway).createModel(name, "", Map.of());

      assertThat(registry.model(name).name()).isEqualTo(name);
      assertThat(times).hasSize(4);
      // Half a second, one and two, less a fifth; a busy machine makes them longer, never shorter.
      for (int i = 0; i < 3; i++) {
        assertThat(Duration.ofNanos(times.get(i + 1) - times.get(i)))
            .isGreaterThanOrEqualTo(Duration.ofMillis(400L << i));
      }
    }

    /** It repeats a request at once, which is no help while a server starts. */
    @Test
    void mlflowsOwnClientGivesUpAfterThreeTriesWithoutADelay() {
      gateway.each("runs/create", UNAVAILABLE);

      try (MlflowClient client = throughGateway.client()) {
        assertThatThrownBy(client::createRun)
            .isInstanceOfSatisfying(
                MlflowHttpException.class, e -> assertThat(e.getStatusCode()).isEqualTo(503));
      }
      assertThat(gateway.requests()).hasSize(3);
    }
  }

  @Nested
  class Aliases {

    private void twoChallengers(MlflowServer mlflow) {
      String run = mlflow.client().createRun().getRunId();
      registry.createModel(name, "", Map.of());
      for (int i = 0; i < 3; i++) {
        registry.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());
      }
      registry.setAlias(name, "champion", 1);
    }

    /** Each request that writes is carried out, its answer is lost, and it is sent again. */
    @RepeatedTest(5)
    void twoPromotionsAtOnceWhoseAnswersAreLostEndInOneChampion(MlflowServer mlflow)
        throws Exception {
      twoChallengers(mlflow);
      Set<String> lost = ConcurrentHashMap.newKeySet();
      gateway.each(
          "POST ",
          exchange -> {
            if (lost.add(exchange.getRequestURI() + Thread.currentThread().getName())) {
              gateway.loseAnswer().handle(exchange);
            } else {
              gateway.pass(exchange);
            }
          });
      CyclicBarrier start = new CyclicBarrier(2);
      ExecutorService threads = Executors.newFixedThreadPool(2);
      List<Decision> decisions = new ArrayList<>();
      try {
        for (Future<Decision> decision :
            threads.invokeAll(
                Stream.of(2, 3)
                    .<Callable<Decision>>map(
                        challenger ->
                            () -> {
                              start.await();
                              registry.setAlias(name, "challenger", challenger);
                              return PromoteModel.promote(
                                  new ModelRegistry(throughGateway),
                                  name,
                                  version -> 10 - version.version(),
                                  0.5);
                            })
                    .toList())) {
          decisions.add(decision.get());
        }
      } finally {
        threads.shutdownNow();
      }

      assertThat(lost).isNotEmpty();
      ModelVersion champion = registry.byAlias(name, "champion").orElseThrow();
      assertThat(decisions)
          .filteredOn(Decision::promoted)
          .extracting(Decision::challenger)
          .contains(champion.version());
      int replaced = Integer.parseInt(champion.tags().get(PromoteModel.REPLACED_TAG));
      assertThat(replaced).as("it won against that").isLessThan(champion.version());
      assertThat(PromoteModel.rollback(registry, name, champion.version()).version())
          .isEqualTo(replaced);
    }

    /** What a repeated request costs: the registry cannot tell it from a new one. */
    @Test
    void aRequestThatIsRepeatedMovesAnAliasBackThatAnotherMovedMeanwhile(MlflowServer mlflow) {
      twoChallengers(mlflow);
      gateway.next(
          "POST .*/registered-models/alias",
          exchange -> {
            try {
              gateway.loseAnswer().handle(exchange);
            } finally {
              registry.setAlias(name, "champion", 1);
            }
          });

      new ModelRegistry(throughGateway).setAlias(name, "champion", 2);

      assertThat(registry.byAlias(name, "champion")).map(ModelVersion::version).hasValue(2);
    }
  }

  @Nested
  @SparkTest
  class Models {

    @ParameterizedTest
    @ValueSource(strings = {"model/MLmodel", "model/sparkml/metadata/.*", "model.sha256"})
    void aHalfUploadedModelIsNotRegistered(
        String file, SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
      gateway.each("PUT .*/" + file + "$", UNAVAILABLE);
      String run = mlflow.client().createRun().getRunId();
      PipelineModel model = SimpleModels.model(spark, "10 * items");

      assertThatThrownBy(() -> publish(model, SimpleModels.example(spark), run))
          .isInstanceOf(MlflowException.class)
          .hasMessage("HTTP 503: starting");

      assertThat(registry.searchModels("name = '" + name + "'")).isEmpty();
      assertThat(registry.searchVersions("run_id = '" + run + "'")).isEmpty();
      // Neither is it loaded when somebody registers what there is.
      ModelVersion half = LogModel.register(registry, name, run, "0".repeat(64));
      Path folder = sandbox.folder().resolve("models");
      assertThatThrownBy(() -> LogModel.load(mlflow.artifacts(), half, folder))
          .isInstanceOf(MlflowException.class);
      // A run of its own, when the server answers again, has a whole one.
      mendGateway(mlflow);
      ModelVersion whole =
          publish(model, SimpleModels.example(spark), mlflow.client().createRun().getRunId());
      assertThat(whole.version()).isEqualTo(2);
      assertThat(LogModel.load(mlflow.artifacts(), whole, folder).stages()).hasSize(1);
    }

    /** Spark gives its files other names each time: those of the first upload are still there. */
    @Test
    void aModelThatIsLoggedAgainToTheSameRunIsNotWhole(
        SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
      gateway.each("PUT .*/model.sha256$", UNAVAILABLE);
      String run = mlflow.client().createRun().getRunId();
      PipelineModel model = SimpleModels.model(spark, "10 * items");
      assertThatThrownBy(() -> publish(model, SimpleModels.example(spark), run))
          .isInstanceOf(MlflowException.class);
      mendGateway(mlflow);

      ModelVersion version = publish(model, SimpleModels.example(spark), run);

      assertThatThrownBy(
              () -> LogModel.load(mlflow.artifacts(), version, sandbox.folder().resolve("models")))
          .isInstanceOf(MlflowException.class)
          .hasMessageContaining("is not what was uploaded: missing [], added [sparkml/metadata/");
    }

    private void mendGateway(MlflowServer mlflow) {
      closeGateway();
      openGateway(mlflow);
    }

    private ModelVersion publish(PipelineModel model, Dataset<Row> example, String run) {
      String digest = LogModel.log(new ArtifactStore(throughGateway), run, model, example);
      return LogModel.register(new ModelRegistry(throughGateway), name, run, digest);
    }

    /** The first try of each request, by method and path, is answered with 503. */
    @Test
    void aModelGoesItsWholeWayThoughEachRequestIsRefusedOnce(
        SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
      Set<String> refused = ConcurrentHashMap.newKeySet();
      gateway.each(
          "/api/",
          exchange -> {
            if (refused.add(
                exchange.getRequestMethod() + " " + exchange.getRequestURI().getPath())) {
              UNAVAILABLE.handle(exchange);
            } else {
              gateway.pass(exchange);
            }
          });
      String run = mlflow.client().createRun().getRunId();
      ModelRegistry through = new ModelRegistry(throughGateway);

      ModelVersion version =
          publish(SimpleModels.model(spark, "10 * items"), SimpleModels.example(spark), run);
      through.setAlias(name, "challenger", 1);
      PromoteModel.promote(through, name, v -> 1, 0);
      ModelVersion champion = through.byAlias(name, "champion").orElseThrow();
      PipelineModel loaded =
          LogModel.load(
              new ArtifactStore(throughGateway), champion, sandbox.folder().resolve("models"));

      assertThat(registry.versions(name)).as("one, not two").containsExactly(version);
      assertThat(champion).isEqualTo(version);
      assertThat(
              loaded
                  .transform(spark.sql("SELECT 1L AS order_id, 7L AS items"))
                  .select("prediction")
                  .first()
                  .getDouble(0))
          .isEqualTo(70);
      assertThat(refused)
          .contains(
              "POST /api/2.0/mlflow/registered-models/create",
              "POST /api/2.0/mlflow/model-versions/create",
              "POST /api/2.0/mlflow/registered-models/alias",
              "GET /api/2.0/mlflow/registered-models/alias")
          .anyMatch(request -> request.matches("PUT .*/model/MLmodel"))
          .anyMatch(request -> request.matches("GET .*/model/MLmodel"));
    }
  }
}
