package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.LongStream;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class DeduplicationTest {
  private static final String SCHEMA = "event_id BIGINT, event_time TIMESTAMP";
  private static final int EVENTS = 20_000;
  private static final int BATCHES = 6;

  private Rows events;

  @BeforeEach
  void createEvents(SparkSession spark) {
    events = new Rows(spark, SCHEMA);
  }

  private static SampleData sample(SparkSession spark) {
    return SampleData.of(spark).rows(EVENTS).duplicates(0.05);
  }

  /** Events and their duplicates in the order in which they arrive. */
  private static List<List<Row>> arrivals(SampleData data) {
    List<Row> rows =
        data.events()
            .orderBy("arrival_time", "event_id")
            .select("event_id", "event_time")
            .collectAsList();
    assertThat(rows).hasSize(EVENTS + Math.toIntExact(data.duplicateCount()));
    List<List<Row>> batches = new ArrayList<>();
    for (int i = 0; i < BATCHES; i++) {
      batches.add(rows.subList(i * rows.size() / BATCHES, (i + 1) * rows.size() / BATCHES));
    }
    return batches;
  }

  /** Feeds all batches, and expects each event once. */
  private void assertEachEventOnce(List<List<Row>> batches, Emitted distinct) {
    List<Long> ids = new ArrayList<>();
    for (List<Row> batch : batches) {
      events.add(batch);
      distinct.next().forEach(line -> ids.add(Long.valueOf(line.split(" ", -1)[0])));
    }
    assertThat(ids.stream().sorted().toList())
        .isEqualTo(LongStream.range(0, EVENTS).boxed().toList());
  }

  /** After each batch; a query also reports that it waits. */
  private static List<Long> remembered(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        .filter(batch -> batch.durationMs().containsKey("addBatch"))
        .map(Deduplication::rememberedIds)
        .toList();
  }

  /**
   * How many ids are remembered after each batch, with rows and without: an id goes when the
   * watermark has reached its time and {@code longer}.
   */
  private static List<Long> expected(List<List<Row>> batches, Duration longer) {
    Map<Long, Instant> ids = new HashMap<>();
    List<Long> sizes = new ArrayList<>();
    Instant watermark = Instant.EPOCH;
    for (List<Row> batch : batches) {
      for (Row event : batch) {
        ids.putIfAbsent(event.getLong(0), event.getInstant(1));
      }
      sizes.add((long) ids.size());
      for (Row event : batch) {
        Instant reached = event.getInstant(1).minus(Duration.ofMinutes(1));
        watermark = reached.isAfter(watermark) ? reached : watermark;
      }
      Instant limit = watermark.minus(longer);
      ids.values().removeIf(time -> !time.isAfter(limit));
      sizes.add((long) ids.size());
    }
    return sizes;
  }

  @Test
  void forEverIsExactAndRemembersAllIds(SparkSession spark) throws Exception {
    SampleData data = sample(spark);
    try (Emitted distinct =
        new Emitted(Deduplication.onceForEver(events.stream()), "append", events)) {
      assertEachEventOnce(arrivals(data), distinct);

      assertThat(Deduplication.droppedDuplicates(distinct.query()))
          .isEqualTo(data.duplicateCount())
          .isEqualTo(1_000);
      assertThat(remembered(distinct.query()))
          .hasSize(BATCHES)
          .isSorted()
          .last()
          .isEqualTo(20_000L);
    }
  }

  @Test
  void atItsTimeIsExactWhenCopiesHaveTheSameTimeAndRemembersTheLastMinute(SparkSession spark)
      throws Exception {
    SampleData data = sample(spark);
    List<List<Row>> batches = arrivals(data);
    try (Emitted distinct =
        new Emitted(Deduplication.onceAtItsTime(events.stream(), "1 minute"), "append", events)) {
      assertEachEventOnce(batches, distinct);

      assertThat(Deduplication.droppedDuplicates(distinct.query()))
          .isEqualTo(data.duplicateCount());
      List<Long> remembered = remembered(distinct.query());
      assertThat(remembered).isEqualTo(expected(batches, Duration.ZERO)).hasSize(2 * BATCHES);
      assertThat(remembered.get(remembered.size() - 1))
          .as("a minute, of ten events a second")
          .isBetween(550L, 650L);
    }
  }

  @Test
  void withinAMinuteIsExactAndRemembersTheLastTwo(SparkSession spark) throws Exception {
    SampleData data = sample(spark);
    List<List<Row>> batches = arrivals(data);
    try (Emitted distinct =
        new Emitted(Deduplication.onceWithin(events.stream(), "1 minute"), "append", events)) {
      assertEachEventOnce(batches, distinct);

      assertThat(Deduplication.droppedDuplicates(distinct.query()))
          .isEqualTo(data.duplicateCount());
      List<Long> remembered = remembered(distinct.query());
      assertThat(remembered)
          .isEqualTo(expected(batches, Duration.ofMinutes(1)))
          .allSatisfy(ids -> assertThat(ids).isLessThan(EVENTS / 4));
      assertThat(remembered.get(remembered.size() - 1)).isBetween(1_150L, 1_250L);
    }
  }

  private void add(long id, String... times) {
    for (String time : times) {
      events.add("(%d, '2025-03-01 %s')".formatted(id, time));
    }
  }

  private Emitted start(Dataset<Row> distinct) throws Exception {
    return new Emitted(
        distinct.selectExpr("event_id", "date_format(event_time, 'HH:mm')"), "append", events);
  }

  @Test
  void aCopyWithAnotherTimeIsAnotherEventAtItsTime() throws Exception {
    try (Emitted atItsTime = start(Deduplication.onceAtItsTime(events.stream(), "10 minutes"))) {
      add(1, "10:00");
      assertThat(atItsTime.next()).containsExactly("1 10:00");

      add(1, "10:00", "10:05");
      assertThat(atItsTime.next()).containsExactly("1 10:05");
    }
  }

  @Test
  void aCopyWithANewTimeComesThroughWhenItsIdIsForgotten() throws Exception {
    try (Emitted within = start(Deduplication.onceWithin(events.stream(), "10 minutes"))) {
      add(1, "10:00");
      add(2, "10:19:59");
      assertThat(within.next()).containsExactlyInAnyOrder("1 10:00", "2 10:19");

      add(1, "10:20");
      assertThat(within.next())
          .as("the watermark was 10:09:59, a second before ten minutes from 10:00")
          .isEmpty();

      add(1, "10:21");
      assertThat(within.next()).as("the watermark was 10:10").containsExactly("1 10:21");
    }
  }

  @Test
  void aCopyWithTheSameTimeNeverComesThroughForItIsTooLate() throws Exception {
    try (Emitted within = start(Deduplication.onceWithin(events.stream(), "10 minutes"))) {
      add(1, "10:00");
      add(2, "23:00");
      within.next();
      assertThat(remembered(within.query())).as("1 is forgotten").last().isEqualTo(1L);

      add(1, "10:00");
      add(3, "10:01");
      assertThat(within.next()).as("and so is what comes late for the first time").isEmpty();
      assertThat(
              Arrays.stream(within.query().recentProgress())
                  .flatMap(batch -> Arrays.stream(batch.stateOperators()))
                  .mapToLong(operator -> operator.numRowsDroppedByWatermark())
                  .sum())
          .isEqualTo(2);
      assertThat(Deduplication.droppedDuplicates(within.query())).isZero();
    }
  }

  @Test
  void aWatermarkOnATimeThatIsNotComparedForgetsNothing() throws Exception {
    Dataset<Row> distinct =
        events.stream().withWatermark("event_time", "1 minute").dropDuplicates("event_id");
    try (Emitted forEver = start(distinct)) {
      add(1, "10:00");
      add(2, "23:00");
      forEver.next();
      add(3, "23:10");
      forEver.next();

      assertThat(remembered(forEver.query())).last().isEqualTo(3L);
    }
  }

  private static void insert(SparkSession spark, String... rows) {
    spark.sql(
        "INSERT INTO events SELECT id, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (id, time)"
            .formatted(String.join(", ", rows)));
  }

  @Test
  void whatIsRememberedSurvivesARestart(SparkSession spark, Sandbox sandbox) throws Exception {
    spark.sql("CREATE TABLE events (%s) USING delta".formatted(SCHEMA));
    Dataset<Row> within =
        Deduplication.onceWithin(spark.readStream().table("events"), "10 minutes");
    insert(spark, "(1, '10:00')", "(2, '10:01')");
    Deduplication.appendAvailable(within, "once", sandbox.path("checkpoint")).awaitTermination();
    insert(spark, "(1, '10:03')", "(3, '10:04')");
    Deduplication.appendAvailable(within, "once", sandbox.path("checkpoint")).awaitTermination();

    assertThat(spark.table("once").select("event_id")).hasRows(row(1L), row(2L), row(3L));

    Deduplication.appendAvailable(within, "again", sandbox.path("another")).awaitTermination();
    assertThat(spark.table("again")).as("another checkpoint knows nothing").hasRowCount(3);
  }

  @Test
  void mergeInsertsEachEventOnceAtAnyDistance(SparkSession spark, Sandbox sandbox)
      throws Exception {
    SampleData data = sample(spark);
    data.events().select("event_id", "event_time").write().format("delta").saveAsTable("events");
    spark.sql("CREATE TABLE once (%s) USING delta".formatted(SCHEMA));
    Dataset<Row> stream = spark.readStream().table("events");
    StreamingQuery first = Deduplication.insertNew(stream, "once", sandbox.path("checkpoint"));
    first.awaitTermination();

    assertThat(first.lastProgress().stateOperators()).isEmpty();
    assertThat(spark.table("once"))
        .hasRowCount(EVENTS)
        .hasSameRowsAs(data.events().select("event_id", "event_time").distinct());

    insert(spark, "(7, '23:00')", "(%d, '23:00')".formatted(EVENTS));
    Deduplication.insertNew(stream, "once", sandbox.path("checkpoint")).awaitTermination();
    assertThat(spark.table("once")).hasRowCount(EVENTS + 1);
  }

  @Test
  void mergeOfABatchThatIsRepeatedInsertsNothing(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.sql("CREATE TABLE events (%s) USING delta".formatted(SCHEMA));
    spark.sql("CREATE TABLE once (%s) USING delta".formatted(SCHEMA));
    insert(spark, "(1, '10:00')", "(1, '10:00')", "(2, '10:01')");
    Dataset<Row> stream = spark.readStream().table("events");
    Deduplication.insertNew(stream, "once", sandbox.path("checkpoint")).awaitTermination();
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);

    StreamingQuery again = Deduplication.insertNew(stream, "once", sandbox.path("checkpoint"));
    again.awaitTermination();

    assertThat(again.recentProgress()[0].batchId()).as("the batch was run again").isZero();
    assertThat(spark.table("once").select("event_id")).hasRows(row(1L), row(2L));
  }

  @Test
  void withinAWatermarkNeedsOne() {
    assertThatThrownBy(
            () -> start(events.stream().dropDuplicatesWithinWatermark("event_id")).close())
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining("not supported on streaming DataFrames/DataSets without watermark");
  }

  @Test
  void aBatchHasNoWatermarkToBeWithin(SparkSession spark) {
    Dataset<Row> batch = Deduplication.onceWithin(sample(spark).events(), "1 minute");

    assertThatThrownBy(batch::count)
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining("not supported with batch DataFrames/DataSets");
  }
}
