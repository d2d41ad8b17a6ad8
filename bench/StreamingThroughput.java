import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.window;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.streaming.KafkaIngest;
import com.example.lakehouse.streaming.RealTimeMode;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.LatencyTrial;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/** Started by {@code bench/streaming-throughput}, which says what it measures. */
public final class StreamingThroughput {
  private static final int ROUNDS = 3;
  private static final long WARM_UP_RECORDS = 200_000;
  private static final long WINDOW_RECORDS = 3_000_000;

  private final SparkSession spark;
  private final Sandbox sandbox;
  private final EmbeddedKafka kafka;
  private boolean failed;

  private StreamingThroughput(SparkSession spark, Sandbox sandbox, EmbeddedKafka kafka) {
    this.spark = spark;
    this.sandbox = sandbox;
    this.kafka = kafka;
  }

  public static void main(String[] args) throws Exception {
    SparkSession spark = SparkSessions.open("streaming-throughput");
    boolean failed;
    try (Sandbox sandbox = new Sandbox(spark, "streaming_throughput", false);
        EmbeddedKafka kafka = EmbeddedKafka.start(sandbox.folder().resolve("kafka"))) {
      StreamingThroughput bench = new StreamingThroughput(spark, sandbox, kafka);
      bench.throughput(Long.parseLong(args[0]));
      bench.windows();
      bench.realTime();
      failed = bench.failed;
    } finally {
      SparkSessions.close(spark);
    }
    System.exit(failed ? 1 : 0);
  }

  private void bar(String what, double value, double bar, boolean passed) {
    System.out.printf(
        Locale.ROOT, "%s: %.2f (bar %.2f): %s%n", what, value, bar, passed ? "pass" : "FAIL");
    failed |= !passed;
  }

  /**
   * Numbers with a time of their own, {@code perSecond} in a second, as JSON of 100 bytes. Of more
   * writers than one, each has a stretch of the time, and the records come out of order.
   */
  private String topicOf(long records, long perSecond, int writers) {
    String topic = kafka.newTopic("events", 2);
    spark
        .range(0, records, 1, writers)
        .selectExpr(
            "CAST(id AS STRING) AS key",
            "to_json(struct(id AS event_id, id % 1000 AS customer_id, 'view' AS event_type,"
                + " timestamp_micros(1764547200000000 + id * 1000000 div "
                + perSecond
                + ") AS event_time)) AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("topic", topic)
        .save();
    return topic;
  }

  private void throughput(long records) throws Exception {
    String warmUp = topicOf(WARM_UP_RECORDS, 1_000, 20);
    asBatch(warmUp, "warm_batch");
    asStream(warmUp, "warm_stream", WARM_UP_RECORDS / 4);
    String topic = topicOf(records, 1_000, 20);
    List<Double> ratios = new ArrayList<>();
    for (int round = 0; round < ROUNDS; round++) {
      double batch = asBatch(topic, "batch_" + round);
      double stream = asStream(topic, "stream_" + round, records / 5);
      for (String table : List.of("batch_" + round, "stream_" + round)) {
        long found =
            spark.table(table).selectExpr("count(DISTINCT offset, partition)").first().getLong(0);
        if (found != records) {
          throw new IllegalStateException(
              "%s has %d of %d records".formatted(table, found, records));
        }
        spark.sql("DROP TABLE " + table);
      }
      ratios.add(batch / stream);
      System.out.printf(
          Locale.ROOT,
          "%,d records: batch %.1f s, %,.0f records/s; stream in 5 batches %.1f s, %,.0f records/s%n",
          records,
          batch,
          records / batch,
          stream,
          records / stream);
    }
    double median = ratios.stream().sorted().toList().get(ROUNDS / 2);
    bar("stream against batch, median of %d".formatted(ROUNDS), median, 0.6, median >= 0.6);
  }

  private double asBatch(String topic, String table) {
    long start = System.nanoTime();
    spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("subscribe", topic)
        .load()
        .write()
        .format("delta")
        .saveAsTable(table);
    return (System.nanoTime() - start) / 1e9;
  }

  private double asStream(String topic, String table, long recordsPerBatch) throws Exception {
    long start = System.nanoTime();
    spark
        .readStream()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", recordsPerBatch)
        .load()
        .writeStream()
        .format("delta")
        .option("checkpointLocation", sandbox.path("checkpoint_" + table))
        .trigger(Trigger.AvailableNow())
        .toTable(table)
        .awaitTermination();
    return (System.nanoTime() - start) / 1e9;
  }

  /** Ten minutes of event time, windows of ten seconds by 1,000 customers, 60 batches. */
  private void windows() throws Exception {
    String topic = topicOf(WINDOW_RECORDS, WINDOW_RECORDS / 600, 1);
    List<Long> heap = new ArrayList<>();
    Dataset<Row> counts =
        KafkaIngest.parseJson(
                KafkaIngest.read(
                    spark,
                    kafka.bootstrapServers(),
                    topic,
                    Map.of(
                        "startingOffsets",
                        "earliest",
                        "maxOffsetsPerTrigger",
                        String.valueOf(WINDOW_RECORDS / 60))),
                "event_id BIGINT, customer_id BIGINT, event_time TIMESTAMP")
            .withWatermark("event_time", "10 seconds")
            .groupBy(window(col("event_time"), "10 seconds"), col("customer_id"))
            .count()
            .selectExpr("window.start AS window_start", "customer_id", "count");
    StreamingQuery query =
        counts
            .writeStream()
            .option("checkpointLocation", sandbox.path("windows"))
            .trigger(Trigger.AvailableNow())
            .foreachBatch(
                (VoidFunction2<Dataset<Row>, Long>)
                    (batch, id) -> {
                      batch.write().format("delta").mode("append").saveAsTable("counts");
                      heap.add(heapAfterCollection());
                    })
            .start();
    query.awaitTermination();
    long counted = spark.table("counts").selectExpr("sum(count)").first().getLong(0);
    List<Long> state =
        Arrays.stream(query.recentProgress())
            .map(batch -> batch.stateOperators()[0].numRowsTotal())
            .toList();
    System.out.printf(
        "windows over ten minutes: %,d of %,d records in windows that have closed%n",
        counted, WINDOW_RECORDS);
    System.out.println("  state rows, each 6th batch: " + everySixth(state));
    System.out.println("  heap after collection in MB, each 6th batch: " + everySixth(heap));
    double closed = 1.0 * counted / WINDOW_RECORDS;
    bar("share of the records that a closed window has", closed, 0.95, closed >= 0.95);
    double stateGrowth =
        max(state.subList(state.size() / 2, state.size()))
            / max(state.subList(5, state.size() / 2));
    bar("state rows, second half against first", stateGrowth, 1.1, stateGrowth <= 1.1);
    double heapGrowth =
        max(heap.subList(heap.size() / 2, heap.size())) / max(heap.subList(5, heap.size() / 2));
    bar("heap, second half against first", heapGrowth, 1.1, heapGrowth <= 1.1);
  }

  private static long heapAfterCollection() {
    System.gc();
    return ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed() >> 20;
  }

  private static double max(List<Long> values) {
    return values.stream().mapToLong(Long::longValue).max().orElseThrow();
  }

  private static String everySixth(List<Long> values) {
    List<String> shown = new ArrayList<>();
    for (int i = 0; i < values.size(); i += 6) {
      shown.add("%,d".formatted(values.get(i)));
    }
    return String.join(" ", shown);
  }

  private void realTime() throws Exception {
    spark.conf().set("spark.sql.streaming.disabledV2MicroBatchReaders", "");
    String servers = kafka.bootstrapServers();
    for (String mode : List.of("micro-batches", "Real-Time Mode")) {
      StreamingQuery[] query = new StreamingQuery[1];
      Dataset<Row> latencies =
          LatencyTrial.run(
              spark,
              kafka,
              1_000,
              Duration.ofSeconds(60),
              (in, out) -> {
                query[0] =
                    RealTimeMode.forward(
                        RealTimeMode.suspicious(
                            KafkaIngest.read(
                                spark, servers, in, Map.of("startingOffsets", "earliest"))),
                        servers,
                        out,
                        sandbox.path("checkpoint_" + out),
                        mode.equals("micro-batches")
                            ? Trigger.ProcessingTime(0)
                            : Trigger.RealTime("10 seconds"));
                return query[0];
              });
      report(mode + ", all", latencies);
      if (mode.equals("micro-batches")) {
        continue;
      }
      // A batch begins where the one before has ended; the pause is there.
      String ends =
          Arrays.stream(query[0].recentProgress())
              .map(batch -> Instant.parse(batch.timestamp()).toEpochMilli())
              .map("abs(received - %d) < 1000"::formatted)
              .collect(Collectors.joining(" OR "));
      Row within = report(mode + ", within a batch", latencies.where("NOT (%s)".formatted(ends)));
      report(mode + ", in the second before and after a batch's end", latencies.where(ends));
      bar("p50 within a batch, ms", within.getDouble(0), 20, within.getDouble(0) <= 20);
      bar("p99 within a batch, ms", within.getDouble(1), 100, within.getDouble(1) <= 100);
    }
  }

  private static Row report(String what, Dataset<Row> latencies) {
    Row figures = LatencyTrial.figures(latencies);
    System.out.printf(
        Locale.ROOT,
        "%s: %,d records, p50 %.0f ms, p99 %.0f ms, longest %d ms%n",
        what,
        latencies.count(),
        figures.getDouble(0),
        figures.getDouble(1),
        figures.getLong(2));
    return figures;
  }
}
