package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** 8 files of 100 transfers, two entries each, which add up to zero in every file. */
@SparkTest
class UnifiedBatchAndStreamTest {
  private static final int FILES = 8;
  private static final long ENTRIES_PER_FILE = 200;

  private String folder;
  private String checkpoint;

  @BeforeEach
  void writeFilesAndCreateTable(SparkSession spark, Sandbox sandbox) {
    folder = sandbox.path("arriving");
    checkpoint = sandbox.path("checkpoint");
    spark
        .range(0, FILES * ENTRIES_PER_FILE, 1, FILES)
        .selectExpr(
            "id div 2 AS transfer_id",
            "id % 10 AS account_id",
            "CAST(IF(id % 2 = 0, 1, -1) * (id div 2 + 1) AS DECIMAL(12,2)) AS amount")
        .write()
        .json(folder);
    spark.sql(
        """
        CREATE TABLE entries (transfer_id BIGINT, account_id BIGINT, amount DECIMAL(12,2))
        USING delta
        """);
  }

  private void ingestAll(SparkSession spark) throws Exception {
    StreamingQuery stream = UnifiedBatchAndStream.ingest(spark, folder, "entries", checkpoint, 1);
    try {
      stream.processAllAvailable();
    } finally {
      stream.stop();
    }
  }

  @Test
  void everyReportBesideTheStreamSeesWholeBatches(SparkSession spark) throws Exception {
    List<Row> seen = new ArrayList<>();
    CompletableFuture<Void> stream =
        CompletableFuture.runAsync(
            () -> {
              try {
                ingestAll(spark);
              } catch (Exception e) {
                throw new AssertionError(e);
              }
            });

    while (!stream.isDone()) {
      seen.add(UnifiedBatchAndStream.totals(spark, "entries").head());
    }
    stream.join();

    assertThat(seen).hasSizeGreaterThan(1);
    assertThat(seen)
        .allSatisfy(
            totals -> {
              assertThat(totals.getLong(0) % ENTRIES_PER_FILE).isZero();
              if (totals.getLong(0) > 0) {
                assertThat(totals.getDecimal(1)).isEqualByComparingTo(BigDecimal.ZERO);
              }
            });
    assertThat(seen.stream().map(totals -> totals.getLong(0)).toList())
        .as("no report sees less than the one before")
        .isSorted();
    assertThat(UnifiedBatchAndStream.totals(spark, "entries"))
        .hasRows(row(FILES * ENTRIES_PER_FILE, new BigDecimal("0.00")));
  }

  @Test
  void eachVersionIsOneFileMoreAndAddsUpToZero(SparkSession spark) throws Exception {
    ingestAll(spark);

    assertThat(UnifiedBatchAndStream.latestVersion(spark, "entries")).isEqualTo(FILES);
    for (long version = 1; version <= FILES; version++) {
      assertThat(
              UnifiedBatchAndStream.atVersion(spark, "entries", version)
                  .selectExpr("count(*)", "sum(amount)"))
          .hasRows(row(version * ENTRIES_PER_FILE, new BigDecimal("0.00")));
    }
  }

  @Test
  void aReportOnOneVersionStaysThereWhileTheStreamGoesOn(SparkSession spark) throws Exception {
    spark.sql("INSERT INTO entries VALUES (-1, 1, 5.00), (-1, 2, -5.00)");
    var report =
        UnifiedBatchAndStream.atVersion(
            spark, "entries", UnifiedBatchAndStream.latestVersion(spark, "entries"));
    assertThat(report).hasRowCount(2);

    ingestAll(spark);

    assertThat(report).hasRowCount(2);
    assertThat(spark.table("entries")).hasRowCount(2 + FILES * ENTRIES_PER_FILE);
  }

  @Test
  void batchWritesAndTheStreamShareTheTable(SparkSession spark) throws Exception {
    ingestAll(spark);
    spark.sql("DELETE FROM entries WHERE account_id = 3");
    spark
        .sql("SELECT 5000L AS transfer_id, 3L AS account_id, 1.00BD AS amount")
        .write()
        .mode("append")
        .json(folder);

    ingestAll(spark);

    assertThat(spark.table("entries").where("account_id = 3"))
        .hasRows(row(5_000L, 3L, new BigDecimal("1.00")));
    assertThat(spark.table("entries")).hasRowCount(FILES * ENTRIES_PER_FILE * 9 / 10 + 1);
  }

  @Test
  void aSecondRunTakesNoFileTwice(SparkSession spark) throws Exception {
    ingestAll(spark);

    ingestAll(spark);

    assertThat(spark.table("entries")).hasRowCount(FILES * ENTRIES_PER_FILE);
  }
}
