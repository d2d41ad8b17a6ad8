import static org.apache.spark.sql.functions.lit;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Started by {@code bench/delta-scale}, which says what it measures: one size, and a line for each
 * operation in the file of results.
 */
public final class DeltaScale {
  private static final long WARM_UP_ROWS = 100_000;

  /** Sample data has quantities of 1 to 4, so this one tells the rows that the merge wrote. */
  private static final int MERGED = 100;

  private final SparkSession spark;
  private final long rows;
  private final List<Timing> timings = new ArrayList<>();

  private record Timing(String operation, double seconds, String remark) {}

  private DeltaScale(SparkSession spark, long rows) {
    this.spark = spark;
    this.rows = rows;
  }

  public static void main(String[] args) throws IOException {
    long rows = Long.parseLong(args[0]);
    SparkSession spark = SparkSessions.open("delta-scale");
    try {
      // Otherwise the first size would pay for the compilers.
      new DeltaScale(spark, WARM_UP_ROWS).run();
      for (Timing timing : new DeltaScale(spark, rows).run()) {
        System.out.printf(
            Locale.ROOT,
            "%,d rows: %s %.2f s, %,.0f rows/s%s%n",
            rows,
            timing.operation(),
            timing.seconds(),
            rows / timing.seconds(),
            timing.remark());
        Files.writeString(
            Path.of(args[1]),
            "%d %s %.6f%n".formatted(rows, timing.operation(), timing.seconds()),
            StandardOpenOption.CREATE,
            StandardOpenOption.APPEND);
      }
    } finally {
      SparkSessions.close(spark);
    }
  }

  private List<Timing> run() {
    try (Sandbox sandbox = new Sandbox(spark, "delta_scale", false)) {
      Dataset<Row> items = SampleData.of(spark).rows(rows).orderItems();
      time("write", () -> items.write().format("delta").saveAsTable("items"));
      requireRows("the write", rows, 0);

      // Every hundredth row has a change, so that each file has some; a thousandth more are new.
      long updates = (rows + 99) / 100;
      long inserts = rows / 1_000;
      // A batch that is there already: making it is no part of the merge.
      String batch = sandbox.path("batch");
      SampleData.of(spark)
          .rows(rows + inserts)
          .orderItems()
          .where("order_item_id % 100 = 0 OR order_item_id >= " + rows)
          .withColumn("quantity", lit(MERGED))
          .write()
          .parquet(batch);
      time("merge", () -> merge(spark.read().parquet(batch)));
      requireRows("the merge", rows + inserts, updates + inserts);

      time("z-order", () -> table().optimize().executeZOrderBy("order_id", "product_id"));
      requireRows("the Z-order", rows + inserts, updates + inserts);

      read();
      return timings;
    }
  }

  private DeltaTable table() {
    return DeltaTable.forName(spark, "items");
  }

  private void merge(Dataset<Row> batch) {
    table()
        .as("t")
        .merge(batch.as("b"), "t.order_item_id = b.order_item_id")
        .whenMatched()
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  /** A thousandth of the orders, from the middle. */
  private void read() {
    // Five orders in a row have 15 items, so this many rows are in the range.
    long blocks = Math.max(1, rows / 15 / 1_000);
    long from = rows / 15 / 2 * 5;
    Dataset<Row> range =
        spark
            .table("items")
            .where("order_id >= %d AND order_id < %d".formatted(from, from + blocks * 5))
            .selectExpr("count(*) AS found", "sum(quantity) AS quantity");
    List<Row> result = new ArrayList<>();
    QueryProfile profile = QueryProfile.of(spark, () -> result.add(range.head()));
    long found = result.get(0).<Long>getAs("found");
    require("the selective read found %,d rows, and there are %,d", found, blocks * 15);
    timings.add(
        new Timing(
            "read",
            profile.wallTime().toNanos() / 1e9,
            ", %,d of %,d files read"
                .formatted(profile.filesRead(), profile.filesRead() + profile.filesPruned())));
  }

  private void time(String operation, Runnable action) {
    long start = System.nanoTime();
    action.run();
    timings.add(new Timing(operation, (System.nanoTime() - start) / 1e9, ""));
  }

  /**
   * Delta would answer a count alone from its log; a condition on a value makes it read the rows.
   */
  private void requireRows(String after, long expected, long expectedMerged) {
    Row counts =
        spark.table("items").selectExpr("count(*)", "count_if(quantity = " + MERGED + ")").head();
    require(
        "after " + after + " the table has %,d rows, and must have %,d",
        counts.getLong(0),
        expected);
    require(
        "after " + after + " the table has %,d rows of the merge, and must have %,d",
        counts.getLong(1),
        expectedMerged);
  }

  private void require(String message, long actual, long expected) {
    if (actual != expected) {
      throw new IllegalStateException(
          "WRONG at %,d rows: ".formatted(rows) + message.formatted(actual, expected));
    }
  }
}
