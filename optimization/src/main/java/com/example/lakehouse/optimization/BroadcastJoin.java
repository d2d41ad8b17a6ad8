package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.broadcast;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import com.example.lakehouse.optimization.support.Room;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.exchange.BroadcastExchangeExec;
import org.apache.spark.sql.types.StructType;

/**
 * Broadcast joins: a small table is copied to every task, and the large one stays where it is, in
 * place of a shuffle and a sort of both.
 *
 * <p>Run: {@code ./run BroadcastJoin}, or Run in the IDE; no JVM flags, no setup; a million order
 * items, {@code --scale} for more.
 *
 * <p>See: the bytes that each join shuffles, how Spark chooses from estimates and again from
 * measured sizes, a broadcast that is too large, and when each of the five strategies is chosen.
 *
 * <p>On Databricks: the same code; the threshold for measured sizes is 30 MB there, and Photon has
 * joins of its own.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-performance-tuning.html">Spark:
 *     performance tuning</a>
 */
public final class BroadcastJoin {
  private static final Set<String> STRATEGIES =
      Set.of("broadcast", "merge", "shuffle_hash", "shuffle_replicate_nl");

  private BroadcastJoin() {}

  /**
   * Each item with its product, by the strategy that Spark chooses.
   *
   * @param items with {@code product_id BIGINT}
   * @param products with {@code product_id BIGINT}
   */
  public static Dataset<Row> withProducts(Dataset<Row> items, Dataset<Row> products) {
    return items.join(products, "product_id");
  }

  /** The same, with the products copied to every task, whatever their size. */
  public static Dataset<Row> withProductsBroadcast(Dataset<Row> items, Dataset<Row> products) {
    return items.join(broadcast(products), "product_id");
  }

  /**
   * The same by a strategy of your choice. Spark takes another one where it cannot follow.
   *
   * @param strategy {@code broadcast}, {@code merge}, {@code shuffle_hash} or {@code
   *     shuffle_replicate_nl}
   * @throws IllegalArgumentException if it is none of them: Spark itself only logs a warning
   */
  public static Dataset<Row> withProducts(
      Dataset<Row> items, Dataset<Row> products, String strategy) {
    if (!STRATEGIES.contains(strategy)) {
      throw new IllegalArgumentException("no such strategy: " + strategy);
    }
    return items.join(products.hint(strategy), "product_id");
  }

  /**
   * Broadcasts what Spark estimates at no more than {@code bytes}, before the query runs.
   *
   * @param bytes 10 MB by default; -1 for none without a hint
   */
  public static void broadcastUpTo(SparkSession spark, long bytes) {
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", bytes);
  }

  /**
   * Broadcasts what turns out to have no more than {@code bytes} when the query has begun: adaptive
   * execution measures what a shuffle wrote.
   *
   * @param bytes that of {@link #broadcastUpTo} by default; -1 for none
   */
  public static void broadcastAtRunTimeUpTo(SparkSession spark, long bytes) {
    spark.conf().set("spark.sql.adaptive.autoBroadcastJoinThreshold", bytes);
  }

  /**
   * Fails a query that broadcasts more than {@code bytes}, of the table in memory that is looked up
   * in, before it is sent.
   *
   * @param bytes 8 GB by default; a table by a {@code BIGINT} key takes 1 MB at least
   */
  public static void refuseBroadcastsOver(SparkSession spark, long bytes) {
    spark.conf().set("spark.sql.maxBroadcastTableSize", bytes);
  }

  /**
   * What Spark compares with the threshold: of a table the bytes of its files, which are
   * compressed; a filter leaves the number as it is, unless Delta leaves out files by it. {@code
   * EXPLAIN COST} shows it too, also where there is no plan to ask, as with Spark Connect.
   */
  public static BigInteger estimatedBytes(Dataset<Row> rows) {
    return rows.queryExecution().optimizedPlan().stats().sizeInBytes().bigInteger();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        BroadcastJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 1_000_000, 60, 8);
          data.orderItems().write().format("delta").saveAsTable("items");
          data.products().write().format("delta").saveAsTable("products");
          Dataset<Row> items = spark.table("items");
          Dataset<Row> products = spark.table("products");

          notebook.step("The same join, by sort-merge and by broadcast");
          notebook.text(
              "%,d order items, each with its product, of %,d. The sort-merge join sends both"
                  + " tables through a shuffle, so that equal keys meet in one task, and sorts them"
                  + " there. The broadcast join copies the products to every task.",
              data.orderItemCount(), data.productCount());
          Map<String, Dataset<Row>> joins = new LinkedHashMap<>();
          joins.put("sort-merge", withProducts(items, products, "merge"));
          joins.put("broadcast", withProductsBroadcast(items, products));
          notebook.text("The same %,d rows come out of both.", Measured.sameRows(joins));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Chart bytes = new Chart("bytes that go through a shuffle", "bytes");
          joins.forEach(
              (name, join) -> {
                profiles.put(name, QueryProfile.of(join));
                bytes.bar(name, profiles.get(name).shuffleBytes());
              });
          notebook.profiles("what each did", profiles);
          notebook.chart(bytes);

          notebook.step("How Spark chooses: an estimate against a threshold");
          Dataset<Row> few = products.where("name LIKE '% 77%'");
          long estimate = estimatedBytes(products).longValueExact();
          List<Row> choices = new ArrayList<>();
          for (long threshold : new long[] {10L << 20, estimate, estimate - 1}) {
            broadcastUpTo(spark, threshold);
            String all = withProducts(items, products).queryExecution().executedPlan().toString();
            String some = withProducts(items, few).queryExecution().executedPlan().toString();
            choices.add(
                RowFactory.create(
                    threshold,
                    all.contains("BroadcastHashJoin") ? "BroadcastHashJoin" : "SortMergeJoin",
                    some.contains("BroadcastHashJoin") ? "BroadcastHashJoin" : "SortMergeJoin"));
          }
          notebook.text(
              "The products' files have %,d bytes. %,d products of %,d have a number that begins"
                  + " with 77, but a filter on text does not change the estimate: %,d.",
              estimate, few.count(), data.productCount(), estimatedBytes(few));
          notebook.table(
              "the plan before it runs, with all products and with few",
              spark.createDataFrame(
                  choices,
                  StructType.fromDDL(
                      "threshold BIGINT, all_products STRING, few_products STRING")));

          notebook.step("How it chooses again: adaptive execution measures");
          broadcastUpTo(spark, estimate - 1);
          broadcastAtRunTimeUpTo(spark, estimate - 1);
          notebook.text(
              "A byte less than the estimate as the threshold, for the estimate and for what is"
                  + " measured. The few products' shuffle comes in far below it: the join is a"
                  + " broadcast after all, and the sorts are gone. The items were shuffled all the"
                  + " same, because that had begun.");
          Map<String, QueryProfile> switched = new LinkedHashMap<>();
          switched.put("switched at run time", QueryProfile.of(withProducts(items, few)));
          notebook.table(
              "the plan with few products",
              Observed.of(switched.get("switched at run time")).plans(spark));
          switched.put("broadcast by hint", QueryProfile.of(withProductsBroadcast(items, few)));
          notebook.profiles("few products", switched);

          notebook.step("Where the estimate is wrong: files are compressed, memory is not");
          products
              .selectExpr("product_id", "repeat('As described. ', 100) AS description")
              .coalesce(1)
              .write()
              .format("delta")
              .saveAsTable("descriptions");
          Dataset<Row> descriptions = spark.table("descriptions");
          broadcastUpTo(spark, 1L << 20);
          broadcastAtRunTimeUpTo(spark, 1L << 20);
          Observed byEstimate = Observed.of(withProducts(items, descriptions));
          long inMemory =
              byEstimate.nodes(BroadcastExchangeExec.class).stream()
                  .mapToLong(exchange -> exchange.metrics().apply("dataSize").value())
                  .sum();
          broadcastUpTo(spark, -1);
          Observed byMeasure = Observed.of(withProducts(items, descriptions));
          notebook.chart(
              new Chart("the descriptions, against a threshold of 1 MB", "bytes")
                  .bar("threshold", 1L << 20)
                  .bar("estimate", estimatedBytes(descriptions))
                  .bar("in memory", inMemory));
          notebook.text(
              "Descriptions that are all alike have %,d bytes as files, and %,d in memory: Spark"
                  + " broadcasts them under a threshold of 1 MB. With -1 for estimates, and 1 MB"
                  + " for what is measured, it takes %s.",
              estimatedBytes(descriptions), inMemory, byMeasure.finalPlan().get(1).strip());

          notebook.step("A broadcast that is too large");
          notebook.text(
              "The driver collects the table, and each executor holds a copy. A limit that fits"
                  + " the executors' memory turns their OutOfMemoryError into an error that says"
                  + " what to do; the driver has the rows by then.");
          refuseBroadcastsOver(spark, 512 << 10);
          notebook.refused(
              "a broadcast of more than 512 kB",
              "_LEGACY_ERROR_TEMP_2249",
              () -> withProductsBroadcast(items, products).count());
          spark.conf().unset("spark.sql.maxBroadcastTableSize");

          notebook.step("The five strategies, and when each is chosen");
          broadcastUpTo(spark, -1);
          broadcastAtRunTimeUpTo(spark, -1);
          Dataset<Row> left = items.limit(1_000);
          Dataset<Row> right = products.limit(500);
          Column key = left.col("product_id").equalTo(right.col("product_id"));
          Column dearer = left.col("unit_price").gt(right.col("price").multiply(10));
          Map<String, Dataset<Row>> kinds = new LinkedHashMap<>();
          kinds.put("by key", left.join(right, key));
          kinds.put("by key, hint broadcast", left.join(broadcast(right), key));
          kinds.put("by key, hint shuffle_hash", left.join(right.hint("shuffle_hash"), key));
          kinds.put("by key, full outer, hint broadcast", left.join(broadcast(right), key, "full"));
          kinds.put("by price", left.join(right, dearer));
          kinds.put("by price, hint broadcast", left.join(broadcast(right), dearer));
          kinds.put("by price, left outer", left.join(right, dearer, "left"));
          kinds.put("by key OR price", left.join(right, key.or(dearer)));
          List<Row> strategies = new ArrayList<>();
          kinds.forEach(
              (kind, join) ->
                  strategies.add(
                      RowFactory.create(kind, String.join(", ", QueryProfile.of(join).joins()))));
          notebook.table(
              "no table small enough by itself: both thresholds are -1",
              spark.createDataFrame(
                  strategies, StructType.fromDDL("join STRING, strategy STRING")));
          notebook.text(
              "A condition without an equality compares all pairs. An outer join of that kind has"
                  + " one strategy only, and broadcasts a side whatever the threshold says.");

          notebook.step("When not to");
          notebook.text(
              "A table that grows: today's 8 MB are broadcast without a word, next year's 12 MB are"
                  + " not, and a hint broadcasts 2 GB too. Many executors: each gets its copy. A"
                  + " full outer join, and the side of an outer join whose rows are all kept: the"
                  + " hint is ignored. Two large tables: leave them to the sort-merge join, which"
                  + " spills, where the others fail.");
        });
  }
}
