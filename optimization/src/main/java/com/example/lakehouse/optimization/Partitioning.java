package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import com.example.lakehouse.optimization.support.TableSize;
import io.delta.tables.DeltaTable;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * Partition columns: a query reads only the folders that it names, and every folder costs files, so
 * too many of them cost more than they save.
 *
 * <p>Run: {@code ./run Partitioning}, or Run in the IDE; no JVM flags, no setup. 28,000 orders of
 * three months; {@code --scale} for more (400,000 order items by default).
 *
 * <p>See: the same orders in no folders, in three and in 90, and what the files, footers and the
 * log take; four ways to hand rows to a partitioned write; a limit on the size of files; twelve
 * filters, of which some prune and some do not.
 *
 * <p>On Databricks: the same code; liquid clustering is advised there for new tables, and {@code
 * delta.targetFileSize}, which Delta itself does not know, sets the size of files.
 *
 * @see <a href="https://docs.delta.io/best-practices/">Delta Lake: best practices</a>
 */
public final class Partitioning {
  private static final String FILE_SIZE = "spark.databricks.delta.optimize.maxFileSize";

  private Partitioning() {}

  /**
   * Writes {@code rows} as a new Delta table with a folder for each value of {@code columns}. Each
   * task writes a file into each folder that it has rows of: at most tasks times folders.
   *
   * @param columns few values each, that most queries filter on; none for a table without folders.
   *     An empty string in one of them comes back as NULL
   * @throws org.apache.spark.sql.AnalysisException ALL_PARTITION_COLUMNS_NOT_ALLOWED if no other
   *     column is left
   */
  public static void write(Dataset<Row> rows, String table, String... columns) {
    rows.write().format("delta").partitionBy(columns).saveAsTable(table);
  }

  /**
   * Brings all rows of a folder into one task by a shuffle, so that a write makes one file for each
   * folder. However large a folder is, one task writes it.
   */
  public static Dataset<Row> oneTaskForEachFolder(Dataset<Row> rows, String column) {
    return rows.repartition(col(column));
  }

  /**
   * The same, but adaptive execution may split what is too large for a task, and merge what is
   * small. In SQL it is the hint {@code REBALANCE(order_month)} after {@code SELECT}.
   *
   * <p>What is too large says {@code spark.sql.adaptive.advisoryPartitionSizeInBytes}, 64 MB of
   * shuffled rows by default. A split goes through all folders that share the task: set it too low,
   * or have fewer shuffle partitions than folders, and it makes files, not fewer.
   */
  public static Dataset<Row> rebalanced(Dataset<Row> rows, String column) {
    return rows.hint("rebalance", col(column));
  }

  /**
   * As {@link #write}, and begins a new file after {@code maxRows} rows: an upper limit, that
   * merges nothing.
   *
   * @throws IllegalArgumentException if {@code maxRows} is less than 1: to Spark that is no limit
   */
  public static void writeAtMost(long maxRows, Dataset<Row> rows, String table, String... columns) {
    if (maxRows < 1) {
      throw new IllegalArgumentException("at least one row for each file: " + maxRows);
    }
    rows.write()
        .format("delta")
        .option("maxRecordsPerFile", maxRows)
        .partitionBy(columns)
        .saveAsTable(table);
  }

  /**
   * Compacts {@code table} into files of about {@code bytes}, a gigabyte by default, within each
   * folder. What is larger already stays.
   */
  public static void compactInto(long bytes, SparkSession spark, String table) {
    // Without a default: Spark knows Delta's own ones only once something has used Delta.
    String before = spark.conf().get(FILE_SIZE, null);
    spark.conf().set(FILE_SIZE, String.valueOf(bytes));
    try {
      DeltaTable.forName(spark, table).optimize().executeCompaction();
    } finally {
      if (before == null) {
        spark.conf().unset(FILE_SIZE);
      } else {
        spark.conf().set(FILE_SIZE, before);
      }
    }
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Partitioning.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          // As four tasks of a job hold them: each has orders of all days.
          Dataset<Row> orders =
              Room.sampleData(notebook, 400_000, 400, 0)
                  .skew(0.6)
                  .orders()
                  .where("order_date < '2025-04-01'")
                  .withColumn("order_month", expr("trunc(order_date, 'MM')"))
                  .withColumn("shop", expr("customer_id % 8"))
                  .repartition(4)
                  .localCheckpoint();
          orders.createOrReplaceTempView("orders");

          notebook.step("A query reads the folders that it names");
          notebook.text(
              "%,d orders of three months, written by four tasks: into one folder, into one for"
                  + " each month, and into one for each day.",
              orders.count());
          write(orders, "no_folders");
          write(orders, "by_month", "order_month");
          write(orders, "by_day", "order_date");
          List<String> tables = List.of("no_folders", "by_month", "by_day");
          // Months are what by_day has no folders of: the statistics of the files tell there.
          Map<String, String> queries = new LinkedHashMap<>();
          queries.put("a day", "order_date = '2025-03-15'");
          queries.put("a month", "order_month = '2025-03-01'");
          queries.put("all", "true");
          Map<String, Map<String, QueryProfile>> profiles = new LinkedHashMap<>();
          Chart read = new Chart("bytes that a query reads", "bytes");
          queries.forEach(
              (query, condition) -> {
                Map<String, Dataset<Row>> same = new LinkedHashMap<>();
                for (String table : tables) {
                  Dataset<Row> rows = spark.table(table).where(condition);
                  same.put(table, rows);
                  QueryProfile profile = QueryProfile.of(rows);
                  profiles.computeIfAbsent(query, q -> new LinkedHashMap<>()).put(table, profile);
                  read.bar(table, query, profile.bytesRead());
                }
                Measured.sameRows(same);
              });
          notebook.profiles("the orders of a day: the same rows from each", profiles.get("a day"));
          notebook.chart(read);

          notebook.step("A folder costs files");
          Chart sizes = new Chart("what the table takes on disk", "bytes");
          List<Row> costs = new ArrayList<>();
          for (String table : tables) {
            TableSize size = TableSize.of(spark, table);
            sizes.bar("rows", table, size.bytes() - size.footerBytes());
            sizes.bar("footers", table, size.footerBytes());
            sizes.bar("log", table, size.logBytes());
            int tasks = profiles.get("all").get(table).tasks();
            costs.add(
                RowFactory.create(
                    table, size.files(), size.bytes(), size.footerBytes(), size.logBytes(), tasks));
          }
          notebook.table(
              "four tasks, each with a file in each folder",
              spark.createDataFrame(
                  costs,
                  StructType.fromDDL(
                      "layout STRING, files INT, bytes BIGINT, of_them_footers BIGINT,"
                          + " log BIGINT, tasks_to_read_all INT")));
          notebook.chart(sizes);
          notebook.text(
              "A file has a footer with its schema and statistics, an entry in the log, and its own"
                  + " dictionaries: with a few rows in it, they are most of it.");

          notebook.step("Fewer files: which task writes which folder");
          Map<String, Dataset<Row>> hands = new LinkedHashMap<>();
          hands.put("as_they_come", orders);
          hands.put("coalesced", orders.coalesce(1));
          hands.put("one_task_each", oneTaskForEachFolder(orders, "shop"));
          hands.put("rebalanced", rebalanced(orders, "shop"));
          // 64 MB by default. Here a sixth of the orders, so that they behave as gigabytes do.
          spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", "200000");
          spark.conf().set("spark.sql.shuffle.partitions", "8");
          Chart files = new Chart("files of eight folders, of which one has most rows", "files");
          Map<String, QueryProfile> writes = new LinkedHashMap<>();
          Map<String, Dataset<Row>> written = new LinkedHashMap<>();
          hands.forEach(
              (table, rows) -> {
                writes.put(table, QueryProfile.of(spark, () -> write(rows, table, "shop")));
                written.put(table, spark.table(table));
                files.bar(
                    "shop 0", table, spark.table(table).where("shop = 0").inputFiles().length);
                files.bar("all", table, spark.table(table).inputFiles().length);
              });
          Measured.sameRows(written);
          notebook.profiles(
              "writes into eight folders, of which one takes 60 % of the rows", writes);
          notebook.chart(files);
          notebook.text(
              "coalesce shuffles nothing, and leaves all work to one task. repartition leaves shop"
                  + " 0 to one task. The hint splits shop 0 among tasks, and what is split is in"
                  + " more files. Without any of them, four tasks make four files of each folder.");

          notebook.step("The size of a file");
          writeAtMost(2_000, orders.coalesce(1), "at_most_2000_rows", "order_month");
          compactInto(200_000, spark, "by_month");
          for (String table : List.of("at_most_2000_rows", "by_month")) {
            TableSize size = TableSize.of(spark, table);
            notebook.text(
                "%s: %,d files, %,d bytes each.", table, size.files(), size.bytes() / size.files());
          }
          notebook.text(
              "A limit of rows cuts files and merges none. Compaction merges them up to a size, but"
                  + " not beyond a folder: of by_day 90 small files would be left.");
          notebook.refused(
              "delta.targetFileSize, a property of Databricks",
              "DELTA_UNKNOWN_CONFIGURATION",
              () ->
                  spark.sql(
                      "ALTER TABLE by_month SET TBLPROPERTIES ('delta.targetFileSize' = '64mb')"));

          notebook.step("Filters that prune, and filters that do not");
          List<Row> filters = new ArrayList<>();
          for (String filter :
              List.of(
                  "order_month = '2025-03-01'",
                  "month(order_month) = 3",
                  "date_format(order_month, 'MMM') = 'Mar'",
                  "CAST(order_month AS STRING) LIKE '%03-01'",
                  "order_month = (SELECT max(order_month) FROM orders)",
                  "order_date BETWEEN '2025-03-01' AND '2025-03-31'",
                  "order_time >= '2025-03-01'",
                  "month(order_date) = 3",
                  "date_format(order_time, 'MMM') = 'Mar'",
                  "order_month = trunc(order_time, 'MM') AND month(order_time) = 3",
                  "order_month = '2025-03-01' OR status = 'returned'",
                  "order_month + CAST(rand() AS INT) = '2025-03-01'")) {
            long rows = spark.table("by_month").where(filter).count();
            QueryProfile profile = QueryProfile.of(spark.table("by_month").where(filter));
            filters.add(RowFactory.create(filter, profile.filesPruned() > 0, rows));
          }
          notebook.table(
              "by_month, three folders",
              spark.createDataFrame(
                  filters, StructType.fromDDL("filter STRING, prunes BOOLEAN, row_count BIGINT")));
          notebook.text(
              "Any function of the partition column alone prunes, a UDF too: Delta computes it for"
                  + " each folder, before a file is opened. A range of a column that goes with it"
                  + " prunes by the statistics of the files. A function of that column does not,"
                  + " but for a cast to DATE (PredicatePushdown), nor does one that mixes the"
                  + " partition column with others.");

          notebook.step("When not to");
          notebook.text(
              "Leave a table without folders until each has about a gigabyte, and never make one"
                  + " for each customer or second. Folders cannot be changed without writing the"
                  + " table anew: for columns with many values, or queries that change, take"
                  + " ZOrdering or LiquidClustering.");
        });
  }
}
