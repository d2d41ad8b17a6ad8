package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
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
import org.apache.spark.sql.execution.ExplainMode;

/**
 * Adaptive execution: Spark plans the rest of a query again after each shuffle, from what came
 * through it.
 *
 * <p>Run: {@code ./run AdaptiveExecution}, or Run in the IDE; no JVM flags, no setup; half a
 * million order items, {@code --scale} for more.
 *
 * <p>See: the plan that each query begins with beside the one that it ends with: fewer partitions,
 * another join, a shuffle that is read where it was written, a join that disappears; and what stays
 * as it was.
 *
 * <p>On Databricks: the same code; it is on there too, and {@code spark.sql.shuffle.partitions} can
 * be {@code auto}.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/latest/sql-performance-tuning.html#adaptive-query-execution">Spark:
 *     adaptive query execution</a>
 */
public final class AdaptiveExecution {

  private AdaptiveExecution() {}

  /**
   * Sums the items of each product.
   *
   * @param items with {@code product_id BIGINT, quantity INT}
   * @return {@code product_id BIGINT, items BIGINT, pieces BIGINT}
   */
  public static Dataset<Row> salesByProduct(Dataset<Row> items) {
    return items.groupBy("product_id").agg(count(lit(1)).as("items"), sum("quantity").as("pieces"));
  }

  /** Each item with its product; both have {@code product_id BIGINT}. */
  public static Dataset<Row> withProducts(Dataset<Row> items, Dataset<Row> products) {
    return items.join(products, "product_id");
  }

  /** Switches adaptive execution on, as it is by default, or off. */
  public static void adapt(SparkSession spark, boolean on) {
    spark.conf().set("spark.sql.adaptive.enabled", on);
  }

  /**
   * Puts a shuffle's partitions together to about {@code bytes} each. By default the target is 64
   * MB, but rather a partition for each core of the cluster than large ones, and none below 1 MB.
   */
  public static void partitionsOf(SparkSession spark, long bytes) {
    spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", bytes);
    spark.conf().set("spark.sql.adaptive.coalescePartitions.parallelismFirst", false);
    // A target below this would have no effect.
    spark
        .conf()
        .set("spark.sql.adaptive.coalescePartitions.minPartitionSize", Math.min(bytes, 1 << 20));
  }

  /**
   * The plan of {@code query}, as {@code explain()} prints it: the one that it begins with, and the
   * final one above it once this very Dataset has been collected. {@code count}, {@code show} and
   * {@code write} make queries of their own, and leave it as it was.
   */
  public static String plan(Dataset<Row> query) {
    return query.queryExecution().explainString(ExplainMode.fromString("simple"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        AdaptiveExecution.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 500_000, 60, 4);
          data.orderItems().write().format("parquet").saveAsTable("items");
          data.products().write().format("parquet").saveAsTable("products");
          Dataset<Row> items = spark.table("items");
          Dataset<Row> products = spark.table("products");
          // As in a session that nobody has set up.
          spark.conf().set("spark.sql.shuffle.partitions", 200);

          notebook.step("Fewer partitions");
          notebook.text(
              "A shuffle has 200 partitions by default, whatever comes through it: here, of %,d"
                  + " items, a row for each of %,d products from each task.",
              data.orderItemCount(), data.productCount());
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Map<String, Dataset<Row>> sales = new LinkedHashMap<>();
          Chart tasks = new Chart("tasks of the same query", "tasks");
          for (boolean on : new boolean[] {false, true}) {
            adapt(spark, on);
            String name = on ? "adaptive" : "as planned";
            // Computed now, while adaptive execution is on or off.
            sales.put(name, salesByProduct(items).localCheckpoint());
            profiles.put(name, QueryProfile.of(salesByProduct(items)));
            tasks.bar(name, profiles.get(name).tasks());
          }
          notebook.text("The same %,d rows come out.", Measured.sameRows(sales));
          notebook.profiles("sales by product", profiles);
          notebook.chart(tasks);
          notebook.table("its plan", Observed.of(profiles.get("adaptive")).plans(spark));

          notebook.step("Partitions of a size of your choice");
          Dataset<Row> sorted = items.orderBy("unit_price", "order_item_id");
          Chart sizes = new Chart("partitions of a sort of all items", "partitions");
          sizes.bar("default", Observed.of(sorted).rowsOfTasks().size());
          for (long megabytes : new long[] {64, 4, 1}) {
            partitionsOf(spark, megabytes << 20);
            sizes.bar(megabytes + " MB each", Observed.of(sorted).rowsOfTasks().size());
          }
          partitionsOf(spark, 256 << 10);
          sizes.bar("256 kB each", Observed.of(sorted).rowsOfTasks().size());
          notebook.chart(sizes);
          notebook.text(
              "By default Spark would rather use all cores than make partitions of the target size."
                  + " On a cluster that many queries share, the size is the better guide.");

          notebook.step("Another join, and a shuffle that is read where it was written");
          partitionsOf(spark, 64L << 20);
          Dataset<Row> quiet = products.where("name LIKE 'Quiet%'");
          long estimate =
              products.queryExecution().optimizedPlan().stats().sizeInBytes().longValue();
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", estimate * 3 / 4);
          notebook.table(
              "items of quiet products", Observed.of(withProducts(items, quiet)).plans(spark));
          notebook.text(
              "The products that the filter leaves are an eighth, which nobody knew before. They"
                  + " are broadcast now; the items have been shuffled already, and each task reads"
                  + " what one task wrote, on the same machine (local), for their order no longer"
                  + " matters.");
          Dataset<Row> few = products.where("name LIKE '% 77'");
          notebook.text(
              "With %d product it ends in %s: a side that has rows in less than a fifth of its"
                  + " partitions is not broadcast, because most tasks of a sort-merge join find"
                  + " nothing to do (spark.sql.adaptive.nonEmptyPartitionRatioForBroadcastJoin).",
              few.count(), QueryProfile.of(withProducts(items, few)).joins());

          notebook.step("A join that disappears");
          Dataset<Row> none = products.where("name LIKE '%Unicorn%'");
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
          Map<String, QueryProfile> nothing = new LinkedHashMap<>();
          nothing.put("both shuffled", QueryProfile.of(withProducts(items, none)));
          Observed empty = Observed.of(nothing.get("both shuffled"));
          notebook.table("items of no product, both sides shuffled", empty.plans(spark));
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", 10L << 20);
          nothing.put("broadcast", QueryProfile.of(withProducts(items, none)));
          notebook.profiles("items of no product", nothing);
          notebook.text(
              "Both shuffles begin at the same time: when the products turn out to be none, items"
                  + " are being read already, and Spark stops there. A broadcast comes first, and"
                  + " then nobody reads an item.");

          notebook.step("What it does not do");
          Map<String, Dataset<Row>> queries = new LinkedHashMap<>();
          queries.put("repartition(50)", items.repartition(50));
          queries.put("repartition(product_id)", items.repartition(col("product_id")));
          queries.put("repartition(50, product_id)", items.repartition(50, col("product_id")));
          Chart partitions = new Chart("partitions after a repartition", "partitions");
          queries.forEach(
              (name, query) -> partitions.bar(name, Observed.of(query).rowsOfTasks().size()));
          notebook.chart(partitions);
          Column many = col("quantity").gt(3);
          notebook.text(
              "A number that you ask for is taken as an order. A query without a shuffle is not"
                  + " adaptive at all, for there is nothing to wait for: its plan begins with %s."
                  + " And it does not raise spark.sql.shuffle.partitions, change the order of"
                  + " joins, take back a broadcast that was planned, or bring back what has been"
                  + " read and shuffled.",
              Observed.of(items.where(many)).initialPlan().get(0));

          notebook.step("When not to");
          notebook.text(
              "There is little reason to switch it off: a query of a few milliseconds that has many"
                  + " small stages, or one whose partitions must be as many as planned, and that"
                  + " says so better with repartition(n). Set spark.sql.shuffle.partitions for the"
                  + " largest query, not for the smallest: partitions are put together, and not"
                  + " divided but in a join by skewed keys.");
        });
  }
}
