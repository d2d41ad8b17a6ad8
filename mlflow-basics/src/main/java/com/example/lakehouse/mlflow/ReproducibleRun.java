package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.regexp_replace;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.to_json;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.SQLTransformer;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.RandomForestRegressor;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.mlflow.tracking.MlflowClient;

/**
 * Reproducibility: a model trained again from what its run says is equal to the last bit.
 *
 * <p>Run: {@code ./run ReproducibleRun}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a run that records its Delta version, seed, commit and settings; the table changes, and
 * from the run alone the same forest grows again: the same predictions, and the same model but for
 * the time in it; how many predictions change with other partitions, with rows as they are read,
 * with another seed, and with the table of today.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's. The run records
 * the notebook's revision by itself.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#query-an-older-snapshot-of-a-table-time-travel">
 *     Delta Lake: time travel</a>
 */
public final class ReproducibleRun {

  private ReproducibleRun() {}

  /**
   * What decides about a forest beside its data.
   *
   * @param seed of the samples of rows and columns that each tree sees
   * @param partitions that the rows are in while it grows: a sample is drawn in each of them
   */
  public record Settings(long seed, int trees, int depth, int partitions) {}

  /**
   * Grows a forest on a Delta table as it is now, in a run that says all that it takes to do it
   * again.
   *
   * <p>Needs the snippets of {@link TrackRun}.
   *
   * @param table with the columns that {@link LogModel#baskets} gives
   * @param tags such as {@link #revision} gives
   * @return the run's id
   * @throws Exception what went wrong; the run is then FAILED, if the server can be reached
   */
  public static String train(
      SparkSession spark,
      MlflowClient client,
      ArtifactStore artifacts,
      String experimentId,
      String table,
      Settings settings,
      Map<String, String> tags)
      throws Exception {
    DeltaTable delta = DeltaTable.forName(spark, table);
    long version = delta.history(1).select("version").first().getLong(0);
    Map<String, Object> params = new HashMap<>();
    params.put("table", table);
    params.put("table_id", tableId(spark, table));
    params.put("table_version", version);
    params.put("seed", settings.seed());
    params.put("trees", settings.trees());
    params.put("depth", settings.depth());
    params.put("partitions", settings.partitions());
    params.put("spark", spark.version());
    String run = client.createRun(experimentId).getRunId();
    return TrackRun.during(
        client,
        run,
        () -> {
          params.forEach((name, value) -> client.logParam(run, name, String.valueOf(value)));
          tags.forEach((name, value) -> client.setTag(run, name, value));
          Dataset<Row> data = read(spark, table, version);
          PipelineModel model = fit(data, settings);
          client.setTag(run, LogModel.DIGEST_TAG, LogModel.log(artifacts, run, model, data));
          return run;
        });
  }

  /**
   * Trains again from what a run says, and from nothing else.
   *
   * @throws IllegalStateException if Spark is another one, or the table was dropped and made anew,
   *     so that its versions are others
   */
  public static PipelineModel retrain(SparkSession spark, MlflowClient client, String runId) {
    Map<String, String> params = new HashMap<>();
    client
        .getRun(runId)
        .getData()
        .getParamsList()
        .forEach(param -> params.put(param.getKey(), param.getValue()));
    String table = params.get("table");
    require("Spark", params.get("spark"), spark.version());
    require(table, params.get("table_id"), tableId(spark, table));
    return fit(
        read(spark, table, Long.parseLong(params.get("table_version"))),
        new Settings(
            Long.parseLong(params.get("seed")),
            Integer.parseInt(params.get("trees")),
            Integer.parseInt(params.get("depth")),
            Integer.parseInt(params.get("partitions"))));
  }

  private static void require(String what, String then, String now) {
    if (!now.equals(then)) {
      throw new IllegalStateException(
          "the run was made with %s %s, and this is %s".formatted(what, then, now));
    }
  }

  private static String tableId(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).detail().select("id").first().getString(0);
  }

  private static Dataset<Row> read(SparkSession spark, String table, long version) {
    return spark.read().option("versionAsOf", version).table(table);
  }

  /** Grows a forest on rows whose place and order do not depend on the machine. */
  public static PipelineModel fit(Dataset<Row> baskets, Settings settings) {
    return pipeline(settings).fit(inOrder(inCents(baskets), settings.partitions()));
  }

  /**
   * The rows in {@code partitions} partitions by their key, and in the order of their key in each.
   * As they are read, both depend on the number of cores and on the table's files.
   *
   * @param rows with a unique {@code order_id}
   */
  public static Dataset<Row> inOrder(Dataset<Row> rows, int partitions) {
    return rows.repartition(partitions, col("order_id")).sortWithinPartitions("order_id");
  }

  /**
   * With the amount as a whole number of cents. Trees add up labels, and their squares, in the
   * order in which tasks end: with whole numbers, up to 2^53, the sum is the same in any order.
   */
  public static Dataset<Row> inCents(Dataset<Row> baskets) {
    return baskets.withColumn("cents", expr("cast(round(amount * 100) AS BIGINT)"));
  }

  /**
   * Predicts {@code cents}. The stages have names: without, each gets a random one, which is part
   * of the files.
   */
  public static Pipeline pipeline(Settings settings) {
    return new Pipeline("baskets")
        .setStages(
            new PipelineStage[] {
              new SQLTransformer("month")
                  .setStatement("SELECT *, month(order_date) AS month FROM __THIS__"),
              new StringIndexer("segment")
                  .setInputCol("segment")
                  .setOutputCol("segment_index")
                  .setHandleInvalid("keep"),
              new VectorAssembler("features")
                  .setInputCols(new String[] {"segment_index", "month", "items", "dearest"})
                  .setOutputCol("features"),
              new RandomForestRegressor("forest")
                  .setLabelCol("cents")
                  .setNumTrees(settings.trees())
                  .setMaxDepth(settings.depth())
                  .setSeed(settings.seed())
            });
  }

  /**
   * The commit of the code that runs, as the tags that MLflow's Python sets.
   *
   * @param folder a folder of the working copy
   * @return {@code mlflow.source.git.commit} and {@code mlflow.source.git.dirty}; empty if there is
   *     no git, or no commit
   */
  public static Map<String, String> revision(Path folder) {
    String commit = git(folder, "rev-parse", "HEAD");
    return commit.isEmpty()
        ? Map.of()
        : Map.of(
            "mlflow.source.git.commit",
            commit,
            "mlflow.source.git.dirty",
            String.valueOf(!git(folder, "status", "--porcelain").isEmpty()));
  }

  private static String git(Path folder, String... arguments) {
    try {
      Process git =
          new ProcessBuilder(
                  Stream.concat(Stream.of("git", "-C", folder.toString()), Stream.of(arguments))
                      .toList())
              .redirectError(ProcessBuilder.Redirect.DISCARD)
              .start();
      String output = new String(git.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
      return git.waitFor() == 0 ? output.strip() : "";
    } catch (IOException e) {
      // There is no git on this machine.
      return "";
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while asking git", e);
    }
  }

  /**
   * How many of {@code rows} get another prediction from the one model than from the other.
   *
   * @param rows with a unique {@code order_id}
   */
  public static long differing(PipelineModel one, PipelineModel other, Dataset<Row> rows) {
    return one.transform(rows)
        .select("order_id", "prediction")
        .exceptAll(other.transform(rows).select("order_id", "prediction"))
        .count();
  }

  /**
   * What a saved pipeline says, a SHA-256 for each of its folders: of its rows in order, for Spark
   * writes them in any, and without the time in the metadata. The names of files, and of a forest's
   * single trees, are random, and left out.
   *
   * @param sparkml the folder of a saved pipeline
   * @return by the folder's name, such as {@code stages/3_forest/data}
   */
  public static SortedMap<String, String> fingerprint(SparkSession spark, Path sparkml) {
    SortedMap<String, String> sums = new TreeMap<>();
    try (Stream<Path> folders = Files.walk(sparkml)) {
      for (Path folder : (Iterable<Path>) folders::iterator) {
        String name = sparkml.relativize(folder).toString().replace('\\', '/');
        String uri = folder.toUri().toString();
        if (name.endsWith("/data")) {
          sums.put(name, sha256(spark.read().parquet(uri).select(to_json(struct(col("*"))))));
        } else if (name.endsWith("metadata")) {
          Column json = regexp_replace(col("value"), lit("\"timestamp\":\\d+"), lit(""));
          sums.put(name, sha256(spark.read().text(uri).select(json)));
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return sums;
  }

  private static String sha256(Dataset<Row> lines) {
    return lines
        .toDF("line")
        .selectExpr("sha2(array_join(sort_array(collect_list(line)), '\n'), 256)")
        .first()
        .getString(0);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ReproducibleRun.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          String table = notebook.sandbox().table("baskets");
          LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
              .repartition(6)
              .write()
              .format("delta")
              .saveAsTable(table);
          Dataset<Row> baskets = read(spark, table, 0);
          Settings settings = new Settings(42, 10, 4, 4);
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());

            notebook.step("A run that says all that it takes to do it again");
            String experiment =
                mlflow.client().createExperiment("reproducible-run-" + UUID.randomUUID());
            String run =
                train(
                    spark,
                    mlflow.client(),
                    mlflow.artifacts(),
                    experiment,
                    table,
                    settings,
                    revision(Path.of("")));
            mlflow.client().getRun(run).getData().getParamsList().stream()
                .sorted((one, other) -> one.getKey().compareTo(other.getKey()))
                .forEach(param -> notebook.text("%s = %s", param.getKey(), param.getValue()));
            notebook.text("tags: %s", revision(Path.of("")));
            Path logged = mlflow.artifacts().download(run, "model", folder.resolve("logged"));
            PipelineModel model = PipelineModel.load(logged.resolve("sparkml").toUri().toString());

            notebook.step("The table goes on, and the model is trained again from the run alone");
            spark.sql("UPDATE " + table + " SET amount = amount * 1.1 WHERE items > 2");
            PipelineModel again = retrain(spark, mlflow.client(), run);
            again.save(folder.resolve("again").toUri().toString());
            SortedMap<String, String> before = fingerprint(spark, logged.resolve("sparkml"));
            SortedMap<String, String> after = fingerprint(spark, folder.resolve("again"));
            notebook.text(
                "Of %,d predictions, %,d differ. Of the model's %d folders, %d say something else.",
                baskets.count(),
                differing(model, again, baskets),
                before.size(),
                before.entrySet().stream().filter(e -> !after.entrySet().contains(e)).count());

            notebook.step("What would have broken it");
            Chart chart =
                new Chart("Predictions that differ, of " + baskets.count(), "predictions");
            chart.bar("the same again", differing(model, again, baskets));
            chart.bar(
                "3 partitions, not 4",
                differing(model, fit(baskets, new Settings(42, 10, 4, 3)), baskets));
            chart.bar(
                "rows as they are read",
                differing(model, pipeline(settings).fit(inCents(baskets)), baskets));
            chart.bar(
                "another seed",
                differing(model, fit(baskets, new Settings(43, 10, 4, 4)), baskets));
            chart.bar(
                "the table of today", differing(model, fit(spark.table(table), settings), baskets));
            notebook.chart(chart);
            notebook.text(
                "A forest draws its samples in each partition, row after row: other partitions, or"
                    + " another order, are another sample with the same seed. How a table is read"
                    + " into partitions depends on the number of cores.");
          }
        });
  }
}
