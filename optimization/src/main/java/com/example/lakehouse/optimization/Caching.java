package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.udf;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import com.example.lakehouse.optimization.support.Stored;
import java.time.LocalDate;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Function;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.util.LongAccumulator;

/**
 * Caches: when keeping a result pays and what it costs, where it is kept, and when it is out of
 * date.
 *
 * <p>Run: {@code ./run Caching}, or Run in the IDE; no JVM flags, no setup; 100,000 orders of
 * 300,000 items, {@code --scale} for more.
 *
 * <p>See: how often a function is called before and after {@code cache()}; a sum that four
 * questions compute once; a table in a cache, of which a query of one day takes many times the
 * bytes that it takes of the files; five storage levels; a cache that {@code RESTORE} leaves
 * behind.
 *
 * <p>On Databricks: the same code on classic compute, where the disk cache keeps copies of the
 * files by itself and never goes stale; serverless compute has no {@code cache()}: write a table.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-performance-tuning.html#caching-data">Spark
 *     SQL: caching data</a>
 */
public final class Caching {

  private Caching() {}

  /**
   * Lets {@code use} work on {@code rows} that are computed once, by its first action, and releases
   * them when it ends or fails. What it gets is a new Dataset: one that has run before {@code
   * persist} has its plan already, and would compute again and again beside the cache.
   *
   * @param level such as {@code StorageLevel.MEMORY_AND_DISK()}, which {@code cache()} takes
   * @param use what to do with them; a Dataset that it returns is not cached any more
   * @throws IllegalStateException if {@code rows} is in a cache already: Spark would keep its
   *     level, and this would release it under whoever else uses it
   */
  public static <T> T withCache(
      Dataset<Row> rows, StorageLevel level, Function<Dataset<Row>, T> use) {
    if (!rows.storageLevel().equals(StorageLevel.NONE())) {
      throw new IllegalStateException("cached already, as " + rows.storageLevel().description());
    }
    rows.persist(level);
    try {
      return use.apply(rows.select("*"));
    } finally {
      rows.unpersist();
    }
  }

  /**
   * Keeps a table for all queries of this application, and fills the cache now: alone, {@code
   * cacheTable} only marks it, as {@code cache()} does.
   *
   * @param level Spark keeps columns, compressed, at every level: the serialized ones save nothing
   * @throws IllegalStateException if it is cached already: Spark would keep the level it has
   */
  public static void cacheTable(SparkSession spark, String table, StorageLevel level) {
    if (spark.catalog().isCached(table)) {
      throw new IllegalStateException(table + " is cached already: uncacheTable first");
    }
    spark.catalog().cacheTable(table, level);
    try {
      spark.table(table).count();
    } catch (RuntimeException e) {
      // Else it would stay marked, and a second try be refused.
      spark.catalog().uncacheTable(table);
      throw e;
    }
  }

  /**
   * Throws away what caches hold of {@code table}, results computed from it included; the next
   * query fills them again, at the same level. Needed after a change that this application did not
   * make itself, and after {@code RESTORE}.
   */
  public static void refresh(SparkSession spark, String table) {
    spark.catalog().refreshTable(table);
  }

  /**
   * What each customer spent: {@code customer_id, spent, orders BIGINT}. Reads everything and
   * shuffles; its result is small.
   *
   * @param orders with {@code customer_id, amount}
   */
  public static Dataset<Row> spendPerCustomer(Dataset<Row> orders) {
    return orders.groupBy("customer_id").agg(sum("amount").as("spent"), count(lit(1)).as("orders"));
  }

  /**
   * The amounts of one day: {@code amount}. Of a Delta table it reads the files of that day and one
   * column beside the date; of a cache, all that is in it.
   *
   * @param orders with {@code order_date, amount}
   */
  public static Dataset<Row> amountsOf(Dataset<Row> orders, LocalDate day) {
    return orders.where(col("order_date").equalTo(day)).select("amount");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Caching.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 300_000, 60, 100);
          data.orders()
              .repartitionByRange(12, col("order_date"))
              .write()
              .format("delta")
              .saveAsTable("orders");
          Dataset<Row> orders = spark.table("orders");
          notebook.text(
              "A cache keeps a result with the executors. Spark looks for it by the query's plan."
                  + " Here: %,d orders, in a Delta table of 12 files by date.",
              data.orderCount());

          notebook.step("cache() does nothing; an action fills what it reads");
          LongAccumulator calls = spark.sparkContext().longAccumulator();
          UDF1<Long, Long> counted =
              n -> {
                calls.add(1);
                return n;
              };
          Dataset<Row> numbers =
              spark
                  .range(0, 1_000, 1, 10)
                  .select(udf(counted, DataTypes.LongType).apply(col("id")).as("n"));
          Map<String, Runnable> actions = new LinkedHashMap<>();
          actions.put("cache()", numbers::cache);
          actions.put("take(1)", () -> numbers.takeAsList(1));
          actions.put("count()", numbers::count);
          actions.put("count() again", numbers::count);
          Chart filling =
              new Chart("calls of a function, for 1,000 rows in 10 partitions", "calls");
          Chart filled = new Chart("partitions in the cache", "partitions");
          actions.forEach(
              (name, action) -> {
                calls.reset();
                action.run();
                filling.bar(name, calls.value());
                filled.bar(name, Stored.of(spark).partitions());
              });
          numbers.unpersist(true);
          notebook.chart(filling);
          notebook.chart(filled);

          notebook.step("It pays: a small result of much work, used four times");
          Dataset<Row> spend = spendPerCustomer(orders);
          Function<Dataset<Row>, Runnable> report =
              sums ->
                  () -> {
                    for (String question :
                        new String[] {"spent > 500", "orders > 10", "orders = 1", "spent < 20"}) {
                      sums.where(question).count();
                    }
                  };
          // Once to compile what is measured.
          report.apply(spend).run();
          Map<String, QueryProfile> four = new LinkedHashMap<>();
          four.put("computed four times", QueryProfile.of(spark, report.apply(spend)));
          // The same table by another plan, for which Spark finds no cache.
          Dataset<Row> uncached = spark.read().option("versionAsOf", 0).table("orders");
          long customers =
              withCache(
                  spend,
                  StorageLevel.MEMORY_AND_DISK(),
                  kept -> {
                    four.put("cached", QueryProfile.of(spark, report.apply(kept)));
                    return Measured.sameRows(
                        Map.of("cached", kept, "computed", spendPerCustomer(uncached)));
                  });
          notebook.profiles(
              "four questions about what %,d customers spent".formatted(customers), four);
          notebook.text(
              "The table is read and shuffled once, and not four times. Rows read of a cache are"
                  + " counted as batches of 10,000. Files, exchanges and joins of a plan in a cache"
                  + " are listed at each use, though it ran once.");

          notebook.step("It costs memory: a whole table, for a query that needs little of it");
          LocalDate day = LocalDate.of(2025, 6, 1);
          QueryProfile.of(amountsOf(orders, day));
          Map<String, QueryProfile> oneDay = new LinkedHashMap<>();
          oneDay.put("from the files", QueryProfile.of(amountsOf(orders, day)));
          withCache(
              orders,
              StorageLevel.MEMORY_AND_DISK(),
              kept -> {
                oneDay.put("first use of the cache", QueryProfile.of(amountsOf(kept, day)));
                oneDay.put("each further use", QueryProfile.of(amountsOf(kept, day)));
                return Measured.sameRows(
                    Map.of("files", amountsOf(uncached, day), "cache", amountsOf(kept, day)));
              });
          notebook.profiles("the amounts of one day", oneDay);
          Chart read = new Chart("read for the amounts of one day", "bytes");
          oneDay.forEach((name, profile) -> read.bar(name, profile.bytesRead()));
          notebook.chart(read);
          notebook.text(
              "The filter never reaches the files: the cache takes all files and all columns once,"
                  + " and each use looks through all of it. That is quick as long as it fits into"
                  + " memory; but it grows with the table, and the file of a day does not. Filter"
                  + " and select first, then cache.");

          notebook.step("Where it is kept");
          Map<String, StorageLevel> levels = new LinkedHashMap<>();
          levels.put("MEMORY_ONLY", StorageLevel.MEMORY_ONLY());
          levels.put("MEMORY_ONLY_SER", StorageLevel.MEMORY_ONLY_SER());
          levels.put("MEMORY_AND_DISK (cache())", StorageLevel.MEMORY_AND_DISK());
          levels.put("MEMORY_AND_DISK_SER", StorageLevel.MEMORY_AND_DISK_SER());
          levels.put("DISK_ONLY", StorageLevel.DISK_ONLY());
          Chart sizes = new Chart("the table in a cache", "bytes");
          levels.forEach(
              (name, level) -> {
                cacheTable(spark, "orders", level);
                Stored stored = Stored.of(spark);
                sizes.bar("memory", name, stored.memoryBytes());
                sizes.bar("disk", name, stored.diskBytes());
                spark.catalog().uncacheTable("orders");
              });
          notebook.chart(sizes);
          notebook.text(
              "Its files have %,d bytes. A cache of rows is columns, compressed, at every level, so"
                  + " the serialized levels save nothing. When memory is short, MEMORY_ONLY drops"
                  + " partitions and computes them again at every use; MEMORY_AND_DISK writes them"
                  + " to disk.",
              spark.sql("DESCRIBE DETAIL orders").head().<Long>getAs("sizeInBytes"));

          notebook.step("When it is out of date");
          cacheTable(spark, "orders", StorageLevel.MEMORY_AND_DISK());
          Function<String, Row> state =
              event ->
                  spark
                      .table("orders")
                      .agg(count(lit(1)).as("cached"))
                      .crossJoin(
                          spark.sql(
                              "SELECT count(*) AS stored FROM orders VERSION AS OF "
                                  + spark
                                      .sql("DESCRIBE HISTORY orders LIMIT 1")
                                      .head()
                                      .<Long>getAs("version")))
                      .select(lit(event).as("event"), expr("cached"), expr("stored"))
                      .head();
          Chart rows = new Chart("rows of the table: as queries see it, and as it is", "rows");
          Map<String, Runnable> events = new LinkedHashMap<>();
          events.put("cached", () -> {});
          events.put(
              "DELETE by this application",
              () -> spark.sql("DELETE FROM orders WHERE order_date < '2025-07-01'"));
          events.put(
              "RESTORE by this application",
              () -> spark.sql("RESTORE TABLE orders TO VERSION AS OF 0"));
          events.put("refresh", () -> refresh(spark, "orders"));
          events.forEach(
              (name, event) -> {
                event.run();
                Row seen = state.apply(name);
                rows.bar("queries see", name, seen.getLong(1));
                rows.bar("in the table", name, seen.getLong(2));
              });
          notebook.chart(rows);
          notebook.text(
              "What this application writes, in any of its sessions, refreshes its caches. RESTORE"
                  + " does not, and what another application writes cannot: a query of the table is"
                  + " then answered with old rows, with no warning.");
          spark.catalog().uncacheTable("orders");

          notebook.step("When not to");
          notebook.text(
              "Not for a result that is used once: it is computed all the same, and stored on top."
                  + " Not for a table that queries filter well. Not where others write and rows"
                  + " must be new. Not for long: a cache takes the memory that joins and sorts"
                  + " need, until unpersist().");
        });
  }
}
