package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.sql.Views.view;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class GapsAndIslandsTest {
  private static final Instant TEN = Instant.parse("2025-03-01T10:00:00Z");

  private static LocalDate march(int day) {
    return LocalDate.of(2025, 2, 28).plusDays(day);
  }

  private static Dataset<Row> clicks(SparkSession spark, Row... rows) {
    return view(
        spark,
        "clicks",
        "customer_id BIGINT, event_time TIMESTAMP, event_id BIGINT",
        List.of(rows));
  }

  @Test
  void daysInARowAreOneStreakWhateverMonthTheyAreIn(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> visits =
        view(
            spark,
            "visits",
            "customer STRING, day DATE",
            List.of(
                row("Ada", march(3)),
                row("Ada", march(1)),
                row("Ada", march(2)),
                row("Ada", march(5)),
                row("Ken", march(0)),
                row("Ken", march(1))));

    assertThat(GapsAndIslands.streaks(spark, "visits"))
        .hasSchema("customer STRING, first_day DATE, last_day DATE, days BIGINT")
        .hasRows(
            row("Ada", march(1), march(3), 3L),
            row("Ada", march(5), march(5), 1L),
            row("Ken", march(0), march(1), 2L));
    assertThat(GapsAndIslands.streaks(visits))
        .hasSameRowsAs(GapsAndIslands.streaks(spark, "visits"));
  }

  @Test
  void aSecondVisitOnADayDoesNotEndTheStreak(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> visits =
        view(
            spark,
            "visits",
            "customer STRING, day DATE",
            List.of(
                row("Ada", march(1)),
                row("Ada", march(2)),
                row("Ada", march(2)),
                row("Ada", march(3))));

    assertThat(GapsAndIslands.streaks(spark, "visits")).hasRows(row("Ada", march(1), march(3), 3L));
    assertThat(GapsAndIslands.streaks(visits)).hasRows(row("Ada", march(1), march(3), 3L));
  }

  @Test
  void numbersThatAreMissingAreFoundWithinASeries(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> invoices =
        view(
            spark,
            "invoices",
            "series STRING, number BIGINT",
            List.of(
                row("A", 8L),
                row("A", 1L),
                row("A", 2L),
                row("A", 2L),
                row("A", 4L),
                row("B", 7L),
                row("B", 8L)));

    assertThat(GapsAndIslands.gaps(spark, "invoices"))
        .hasSchema("series STRING, first_missing BIGINT, last_missing BIGINT")
        .hasRows(row("A", 3L, 3L), row("A", 5L, 7L));
    assertThat(GapsAndIslands.gaps(invoices)).hasSameRowsAs(GapsAndIslands.gaps(spark, "invoices"));
  }

  @Test
  void anyMissingNumbersAreThosePlainJavaFinds(SparkSession spark, Sandbox sandbox) {
    Random random = new Random(11);
    BitSet there = new BitSet();
    List<Row> rows = new ArrayList<>();
    for (int i = 0; i < 2_000; i++) {
      int number = random.nextInt(3_000);
      there.set(number);
      rows.add(row("A", (long) number));
    }
    view(spark, "invoices", "series STRING, number BIGINT", rows);
    List<Row> expected = new ArrayList<>();
    int from = there.nextClearBit(there.nextSetBit(0));
    for (int to = there.nextSetBit(from); to >= 0; to = there.nextSetBit(from)) {
      expected.add(row("A", (long) from, to - 1L));
      from = there.nextClearBit(to);
    }

    assertThat(expected).hasSizeGreaterThan(500);
    assertThat(GapsAndIslands.gaps(spark, "invoices")).hasRows(expected.toArray(Row[]::new));
  }

  @Test
  void fiveMinutesAreWithinASessionAndAMicrosecondMoreIsNot(SparkSession spark, Sandbox sandbox) {
    Instant later = TEN.plusSeconds(300);
    Instant tooLate = later.plusSeconds(300).plusNanos(1_000);
    Dataset<Row> clicks =
        clicks(spark, row(1L, tooLate, 4L), row(1L, TEN, 2L), row(1L, TEN, 1L), row(1L, later, 3L));

    assertThat(GapsAndIslands.sessions(spark, "clicks", 5))
        .hasSchema(
            "customer_id BIGINT, session BIGINT, first_click TIMESTAMP, last_click TIMESTAMP,"
                + " clicks BIGINT")
        .hasRows(row(1L, 1L, TEN, later, 3L), row(1L, 2L, tooLate, tooLate, 1L));
    assertThat(GapsAndIslands.sessions(clicks, 5))
        .hasSameRowsAs(GapsAndIslands.sessions(spark, "clicks", 5));
    assertThat(GapsAndIslands.sessionWindows(clicks, 5))
        .hasRows(row(1L, TEN, later, 3L), row(1L, tooLate, tooLate, 1L));
  }

  @Test
  void sessionsOfAHundredThousandClicksAreThosePlainJavaFinds(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> clicks =
        SampleData.of(spark)
            .rows(100_000)
            .late(0.02)
            .events()
            .select("customer_id", "event_time", "event_id")
            .cache();
    try {
      clicks.createOrReplaceTempView("clicks");
      Row[] expected = sessions(clicks.collectAsList(), Duration.ofMinutes(5));

      assertThat(expected).hasSizeBetween(20_000, 80_000);
      assertThat(GapsAndIslands.sessions(spark, "clicks", 5)).hasRows(expected);
      assertThat(GapsAndIslands.sessions(clicks, 5))
          .hasSameRowsAs(GapsAndIslands.sessions(spark, "clicks", 5));
      assertThat(GapsAndIslands.sessionWindows(clicks, 5))
          .hasSameRowsAs(GapsAndIslands.sessions(spark, "clicks", 5).drop("session"));
    } finally {
      clicks.unpersist();
    }
  }

  private static Row[] sessions(List<Row> clicks, Duration gap) {
    Map<Long, List<Instant>> times =
        clicks.stream()
            .collect(
                Collectors.groupingBy(
                    row -> row.getLong(0),
                    TreeMap::new,
                    Collectors.mapping(row -> row.getInstant(1), Collectors.toList())));
    List<Row> sessions = new ArrayList<>();
    times.forEach(
        (customer, all) -> {
          List<Instant> sorted = all.stream().sorted().toList();
          long number = 0;
          for (int first = 0, next; first < sorted.size(); first = next) {
            next = first + 1;
            while (next < sorted.size()
                && !sorted.get(next).isAfter(sorted.get(next - 1).plus(gap))) {
              next++;
            }
            number++;
            sessions.add(
                row(
                    customer,
                    number,
                    sorted.get(first),
                    sorted.get(next - 1),
                    (long) (next - first)));
          }
        });
    return sessions.toArray(Row[]::new);
  }

  @Test
  void sessionsTakeOneShuffle(SparkSession spark, Sandbox sandbox) {
    clicks(spark, row(1L, TEN, 1L), row(2L, TEN, 2L));

    // Two windows and a grouping, all by customer.
    QueryProfile profile = QueryProfile.of(GapsAndIslands.sessions(spark, "clicks", 5));

    assertThat(profile.exchanges()).containsExactly(Map.entry("hash", 1));
  }

  @Test
  void aBookingWithinAnotherDoesNotCutIt(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> bookings =
        view(
            spark,
            "bookings",
            "room STRING, from_day DATE, to_day DATE",
            List.of(
                row("Lab", march(13), march(14)),
                row("Lab", march(1), march(10)),
                row("Lab", march(8), march(12)),
                row("Lab", march(2), march(3)),
                row("Lab", march(16), march(16)),
                row("Hall", march(10), march(11))));

    // 13 March follows 12 March without a free day; 15 March is free.
    assertThat(GapsAndIslands.taken(spark, "bookings"))
        .hasSchema("room STRING, from_day DATE, to_day DATE, bookings BIGINT")
        .hasRows(
            row("Lab", march(1), march(14), 4L),
            row("Lab", march(16), march(16), 1L),
            row("Hall", march(10), march(11), 1L));
    assertThat(GapsAndIslands.taken(bookings))
        .hasSameRowsAs(GapsAndIslands.taken(spark, "bookings"));
  }

  @Test
  void anyBookingsTakeTheDaysThatPlainJavaMarks(SparkSession spark, Sandbox sandbox) {
    Random random = new Random(5);
    BitSet days = new BitSet();
    List<Row> rows = new ArrayList<>();
    for (int i = 0; i < 300; i++) {
      int from = random.nextInt(3_000);
      int to = from + (random.nextInt(20) == 0 ? random.nextInt(60) : random.nextInt(5));
      days.set(from, to + 1);
      rows.add(row("Lab", march(from), march(to)));
    }
    view(spark, "bookings", "room STRING, from_day DATE, to_day DATE", rows);
    List<Row> expected = new ArrayList<>();
    for (int from = days.nextSetBit(0); from >= 0; ) {
      int end = days.nextClearBit(from);
      expected.add(row("Lab", march(from), march(end - 1)));
      from = days.nextSetBit(end);
    }

    assertThat(expected).hasSizeBetween(50, 280);
    assertThat(GapsAndIslands.taken(spark, "bookings").drop("bookings"))
        .hasRows(expected.toArray(Row[]::new));
  }
}
