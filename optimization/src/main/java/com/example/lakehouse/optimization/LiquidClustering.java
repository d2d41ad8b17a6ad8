package com.example.lakehouse.optimization;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import io.delta.tables.DeltaTable;
import io.delta.tables.DeltaTableBuilder;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;

/**
 * Clustered tables: the keys belong to the table, change without rewriting a file, and {@code
 * OPTIMIZE} brings the rows in order, as Z-order does for one run.
 *
 * <p>Run: {@code ./run LiquidClustering}, or Run in the IDE; no JVM flags, no setup. 60,000 events
 * in 64 files; {@code --scale} for more.
 *
 * <p>See: the files that five queries read of the same rows as written, in folders, Z-ordered and
 * clustered; what each {@code OPTIMIZE} rewrites when rows arrive and when the keys change.
 *
 * <p>On Databricks: the same code; writes cluster there by themselves when they are large, and
 * {@code CLUSTER BY AUTO} chooses the keys.
 *
 * @see <a href="https://docs.delta.io/delta-clustering/">Delta Lake: liquid clustering</a>
 */
public final class LiquidClustering {

  private LiquidClustering() {}

  /**
   * Makes a table with the columns and rows of {@code rows}, clustered by {@code keys}. The rows
   * are written as they come: {@link #cluster} brings them in order.
   *
   * <p>{@code DataFrameWriter.clusterBy}, which Spark 4 has, Delta 4.4 refuses
   * (DELTA_OPERATION_NOT_ALLOWED).
   *
   * @param keys one to four columns that have statistics, of numbers, texts, dates or timestamps.
   *     One of few values beside one of thousands has no weight, as in a Z-order
   * @throws org.apache.spark.sql.AnalysisException DELTA_CLUSTER_BY_INVALID_NUM_COLUMNS for more
   *     than four
   * @throws IllegalArgumentException without a key
   */
  public static void create(Dataset<Row> rows, String table, String... keys) {
    if (keys.length == 0) {
      throw new IllegalArgumentException("at least one key to cluster " + table + " by");
    }
    DeltaTableBuilder builder = DeltaTable.create(rows.sparkSession()).tableName(table);
    // As saveAsTable: a column that happens to have no NULL today is not NOT NULL for good.
    for (StructField column : rows.schema().fields()) {
      builder.addColumn(column.name(), column.dataType(), true);
    }
    builder.clusterBy(keys).execute();
    rows.write().format("delta").mode("append").saveAsTable(table);
  }

  /**
   * Clusters what has been written since the last time, and what is clustered by the same keys into
   * less than {@code
   * spark.databricks.delta.optimize.clustering.mergeStrategy.minCubeSize.threshold} bytes, 100 GB
   * by default: a small table is rewritten whole. If nothing is new, it commits nothing.
   */
  public static void cluster(SparkSession spark, String table) {
    spark.sql("OPTIMIZE " + table);
  }

  /**
   * Gives {@code table} other keys, or its first, for files that are clustered from now on. It
   * rewrites nothing; {@link #cluster} leaves alone what is clustered by the keys before.
   *
   * @param keys as in SQL: a name with a dot in it stands in backticks
   * @throws org.apache.spark.sql.AnalysisException
   *     DELTA_ALTER_TABLE_CLUSTER_BY_ON_PARTITIONED_TABLE_NOT_ALLOWED if the table has folders
   */
  public static void changeKeys(SparkSession spark, String table, String... keys) {
    spark.sql("ALTER TABLE %s CLUSTER BY (%s)".formatted(table, String.join(", ", keys)));
  }

  /** Clusters all that is not yet clustered by the table's keys, whatever its keys were. */
  public static void clusterAll(SparkSession spark, String table) {
    spark.sql("OPTIMIZE " + table + " FULL");
  }

  /** Lets {@code OPTIMIZE} compact and no longer cluster. It rewrites nothing. */
  public static void removeKeys(SparkSession spark, String table) {
    spark.sql("ALTER TABLE " + table + " CLUSTER BY NONE");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        LiquidClustering.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 60_000, 400, 0);
          int files = 64;
          // Eight regions for eight folders.
          Dataset<Row> events =
              data.events()
                  .selectExpr("*", "concat('region ', pmod(customer_id, 8)) AS region")
                  .repartition(files)
                  .localCheckpoint();

          notebook.step("One table, four layouts, the same queries");
          events.write().format("delta").saveAsTable("as_written");
          long bytes = DeltaTable.forName(spark, "as_written").detail().head().getAs("sizeInBytes");
          spark.conf().set("spark.databricks.delta.optimize.maxFileSize", bytes / files);
          // As many files in each layout: eight tasks, each with a file in eight folders.
          events
              .coalesce(8)
              .write()
              .format("delta")
              .partitionBy("region")
              .saveAsTable("partitioned");
          events.write().format("delta").saveAsTable("z_ordered");
          DeltaTable.forName(spark, "z_ordered")
              .optimize()
              .executeZOrderBy("customer_id", "product_id");
          create(events, "clustered", "customer_id", "product_id");
          cluster(spark, "clustered");
          List<String> layouts = List.of("as_written", "partitioned", "z_ordered", "clustered");
          notebook.text(
              "%,d events in about %d files: as written, in folders by region, Z-ordered and"
                  + " clustered by customer_id and product_id.",
              data.orderItemCount(), files);
          Map<String, Dataset<Row>> same = new LinkedHashMap<>();
          for (String layout : layouts) {
            same.put(layout, spark.table(layout));
          }
          Measured.sameRows(same);
          String customer = "customer_id = " + data.customerCount() / 4;
          String product = "product_id = " + data.productCount() / 4;
          Map<String, String> queries = new LinkedHashMap<>();
          queries.put("a customer", customer);
          queries.put("a product", product);
          queries.put("both", customer + " AND " + product);
          queries.put("a region", "region = 'region 3'");
          queries.put(
              "a minute", "event_time BETWEEN '2025-12-01T01:00:00Z' AND '2025-12-01T01:01:00Z'");
          Chart chart = new Chart("files that a query reads, of about 64", "files");
          List<Row> read = new ArrayList<>();
          Map<String, QueryProfile> ofACustomer = new LinkedHashMap<>();
          queries.forEach(
              (query, condition) -> {
                List<Object> cells = new ArrayList<>(List.of(query));
                for (String layout : layouts) {
                  QueryProfile profile = QueryProfile.of(spark.table(layout).where(condition));
                  cells.add(profile.filesRead());
                  chart.bar(layout, query, profile.filesRead());
                  if (condition.equals(customer)) {
                    ofACustomer.put(layout, profile);
                  }
                }
                read.add(RowFactory.create(cells.toArray()));
              });
          notebook.table(
              "files read",
              spark.createDataFrame(
                  read,
                  StructType.fromDDL(
                      "query STRING, as_written BIGINT, partitioned BIGINT, z_ordered BIGINT,"
                          + " clustered BIGINT")));
          notebook.chart(chart);
          notebook.profiles("the events of a customer: the same rows from each", ofACustomer);
          notebook.text(
              "Folders serve one column, of few values. Z-order and clustering serve both of"
                  + " theirs, and no third. Clustering takes Hilbert's curve in place of the Z: it"
                  + " never jumps, so its files are more compact.");

          notebook.step("Rows that arrive later");
          Dataset<Row> few = events.limit(10_000).repartition(8).localCheckpoint();
          spark.conf().set("spark.databricks.delta.optimize.maxFileSize", bytes / 8 / 10);
          create(few, "live", "customer_id", "product_id");
          cluster(spark, "live");
          cluster(spark, "live");
          few.limit(1_000).write().format("delta").mode("append").saveAsTable("live");
          cluster(spark, "live");
          // 100 GB by default; here as much as a tenth of the table, so that it behaves as large.
          spark
              .conf()
              .set(
                  "spark.databricks.delta.optimize.clustering.mergeStrategy.minCubeSize.threshold",
                  DeltaTable.forName(spark, "live").detail().head().<Long>getAs("sizeInBytes")
                      / 10);
          few.limit(1_000).write().format("delta").mode("append").saveAsTable("live");
          cluster(spark, "live");
          notebook.table("what was rewritten", history(spark, "live"));
          notebook.text(
              "The second OPTIMIZE in a row found nothing new and made no version. That of version"
                  + " 4 rewrote the whole table: less than the threshold is clustered together, 100"
                  + " GB by default. Beyond it, as in version 6, only what is new is rewritten. A"
                  + " Z-order rewrites all files each time.");

          notebook.step("Other keys");
          changeKeys(spark, "live", "event_time");
          few.limit(1_000).write().format("delta").mode("append").saveAsTable("live");
          cluster(spark, "live");
          clusterAll(spark, "live");
          notebook.table("what was rewritten", history(spark, "live").where("version > 6"));
          notebook.text(
              "New keys are one entry in the log: no file was rewritten. OPTIMIZE clusters new rows"
                  + " by them and leaves the others as they are; OPTIMIZE FULL rewrites those"
                  + " too.");
          notebook.refused(
              "a Z-order of a clustered table",
              "DELTA_CLUSTERING_WITH_ZORDER_BY",
              () -> spark.sql("OPTIMIZE live ZORDER BY (customer_id)"));
          notebook.refused(
              "keys for a table with folders",
              "DELTA_ALTER_TABLE_CLUSTER_BY_ON_PARTITIONED_TABLE_NOT_ALLOWED",
              () -> changeKeys(spark, "partitioned", "customer_id"));

          notebook.step("When not to");
          notebook.text(
              "A table that nobody runs OPTIMIZE on is not clustered: Delta's writes do not do it."
                  + " Readers must know the table feature. Where each load replaces a day, folders"
                  + " by day are replaced without reading a file (replaceWhere); where a table is a"
                  + " few files, no layout skips anything.");
        });
  }

  /** Versions, and the files that each rewrote: {@code version, operation, keys, …}. */
  private static Dataset<Row> history(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table)
        .history()
        .orderBy("version")
        .selectExpr(
            "version",
            "operation",
            "coalesce(operationParameters.clusterBy, operationParameters.newClusteringColumns)"
                + " AS keys",
            "coalesce(operationMetrics.numRemovedFiles, '0') AS files_removed",
            "coalesce(operationMetrics.numAddedFiles, operationMetrics.numFiles, '0')"
                + " AS files_added");
  }
}
