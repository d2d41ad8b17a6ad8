package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.date_add;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lag;
import static org.apache.spark.sql.functions.lead;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.min;
import static org.apache.spark.sql.functions.row_number;
import static org.apache.spark.sql.functions.session_window;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.apache.spark.sql.expressions.WindowSpec;

/**
 * Gaps and islands: streaks of days, missing numbers, sessions from clicks, and bookings that
 * overlap, each in one pass of window functions.
 *
 * <p>Run: {@code ./run GapsAndIslands}, or Run in the IDE; no JVM flags, no setup; {@code --scale}
 * for more clicks.
 *
 * <p>See: three days in a row become one row; the invoice numbers that nobody has; the sessions of
 * 20,000 clicks, by SQL and by {@code session_window}; a booking inside another.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the views'.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-window.html">Spark
 *     SQL: window functions</a>
 */
public final class GapsAndIslands {

  private GapsAndIslands() {}

  /**
   * Days in a row: {@code customer STRING, first_day DATE, last_day DATE, days BIGINT}.
   *
   * <p>Within a streak the day and its number grow alike, so their difference is one date for the
   * whole streak. DISTINCT is part of it: a second visit on a day has a number of its own, and
   * would end the streak.
   *
   * @param visits the name of a table or view with {@code customer STRING, day DATE}
   */
  public static Dataset<Row> streaks(SparkSession spark, String visits) {
    return spark.sql(
        """
        WITH days AS (SELECT DISTINCT customer, day FROM IDENTIFIER(:visits)),
        islands AS (
          SELECT customer, day,
                 date_sub(day, row_number() OVER (PARTITION BY customer ORDER BY day)) AS island
          FROM days
        )
        SELECT customer, min(day) AS first_day, max(day) AS last_day, count(*) AS days
        FROM islands
        GROUP BY customer, island
        """,
        Map.of("visits", visits));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> streaks(Dataset<Row> visits) {
    Column number = row_number().over(Window.partitionBy("customer").orderBy("day"));
    return visits
        .select("customer", "day")
        .distinct()
        .withColumn("number", number)
        .groupBy(col("customer"), expr("date_sub(day, number)"))
        .agg(min("day").as("first_day"), max("day").as("last_day"), count(lit(1)).as("days"))
        .select("customer", "first_day", "last_day", "days");
  }

  /**
   * Numbers that are missing between a series' first and last: {@code series STRING, first_missing
   * BIGINT, last_missing BIGINT}. What is missing before the first or after the last cannot be
   * seen.
   *
   * @param invoices the name of a table or view with {@code series STRING, number BIGINT}
   */
  public static Dataset<Row> gaps(SparkSession spark, String invoices) {
    return spark.sql(
        """
        WITH pairs AS (
          SELECT series, number, lead(number) OVER (PARTITION BY series ORDER BY number) AS next
          FROM IDENTIFIER(:invoices)
        )
        SELECT series, number + 1 AS first_missing, next - 1 AS last_missing
        FROM pairs
        WHERE next > number + 1
        """,
        Map.of("invoices", invoices));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> gaps(Dataset<Row> invoices) {
    WindowSpec inOrder = Window.partitionBy("series").orderBy("number");
    return invoices
        .withColumn("next", lead("number", 1).over(inOrder))
        .where("next > number + 1")
        .selectExpr("series", "number + 1 AS first_missing", "next - 1 AS last_missing");
  }

  /**
   * Sessions: {@code customer_id BIGINT, session BIGINT, first_click TIMESTAMP, last_click
   * TIMESTAMP, clicks BIGINT}. A click more than {@code minutes} after the one before begins a new
   * session; the sum of these beginnings up to a row is the number of its session.
   *
   * @param clicks the name of a table or view with {@code customer_id, event_time TIMESTAMP,
   *     event_id}, which decides between clicks of the same time
   */
  public static Dataset<Row> sessions(SparkSession spark, String clicks, int minutes) {
    return spark.sql(
        """
        WITH marked AS (
          SELECT *, CASE
                      WHEN event_time <= lag(event_time) OVER w + make_dt_interval(0, 0, :minutes)
                      THEN 0 ELSE 1
                    END AS begins
          FROM IDENTIFIER(:clicks)
          WINDOW w AS (PARTITION BY customer_id ORDER BY event_time, event_id)
        ),
        numbered AS (
          SELECT *, sum(begins) OVER (
            PARTITION BY customer_id ORDER BY event_time, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session
          FROM marked
        )
        SELECT customer_id, session, min(event_time) AS first_click,
               max(event_time) AS last_click, count(*) AS clicks
        FROM numbered
        GROUP BY customer_id, session
        """,
        Map.of("clicks", clicks, "minutes", minutes));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> sessions(Dataset<Row> clicks, int minutes) {
    WindowSpec inOrder = Window.partitionBy("customer_id").orderBy("event_time", "event_id");
    Column inTime =
        col("event_time")
            .leq(
                lag("event_time", 1)
                    .over(inOrder)
                    .plus(expr("make_dt_interval(0, 0, " + minutes + ")")));
    return clicks
        .withColumn("begins", when(inTime, 0).otherwise(1))
        .withColumn(
            "session",
            sum("begins")
                .over(inOrder.rowsBetween(Window.unboundedPreceding(), Window.currentRow())))
        .groupBy("customer_id", "session")
        .agg(
            min("event_time").as("first_click"),
            max("event_time").as("last_click"),
            count(lit(1)).as("clicks"));
  }

  /**
   * The same sessions without their numbers, by Spark's own grouping: {@code customer_id,
   * first_click, last_click, clicks}. Its window ends {@code minutes} after the last click; a click
   * at just that time still belongs to it.
   */
  public static Dataset<Row> sessionWindows(Dataset<Row> clicks, int minutes) {
    return clicks
        .groupBy(col("customer_id"), session_window(col("event_time"), minutes + " minutes"))
        .agg(
            min("event_time").as("first_click"),
            max("event_time").as("last_click"),
            count(lit(1)).as("clicks"))
        .select("customer_id", "first_click", "last_click", "clicks");
  }

  /**
   * When each room is taken: {@code room STRING, from_day DATE, to_day DATE, bookings BIGINT}, with
   * bookings that overlap or touch made one.
   *
   * <p>A booking begins a new island if it starts after all bookings before it have ended. The one
   * just before, which {@code lag} gives, may lie within a longer one.
   *
   * @param bookings the name of a table or view with {@code room STRING, from_day DATE, to_day
   *     DATE}, the last day included
   */
  public static Dataset<Row> taken(SparkSession spark, String bookings) {
    return spark.sql(
        """
        WITH marked AS (
          SELECT *, CASE
                      WHEN from_day <= 1 + max(to_day) OVER (
                        PARTITION BY room ORDER BY from_day, to_day
                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                      THEN 0 ELSE 1
                    END AS begins
          FROM IDENTIFIER(:bookings)
        ),
        numbered AS (
          SELECT *, sum(begins) OVER (
            PARTITION BY room ORDER BY from_day, to_day
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS island
          FROM marked
        )
        SELECT room, min(from_day) AS from_day, max(to_day) AS to_day, count(*) AS bookings
        FROM numbered
        GROUP BY room, island
        """,
        Map.of("bookings", bookings));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> taken(Dataset<Row> bookings) {
    WindowSpec inOrder = Window.partitionBy("room").orderBy("from_day", "to_day");
    Column endBefore = max("to_day").over(inOrder.rowsBetween(Window.unboundedPreceding(), -1));
    return bookings
        .withColumn("begins", when(col("from_day").leq(date_add(endBefore, 1)), 0).otherwise(1))
        .withColumn(
            "island",
            sum("begins")
                .over(inOrder.rowsBetween(Window.unboundedPreceding(), Window.currentRow())))
        .groupBy("room", "island")
        .agg(
            min("from_day").as("from_day"),
            max("to_day").as("to_day"),
            count(lit(1)).as("bookings"))
        .drop("island");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        GapsAndIslands.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Ada', DATE'2025-03-01'), ('Ada', DATE'2025-03-02'), ('Ada', DATE'2025-03-02'),
                    ('Ada', DATE'2025-03-03'), ('Ada', DATE'2025-03-05'),
                    ('Ken', DATE'2025-02-28'), ('Ken', DATE'2025-03-01')
                    AS visits (customer, day)
                  """)
              .createOrReplaceTempView("visits");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('A', 1L), ('A', 2L), ('A', 4L), ('A', 8L), ('B', 7L), ('B', 8L)
                    AS invoices (series, number)
                  """)
              .createOrReplaceTempView("invoices");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Lab', DATE'2025-03-01', DATE'2025-03-10'),
                    ('Lab', DATE'2025-03-02', DATE'2025-03-03'),
                    ('Lab', DATE'2025-03-08', DATE'2025-03-12'),
                    ('Lab', DATE'2025-03-13', DATE'2025-03-14'),
                    ('Lab', DATE'2025-03-20', DATE'2025-03-21')
                    AS bookings (room, from_day, to_day)
                  """)
              .createOrReplaceTempView("bookings");

          notebook.step("Streaks: days in a row");
          notebook.table("visits", spark.table("visits"));
          notebook.table("streaks", streaks(spark, "visits").orderBy("customer", "first_day"));

          notebook.step("Gaps: numbers that nobody has");
          notebook.table("invoices", spark.table("invoices"));
          notebook.table("missing", gaps(spark, "invoices").orderBy("series", "first_missing"));

          notebook.step("Sessions: more than five minutes of silence end one");
          Dataset<Row> clicks =
              notebook
                  .sampleData(20_000)
                  .events()
                  .select("customer_id", "event_time", "event_id")
                  .cache();
          clicks.createOrReplaceTempView("clicks");
          Dataset<Row> all = sessions(spark, "clicks", 5).cache();
          long customer = all.selectExpr("max_by(customer_id, session)").head().getLong(0);
          notebook.table(
              "sessions of the customer who has the most",
              all.where(col("customer_id").equalTo(customer)).orderBy("session"));
          notebook.text(
              "%,d clicks make %,d sessions; session_window makes %,d.",
              clicks.count(), all.count(), sessionWindows(clicks, 5).count());
          Chart chart = new Chart("sessions by their number of clicks", "sessions");
          all.selectExpr("least(clicks, 10) AS clicks")
              .groupBy("clicks")
              .count()
              .orderBy("clicks")
              .collectAsList()
              .forEach(
                  row ->
                      chart.bar(
                          row.getLong(0) == 10 ? "10+" : String.valueOf(row.getLong(0)),
                          row.getLong(1)));
          notebook.chart(chart);

          all.unpersist();
          clicks.unpersist();

          notebook.step("Bookings that overlap");
          notebook.table("bookings", spark.table("bookings").orderBy("from_day"));
          notebook.table("when the room is taken", taken(spark, "bookings").orderBy("from_day"));
          notebook.text(
              "The booking of 2 March lies within that of 1 March; compared with the one just"
                  + " before it only, that of 8 March would seem to begin anew.");
        });
  }
}
