package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.min;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import io.delta.tables.DeltaTable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaLog;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;
import scala.Option;

/**
 * Data skipping on two columns: of N files a Z-ordered table reads about √N for a value of either,
 * where a sorted one reads 1 or all.
 *
 * <p>Run: {@code ./run ZOrdering}, or Run in the IDE; no JVM flags, no setup. 60,000 events in 64
 * files; {@code --scale} for more.
 *
 * <p>See: the files that a customer's and a product's events are in, on four layouts of the same
 * rows, Z-ordered as Delta does and with a file for each cell; which columns have statistics, and
 * which conditions can use them.
 *
 * <p>On Databricks: the same code; clustered tables are advised there for new ones. {@code ANALYZE
 * TABLE … COMPUTE DELTA STATISTICS} gives statistics to files that have none; here a rewrite does.
 *
 * @see <a href="https://docs.delta.io/optimizations-oss/#data-skipping">Delta Lake: data skipping
 *     and Z-ordering</a>
 */
public final class ZOrdering {
  private static final String FILE_SIZE = "spark.databricks.delta.optimize.maxFileSize";

  private ZOrdering() {}

  /** Writes {@code rows} as a new table of about {@code files} files, sorted by one column. */
  public static void writeSorted(Dataset<Row> rows, String table, int files, String column) {
    rows.repartitionByRange(files, col(column))
        .sortWithinPartitions(column)
        .write()
        .format("delta")
        .saveAsTable(table);
  }

  /**
   * Z-orders {@code table} by {@code columns} into about {@code files} files of one size, as
   * Delta's defaults do.
   *
   * @param files 64 or more, for there to be something to skip
   * @throws IllegalArgumentException if {@code files} is less than 1
   * @return one row: {@code path STRING, metrics STRUCT<numFilesAdded BIGINT, numFilesRemoved
   *     BIGINT, …>}
   */
  public static Dataset<Row> zOrder(
      SparkSession spark, String table, int files, String... columns) {
    if (files < 1) {
      throw new IllegalArgumentException("at least one file: " + files);
    }
    return zOrder(spark, table, Map.of(FILE_SIZE, bytes(spark, table) / files), columns);
  }

  /**
   * Z-orders {@code table} so that each file is one cell: each column is cut into {@code ranges}
   * ranges of about as many rows, and a file has the rows of one range of each. A query on one
   * value then reads {@code ranges} files, of two columns √N of N.
   *
   * <p>By default there are 1,000 ranges, and files are cut without regard to them, all of one
   * size: most reach into a second cell. A column of fewer values has fewer ranges, and beside one
   * of thousands no weight at all: here it has as much as the other.
   *
   * @param ranges a power of two, at most the number of values of the column with the fewest. The
   *     files become larger and smaller than each other with skewed values
   * @return as {@link #zOrder(SparkSession, String, int, String...)}
   * @throws IllegalArgumentException if {@code ranges} is less than 2
   */
  public static Dataset<Row> zOrderIntoCells(
      SparkSession spark, String table, int ranges, String... columns) {
    if (ranges < 2) {
      throw new IllegalArgumentException("at least two ranges: " + ranges);
    }
    // Room for more files than there are cells: else two small ones share a file.
    long files = 4 * Math.round(Math.pow(ranges, columns.length));
    return zOrder(
        spark,
        table,
        Map.of(
            FILE_SIZE,
            Math.max(1, bytes(spark, table) / files),
            "spark.databricks.io.skipping.mdc.rangeId.max",
            ranges,
            // A random byte in the order, which would cut a cell into several files.
            "spark.databricks.io.skipping.mdc.addNoise",
            false),
        columns);
  }

  private static Dataset<Row> zOrder(
      SparkSession spark, String table, Map<String, Object> settings, String... columns) {
    Map<String, String> before = new HashMap<>();
    try {
      settings.forEach(
          (key, value) -> {
            before.put(key, spark.conf().get(key));
            spark.conf().set(key, value.toString());
          });
      return DeltaTable.forName(spark, table).optimize().executeZOrderBy(columns);
    } finally {
      before.forEach(spark.conf()::set);
    }
  }

  private static long bytes(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).detail().head().getAs("sizeInBytes");
  }

  /**
   * The statistics that Delta decides by which files to read. They are in its log only, which it
   * reads through a class of its own.
   *
   * @param column a column of the table, not within a struct; the table has no column mapping
   * @return {@code file STRING, min STRING, max STRING} of each file of the latest version; NULL
   *     where the file has no statistics of {@code column}
   * @throws IllegalArgumentException if the table has no such column
   */
  public static Dataset<Row> statistics(SparkSession spark, String table, String column) {
    String location = DeltaTable.forName(spark, table).detail().head().getAs("location");
    // As the schema spells it: the statistics' names know upper from lower case.
    String name =
        Arrays.stream(spark.table(table).columns())
            .filter(column::equalsIgnoreCase)
            .findFirst()
            .orElseThrow(() -> new IllegalArgumentException(table + " has no column " + column));
    return DeltaLog.forTable(spark, location)
        .update(false, Option.empty(), Option.empty())
        .allFiles()
        .select(
            col("path").as("file"),
            from_json(
                    col("stats"),
                    DataType.fromDDL(
                        "minValues MAP<STRING, STRING>, maxValues MAP<STRING, STRING>"),
                    Map.of())
                .as("stats"))
        .select(
            col("file"),
            col("stats.minValues").getItem(name).as("min"),
            col("stats.maxValues").getItem(name).as("max"));
  }

  /**
   * Lets Delta collect statistics of {@code columns} and of no others, for files that are written
   * from now on. Those that it has of other columns it uses no more. Without this they are of the
   * first 32 columns of the schema, fields of structs counted one by one ({@code
   * delta.dataSkippingNumIndexedCols}).
   *
   * @param columns as in SQL: a name with a dot or a quote in it stands in backticks
   * @throws org.apache.spark.sql.AnalysisException DELTA_COLUMN_NOT_FOUND_IN_SCHEMA if there is no
   *     such column
   */
  public static void collectStatisticsOf(SparkSession spark, String table, String... columns) {
    spark.sql(
        "ALTER TABLE %s SET TBLPROPERTIES ('delta.dataSkippingStatsColumns' = '%s')"
            .formatted(table, String.join(",", columns).replace("'", "\\'")));
  }

  /**
   * Whether {@code column} is one of {@code values}, for values that are far apart: for {@code IN}
   * Delta reads all files from the least of them to the greatest. Of no values it is none.
   */
  public static Column isAnyOf(String column, Object... values) {
    return Arrays.stream(values)
        .map(value -> col(column).equalTo(lit(value)))
        .reduce(Column::or)
        .orElse(lit(false));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ZOrdering.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 60_000, 400, 0);
          int files = 64;
          Dataset<Row> events = data.events().repartition(files).localCheckpoint();
          List<String> tables = List.of("as_written", "sorted", "z_ordered", "in_cells");
          for (String table : List.of("as_written", "z_ordered", "in_cells")) {
            events.write().format("delta").saveAsTable(table);
          }
          writeSorted(events, "sorted", files, "customer_id");
          zOrder(spark, "z_ordered", files, "customer_id", "product_id");
          zOrderIntoCells(spark, "in_cells", 8, "customer_id", "product_id");

          notebook.step("The events of a customer, and those of a product");
          notebook.text(
              "%,d events of %,d customers and %,d products, in %d files: as many writes leave"
                  + " them, sorted by customer_id, Z-ordered by customer_id and product_id, and"
                  + " Z-ordered with eight ranges of each, a file for each pair of ranges.",
              data.orderItemCount(), data.customerCount(), data.productCount(), files);
          long customer = data.customerCount() / 4;
          long product = data.productCount() / 4;
          for (String condition : List.of("customer_id = " + customer, "product_id = " + product)) {
            Map<String, QueryProfile> profiles = new LinkedHashMap<>();
            Map<String, Dataset<Row>> same = new LinkedHashMap<>();
            for (String table : tables) {
              Dataset<Row> rows = spark.table(table).where(condition);
              profiles.put(table, QueryProfile.of(rows));
              same.put(table, rows);
            }
            notebook.profiles(
                "%s: the same %,d rows from each".formatted(condition, Measured.sameRows(same)),
                profiles);
          }
          Chart chart = new Chart("files that a query of one value reads, on average", "files");
          Map<String, Long> counts = new LinkedHashMap<>();
          counts.put("customer_id", data.customerCount());
          counts.put("product_id", data.productCount());
          counts.forEach(
              (column, count) -> {
                for (String table : tables) {
                  Dataset<Row> reads =
                      spark
                          .range(count)
                          .join(
                              statistics(spark, table, column),
                              expr("id BETWEEN CAST(min AS BIGINT) AND CAST(max AS BIGINT)"));
                  chart.bar(column, table, (double) reads.count() / count);
                }
              });
          notebook.chart(chart);
          Row sizes =
              spark
                  .table("in_cells")
                  .groupBy("_metadata.file_path")
                  .count()
                  .agg(min("count"), max("count"))
                  .head();
          notebook.text(
              "√%d is %.0f. Delta's default makes files of one size, which do not end where ranges"
                  + " do: most reach into a second range of products, and half of them into one of"
                  + " customers. The second column is always the worse. Eight ranges and a file for"
                  + " each cell read eight files for either, but the files differ in size: here"
                  + " from %,d to %,d events.",
              files, Math.sqrt(files), sizes.getLong(0), sizes.getLong(1));

          notebook.step("Which columns have statistics");
          String ofAProduct = "product_id = " + product;
          long before = QueryProfile.of(spark.table("in_cells").where(ofAProduct)).filesRead();
          collectStatisticsOf(spark, "in_cells", "customer_id", "event_time");
          long after = QueryProfile.of(spark.table("in_cells").where(ofAProduct)).filesRead();
          notebook.refused(
              "a Z-order by a column without statistics",
              "DELTA_ZORDERING_ON_COLUMN_WITHOUT_STATS",
              () -> zOrderIntoCells(spark, "in_cells", 8, "customer_id", "product_id"));
          notebook.text(
              "By default the first 32 columns have statistics. When the table's property names"
                  + " customer_id and event_time only, the query on product_id reads %d files"
                  + " instead of %d at once: without statistics nothing can be skipped. The other"
                  + " way round, a column that is named anew helps no query until its files are"
                  + " rewritten.",
              after, before);

          notebook.step("Which conditions can use them");
          long last = data.customerCount() - 1;
          List<Row> conditions = new ArrayList<>();
          for (Column condition :
              List.of(
                  expr("customer_id = " + customer),
                  expr("customer_id = '" + customer + "'"),
                  expr("customer_id = " + customer + "D"),
                  expr("customer_id BETWEEN 800 AND 810"),
                  expr("customer_id IN (1, " + last + ")"),
                  isAnyOf("customer_id", 1L, last),
                  expr("customer_id + 1 = " + (customer + 1)),
                  expr("CAST(customer_id AS STRING) = '" + customer + "'"),
                  expr("customer_id IN (SELECT max(customer_id) FROM as_written)"))) {
            QueryProfile profile = QueryProfile.of(spark.table("sorted").where(condition));
            conditions.add(
                RowFactory.create(
                    condition.toString(), profile.filesPruned(), profile.rowsOut().orElseThrow()));
          }
          notebook.table(
              "of the table that is sorted by customer_id",
              spark.createDataFrame(
                  conditions,
                  StructType.fromDDL(
                      "`condition` STRING, files_skipped BIGINT, row_count BIGINT")));
          notebook.text(
              "A column compared with a constant skips, of another type too, unless the column is"
                  + " what must be cast, as beside a DOUBLE. An expression of the column does not,"
                  + " nor does a value that the query finds out as it runs.");

          notebook.step("When not to");
          zOrder(spark, "z_ordered", files, "customer_id", "product_id");
          notebook.table(
              "Z-order again, with nothing new",
              DeltaTable.forName(spark, "z_ordered")
                  .history(2)
                  .selectExpr(
                      "version",
                      "operation",
                      "operationMetrics.numRemovedFiles AS files_removed",
                      "operationMetrics.numAddedFiles AS files_added"));
          notebook.text(
              "Each Z-order writes all files anew; LiquidClustering does not. With four columns a"
                  + " query on one of them reads N to the power of 3/4: more columns, less"
                  + " skipping. If all queries filter on one column, sort by it; if there are a"
                  + " dozen files, there is nothing to gain.");
        });
  }
}
