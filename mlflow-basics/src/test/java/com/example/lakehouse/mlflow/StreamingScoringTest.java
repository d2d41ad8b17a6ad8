package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.LoopbackProxy;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import io.delta.tables.DeltaTable;
import java.nio.file.Path;
import java.util.UUID;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.IntStream;
import org.apache.commons.io.FileUtils;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@SparkTest
@MlflowTest
class StreamingScoringTest {
  private final String name = "streaming-scoring-" + UUID.randomUUID();
  private SparkSession spark;
  private ModelRegistry registry;
  private LoopbackProxy gateway;
  private String checkpoint;
  private VoidFunction2<Dataset<Row>, Long> scoring;

  /** Version 1 gives ten times the items, version 2 a hundred times. */
  @BeforeEach
  void createTables(
      SparkSession session, Sandbox sandbox, MlflowServer mlflow, @TempDir Path models) {
    spark = session;
    registry = mlflow.registry();
    gateway = new LoopbackProxy(mlflow.uri());
    checkpoint = sandbox.path("checkpoint");
    SimpleModels.register(spark, mlflow, name, "10 * items");
    SimpleModels.register(spark, mlflow, name, "100 * items");
    champion(1);
    spark.sql("CREATE TABLE orders (order_id BIGINT, items BIGINT) USING delta");
    StreamingScoring.createPredictions(spark, "predictions");
    scoring = scoring(models, "test");
  }

  @AfterEach
  void closeGateway() {
    gateway.close();
  }

  private VoidFunction2<Dataset<Row>, Long> scoring(Path models, String application) {
    Credentials credentials = Credentials.of(gateway.uri());
    return StreamingScoring.scoring(
        new ModelRegistry(credentials),
        new ArtifactStore(credentials),
        name,
        "predictions",
        application,
        models);
  }

  private void champion(int version) {
    registry.setAlias(name, "champion", version);
  }

  /** A file of two orders, with the numbers {@code n} and {@code n + 1} as key and items. */
  private void arrive(long n) {
    spark
        .range(n, n + 2, 1, 1)
        .selectExpr("id AS order_id", "id AS items")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("orders");
  }

  private StreamingQuery start(VoidFunction2<Dataset<Row>, Long> each, Trigger trigger)
      throws Exception {
    return StreamingScoring.start(
        spark.readStream().option("maxFilesPerTrigger", 1).table("orders"),
        each,
        checkpoint,
        trigger);
  }

  private void scoreAvailable(VoidFunction2<Dataset<Row>, Long> each) throws Exception {
    start(each, Trigger.AvailableNow()).awaitTermination();
  }

  private Dataset<Row> predictions() {
    return spark.table("predictions").select("order_id", "prediction", "model_version", "batch");
  }

  private long version() {
    return DeltaTable.forName(spark, "predictions").history(1).first().<Long>getAs("version");
  }

  @Test
  void aPromotionBetweenTwoBatchesTakesEffectWithoutARestart() throws Exception {
    StreamingQuery query = start(scoring, Trigger.ProcessingTime(0));
    try {
      arrive(1);
      query.processAllAvailable();
      champion(2);
      arrive(3);
      query.processAllAvailable();
      champion(1);
      arrive(5);
      query.processAllAvailable();
    } finally {
      query.stop();
    }

    assertThat(predictions())
        .hasRows(
            row(1L, 10.0, 1, 0L),
            row(2L, 20.0, 1, 0L),
            row(3L, 300.0, 2, 1L),
            row(4L, 400.0, 2, 1L),
            row(5L, 50.0, 1, 2L),
            row(6L, 60.0, 1, 2L));
  }

  /** The alias moves when batch 1 has asked for it and before it is scored. */
  @Test
  void aPromotionDuringABatchTakesEffectAtTheNext() throws Exception {
    arrive(1);
    arrive(3);
    arrive(5);
    VoidFunction2<Dataset<Row>, Long> promoting =
        (orders, batch) -> {
          if (batch == 1) {
            gateway.next(
                "GET .*/registered-models/alias",
                exchange -> {
                  gateway.pass(exchange);
                  champion(2);
                });
          }
          scoring.call(orders, batch);
        };

    scoreAvailable(promoting);

    assertThat(predictions())
        .hasRows(
            row(1L, 10.0, 1, 0L),
            row(2L, 20.0, 1, 0L),
            row(3L, 30.0, 1, 1L),
            row(4L, 40.0, 1, 1L),
            row(5L, 500.0, 2, 2L),
            row(6L, 600.0, 2, 2L));
    assertThat(gateway.count("/registered-models/alias"))
        .as("asked for once by each batch")
        .isEqualTo(3);
    assertThat(gateway.count("GET .*/artifacts/.*MLmodel$"))
        .as("loaded once for each version")
        .isEqualTo(2);
    assertThat(version()).as("one commit for each batch").isEqualTo(3);
  }

  @Test
  void aModelStaysInMemoryWhileItsVersionIsChampion(@TempDir Path models) throws Exception {
    VoidFunction2<Dataset<Row>, Long> each = scoring(models, "memory");
    arrive(1);
    scoreAvailable(each);
    FileUtils.cleanDirectory(models.toFile());
    arrive(3);

    scoreAvailable(each);

    assertThat(gateway.count("GET .*/artifacts/.*MLmodel$")).isEqualTo(1);
    assertThat(predictions())
        .hasRows(
            row(1L, 10.0, 1, 0L), row(2L, 20.0, 1, 0L), row(3L, 30.0, 1, 1L), row(4L, 40.0, 1, 1L));
  }

  @Test
  void noBatchMixesVersionsHoweverOftenTheAliasMoves() throws Exception {
    IntStream.range(0, 12).forEach(i -> arrive(1 + 2L * i));
    AtomicBoolean done = new AtomicBoolean();
    ExecutorService thread = Executors.newSingleThreadExecutor();
    try {
      Future<Integer> moves =
          thread.submit(
              () -> {
                int count = 0;
                while (!done.get()) {
                  champion(1 + ++count % 2);
                }
                return count;
              });
      try {
        scoreAvailable(scoring);
      } finally {
        done.set(true);
      }
      assertThat(moves.get()).isGreaterThan(12);
    } finally {
      thread.shutdownNow();
    }

    assertThat(StreamingScoring.batches(spark, "predictions").select("orders"))
        .hasRowCount(12)
        .hasSameRowsAs(spark.range(12).selectExpr("2L AS orders"));
    assertThat(StreamingScoring.batches(spark, "predictions").where("size(model_versions) <> 1"))
        .isEmpty();
    assertThat(
            spark
                .table("predictions")
                .where("prediction <> order_id * IF(model_version = 1, 10, 100)"))
        .isEmpty();
  }

  @Test
  void aBatchThatWasCommittedStaysAsItWasWhenItIsRepeated() throws Exception {
    arrive(1);
    arrive(3);
    VoidFunction2<Dataset<Row>, Long> crashing =
        (orders, batch) -> {
          scoring.call(orders, batch);
          if (batch == 1) {
            throw new IllegalStateException("crash");
          }
        };
    assertThatThrownBy(() -> scoreAvailable(crashing))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining("crash");
    assertThat(version()).isEqualTo(2);
    champion(2);
    arrive(5);

    scoreAvailable(scoring);

    assertThat(predictions())
        .hasRows(
            row(1L, 10.0, 1, 0L),
            row(2L, 20.0, 1, 0L),
            row(3L, 30.0, 1, 1L),
            row(4L, 40.0, 1, 1L),
            row(5L, 500.0, 2, 2L),
            row(6L, 600.0, 2, 2L));
    assertThat(version()).as("the repeated batch made none").isEqualTo(3);
  }

  /** Version 3 fails on the second of a batch's orders. */
  @Test
  void aBatchThatFailedHalfWayIsScoredByTheChampionOfTheRestartAsAWhole(MlflowServer mlflow)
      throws Exception {
    SimpleModels.register(spark, mlflow, name, "12 div (items - 4)");
    arrive(1);
    scoreAvailable(scoring);
    champion(3);
    arrive(3);
    assertRefused("DIVIDE_BY_ZERO", () -> scoreAvailable(scoring));
    assertThat(version()).as("nothing of it is written").isEqualTo(1);
    champion(2);

    scoreAvailable(scoring);

    assertThat(predictions())
        .hasRows(
            row(1L, 10.0, 1, 0L),
            row(2L, 20.0, 1, 0L),
            row(3L, 300.0, 2, 1L),
            row(4L, 400.0, 2, 1L));
  }

  @Test
  void aChampionThatCannotBeLoadedStopsTheStreamAndLosesNothing(MlflowServer mlflow)
      throws Exception {
    String run = mlflow.client().createRun().getRunId();
    ModelVersion empty = LogModel.register(registry, name, run, "0".repeat(64));
    champion(empty.version());
    arrive(1);

    assertThatThrownBy(() -> scoreAvailable(scoring))
        .isInstanceOfSatisfying(
            StreamingQueryException.class,
            e -> assertThat(e.cause()).isInstanceOf(MlflowException.class));
    champion(1);
    scoreAvailable(scoring);

    assertThat(predictions()).hasRows(row(1L, 10.0, 1, 0L), row(2L, 20.0, 1, 0L));
  }

  @Test
  void withoutAChampionTheStreamStops() {
    registry.deleteAlias(name, "champion");
    arrive(1);

    assertThatThrownBy(() -> scoreAvailable(scoring))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining(name + " has no champion");
    assertThat(version()).isZero();
  }

  @Test
  void aRegistryThatIsAwayForAMomentDoesNotStopTheStream() throws Exception {
    arrive(1);
    gateway
        .next("GET .*/registered-models/alias", LoopbackProxy.answer(503, "starting"))
        .next("GET .*/registered-models/alias", LoopbackProxy.cutRequest(0))
        .next("GET .*MLmodel", LoopbackProxy.answer(503, "starting"));

    scoreAvailable(scoring);

    assertThat(predictions()).hasRows(row(1L, 10.0, 1, 0L), row(2L, 20.0, 1, 0L));
    assertThat(gateway.count("/registered-models/alias")).isEqualTo(3);
  }

  /** Its batches have numbers that were written under this name: Delta takes them for repeated. */
  @Test
  void aNewCheckpointUnderTheOldNameLosesItsFirstBatches(Sandbox sandbox, @TempDir Path models)
      throws Exception {
    arrive(1);
    arrive(3);
    scoreAvailable(scoring);
    spark.sql("TRUNCATE TABLE predictions");
    arrive(5);
    checkpoint = sandbox.path("new-checkpoint");

    scoreAvailable(scoring);

    assertThat(predictions()).hasRows(row(5L, 50.0, 1, 2L), row(6L, 60.0, 1, 2L));
    checkpoint = sandbox.path("named-checkpoint");
    scoreAvailable(scoring(models, "another"));
    assertThat(predictions().where("batch < 2"))
        .hasRows(
            row(1L, 10.0, 1, 0L), row(2L, 20.0, 1, 0L), row(3L, 30.0, 1, 1L), row(4L, 40.0, 1, 1L));
  }

  @Test
  void theBatchesSayWhichVersionsAreInThem() {
    spark.sql(
        """
        INSERT INTO predictions VALUES
          (1, 10, 1, 0, TIMESTAMP'2025-03-01'),
          (2, 10, 2, 1, TIMESTAMP'2025-03-01'),
          (3, 10, 1, 1, TIMESTAMP'2025-03-01')
        """);

    assertThat(
            StreamingScoring.batches(spark, "predictions")
                .selectExpr("batch", "orders", "array_join(model_versions, ' ')"))
        .hasRowsInOrder(row(0L, 1L, "1"), row(1L, 2L, "1 2"));
  }
}
