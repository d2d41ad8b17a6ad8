package com.example.lakehouse.mlflow;

import com.example.lakehouse.mlflow.support.MlflowServer;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.SQLTransformer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Models whose predictions are an expression over {@code items BIGINT}, so that a test knows what
 * to expect. Each is logged once for all tests, to the server that they share.
 */
final class SimpleModels {
  private static final Map<String, Logged> LOGGED = new ConcurrentHashMap<>();

  private record Logged(String run, String digest) {}

  private SimpleModels() {}

  static PipelineModel model(SparkSession spark, String prediction) {
    return new Pipeline()
        .setStages(
            new PipelineStage[] {
              new SQLTransformer()
                  .setStatement(
                      "SELECT *, CAST(%s AS DOUBLE) AS prediction FROM __THIS__"
                          .formatted(prediction))
            })
        .fit(example(spark));
  }

  static Dataset<Row> example(SparkSession spark) {
    return spark.sql("SELECT 0L AS order_id, 1L AS items");
  }

  /** Makes the model the next version of {@code name}. */
  static ModelVersion register(
      SparkSession spark, MlflowServer mlflow, String name, String prediction) {
    Logged logged =
        LOGGED.computeIfAbsent(
            mlflow.uri() + " " + prediction,
            key -> {
              String run = mlflow.client().createRun().getRunId();
              return new Logged(
                  run,
                  LogModel.log(mlflow.artifacts(), run, model(spark, prediction), example(spark)));
            });
    return LogModel.register(mlflow.registry(), name, logged.run(), logged.digest());
  }
}
