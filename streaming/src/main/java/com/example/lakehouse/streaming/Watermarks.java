package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.window;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;

/**
 * Watermarks: how long a stream waits for late rows, which of them it drops, how many these are,
 * and how to find them.
 *
 * <p>Run: {@code ./run Watermarks}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: 20,000 events, 400 of them one to two hours late, counted with three delays, and what
 * each drops; the windows that lack rows, found by a batch; two inputs, of which the slower or the
 * faster one sets the watermark.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#handling-late-data-and-watermarking">Structured
 *     Streaming: handling late data and watermarking</a>
 */
public final class Watermarks {

  private Watermarks() {}

  /**
   * Counts events by windows of ten minutes. After each batch the watermark is the highest {@code
   * event_time} so far less {@code delay}. It closes the windows that end at it or before, and a
   * row that comes to a closed window is dropped. When batches follow each other without a pause, a
   * batch drops by the watermark of the batch before it. Without a stream there is no watermark.
   *
   * @param events with {@code event_time TIMESTAMP}
   * @param delay how late a row may be against the latest, such as {@code 2 hours}; the counts come
   *     out later by as much, and their state is kept longer
   * @return {@code window_start TIMESTAMP, window_end TIMESTAMP, events BIGINT}
   */
  public static Dataset<Row> countByWindow(Dataset<Row> events, String delay) {
    return events
        .withWatermark("event_time", delay)
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events");
  }

  /**
   * As {@link #countByWindow}, for events of two inputs, each with a watermark of its own. The
   * query's watermark is the lower one, so that an input that sends nothing holds all back; with
   * {@code spark.sql.streaming.multipleWatermarkPolicy=max} it is the higher one, and rows of the
   * slower input are dropped. The policy of a query's first start stays in its checkpoint.
   *
   * @param web with {@code event_time TIMESTAMP}
   * @param app with the same columns
   */
  public static Dataset<Row> countTogether(
      Dataset<Row> web, String webDelay, Dataset<Row> app, String appDelay) {
    return web.withWatermark("event_time", webDelay)
        .unionByName(app.withWatermark("event_time", appDelay))
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events");
  }

  /** Appends to {@code table} what has become final with all rows that are there, and ends. */
  public static StreamingQuery appendAvailable(Dataset<Row> counts, String table, String checkpoint)
      throws TimeoutException {
    return counts
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /** The watermark of a query's last batch; 1970-01-01T00:00:00Z before there is one. */
  public static Instant watermark(StreamingQuery query) {
    return Instant.parse(query.lastProgress().eventTime().get("watermark"));
  }

  /**
   * What the watermark dropped in the batches that a query remembers, the last hundred. It counts
   * what reaches the operator that drops: rows before a {@code dropDuplicates}, but windows before
   * a count, one for all late rows of a batch in it. Above zero it says that rows were dropped, not
   * how many: {@link #dropped(Dataset, Dataset)} does.
   */
  public static long droppedByWatermark(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        .flatMap(progress -> Arrays.stream(progress.stateOperators()))
        .mapToLong(operator -> operator.numRowsDroppedByWatermark())
        .sum();
  }

  /**
   * The windows that lack rows, and how many: the windows of all rows, counted by a batch, less
   * what the stream counted. Windows after the last one that came out may still be open, and are
   * left out.
   *
   * @param events all rows that the stream has read, with {@code event_time TIMESTAMP}
   * @param counts what {@link #countByWindow} emitted
   * @return {@code window_start TIMESTAMP, events BIGINT, dropped BIGINT}
   */
  public static Dataset<Row> dropped(Dataset<Row> events, Dataset<Row> counts) {
    return events
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events")
        .crossJoin(counts.agg(max("window_end").as("closed_until")))
        .where("window_end <= closed_until")
        .join(counts.selectExpr("window_start", "events AS counted"), "window_start", "left")
        .selectExpr("window_start", "events", "events - coalesce(counted, 0) AS dropped")
        .where("dropped > 0");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Watermarks.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData data = notebook.sampleData(20_000).late(0.02);
          long batch = data.orderItemCount() / 5;
          for (int i = 0; i < 5; i++) {
            data.events()
                .where("event_id div %d = %d".formatted(batch, i))
                .select("event_id", "event_time", "arrival_time")
                .coalesce(1)
                .write()
                .format("delta")
                .mode("append")
                .saveAsTable("events");
          }
          notebook.step("Events that come late");
          notebook.text(
              "%,d events arrive in five batches; %,d of them are one to two hours late.",
              data.orderItemCount(), data.lateCount());
          notebook.table(
              "events",
              spark
                  .table("events")
                  .withColumn("late_by", col("arrival_time").minus(col("event_time")))
                  .orderBy("event_id")
                  .limit(3));

          notebook.step("Counted by windows of ten minutes, with three delays");
          spark.sql("INSERT INTO events VALUES (-1, TIMESTAMP'2025-12-02', TIMESTAMP'2025-12-02')");
          notebook.text("An event of the next day comes last: it closes all windows before it.");
          List<Row> results = new ArrayList<>();
          for (String delay : new String[] {"3 hours", "90 minutes", "10 minutes"}) {
            String counts = "counts_" + delay.replace(' ', '_');
            StreamingQuery query =
                appendAvailable(
                    countByWindow(
                        spark.readStream().option("maxFilesPerTrigger", 1).table("events"), delay),
                    counts,
                    notebook.sandbox().path("checkpoint_" + counts));
            query.awaitTermination();
            results.add(
                RowFactory.create(
                    delay,
                    spark.table(counts).agg(sum("events")).head().getLong(0),
                    dropped(spark.table("events"), spark.table(counts))
                        .agg(coalesce(sum("dropped"), lit(0L)))
                        .head()
                        .getLong(0),
                    droppedByWatermark(query)));
          }
          notebook.table(
              "the metric counts late windows, one for each batch that has rows of it",
              spark.createDataFrame(
                  results,
                  StructType.fromDDL(
                      "delay STRING, counted BIGINT, dropped BIGINT, numRowsDroppedByWatermark"
                          + " BIGINT")));
          notebook.table(
              "90 minutes: the windows that lack rows",
              dropped(spark.table("events"), spark.table("counts_90_minutes"))
                  .orderBy("window_start"));

          notebook.step("Two inputs: the slower or the faster one sets the watermark");
          for (String policy : new String[] {"min", "max"}) {
            String[] inputs = {"web_" + policy, "app_" + policy};
            for (String input : inputs) {
              spark.sql("CREATE TABLE %s (event_time TIMESTAMP) USING delta".formatted(input));
            }
            // A first start has no watermark yet, the second one has that of the first.
            String[][] arrivals = {
              {"('10:02'), ('10:41')", "('10:03'), ('10:16')"},
              {"('11:00')", "('10:08'), ('11:00')"}
            };
            spark.conf().set("spark.sql.streaming.multipleWatermarkPolicy", policy);
            try {
              for (String[] arrival : arrivals) {
                for (int i = 0; i < 2; i++) {
                  spark.sql(
                      "INSERT INTO %s SELECT CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (time)"
                          .formatted(inputs[i], arrival[i]));
                }
                appendAvailable(
                        countTogether(
                            spark.readStream().table(inputs[0]),
                            "10 minutes",
                            spark.readStream().table(inputs[1]),
                            "10 minutes"),
                        "together_" + policy,
                        notebook.sandbox().path("checkpoint_" + policy))
                    .awaitTermination();
              }
            } finally {
              spark.conf().unset("spark.sql.streaming.multipleWatermarkPolicy");
            }
            notebook.table(
                "%s: the app's event of 10:08 came when its watermark was 10:06, the web's 10:31"
                    .formatted(policy),
                spark
                    .table("together_" + policy)
                    .selectExpr("date_format(window_start, 'HH:mm') AS window", "events")
                    .orderBy("window"));
          }

          notebook.step("What has no watermark");
          Dataset<Row> events = spark.readStream().table("events");
          notebook.refused(
              "A date: a watermark is on a timestamp",
              "EVENT_TIME_IS_NOT_ON_TIMESTAMP_TYPE",
              () -> events.selectExpr("date(event_time) AS day").withWatermark("day", "1 day"));
          notebook.refused(
              "A watermark that comes after the aggregation: nothing closes its windows",
              "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
              () ->
                  appendAvailable(
                      events
                          .groupBy(window(col("event_time"), "10 minutes"))
                          .count()
                          .selectExpr("window.end AS window_end", "count")
                          .withWatermark("window_end", "10 minutes"),
                      "refused",
                      notebook.sandbox().path("refused")));
        });
  }
}
