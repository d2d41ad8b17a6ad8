package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.DayOfWeek;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.Period;
import java.time.ZoneId;
import java.time.temporal.IsoFields;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class DatesAndTimesTest {
  private static final String BERLIN = "Europe/Berlin";

  private static void createSales(SparkSession spark, String... instants) {
    List<String> rows = new ArrayList<>();
    for (String instant : instants) {
      rows.add("(%d, TIMESTAMP'%s')".formatted(rows.size() + 1, instant));
    }
    spark
        .sql("SELECT * FROM VALUES %s AS v (sale_id, at)".formatted(String.join(", ", rows)))
        .createOrReplaceTempView("sales");
  }

  @Test
  void aPointInTimeIsAnotherDayElsewhere(SparkSession spark, Sandbox sandbox) {
    createSales(spark, "2025-03-29T22:30:00Z", "2025-03-29T23:30:00Z", "2025-03-30T01:30:00Z");
    Dataset<Row> local = DatesAndTimes.localTimes(spark, "sales", BERLIN);

    assertThat(local)
        .hasSchema("sale_id INT, local TIMESTAMP_NTZ, day DATE")
        .hasRows(
            row(1, LocalDateTime.parse("2025-03-29T23:30"), LocalDate.of(2025, 3, 29)),
            row(2, LocalDateTime.parse("2025-03-30T00:30"), LocalDate.of(2025, 3, 30)),
            row(3, LocalDateTime.parse("2025-03-30T03:30"), LocalDate.of(2025, 3, 30)));
    assertThat(DatesAndTimes.localTimes(spark.table("sales"), BERLIN)).hasSameRowsAs(local);
    assertRefused(
        "INVALID_TIMEZONE",
        () -> DatesAndTimes.localTimes(spark, "sales", "Mars/Base").collectAsList());
  }

  /** java.time does the same for each half hour of two days with a change of clocks. */
  @ParameterizedTest
  @ValueSource(strings = {"Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia"})
  void localTimesAreThoseOfJava(String zone, SparkSession spark, Sandbox sandbox) {
    List<String> instants = new ArrayList<>();
    List<Row> expected = new ArrayList<>();
    for (String start :
        List.of("2025-03-30T00:00:00Z", "2025-10-26T00:00:00Z", "2025-11-02T00:00:00Z")) {
      for (int half = 0; half < 48; half++) {
        Instant instant = Instant.parse(start).plus(Duration.ofMinutes(30L * half));
        LocalDateTime local = LocalDateTime.ofInstant(instant, ZoneId.of(zone));
        instants.add(instant.toString());
        expected.add(row(instants.size(), local, local.toLocalDate()));
      }
    }
    createSales(spark, instants.toArray(String[]::new));

    assertThat(DatesAndTimes.localTimes(spark, "sales", zone))
        .hasRows(expected.toArray(Row[]::new));
  }

  /** 02:30 does not exist on 30 March; on 26 October it comes at 00:30 UTC and at 01:30 UTC. */
  @Test
  void aTimeThatTheClocksSkipIsMovedAndOneThatComesTwiceIsTheFirst(
      SparkSession spark, Sandbox sandbox) {
    spark
        .sql(
            """
            SELECT * FROM VALUES
              (1, TIMESTAMP_NTZ'2025-03-30 01:30:00'), (2, TIMESTAMP_NTZ'2025-03-30 02:30:00'),
              (3, TIMESTAMP_NTZ'2025-03-30 03:30:00'), (4, TIMESTAMP_NTZ'2025-10-26 02:30:00'),
              (5, NULL)
              AS v (sale_id, local)
            """)
        .createOrReplaceTempView("local_sales");

    assertThat(DatesAndTimes.pointsInTime(spark, "local_sales", BERLIN))
        .hasSchema("sale_id INT, at TIMESTAMP, exact BOOLEAN")
        .hasRows(
            row(1, Instant.parse("2025-03-30T00:30:00Z"), true),
            row(2, Instant.parse("2025-03-30T01:30:00Z"), false),
            row(3, Instant.parse("2025-03-30T01:30:00Z"), true),
            row(4, Instant.parse("2025-10-26T00:30:00Z"), true),
            row(5, null, null));
  }

  @Test
  void daysOfChangeHave23And25Hours(SparkSession spark, Sandbox sandbox) {
    List<LocalDate> short23 = new ArrayList<>();
    List<LocalDate> long25 = new ArrayList<>();
    for (Row day :
        DatesAndTimes.lengthsOfDays(
                spark, LocalDate.of(2025, 1, 1), LocalDate.of(2025, 12, 31), BERLIN)
            .collectAsList()) {
      double hours = day.getDouble(1);
      assertThat(hours).isIn(23.0, 24.0, 25.0);
      if (hours == 23) {
        short23.add(day.getAs("day"));
      } else if (hours == 25) {
        long25.add(day.getAs("day"));
      }
    }

    assertThat(short23).containsExactly(LocalDate.of(2025, 3, 30));
    assertThat(long25).containsExactly(LocalDate.of(2025, 10, 26));
  }

  /** From noon to noon there are 23 hours. Neither the difference nor 24 hours more says so. */
  @Test
  void inASessionWithSummerTimeSparkTakes24HoursForADay(SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.session.timeZone", BERLIN);

    assertThat(
            spark.sql(
                """
                SELECT ended - began, timestampdiff(HOUR, began, ended), began + INTERVAL '24' HOUR = ended,
                       began + INTERVAL '1' DAY = ended, unix_seconds(ended) - unix_seconds(began),
                       timestamp_seconds(unix_seconds(began) + 24 * 3600)
                FROM (SELECT TIMESTAMP'2025-03-29 12:00:00' AS began, TIMESTAMP'2025-03-30 12:00:00' AS ended)
                """))
        .hasRows(
            row(
                Duration.ofHours(24),
                24L,
                true,
                true,
                23L * 3600,
                Instant.parse("2025-03-30T11:00:00Z")));
  }

  @Test
  void theSessionsZoneDecidesWhatATextMeans(SparkSession spark, Sandbox sandbox) {
    String text =
        "SELECT CAST('2025-07-01 10:00:00' AS TIMESTAMP), CAST('2025-07-01 10:00:00 Asia/Tokyo' AS"
            + " TIMESTAMP)";
    Instant tokyo = Instant.parse("2025-07-01T01:00:00Z");

    assertThat(spark.sql(text)).hasRows(row(Instant.parse("2025-07-01T10:00:00Z"), tokyo));
    spark.conf().set("spark.sql.session.timeZone", BERLIN);
    assertThat(spark.sql(text)).hasRows(row(Instant.parse("2025-07-01T08:00:00Z"), tokyo));
  }

  /**
   * java.time computes the same for three years, with two ISO years that do not begin in January.
   */
  @Test
  void theCalendarIsThatOfJava(SparkSession spark, Sandbox sandbox) {
    LocalDate first = LocalDate.of(2024, 1, 1);
    LocalDate last = LocalDate.of(2026, 12, 31);
    List<Row> expected = new ArrayList<>();
    for (LocalDate day = first; !day.isAfter(last); day = day.plusDays(1)) {
      expected.add(
          row(
              day,
              day.getDayOfWeek().getValue(),
              day.get(IsoFields.WEEK_BASED_YEAR),
              day.get(IsoFields.WEEK_OF_WEEK_BASED_YEAR),
              day.withDayOfMonth(1),
              day.get(IsoFields.QUARTER_OF_YEAR),
              day.plusDays(1).getDayOfMonth() == 1));
    }
    assertThat(expected).hasSize(1_096);

    Dataset<Row> calendar = DatesAndTimes.calendar(spark, first, last);

    assertThat(calendar)
        .hasSchema(
            "day DATE, weekday INT, iso_year INT, iso_week INT, month DATE, quarter INT, month_end"
                + " BOOLEAN")
        .hasRows(expected.toArray(Row[]::new));
    assertThat(calendar.where("day = DATE'2024-12-30'").select("weekday", "iso_year", "iso_week"))
        .hasRows(row(DayOfWeek.MONDAY.getValue(), 2025, 1));
  }

  @Test
  void aDayWithoutSalesIsThereWithZero(SparkSession spark, Sandbox sandbox) {
    createSales(
        spark,
        "2025-03-29T22:30:00Z",
        "2025-03-29T23:30:00Z",
        "2025-03-31T22:00:00Z",
        "2025-04-09T00:00:00Z");
    DatesAndTimes.localTimes(spark, "sales", BERLIN).createOrReplaceTempView("days");
    DatesAndTimes.calendar(spark, LocalDate.of(2025, 3, 29), LocalDate.of(2025, 4, 1))
        .createOrReplaceTempView("calendar");

    assertThat(DatesAndTimes.salesPerDay(spark, "calendar", "days"))
        .hasRows(
            row(LocalDate.of(2025, 3, 29), 1L),
            row(LocalDate.of(2025, 3, 30), 1L),
            row(LocalDate.of(2025, 3, 31), 0L),
            row(LocalDate.of(2025, 4, 1), 1L));
  }

  @Test
  void dueDatesKeepToTheEndOfTheMonth(SparkSession spark) {
    assertThat(DatesAndTimes.dueDates(spark, LocalDate.of(2025, 1, 31), 4))
        .hasRows(
            row(1, LocalDate.of(2025, 1, 31)),
            row(2, LocalDate.of(2025, 2, 28)),
            row(3, LocalDate.of(2025, 3, 31)),
            row(4, LocalDate.of(2025, 4, 30)));
    assertThat(
            spark.sql(
                "SELECT DATE'2025-01-31' + INTERVAL '1' MONTH + INTERVAL '1' MONTH,"
                    + " DATE'2024-02-29' + INTERVAL '1' YEAR"))
        .hasRows(row(LocalDate.of(2025, 3, 28), LocalDate.of(2025, 2, 28)));
  }

  @Test
  void intervalsAreAddedUpAndAreDurationsInJava(SparkSession spark) {
    spark
        .sql(
            """
            SELECT * FROM VALUES
              ('Ada', TIMESTAMP'2025-03-03 08:00:00', TIMESTAMP'2025-03-03 12:15:00'),
              ('Ada', TIMESTAMP'2025-03-03 22:00:00', TIMESTAMP'2025-03-04 06:30:00'),
              ('Grace', TIMESTAMP'2025-03-03 09:00:00', NULL)
              AS shifts (person, began, ended)
            """)
        .createOrReplaceTempView("shifts");

    assertThat(DatesAndTimes.worked(spark, "shifts"))
        .hasSchema("person STRING, worked INTERVAL DAY TO SECOND")
        .hasRows(row("Ada", Duration.ofMinutes(12 * 60 + 45)), row("Grace", null));
  }

  @Test
  void monthsAndDaysAreTwoKindsOfInterval(SparkSession spark) {
    assertThat(
            spark.sql(
                "SELECT INTERVAL '1-2' YEAR TO MONTH, INTERVAL '14' MONTH = INTERVAL '1-2' YEAR TO"
                    + " MONTH"))
        .hasRows(row(Period.of(1, 2, 0), true));
    assertRefused(
        "DATATYPE_MISMATCH.BINARY_OP_DIFF_TYPES",
        () -> spark.sql("SELECT INTERVAL '1' MONTH = INTERVAL '30' DAY"));
    assertRefused(
        "DATATYPE_MISMATCH.INVALID_ORDERING_TYPE",
        () -> spark.sql("SELECT make_interval(0, 1, 0, 1) AS i ORDER BY i"));
  }

  @Test
  void aDayThatDoesNotExistIsAnErrorOrNull(SparkSession spark) {
    assertRefused(
        "CAST_INVALID_INPUT", () -> spark.sql("SELECT to_date('2025-02-30')").collectAsList());
    assertRefused(
        "CANNOT_PARSE_TIMESTAMP",
        () -> spark.sql("SELECT to_date('30.3.2025', 'dd.MM.yyyy')").collectAsList());
    assertThat(
            spark.sql(
                "SELECT try_to_date('2025-02-30'), to_date('30.3.2025', 'd.M.yyyy'),"
                    + " to_date('30.03.2025', 'dd.MM.yyyy')"))
        .hasRows(row(null, LocalDate.of(2025, 3, 30), LocalDate.of(2025, 3, 30)));
  }

  private static void createShops(SparkSession spark) {
    DatesAndTimes.enableTime(spark);
    spark
        .sql(
            """
            SELECT * FROM VALUES
              ('bakery', '06:30', '14:00'), ('grocer', '08:00', '20:00'), ('bar', '18:00', '02:00'), ('kiosk', NULL, '20:00')
              AS shops (shop, opens, closes)
            """)
        .createOrReplaceTempView("shops");
  }

  @Test
  void aShopIsOpenFromItsFirstMinuteToItsLast(SparkSession spark, Sandbox sandbox) {
    createShops(spark);

    assertThat(DatesAndTimes.openAt(spark, "shops", LocalTime.of(19, 59, 59)))
        .hasRows(row("grocer"), row("bar"));
    assertThat(DatesAndTimes.openAt(spark, "shops", LocalTime.of(20, 0))).hasRows(row("bar"));
    assertThat(DatesAndTimes.openAt(spark, "shops", LocalTime.of(1, 59))).hasRows(row("bar"));
    assertThat(DatesAndTimes.openAt(spark, "shops", LocalTime.of(2, 0))).isEmpty();
    assertThat(DatesAndTimes.openAt(spark, "shops", LocalTime.of(8, 0)))
        .hasRows(row("bakery"), row("grocer"));
  }

  @Test
  void timesOfDayHaveNoZoneAndNoTomorrow(SparkSession spark, Sandbox sandbox) {
    DatesAndTimes.enableTime(spark);

    assertThat(
            spark.sql(
                """
                SELECT TIME'10:00:00' - TIME'09:30:00', TIME'10:00:00' + INTERVAL '30' MINUTE,
                       time_trunc('HOUR', TIME'09:31:00'), time_diff('MINUTE', TIME'09:00:00', TIME'10:15:00'),
                       CAST(TIME'09:30:00.999' AS TIME(0)), make_timestamp(DATE'2025-07-01', TIME'09:00:00', 'Europe/Berlin')
                """))
        .hasRows(
            row(
                Duration.ofMinutes(30),
                LocalTime.of(10, 30),
                LocalTime.of(9, 0),
                75L,
                LocalTime.of(9, 30),
                Instant.parse("2025-07-01T07:00:00Z")));
    assertRefused(
        "DATETIME_OVERFLOW",
        () -> spark.sql("SELECT TIME'23:30:00' + INTERVAL '1' HOUR").collectAsList());
    // CANNOT_PARSE_TIME, because of
    assertRefused("CAST_INVALID_INPUT", () -> spark.sql("SELECT to_time('25:00')").collectAsList());
    assertRefused(
        "DATATYPE_MISMATCH.CAST_WITHOUT_SUGGESTION",
        () -> spark.sql("SELECT CAST(TIMESTAMP'2025-01-01 09:30:00' AS TIME)"));
    assertThat(
            spark
                .createDataset(
                    List.of(LocalTime.of(9, 30), LocalTime.of(17, 0)), Encoders.LOCALTIME())
                .toDF("time")
                .where("time < TIME'12:00:00'"))
        .hasRows(row(LocalTime.of(9, 30)));
  }

  @Test
  void timeIsStoredInParquetAndNotInDelta(SparkSession spark, Sandbox sandbox) {
    DatesAndTimes.enableTime(spark);
    spark.sql("CREATE TABLE times (opens TIME) USING parquet");
    spark.sql("INSERT INTO times VALUES (TIME'09:30:00')");

    assertThat(spark.table("times")).hasRows(row(LocalTime.of(9, 30)));
    assertRefused(
        "DELTA_UNSUPPORTED_DATA_TYPES",
        () -> spark.table("times").write().format("delta").saveAsTable("delta_times"));
    assertThat(spark.catalog().tableExists("delta_times")).isFalse();
  }

  @Test
  void withoutItsSettingTimeIsThereInPartOnly(SparkSession spark, Sandbox sandbox) {
    assertThat(spark.sql("SELECT TIME'09:30:00'")).hasRows(row(LocalTime.of(9, 30)));
    assertRefused("UNSUPPORTED_TIME_TYPE", () -> spark.sql("SELECT to_time('09:30')"));
    assertRefused("UNSUPPORTED_TIME_TYPE", () -> spark.sql("SELECT CAST('09:30' AS TIME)"));
  }
}
