package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.collect_set;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sort_array;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.ArtifactStore;
import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import io.delta.tables.DeltaTable;
import java.nio.file.Path;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Streaming scoring: a stream takes up a new champion at the next batch, without a restart, and no
 * batch mixes two.
 *
 * <p>Run: {@code ./run StreamingScoring}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a promotion while the stream runs, and which version scored each batch; a champion that
 * fails stops the stream, and the one before it goes on after a rollback, from the same batch; a
 * batch that is repeated after a crash stays as it was written.
 *
 * <p>On Databricks: the same code; Unity Catalog names in place of the tables' and the model's, and
 * folders of a volume for the models and the checkpoint.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#foreachbatch">Spark:
 *     foreachBatch</a>
 */
public final class StreamingScoring {

  private StreamingScoring() {}

  /**
   * Creates the table of predictions, unless it is there: {@code order_id BIGINT, prediction
   * DOUBLE, model_version INT, batch BIGINT, scored_at TIMESTAMP}.
   */
  public static void createPredictions(SparkSession spark, String table) {
    DeltaTable.createIfNotExists(spark)
        .tableName(table)
        .addColumn("order_id", "BIGINT")
        .addColumn("prediction", "DOUBLE")
        .addColumn("model_version", "INT")
        .addColumn("batch", "BIGINT")
        .addColumn("scored_at", "TIMESTAMP")
        .execute();
  }

  /**
   * What {@link #start} does with a batch: it asks for the champion once, and adds the batch's
   * predictions in one commit. A model is loaded when its version comes up, and kept until the
   * next.
   *
   * <p>A batch that is repeated after a crash is scored by the champion of then, if its predictions
   * were not committed; if they were, Delta skips the second commit by the application's name and
   * the batch's number, and they stay those of the version that wrote them.
   *
   * @param predictions a table that {@link #createPredictions} made
   * @param application a name that only this checkpoint uses, the same at each start: a new
   *     checkpoint counts from 0, and under the old name its batches would be skipped
   * @param folder where models are kept, as {@link LogModel#load} has it
   */
  public static VoidFunction2<Dataset<Row>, Long> scoring(
      ModelRegistry registry,
      ArtifactStore artifacts,
      String name,
      String predictions,
      String application,
      Path folder) {
    Map<Integer, PipelineModel> loaded = new ConcurrentHashMap<>();
    return (orders, batch) -> {
      ModelVersion champion =
          registry
              .byAlias(name, "champion")
              .orElseThrow(() -> new IllegalStateException(name + " has no champion"));
      loaded.keySet().removeIf(version -> version != champion.version());
      loaded
          .computeIfAbsent(
              champion.version(), version -> LogModel.load(artifacts, champion, folder))
          .transform(orders)
          .selectExpr(
              "order_id",
              "prediction",
              champion.version() + " AS model_version",
              batch + "L AS batch",
              "current_timestamp() AS scored_at")
          .write()
          .format("delta")
          .mode("append")
          .option("txnAppId", application)
          .option("txnVersion", batch)
          .saveAsTable(predictions);
    };
  }

  /**
   * Starts to score a stream.
   *
   * @param orders with {@code order_id BIGINT} and what the model takes
   * @param scoring what {@link #scoring} gives
   */
  public static StreamingQuery start(
      Dataset<Row> orders,
      VoidFunction2<Dataset<Row>, Long> scoring,
      String checkpoint,
      Trigger trigger)
      throws TimeoutException {
    return orders
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(trigger)
        .foreachBatch(scoring)
        .start();
  }

  /** Which versions scored each batch: one, or something is wrong. */
  public static Dataset<Row> batches(SparkSession spark, String predictions) {
    return spark
        .table(predictions)
        .groupBy("batch")
        .agg(
            count(lit(1)).as("orders"),
            sort_array(collect_set("model_version")).as("model_versions"))
        .orderBy("batch");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        StreamingScoring.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Path folder = notebook.sandbox().folder();
          String checkpoint = notebook.sandbox().path("checkpoint");
          SampleData shop = notebook.sampleData(3_000);
          Dataset<Row> baskets =
              LogModel.baskets(shop.orders(), shop.orderItems(), shop.customers()).cache();
          Dataset<Row> history = baskets.where("order_date < '2025-11-01'");
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            ModelRegistry registry = mlflow.registry();
            String id = UUID.randomUUID().toString().substring(0, 8);
            String name = "basket-amount-" + id;
            String experiment = mlflow.client().createExperiment("streaming-scoring-" + id);
            for (int depth : new int[] {2, 4}) {
              LogModel.trainVersion(
                  mlflow.client(), mlflow.artifacts(), registry, experiment, name, history, depth);
            }
            registry.setAlias(name, "champion", 1);
            createPredictions(spark, "predictions");
            history.limit(0).drop("amount").write().format("delta").saveAsTable("orders");
            VoidFunction2<Dataset<Row>, Long> scoring =
                scoring(
                    registry,
                    mlflow.artifacts(),
                    name,
                    "predictions",
                    "scoring-" + id,
                    folder.resolve("models"));

            notebook.step("Orders come in, and version 2 is promoted while the stream runs");
            StreamingQuery query =
                start(
                    spark.readStream().table("orders"),
                    scoring,
                    checkpoint,
                    Trigger.ProcessingTime(0));
            try {
              for (int day = 1; day <= 5; day++) {
                if (day == 3) {
                  registry.setAlias(name, "champion", 2);
                }
                arrive(baskets, day);
                query.processAllAvailable();
              }
            } finally {
              query.stop();
            }
            notebook.table("which version scored each batch", batches(spark, "predictions"));

            notebook.step("A champion that cannot be loaded: the stream ends");
            String empty = mlflow.client().createRun(experiment).getRunId();
            LogModel.register(registry, name, empty, "0".repeat(64));
            registry.setAlias(name, "champion", 3);
            arrive(baskets, 6);
            notebook.refused(
                "Nothing of the batch is written",
                "STREAM_FAILED",
                () -> scoreAvailable(spark, scoring, checkpoint));
            registry.setAlias(name, "champion", 2);
            scoreAvailable(spark, scoring, checkpoint);
            notebook.table(
                "With version 2 again, it goes on from the same batch",
                batches(spark, "predictions"));

            notebook.step("A crash when a batch is committed, and a rollback before the restart");
            arrive(baskets, 7);
            VoidFunction2<Dataset<Row>, Long> crashing =
                (orders, batch) -> {
                  scoring.call(orders, batch);
                  throw new IllegalStateException("a crash after the commit of batch " + batch);
                };
            notebook.refused(
                "Spark does not know that the batch is done, and will repeat it",
                "STREAM_FAILED",
                () -> scoreAvailable(spark, crashing, checkpoint));
            registry.setAlias(name, "champion", 1);
            arrive(baskets, 8);
            scoreAvailable(spark, scoring, checkpoint);
            notebook.table(
                "Repeated, it stays with version 2; the next one is version 1's",
                batches(spark, "predictions"));
            notebook.text(
                "The stream has had %,d orders, and made %,d predictions, for %,d orders.",
                spark.table("orders").count(),
                spark.table("predictions").count(),
                spark.table("predictions").select("order_id").distinct().count());
          }
        });
  }

  /** The orders of a day of December. */
  private static void arrive(Dataset<Row> baskets, int day) {
    baskets
        .where("order_date = DATE'2025-12-01' + %d".formatted(day - 1))
        .drop("amount")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("orders");
  }

  private static void scoreAvailable(
      SparkSession spark, VoidFunction2<Dataset<Row>, Long> scoring, String checkpoint)
      throws Exception {
    start(spark.readStream().table("orders"), scoring, checkpoint, Trigger.AvailableNow())
        .awaitTermination();
  }
}
