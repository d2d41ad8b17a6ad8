package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
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
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@SparkTest
@MlflowTest
class BatchScoringTest {
  /** Of all tests: a model is downloaded once. */
  @TempDir private static Path models;

  private final String name = "batch-scoring-" + UUID.randomUUID();
  private SparkSession spark;
  private ModelRegistry registry;
  private ArtifactStore artifacts;
  private ModelVersion tens;
  private ModelVersion hundreds;

  @BeforeEach
  void createTables(SparkSession session, Sandbox sandbox, MlflowServer mlflow) {
    spark = session;
    registry = mlflow.registry();
    artifacts = mlflow.artifacts();
    tens = SimpleModels.register(spark, mlflow, name, "10 * items");
    hundreds = SimpleModels.register(spark, mlflow, name, "100 * items");
    registry.setAlias(name, "champion", 1);
    spark.sql("CREATE TABLE orders (order_id BIGINT, items BIGINT) USING delta");
    spark.sql("INSERT INTO orders VALUES (1, 4), (2, 2), (3, 5)");
    BatchScoring.createPredictions(spark, "predictions");
  }

  private ModelVersion score() {
    return BatchScoring.scoreWithChampion(
        spark, registry, artifacts, name, "orders", "predictions", models);
  }

  private long score(ModelVersion version) {
    return BatchScoring.score(spark, artifacts, version, "orders", "predictions", models);
  }

  private Dataset<Row> predictions() {
    return spark.table("predictions").select("order_id", "prediction", "model_version");
  }

  /** Of the table of predictions: 0 is the empty one. */
  private long version() {
    return DeltaTable.forName(spark, "predictions").history(1).first().<Long>getAs("version");
  }

  @Test
  void eachPredictionHasItsVersionAndTheTimeOfTheRun() {
    Instant before = Instant.now();
    assertThat(score()).isEqualTo(tens);
    Instant after = Instant.now();

    assertThat(predictions()).hasRows(row(1L, 40.0, 1), row(2L, 20.0, 1), row(3L, 50.0, 1));
    assertThat(version()).as("one commit").isEqualTo(1);
    List<Row> times = spark.table("predictions").select("scored_at").distinct().collectAsList();
    assertThat(times).hasSize(1);
    assertThat(times.get(0).getInstant(0)).isBetween(before.minusMillis(1), after);
  }

  @Test
  void aSecondRunReadsNoModelAndCommitsNothing(MlflowServer mlflow) {
    score();
    List<Row> before = spark.table("predictions").orderBy("order_id").collectAsList();

    try (LoopbackProxy gateway = new LoopbackProxy(mlflow.uri())) {
      Credentials credentials = Credentials.of(gateway.uri());
      BatchScoring.scoreWithChampion(
          spark,
          new ModelRegistry(credentials),
          new ArtifactStore(credentials),
          name,
          "orders",
          "predictions",
          models.resolve("unused"));

      assertThat(gateway.requests()).containsExactly("GET /api/2.0/mlflow/registered-models/alias");
    }
    assertThat(version()).isEqualTo(1);
    assertThat(spark.table("predictions").orderBy("order_id").collectAsList()).isEqualTo(before);
  }

  @Test
  void newRowsAloneAreScored() {
    assertThat(score(tens)).isEqualTo(3);
    List<Row> before = spark.table("predictions").orderBy("order_id").collectAsList();
    spark.sql("INSERT INTO orders VALUES (4, 1)");

    assertThat(score(tens)).isEqualTo(1);

    assertThat(predictions())
        .hasRows(row(1L, 40.0, 1), row(2L, 20.0, 1), row(3L, 50.0, 1), row(4L, 10.0, 1));
    assertThat(spark.table("predictions").where("order_id < 4").orderBy("order_id").collectAsList())
        .as("with the time of the first run")
        .isEqualTo(before);
  }

  @Test
  void aNewChampionScoresAllBesideTheOldOneAndTheOldOneIsThereAfterARollback() {
    score();
    registry.setAlias(name, "champion", 2);
    assertThat(score()).isEqualTo(hundreds);

    assertThat(BatchScoring.of(spark, "predictions", tens).select("order_id", "prediction"))
        .hasRows(row(1L, 40.0), row(2L, 20.0), row(3L, 50.0));
    assertThat(BatchScoring.of(spark, "predictions", hundreds).select("order_id", "prediction"))
        .hasRows(row(1L, 400.0), row(2L, 200.0), row(3L, 500.0));
    long version = version();
    registry.setAlias(name, "champion", 1);
    assertThat(score()).isEqualTo(tens);
    assertThat(version()).as("nothing to do").isEqualTo(version);
  }

  @Test
  void theFilesOfOtherVersionsAreNotRead() {
    score(tens);
    score(hundreds);
    spark.sql("INSERT INTO orders VALUES (4, 1)");

    QueryProfile reading =
        QueryProfile.of(
            spark, () -> BatchScoring.of(spark, "predictions", hundreds).collectAsList());
    score(hundreds);

    assertThat(reading.filesRead()).isEqualTo(1);
    assertThat(metrics()).containsEntry("numTargetRowsInserted", "1");
    assertThat(spark.sql("DESCRIBE HISTORY predictions").select("operationParameters.predicate"))
        .as("the condition names the partition")
        .satisfies(
            rows ->
                assertThat(rows.first().getString(0)).contains("model_version").contains("= 2"));
  }

  private Map<String, String> metrics() {
    Row operation = DeltaTable.forName(spark, "predictions").history(1).first();
    return operation.getJavaMap(operation.fieldIndex("operationMetrics"));
  }

  /** The alias moves when the run has asked for it, before it loads the model. */
  @Test
  void aPromotionDuringARunIsForTheNextOne(MlflowServer mlflow, @TempDir Path empty) {
    try (LoopbackProxy gateway = new LoopbackProxy(mlflow.uri())) {
      gateway.next(
          "GET .*/registered-models/alias",
          exchange -> {
            gateway.pass(exchange);
            registry.setAlias(name, "champion", 2);
          });
      Credentials credentials = Credentials.of(gateway.uri());

      ModelVersion used =
          BatchScoring.scoreWithChampion(
              spark,
              new ModelRegistry(credentials),
              new ArtifactStore(credentials),
              name,
              "orders",
              "predictions",
              empty);

      assertThat(used).isEqualTo(tens);
      assertThat(gateway.count("/registered-models/alias")).as("asked for once").isEqualTo(1);
    }
    assertThat(registry.byAlias(name, "champion")).hasValue(hundreds);
    assertThat(predictions()).hasRows(row(1L, 40.0, 1), row(2L, 20.0, 1), row(3L, 50.0, 1));
  }

  /** A second run scores everything while the first one still downloads the model. */
  @Test
  void ofTwoRunsAtOnceOneWritesEachRow(MlflowServer mlflow, @TempDir Path empty) {
    AtomicReference<Long> second = new AtomicReference<>();
    try (LoopbackProxy gateway = new LoopbackProxy(mlflow.uri())) {
      gateway.next(
          "GET .*/artifacts/.*MLmodel",
          exchange -> {
            second.set(score(tens));
            gateway.pass(exchange);
          });

      long first =
          BatchScoring.score(
              spark,
              new ArtifactStore(Credentials.of(gateway.uri())),
              tens,
              "orders",
              "predictions",
              empty);

      assertThat(first).isZero();
    }
    assertThat(second).hasValue(3L);
    assertThat(predictions()).hasRows(row(1L, 40.0, 1), row(2L, 20.0, 1), row(3L, 50.0, 1));
  }

  @Test
  void aRowThatChangesAfterItWasScoredIsScoredAgainOnDemand() {
    score(tens);
    score(hundreds);
    spark.sql("UPDATE orders SET items = 7 WHERE order_id = 2");
    assertThat(score(hundreds)).isZero();
    assertThat(BatchScoring.of(spark, "predictions", hundreds).select("order_id", "prediction"))
        .hasRows(row(1L, 400.0), row(2L, 200.0), row(3L, 500.0));
    long version = version();

    BatchScoring.scoreAgain(spark, artifacts, hundreds, "orders", "predictions", models);

    assertThat(predictions())
        .hasRows(
            row(1L, 40.0, 1),
            row(2L, 20.0, 1),
            row(3L, 50.0, 1),
            row(1L, 400.0, 2),
            row(2L, 700.0, 2),
            row(3L, 500.0, 2));
    assertThat(version()).as("in one commit").isEqualTo(version + 1);
  }

  @Test
  void aKeyThatIsThereTwiceIsRefusedAndNothingIsWritten() {
    spark.sql("INSERT INTO orders VALUES (3, 6)");

    assertThatIllegalArgumentException()
        .isThrownBy(this::score)
        .withMessage("orders has an order_id twice: which row counts?");
    assertThatIllegalArgumentException()
        .isThrownBy(
            () -> BatchScoring.scoreAgain(spark, artifacts, tens, "orders", "predictions", models));
    assertThat(version()).isZero();
  }

  @Test
  void aRowWithoutAKeyIsRefusedAndNothingIsWritten() {
    spark.sql("INSERT INTO orders VALUES (NULL, 6)");

    assertRefused("DELTA_NOT_NULL_CONSTRAINT_VIOLATED", this::score);
    assertThat(version()).isZero();
  }

  @Test
  void aModelThatFailsOnOneRowWritesNone(MlflowServer mlflow) {
    ModelVersion dividing = SimpleModels.register(spark, mlflow, name, "12 div (items - 5)");

    assertRefused("DIVIDE_BY_ZERO", () -> score(dividing));

    assertThat(version()).isZero();
    spark.sql("DELETE FROM orders WHERE order_id = 3");
    assertThat(score(dividing)).isEqualTo(2);
    assertThat(predictions()).hasRows(row(1L, -12.0, 3), row(2L, -4.0, 3));
  }

  @Test
  void withoutAChampionOrItsFilesNothingIsScored(MlflowServer mlflow) {
    registry.deleteAlias(name, "champion");
    assertThatIllegalStateException()
        .isThrownBy(this::score)
        .withMessage(name + " has no champion");

    String run = mlflow.client().createRun().getRunId();
    LogModel.register(registry, name, run, "0".repeat(64));
    registry.setAlias(name, "champion", 3);
    assertThatThrownBy(this::score).isInstanceOf(MlflowException.class);
    assertThat(version()).isZero();
  }

  @Test
  void predictionsOfATreeAreThoseThatItGivesWithoutTheRegistry(MlflowServer mlflow) {
    SampleData shop = SampleData.of(spark).rows(1_500);
    Dataset<Row> baskets = LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers());
    PipelineModel tree = LogModel.train(baskets, 3);
    String run = mlflow.client().createRun().getRunId();
    String digest = LogModel.log(artifacts, run, tree, baskets);
    ModelVersion version = LogModel.register(registry, name, run, digest);
    baskets.write().format("delta").saveAsTable("baskets");

    assertThat(BatchScoring.score(spark, artifacts, version, "baskets", "predictions", models))
        .isEqualTo(500);

    assertThat(predictions())
        .hasSameRowsAs(
            tree.transform(baskets).selectExpr("order_id", "prediction", "3 AS model_version"));
    assertThat(BatchScoring.score(spark, artifacts, version, "baskets", "predictions", models))
        .isZero();
  }
}
