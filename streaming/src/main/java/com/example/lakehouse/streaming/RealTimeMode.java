package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.from_json;

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
 * Real-Time Mode: from topic to topic in milliseconds, because a batch hands on each record while
 * it runs, and not at its end.
 *
 * <p>Run: {@code ./run RealTimeMode}, or Run in the IDE; no JVM flags, no setup: it starts a broker
 * in this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: the time that a record takes through the same query as micro-batches and in Real-Time
 * Mode, under the same load; the pause at the end of each batch, when the offsets are noted.
 *
 * <p>On Databricks: the same trigger, on a dedicated cluster with {@code
 * spark.databricks.streaming.realTimeMode.enabled}; stateful queries are supported there too.
 *
 * @see <a href="https://spark.apache.org/docs/latest/streaming/real-time-mode.html">Structured
 *     Streaming: Real-time Mode</a>
 */
public final class RealTimeMode {

  private RealTimeMode() {}

  /**
   * Payments that want a look at, for another topic. Real-Time Mode of Spark 4.1 takes queries
   * without state: projections, filters, unions, joins with a table.
   *
   * @param records a Kafka topic with JSON values {@code payment_id BIGINT, amount DECIMAL(12,2)}
   * @return {@code key BINARY, value STRING}: JSON with {@code payment_id}, {@code amount} and
   *     {@code received}, the input record's time in milliseconds
   */
  public static Dataset<Row> suspicious(Dataset<Row> records) {
    return records
        .withColumn(
            "payment",
            from_json(
                col("value").cast("STRING"), "payment_id BIGINT, amount DECIMAL(12,2)", Map.of()))
        .where("payment.amount >= 100")
        .selectExpr(
            "key",
            "to_json(struct(payment.payment_id, payment.amount, unix_millis(timestamp) AS received)) AS value");
  }

  /**
   * Hands records on to a topic. What a batch had sent when the process died is sent again by the
   * next start: at least once.
   *
   * <p>In Real-Time Mode a task per partition runs all the time: there must be as many free cores.
   *
   * @param trigger such as {@code Trigger.RealTime("5 minutes")}: the time after which the offsets
   *     are noted, not the time that a record takes; at least five seconds
   */
  public static StreamingQuery forward(
      Dataset<Row> records, String servers, String topic, String checkpoint, Trigger trigger)
      throws TimeoutException {
    return records
        .writeStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .option("checkpointLocation", checkpoint)
        // The only one that Real-Time Mode knows; without an aggregation it is the same as append.
        .outputMode("update")
        .trigger(trigger)
        .start();
  }

  /**
   * The time that each record took from the one topic to the other, by the brokers' clock if both
   * topics have {@code message.timestamp.type=LogAppendTime}.
   *
   * @return {@code payment_id BIGINT, received BIGINT, millis BIGINT}
   */
  public static Dataset<Row> latencies(SparkSession spark, String servers, String topic) {
    return spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", topic)
        .load()
        .withColumn(
            "payment",
            from_json(col("value").cast("STRING"), "payment_id BIGINT, received BIGINT", Map.of()))
        .selectExpr(
            "payment.payment_id",
            "payment.received",
            "unix_millis(timestamp) - payment.received AS millis");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RealTimeMode.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          // Real-Time Mode needs the newer of the two Kafka sources.
          spark.conf().set("spark.sql.streaming.disabledV2MicroBatchReaders", "");
          Map<String, Trigger> triggers = new LinkedHashMap<>();
          triggers.put("micro-batches", Trigger.ProcessingTime(0));
          triggers.put("Real-Time Mode", Trigger.RealTime("5 seconds"));
          Chart chart = new Chart("time from topic to topic", "ms");
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            for (Map.Entry<String, Trigger> trigger : triggers.entrySet()) {
              notebook.step("1,000 records a second for 12 seconds: " + trigger.getKey());
              Dataset<Row> latencies =
                  LatencyTrial.run(
                      spark,
                      kafka,
                      1_000,
                      Duration.ofSeconds(12),
                      (in, out) ->
                          forward(
                              suspicious(
                                  KafkaIngest.read(
                                      spark, servers, in, Map.of("startingOffsets", "earliest"))),
                              servers,
                              out,
                              notebook.sandbox().path(out),
                              trigger.getValue()));
              Row figures = LatencyTrial.figures(latencies);
              notebook.text(
                  "Of %,d records half took at most %.0f ms, 99%% at most %.0f ms, the longest %d ms.",
                  latencies.count(),
                  figures.getDouble(0),
                  figures.getDouble(1),
                  figures.getLong(2));
              notebook.table(
                  "how many took how long",
                  latencies
                      .selectExpr(
                          "CASE WHEN millis < 20 THEN '1. below 20 ms' WHEN millis < 100 THEN '2. 20 to 99 ms'"
                              + " WHEN millis < 500 THEN '3. 100 to 499 ms' ELSE '4. 500 ms or more' END AS took")
                      .groupBy("took")
                      .count()
                      .orderBy("took"));
              for (String percentile : List.of("p50", "p99")) {
                chart.bar(
                    trigger.getKey(), percentile, Math.round(figures.<Double>getAs(percentile)));
              }
            }
          }
          notebook.chart(chart);

          notebook.step("What it cannot do");
          Dataset<Row> files = spark.readStream().text(notebook.sandbox().folder().toString());
          String nowhere = "127.0.0.1:1";
          String checkpoint = notebook.sandbox().path("refused");
          notebook.refused(
              "To note the offsets more often than every five seconds",
              "INVALID_STREAMING_REAL_TIME_MODE_TRIGGER_INTERVAL",
              () ->
                  forward(files, nowhere, "payments", checkpoint, Trigger.RealTime("1 second"))
                      .awaitTermination());
          notebook.refused(
              "Files: only a source that can wait for the next record within a task",
              "STREAMING_REAL_TIME_MODE.INPUT_STREAM_NOT_SUPPORTED",
              () ->
                  forward(files, nowhere, "payments", checkpoint, Trigger.RealTime("5 seconds"))
                      .awaitTermination());
        });
  }
}
