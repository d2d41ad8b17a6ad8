package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.types.StructType;

/**
 * One table for batch and stream: a stream writes it while reports read it, and each report sees a
 * version that is whole.
 *
 * <p>Run: {@code ./run UnifiedBatchAndStream}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: transfers between accounts arrive, two entries each; whenever a report looks, the entries
 * add up to zero; a report of several queries stays on one version.
 *
 * <p>On Databricks: the same code; volumes in place of the folders, and Auto Loader ({@code
 * cloudFiles}) in place of the file source.
 *
 * @see <a href="https://docs.delta.io/delta-streaming/">Delta Lake: table streaming reads and
 *     writes</a>
 */
public final class UnifiedBatchAndStream {

  private static final String ENTRIES =
      "transfer_id BIGINT, account_id BIGINT, amount DECIMAL(12,2)";

  private UnifiedBatchAndStream() {}

  /**
   * Appends the files that arrive in a folder to {@code table}, a version for each batch of them.
   *
   * @param folder JSON files with {@code transfer_id BIGINT, account_id BIGINT, amount
   *     DECIMAL(12,2)}; a file holds both entries of its transfers
   * @param checkpoint a folder that remembers which files are done
   * @param filesPerBatch how many files a version takes in
   */
  public static StreamingQuery ingest(
      SparkSession spark, String folder, String table, String checkpoint, int filesPerBatch)
      throws TimeoutException {
    return spark
        .readStream()
        .schema(ENTRIES)
        .option("maxFilesPerTrigger", filesPerBatch)
        .json(folder)
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .toTable(table);
  }

  /** The table as of now: {@code entries BIGINT, total DECIMAL}, from one version. */
  public static Dataset<Row> totals(SparkSession spark, String table) {
    return spark.sql(
        "SELECT count(*) AS entries, sum(amount) AS total FROM IDENTIFIER(:table)",
        Map.of("table", table));
  }

  /** The latest version, to be read by all queries of one report. */
  public static long latestVersion(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).history(1).head().<Long>getAs("version");
  }

  /** The table at a version, whatever is written meanwhile. */
  public static Dataset<Row> atVersion(SparkSession spark, String table, long version) {
    return spark.read().option("versionAsOf", version).table(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        UnifiedBatchAndStream.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String folder = notebook.sandbox().path("arriving");
          String checkpoint = notebook.sandbox().path("checkpoint");
          int files = 6;
          // The two entries of a transfer, next to each other, so that no file splits a transfer.
          spark
              .range(0, 12_000, 1, files)
              .selectExpr(
                  "id div 2 AS transfer_id",
                  "(id * 7) % 100 AS account_id",
                  "CAST(IF(id % 2 = 0, 1, -1) * (id div 2 % 50 + 1) AS DECIMAL(12,2)) AS amount")
              .write()
              .json(folder);
          spark.sql("CREATE TABLE entries (%s) USING delta".formatted(ENTRIES));

          notebook.step("Reports while the stream writes");
          List<Row> seen = new ArrayList<>();
          StreamingQuery stream = ingest(spark, folder, "entries", checkpoint, 1);
          try {
            long entries = 0;
            while (entries < 12_000) {
              Row totals = totals(spark, "entries").head();
              if (stream.exception().isDefined()) {
                throw stream.exception().get();
              }
              if (seen.isEmpty() || totals.getLong(0) > entries) {
                seen.add(
                    RowFactory.create(
                        totals.getLong(0), totals.isNullAt(1) ? "" : totals.get(1).toString()));
              }
              entries = totals.getLong(0);
            }
          } finally {
            stream.stop();
          }
          notebook.table(
              "what the reports saw",
              spark.createDataFrame(seen, StructType.fromDDL("entries BIGINT, total STRING")));

          notebook.step("Two queries of one report");
          long version = latestVersion(spark, "entries");
          Dataset<Row> report = atVersion(spark, "entries", version);
          long before = report.count();
          spark.sql("INSERT INTO entries VALUES (-1, 1, 5.00), (-1, 2, -5.00)");
          notebook.text(
              "At version %d: %,d entries, and %,d after another write. The table has %,d.",
              version, before, report.count(), spark.table("entries").count());
        });
  }
}
