package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import io.delta.tables.DeltaTable;
import java.nio.file.Path;
import java.util.UUID;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Batch scoring: the champion predicts each row of a Delta table once; a rerun changes nothing.
 *
 * <p>Run: {@code ./run BatchScoring}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: predictions with the version of the model and the time; a second run that commits
 * nothing, and one that scores the new orders alone; a new champion, whose predictions stand beside
 * those of the old one; an order that has changed, which is scored again on demand.
 *
 * <p>On Databricks: the same code as a job; a Unity Catalog name in place of the tables' and the
 * model's, and a folder of a volume for the models.
 *
 * @see <a href="https://docs.delta.io/delta-update/#upsert-into-a-table-using-merge">Delta Lake:
 *     merge</a>
 */
public final class BatchScoring {

  private BatchScoring() {}

  /**
   * Creates the table of predictions, unless it is there: {@code order_id BIGINT NOT NULL,
   * prediction DOUBLE, model_version INT, scored_at TIMESTAMP}, partitioned by {@code
   * model_version}, so that the runs of two versions read and write different files.
   */
  public static void createPredictions(SparkSession spark, String table) {
    DeltaTable.createIfNotExists(spark)
        .tableName(table)
        // A NULL equals none: a row without a key would be scored again by each run.
        .addColumn("order_id", "BIGINT", false)
        .addColumn("prediction", "DOUBLE")
        .addColumn("model_version", "INT")
        .addColumn("scored_at", "TIMESTAMP")
        .partitionedBy("model_version")
        .execute();
  }

  /**
   * Scores what the champion has not scored yet, as {@link #score} does. The alias is asked for
   * once: what is promoted during a run is for the next one.
   *
   * @return the version that was champion
   * @throws IllegalStateException if there is no champion
   */
  public static ModelVersion scoreWithChampion(
      SparkSession spark,
      ModelRegistry registry,
      ArtifactStore artifacts,
      String name,
      String source,
      String predictions,
      Path folder) {
    ModelVersion champion =
        registry
            .byAlias(name, "champion")
            .orElseThrow(() -> new IllegalStateException(name + " has no champion"));
    score(spark, artifacts, champion, source, predictions, folder);
    return champion;
  }

  /**
   * Adds predictions for the rows of {@code source} that this version has not scored, in one
   * commit, beside those of other versions. If there is none, nothing is loaded and nothing
   * committed. Of two runs at once, each row is written by one.
   *
   * @param source a Delta table with {@code order_id BIGINT} and what the model takes. A row that
   *     changes after it was scored keeps its prediction: see {@link #scoreAgain}.
   * @param predictions a table that {@link #createPredictions} made
   * @param folder where models are kept, as {@link LogModel#load} has it
   * @return the number of rows added
   * @throws IllegalArgumentException if an {@code order_id} is there twice; nothing is written
   * @throws org.apache.spark.sql.delta.schema.DeltaInvariantViolationException
   *     DELTA_NOT_NULL_CONSTRAINT_VIOLATED if an {@code order_id} is NULL; nothing is written
   * @throws io.delta.exceptions.ConcurrentAppendException if another run of the same version
   *     commits while this one writes; nothing is written, and it may be run again
   */
  public static long score(
      SparkSession spark,
      ArtifactStore artifacts,
      ModelVersion version,
      String source,
      String predictions,
      Path folder) {
    Dataset<Row> scored = of(spark, predictions, version).select("order_id");
    Dataset<Row> rows = spark.table(source).join(scored, new String[] {"order_id"}, "left_anti");
    if (rows.isEmpty()) {
      return 0;
    }
    // The condition has the version as a number: a merge reads the files of that partition alone.
    return DeltaTable.forName(spark, predictions)
        .as("p")
        .merge(
            predict(artifacts, version, source, rows, folder).as("n"),
            "p.order_id = n.order_id AND p.model_version = " + version.version())
        .whenNotMatched()
        .insertAll()
        .execute()
        .first()
        .getAs("num_inserted_rows");
  }

  /**
   * Scores all rows of {@code source} again, and replaces this version's predictions with the new
   * ones in one commit: for a table whose rows change, or a run that went wrong. Those of other
   * versions stay.
   *
   * @throws IllegalArgumentException as {@link #score} does
   */
  public static void scoreAgain(
      SparkSession spark,
      ArtifactStore artifacts,
      ModelVersion version,
      String source,
      String predictions,
      Path folder) {
    predict(artifacts, version, source, spark.table(source), folder)
        .write()
        .format("delta")
        .mode("overwrite")
        .option("replaceWhere", "model_version = " + version.version())
        .saveAsTable(predictions);
  }

  private static Dataset<Row> predict(
      ArtifactStore artifacts,
      ModelVersion version,
      String source,
      Dataset<Row> rows,
      Path folder) {
    if (!rows.groupBy("order_id").count().where("count > 1").isEmpty()) {
      throw new IllegalArgumentException(source + " has an order_id twice: which row counts?");
    }
    return LogModel.load(artifacts, version, folder)
        .transform(rows)
        .selectExpr(
            "order_id",
            "prediction",
            version.version() + " AS model_version",
            "current_timestamp() AS scored_at");
  }

  /** The predictions of one version: whoever reads them names it, and never sees two mixed. */
  public static Dataset<Row> of(SparkSession spark, String predictions, ModelVersion version) {
    return spark.table(predictions).where(col("model_version").equalTo(version.version()));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        BatchScoring.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          Dataset<Row> history = baskets.where("order_date < '2025-11-01'");
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            ModelRegistry registry = mlflow.registry();
            ArtifactStore artifacts = mlflow.artifacts();
            Path models = folder.resolve("models");
            String id = UUID.randomUUID().toString().substring(0, 8);
            String name = "basket-amount-" + id;
            String experiment = mlflow.client().createExperiment("batch-scoring-" + id);
            for (int depth : new int[] {2, 4}) {
              LogModel.trainVersion(
                  mlflow.client(), artifacts, registry, experiment, name, history, depth);
            }
            createPredictions(spark, "predictions");

            notebook.step("Score the orders of December with the champion, version 1");
            baskets
                .where("order_date BETWEEN '2025-12-01' AND '2025-12-20'")
                .drop("amount")
                .write()
                .format("delta")
                .saveAsTable("orders");
            registry.setAlias(name, "champion", 1);
            notebook.text(run(spark, registry, artifacts, name, models));
            notebook.table(
                "predictions",
                spark
                    .table("orders")
                    .join(spark.table("predictions"), "order_id")
                    .orderBy("order_id")
                    .limit(5));

            notebook.step("The same run again, and again after new orders have come");
            notebook.text(run(spark, registry, artifacts, name, models));
            baskets
                .where("order_date > '2025-12-20'")
                .drop("amount")
                .write()
                .format("delta")
                .mode("append")
                .saveAsTable("orders");
            notebook.text(run(spark, registry, artifacts, name, models));

            notebook.step("A new champion scores all orders, beside the old one");
            registry.setAlias(name, "champion", 2);
            notebook.text(run(spark, registry, artifacts, name, models));
            notebook.table(
                "one order, by both",
                spark.table("predictions").orderBy("order_id", "model_version").limit(2));
            ModelVersion first = registry.version(name, 1);
            ModelVersion second = registry.version(name, 2);
            for (ModelVersion version : new ModelVersion[] {first, second}) {
              notebook.text(
                  "Version %d is wrong by %.2f EUR on average.",
                  version.version(),
                  of(spark, "predictions", version)
                      .join(baskets, "order_id")
                      .selectExpr("avg(abs(prediction - amount))")
                      .first()
                      .getDouble(0));
            }

            notebook.step("An order changes after it was scored: it is scored again on demand");
            long changed = spark.table("orders").selectExpr("min(order_id)").first().getLong(0);
            spark.sql("UPDATE orders SET items = 1, dearest = 20 WHERE order_id = " + changed);
            Dataset<Row> prediction =
                of(spark, "predictions", second)
                    .where(col("order_id").equalTo(changed))
                    .select("order_id", "prediction", "model_version");
            notebook.text(run(spark, registry, artifacts, name, models));
            notebook.table("after the usual run", prediction);
            scoreAgain(spark, artifacts, second, "orders", "predictions", models);
            notebook.table(
                "after version 2 has scored all again",
                of(spark, "predictions", second)
                    .where(col("order_id").equalTo(changed))
                    .select("order_id", "prediction", "model_version"));
            notebook.table(
                "the table's history",
                DeltaTable.forName(spark, "predictions")
                    .history()
                    .selectExpr(
                        "version",
                        "operation",
                        "coalesce(operationMetrics.numTargetRowsInserted,"
                            + " operationMetrics.numOutputRows) AS rows"));
          }
        });
  }

  private static String run(
      SparkSession spark,
      ModelRegistry registry,
      ArtifactStore artifacts,
      String name,
      Path folder) {
    long before = spark.table("predictions").count();
    ModelVersion champion =
        scoreWithChampion(spark, registry, artifacts, name, "orders", "predictions", folder);
    return "Version %d scores %d of %d orders. The table is at version %d, with %d predictions."
        .formatted(
            champion.version(),
            spark.table("predictions").count() - before,
            spark.table("orders").count(),
            DeltaTable.forName(spark, "predictions").history(1).first().<Long>getAs("version"),
            spark.table("predictions").count());
  }
}
