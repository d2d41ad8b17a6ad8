import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.BroadcastJoin;
import com.example.lakehouse.optimization.Bucketing;
import com.example.lakehouse.optimization.SkewJoin;
import com.example.lakehouse.optimization.ZOrdering;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Supplier;
import java.util.function.ToDoubleFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * How the effects of tuning grow with the data: the same query before and after, at several sizes.
 *
 * <p>Run: {@code bench/optimization}, or with numbers of rows.
 *
 * <p>See: for each effect its figures at each size, both sides run in turn, and whether the bars
 * hold that the script names.
 *
 * <p>On Databricks: not meant for it; the examples whose snippets are measured here are.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-performance-tuning.html">Spark:
 *     performance tuning</a>
 */
public final class Optimization {
  private static final int ROUNDS = 5;

  /** At the sizes that have no bars, where a round takes a minute. */
  private static final int FEWER_ROUNDS = 3;

  private static final int FILES = 64;
  private static final int RANGES = 8;
  private static final int VALUES = 5;

  /**
   * Of the skew's bar: with a million a task takes 25 ms, and the longest is whichever the JVM's
   * compilers or its garbage collector paused.
   */
  private static final long ORDERS = 5_000_000;

  private final Notebook notebook;
  private final SparkSession spark;
  private final List<Row> bars = new ArrayList<>();
  private final Map<String, Chart> charts = new LinkedHashMap<>();
  private boolean passed = true;
  private int rounds = ROUNDS;

  private Optimization(Notebook notebook) {
    this.notebook = notebook;
    this.spark = notebook.spark();
  }

  public static void main(String[] args) throws Exception {
    String sizes = args[args.length - 1].replaceFirst("^--sizes=", "");
    List<Long> rows = Arrays.stream(sizes.split(",", -1)).map(Long::valueOf).toList();
    boolean[] passed = {false};
    Notebook.run(
        Optimization.class,
        Arrays.copyOf(args, args.length - 1),
        notebook -> passed[0] = new Optimization(notebook).run(rows));
    System.exit(passed[0] ? 0 : 1);
  }

  private boolean run(List<Long> sizes) {
    Measured.generateCode(spark);
    // As if every table were too large to be broadcast, unless a hint says so.
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
    spark.conf().set("spark.sql.shuffle.partitions", 8);
    // All sizes, before the first one takes its time.
    long largest = Math.max(ORDERS, Collections.max(sizes));
    Room.sampleData(notebook, largest, 200, 0);
    for (long rows : sizes) {
      boolean barred = rows == sizes.get(0);
      rounds = barred ? ROUNDS : FEWER_ROUNDS;
      notebook.step(String.format(Locale.ROOT, "%,d rows", rows));
      zOrder(rows, barred);
      SampleData data = SampleData.of(spark).rows(rows);
      data.orderItems().write().format("parquet").saveAsTable("items");
      broadcast(rows, barred);
      bucketed(data, rows, barred);
      spark.sql("DROP TABLE items");
      skew(rows);
    }
    notebook.step(String.format(Locale.ROOT, "Skew, for its bar: %,d orders", ORDERS));
    rounds = ROUNDS;
    double longest = skew(ORDERS);
    bar("longest task over the median, after, at most", longest, 2, longest <= 2);
    notebook.step("How each effect grows");
    charts.values().forEach(notebook::chart);
    notebook.step("The bars");
    notebook.table(
        "",
        spark.createDataFrame(
            bars, StructType.fromDDL("figure STRING, measured DOUBLE, bar STRING, holds BOOLEAN")));
    return passed;
  }

  private void zOrder(long rows, boolean barred) {
    Dataset<Row> points =
        spark
            .range(0, rows, 1, FILES)
            .selectExpr(
                "pmod(xxhash64(id, 1), 100000) AS a",
                "pmod(xxhash64(id, 2), 100000) AS b",
                "id AS c");
    for (String table : List.of("unordered", "z_ordered", "in_cells")) {
      points.write().format("delta").saveAsTable(table);
    }
    ZOrdering.zOrder(spark, "z_ordered", FILES, "a", "b");
    ZOrdering.zOrderIntoCells(spark, "in_cells", RANGES, "a", "b");
    long files = spark.sql("DESCRIBE DETAIL in_cells").head().<Long>getAs("numFiles");
    for (String column : List.of("a", "b")) {
      long byDefault = most("z_ordered", column);
      long inCells = most("in_cells", column);
      notebook.text(
          "%,d rows, %d values of %s: they read at most %d of about %d files as Delta Z-orders by"
              + " default, and %d of %d in cells.",
          rows, VALUES, column, byDefault, FILES, inCells, files);
      String condition = column + " = 47001";
      Map<String, Dataset<Row>> tables = new LinkedHashMap<>();
      tables.put("unordered", spark.table("unordered").where(condition));
      tables.put("Z-ordered", spark.table("z_ordered").where(condition));
      tables.put("in cells", spark.table("in_cells").where(condition));
      Map<String, List<QueryProfile>> runs = inTurn(sides(tables));
      show("Z-order, one value of " + column, rows, runs);
      chart("Z-order, one value of " + column, "ms", rows, runs, Optimization::millis);
      if (barred) {
        long all = runs.get("unordered").get(0).filesRead();
        bar("files that the unordered table reads, " + column, all, FILES, all == FILES);
        double most = 1.7 * Math.sqrt(files);
        bar(
            "files of " + files + " that " + VALUES + " values of " + column + " read, at most",
            inCells,
            most,
            inCells <= most && files >= FILES);
      }
    }
    spark.sql("DROP TABLE unordered");
    spark.sql("DROP TABLE z_ordered");
    spark.sql("DROP TABLE in_cells");
  }

  /** The most files that one of some values reads. */
  private long most(String table, String column) {
    long most = 0;
    for (int value = 0; value < VALUES; value++) {
      String condition = column + " = " + (7_001 + 20_000 * value);
      most = Math.max(most, QueryProfile.of(spark.table(table).where(condition)).filesRead());
    }
    return most;
  }

  private void broadcast(long rows, boolean barred) {
    spark
        .range(1_000)
        .selectExpr("id AS product_id", "concat('product ', id) AS name")
        .write()
        .mode("overwrite")
        .format("parquet")
        .saveAsTable("thousand");
    // Every item finds its product, whatever the size.
    Dataset<Row> items =
        spark.table("items").selectExpr("order_item_id", "product_id % 1000 AS product_id");
    Map<String, List<QueryProfile>> runs =
        inTurn(
            sides(
                ordered(
                    "sort-merge",
                    BroadcastJoin.withProducts(items, spark.table("thousand"), "merge"),
                    "broadcast",
                    BroadcastJoin.withProductsBroadcast(items, spark.table("thousand")))));
    show("a join with 1,000 rows", rows, runs);
    chart("a join with 1,000 rows", "ms", rows, runs, Optimization::millis);
    if (barred) {
      long shuffled = runs.get("broadcast").get(0).shuffleBytes();
      bar("bytes that the broadcast join shuffles", shuffled, 0, shuffled == 0);
      double faster = ratio(runs, "sort-merge", "broadcast");
      bar("sort-merge's time over broadcast's, at least", faster, 3, faster >= 3);
    }
  }

  private void bucketed(SampleData data, long rows, boolean barred) {
    data.orders()
        .select("order_id", "customer_id", "order_date", "status")
        .write()
        .format("parquet")
        .saveAsTable("orders");
    Bucketing.writeBucketed(spark.table("items"), "items_8", 8, "order_id");
    Bucketing.writeBucketed(spark.table("orders"), "orders_8", 8, "order_id");
    Map<String, List<QueryProfile>> runs =
        inTurn(
            sides(
                ordered(
                    "no buckets",
                    Bucketing.withOrders(spark.table("items"), spark.table("orders")),
                    "8 buckets",
                    Bucketing.withOrders(spark.table("items_8"), spark.table("orders_8")))));
    show("a join of two large tables", rows, runs);
    chart("a join of two large tables", "ms", rows, runs, Optimization::millis);
    if (barred) {
      int exchanges = runs.get("8 buckets").get(0).shuffles();
      bar("exchanges of the bucketed join", exchanges, 0, exchanges == 0);
      double faster = ratio(runs, "no buckets", "8 buckets");
      bar("time without buckets over that with, at least", faster, 1.3, faster >= 1.3);
    }
    for (String table : List.of("items_8", "orders_8", "orders")) {
      spark.sql("DROP TABLE " + table);
    }
  }

  /** As many orders as there are rows; returns the longest task over the median, after. */
  private double skew(long rows) {
    SampleData data = SampleData.of(spark).rows(3 * rows).skew(0.5);
    data.orders()
        .select("order_id", "customer_id", "order_date", "status")
        .repartition(16)
        .write()
        .format("delta")
        .saveAsTable("skewed");
    data.customers().select("customer_id", "name").write().format("delta").saveAsTable("customers");
    // A task for each file, as it is with files of 128 MB.
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", 16);
    spark.conf().set("spark.sql.files.openCostInBytes", 0);
    spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", false);
    long piece = Math.max(64 << 10, data.orderCount() / 2);
    Supplier<Dataset<Row>> join =
        () -> SkewJoin.withCustomers(spark.table("skewed"), spark.table("customers"));
    Map<String, Supplier<QueryProfile>> sides = new LinkedHashMap<>();
    sides.put("as it is", () -> skewed(256L << 20, join));
    sides.put("split", () -> skewed(piece, join));
    Map<String, List<QueryProfile>> runs = inTurn(sides);
    show("a join of orders, half of them one customer's", rows, runs);
    chart(
        "a join of orders, half of them one customer's: longest task over median",
        "times",
        rows,
        runs,
        Optimization::imbalance);
    chart("a join of orders, half of them one customer's", "ms", rows, runs, Optimization::millis);
    for (String key :
        List.of(
            "spark.sql.leafNodeDefaultParallelism",
            "spark.sql.files.openCostInBytes",
            "spark.sql.adaptive.coalescePartitions.enabled")) {
      spark.conf().unset(key);
    }
    spark.sql("DROP TABLE skewed");
    spark.sql("DROP TABLE customers");
    return median(runs.get("split"), Optimization::imbalance);
  }

  private QueryProfile skewed(long piece, Supplier<Dataset<Row>> join) {
    SkewJoin.splitPartitionsOver(spark, piece);
    return QueryProfile.of(join.get());
  }

  private static Map<String, Dataset<Row>> ordered(
      String before, Dataset<Row> one, String after, Dataset<Row> other) {
    Map<String, Dataset<Row>> queries = new LinkedHashMap<>();
    queries.put(before, one);
    queries.put(after, other);
    return queries;
  }

  /** Which give the same rows. */
  private static Map<String, Supplier<QueryProfile>> sides(Map<String, Dataset<Row>> queries) {
    Measured.sameRows(queries);
    Map<String, Supplier<QueryProfile>> sides = new LinkedHashMap<>();
    queries.forEach((name, query) -> sides.put(name, () -> QueryProfile.of(query)));
    return sides;
  }

  /**
   * Both sides one after the other, as often as there are rounds; as many before them warm up, for
   * at the first size a task takes 30 ms, of which the JVM's compilers take their share at first.
   */
  private Map<String, List<QueryProfile>> inTurn(Map<String, Supplier<QueryProfile>> sides) {
    for (int round = 0; round < rounds; round++) {
      sides.values().forEach(Supplier::get);
    }
    Map<String, List<QueryProfile>> runs = new LinkedHashMap<>();
    for (int round = 0; round < rounds; round++) {
      sides.forEach(
          (name, side) -> runs.computeIfAbsent(name, n -> new ArrayList<>()).add(side.get()));
    }
    return runs;
  }

  private void show(String effect, long rows, Map<String, List<QueryProfile>> runs) {
    Map<String, QueryProfile> last = new LinkedHashMap<>();
    runs.forEach((name, profiles) -> last.put(name, profiles.get(rounds - 1)));
    notebook.profiles(
        String.format(Locale.ROOT, "%s, %,d rows: the last of %d runs", effect, rows, rounds),
        last);
    runs.forEach(
        (name, profiles) ->
            notebook.text(
                "%s: %,.0f ms in the median of %s.",
                name,
                median(profiles, Optimization::millis),
                profiles.stream().map(p -> p.wallTime().toMillis()).toList()));
  }

  private void chart(
      String effect,
      String unit,
      long rows,
      Map<String, List<QueryProfile>> runs,
      ToDoubleFunction<QueryProfile> figure) {
    Chart chart = charts.computeIfAbsent(effect + unit, key -> new Chart(effect, unit));
    runs.forEach(
        (name, profiles) ->
            chart.bar(
                name, String.format(Locale.ROOT, "%,d rows", rows), median(profiles, figure)));
  }

  private void bar(String figure, double measured, double limit, boolean holds) {
    passed &= holds;
    bars.add(RowFactory.create(figure, measured, String.format(Locale.ROOT, "%.1f", limit), holds));
  }

  private static double ratio(Map<String, List<QueryProfile>> runs, String before, String after) {
    return median(runs.get(before), Optimization::millis)
        / median(runs.get(after), Optimization::millis);
  }

  private static double millis(QueryProfile profile) {
    return profile.wallTime().toMillis();
  }

  private static double imbalance(QueryProfile profile) {
    return (double) profile.longestTask().toMillis() / Math.max(1, profile.medianTask().toMillis());
  }

  private static double median(List<QueryProfile> profiles, ToDoubleFunction<QueryProfile> figure) {
    return profiles.stream().mapToDouble(figure).sorted().toArray()[profiles.size() / 2];
  }
}
