package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.from_utc_timestamp;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.session_window;
import static org.apache.spark.sql.functions.to_date;
import static org.apache.spark.sql.functions.window;
import static org.apache.spark.sql.functions.window_time;

import com.example.lakehouse.common.Notebook;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/**
 * Windows of event time: tumbling, sliding, sessions, days in a time zone, and a window over
 * windows.
 *
 * <p>Run: {@code ./run Windows}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: six clicks of two customers in each kind of window; clicks that come late and make one
 * session of two; a local day of 23 hours.
 *
 * <p>On Databricks: the same code.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#window-operations-on-event-time">Structured
 *     Streaming: window operations on event time</a>
 */
public final class Windows {

  private Windows() {}

  /**
   * Each event in one window of ten minutes.
   *
   * @param events with {@code event_time TIMESTAMP}; a stream needs a watermark to append
   * @return {@code window_start TIMESTAMP, window_end TIMESTAMP, events BIGINT}
   */
  public static Dataset<Row> tumbling(Dataset<Row> events) {
    return events
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events");
  }

  /**
   * Windows of ten minutes, a new one every five: each event is in two of them.
   *
   * @return {@code window_start TIMESTAMP, window_end TIMESTAMP, events BIGINT}
   */
  public static Dataset<Row> sliding(Dataset<Row> events) {
    return events
        .groupBy(window(col("event_time"), "10 minutes", "5 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events");
  }

  /**
   * A customer's visits: one ends when there was nothing for more than five minutes. Two visits
   * become one when an event between them comes late.
   *
   * @param events with {@code customer_id BIGINT, event_time TIMESTAMP}
   * @return {@code customer_id BIGINT, session_start TIMESTAMP, session_end TIMESTAMP, events
   *     BIGINT}; the end is five minutes after the last event
   */
  public static Dataset<Row> sessions(Dataset<Row> events) {
    return events
        .groupBy(col("customer_id"), session_window(col("event_time"), "5 minutes"))
        .agg(count(lit(1)).as("events"))
        .selectExpr(
            "customer_id",
            "session_window.start AS session_start",
            "session_window.end AS session_end",
            "events");
  }

  /**
   * As {@link #sessions}, but an event with a full basket keeps the visit open for twenty minutes.
   *
   * @param events with {@code event_type STRING} too
   */
  public static Dataset<Row> sessionsByGap(Dataset<Row> events) {
    return events
        .groupBy(
            col("customer_id"),
            session_window(
                col("event_time"),
                expr("CASE event_type WHEN 'cart' THEN '20 minutes' ELSE '5 minutes' END")))
        .agg(count(lit(1)).as("events"))
        .selectExpr(
            "customer_id",
            "session_window.start AS session_start",
            "session_window.end AS session_end",
            "events");
  }

  /**
   * Windows of eight hours that begin at 06:00, 14:00 and 22:00 UTC, as shifts do.
   *
   * @return {@code window_start TIMESTAMP, window_end TIMESTAMP, events BIGINT}
   */
  public static Dataset<Row> shifts(Dataset<Row> events) {
    return events
        .groupBy(window(col("event_time"), "8 hours", "8 hours", "6 hours"))
        .agg(count(lit(1)).as("events"))
        .selectExpr("window.start AS window_start", "window.end AS window_end", "events");
  }

  /**
   * Days as a time zone has them: of 23 and 25 hours when the clocks change. A window of one day
   * has 24 hours always. No watermark closes these days: emit them in update or complete mode.
   *
   * @param zone such as {@code Europe/Berlin}
   * @return {@code local_day DATE, events BIGINT, latest TIMESTAMP}
   */
  public static Dataset<Row> localDays(Dataset<Row> events, String zone) {
    return events
        .groupBy(to_date(from_utc_timestamp(col("event_time"), zone)).as("local_day"))
        .agg(count(lit(1)).as("events"), max("event_time").as("latest"));
  }

  /**
   * A window over windows: of each hour, its busiest ten minutes.
   *
   * @param events a stream with a watermark on {@code event_time TIMESTAMP}
   * @return {@code hour_start TIMESTAMP, windows BIGINT, busiest BIGINT}
   */
  public static Dataset<Row> busiestOfTheHour(Dataset<Row> events) {
    return events
        .groupBy(window(col("event_time"), "10 minutes"))
        .agg(count(lit(1)).as("events"))
        .groupBy(window(window_time(col("window")), "1 hour").as("hour"))
        .agg(count(lit(1)).as("windows"), max("events").as("busiest"))
        .selectExpr("hour.start AS hour_start", "windows", "busiest");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Windows.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE TABLE events USING delta AS
              SELECT customer_id, event_type, CAST('2025-03-30 ' || time AS TIMESTAMP) AS event_time
              FROM VALUES (1L, 'view', '10:01'), (1L, 'cart', '10:04'), (2L, 'view', '10:09'),
                (2L, 'view', '10:12'), (1L, 'purchase', '10:17'), (2L, 'view', '10:31')
                AS e (customer_id, event_type, time)
              """);
          // What a window holds does not depend on the events being a stream.
          Dataset<Row> events = spark.table("events");
          notebook.table("events", events.orderBy("event_time"));

          notebook.step("Tumbling: each event in one window");
          notebook.table("ten minutes", tumbling(events).orderBy("window_start"));

          notebook.step("Sliding: each event in two windows");
          notebook.table("ten minutes, every five", sliding(events).orderBy("window_start"));

          notebook.step("Sessions: as long as something happens");
          notebook.table(
              "a gap of five minutes", sessions(events).orderBy("customer_id", "session_start"));
          notebook.table(
              "of twenty with a full basket",
              sessionsByGap(events).orderBy("customer_id", "session_start"));

          notebook.step("A stream, to which four events come late: two sessions become one");
          StreamingQuery query =
              sessions(spark.readStream().table("events").withWatermark("event_time", "30 minutes"))
                  .writeStream()
                  .format("memory")
                  .queryName("sessions_now")
                  .outputMode("complete")
                  .start();
          try {
            query.processAllAvailable();
            notebook.table("before", spark.table("sessions_now").where("customer_id = 2"));
            spark.sql(
                """
                INSERT INTO events VALUES
                  (2, 'view', TIMESTAMP'2025-03-30 10:16:00'), (2, 'view', TIMESTAMP'2025-03-30 10:20:30'),
                  (2, 'view', TIMESTAMP'2025-03-30 10:25:00'), (2, 'view', TIMESTAMP'2025-03-30 10:29:00')
                """);
            query.processAllAvailable();
            notebook.table("after", spark.table("sessions_now").where("customer_id = 2"));
          } finally {
            query.stop();
          }

          notebook.step("Shifts, and the day on which Berlin's clocks go forward");
          Dataset<Row> everyHour =
              spark
                  .range(71)
                  .selectExpr(
                      "TIMESTAMP'2025-03-28 23:00:00' + make_dt_interval(0, id) AS event_time");
          notebook.table("shifts", shifts(events));
          notebook.table(
              "an event an hour, by local day",
              localDays(everyHour, "Europe/Berlin").orderBy("local_day"));
        });
  }
}
