import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/** Started by {@code bench/sample-data}, which says what it measures. */
public final class SampleDataBench {
  private static final long ROWS = 10_000_000;

  private SampleDataBench() {}

  public static void main(String[] args) {
    int runs = Integer.parseInt(args[0]);
    SparkSession spark = SparkSessions.open("sample-data");
    try (Sandbox sandbox = new Sandbox(spark, "sample_data", false)) {
      Dataset<Row> items = SampleData.of(spark).rows(ROWS).orderItems();
      Dataset<Row> trivial =
          spark
              .range(ROWS)
              .selectExpr(
                  "id AS order_item_id",
                  "id AS order_id",
                  "id AS product_id",
                  "cast(id AS INT) AS quantity",
                  "cast(id AS DECIMAL(12,2)) AS unit_price");
      List<Double> rates = new ArrayList<>();
      List<Double> trivialRates = new ArrayList<>();
      for (int run = 0; run <= runs; run++) {
        double trivialRate = rate(trivial, ROWS, sandbox);
        double rate = rate(items, ROWS, sandbox);
        // The first pair is for the compilers.
        if (run > 0) {
          trivialRates.add(trivialRate);
          rates.add(rate);
          print(
              "run %d: order_items %,.0f rows/s, trivial columns %,.0f rows/s%n",
              run, rate, trivialRate);
        }
      }
      print(
          "median: order_items %,.0f rows/s, trivial columns %,.0f rows/s, ratio %.2f (bar 0.70)%n",
          median(rates), median(trivialRates), median(rates) / median(trivialRates));
      for (long rows : new long[] {1_000_000, 50_000_000}) {
        double rate = rate(SampleData.of(spark).rows(rows).orderItems(), rows, sandbox);
        print(
            "%,d rows in a heap of %,d MB: %,.0f rows/s%n",
            rows, Runtime.getRuntime().maxMemory() >> 20, rate);
      }
    } finally {
      SparkSessions.close(spark);
    }
  }

  private static double rate(Dataset<Row> table, long rows, Sandbox sandbox) {
    long start = System.nanoTime();
    table.write().mode("overwrite").parquet(sandbox.path("table"));
    return rows * 1e9 / (System.nanoTime() - start);
  }

  private static double median(List<Double> values) {
    Collections.sort(values);
    return values.get(values.size() / 2);
  }

  private static void print(String format, Object... values) {
    System.out.printf(Locale.ROOT, format, values);
  }
}
