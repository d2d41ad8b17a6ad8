package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class OutputModesTest {
  private Rows events;

  @BeforeEach
  void createEvents(SparkSession spark) {
    events = new Rows(spark, "event_id INT, event_time TIMESTAMP");
  }

  private void add(int id, String... times) {
    for (String time : times) {
      events.add("(%d, '2025-03-01 %s')".formatted(id, time));
    }
  }

  private Emitted start(String mode) throws Exception {
    return new Emitted(
        OutputModes.countByWindow(events.stream())
            .selectExpr("date_format(window_start, 'HH:mm')", "events"),
        mode,
        events);
  }

  @Test
  void appendEmitsAWindowOnceWhenTheWatermarkHasPassedItsEnd() throws Exception {
    try (Emitted counts = start("append")) {
      add(1, "10:01", "10:04", "10:12");
      assertThat(counts.next()).as("the watermark is 10:02").isEmpty();

      add(2, "10:08", "10:20");
      assertThat(counts.next())
          .as("the watermark is 10:10, a window's end")
          .containsExactly("10:00 3");

      add(3, "10:09", "10:40");
      assertThat(counts.next())
          .as("10:09 is too late for its window; the watermark is 10:30")
          .containsExactlyInAnyOrder("10:10 1", "10:20 1");
    }
  }

  @Test
  void updateEmitsTheWindowsThatHaveChanged() throws Exception {
    try (Emitted counts = start("update")) {
      add(1, "10:01", "10:04", "10:12");
      assertThat(counts.next()).containsExactlyInAnyOrder("10:00 2", "10:10 1");

      add(2, "10:08", "10:31");
      assertThat(counts.next()).containsExactlyInAnyOrder("10:00 3", "10:30 1");

      add(3, "10:09", "10:33");
      assertThat(counts.next())
          .as("10:09 is too late: the watermark is 10:21")
          .containsExactly("10:30 2");
    }
  }

  @Test
  void completeEmitsEveryWindowEachTimeAndForgetsNone() throws Exception {
    try (Emitted counts = start("complete")) {
      add(1, "10:01", "10:04", "10:12");
      assertThat(counts.next()).containsExactlyInAnyOrder("10:00 2", "10:10 1");

      add(2, "10:31");
      assertThat(counts.next()).containsExactlyInAnyOrder("10:00 2", "10:10 1", "10:30 1");

      add(3, "10:09");
      assertThat(counts.next())
          .as("no watermark holds in this mode: what is late still counts")
          .containsExactlyInAnyOrder("10:00 3", "10:10 1", "10:30 1");
    }
  }

  @Test
  void appendKeepsStateOfOpenWindowsOnlyAndCompleteOfAll(SparkSession spark) throws Exception {
    assertThat(stateRows(spark, "append")).isEqualTo(1);
    assertThat(stateRows(spark, "complete")).isEqualTo(3);
  }

  private long stateRows(SparkSession spark, String mode) throws Exception {
    createEvents(spark);
    try (Emitted counts = start(mode)) {
      add(1, "10:01", "10:12", "11:00");
      counts.next();
      return counts.query().lastProgress().stateOperators()[0].numRowsTotal();
    }
  }

  @Test
  void whatEachBatchEmitsIsRecordedWithItsNumber(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Dataset<Row> counts = OutputModes.countByWindow(events.stream());
    StreamingQuery query =
        OutputModes.record(counts, "update", "emitted", sandbox.path("checkpoint"));
    add(1, "10:01");
    events.arrive();
    query.processAllAvailable();
    add(2, "10:02");
    events.arrive();
    query.processAllAvailable();
    query.stop();

    assertThat(spark.table("emitted").selectExpr("batch", "events"))
        .as("batch 1 had no rows: it moved the watermark")
        .hasRows(row(0L, 1L), row(2L, 2L));
  }

  @Test
  void aBatchThatIsRepeatedAfterACrashIsRecordedOnce(SparkSession spark, Sandbox sandbox)
      throws Exception {
    String checkpoint = sandbox.path("checkpoint");
    spark.sql("CREATE TABLE source (event_id INT, event_time TIMESTAMP) USING delta");
    spark.sql("INSERT INTO source VALUES (1, TIMESTAMP'2025-03-01 10:01:00')");
    Dataset<Row> rows = spark.readStream().table("source");
    StreamingQuery query = OutputModes.record(rows, "append", "emitted", checkpoint);
    query.processAllAvailable();
    query.stop();
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);

    StreamingQuery again = OutputModes.record(rows, "append", "emitted", checkpoint);
    again.processAllAvailable();
    again.stop();

    assertThat(again.recentProgress()[0].batchId()).as("the batch was run again").isZero();
    assertThat(spark.table("emitted")).hasRowCount(1);
  }

  @Test
  void appendOfAnAggregationWithoutAWatermarkIsRefused() {
    assertUnsupported(events.stream().groupBy("event_id").count(), "append");
  }

  @Test
  void appendOfAnAggregationThatLeavesTheTimeOutIsRefused() {
    assertUnsupported(
        events.stream().withWatermark("event_time", "1 minute").groupBy("event_id").count(),
        "append");
  }

  @Test
  void completeOfPlainRowsIsRefused() {
    assertUnsupported(events.stream(), "complete");
  }

  private static void assertUnsupported(Dataset<Row> result, String mode) {
    assertRefused(
        "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION", () -> new Emitted(result, mode).close());
  }

  @ParameterizedTest
  @ValueSource(strings = {"append", "update"})
  void aSortedResultIsForCompleteOnly(String mode) throws Exception {
    Dataset<Row> sorted = OutputModes.countByWindow(events.stream()).orderBy("window_start");

    assertThatThrownBy(() -> new Emitted(sorted, mode).close())
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining("Sorting is not supported");
    try (Emitted counts = new Emitted(sorted.select("events"), "complete", events)) {
      add(1, "10:31", "10:01", "10:02");
      assertThat(counts.next()).containsExactly("2", "1");
    }
  }

  @Test
  void deltaTakesNoUpdates(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> counts = OutputModes.countByWindow(events.stream());

    assertRefused(
        "DELTA_UNSUPPORTED_OUTPUT_MODE",
        () ->
            counts
                .writeStream()
                .format("delta")
                .outputMode("update")
                .option("checkpointLocation", sandbox.path("checkpoint"))
                .toTable("counts"));
  }

  @Test
  void aModeThatThereIsNotIsNamed() {
    assertRefused(
        "STREAMING_OUTPUT_MODE.INVALID",
        () -> new Emitted(OutputModes.countByWindow(events.stream()), "upsert").close());
  }
}
