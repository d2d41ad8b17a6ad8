package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.window;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@SparkTest
class WatermarksTest {
  private static final String POLICY = "spark.sql.streaming.multipleWatermarkPolicy";
  private static final String SCHEMA = "event_id BIGINT, event_time TIMESTAMP";
  private static final long WINDOW = Duration.ofMinutes(10).toMillis();
  private static final int BATCHES = 5;

  private Rows events;

  @BeforeEach
  void createEvents(SparkSession spark) {
    events = new Rows(spark, SCHEMA);
  }

  private void add(String... times) {
    for (String time : times) {
      events.add("(1, '2025-03-01 %s')".formatted(time));
    }
  }

  private Emitted start(Dataset<Row> events, String delay) throws Exception {
    return new Emitted(
        Watermarks.countByWindow(events, delay)
            .selectExpr("date_format(window_start, 'HH:mm')", "events"),
        "append",
        this.events);
  }

  private Emitted start(String delay) throws Exception {
    return start(events.stream(), delay);
  }

  private static Instant at(String time) {
    return Instant.parse("2025-03-01T" + time + ":00Z");
  }

  /** Events in the order in which they arrive, and at last one that closes all windows. */
  private static List<List<Row>> arrivals(SampleData data) {
    List<Row> rows =
        data.events().orderBy("arrival_time").select("event_id", "event_time").collectAsList();
    int size = rows.size() / BATCHES;
    List<List<Row>> batches = new ArrayList<>();
    for (int i = 0; i < BATCHES; i++) {
      batches.add(rows.subList(i * size, (i + 1) * size));
    }
    batches.add(List.of(RowFactory.create(-1L, Instant.parse("2025-12-02T00:00:00Z"))));
    return batches;
  }

  /** What the rule of the watermark makes of batches. */
  private static final class Rule {
    final TreeMap<Long, Long> counts = new TreeMap<>();
    long droppedRows;
    long droppedWindows;
    long olderThanTheWatermark;

    /**
     * @param lag how many batches it takes until a row moves the watermark by which others are
     *     dropped
     */
    Rule(List<List<Row>> batches, Duration delay, int lag) {
      List<Long> watermarks = new ArrayList<>();
      long watermark = 0;
      for (List<Row> batch : batches) {
        int seen = watermarks.size() - lag;
        long closed = seen < 0 ? 0 : watermarks.get(seen);
        TreeSet<Long> late = new TreeSet<>();
        for (Row event : batch) {
          long time = event.getInstant(1).toEpochMilli();
          long start = time - time % WINDOW;
          if (start + WINDOW <= closed) {
            droppedRows++;
            late.add(start);
          } else {
            counts.merge(start, 1L, Long::sum);
          }
          if (time <= closed) {
            olderThanTheWatermark++;
          }
          watermark = Math.max(watermark, time - delay.toMillis());
        }
        droppedWindows += late.size();
        watermarks.add(watermark);
      }
      counts.remove(Instant.parse("2025-12-02T00:00:00Z").toEpochMilli());
    }

    List<String> lines() {
      return counts.entrySet().stream()
          .map(window -> Instant.ofEpochMilli(window.getKey()) + " " + window.getValue())
          .toList();
    }
  }

  @ParameterizedTest
  @CsvSource({"3 hours, PT3H", "90 minutes, PT90M", "10 minutes, PT10M"})
  void whatIsCountedAndDroppedIsWhatTheRuleSays(String delay, Duration duration, SparkSession spark)
      throws Exception {
    SampleData data = SampleData.of(spark).rows(20_000).late(0.02);
    List<List<Row>> batches = arrivals(data);
    Rule rule = new Rule(batches, duration, 1);
    List<String> emitted = new ArrayList<>();
    try (Emitted counts =
        new Emitted(Watermarks.countByWindow(events.stream(), delay), "append", events)) {
      for (List<Row> batch : batches) {
        events.add(batch);
        emitted.addAll(counts.next());
      }

      assertThat(emitted)
          .extracting(line -> line.split(" ", -1)[0] + " " + line.split(" ", -1)[2])
          .containsExactlyInAnyOrderElementsOf(rule.lines());
      assertThat(Watermarks.droppedByWatermark(counts.query())).isEqualTo(rule.droppedWindows);
    }

    long inTheFirstBatch =
        batches.get(0).stream()
            .filter(e -> e.getInstant(1).isBefore(Instant.parse("2025-11-30T23:59:00Z")))
            .count();
    switch (delay) {
      case "3 hours" -> assertThat(rule.droppedRows).isZero();
      case "90 minutes" ->
          assertThat(rule.droppedRows).isBetween(50L, data.lateCount() - inTheFirstBatch - 50);
      default ->
          assertThat(rule.droppedRows)
              .as("all late rows but those of the first batch, which has no watermark")
              .isEqualTo(data.lateCount() - inTheFirstBatch);
    }
    assertThat(rule.counts.values().stream().mapToLong(Long::longValue).sum() + rule.droppedRows)
        .isEqualTo(20_000);
  }

  @Test
  void theMetricCountsRowsBeforeDropDuplicatesAndWindowsBeforeACount(SparkSession spark)
      throws Exception {
    List<List<Row>> batches = arrivals(SampleData.of(spark).rows(20_000).late(0.02));
    Rule rule = new Rule(batches, Duration.ofMinutes(10), 1);
    Dataset<Row> distinct =
        events.stream()
            .withWatermark("event_time", "10 minutes")
            .dropDuplicates("event_id", "event_time");
    try (Emitted rows = new Emitted(distinct, "append", events)) {
      for (List<Row> batch : batches) {
        events.add(batch);
        rows.next();
      }
      assertThat(Watermarks.droppedByWatermark(rows.query()))
          .isEqualTo(rule.olderThanTheWatermark)
          .isGreaterThan(5 * rule.droppedWindows);
    }
  }

  @Test
  void betweenBatchesWithoutAPauseTheWatermarkIsABatchBehindAndABatchFindsWhatIsMissing(
      SparkSession spark, Sandbox sandbox) throws Exception {
    List<List<Row>> batches = arrivals(SampleData.of(spark).rows(2_000).late(0.1));
    spark.sql("CREATE TABLE events (%s) USING delta".formatted(SCHEMA));
    for (List<Row> batch : batches) {
      spark
          .createDataFrame(batch, spark.table("events").schema())
          .coalesce(1)
          .write()
          .format("delta")
          .mode("append")
          .saveAsTable("events");
    }
    StreamingQuery query =
        Watermarks.appendAvailable(
            Watermarks.countByWindow(
                spark.readStream().option("maxFilesPerTrigger", 1).table("events"), "75 minutes"),
            "counts",
            sandbox.path("checkpoint"));
    query.awaitTermination();

    Rule rule = new Rule(batches, Duration.ofMinutes(75), 2);
    assertThat(rule.droppedRows)
        .isPositive()
        .isLessThan(new Rule(batches, Duration.ofMinutes(75), 1).droppedRows);
    assertThat(spark.table("counts").collectAsList())
        .extracting(window -> window.getInstant(0) + " " + window.getLong(2))
        .containsExactlyInAnyOrderElementsOf(rule.lines());
    assertThat(Watermarks.droppedByWatermark(query)).isEqualTo(rule.droppedWindows);
    assertThat(
            Watermarks.dropped(spark.table("events"), spark.table("counts"))
                .selectExpr("sum(dropped)"))
        .hasRows(row(rule.droppedRows));
  }

  @Test
  void aWindowOfWhichAllRowsWereDroppedIsFoundAndAnOpenOneIsNot(SparkSession spark) {
    Dataset<Row> rows =
        spark.sql(
            """
            SELECT CAST('2025-03-01 ' || time AS TIMESTAMP) AS event_time
            FROM VALUES ('10:01'), ('10:11'), ('10:12'), ('10:21'), ('10:31') AS v (time)
            """);
    Dataset<Row> counts =
        Watermarks.countByWindow(rows.where("minute(event_time) IN (11, 21)"), "1 minute");

    assertThat(Watermarks.dropped(rows, counts))
        .hasRows(row(at("10:00"), 1L, 1L), row(at("10:10"), 2L, 1L));
  }

  @Test
  void aBatchKnowsNoWatermark(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(2_000).late(0.1);

    assertThat(Watermarks.countByWindow(data.events(), "0 seconds").selectExpr("sum(events)"))
        .hasRows(row(2_000L));
  }

  @Test
  void aRowOlderThanTheWatermarkIsKeptWhileItsWindowIsOpen() throws Exception {
    try (Emitted counts = start("10 minutes")) {
      add("10:02", "10:15");
      counts.next();
      assertThat(Watermarks.watermark(counts.query())).isEqualTo(at("10:05"));

      add("10:01", "10:20");
      assertThat(counts.next()).as("the watermark is 10:10").containsExactly("10:00 2");

      add("10:09:59.999", "10:10", "10:30");
      assertThat(counts.next())
          .as("a window that ends at the watermark is closed")
          .containsExactly("10:10 2");
      assertThat(Watermarks.droppedByWatermark(counts.query())).isEqualTo(1);
    }
  }

  @Test
  void theWatermarkNeverGoesBack() throws Exception {
    try (Emitted counts = start("10 minutes")) {
      add("10:40");
      counts.next();
      add("10:35");
      counts.next();

      assertThat(Watermarks.watermark(counts.query())).isEqualTo(at("10:30"));
    }
  }

  @Test
  void withoutAnOperatorThatKeepsStateNothingIsDropped() throws Exception {
    Dataset<Row> rows =
        events.stream()
            .withWatermark("event_time", "1 minute")
            .selectExpr("date_format(event_time, 'HH:mm')");
    try (Emitted all = new Emitted(rows, "append", events)) {
      add("10:40");
      all.next();
      add("08:00");

      assertThat(all.next()).containsExactly("08:00");
    }
  }

  private StreamingQuery count(SparkSession spark, Sandbox sandbox, String delay, String... times)
      throws Exception {
    spark.sql(
        "INSERT INTO events SELECT 1, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES ('%s') AS v (time)"
            .formatted(String.join("'), ('", times)));
    StreamingQuery query =
        Watermarks.appendAvailable(
            Watermarks.countByWindow(spark.readStream().table("events"), delay),
            "counts",
            sandbox.path("checkpoint"));
    query.awaitTermination();
    return query;
  }

  @Test
  void theWatermarkSurvivesARestartAndALongerDelayDoesNotTakeItBack(
      SparkSession spark, Sandbox sandbox) throws Exception {
    spark.sql("CREATE TABLE events (%s) USING delta".formatted(SCHEMA));
    count(spark, sandbox, "10 minutes", "10:01", "10:40");

    StreamingQuery second = count(spark, sandbox, "1 hour", "10:02", "10:41");
    assertThat(Watermarks.watermark(second)).isEqualTo(at("10:30"));
    assertThat(Watermarks.droppedByWatermark(second)).isEqualTo(1);

    StreamingQuery third = count(spark, sandbox, "1 hour", "12:00");
    assertThat(Watermarks.watermark(third)).isEqualTo(at("11:00"));
    assertThat(spark.table("counts").select("window_start", "events"))
        .hasRows(row(at("10:00"), 1L), row(at("10:40"), 2L));
  }

  /** Two inputs of one source: what is added to both arrives at once, as one batch. */
  private static Emitted together(SparkSession spark, String policy, Rows inputs) throws Exception {
    spark.conf().set(POLICY, policy);
    try {
      return new Emitted(
          Watermarks.countTogether(
                  inputs.stream().where("input = 'web'"),
                  "10 minutes",
                  inputs.stream().where("input = 'app'"),
                  "5 minutes")
              .selectExpr("date_format(window_start, 'HH:mm')", "events"),
          "append",
          inputs);
    } finally {
      spark.conf().unset(POLICY);
    }
  }

  private static void add(Rows inputs, String input, String... times) {
    for (String time : times) {
      inputs.add("('%s', '2025-03-01 %s')".formatted(input, time));
    }
  }

  @ParameterizedTest
  @CsvSource({"min, 10:09, 10:00 4, 0", "max, 10:31, 10:00 3, 1"})
  void theSlowerOrTheFasterInputSetsTheWatermark(
      String policy, String watermark, String first, long dropped, SparkSession spark)
      throws Exception {
    Rows inputs = new Rows(spark, "input STRING, event_time TIMESTAMP");
    try (Emitted counts = together(spark, policy, inputs)) {
      add(inputs, "web", "10:02", "10:41");
      add(inputs, "app", "10:03", "10:04", "10:14");
      List<String> emitted = new ArrayList<>(counts.next());
      assertThat(Watermarks.watermark(counts.query())).isEqualTo(at(watermark));

      add(inputs, "app", "10:08");
      emitted.addAll(counts.next());
      add(inputs, "web", "12:00");
      add(inputs, "app", "12:00");
      emitted.addAll(counts.next());

      assertThat(emitted).containsExactlyInAnyOrder(first, "10:10 1", "10:40 1");
      assertThat(Watermarks.droppedByWatermark(counts.query())).isEqualTo(dropped);
    }
  }

  @Test
  void anInputThatSendsNothingHoldsAllBack(SparkSession spark) throws Exception {
    Rows inputs = new Rows(spark, "input STRING, event_time TIMESTAMP");
    try (Emitted counts = together(spark, "min", inputs)) {
      add(inputs, "web", "10:02", "10:41");
      assertThat(counts.next()).isEmpty();
      assertThat(Watermarks.watermark(counts.query())).isEqualTo(Instant.EPOCH);

      add(inputs, "app", "10:20");
      assertThat(counts.next()).as("the watermark is 10:15").containsExactly("10:00 1");

      add(inputs, "web", "23:00");
      assertThat(counts.next()).as("it waits for the app again").isEmpty();
      assertThat(Watermarks.watermark(counts.query())).isEqualTo(at("10:15"));
    }
  }

  @Test
  void anInputThatSendsNothingHoldsNothingBackWhenTheFasterOneDecides(SparkSession spark)
      throws Exception {
    Rows inputs = new Rows(spark, "input STRING, event_time TIMESTAMP");
    try (Emitted counts = together(spark, "max", inputs)) {
      add(inputs, "web", "10:02", "10:41");

      assertThat(counts.next()).containsExactly("10:00 1");
    }
  }

  @Test
  void thePolicyOfTheFirstStartStays(SparkSession spark, Sandbox sandbox) throws Exception {
    for (String input : new String[] {"web", "app"}) {
      spark.sql("CREATE TABLE %s (%s) USING delta".formatted(input, SCHEMA));
    }
    for (String policy : new String[] {"min", "max"}) {
      spark.conf().set(POLICY, policy);
      try {
        spark.sql("INSERT INTO web VALUES (1, TIMESTAMP'2025-03-01 10:40:00')");
        spark.sql("INSERT INTO app VALUES (1, TIMESTAMP'2025-03-01 10:20:00')");
        StreamingQuery query =
            Watermarks.appendAvailable(
                Watermarks.countTogether(
                    spark.readStream().table("web"),
                    "10 minutes",
                    spark.readStream().table("app"),
                    "10 minutes"),
                "counts",
                sandbox.path("checkpoint"));
        query.awaitTermination();

        assertThat(Watermarks.watermark(query)).as(policy).isEqualTo(at("10:10"));
      } finally {
        spark.conf().unset(POLICY);
      }
    }
  }

  @Test
  void aWatermarkIsOnATimestampThatIsThere() {
    Dataset<Row> rows = events.stream().selectExpr("event_id", "date(event_time) AS day");

    assertRefused("EVENT_TIME_IS_NOT_ON_TIMESTAMP_TYPE", () -> rows.withWatermark("day", "1 day"));
    assertRefused(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION", () -> rows.withWatermark("event_time", "1 day"));
  }

  @Test
  void aDelayIsATimeAndNotNegative() {
    assertThatThrownBy(() -> start("soon")).hasMessageContaining("Unable to parse 'soon'");
    assertThatThrownBy(() -> start("-1 minute"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("should not be negative");
  }

  @Test
  void aSecondWatermarkIsRefusedByTheFirstBatch() throws Exception {
    try (Emitted counts =
        start(events.stream().withWatermark("event_time", "1 hour"), "1 minute")) {
      add("10:00");

      assertThatThrownBy(counts::next)
          .isInstanceOf(StreamingQueryException.class)
          .hasMessageContaining("Redefining watermark is disallowed");
    }
  }

  @Test
  void aWatermarkAfterTheAggregationIsTooLateForIt() {
    Dataset<Row> counts =
        events.stream()
            .groupBy(window(col("event_time"), "10 minutes"))
            .count()
            .selectExpr("window.end AS window_end", "count")
            .withWatermark("window_end", "10 minutes");

    assertRefused(
        "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
        () -> new Emitted(counts, "append", events).close());
  }
}
