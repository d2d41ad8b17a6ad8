package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.GenerateExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class RangeJoinTest {
  private static final Instant START = Instant.parse("2025-12-01T00:00:00Z");
  private static final int SECONDS = 1_000;
  private static final long[] BINS = {1, 7, 20, 5_000};

  private final List<Row> events = new ArrayList<>();
  private final List<Row> campaigns = new ArrayList<>();

  @BeforeEach
  void generate(SparkSession spark, Sandbox sandbox) {
    Random random = new Random(5);
    for (long id = 0; id < 400; id++) {
      events.add(row(id, START.plusMillis(random.nextInt(SECONDS * 1_000))));
    }
    for (long id = 0; id < 120; id++) {
      Instant start = START.plusSeconds(random.nextInt(SECONDS));
      campaigns.add(row(id, start, start.plusMillis(500L + random.nextInt(40_000))));
    }
    // Empty ones, one that ends before it begins, and one without an end.
    campaigns.add(row(120L, START.plusSeconds(100), START.plusSeconds(100)));
    campaigns.add(row(121L, START.plusSeconds(500), START.plusSeconds(100)));
    campaigns.add(row(122L, START.plusSeconds(100), null));
    // Events on the edges of campaign 0.
    events.add(row(400L, campaigns.get(0).get(1)));
    events.add(row(401L, campaigns.get(0).get(2)));
    createViews(spark);
  }

  private void createViews(SparkSession spark) {
    Views.view(spark, "events", "event_id BIGINT, event_time TIMESTAMP", events);
    Views.view(
        spark,
        "campaigns",
        "campaign_id BIGINT, start_time TIMESTAMP, end_time TIMESTAMP",
        campaigns);
  }

  private Row[] expected() {
    List<Row> matches = new ArrayList<>();
    for (Row event : events) {
      Instant time = event.getAs(1);
      for (Row campaign : campaigns) {
        Instant start = campaign.getAs(1);
        Instant end = campaign.getAs(2);
        if (end != null && !time.isBefore(start) && time.isBefore(end)) {
          matches.add(row(event.get(0), campaign.get(0)));
        }
      }
    }
    return matches.toArray(Row[]::new);
  }

  @Test
  void eachJoinFindsWhatTwoLoopsFind(SparkSession spark) {
    Row[] expected = expected();
    assertThat(expected)
        .hasSizeGreaterThan(800)
        .contains(row(400L, 0L))
        .doesNotContain(row(401L, 0L));

    assertThat(RangeJoin.naive(spark)).hasRows(expected);
    for (long bin : BINS) {
      assertThat(RangeJoin.binned(spark, bin)).as("bins of %d s", bin).hasRows(expected);
    }
  }

  @Test
  void soDoesTheOneFromDatasets(SparkSession spark) {
    for (long bin : BINS) {
      assertThat(RangeJoin.binned(spark.table("events"), spark.table("campaigns"), bin))
          .as("bins of %d s", bin)
          .hasRows(expected());
    }
  }

  @Test
  void theNaiveJoinComparesAllPairsAndTheBinnedOneJoinsByKey(SparkSession spark) {
    // As if neither side were small.
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");

    assertThat(QueryProfile.of(RangeJoin.naive(spark)).joins()).containsExactly("CartesianProduct");
    assertThat(QueryProfile.of(RangeJoin.binned(spark, 20)).joins())
        .containsExactly("SortMergeJoin");
    assertThat(
            QueryProfile.of(RangeJoin.binned(spark.table("events"), spark.table("campaigns"), 20))
                .joins())
        .containsExactly("SortMergeJoin");
  }

  /** Campaign rows and pairs by plain counting. */
  private Row looksAt(long bin) {
    Map<Long, Long> campaignsOfBin = new HashMap<>();
    long rows = 0;
    for (Row campaign : campaigns) {
      Instant start = campaign.getAs(1);
      Instant end = campaign.getAs(2);
      if (end != null && start.isBefore(end)) {
        for (long b = start.getEpochSecond() / bin; b <= end.getEpochSecond() / bin; b++) {
          campaignsOfBin.merge(b, 1L, Long::sum);
          rows++;
        }
      }
    }
    long pairs =
        events.stream()
            .mapToLong(
                event ->
                    campaignsOfBin.getOrDefault(event.<Instant>getAs(1).getEpochSecond() / bin, 0L))
            .sum();
    return row(rows, pairs);
  }

  @Test
  void smallerBinsCompareFewerPairsOfMoreRows(SparkSession spark) {
    for (long bin : BINS) {
      assertThat(RangeJoin.looksAt(spark, bin)).as("bins of %d s", bin).hasRows(looksAt(bin));
    }
    long all = (long) events.size() * campaigns.size();
    assertThat(looksAt(1).getLong(1)).isLessThan(expected().length * 11L / 10);
    assertThat(looksAt(20).getLong(1)).isBetween((long) expected().length, all / 20);
    assertThat(looksAt(1).getLong(0)).isGreaterThan(9 * looksAt(20).getLong(0));
    // One bin for all is the naive join again.
    assertThat(looksAt(5_000).getLong(1)).isEqualTo(120L * events.size());
  }

  @Test
  void aCampaignThatEndsBeforeItBeginsIsNotCopiedIntoBins(SparkSession spark) {
    Dataset<Row> backwards = spark.table("campaigns").where("campaign_id = 121");
    // Without the condition a sequence would go backwards: 400 rows that match nothing.
    assertThat(
            backwards.selectExpr(
                "explode(sequence(unix_seconds(start_time), unix_seconds(end_time)))"))
        .hasRowCount(401);

    backwards.createOrReplaceTempView("campaigns");

    assertThat(RangeJoin.looksAt(spark, 1)).hasRows(row(null, null));
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    assertThat(PlanRows.of(RangeJoin.binned(spark, 1), GenerateExec.class)).isZero();
    Dataset<Row> fromDatasets = RangeJoin.binned(spark.table("events"), backwards, 1);
    assertThat(PlanRows.of(fromDatasets, GenerateExec.class)).isZero();
  }

  @Test
  void aBinOfNoLengthIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> RangeJoin.binned(spark, 0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("a second at least: 0");
    assertThatThrownBy(() -> RangeJoin.binned(spark.table("events"), spark.table("campaigns"), -1))
        .isInstanceOf(IllegalArgumentException.class);
  }
}
