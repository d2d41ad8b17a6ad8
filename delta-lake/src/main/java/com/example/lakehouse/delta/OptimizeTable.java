package com.example.lakehouse.delta;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import io.delta.tables.DeltaTable;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Many small files: compaction, Z-order, and writes that make fewer of them.
 *
 * <p>Run: {@code ./run OptimizeTable}, or Run in the IDE; no JVM flags, no setup; {@code --scale}
 * for more rows.
 *
 * <p>See: the files before and after, and the files that a query on each of two columns has to
 * read.
 *
 * <p>On Databricks: the same code; predictive optimization can do it by itself there.
 *
 * @see <a href="https://docs.delta.io/optimizations-oss/">Delta Lake: optimizations</a>
 */
public final class OptimizeTable {

  private OptimizeTable() {}

  /**
   * Rewrites small files into larger ones, in one commit. The rows stay as they are, and so does
   * their order within a file: nothing is sorted.
   *
   * @return one row: {@code path STRING, metrics STRUCT<numFilesAdded BIGINT, numFilesRemoved
   *     BIGINT, …>}
   */
  public static Dataset<Row> compact(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).optimize().executeCompaction();
  }

  /**
   * Rewrites the table so that rows near each other in all of {@code columns} are in the same
   * files: a query on any one of them can leave most files out.
   *
   * @param columns columns that queries filter on, that have statistics (the first 32 do by
   *     default), and that have about as many distinct values: one with a few hundred beside one
   *     with many thousand has so little weight that queries on it leave out hardly any file
   * @return as {@link #compact}
   * @throws IllegalArgumentException if {@code columns} is empty
   */
  public static Dataset<Row> zOrder(SparkSession spark, String table, String... columns) {
    if (columns.length == 0) {
      throw new IllegalArgumentException("Z-order needs the columns that queries filter on");
    }
    return DeltaTable.forName(spark, table).optimize().executeZOrderBy(columns);
  }

  /** Lets each commit to {@code table} compact the small files that it finds. */
  public static void enableAutoCompaction(SparkSession spark, String table) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.autoOptimize.autoCompact' = 'true')",
        Map.of("table", table));
  }

  /**
   * Lets each write to {@code table} bring its rows together into fewer files, by a shuffle before
   * it writes.
   */
  public static void enableOptimizedWrites(SparkSession spark, String table) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.autoOptimize.optimizeWrite' = 'true')",
        Map.of("table", table));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        OptimizeTable.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          // As many small writes leave them: each file has rows of all customers and times.
          Dataset<Row> events = notebook.sampleData(40_000).events();
          events.repartition(64).write().format("delta").saveAsTable("events");
          // A target of 64 KB makes 40,000 rows behave as 1 GB makes gigabytes behave.
          spark.conf().set("spark.databricks.delta.optimize.maxFileSize", "65536");
          Instant from =
              events.selectExpr("min(event_time)").head().<Instant>getAs(0).plusSeconds(1_200);
          String oneMinute =
              "event_time BETWEEN '%s' AND '%s'".formatted(from, from.plusSeconds(60));
          String oneCustomer = "customer_id = 500";
          Map<String, QueryProfile> byTime = new LinkedHashMap<>();
          Map<String, QueryProfile> byCustomer = new LinkedHashMap<>();
          Chart chart = new Chart("files that a query reads", "files");
          for (String layout : List.of("as written", "compacted", "Z-ordered")) {
            switch (layout) {
              case "compacted" -> compact(spark, "events");
              case "Z-ordered" -> zOrder(spark, "events", "event_time", "customer_id");
              default -> {}
            }
            byTime.put(layout, QueryProfile.of(spark.table("events").where(oneMinute)));
            byCustomer.put(layout, QueryProfile.of(spark.table("events").where(oneCustomer)));
            chart.bar("one minute", layout, byTime.get(layout).filesRead());
            chart.bar("one customer", layout, byCustomer.get(layout).filesRead());
          }

          notebook.step("The same two queries on three layouts of the same rows");
          notebook.chart(chart);
          notebook.profiles("one minute of the events", byTime);
          notebook.profiles("one customer's events", byCustomer);
          notebook.text(
              "Compaction makes fewer files, and each still has all customers and times. Z-order makes each file a"
                  + " small range of both, and Delta's statistics tell which ranges a query needs before any file is"
                  + " opened.");

          notebook.step("What each OPTIMIZE did");
          notebook.table(
              "history",
              DeltaTable.forName(spark, "events")
                  .history()
                  .selectExpr(
                      "version",
                      "operation",
                      "operationParameters.zOrderBy AS z_order_by",
                      "operationMetrics.numRemovedFiles AS files_removed",
                      "operationMetrics.numAddedFiles AS files_added"));

          notebook.step("Writes that leave fewer files");
          for (String table : List.of("plain", "optimized_writes", "auto_compaction")) {
            events.limit(0).write().format("delta").saveAsTable(table);
          }
          enableOptimizedWrites(spark, "optimized_writes");
          enableAutoCompaction(spark, "auto_compaction");
          Chart files = new Chart("files in the table after a write of 60 small ones", "files");
          for (String table : List.of("plain", "optimized_writes", "auto_compaction")) {
            events.repartition(60).write().format("delta").mode("append").saveAsTable(table);
            files.bar(
                table.replace('_', ' '),
                spark.sql("DESCRIBE DETAIL " + table).head().<Long>getAs("numFiles"));
          }
          notebook.chart(files);
        });
  }
}
