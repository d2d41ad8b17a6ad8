package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.ToDoubleFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;

/**
 * Promotion: a challenger becomes champion only if it wins on data that neither has seen, and goes
 * back in one call.
 *
 * <p>Run: {@code ./run PromoteModel}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the first champion; a challenger that wins and one that does not, each with the figures;
 * a champion that is taken back, and that the next promotion does not bring in again; two
 * promotions at once, which end in one champion.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the model's.
 *
 * @see <a
 *     href="https://mlflow.org/docs/latest/ml/model-registry/#deploy-and-organize-models">MLflow:
 *     aliases of models</a>
 */
public final class PromoteModel {
  /** The alias that others load: {@code models:/name@champion}. */
  public static final String CHAMPION = "champion";

  /** The alias of the version that is to be promoted next. */
  public static final String CHALLENGER = "challenger";

  /** The tag of a version that keeps which champion it won against. */
  public static final String REPLACED_TAG = "champion.replaced";

  /** The tag of a version that was taken back, with the time. */
  public static final String ROLLED_BACK_TAG = "champion.rolled_back";

  private PromoteModel() {}

  /**
   * What {@link #promote} did, and its figures.
   *
   * @param champion the version that was champion; 0 if there was none
   * @param championError NaN if there was no other champion to measure
   */
  public record Decision(
      boolean promoted,
      int champion,
      double championError,
      int challenger,
      double challengerError,
      double margin) {
    /** In a sentence, for a log or a tag. */
    public String reason() {
      if (champion == 0) {
        return "version %d is the first champion".formatted(challenger);
      } else if (champion == challenger) {
        return "version %d is champion already".formatted(challenger);
      }
      return String.format(
          Locale.ROOT,
          "version %d %s %d: an error of %.3f against %.3f is %slower by more than %.3f",
          challenger,
          promoted ? "replaces" : "does not replace",
          champion,
          challengerError,
          championError,
          promoted ? "" : "not ",
          margin);
    }
  }

  /**
   * Makes the challenger champion if its error is lower by more than {@code margin}; the first one
   * needs no opponent. The alias of the challenger stays, until the next one takes it.
   *
   * <p>The registry moves an alias in one request and knows no condition for it. So the champion is
   * asked for once more after the measurement; if it has changed, the challenger is measured
   * against the new one. What remains is the time of three requests, or of their repetitions if the
   * server is away: of two challengers that move the alias within it, both better than the champion
   * they replace, the later one stays, be it the better one or not. There is always one champion,
   * and its tag always names a champion that it won against, because the tag is written first.
   *
   * @param error of a version on held-out data, such as {@link #rmse}; the lower the better
   * @param margin in the unit of the error, not negative; an equal error is no win
   * @return what was decided; if not {@code promoted}, nothing was changed
   * @throws IllegalStateException if there is no challenger, if it was taken back before, or if an
   *     error is no number; nothing is changed then
   */
  public static Decision promote(
      ModelRegistry registry, String name, ToDoubleFunction<ModelVersion> error, double margin) {
    if (!(margin >= 0)) {
      throw new IllegalArgumentException("the margin must not be negative: " + margin);
    }
    ModelVersion challenger =
        registry
            .byAlias(name, CHALLENGER)
            .orElseThrow(() -> new IllegalStateException(name + " has no " + CHALLENGER));
    if (challenger.tags().containsKey(ROLLED_BACK_TAG)) {
      throw new IllegalStateException(
          "%s was taken back at %s"
              .formatted(challenger.uri(), challenger.tags().get(ROLLED_BACK_TAG)));
    }
    double challengerError = measure(error, challenger);
    while (true) {
      Optional<ModelVersion> champion = registry.byAlias(name, CHAMPION);
      int before = champion.map(ModelVersion::version).orElse(0);
      boolean other = before != 0 && before != challenger.version();
      double championError = other ? measure(error, champion.get()) : Double.NaN;
      boolean wins = other ? championError - challengerError > margin : before == 0;
      if (wins) {
        if (registry.byAlias(name, CHAMPION).map(ModelVersion::version).orElse(0) != before) {
          continue;
        }
        if (before != 0) {
          registry.setVersionTag(name, challenger.version(), REPLACED_TAG, String.valueOf(before));
        }
        registry.setAlias(name, CHAMPION, challenger.version());
      }
      return new Decision(
          wins, before, championError, challenger.version(), challengerError, margin);
    }
  }

  private static double measure(ToDoubleFunction<ModelVersion> error, ModelVersion version) {
    double value = error.applyAsDouble(version);
    if (!Double.isFinite(value)) {
      throw new IllegalStateException("the error of %s is %s".formatted(version.uri(), value));
    }
    return value;
  }

  /**
   * Takes a champion back: the one that it replaced is champion again, or, if that was taken back
   * too, the one before that. The bad version is marked first, so that the next {@link #promote}
   * does not bring it in again while it is still the challenger.
   *
   * @param bad the version that must not stay; if it is not champion, nothing is changed, so that a
   *     call that is repeated, or made by two people, goes back once
   * @return the champion now
   * @throws IllegalStateException if there is no champion, or none to go back to; nothing is
   *     changed then
   */
  public static ModelVersion rollback(ModelRegistry registry, String name, int bad) {
    ModelVersion before =
        registry
            .byAlias(name, CHAMPION)
            .orElseThrow(() -> new IllegalStateException(name + " has no " + CHAMPION));
    if (before.version() != bad) {
      return before;
    }
    Set<Integer> seen = new HashSet<>();
    do {
      String replaced = before.tags().get(REPLACED_TAG);
      if (replaced == null || !seen.add(before.version())) {
        throw new IllegalStateException(
            "there is no champion before models:/%s/%d".formatted(name, bad));
      }
      before = registry.version(name, Integer.parseInt(replaced));
    } while (before.version() == bad || before.tags().containsKey(ROLLED_BACK_TAG));
    registry.setVersionTag(name, bad, ROLLED_BACK_TAG, Instant.now().toString());
    registry.setAlias(name, CHAMPION, before.version());
    return before;
  }

  /**
   * Measures a version by its root mean squared error on {@code heldOut}.
   *
   * @param heldOut with {@code amount} and what the models take; no version has learned from it
   * @param folder where models are kept, as {@link LogModel#load} has it
   * @return NaN, with which no version wins, if a model leaves a row out or {@code heldOut} is
   *     empty: the error of the easy rows alone is no error to compare
   */
  public static ToDoubleFunction<ModelVersion> rmse(
      ArtifactStore artifacts, Dataset<Row> heldOut, Path folder) {
    return version -> {
      Row measured =
          LogModel.load(artifacts, version, folder)
              .transform(heldOut)
              .select(expr("count(prediction)"), expr("sqrt(avg(pow(prediction - amount, 2)))"))
              .first();
      long predicted = measured.getLong(0);
      return predicted == 0 || predicted < heldOut.count() ? Double.NaN : measured.getDouble(1);
    };
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        PromoteModel.class,
        args,
        notebook -> {
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          Dataset<Row> training = baskets.where("order_id % 5 <> 0");
          Dataset<Row> heldOut = baskets.where("order_id % 5 = 0");
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            ModelRegistry registry = mlflow.registry();
            String id = UUID.randomUUID().toString().substring(0, 8);
            String name = "basket-amount-" + id;
            String experiment = mlflow.client().createExperiment("promote-model-" + id);
            ToDoubleFunction<ModelVersion> error =
                rmse(mlflow.artifacts(), heldOut, folder.resolve("models"));

            notebook.step("Four versions of a model, by how deep its tree is");
            int[] depths = {1, 4, 2, 5};
            for (int depth : depths) {
              LogModel.trainVersion(
                  mlflow.client(), mlflow.artifacts(), registry, experiment, name, training, depth);
            }
            Chart errors = new Chart("error on orders that no version has seen", "EUR");
            for (int version = 1; version <= depths.length; version++) {
              errors =
                  errors.bar(
                      "version %d, depth %d".formatted(version, depths[version - 1]),
                      error.applyAsDouble(registry.version(name, version)));
            }
            notebook.chart(errors);

            double margin = 1;
            notebook.step("Challengers: each must be better by more than 1 EUR");
            for (int version = 1; version <= 3; version++) {
              registry.setAlias(name, CHALLENGER, version);
              notebook.text(promote(registry, name, error, margin).reason());
            }
            notebook.text("aliases: %s", aliases(registry, name));

            notebook.step("Back, in one call: version 2 turns out wrong");
            rollback(registry, name, 2);
            notebook.text("aliases: %s", aliases(registry, name));
            rollback(registry, name, 2);
            notebook.text("The same call again changes nothing: %s", aliases(registry, name));
            registry.setAlias(name, CHALLENGER, 2);
            Optional<String> refusal = Optional.empty();
            try {
              promote(registry, name, error, margin);
            } catch (IllegalStateException e) {
              refusal = Optional.of(e.getMessage());
            }
            notebook.text("A job that promotes every night leaves it: %s", refusal.orElseThrow());

            notebook.step("Two promotions of version 4 at once: one champion");
            registry.setAlias(name, CHALLENGER, 4);
            Callable<Decision> promotion = () -> promote(registry, name, error, margin);
            ExecutorService threads = Executors.newFixedThreadPool(2);
            try {
              List<Future<Decision>> both = threads.invokeAll(List.of(promotion, promotion));
              for (Future<Decision> decision : both) {
                notebook.text("%s", decision.get().reason());
              }
            } finally {
              threads.shutdown();
            }
            notebook.text("aliases: %s", aliases(registry, name));
            notebook.text(
                "Its tag %s says %s: where one call leads back to.",
                REPLACED_TAG,
                registry.byAlias(name, CHAMPION).orElseThrow().tags().get(REPLACED_TAG));
          }
        });
  }

  private static List<String> aliases(ModelRegistry registry, String name) {
    List<String> aliases = new ArrayList<>();
    for (Map.Entry<String, Integer> alias : registry.model(name).aliases().entrySet()) {
      aliases.add(alias.getKey() + " is version " + alias.getValue());
    }
    aliases.sort(null);
    return aliases;
  }
}
