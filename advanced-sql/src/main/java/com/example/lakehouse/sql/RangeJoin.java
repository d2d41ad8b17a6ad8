package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.explode;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sequence;
import static org.apache.spark.sql.functions.unix_seconds;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Range joins: which campaigns were running when an event happened. A join by {@code BETWEEN} alone
 * compares all pairs; bins of time make it a join by key.
 *
 * <p>Run: {@code ./run RangeJoin}, or Run in the IDE; no JVM flags, no setup; {@code --scale} for
 * more events.
 *
 * <p>See: the same rows from both, the pairs that each compares, and why a bin can be too small.
 *
 * <p>On Databricks: the same SQL; there the hint {@code RANGE_JOIN(c, 60)} makes the bins, which
 * Spark's own optimizer does not know.
 *
 * @see <a href="https://docs.databricks.com/aws/en/optimizations/range-join">Databricks: range join
 *     optimization</a>
 */
public final class RangeJoin {

  private RangeJoin() {}

  /**
   * Each event with the campaigns that were running, by comparing it with every campaign.
   *
   * @return {@code event_id BIGINT, campaign_id BIGINT} of the tables or views {@code events
   *     (event_id, event_time TIMESTAMP)} and {@code campaigns (campaign_id, start_time,
   *     end_time)}; a campaign runs from its start on, until just before its end
   */
  public static Dataset<Row> naive(SparkSession spark) {
    return spark.sql(
        """
        SELECT e.event_id, c.campaign_id
        FROM events AS e
        JOIN campaigns AS c ON c.start_time <= e.event_time AND e.event_time < c.end_time
        """);
  }

  /**
   * The same by bins: a campaign is in each bin of time that it touches, an event is in one, and
   * only those of the same bin are compared. No pair comes twice, because the event is in one bin
   * only.
   *
   * @param binSeconds about as long as most campaigns: smaller bins make more rows of each
   *     campaign, larger ones more pairs that are compared for nothing
   * @throws IllegalArgumentException if {@code binSeconds} is less than 1
   */
  public static Dataset<Row> binned(SparkSession spark, long binSeconds) {
    requirePositive(binSeconds);
    return spark.sql(
        """
        WITH binned_campaigns AS (
          SELECT c.*, b.bin
          FROM campaigns AS c,
            LATERAL explode(
              sequence(unix_seconds(c.start_time) DIV :bin, unix_seconds(c.end_time) DIV :bin)) AS b (bin)
          WHERE c.start_time < c.end_time -- a sequence whose end comes first goes backwards
        )
        SELECT e.event_id, c.campaign_id
        FROM events AS e
        JOIN binned_campaigns AS c
          ON c.bin = unix_seconds(e.event_time) DIV :bin
          AND c.start_time <= e.event_time AND e.event_time < c.end_time
        """,
        Map.of("bin", binSeconds));
  }

  /** The same from Datasets. */
  public static Dataset<Row> binned(Dataset<Row> events, Dataset<Row> campaigns, long binSeconds) {
    requirePositive(binSeconds);
    Dataset<Row> binnedCampaigns =
        campaigns
            .where("start_time < end_time")
            .withColumn(
                "bin",
                explode(
                    sequence(
                        bin(col("start_time"), binSeconds), bin(col("end_time"), binSeconds))));
    return events
        .as("e")
        .join(
            binnedCampaigns.as("c"),
            col("c.bin")
                .equalTo(bin(col("e.event_time"), binSeconds))
                .and(col("c.start_time").leq(col("e.event_time")))
                .and(col("e.event_time").lt(col("c.end_time"))))
        .select("e.event_id", "c.campaign_id");
  }

  private static Column bin(Column time, long binSeconds) {
    return unix_seconds(time).divide(lit(binSeconds)).cast("bigint");
  }

  private static void requirePositive(long binSeconds) {
    if (binSeconds < 1) {
      throw new IllegalArgumentException("a bin must have a second at least: " + binSeconds);
    }
  }

  /**
   * What the binned join looks at.
   *
   * @return one row: {@code campaign_rows BIGINT}, the campaigns' rows in all bins, and {@code
   *     pairs BIGINT}, the pairs of the same bin, each of which is compared
   */
  public static Dataset<Row> looksAt(SparkSession spark, long binSeconds) {
    return spark.sql(
        """
        WITH bins AS (
          SELECT b.bin, count(*) AS campaigns
          FROM campaigns AS c,
            LATERAL explode(
              sequence(unix_seconds(c.start_time) DIV :bin, unix_seconds(c.end_time) DIV :bin)) AS b (bin)
          WHERE c.start_time < c.end_time
          GROUP BY b.bin
        )
        SELECT (SELECT sum(campaigns) FROM bins) AS campaign_rows,
               (SELECT sum(b.campaigns) FROM events AS e
                JOIN bins AS b ON b.bin = unix_seconds(e.event_time) DIV :bin) AS pairs
        """,
        Map.of("bin", binSeconds));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RangeJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData data = notebook.sampleData(6_000);
          data.events().select("event_id", "event_time").createOrReplaceTempView("events");
          // One campaign for each 20 events, each of 1 to 40 seconds, somewhere in that time.
          long campaigns = data.orderItemCount() / 20;
          spark
              .range(campaigns)
              .selectExpr(
                  "id AS campaign_id",
                  "timestamp_seconds(unix_seconds(TIMESTAMP'2025-12-01') + id * 2) AS start_time",
                  "1 + pmod(xxhash64(id), 40) AS seconds")
              .selectExpr(
                  "campaign_id",
                  "start_time",
                  "start_time + make_dt_interval(0, 0, 0, seconds) AS end_time")
              .createOrReplaceTempView("campaigns");

          notebook.step("Each event with the campaigns that were running");
          notebook.text(
              "%,d events in %,d seconds; %,d campaigns of 1 to 40 seconds.",
              data.orderItemCount(), data.orderItemCount() / 10, campaigns);
          notebook.table("events", spark.table("events").orderBy("event_id").limit(3));
          notebook.table("campaigns", spark.table("campaigns").orderBy("campaign_id").limit(3));
          long different =
              naive(spark).exceptAll(binned(spark, 20)).count()
                  + binned(spark, 20).exceptAll(naive(spark)).count();
          notebook.text(
              "%,d rows from the naive join; rows in which the binned one differs: %d.",
              naive(spark).count(), different);

          notebook.step("What each compares");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("naive", QueryProfile.of(naive(spark)));
          profiles.put("bins of 20 s", QueryProfile.of(binned(spark, 20)));
          notebook.profiles("the plans", profiles);
          Chart pairs =
              new Chart("pairs that are compared", "pairs")
                  .bar("naive", data.orderItemCount() * campaigns);
          Chart rows =
              new Chart("rows that the bins make of the campaigns", "rows").bar("naive", campaigns);
          for (long bin : new long[] {1, 5, 20, 100, 500}) {
            Row looksAt = looksAt(spark, bin).head();
            pairs.bar("bins of " + bin + " s", looksAt.<Long>getAs("pairs"));
            rows.bar("bins of " + bin + " s", looksAt.<Long>getAs("campaign_rows"));
          }
          notebook.chart(pairs);
          notebook.chart(rows);
          notebook.text(
              "Small bins compare hardly more than what matches, but copy each campaign into many"
                  + " rows. Bins of about a campaign's length make few of both.");
        });
  }
}
