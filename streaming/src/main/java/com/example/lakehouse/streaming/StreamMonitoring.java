package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.window;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Queue;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;
import java.util.regex.Pattern;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.SourceProgress;
import org.apache.spark.sql.streaming.StateOperatorProgress;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryListener;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;
import scala.jdk.javaapi.OptionConverters;

/**
 * Monitoring: a listener that records rates, state, lag and watermark of each batch in a table, an
 * alert when the lag grows, and the exception of a query that has failed.
 *
 * <p>Run: {@code ./run StreamMonitoring}, or Run in the IDE; no JVM flags, no setup: it starts a
 * broker in this JVM, or uses those that {@code KAFKA_BOOTSTRAP_SERVERS} names.
 *
 * <p>See: eight batches of a query that falls behind and catches up again; the alert at the third
 * batch in a row after which more was left to read than before; a query that fails, and why.
 *
 * <p>On Databricks: the same code on a cluster; the Spark UI shows the same figures of queries that
 * have a name.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#monitoring-streaming-queries">Structured
 *     Streaming: monitoring streaming queries</a>
 */
public final class StreamMonitoring {
  /** What {@link #figures} says of a batch. */
  public static final String FIGURES =
      """
      query STRING, run_id STRING, batch_id BIGINT, time TIMESTAMP, input_rows BIGINT,
      input_rows_per_second DOUBLE, processed_rows_per_second DOUBLE, duration_ms BIGINT,
      state_rows BIGINT, state_bytes BIGINT, records_behind BIGINT, watermark TIMESTAMP
      """;

  /** What a {@link Recorder} says of a query that has ended; of one that was stopped, two NULLs. */
  public static final String ENDS =
      "query STRING, run_id STRING, error_condition STRING, exception STRING";

  private static final Pattern OFFSET = Pattern.compile(":(\\d+)");

  private StreamMonitoring() {}

  /**
   * The figures of a batch, in the columns of {@link #FIGURES}. {@code watermark} is the one that
   * the batch was run with, NULL in a query without; {@code records_behind} as in {@link
   * #recordsBehind}.
   *
   * <p>{@code state_bytes} is RocksDB's own figure, or else an estimate of Spark's default store.
   * That looks into java.util's maps, which the JVM forbids without {@code --add-opens} for {@code
   * java.base/java.util}, {@code java.util.concurrent} and {@code java.lang}: it is then 48 for
   * each store, whatever is in it.
   */
  public static Row figures(StreamingQueryProgress batch) {
    OptionalLong behind = recordsBehind(batch);
    String watermark = batch.eventTime().get("watermark");
    return RowFactory.create(
        nameOf(batch.name(), batch.id()),
        batch.runId().toString(),
        batch.batchId(),
        Instant.parse(batch.timestamp()),
        batch.numInputRows(),
        batch.inputRowsPerSecond(),
        batch.processedRowsPerSecond(),
        batch.batchDuration(),
        Arrays.stream(batch.stateOperators()).mapToLong(StateOperatorProgress::numRowsTotal).sum(),
        Arrays.stream(batch.stateOperators())
            .mapToLong(StateOperatorProgress::memoryUsedBytes)
            .sum(),
        behind.isPresent() ? behind.getAsLong() : null,
        watermark == null ? null : Instant.parse(watermark));
  }

  /**
   * How many records of its topics a query has not read yet with this batch, as Kafka was when the
   * batch began. It comes from the offsets, which each Kafka source reports; the metrics {@code
   * maxOffsetsBehindLatest} and so on are the newer source's only.
   *
   * @return empty for a query that reads no topic
   */
  public static OptionalLong recordsBehind(StreamingQueryProgress batch) {
    List<SourceProgress> topics =
        Arrays.stream(batch.sources())
            .filter(source -> source.description().startsWith("Kafka"))
            .toList();
    return topics.isEmpty()
        ? OptionalLong.empty()
        : OptionalLong.of(
            topics.stream()
                .mapToLong(source -> offsets(source.latestOffset()) - offsets(source.endOffset()))
                .sum());
  }

  /** The sum of offsets such as {@code {"events":{"0":120,"1":118}}}. */
  private static long offsets(String json) {
    return OFFSET
        .matcher(json)
        .results()
        .mapToLong(offset -> Long.parseLong(offset.group(1)))
        .sum();
  }

  private static String nameOf(String name, UUID id) {
    return name == null ? id.toString() : name;
  }

  /**
   * Keeps the figures of the batches of all queries, and how queries have ended, until they are
   * taken. It does no more, for {@code onQueryStarted} holds up the query's start, and the other
   * events of all queries wait in one queue for one thread: a listener that is slow holds up no
   * batch, but the other listeners, and in the end Spark drops events.
   */
  public static final class Recorder extends StreamingQueryListener {
    private final Queue<Row> figures = new ConcurrentLinkedQueue<>();
    private final Queue<Row> ends = new ConcurrentLinkedQueue<>();
    private final Map<UUID, String> names = new ConcurrentHashMap<>();

    @Override
    public void onQueryStarted(QueryStartedEvent event) {
      names.put(event.runId(), nameOf(event.name(), event.id()));
    }

    @Override
    public void onQueryProgress(QueryProgressEvent event) {
      figures.add(StreamMonitoring.figures(event.progress()));
    }

    @Override
    public void onQueryTerminated(QueryTerminatedEvent event) {
      String name = names.remove(event.runId());
      ends.add(
          RowFactory.create(
              nameOf(name, event.id()),
              event.runId().toString(),
              OptionConverters.toJava(event.errorClassOnException()).orElse(null),
              OptionConverters.toJava(event.exception()).orElse(null)));
    }

    /** What has come since the last call, in the columns of {@link #FIGURES}. */
    public List<Row> takeFigures() {
      return take(figures);
    }

    /** What has come since the last call, in the columns of {@link #ENDS}. */
    public List<Row> takeEnds() {
      return take(ends);
    }

    private static List<Row> take(Queue<Row> queue) {
      List<Row> taken = new ArrayList<>();
      for (Row row = queue.poll(); row != null; row = queue.poll()) {
        taken.add(row);
      }
      return taken;
    }
  }

  /**
   * Appends what the recorder has gathered since the last call. To be called now and then, such as
   * each minute, and not by a listener.
   *
   * @param figures a Delta table of {@link #FIGURES}, which the first call creates
   * @param ends the same of {@link #ENDS}
   */
  public static void save(SparkSession spark, Recorder recorder, String figures, String ends) {
    append(spark.createDataFrame(recorder.takeFigures(), StructType.fromDDL(FIGURES)), figures);
    append(spark.createDataFrame(recorder.takeEnds(), StructType.fromDDL(ENDS)), ends);
  }

  private static void append(Dataset<Row> rows, String table) {
    rows.write().format("delta").mode("append").saveAsTable(table);
  }

  /**
   * Calls {@code alert} when, {@code batches} times in a row, more was left to read than after the
   * batch before; once, and again only after that has ceased. A query that hangs has no batches,
   * and a listener is told nothing: look also for queries whose last figures are old.
   */
  public static final class LagAlert extends StreamingQueryListener {
    private final int batches;
    private final BiConsumer<StreamingQueryProgress, Long> alert;
    private final Map<UUID, Trend> trends = new ConcurrentHashMap<>();

    private record Trend(long behind, int grown) {}

    /**
     * Makes an alert for all queries that read from Kafka.
     *
     * @param alert takes the batch and how many records it left; it must return at once
     */
    public LagAlert(int batches, BiConsumer<StreamingQueryProgress, Long> alert) {
      this.batches = batches;
      this.alert = alert;
    }

    @Override
    public void onQueryStarted(QueryStartedEvent event) {}

    @Override
    public void onQueryProgress(QueryProgressEvent event) {
      StreamingQueryProgress batch = event.progress();
      recordsBehind(batch)
          .ifPresent(
              behind -> {
                Trend before = trends.getOrDefault(batch.runId(), new Trend(behind, 0));
                int grown = behind > before.behind() ? before.grown() + 1 : 0;
                trends.put(batch.runId(), new Trend(behind, grown));
                if (grown == batches) {
                  alert.accept(batch, behind);
                }
              });
    }

    @Override
    public void onQueryTerminated(QueryTerminatedEvent event) {
      trends.remove(event.runId());
    }
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        StreamMonitoring.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Recorder recorder = new Recorder();
          Queue<String> alerts = new ConcurrentLinkedQueue<>();
          LagAlert lagAlert =
              new LagAlert(
                  3,
                  (batch, behind) ->
                      alerts.add(
                          "%s is %,d records behind after batch %d, for the third time more."
                              .formatted(batch.name(), behind, batch.batchId())));
          // The other store's estimate of its bytes does not see what is in it.
          spark
              .conf()
              .set(
                  "spark.sql.streaming.stateStore.providerClass",
                  "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider");
          spark.streams().addListener(recorder);
          spark.streams().addListener(lagAlert);
          try (EmbeddedKafka kafka =
              EmbeddedKafka.start(notebook.sandbox().folder().resolve("kafka"))) {
            String servers = kafka.bootstrapServers();
            String topic = kafka.newTopic("events", 1);
            Dataset<Row> events = notebook.sampleData(2_000).events();

            notebook.step("A query reads 200 records in a batch, while more and more come");
            // What comes while a batch runs.
            List<Integer> arrivals = List.of(200, 300, 400, 500);
            KafkaIngest.sendJson(events.where("event_id < 200"), servers, topic);
            StreamingQuery counts =
                KafkaIngest.parseJson(
                        KafkaIngest.read(
                            spark,
                            servers,
                            topic,
                            Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "200")),
                        events.schema().toDDL())
                    .withWatermark("event_time", "10 seconds")
                    .groupBy(window(col("event_time"), "10 seconds"), col("event_type"))
                    .agg(count(lit(1)).as("events"))
                    .writeStream()
                    .queryName("counts")
                    .option("checkpointLocation", notebook.sandbox().path("counts"))
                    .foreachBatch(
                        (VoidFunction2<Dataset<Row>, Long>)
                            (batch, batchId) -> {
                              batch.write().format("delta").mode("append").saveAsTable("counts");
                              int n = batchId.intValue();
                              if (n < arrivals.size()) {
                                int from =
                                    200 + arrivals.subList(0, n).stream().mapToInt(i -> i).sum();
                                KafkaIngest.sendJson(
                                    events.where(
                                        "event_id >= %d AND event_id < %d"
                                            .formatted(from, from + arrivals.get(n))),
                                    servers,
                                    topic);
                              }
                            })
                    .start();
            counts.processAllAvailable();
            counts.stop();

            notebook.step("A query that reads what is no number");
            StreamingQuery numbers =
                KafkaIngest.read(spark, servers, topic, Map.of("startingOffsets", "earliest"))
                    .selectExpr(
                        "CAST(get_json_object(CAST(value AS STRING), '$.event_type') AS BIGINT) AS"
                            + " number")
                    .writeStream()
                    .queryName("numbers")
                    .trigger(Trigger.AvailableNow())
                    .format("delta")
                    .option("checkpointLocation", notebook.sandbox().path("numbers"))
                    .toTable("numbers");
            notebook.refused("its first batch", "CAST_INVALID_INPUT", numbers::awaitTermination);

            notebook.step("What the listeners have seen");
            // The events come on a thread of their own, a little later.
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
            do {
              save(spark, recorder, "figures", "ends");
            } while (spark.table("ends").count() < 2 && System.nanoTime() < deadline);
            Dataset<Row> batches =
                spark
                    .table("figures")
                    .where("query = 'counts' AND input_rows > 0")
                    .orderBy("batch_id");
            notebook.table(
                "figures of the query counts",
                batches.selectExpr(
                    "batch_id AS batch",
                    "input_rows",
                    "duration_ms",
                    "state_rows",
                    "state_bytes",
                    "records_behind",
                    "watermark"));
            alerts.forEach(alert -> notebook.text("Alert: %s", alert));
            Chart behind = new Chart("records behind", "records");
            Chart rates = new Chart("rates", "rows per second");
            Chart state = new Chart("windows and event types in the state", "rows");
            for (Row batch : batches.collectAsList()) {
              String number = "batch " + batch.<Long>getAs("batch_id");
              behind.bar(number, batch.<Long>getAs("records_behind"));
              state.bar(number, batch.<Long>getAs("state_rows"));
              // Of the first batch it is not known since when its rows came.
              rates.bar(
                  "arrived", number, Math.round(batch.<Double>getAs("input_rows_per_second")));
              rates.bar(
                  "processed",
                  number,
                  Math.round(batch.<Double>getAs("processed_rows_per_second")));
            }
            notebook.chart(behind);
            notebook.chart(rates);
            notebook.chart(state);
            notebook.table(
                "how the queries have ended",
                spark
                    .table("ends")
                    .selectExpr(
                        "query",
                        "error_condition",
                        "regexp_extract(exception, 'Caused by: ([^\\n]*)') AS cause")
                    .orderBy("query"));
          } finally {
            spark.streams().removeListener(recorder);
            spark.streams().removeListener(lagAlert);
          }
        });
  }
}
