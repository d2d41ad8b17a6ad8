package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.ReproducibleRun.Settings;
import com.example.lakehouse.mlflow.support.Credentials;
import com.example.lakehouse.mlflow.support.MlflowServer;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.UUID;
import java.util.stream.IntStream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.mlflow.tracking.MlflowClient;

@SparkTest
@MlflowTest
class ReproducibleRunTest {
  private static final Settings SETTINGS = new Settings(42, 5, 4, 4);
  private static final int FILES = 6;

  /** By its path, so that another JVM finds it. */
  private String table;

  @BeforeEach
  void createTable(SparkSession spark, Sandbox sandbox) {
    SampleData shop = SampleData.of(spark).rows(3_000);
    String path = sandbox.path("baskets");
    LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers())
        .repartition(FILES)
        .write()
        .format("delta")
        .save(path);
    table = "delta.`" + path + "`";
  }

  /** The rows of the table's first version. */
  private Dataset<Row> baskets(SparkSession spark) {
    return spark.read().option("versionAsOf", 0).table(table);
  }

  private String train(SparkSession spark, MlflowServer mlflow) throws Exception {
    String experiment =
        mlflow.client().createExperiment("reproducible-run-test-" + UUID.randomUUID());
    return ReproducibleRun.train(
        spark,
        mlflow.client(),
        mlflow.artifacts(),
        experiment,
        table,
        SETTINGS,
        Map.of("mlflow.source.git.commit", "abc"));
  }

  private static PipelineModel load(Path sparkml) {
    return PipelineModel.load(sparkml.toUri().toString());
  }

  private static List<Long> bits(PipelineModel model, Dataset<Row> rows) {
    return model
        .transform(rows)
        .orderBy("order_id")
        .select("prediction")
        .as(Encoders.DOUBLE())
        .collectAsList()
        .stream()
        .map(Double::doubleToRawLongBits)
        .toList();
  }

  private static long differences(List<Long> one, List<Long> other) {
    assertThat(one).hasSameSizeAs(other).hasSize(1_000);
    return IntStream.range(0, one.size()).filter(i -> !one.get(i).equals(other.get(i))).count();
  }

  @Test
  void aRunSaysWhatItWasMadeFrom(SparkSession spark, MlflowServer mlflow) throws Exception {
    spark.sql("DELETE FROM " + table + " WHERE order_id >= 500");

    String run = train(spark, mlflow);

    Map<String, String> params = new TreeMap<>();
    mlflow
        .client()
        .getRun(run)
        .getData()
        .getParamsList()
        .forEach(param -> params.put(param.getKey(), param.getValue()));
    assertThat(params.remove("table_id"))
        .isEqualTo(DeltaTable.forName(spark, table).detail().select("id").first().getString(0));
    assertThat(params)
        .isEqualTo(
            Map.of(
                "table", table,
                "table_version", "1",
                "seed", "42",
                "trees", "5",
                "depth", "4",
                "partitions", "4",
                "spark", "4.1.0"));
    assertThat(mlflow.client().getRun(run).getData().getTagsList())
        .anySatisfy(
            tag -> {
              assertThat(tag.getKey()).isEqualTo("mlflow.source.git.commit");
              assertThat(tag.getValue()).isEqualTo("abc");
            });
  }

  @Test
  void trainedAgainFromTheRunAloneItIsEqualToTheLastBit(
      SparkSession spark, Sandbox sandbox, MlflowServer mlflow) throws Exception {
    String run = train(spark, mlflow);
    Path logged = mlflow.artifacts().download(run, "model", sandbox.folder()).resolve("sparkml");
    // What may have changed since: the table, its files, and the session.
    spark.sql("UPDATE " + table + " SET amount = amount * 2 WHERE items > 2");
    spark.sql("DELETE FROM " + table + " WHERE order_id < 100");
    spark.sql("OPTIMIZE " + table);
    spark.conf().set("spark.sql.shuffle.partitions", 7);
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", 8);
    spark.conf().set("spark.sql.adaptive.enabled", false);

    PipelineModel again = ReproducibleRun.retrain(spark, mlflow.client(), run);

    Path saved = sandbox.folder().resolve("again");
    again.save(saved.toUri().toString());
    Dataset<Row> baskets = baskets(spark);
    assertThat(differences(bits(load(logged), baskets), bits(again, baskets))).isZero();
    assertThat(ReproducibleRun.differing(load(logged), again, baskets)).isZero();
    SortedMap<String, String> files = ReproducibleRun.fingerprint(spark, saved);
    assertThat(files)
        .isEqualTo(ReproducibleRun.fingerprint(spark, logged))
        .containsOnlyKeys(
            "metadata",
            "stages/0_month/metadata",
            "stages/1_segment/data",
            "stages/1_segment/metadata",
            "stages/2_features/metadata",
            "stages/3_forest/data",
            "stages/3_forest/metadata");
  }

  /** Trains again in a JVM of its own, and writes the model. */
  static final class Retrainer {
    public static void main(String[] args) throws IOException {
      SparkSession spark = SparkSessions.open("retrainer");
      try (MlflowClient client = Credentials.of(args[0]).client()) {
        ReproducibleRun.retrain(spark, client, args[1]).save(args[2]);
      }
      SparkSessions.close(spark);
    }
  }

  @Test
  void inAnotherJvmOnAnotherNumberOfCoresItIsEqualToo(
      SparkSession spark, Sandbox sandbox, MlflowServer mlflow) throws Exception {
    String run = train(spark, mlflow);
    Path logged = mlflow.artifacts().download(run, "model", sandbox.folder()).resolve("sparkml");
    Path again = sandbox.folder().resolve("again");

    ChildJvm child =
        ChildJvm.run(
            Retrainer.class,
            List.of("-Xmx1g", "-Dspark.master=local[5]"),
            mlflow.uri(),
            run,
            again.toUri().toString());

    assertThat(child.exitCode()).as(child.output()).isZero();
    Dataset<Row> baskets = baskets(spark);
    assertThat(differences(bits(load(logged), baskets), bits(load(again), baskets))).isZero();
    assertThat(ReproducibleRun.fingerprint(spark, again))
        .isEqualTo(ReproducibleRun.fingerprint(spark, logged));
  }

  @Test
  void anotherNumberOfPartitionsIsAnotherForest(SparkSession spark) {
    Dataset<Row> baskets = baskets(spark);
    List<Long> four = bits(ReproducibleRun.fit(baskets, SETTINGS), baskets);
    List<Long> three = bits(ReproducibleRun.fit(baskets, new Settings(42, 5, 4, 3)), baskets);

    assertThat(differences(four, three)).isGreaterThan(900);
  }

  /** How a table is read depends on the cores: this setting stands for their number. */
  @Test
  void rowsAsTheyAreReadMakeAnotherForestOnAnotherNumberOfCores(SparkSession spark) {
    Dataset<Row> baskets = baskets(spark);
    List<List<Long>> asRead = new ArrayList<>();
    List<List<Long>> inOrder = new ArrayList<>();
    List<Integer> partitions = new ArrayList<>();
    for (int cores : new int[] {1, 8}) {
      spark.conf().set("spark.sql.leafNodeDefaultParallelism", cores);
      partitions.add(baskets(spark).toJavaRDD().getNumPartitions());
      asRead.add(
          bits(
              ReproducibleRun.pipeline(SETTINGS).fit(ReproducibleRun.inCents(baskets(spark))),
              baskets));
      inOrder.add(bits(ReproducibleRun.fit(baskets(spark), SETTINGS), baskets));
    }

    assertThat(partitions.get(0)).isLessThan(partitions.get(1));
    assertThat(differences(asRead.get(0), asRead.get(1))).isGreaterThan(900);
    assertThat(differences(inOrder.get(0), inOrder.get(1))).isZero();
  }

  @Test
  void theSameRowsInAnotherOrderMakeAnotherForest(SparkSession spark) {
    Dataset<Row> rows = ReproducibleRun.inCents(baskets(spark)).coalesce(1);
    Pipeline pipeline = ReproducibleRun.pipeline(SETTINGS);
    List<Long> up = bits(pipeline.fit(rows.sortWithinPartitions("order_id")), rows);
    List<Long> down = bits(pipeline.fit(rows.sortWithinPartitions("amount")), rows);

    assertThat(differences(up, down)).isGreaterThan(900);
  }

  @Test
  void anotherSeedOrAnotherVersionOfTheTableIsAnotherForest(SparkSession spark, Sandbox sandbox)
      throws IOException {
    Dataset<Row> baskets = baskets(spark);
    PipelineModel model = ReproducibleRun.fit(baskets, SETTINGS);
    PipelineModel other = ReproducibleRun.fit(baskets, new Settings(43, 5, 4, 4));
    spark.sql("UPDATE " + table + " SET amount = amount + 10 WHERE order_id = 7");
    PipelineModel today = ReproducibleRun.fit(spark.table(table), SETTINGS);

    assertThat(differences(bits(model, baskets), bits(other, baskets))).isGreaterThan(900);
    // One order of a thousand.
    long changed = differences(bits(model, baskets), bits(today, baskets));
    assertThat(changed).isPositive();
    assertThat(ReproducibleRun.differing(model, today, baskets)).isEqualTo(changed);
    model.save(sandbox.path("model"));
    today.save(sandbox.path("today"));
    SortedMap<String, String> before =
        ReproducibleRun.fingerprint(spark, sandbox.folder().resolve("model"));
    SortedMap<String, String> after =
        ReproducibleRun.fingerprint(spark, sandbox.folder().resolve("today"));
    assertThat(before.keySet()).isEqualTo(after.keySet());
    assertThat(before.keySet().stream().filter(file -> !before.get(file).equals(after.get(file))))
        .containsExactly("stages/3_forest/data");
  }

  /** Even without samples, and on sorted rows: 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1. */
  @Test
  void sumsOfFractionsDependOnThePartitionsAndSumsOfCentsDoNot(SparkSession spark) {
    Dataset<Row> baskets = ReproducibleRun.inCents(baskets(spark));

    assertThat(differences(tree(baskets, "amount", 1), tree(baskets, "amount", 2)))
        .isGreaterThan(100);
    assertThat(differences(tree(baskets, "cents", 1), tree(baskets, "cents", 2))).isZero();
    assertThat(differences(tree(baskets, "cents", 1), tree(baskets, "cents", 7))).isZero();
  }

  private static List<Long> tree(Dataset<Row> rows, String label, int partitions) {
    PipelineModel model =
        new Pipeline()
            .setStages(
                new PipelineStage[] {
                  new VectorAssembler()
                      .setInputCols(new String[] {"items", "dearest"})
                      .setOutputCol("features"),
                  new DecisionTreeRegressor().setLabelCol(label)
                })
            .fit(ReproducibleRun.inOrder(rows, partitions));
    return bits(model, rows);
  }

  @Test
  void aTableThatWasMadeAnewIsRefused(SparkSession spark, Sandbox sandbox, MlflowServer mlflow)
      throws Exception {
    String run = train(spark, mlflow);
    Files.move(sandbox.folder().resolve("baskets"), sandbox.folder().resolve("old"));
    spark
        .read()
        .format("delta")
        .load(sandbox.path("old"))
        .write()
        .format("delta")
        .save(sandbox.path("baskets"));

    assertThatIllegalStateException()
        .isThrownBy(() -> ReproducibleRun.retrain(spark, mlflow.client(), run))
        .withMessageStartingWith("the run was made with " + table);
  }

  @Test
  void anotherSparkIsRefused(SparkSession spark, MlflowServer mlflow) {
    String experiment =
        mlflow.client().createExperiment("reproducible-run-test-" + UUID.randomUUID());
    String run = mlflow.client().createRun(experiment).getRunId();
    mlflow.client().logParam(run, "table", table);
    mlflow.client().logParam(run, "spark", "3.5.0");

    assertThatIllegalStateException()
        .isThrownBy(() -> ReproducibleRun.retrain(spark, mlflow.client(), run))
        .withMessage("the run was made with Spark 3.5.0, and this is 4.1.0");
  }

  @Test
  void theRevisionIsThatOfTheCommitAndSaysWhetherTheCodeWasChanged(Sandbox sandbox)
      throws IOException, InterruptedException {
    Path code = Files.createDirectory(sandbox.folder().resolve("code"));
    assertThat(ReproducibleRun.revision(code)).isEmpty();
    git(code, "init", "--quiet");
    assertThat(ReproducibleRun.revision(code)).isEmpty();
    Files.writeString(code.resolve("Train.java"), "one");
    git(code, "add", ".");
    git(code, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "one");

    Map<String, String> clean = ReproducibleRun.revision(code);
    Files.writeString(code.resolve("Train.java"), "two");
    Map<String, String> dirty = ReproducibleRun.revision(code);

    assertThat(clean)
        .containsEntry("mlflow.source.git.dirty", "false")
        .hasEntrySatisfying(
            "mlflow.source.git.commit", commit -> assertThat(commit).matches("[0-9a-f]{40}"));
    assertThat(dirty)
        .containsEntry("mlflow.source.git.dirty", "true")
        .containsEntry("mlflow.source.git.commit", clean.get("mlflow.source.git.commit"));
  }

  private static void git(Path folder, String... arguments)
      throws IOException, InterruptedException {
    List<String> command = new ArrayList<>(List.of("git", "-C", folder.toString()));
    command.addAll(List.of(arguments));
    Process git = new ProcessBuilder(command).inheritIO().start();
    assertThat(git.waitFor()).isZero();
  }
}
