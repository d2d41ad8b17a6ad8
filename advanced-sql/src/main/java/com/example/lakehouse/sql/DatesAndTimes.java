package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.convert_timezone;
import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.Notebook;
import java.time.LocalDate;
import java.time.LocalTime;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Dates and times: days of a time zone, hours that do not exist or come twice, a calendar without
 * gaps, months of different lengths, and times of day.
 *
 * <p>Run: {@code ./run DatesAndTimes}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a sale that belongs to another day in Berlin; days of 23 and 25 hours; that Spark takes
 * 24 hours for a day; due dates at the ends of months; shops that are open at 20:00.
 *
 * <p>On Databricks: the same code; the TIME type is Spark's from 4.1 on.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-datatypes.html">Spark SQL: data
 *     types</a>
 */
public final class DatesAndTimes {

  private DatesAndTimes() {}

  /**
   * {@code sale_id INT, local TIMESTAMP_NTZ, day DATE}: what a clock in {@code zone} shows, and the
   * day there. For a session in UTC, as this project's are: the cast to TIMESTAMP_NTZ gives the
   * session's local time, which only in UTC is never the same twice.
   *
   * @param sales a table or view with {@code sale_id INT, at TIMESTAMP}
   * @param zone such as {@code Europe/Berlin}
   */
  public static Dataset<Row> localTimes(SparkSession spark, String sales, String zone) {
    return spark.sql(
        """
        SELECT sale_id, local, CAST(local AS DATE) AS day
        FROM (
          SELECT sale_id, convert_timezone('UTC', :zone, CAST(at AS TIMESTAMP_NTZ)) AS local
          FROM IDENTIFIER(:sales))
        """,
        Map.of("sales", sales, "zone", zone));
  }

  /** {@link #localTimes} with columns. */
  public static Dataset<Row> localTimes(Dataset<Row> sales, String zone) {
    return sales
        .withColumn(
            "local", convert_timezone(lit("UTC"), lit(zone), col("at").cast("timestamp_ntz")))
        .select(col("sale_id"), col("local"), col("local").cast("date").as("day"));
  }

  /**
   * {@code sale_id INT, at TIMESTAMP, exact BOOLEAN}: local times of {@code zone} as points in
   * time. A time that the clocks skip becomes one an hour later, without a word: {@code exact} is
   * then false, for it does not come back the same. One that comes twice is taken for the first.
   *
   * @param sales a table or view with {@code sale_id INT, local TIMESTAMP_NTZ}
   */
  public static Dataset<Row> pointsInTime(SparkSession spark, String sales, String zone) {
    return spark.sql(
        """
        SELECT sale_id,
               CAST(utc AS TIMESTAMP) AS at,
               convert_timezone('UTC', :zone, utc) = local AS exact
        FROM (
          SELECT sale_id, local, convert_timezone(:zone, 'UTC', local) AS utc
          FROM IDENTIFIER(:sales))
        """,
        Map.of("sales", sales, "zone", zone));
  }

  /**
   * {@code day DATE, hours DOUBLE}: how long the days of {@code zone} are. Between two midnights,
   * counted in seconds: a difference of local times would be 24 hours each time.
   */
  public static Dataset<Row> lengthsOfDays(
      SparkSession spark, LocalDate first, LocalDate last, String zone) {
    return spark.sql(
        """
        SELECT day,
               (unix_seconds(to_utc_timestamp(date_add(day, 1), :zone))
                - unix_seconds(to_utc_timestamp(day, :zone))) / 3600 AS hours
        FROM (SELECT explode(sequence(:first, :last, INTERVAL '1' DAY)) AS day)
        """,
        Map.of("first", first, "last", last, "zone", zone));
  }

  /**
   * A calendar, one row for each day: {@code day DATE, weekday INT} (1 is Monday), {@code iso_year
   * INT, iso_week INT, month DATE, quarter INT, month_end BOOLEAN}. The ISO year belongs to the
   * week: 30 December 2024 is in week 1 of 2025.
   */
  public static Dataset<Row> calendar(SparkSession spark, LocalDate first, LocalDate last) {
    return spark.sql(
        """
        SELECT day,
               extract(DOW_ISO FROM day) AS weekday,
               extract(YEAROFWEEK FROM day) AS iso_year,
               extract(WEEK FROM day) AS iso_week,
               trunc(day, 'MONTH') AS month,
               quarter(day) AS quarter,
               day = last_day(day) AS month_end
        FROM (SELECT explode(sequence(:first, :last, INTERVAL '1' DAY)) AS day)
        """,
        Map.of("first", first, "last", last));
  }

  /**
   * {@code day DATE, sales BIGINT}: sales of each day, 0 where there are none, which a GROUP BY of
   * the sales alone leaves out.
   *
   * @param calendar a table or view with {@code day DATE}, such as {@link #calendar}
   * @param sales a table or view with {@code day DATE}, such as {@link #localTimes}
   */
  public static Dataset<Row> salesPerDay(SparkSession spark, String calendar, String sales) {
    return spark.sql(
        """
        SELECT c.day, count(s.day) AS sales
        FROM IDENTIFIER(:calendar) AS c LEFT JOIN IDENTIFIER(:sales) AS s ON s.day = c.day
        GROUP BY c.day
        """,
        Map.of("calendar", calendar, "sales", sales));
  }

  /**
   * {@code number INT, due DATE}: {@code count} dates, a month apart. Each is counted from the
   * first: a month after a month after 31 January would be 28 March.
   */
  public static Dataset<Row> dueDates(SparkSession spark, LocalDate first, int count) {
    return spark.sql(
        """
        SELECT number, add_months(:first, number - 1) AS due
        FROM (SELECT explode(sequence(1, :count)) AS number)
        """,
        Map.of("first", first, "count", count));
  }

  /**
   * {@code person STRING, worked INTERVAL DAY TO SECOND}: intervals are added up like numbers; in
   * Java they are {@link java.time.Duration}.
   *
   * @param shifts a table or view with {@code person STRING, began TIMESTAMP, ended TIMESTAMP}
   */
  public static Dataset<Row> worked(SparkSession spark, String shifts) {
    return spark.sql(
        """
        SELECT person, sum(ended - began) AS worked
        FROM IDENTIFIER(:shifts)
        GROUP BY person
        """,
        Map.of("shifts", shifts));
  }

  /**
   * Switches the TIME type on in this session. Without it Spark 4.1 reads {@code TIME'09:30:00'},
   * and refuses to make one of anything else.
   */
  public static void enableTime(SparkSession spark) {
    spark.conf().set("spark.sql.timeType.enabled", "true");
  }

  /**
   * {@code shop STRING}: the shops that are open at a time of day; {@code closes} before {@code
   * opens} is the next morning, and a shop without one of them is never open. Delta does not store
   * a TIME, so the columns are text, {@code 09:30}. Needs {@link #enableTime}.
   *
   * @param shops a table or view with {@code shop STRING, opens STRING, closes STRING}
   */
  public static Dataset<Row> openAt(SparkSession spark, String shops, LocalTime time) {
    return spark.sql(
        """
        SELECT shop
        FROM (SELECT shop, to_time(opens) AS opens, to_time(closes) AS closes FROM IDENTIFIER(:shops))
        WHERE CASE WHEN opens <= closes THEN :time >= opens AND :time < closes
                   WHEN opens > closes THEN :time >= opens OR :time < closes END
        """,
        Map.of("shops", shops, "time", time));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DatesAndTimes.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String berlin = "Europe/Berlin";
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1, TIMESTAMP'2025-03-29T22:30:00Z'), (2, TIMESTAMP'2025-03-29T23:30:00Z'),
                    (3, TIMESTAMP'2025-03-30T01:30:00Z'), (4, TIMESTAMP'2025-04-01T10:00:00Z')
                    AS sales (sale_id, at)
                  """)
              .createOrReplaceTempView("sales");
          notebook.step("A point in time is another day elsewhere");
          notebook.table("sales", spark.table("sales"));
          notebook.table("on the clocks of Berlin", localTimes(spark, "sales", berlin));

          notebook.step("Clocks are put forward and back");
          LocalDate march = LocalDate.of(2025, 3, 29);
          notebook.table("in March", lengthsOfDays(spark, march, march.plusDays(2), berlin));
          notebook.table(
              "in October",
              lengthsOfDays(spark, LocalDate.of(2025, 10, 26), LocalDate.of(2025, 10, 27), berlin));
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1, TIMESTAMP_NTZ'2025-03-30 01:30:00'), (2, TIMESTAMP_NTZ'2025-03-30 02:30:00'),
                    (3, TIMESTAMP_NTZ'2025-03-30 03:30:00'), (4, TIMESTAMP_NTZ'2025-10-26 02:30:00')
                    AS v (sale_id, local)
                  """)
              .createOrReplaceTempView("local_sales");
          notebook.table(
              "local times as points in time: sale 2 was at a time that does not exist, and sale 4"
                  + " at one of two",
              pointsInTime(spark, "local_sales", berlin));
          spark.conf().set("spark.sql.session.timeZone", berlin);
          notebook.table(
              "in a session of that zone, from noon to noon over the change: a day, and 24 hours,"
                  + " though 23 have passed",
              spark.sql(
                  """
                  SELECT began + INTERVAL '24' HOUR = ended AS is_24_hours,
                         ended - began = INTERVAL '1' DAY AS is_a_day,
                         (unix_seconds(ended) - unix_seconds(began)) / 3600 AS hours
                  FROM (SELECT TIMESTAMP'2025-03-29 12:00:00' AS began, TIMESTAMP'2025-03-30 12:00:00' AS ended)
                  """));
          spark.conf().set("spark.sql.session.timeZone", "UTC");

          notebook.step("A calendar has every day");
          calendar(spark, march, march.plusDays(3)).createOrReplaceTempView("calendar");
          localTimes(spark, "sales", berlin).createOrReplaceTempView("days");
          notebook.table("calendar", spark.table("calendar").orderBy("day"));
          notebook.table("sales", salesPerDay(spark, "calendar", "days").orderBy("day"));
          notebook.table(
              "around New Year",
              calendar(spark, LocalDate.of(2024, 12, 29), LocalDate.of(2025, 1, 1)).orderBy("day"));

          notebook.step("Months and intervals");
          notebook.table(
              "due on the last day of each month",
              dueDates(spark, LocalDate.of(2025, 1, 31), 4).orderBy("number"));
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Ada', TIMESTAMP'2025-03-03 08:00:00', TIMESTAMP'2025-03-03 12:15:00'),
                    ('Ada', TIMESTAMP'2025-03-03 22:00:00', TIMESTAMP'2025-03-04 06:30:00'),
                    ('Grace', TIMESTAMP'2025-03-03 09:00:00', TIMESTAMP'2025-03-03 17:00:00')
                    AS shifts (person, began, ended)
                  """)
              .createOrReplaceTempView("shifts");
          notebook.table("worked", worked(spark, "shifts").orderBy("person"));
          notebook.refused(
              "A month and 30 days are not compared",
              "DATATYPE_MISMATCH.BINARY_OP_DIFF_TYPES",
              () -> spark.sql("SELECT INTERVAL '1' MONTH = INTERVAL '30' DAY"));

          notebook.step("Times of day");
          enableTime(spark);
          spark
              .sql(
                  """
                  SELECT * FROM VALUES ('bakery', '06:30', '14:00'), ('grocer', '08:00', '20:00'), ('bar', '18:00', '02:00')
                    AS shops (shop, opens, closes)
                  """)
              .createOrReplaceTempView("shops");
          for (LocalTime time : new LocalTime[] {LocalTime.of(19, 59), LocalTime.of(20, 0)}) {
            notebook.table("open at " + time, openAt(spark, "shops", time));
          }
          notebook.refused(
              "There is no 24:30",
              "DATETIME_OVERFLOW",
              () -> spark.sql("SELECT TIME'23:30:00' + INTERVAL '1' HOUR").collectAsList());
          notebook.refused(
              "Delta has no TIME",
              "DELTA_UNSUPPORTED_DATA_TYPES",
              () -> spark.sql("CREATE TABLE times (opens TIME) USING delta"));
        });
  }
}
