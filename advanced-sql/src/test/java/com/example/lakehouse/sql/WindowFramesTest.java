package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static com.example.lakehouse.sql.Views.view;
import static org.apache.spark.sql.functions.sum;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class WindowFramesTest {

  private static LocalDate march(int day) {
    return LocalDate.of(2025, 3, day);
  }

  @BeforeEach
  void createViews(SparkSession spark) {
    view(
        spark,
        "payments",
        "shop STRING, day DATE, payment_id INT, amount INT",
        List.of(
            row("Berlin", march(9), 5, 50),
            row("Berlin", march(2), 3, 30),
            row("Berlin", march(1), 1, 10),
            row("Berlin", march(10), 6, 70),
            row("Berlin", march(4), 4, 40),
            row("Berlin", march(2), 2, 20),
            row("Paris", march(2), 7, 5)));
    view(
        spark,
        "counts",
        "product STRING, day DATE, pieces INT",
        List.of(
            row("Lamp", march(4), 2),
            row("Lamp", march(1), 5),
            row("Lamp", march(3), null),
            row("Desk", march(2), 8),
            row("Desk", march(3), 7)));
  }

  @Test
  void aTotalByRowsGrowsWithEachPaymentAndOneByDefaultWithEachDay(
      SparkSession spark, Sandbox sandbox) {
    assertThat(
            WindowFrames.runningTotals(spark, "payments")
                .select("shop", "payment_id", "total", "by_default"))
        .hasRows(
            row("Berlin", 1, 10L, 10L),
            row("Berlin", 2, 30L, 60L),
            row("Berlin", 3, 60L, 60L),
            row("Berlin", 4, 100L, 100L),
            row("Berlin", 5, 150L, 150L),
            row("Berlin", 6, 220L, 220L),
            row("Paris", 7, 5L, 5L));
  }

  @Test
  void theLastValueOfTheDefaultFrameIsTheRowsOwn(SparkSession spark, Sandbox sandbox) {
    assertThat(
            WindowFrames.runningTotals(spark, "payments")
                .select("payment_id", "last", "last_by_default"))
        .hasRows(
            row(1, 70, 10),
            row(2, 70, 20),
            row(3, 70, 30),
            row(4, 70, 40),
            row(5, 70, 50),
            row(6, 70, 70),
            row(7, 5, 5));
  }

  @Test
  void threeRowsAreNotThreeDays(SparkSession spark, Sandbox sandbox) {
    assertThat(WindowFrames.movingAverages(spark, "payments"))
        .hasSchema(
            "shop STRING, day DATE, amount BIGINT, last_3_rows DOUBLE, rows_of_last_3_days DOUBLE,"
                + " last_3_days DOUBLE")
        .hasRows(
            row("Berlin", march(1), 10L, 10.0, 10.0, 10 / 3.0),
            row("Berlin", march(2), 50L, 30.0, 30.0, 60 / 3.0),
            // The frame is 2 to 4 March; 3 March has no row.
            row("Berlin", march(4), 40L, 100 / 3.0, 45.0, 90 / 3.0),
            row("Berlin", march(9), 50L, 140 / 3.0, 50.0, 50 / 3.0),
            row("Berlin", march(10), 70L, 160 / 3.0, 60.0, 120 / 3.0),
            row("Paris", march(2), 5L, 5.0, 5.0, 5 / 3.0));
  }

  @Test
  void aMonthBackFromTheEndOfMarchIsTheEndOfFebruary(SparkSession spark, Sandbox sandbox) {
    LocalDate february = LocalDate.of(2025, 2, 28);
    view(
        spark,
        "days",
        "day DATE",
        List.of(
            row(february),
            row(february.minusDays(1)),
            row(march(27)),
            row(march(28)),
            row(march(31))));

    assertThat(
            spark.sql(
                """
                SELECT day, count(*) OVER (
                  ORDER BY day RANGE BETWEEN INTERVAL 1 MONTH PRECEDING AND CURRENT ROW) AS days
                FROM days
                """))
        .hasRows(
            row(february.minusDays(1), 1L),
            row(february, 2L),
            row(march(27), 3L),
            row(march(28), 3L),
            row(march(31), 4L));
  }

  @Test
  void clicksOfTheLastTenMinutesCountTheEdgeAndThoseOfTheSameTime(
      SparkSession spark, Sandbox sandbox) {
    Instant ten = Instant.parse("2025-03-01T10:00:00Z");
    view(
        spark,
        "clicks",
        "customer_id BIGINT, event_time TIMESTAMP",
        List.of(
            row(1L, ten),
            row(1L, ten),
            row(1L, ten.plusSeconds(600)),
            row(1L, ten.plusSeconds(600).plusNanos(1_000)),
            row(2L, ten)));

    assertThat(WindowFrames.recentClicks(spark, "clicks"))
        .hasRows(
            row(1L, ten, 2L),
            row(1L, ten, 2L),
            row(1L, ten.plusSeconds(600), 3L),
            row(1L, ten.plusSeconds(600).plusNanos(1_000), 2L),
            row(2L, ten, 1L));
    assertThat(WindowFrames.recentClicks(spark.table("clicks")))
        .hasSameRowsAs(WindowFrames.recentClicks(spark, "clicks"));
  }

  @Test
  void recentClicksOfTwentyThousandAreThosePlainJavaCounts(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> clicks =
        SampleData.of(spark).rows(20_000).late(0.02).events().select("customer_id", "event_time");
    clicks.createOrReplaceTempView("clicks");
    Map<Long, List<Instant>> times =
        clicks.collectAsList().stream()
            .collect(
                Collectors.groupingBy(
                    row -> row.getLong(0),
                    Collectors.mapping(row -> row.getInstant(1), Collectors.toList())));
    List<Row> expected = new ArrayList<>();
    times.forEach(
        (customer, all) ->
            all.forEach(
                time ->
                    expected.add(
                        row(
                            customer,
                            time,
                            all.stream()
                                .filter(
                                    t ->
                                        !t.isAfter(time)
                                            && !t.isBefore(time.minus(Duration.ofMinutes(10))))
                                .count()))));

    assertThat(expected).hasSize(20_000).anyMatch(row -> row.getLong(2) > 10);
    assertThat(WindowFrames.recentClicks(spark, "clicks")).hasRows(expected.toArray(Row[]::new));
    assertThat(WindowFrames.recentClicks(clicks))
        .hasSameRowsAs(WindowFrames.recentClicks(spark, "clicks"));
  }

  @Test
  void theFirstRowHasNothingBeforeItAndTheLastNothingAfter(SparkSession spark, Sandbox sandbox) {
    assertThat(WindowFrames.neighbours(spark, "counts"))
        .hasSchema("product STRING, day DATE, pieces INT, before INT, change INT, days_to_next INT")
        .hasRows(
            row("Desk", march(2), 8, null, 8, 1),
            row("Desk", march(3), 7, 8, -1, null),
            row("Lamp", march(1), 5, null, 5, 2),
            row("Lamp", march(3), null, 5, null, 1),
            // The row before is there, and its count is NULL: the default is not for that.
            row("Lamp", march(4), 2, null, null, null));
  }

  @Test
  void everyDayHasTheLastKnownCount(SparkSession spark, Sandbox sandbox) {
    assertThat(WindowFrames.everyDay(spark, "counts"))
        .hasSchema("product STRING, day DATE, pieces INT")
        .hasRows(
            row("Desk", march(1), null),
            row("Desk", march(2), 8),
            row("Desk", march(3), 7),
            row("Desk", march(4), 7),
            row("Lamp", march(1), 5),
            row("Lamp", march(2), 5),
            row("Lamp", march(3), 5),
            row("Lamp", march(4), 2));
  }

  @Test
  void theDataFramesAreTheSame(SparkSession spark, Sandbox sandbox) {
    assertThat(WindowFrames.runningTotals(spark.table("payments")))
        .hasSameRowsAs(WindowFrames.runningTotals(spark, "payments"));
    assertThat(WindowFrames.movingAverages(spark.table("payments")))
        .hasSameRowsAs(WindowFrames.movingAverages(spark, "payments"));
    assertThat(WindowFrames.neighbours(spark.table("counts")))
        .hasSameRowsAs(WindowFrames.neighbours(spark, "counts"));
    assertThat(WindowFrames.everyDay(spark.table("counts")))
        .hasSameRowsAs(WindowFrames.everyDay(spark, "counts"));
  }

  @Test
  void anOrderByDateTakesDaysAndNoHoursAndFromJavaNoNumber(SparkSession spark, Sandbox sandbox) {
    String select =
        "SELECT payment_id, sum(amount) OVER (PARTITION BY shop ORDER BY day %s) AS s FROM"
            + " payments";
    Dataset<Row> byInterval =
        spark.sql(select.formatted("RANGE BETWEEN INTERVAL 2 DAYS PRECEDING AND CURRENT ROW"));
    Dataset<Row> byNumber =
        spark.sql(select.formatted("RANGE BETWEEN 2 PRECEDING AND CURRENT ROW"));
    assertThat(byNumber).hasSameRowsAs(byInterval);
    assertRefused(
        "DATATYPE_MISMATCH.RANGE_FRAME_INVALID_TYPE",
        () ->
            spark.sql(
                select.formatted("RANGE BETWEEN INTERVAL 2 HOURS PRECEDING AND CURRENT ROW")));
    assertRefused(
        "DATATYPE_MISMATCH.RANGE_FRAME_INVALID_TYPE",
        () ->
            spark
                .table("payments")
                .select(sum("amount").over(Window.orderBy("day").rangeBetween(-2, 0))));
  }

  @Test
  void framesThatMeanNothingAreRefused(SparkSession spark, Sandbox sandbox) {
    String select = "SELECT sum(amount) OVER (ORDER BY %s) FROM payments";
    assertRefused(
        "DATATYPE_MISMATCH.RANGE_FRAME_MULTI_ORDER",
        () ->
            spark.sql(
                select.formatted("day, payment_id RANGE BETWEEN 2 PRECEDING AND CURRENT ROW")));
    assertRefused(
        "DATATYPE_MISMATCH.SPECIFIED_WINDOW_FRAME_UNACCEPTED_TYPE",
        () -> spark.sql(select.formatted("shop RANGE BETWEEN 2 PRECEDING AND CURRENT ROW")));
    assertRefused(
        "_LEGACY_ERROR_TEMP_1035",
        () ->
            spark.sql(
                "SELECT lead(amount) OVER (ORDER BY day ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)"
                    + " FROM payments"));
    assertRefused(
        "DISTINCT_WINDOW_FUNCTION_UNSUPPORTED",
        () -> spark.sql("SELECT count(DISTINCT day) OVER (PARTITION BY shop) FROM payments"));
  }
}
