package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.window;

import com.example.lakehouse.common.Notebook;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/**
 * Output modes: of a result that grows with each batch, append emits rows that are final, update
 * those that have changed, complete all of them.
 *
 * <p>Run: {@code ./run OutputModes}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the same three arrivals through the same count, and what each mode emits in each batch; a
 * window's count comes late in append mode, but only once; what is refused.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#output-modes">Structured
 *     Streaming: output modes</a>
 */
public final class OutputModes {

  private OutputModes() {}

  /**
   * Counts events by windows of ten minutes. A window is closed when an event has come that is ten
   * minutes younger than its end.
   *
   * @param events with {@code event_time TIMESTAMP}
   * @return {@code window_start TIMESTAMP, events BIGINT}
   */
  public static Dataset<Row> countByWindow(Dataset<Row> events) {
    return events
        .withWatermark("event_time", "10 minutes")
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "events");
  }

  /**
   * Appends to {@code table} what each batch emits, with the batch's number, so that one can see
   * it. A batch that is repeated after a crash is not in it twice.
   *
   * @param result a streaming aggregation
   * @param outputMode append, update or complete
   * @param table a Delta table: the columns of {@code result}, and {@code batch BIGINT}
   */
  public static StreamingQuery record(
      Dataset<Row> result, String outputMode, String table, String checkpoint)
      throws TimeoutException {
    return result
        .writeStream()
        .outputMode(outputMode)
        .option("checkpointLocation", checkpoint)
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (rows, batch) ->
                    rows.withColumn("batch", lit(batch))
                        .write()
                        .format("delta")
                        .mode("append")
                        .option("txnAppId", checkpoint)
                        .option("txnVersion", batch)
                        .saveAsTable(table))
        .start();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        OutputModes.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String[] arrivals = {
            "(1, '10:01'), (2, '10:04'), (3, '10:12')",
            "(4, '10:08'), (5, '10:14'), (6, '10:31')",
            "(7, '10:33')"
          };
          for (String mode : new String[] {"append", "update", "complete"}) {
            notebook.step("Output mode " + mode);
            String source = "events_" + mode;
            spark.sql(
                "CREATE TABLE %s (event_id INT, event_time TIMESTAMP) USING delta"
                    .formatted(source));
            StreamingQuery query =
                record(
                    countByWindow(spark.readStream().table(source)),
                    mode,
                    "emitted_" + mode,
                    notebook.sandbox().path("checkpoint_" + mode));
            try {
              for (String arrival : arrivals) {
                spark.sql(
                    "INSERT INTO %s SELECT id, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (id, time)"
                        .formatted(source, arrival));
                query.processAllAvailable();
              }
            } finally {
              query.stop();
            }
            notebook.table(
                "what each batch emitted",
                spark
                    .table("emitted_" + mode)
                    .selectExpr("batch", "date_format(window_start, 'HH:mm') AS window", "events")
                    .orderBy("batch", "window"));
          }

          notebook.step("What a mode cannot do");
          Dataset<Row> events = spark.readStream().table("events_append");
          String checkpoint = notebook.sandbox().path("refused");
          notebook.refused(
              "Append, of counts without a watermark: none of them is ever final",
              "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
              () -> record(events.groupBy("event_id").count(), "append", "refused", checkpoint));
          notebook.refused(
              "Complete, of rows without an aggregation: they would all have to be kept",
              "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
              () -> record(events, "complete", "refused", checkpoint));
        });
  }
}
