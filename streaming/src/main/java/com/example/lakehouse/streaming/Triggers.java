package com.example.lakehouse.streaming;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.LatencyTrial;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Triggers: when the next batch begins; as soon as there is something, at even intervals, once for
 * all that is there, or not at all, because records flow.
 *
 * <p>Run: {@code ./run Triggers}, or Run in the IDE; no JVM flags, no setup: it starts a broker in
 * this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: the batches that each trigger makes of the same load, and the time that a record takes
 * from topic to topic; the rows of a backlog in batches of a bounded size.
 *
 * <p>On Databricks: the same code; serverless jobs take {@code AvailableNow} only.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#triggers">Structured
 *     Streaming: triggers</a>
 */
public final class Triggers {

  private Triggers() {}

  /**
   * A batch as soon as the last one has ended and there is something to do; the default.
   *
   * @param records {@code key, value}, as all methods here
   */
  public static StreamingQuery asSoonAsPossible(
      Dataset<Row> records, String servers, String topic, String checkpoint)
      throws TimeoutException {
    return forward(records, servers, topic, checkpoint, Trigger.ProcessingTime(0));
  }

  /**
   * A batch at each multiple of the interval, such as {@code 10 seconds}; fewer and larger ones,
   * which make fewer files in a table. If one takes longer than that, the next waits for the next
   * multiple.
   */
  public static StreamingQuery atIntervals(
      Dataset<Row> records, String servers, String topic, String checkpoint, String interval)
      throws TimeoutException {
    return forward(records, servers, topic, checkpoint, Trigger.ProcessingTime(interval));
  }

  /**
   * All that is there at the start, in batches of the size that the source's options allow, and an
   * end: a stream that runs as a job, which can start at night and need nothing by day.
   */
  public static StreamingQuery allThatIsThere(
      Dataset<Row> records, String servers, String topic, String checkpoint)
      throws TimeoutException {
    return forward(records, servers, topic, checkpoint, Trigger.AvailableNow());
  }

  /**
   * No batches: a task for each partition runs all the time and hands on each record. Still called
   * experimental after seven years: projections and filters only, at least once, and a failed task
   * ends the query. {@link RealTimeMode} is its successor.
   *
   * @param interval after which the offsets are noted; not the time that a record takes
   */
  public static StreamingQuery continuously(
      Dataset<Row> records, String servers, String topic, String checkpoint, String interval)
      throws TimeoutException {
    return forward(records, servers, topic, checkpoint, Trigger.Continuous(interval));
  }

  private static StreamingQuery forward(
      Dataset<Row> records, String servers, String topic, String checkpoint, Trigger trigger)
      throws TimeoutException {
    return records
        .writeStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .option("checkpointLocation", checkpoint)
        .trigger(trigger)
        .start();
  }

  /** Starts one of the triggers from a topic to another. */
  private interface Way {
    StreamingQuery start(Dataset<Row> records, String servers, String topic, String checkpoint)
        throws TimeoutException;
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Triggers.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Map<String, Way> ways = new LinkedHashMap<>();
          ways.put("as soon as possible", Triggers::asSoonAsPossible);
          ways.put(
              "every 2 seconds",
              (records, servers, topic, checkpoint) ->
                  atIntervals(records, servers, topic, checkpoint, "2 seconds"));
          ways.put(
              "continuously",
              (records, servers, topic, checkpoint) ->
                  continuously(records, servers, topic, checkpoint, "2 seconds"));
          Chart chart = new Chart("time from topic to topic", "ms");
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            for (Map.Entry<String, Way> way : ways.entrySet()) {
              notebook.step("500 records a second for 8 seconds: " + way.getKey());
              StreamingQuery[] query = new StreamingQuery[1];
              Dataset<Row> latencies =
                  LatencyTrial.run(
                      spark,
                      kafka,
                      500,
                      Duration.ofSeconds(8),
                      (in, out) -> {
                        query[0] =
                            way.getValue()
                                .start(
                                    RealTimeMode.suspicious(
                                        KafkaIngest.read(
                                            spark,
                                            servers,
                                            in,
                                            Map.of("startingOffsets", "earliest"))),
                                    servers,
                                    out,
                                    notebook.sandbox().path(out));
                        return query[0];
                      });
              Row figures = LatencyTrial.figures(latencies);
              notebook.text(
                  "%d batches; half of the records took at most %.0f ms, 99%% at most %.0f ms.",
                  query[0].recentProgress().length, figures.getDouble(0), figures.getDouble(1));
              for (String percentile : List.of("p50", "p99")) {
                chart.bar(way.getKey(), percentile, Math.round(figures.<Double>getAs(percentile)));
              }
            }
            notebook.chart(chart);

            notebook.step("All that is there: a backlog of 10,000 records, by 4,000, and an end");
            String in = kafka.newTopic("backlog", 1);
            KafkaIngest.sendJson(notebook.sampleData(10_000).events(), servers, in);
            StreamingQuery job =
                allThatIsThere(
                    KafkaIngest.read(
                            spark,
                            servers,
                            in,
                            Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "4000"))
                        .select("key", "value"),
                    servers,
                    kafka.newTopic("copy", 1),
                    notebook.sandbox().path("job"));
            job.awaitTermination();
            for (var batch : job.recentProgress()) {
              notebook.text("Batch %d: %,d records.", batch.batchId(), batch.numInputRows());
            }
          }
        });
  }
}
