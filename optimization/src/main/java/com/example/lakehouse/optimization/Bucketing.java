package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count_distinct;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import com.example.lakehouse.optimization.support.Room;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.SortExec;

/**
 * Bucketing: two tables that are written in the same buckets of a key are joined by it without a
 * shuffle, each time.
 *
 * <p>Run: {@code ./run Bucketing}, or Run in the IDE; no JVM flags, no setup; a million and a half
 * order items, {@code --scale} for more.
 *
 * <p>See: the exchanges of a join without buckets, with equal and with unequal ones, the files that
 * are written, and which queries have no use for them.
 *
 * <p>On Databricks: the same code, for Parquet tables; Delta tables have no buckets, there as here:
 * liquid clustering leaves out files, but does not spare a join its shuffle.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/latest/sql-data-sources-load-save-functions.html#bucketing-sorting-and-partitioning">Spark:
 *     bucketing, sorting and partitioning</a>
 */
public final class Bucketing {

  private Bucketing() {}

  /**
   * Writes {@code rows} as a new Parquet table of {@code buckets} files, each with the rows of one
   * hash of {@code key}, sorted by it. A shuffle brings the rows of each bucket into one task
   * before.
   *
   * @throws org.apache.spark.sql.AnalysisException if {@code key} is no column, or the table exists
   */
  public static void writeBucketed(Dataset<Row> rows, String table, int buckets, String key) {
    rows.repartition(buckets, col(key))
        .write()
        .format("parquet")
        .bucketBy(buckets, key)
        .sortBy(key)
        .saveAsTable(table);
  }

  /**
   * The same without the shuffle: each task writes a file for each bucket of which it has rows, so
   * that there are up to tasks × buckets files.
   */
  public static void writeBucketedByEachTask(
      Dataset<Row> rows, String table, int buckets, String key) {
    rows.write().format("parquet").bucketBy(buckets, key).sortBy(key).saveAsTable(table);
  }

  /** Each item with its order; both have {@code order_id}. */
  public static Dataset<Row> withOrders(Dataset<Row> items, Dataset<Row> orders) {
    return items.join(orders, "order_id");
  }

  /**
   * Reads the table with more buckets as if it had fewer, where one number is a multiple of the
   * other, of at most four times (spark.sql.bucketing.coalesceBucketsInJoin.maxBucketRatio): no
   * exchange, and a task for each of the fewer buckets.
   */
  public static void joinUnequalBuckets(SparkSession spark) {
    spark.conf().set("spark.sql.bucketing.coalesceBucketsInJoin.enabled", true);
  }

  /**
   * Joins by several columns of which the buckets' is one without a shuffle too. By default both
   * sides are shuffled, in case that few buckets have most of the rows.
   */
  public static void joinByMoreThanTheKey(SparkSession spark) {
    spark.conf().set("spark.sql.requireAllClusterKeysForCoPartition", false);
  }

  /**
   * Takes the order within buckets for granted, where each is one file: a sort-merge join then
   * sorts nothing. Spark then lists all the files of a table to plan a query.
   */
  public static void trustSortedBuckets(SparkSession spark) {
    spark.conf().set("spark.sql.legacy.bucketedTableScan.outputOrdering", true);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Bucketing.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 1_500_000, 80, 4);
          data.orderItems().write().format("parquet").saveAsTable("items");
          data.orders()
              .select("order_id", "customer_id", "order_date", "status")
              .write()
              .format("parquet")
              .saveAsTable("orders");
          Dataset<Row> items = spark.table("items");
          Dataset<Row> orders = spark.table("orders");
          // As if both were too large to be broadcast.
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
          spark.conf().set("spark.sql.shuffle.partitions", 8);
          spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", false);

          notebook.step("Two tables in eight buckets each");
          QueryProfile writing =
              QueryProfile.of(
                  spark,
                  () -> {
                    writeBucketed(items, "items_8", 8, "order_id");
                    writeBucketed(orders, "orders_8", 8, "order_id");
                  });
          writeBucketed(orders, "orders_4", 4, "order_id");
          Dataset<Row> items8 = spark.table("items_8");
          Dataset<Row> orders8 = spark.table("orders_8");
          notebook.text(
              "%,d items and %,d orders, in buckets by order_id. It costs a shuffle of %,d bytes"
                  + " and %,d ms once, when they are written.",
              data.orderItemCount(),
              data.orderCount(),
              writing.shuffleBytes(),
              writing.wallTime().toMillis());

          notebook.step("The same join of each");
          Map<String, Dataset<Row>> joins = new LinkedHashMap<>();
          joins.put("no buckets", withOrders(items, orders));
          joins.put("8 and none", withOrders(items8, orders));
          joins.put("8 and 4", withOrders(items8, spark.table("orders_4")));
          joins.put("8 and 8", withOrders(items8, orders8));
          notebook.text("The same %,d rows come out of all.", Measured.sameRows(joins));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Chart bytes = new Chart("bytes that go through a shuffle", "bytes");
          joins.forEach(
              (name, join) -> {
                profiles.put(name, QueryProfile.of(join));
                bytes.bar(name, profiles.get(name).shuffleBytes());
              });
          notebook.profiles("what each did", profiles);
          notebook.chart(bytes);
          notebook.text(
              "With one side in buckets, or in another number of them, the other side is shuffled"
                  + " into the same buckets, whatever spark.sql.shuffle.partitions says.");
          joinUnequalBuckets(spark);
          QueryProfile coalesced = QueryProfile.of(joins.get("8 and 4"));
          notebook.text(
              "Reading two buckets as one, 8 and 4 join with %d exchanges, in %d tasks in place of"
                  + " %d.",
              coalesced.shuffles(), coalesced.tasks(), profiles.get("8 and 8").tasks());

          notebook.step("The sort is still there, until the order is trusted");
          long sorts = Observed.of(joins.get("8 and 8")).nodes(SortExec.class).size();
          trustSortedBuckets(spark);
          notebook.text(
              "Sorts in the plan of 8 and 8: %d, and %d where Spark trusts that each bucket is one"
                  + " sorted file. One INSERT more, and a bucket has two files: then it sorts"
                  + " again.",
              sorts, Observed.of(joins.get("8 and 8")).nodes(SortExec.class).size());

          notebook.step("What else needs no shuffle, and what does");
          Column sameKeys =
              items8
                  .col("order_id")
                  .equalTo(orders8.col("order_id"))
                  .and(items8.col("product_id").equalTo(orders8.col("customer_id")));
          Map<String, Dataset<Row>> queries = new LinkedHashMap<>();
          queries.put(
              "group by order, distinct products",
              items8.groupBy("order_id").agg(count_distinct(col("product_id"))));
          queries.put(
              "group by order and product", items8.groupBy("order_id", "product_id").count());
          queries.put("group by product", items8.groupBy("product_id").agg(sum("quantity")));
          queries.put(
              "window by order",
              items8.selectExpr("*", "sum(quantity) OVER (PARTITION BY order_id) AS pieces"));
          queries.put("join by order and another column", items8.join(orders8, sameKeys));
          Chart exchanges = new Chart("exchanges of queries on tables in buckets", "exchanges");
          queries.forEach((name, query) -> exchanges.bar(name, QueryProfile.of(query).shuffles()));
          notebook.chart(exchanges);
          QueryProfile one = QueryProfile.of(items8.where("order_id = 77"));
          notebook.text(
              "A filter on one order reads one bucket: %,d rows of %,d. A filter on a range of"
                  + " orders reads all: neighbours are in different buckets.",
              one.rowsRead(), data.orderItemCount());

          notebook.step("How many files");
          Chart files = new Chart("files of the orders in 8 buckets, written by 5 tasks", "files");
          writeBucketedByEachTask(orders.repartition(5), "orders_by_task", 8, "order_id");
          files.bar("each task by itself", spark.table("orders_by_task").inputFiles().length);
          files.bar("shuffled before", orders8.inputFiles().length);
          notebook.chart(files);
          notebook.text(
              "With 200 tasks and 200 buckets it would be 40,000 files and 200. They join alike;"
                  + " but many small files are slow to list and to open.");

          notebook.step("Delta has no buckets");
          notebook.refused(
              "a Delta table in buckets",
              "DELTA_OPERATION_NOT_ALLOWED_DETAIL",
              () ->
                  orders
                      .write()
                      .format("delta")
                      .bucketBy(8, "order_id")
                      .saveAsTable("delta_orders"));

          notebook.step("When not to");
          notebook.text(
              "Buckets are for large tables that are written once and joined by the same key many"
                  + " times. They fix the number of tasks: a join of 8 buckets has 8, on 100 cores"
                  + " too. A skewed key makes a bucket that adaptive execution does not split. A"
                  + " key of another type, such as an INT beside a BIGINT, or files that are read"
                  + " by their path have no buckets. And who needs Delta's transactions takes"
                  + " Delta, and lets it shuffle.");
        });
  }
}
