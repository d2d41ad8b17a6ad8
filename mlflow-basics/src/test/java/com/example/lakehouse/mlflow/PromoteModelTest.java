package com.example.lakehouse.mlflow;

import static com.example.lakehouse.mlflow.PromoteModel.CHALLENGER;
import static com.example.lakehouse.mlflow.PromoteModel.CHAMPION;
import static com.example.lakehouse.mlflow.PromoteModel.REPLACED_TAG;
import static com.example.lakehouse.mlflow.PromoteModel.ROLLED_BACK_TAG;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.PromoteModel.Decision;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.LoopbackProxy;
import com.example.lakehouse.mlflow.support.MlflowException;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Promotion needs the registry alone: most versions here have no files, and errors by number. */
@MlflowTest
class PromoteModelTest {
  private final String name = "promote-model-" + UUID.randomUUID();
  private ModelRegistry registry;

  @BeforeEach
  void open(MlflowServer mlflow) {
    registry = mlflow.registry();
  }

  private void versions(MlflowServer mlflow, int count) {
    String run = mlflow.client().createRun().getRunId();
    registry.createModel(name, "", Map.of());
    for (int i = 0; i < count; i++) {
      registry.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());
    }
  }

  /** The first of {@code errors} is that of version 1. */
  private static ToDoubleFunction<ModelVersion> errors(double... errors) {
    return version -> errors[version.version() - 1];
  }

  private Decision promote(int challenger, double margin, double... errors) {
    registry.setAlias(name, CHALLENGER, challenger);
    return PromoteModel.promote(registry, name, errors(errors), margin);
  }

  private int champion() {
    return registry.byAlias(name, CHAMPION).map(ModelVersion::version).orElse(0);
  }

  private Optional<String> tag(int version, String key) {
    return Optional.ofNullable(registry.version(name, version).tags().get(key));
  }

  /** All that the registry has of the model. */
  private List<Object> state() {
    return List.of(registry.model(name), registry.versions(name));
  }

  @Test
  void theFirstChallengerIsChampionWithoutAnOpponent(MlflowServer mlflow) {
    versions(mlflow, 1);

    Decision decision = promote(1, 0.5, 10);

    assertThat(decision).isEqualTo(new Decision(true, 0, Double.NaN, 1, 10, 0.5));
    assertThat(decision.reason()).isEqualTo("version 1 is the first champion");
    assertThat(registry.model(name).aliases()).isEqualTo(Map.of(CHAMPION, 1, CHALLENGER, 1));
    assertThat(tag(1, REPLACED_TAG)).isEmpty();
  }

  @ParameterizedTest
  @CsvSource({"9.25, 0.5", "9.75, 0", "-1, 10.5"})
  void aChallengerThatWinsByMoreThanTheMarginIsPromoted(
      double error, double margin, MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);

    Decision decision = promote(2, margin, 10, error);

    assertThat(decision).isEqualTo(new Decision(true, 1, 10, 2, error, margin));
    assertThat(champion()).isEqualTo(2);
    assertThat(tag(2, REPLACED_TAG)).hasValue("1");
  }

  @ParameterizedTest
  @CsvSource({"9.5, 0.5", "9.75, 0.5", "10, 0", "11, 0"})
  void aChallengerThatDoesNotIsRefusedWithTheFiguresAndNothingIsChanged(
      double error, double margin, MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    registry.setAlias(name, CHALLENGER, 2);
    List<Object> before = state();

    Decision decision = PromoteModel.promote(registry, name, errors(10, error), margin);

    assertThat(decision).isEqualTo(new Decision(false, 1, 10, 2, error, margin));
    assertThat(state()).isEqualTo(before);
  }

  @Test
  void theReasonHasTheFigures() {
    assertThat(new Decision(true, 1, 10, 2, 9.25, 0.5).reason())
        .isEqualTo(
            "version 2 replaces 1: an error of 9.250 against 10.000 is lower by more than 0.500");
    assertThat(new Decision(false, 1, 10, 2, 9.75, 0.5).reason())
        .isEqualTo(
            "version 2 does not replace 1: an error of 9.750 against 10.000 is not lower by more"
                + " than 0.500");
    assertThat(new Decision(false, 2, Double.NaN, 2, 9, 0).reason())
        .isEqualTo("version 2 is champion already");
  }

  @Test
  void aSecondPromotionOfTheChampionChangesNothing(MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    List<Object> before = state();

    assertThat(promote(2, 0, 10, 9)).isEqualTo(new Decision(false, 2, Double.NaN, 2, 9, 0));

    assertThat(state()).isEqualTo(before);
    assertThat(tag(2, REPLACED_TAG)).hasValue("1");
  }

  @Test
  void withoutAChallengerThereIsNothingToPromote(MlflowServer mlflow) {
    versions(mlflow, 1);

    assertThatIllegalStateException()
        .isThrownBy(() -> PromoteModel.promote(registry, name, errors(1), 0))
        .withMessage(name + " has no challenger");
  }

  @ParameterizedTest
  @CsvSource({"10, NaN", "NaN, 9", "10, -Infinity", "Infinity, 9"})
  void anErrorThatIsNoNumberPromotesNobody(
      double championError, double challengerError, MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    registry.setAlias(name, CHALLENGER, 2);
    List<Object> before = state();

    assertThatIllegalStateException()
        .isThrownBy(
            () -> PromoteModel.promote(registry, name, errors(championError, challengerError), 0))
        .withMessageMatching("the error of models:/" + name + "/[12] is (NaN|-?Infinity)");
    assertThat(state()).isEqualTo(before);
  }

  @ParameterizedTest
  @ValueSource(doubles = {-0.1, Double.NaN})
  void aMarginBelowZeroIsRefused(double margin) {
    assertThatIllegalArgumentException()
        .isThrownBy(() -> PromoteModel.promote(registry, name, errors(1), margin));
  }

  @Test
  void oneCallBringsTheChampionBeforeBackAndTheNextPromotionLeavesItThere(MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);

    assertThat(PromoteModel.rollback(registry, name, 2).version()).isEqualTo(1);

    assertThat(champion()).isEqualTo(1);
    List<Object> before = state();
    assertThatIllegalStateException()
        .isThrownBy(() -> promote(2, 0, 10, 9))
        .withMessageStartingWith("models:/" + name + "/2 was taken back at 20");
    assertThat(state()).isEqualTo(before);
  }

  @Test
  void aRollbackThatIsRepeatedGoesBackOnce(MlflowServer mlflow) {
    versions(mlflow, 3);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    promote(3, 0, 10, 9, 8);
    PromoteModel.rollback(registry, name, 3);
    List<Object> before = state();

    assertThat(PromoteModel.rollback(registry, name, 3).version()).isEqualTo(2);

    assertThat(state()).isEqualTo(before);
    assertThat(champion()).isEqualTo(2);
  }

  @Test
  void eachChampionGoesBackToItsOwnUntilTheFirstOne(MlflowServer mlflow) {
    versions(mlflow, 4);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    promote(3, 0, 10, 9, 8);
    PromoteModel.rollback(registry, name, 3);
    promote(4, 0, 10, 9, 8, 7);
    assertThat(tag(4, REPLACED_TAG)).as("not the one that was taken back").hasValue("2");

    assertThat(PromoteModel.rollback(registry, name, 4).version()).isEqualTo(2);
    assertThat(PromoteModel.rollback(registry, name, 2).version()).isEqualTo(1);
    List<Object> before = state();
    assertThatIllegalStateException()
        .isThrownBy(() -> PromoteModel.rollback(registry, name, 1))
        .withMessage("there is no champion before models:/%s/1", name);
    assertThat(state()).isEqualTo(before);
  }

  @Test
  void aRollbackPassesOverOneThatWasTakenBackMeanwhile(MlflowServer mlflow) {
    versions(mlflow, 3);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    promote(3, 0, 10, 9, 8);
    registry.setVersionTag(name, 2, ROLLED_BACK_TAG, "2025-03-01T10:00:00Z");

    assertThat(PromoteModel.rollback(registry, name, 3).version()).isEqualTo(1);
  }

  /** On new data version 1 wins against 2 again: then each has replaced the other. */
  @Test
  void aRollbackInACircleEnds(MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    promote(1, 0, 8, 9);
    assertThat(PromoteModel.rollback(registry, name, 1).version()).isEqualTo(2);

    assertThatIllegalStateException()
        .isThrownBy(() -> PromoteModel.rollback(registry, name, 2))
        .withMessage("there is no champion before models:/%s/2", name);
    assertThat(champion()).isEqualTo(2);
  }

  @ParameterizedTest
  @ValueSource(strings = {"model-versions/set-tag", "registered-models/alias"})
  void aRollbackThatBreaksOffIsFinishedByTheNext(String request, MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    try (LoopbackProxy gateway = new LoopbackProxy(mlflow.uri())) {
      gateway.each("POST .*/" + request, LoopbackProxy.answer(403, "{}"));
      ModelRegistry broken = new ModelRegistry(Credentials.of(gateway.uri()));

      assertThatThrownBy(() -> PromoteModel.rollback(broken, name, 2))
          .isInstanceOf(MlflowException.class);
    }
    assertThat(champion()).isEqualTo(2);

    assertThat(PromoteModel.rollback(registry, name, 2).version()).isEqualTo(1);
    assertThat(champion()).isEqualTo(1);
  }

  @ParameterizedTest
  @ValueSource(strings = {"model-versions/set-tag", "registered-models/alias"})
  void aPromotionThatBreaksOffLeavesTheChampionAndIsDoneByTheNext(
      String request, MlflowServer mlflow) {
    versions(mlflow, 2);
    promote(1, 0, 10);
    registry.setAlias(name, CHALLENGER, 2);
    try (LoopbackProxy gateway = new LoopbackProxy(mlflow.uri())) {
      gateway.each("POST .*/" + request, LoopbackProxy.answer(403, "{}"));
      ModelRegistry broken = new ModelRegistry(Credentials.of(gateway.uri()));

      assertThatThrownBy(() -> PromoteModel.promote(broken, name, errors(10, 9), 0))
          .isInstanceOf(MlflowException.class);
    }
    assertThat(champion()).isEqualTo(1);

    assertThat(promote(2, 0, 10, 9).promoted()).isTrue();
    assertThat(champion()).isEqualTo(2);
    assertThat(tag(2, REPLACED_TAG)).hasValue("1");
  }

  /** Version 2 is measured while another promotion makes 3 champion. */
  @ParameterizedTest
  @CsvSource({"7, false, 3", "8.5, true, 2"})
  void aChampionThatChangesDuringTheMeasurementIsTheOneToWinAgainst(
      double errorOf3, boolean promoted, int champion, MlflowServer mlflow) {
    versions(mlflow, 3);
    promote(1, 0, 10);
    registry.setAlias(name, CHALLENGER, 2);
    List<Integer> measured = new ArrayList<>();
    ToDoubleFunction<ModelVersion> slow =
        version -> {
          measured.add(version.version());
          if (version.version() == 1) {
            registry.setAlias(name, CHAMPION, 3);
          }
          return errors(10, 8, errorOf3).applyAsDouble(version);
        };

    Decision decision = PromoteModel.promote(registry, name, slow, 0);

    assertThat(decision).isEqualTo(new Decision(promoted, 3, errorOf3, 2, 8, 0));
    assertThat(champion()).isEqualTo(champion);
    assertThat(measured).as("each of them once").containsExactly(2, 1, 3);
    assertThat(tag(2, REPLACED_TAG)).isEqualTo(promoted ? Optional.of("3") : Optional.empty());
  }

  @Test
  void aChampionThatWasTakenBackDuringTheMeasurementIsNotReplaced(MlflowServer mlflow) {
    versions(mlflow, 3);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    registry.setAlias(name, CHALLENGER, 3);
    ToDoubleFunction<ModelVersion> slow =
        version -> {
          if (version.version() == 2) {
            PromoteModel.rollback(registry, name, 2);
          }
          return errors(10, 9, 8).applyAsDouble(version);
        };

    assertThat(PromoteModel.promote(registry, name, slow, 0))
        .isEqualTo(new Decision(true, 1, 10, 3, 8, 0));

    assertThat(tag(3, REPLACED_TAG)).as("where a rollback leads to").hasValue("1");
  }

  @RepeatedTest(20)
  void promotionsOfOneChallengerAtOnceAreOnePromotion(MlflowServer mlflow) throws Exception {
    versions(mlflow, 2);
    promote(1, 0, 10);
    registry.setAlias(name, CHALLENGER, 2);

    List<Decision> decisions =
        atOnce(8, thread -> PromoteModel.promote(registry, name, errors(10, 9), 0));

    assertThat(decisions)
        .contains(new Decision(true, 1, 10, 2, 9, 0))
        .allMatch(d -> d.promoted() ? d.champion() == 1 : d.champion() == 2);
    assertThat(registry.model(name).aliases()).isEqualTo(Map.of(CHAMPION, 2, CHALLENGER, 2));
    assertThat(tag(2, REPLACED_TAG)).as("not itself").hasValue("1");
    assertThat(PromoteModel.rollback(registry, name, 2).version()).isEqualTo(1);
  }

  @RepeatedTest(20)
  void promotionsOfSeveralChallengersAtOnceEndInOneChampion(MlflowServer mlflow) throws Exception {
    int threads = 8;
    versions(mlflow, threads + 2);
    // The last version is worse than the first champion.
    double[] errors = IntStream.range(0, threads + 2).mapToDouble(i -> 100 - i).toArray();
    errors[threads + 1] = 101;
    promote(1, 0, errors);

    List<Decision> decisions = atOnce(threads, thread -> promote(thread + 3, 0, errors));

    int champion = champion();
    List<Integer> promoted =
        decisions.stream().filter(Decision::promoted).map(Decision::challenger).toList();
    assertThat(promoted).contains(champion).doesNotContain(threads + 2);
    assertThat(decisions)
        .filteredOn(Decision::promoted)
        .allMatch(d -> d.challengerError() < d.championError());
    // From champion to champion each error is higher, and the way ends at the first one.
    while (champion != 1) {
      int replaced = Integer.parseInt(tag(champion, REPLACED_TAG).orElseThrow());
      assertThat(errors[replaced - 1]).isGreaterThan(errors[champion - 1]);
      assertThat(PromoteModel.rollback(registry, name, champion).version()).isEqualTo(replaced);
      champion = replaced;
    }
    assertThat(champion()).isEqualTo(1);
  }

  @RepeatedTest(20)
  void rollbacksAtOnceGoBackOnce(MlflowServer mlflow) throws Exception {
    versions(mlflow, 3);
    promote(1, 0, 10);
    promote(2, 0, 10, 9);
    promote(3, 0, 10, 9, 8);

    List<ModelVersion> champions = atOnce(8, thread -> PromoteModel.rollback(registry, name, 3));

    assertThat(champions).extracting(ModelVersion::version).containsOnly(2);
    assertThat(champion()).isEqualTo(2);
  }

  /** A call that one of several threads makes, by its number. */
  @FunctionalInterface
  private interface Call<T> {
    T make(int thread) throws Exception;
  }

  private static <T> List<T> atOnce(int threads, Call<T> call) throws Exception {
    CyclicBarrier start = new CyclicBarrier(threads);
    ExecutorService pool = Executors.newFixedThreadPool(threads);
    try {
      List<Callable<T>> calls = new ArrayList<>();
      for (int i = 0; i < threads; i++) {
        int thread = i;
        calls.add(
            () -> {
              start.await();
              return call.make(thread);
            });
      }
      List<T> results = new ArrayList<>();
      for (Future<T> result : pool.invokeAll(calls)) {
        results.add(result.get());
      }
      return results;
    } finally {
      pool.shutdownNow();
    }
  }

  @Nested
  @SparkTest
  class WithModels {

    private Dataset<Row> baskets(SparkSession spark) {
      SampleData shop = SampleData.of(spark).rows(1_500);
      return LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
    }

    private void register(MlflowServer mlflow, PipelineModel model, Dataset<Row> training) {
      String run = mlflow.client().createRun().getRunId();
      String digest = LogModel.log(mlflow.artifacts(), run, model, training);
      LogModel.register(registry, name, run, digest);
    }

    @Test
    void theBetterModelOnOrdersThatNeitherHasSeenIsPromoted(
        SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
      Dataset<Row> training = baskets(spark).where("order_id % 5 <> 0");
      Dataset<Row> heldOut = baskets(spark).where("order_id % 5 = 0");
      PipelineModel shallow = LogModel.train(training, 1);
      PipelineModel deep = LogModel.train(training, 4);
      register(mlflow, shallow, training);
      register(mlflow, deep, training);
      ToDoubleFunction<ModelVersion> error =
          PromoteModel.rmse(mlflow.artifacts(), heldOut, sandbox.folder().resolve("models"));
      double shallowError = rmse(shallow.transform(heldOut));
      double deepError = rmse(deep.transform(heldOut));
      assertThat(deepError).isLessThan(shallowError);

      registry.setAlias(name, CHALLENGER, 1);
      PromoteModel.promote(registry, name, error, 0);
      registry.setAlias(name, CHALLENGER, 2);
      double margin = shallowError - deepError;
      Decision refused = PromoteModel.promote(registry, name, error, margin + 0.01);
      Decision promoted = PromoteModel.promote(registry, name, error, margin - 0.01);

      assertThat(refused.promoted()).isFalse();
      assertThat(promoted.promoted()).isTrue();
      assertThat(promoted.championError()).isCloseTo(shallowError, within(1e-9));
      assertThat(promoted.challengerError()).isCloseTo(deepError, within(1e-9));
      assertThat(champion()).isEqualTo(2);
    }

    private static double rmse(Dataset<Row> predictions) {
      double squares = 0;
      List<Row> rows = predictions.select("prediction", "amount").collectAsList();
      for (Row row : rows) {
        squares += Math.pow(row.getDouble(0) - row.getDouble(1), 2);
      }
      return Math.sqrt(squares / rows.size());
    }

    /** A pipeline that skips what it does not know is measured on what is easy. */
    @Test
    void aModelThatLeavesRowsOutHasNoError(
        SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
      Dataset<Row> training = baskets(spark).where("segment <> 'public'");
      PipelineModel skipping =
          new Pipeline()
              .setStages(
                  new PipelineStage[] {
                    new StringIndexer()
                        .setInputCol("segment")
                        .setOutputCol("index")
                        .setHandleInvalid("skip"),
                    new VectorAssembler()
                        .setInputCols(new String[] {"index", "items"})
                        .setOutputCol("features"),
                    new DecisionTreeRegressor().setLabelCol("amount").setMaxDepth(1).setSeed(42)
                  })
              .fit(training);
      register(mlflow, skipping, training);
      ModelVersion version = registry.version(name, 1);
      Dataset<Row> heldOut = baskets(spark);
      assertThat(skipping.transform(heldOut).count()).isBetween(1L, heldOut.count() - 1);

      assertThat(error(mlflow, sandbox, training, version)).isFinite();
      assertThat(error(mlflow, sandbox, heldOut, version)).isNaN();
      assertThat(error(mlflow, sandbox, heldOut.where("order_id < 0"), version)).isNaN();
    }

    private static double error(
        MlflowServer mlflow, Sandbox sandbox, Dataset<Row> heldOut, ModelVersion version) {
      return PromoteModel.rmse(mlflow.artifacts(), heldOut, sandbox.folder().resolve("models"))
          .applyAsDouble(version);
    }
  }
}
