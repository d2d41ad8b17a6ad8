package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.window;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.testing.SparkTest;
import java.time.Instant;
import java.time.LocalDate;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class WindowsTest {
  private Rows events;

  @BeforeEach
  void createEvents(SparkSession spark) {
    events = new Rows(spark, "customer_id BIGINT, event_type STRING, event_time TIMESTAMP");
  }

  private void add(long customer, String type, String... times) {
    for (String time : times) {
      events.add("(%d, '%s', '2025-03-30 %s')".formatted(customer, type, time));
    }
  }

  private Dataset<Row> stream(String delay) {
    return events.stream().withWatermark("event_time", delay);
  }

  /** Starts, ends and counts, times without the day. */
  private Emitted windows(Dataset<Row> result, String mode) throws Exception {
    return new Emitted(
        result.selectExpr(
            "date_format(window_start, 'HH:mm')", "date_format(window_end, 'HH:mm')", "events"),
        mode,
        events);
  }

  private Emitted sessions(Dataset<Row> result, String mode) throws Exception {
    return new Emitted(
        result.selectExpr(
            "customer_id",
            "date_format(session_start, 'HH:mm')",
            "date_format(session_end, 'HH:mm')",
            "events"),
        mode,
        events);
  }

  @Test
  void anEventIsInOneTumblingWindowWhoseEndBelongsToTheNext() throws Exception {
    try (Emitted counts = windows(Windows.tumbling(events.stream()), "complete")) {
      add(1, "view", "10:00", "10:09:59.999", "10:10", "10:31");

      assertThat(counts.next())
          .containsExactlyInAnyOrder("10:00 10:10 2", "10:10 10:20 1", "10:30 10:40 1");
    }
  }

  @Test
  void anEventIsInTwoSlidingWindows() throws Exception {
    try (Emitted counts = windows(Windows.sliding(events.stream()), "complete")) {
      add(1, "view", "10:01", "10:07");

      assertThat(counts.next())
          .containsExactlyInAnyOrder("09:55 10:05 1", "10:00 10:10 2", "10:05 10:15 1");
    }
  }

  @Test
  void aSessionEndsWithTheGapAndEachCustomerHasTheirOwn() throws Exception {
    try (Emitted visits = sessions(Windows.sessions(events.stream()), "complete")) {
      add(1, "view", "10:00", "10:05", "10:10:01");
      add(2, "view", "10:06");

      assertThat(visits.next())
          .as("a gap of five minutes goes on, one of a second more does not")
          .containsExactlyInAnyOrder("1 10:00 10:10 2", "1 10:10 10:15 1", "2 10:06 10:11 1");
    }
  }

  @Test
  void anEventThatComesLateMakesOneSessionOfTwo() throws Exception {
    try (Emitted visits = sessions(Windows.sessions(stream("30 minutes")), "complete")) {
      add(1, "view", "10:00", "10:08");
      assertThat(visits.next()).containsExactlyInAnyOrder("1 10:00 10:05 1", "1 10:08 10:13 1");

      add(1, "view", "10:04");
      assertThat(visits.next()).containsExactly("1 10:00 10:13 3");
    }
  }

  @Test
  void aSessionIsAppendedOnceWhenTheWatermarkHasPassedItsEnd() throws Exception {
    try (Emitted visits = sessions(Windows.sessions(stream("10 minutes")), "append")) {
      add(1, "view", "10:00", "10:03");
      assertThat(visits.next()).isEmpty();

      add(2, "view", "10:18");
      assertThat(visits.next()).as("the watermark is 10:08").containsExactly("1 10:00 10:08 2");

      add(1, "view", "10:02", "10:04");
      add(2, "view", "10:40");
      assertThat(visits.next())
          .as(
              "what 10:02 alone would be has ended, what 10:04 would be has not: it is a new session")
          .containsExactlyInAnyOrder("1 10:04 10:09 1", "2 10:18 10:23 1");
    }
  }

  @Test
  void sessionsCannotBeUpdated() {
    assertRefused(
        "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
        () -> sessions(Windows.sessions(stream("10 minutes")), "update").close());
  }

  @Test
  void aFullBasketKeepsTheSessionOpenForTwentyMinutes() throws Exception {
    try (Emitted visits = sessions(Windows.sessionsByGap(events.stream()), "complete")) {
      add(1, "view", "10:00");
      add(1, "cart", "10:04");
      add(1, "purchase", "10:23");
      add(2, "view", "10:04", "10:23");

      assertThat(visits.next())
          .containsExactlyInAnyOrder("1 10:00 10:28 3", "2 10:04 10:09 1", "2 10:23 10:28 1");
    }
  }

  @Test
  void shiftsBeginAtSixFourteenAndTwentyTwo() throws Exception {
    try (Emitted counts = windows(Windows.shifts(events.stream()), "complete")) {
      add(1, "view", "05:59", "06:00", "13:59", "14:00", "22:30");

      assertThat(counts.next())
          .containsExactlyInAnyOrder(
              "22:00 06:00 1", "06:00 14:00 2", "14:00 22:00 1", "22:00 06:00 1");
    }
  }

  /** An event in each hour from the day before the clocks change to the day after. */
  private static Dataset<Row> hourly(SparkSession spark, String from) {
    return spark
        .range(120)
        .selectExpr(
            "TIMESTAMP'%s 00:00:00' + make_dt_interval(0, id) AS event_time".formatted(from));
  }

  @Test
  void aLocalDayHas23HoursInSpringAnd25InAutumnAndAWindowOfOneDay24(SparkSession spark) {
    Dataset<Row> spring = hourly(spark, "2025-03-28");
    Dataset<Row> autumn = hourly(spark, "2025-10-24");

    assertThat(
            Windows.localDays(spring, "Europe/Berlin")
                .where("local_day BETWEEN '2025-03-29' AND '2025-03-31'"))
        .hasRows(
            row(LocalDate.of(2025, 3, 29), 24L, Instant.parse("2025-03-29T22:00:00Z")),
            row(LocalDate.of(2025, 3, 30), 23L, Instant.parse("2025-03-30T21:00:00Z")),
            row(LocalDate.of(2025, 3, 31), 24L, Instant.parse("2025-03-31T21:00:00Z")));
    assertThat(
            Windows.localDays(autumn, "Europe/Berlin")
                .where("local_day BETWEEN '2025-10-26' AND '2025-10-27'"))
        .hasRows(
            row(LocalDate.of(2025, 10, 26), 25L, Instant.parse("2025-10-26T22:00:00Z")),
            row(LocalDate.of(2025, 10, 27), 24L, Instant.parse("2025-10-27T22:00:00Z")));
    assertThat(
            spring
                .groupBy(window(spring.col("event_time"), "1 day"))
                .count()
                .select("count")
                .distinct())
        .hasRows(row(24L));
  }

  @Test
  void aWindowOverWindowsComesOutWhenItsHourIsOver() throws Exception {
    try (Emitted hours =
        new Emitted(
            Windows.busiestOfTheHour(stream("10 minutes"))
                .selectExpr("date_format(hour_start, 'HH:mm')", "windows", "busiest"),
            "append",
            events)) {
      add(1, "view", "10:01", "10:02", "10:15", "10:59", "11:05");
      assertThat(hours.next()).as("the watermark is 10:55").isEmpty();

      add(1, "view", "11:10");
      assertThat(hours.next()).as("the watermark is 11:00").containsExactly("10:00 3 2");
    }
  }
}
