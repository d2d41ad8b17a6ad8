package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.window;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.StreamMonitoring.LagAlert;
import com.example.lakehouse.streaming.StreamMonitoring.Recorder;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.streaming.StreamingQueryListener;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class StreamMonitoringTest {
  private static final Duration PATIENCE = Duration.ofMinutes(1);

  private final List<StreamingQueryListener> listeners = new ArrayList<>();
  private final List<Row> figures = new ArrayList<>();
  private final List<Row> ends = new ArrayList<>();

  private SparkSession spark;
  private String servers;
  private String topic;
  private String checkpoint;
  private String name;
  private Recorder recorder;

  @BeforeEach
  void addRecorder(SparkSession spark, Sandbox sandbox, EmbeddedKafka kafka) {
    this.spark = spark;
    servers = kafka.bootstrapServers();
    topic = kafka.newTopic("events", 1);
    checkpoint = sandbox.path("checkpoint");
    name = "query-" + UUID.randomUUID();
    recorder = new Recorder();
    add(recorder);
  }

  private void add(StreamingQueryListener listener) {
    listeners.add(listener);
    spark.streams().addListener(listener);
  }

  @AfterEach
  void removeListeners() {
    listeners.forEach(spark.streams()::removeListener);
  }

  private void send(long records) {
    spark
        .range(0, records, 1, 1)
        .selectExpr("CAST(id AS STRING) AS key", "CAST(id AS STRING) AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .save();
  }

  /**
   * Runs a query that takes 10 records in a batch, until all are read.
   *
   * @param arrivals how many records there are at first, and how many come during each batch
   */
  private StreamingQuery run(int... arrivals) throws Exception {
    send(arrivals[0]);
    StreamingQuery query =
        KafkaIngest.read(
                spark,
                servers,
                topic,
                Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "10"))
            .writeStream()
            .queryName(name)
            .option("checkpointLocation", checkpoint)
            .foreachBatch(
                (VoidFunction2<Dataset<Row>, Long>)
                    (batch, batchId) -> {
                      batch.count();
                      if (batchId + 1 < arrivals.length && arrivals[batchId.intValue() + 1] > 0) {
                        send(arrivals[batchId.intValue() + 1]);
                      }
                    })
            .start();
    query.processAllAvailable();
    query.stop();
    awaitEnd();
    return query;
  }

  /** The end is the last that a query tells; by then its figures are all there. */
  private void awaitEnd() {
    await()
        .atMost(PATIENCE)
        .until(
            () -> {
              recorder.takeFigures().stream()
                  .filter(row -> row.getString(0).equals(name))
                  .forEach(figures::add);
              recorder.takeEnds().stream()
                  .filter(row -> row.getString(0).equals(name))
                  .forEach(ends::add);
              return !ends.isEmpty();
            });
  }

  private Dataset<Row> figures() {
    return spark.createDataFrame(figures, StructType.fromDDL(StreamMonitoring.FIGURES));
  }

  @Test
  void rowsAndLagOfEachBatchAreRecorded() throws Exception {
    run(10, 10, 30, 25, 0, 3);

    // 78 records in all, of which 10 are read each time.
    assertThat(figures().select("batch_id", "input_rows", "records_behind"))
        .hasRows(
            row(0L, 10L, 0L),
            row(1L, 10L, 0L),
            row(2L, 10L, 20L),
            row(3L, 10L, 35L),
            row(4L, 10L, 25L),
            row(5L, 10L, 18L),
            row(6L, 10L, 8L),
            row(7L, 8L, 0L));
    assertThat(figures().select("state_rows", "state_bytes", "watermark").distinct())
        .as("a query without state and watermark")
        .hasRows(row(0L, 0L, null));
  }

  @Test
  void theNewerSourceHasMetricsThatSayTheSameAndTheOlderHasNone(EmbeddedKafka kafka)
      throws Exception {
    topic = kafka.newTopic("events", 2);
    StreamingQuery older = run(60);
    assertThat(older.recentProgress())
        .hasSizeGreaterThan(5)
        .allSatisfy(batch -> assertThat(batch.sources()[0].metrics()).isEmpty());
    assertWhatIsBehindIsWhatIsNotRead(older, 60);

    topic = kafka.newTopic("events", 2);
    checkpoint = checkpoint + "-newer";
    ends.clear();
    spark.conf().set("spark.sql.streaming.disabledV2MicroBatchReaders", "");
    StreamingQuery newer = run(60);

    assertThat(newer.recentProgress()).hasSizeGreaterThan(5);
    assertWhatIsBehindIsWhatIsNotRead(newer, 60);
    for (StreamingQueryProgress batch : newer.recentProgress()) {
      Map<String, String> metrics = batch.sources()[0].metrics();
      assertThat(StreamMonitoring.recordsBehind(batch))
          .as("of two partitions together")
          .hasValue(
              Long.parseLong(metrics.get("maxOffsetsBehindLatest"))
                  + Long.parseLong(metrics.get("minOffsetsBehindLatest")));
    }
  }

  private static void assertWhatIsBehindIsWhatIsNotRead(StreamingQuery query, long records) {
    long left = records;
    for (StreamingQueryProgress batch : query.recentProgress()) {
      left -= batch.numInputRows();
      assertThat(StreamMonitoring.recordsBehind(batch)).hasValue(left);
    }
    assertThat(left).isZero();
  }

  @Test
  void stateAndWatermarkOfEachBatchAreRecorded() throws Exception {
    Rows source = new Rows(spark, "event_time TIMESTAMP");
    StreamingQuery query =
        source.stream()
            .withWatermark("event_time", "10 minutes")
            .groupBy(window(col("event_time"), "10 minutes"))
            .count()
            .writeStream()
            .queryName(name)
            .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (batch, batchId) -> batch.count())
            .start();
    source.add("('2025-03-01 10:01:00')", "('2025-03-01 10:11:00')", "('2025-03-01 10:21:00')");
    source.arrive();
    query.processAllAvailable();
    source.add("('2025-03-01 10:45:00')");
    source.arrive();
    query.processAllAvailable();
    query.stop();
    awaitEnd();

    // The batches without rows move the watermark on, and drop the windows before it.
    assertThat(figures().select("batch_id", "input_rows", "state_rows", "watermark"))
        .hasRows(
            row(0L, 3L, 3L, Instant.EPOCH),
            row(1L, 0L, 2L, Instant.parse("2025-03-01T10:11:00Z")),
            row(2L, 1L, 3L, Instant.parse("2025-03-01T10:11:00Z")),
            row(3L, 0L, 1L, Instant.parse("2025-03-01T10:35:00Z")));
    assertThat(figures().select("state_bytes").distinct())
        .as("48 bytes for each of two stores: the estimate does not see the rows")
        .hasRows(row(96L));
    assertThat(figures().where("records_behind IS NOT NULL")).as("no topic is read").isEmpty();
  }

  @Test
  void theBytesOfTheStateAreThoseOfRocksDb() throws Exception {
    spark
        .conf()
        .set(
            "spark.sql.streaming.stateStore.providerClass",
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider");
    Dataset<Row> numbers = spark.range(20_000).selectExpr("CAST(id AS STRING) AS value");
    Rows source = new Rows(spark, "value STRING");
    StreamingQuery query =
        source.stream()
            .dropDuplicates("value")
            .writeStream()
            .queryName(name)
            .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (batch, batchId) -> batch.count())
            .start();
    source.add(numbers.limit(1).collectAsList());
    source.arrive();
    query.processAllAvailable();
    source.add(numbers.collectAsList());
    source.arrive();
    query.processAllAvailable();
    query.stop();
    awaitEnd();

    assertThat(figures().select("batch_id", "state_rows")).hasRows(row(0L, 1L), row(1L, 20_000L));
    List<Long> bytes =
        figures().orderBy("batch_id").select("state_bytes").collectAsList().stream()
            .map(row -> row.getLong(0))
            .toList();
    assertThat(bytes.get(1) - bytes.get(0)).as("bytes %s", bytes).isGreaterThan(20_000);
  }

  @Test
  void theRatesAreRowsByTime() throws Exception {
    StreamingQuery query = run(30);

    List<Row> batches = figures().orderBy("batch_id").collectAsList();
    assertThat(batches).hasSize(3);
    for (int i = 0; i < batches.size(); i++) {
      Row batch = batches.get(i);
      StreamingQueryProgress progress = query.recentProgress()[i];
      assertThat(batch.<Long>getAs("duration_ms")).isEqualTo(progress.batchDuration());
      assertThat(batch.<Double>getAs("processed_rows_per_second"))
          .isCloseTo(10_000.0 / progress.batchDuration(), within(0.01));
      double sinceTheLast =
          i == 0
              ? Double.POSITIVE_INFINITY
              : Duration.between(
                      batches.get(i - 1).<Instant>getAs("time"), batch.<Instant>getAs("time"))
                  .toMillis();
      assertThat(batch.<Double>getAs("input_rows_per_second"))
          .isCloseTo(10_000 / sinceTheLast, within(0.01));
    }
  }

  /** The batches at which the alert came, as {@code batch: records behind}. */
  private List<String> alerts(int batches, int... arrivals) throws Exception {
    ConcurrentLinkedQueue<String> alerts = new ConcurrentLinkedQueue<>();
    add(
        new LagAlert(
            batches,
            (batch, behind) -> {
              if (name.equals(batch.name())) {
                alerts.add(batch.batchId() + ": " + behind);
              }
            }));
    run(arrivals);
    return List.copyOf(alerts);
  }

  private List<Long> lags() {
    return figures().orderBy("batch_id").select("records_behind").collectAsList().stream()
        .map(row -> row.getLong(0))
        .toList();
  }

  @Test
  void theAlertComesAtTheThirdBatchOfGrowthAndOnce() throws Exception {
    assertThat(alerts(3, 10, 10, 30, 30, 30, 30)).containsExactly("4: 60");
    assertThat(lags().subList(0, 8)).containsExactly(0L, 0L, 20L, 40L, 60L, 80L, 70L, 60L);
  }

  @Test
  void aLagThatStaysOrComesAndGoesIsNoAlert() throws Exception {
    // It stays, grows twice, stays, grows twice, falls.
    assertThat(alerts(3, 50, 10, 10, 15, 15, 10, 15, 15)).isEmpty();
    assertThat(lags().subList(0, 9)).containsExactly(40L, 40L, 40L, 45L, 50L, 50L, 55L, 60L, 50L);
  }

  @Test
  void afterTheLagHasCeasedToGrowASecondAlertCanCome() throws Exception {
    assertThat(alerts(2, 10, 15, 15, 0, 15, 15)).containsExactly("2: 10", "5: 10");
    assertThat(lags().subList(0, 6)).containsExactly(0L, 5L, 10L, 0L, 5L, 10L);
  }

  @Test
  void aFailureIsReportedWithItsException() throws Exception {
    send(5);
    StreamingQuery query =
        KafkaIngest.read(spark, servers, topic, Map.of("startingOffsets", "earliest"))
            .selectExpr("CAST('no. ' || CAST(value AS STRING) AS BIGINT) AS number")
            .writeStream()
            .queryName(name)
            .format("delta")
            .option("checkpointLocation", checkpoint)
            .trigger(Trigger.AvailableNow())
            .toTable("numbers");

    assertThatThrownBy(query::awaitTermination).isInstanceOf(StreamingQueryException.class);
    awaitEnd();

    assertThat(figures).as("a batch that fails has no figures").isEmpty();
    assertThat(ends).hasSize(1);
    Row end = ends.get(0);
    assertThat(end.getString(1)).isEqualTo(query.runId().toString());
    assertThat(end.getString(2))
        .as("the outermost error's condition")
        .isEqualTo("TASK_WRITE_FAILED");
    assertThat(end.getString(3))
        .contains("Caused by: org.apache.spark.SparkNumberFormatException: [CAST_INVALID_INPUT]")
        .contains("The value 'no. 0'");
  }

  @Test
  void aStopIsNoFailure() throws Exception {
    StreamingQuery query = run(1);

    assertThat(ends).hasSize(1);
    assertThat(ends.get(0).toString())
        .isEqualTo("[%s,%s,null,null]".formatted(name, query.runId()));
  }

  @Test
  void whatIsSavedIsInTheTablesOnce() throws Exception {
    send(25);
    StreamingQuery query =
        KafkaIngest.ingestAvailable(
            KafkaIngest.read(
                spark,
                servers,
                topic,
                Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "10")),
            "events",
            checkpoint);
    query.awaitTermination();
    await()
        .atMost(PATIENCE)
        .until(
            () -> {
              StreamMonitoring.save(spark, recorder, "figures", "ends");
              return spark.table("ends").where("run_id = '%s'".formatted(query.runId())).count()
                  == 1;
            });
    StreamMonitoring.save(spark, recorder, "figures", "ends");

    assertThat(
            spark
                .table("figures")
                .where("run_id = '%s'".formatted(query.runId()))
                .select("query", "batch_id", "input_rows", "records_behind"))
        .as("a query without a name goes by its id")
        .hasRows(
            row(query.id().toString(), 0L, 10L, 15L),
            row(query.id().toString(), 1L, 10L, 5L),
            row(query.id().toString(), 2L, 5L, 0L));
    assertThat(spark.table("figures")).hasSchema(StreamMonitoring.FIGURES);
  }

  @Test
  void aListenerThatHangsHoldsUpNoBatch() throws Exception {
    CountDownLatch called = new CountDownLatch(1);
    CountDownLatch goOn = new CountDownLatch(1);
    StreamingQueryListener hanging =
        new StreamingQueryListener() {
          @Override
          public void onQueryStarted(QueryStartedEvent event) {}

          @Override
          public void onQueryProgress(QueryProgressEvent event) {
            if (name.equals(event.progress().name())) {
              called.countDown();
              awaitLatch(goOn);
            }
          }

          @Override
          public void onQueryTerminated(QueryTerminatedEvent event) {}
        };
    // Before the recorder, which then waits behind it.
    spark.streams().removeListener(recorder);
    add(hanging);
    spark.streams().addListener(recorder);
    send(30);
    try {
      StreamingQuery query =
          KafkaIngest.read(
                  spark,
                  servers,
                  topic,
                  Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "10"))
              .writeStream()
              .queryName(name)
              .option("checkpointLocation", checkpoint)
              .trigger(Trigger.AvailableNow())
              .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (batch, batchId) -> batch.count())
              .start();

      assertThat(query.awaitTermination(PATIENCE.toMillis())).isTrue();
      assertThat(Arrays.stream(query.recentProgress()).map(batch -> batch.numInputRows()))
          .as("all batches have run")
          .containsExactly(10L, 10L, 10L);
      assertThat(called.await(1, TimeUnit.MINUTES)).isTrue();
      assertThat(recorder.takeFigures())
          .as("but other listeners wait")
          .noneMatch(row -> row.getString(0).equals(name));
    } finally {
      goOn.countDown();
    }
    awaitEnd();
    assertThat(figures).hasSize(3);
  }

  private static void awaitLatch(CountDownLatch latch) {
    try {
      latch.await();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
