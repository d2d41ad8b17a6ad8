package com.example.lakehouse.optimization;

import static java.util.stream.Collectors.joining;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.function.Consumer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.plans.logical.Statistics;
import org.apache.spark.sql.types.StructType;
import scala.math.BigInt;

/**
 * Table statistics: what {@code ANALYZE} counts, how Spark orders joins and picks broadcasts by it,
 * and why Delta tables are left out.
 *
 * <p>Run: {@code ./run TableStatistics}, or Run in the IDE; no JVM flags, no setup; 400,000 order
 * items, {@code --scale} for more.
 *
 * <p>See: estimated rows against real ones; the rows that go through three joins as written and as
 * Spark orders them; a histogram of a skewed column; statistics of Delta tables that grow stale.
 *
 * <p>On Databricks: {@code ANALYZE TABLE} works on Delta tables too, and predictive optimization
 * runs it by itself; the cost-based optimizer is on.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-ref-syntax-aux-analyze-table.html">Spark
 *     SQL: ANALYZE TABLE</a>
 */
public final class TableStatistics {

  private TableStatistics() {}

  /**
   * Counts the rows and bytes of a table of the catalog: one pass over it.
   *
   * @param table a table in Parquet or another format of Spark's own
   * @throws org.apache.spark.sql.AnalysisException {@code NOT_SUPPORTED_COMMAND_FOR_V2_TABLE} if it
   *     is a Delta table
   */
  public static void analyze(SparkSession spark, String table) {
    spark.sql("ANALYZE TABLE IDENTIFIER(:table) COMPUTE STATISTICS", Map.of("table", table));
  }

  /**
   * Counts the rows too, and of each column the distinct values and NULLs, and finds the smallest
   * and the largest value. Name the columns of filters and joins: the distinct values take an
   * aggregation over the whole table.
   *
   * @param table as for {@link #analyze}, or a temporary view that {@code CACHE TABLE} keeps
   */
  public static void analyzeColumns(SparkSession spark, String table, String... columns) {
    String names = Arrays.stream(columns).map(TableStatistics::quoted).collect(joining(", "));
    spark.sql(
        "ANALYZE TABLE IDENTIFIER(:table) COMPUTE STATISTICS FOR COLUMNS " + names,
        Map.of("table", table));
  }

  /**
   * What is known of a column.
   *
   * @return {@code info_name STRING, info_value STRING}: {@code min, max, num_nulls,
   *     distinct_count, histogram} and others, the text {@code NULL} where nothing is known
   */
  public static Dataset<Row> columnStatistics(SparkSession spark, String table, String column) {
    return spark.sql(
        "DESCRIBE EXTENDED IDENTIFIER(:table) " + quoted(column), Map.of("table", table));
  }

  /** A column's name takes no parameter. */
  private static String quoted(String column) {
    return "`" + column.replace("`", "``") + "`";
  }

  /** Lets Spark use the statistics, and order inner joins of three tables or more by them. */
  public static void optimizeByCost(SparkSession spark) {
    spark.conf().set("spark.sql.cbo.enabled", "true");
    spark.conf().set("spark.sql.cbo.joinReorder.enabled", "true");
  }

  /**
   * Lets {@link #analyzeColumns} make a histogram of 254 bins for each number, date and timestamp:
   * a second pass, for columns whose values are not spread evenly.
   */
  public static void withHistograms(SparkSession spark) {
    spark.conf().set("spark.sql.statistics.histogram.enabled", "true");
  }

  /**
   * The rows that Spark expects of {@code query}; empty if it does not know. Beyond a {@code long},
   * which products of large tables are, it is the largest one.
   */
  public static OptionalLong estimatedRows(Dataset<?> query) {
    Statistics statistics = query.queryExecution().optimizedPlan().stats();
    return statistics.rowCount().isDefined()
        ? OptionalLong.of(atMostLong(statistics.rowCount().get()))
        : OptionalLong.empty();
  }

  /**
   * The bytes that Spark expects of {@code query}, which it compares with the broadcast threshold;
   * as {@link #estimatedRows} beyond a {@code long}.
   */
  public static long estimatedBytes(Dataset<?> query) {
    return atMostLong(query.queryExecution().optimizedPlan().stats().sizeInBytes());
  }

  private static long atMostLong(BigInt number) {
    return number.bigInteger().min(BigInteger.valueOf(Long.MAX_VALUE)).longValueExact();
  }

  /**
   * What German customers sent back, by category: {@code category STRING, pieces BIGINT}. The
   * tables stand in an order that is easy to write: the largest first, the filters last.
   */
  public static Dataset<Row> returnsByCategory(SparkSession spark) {
    return spark.sql(
        """
        SELECT p.category, sum(i.quantity) AS pieces
        FROM items AS i
        JOIN products AS p ON p.product_id = i.product_id
        JOIN orders AS o ON o.order_id = i.order_id
        JOIN customers AS c ON c.customer_id = o.customer_id
        WHERE o.status = 'returned' AND c.country = 'DE'
        GROUP BY p.category
        """);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TableStatistics.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 400_000, 120, 8);
          data.orderItems().write().saveAsTable("items");
          data.products().write().saveAsTable("products");
          data.orders().write().saveAsTable("orders");
          data.customers().write().saveAsTable("customers");
          // As on a large scale, where no table is small enough to be broadcast.
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");

          notebook.step("As written: the largest table first");
          notebook.text(
              "Four Parquet tables: %,d order items, %,d orders, %,d customers, %,d products. All"
                  + " that Spark knows of a table is the size of its files, and of a filter"
                  + " nothing: it joins in the order in which the query is written.",
              data.orderItemCount(), data.orderCount(), data.customerCount(), data.productCount());
          Map<String, Dataset<Row>> results = new LinkedHashMap<>();
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Chart through = new Chart("rows that come out of each join, in order", "rows");
          Consumer<String> run =
              name -> {
                Dataset<Row> query = returnsByCategory(spark);
                results.put(name, spark.createDataFrame(query.collectAsList(), query.schema()));
                List<Row> joins =
                    ReadingPlans.operators(spark, ReadingPlans.finalPlan(query))
                        .where("operator LIKE '%Join %'")
                        .collectAsList();
                for (int i = 0; i < joins.size(); i++) {
                  through.bar(name, "join " + (i + 1), joins.get(i).<Long>getAs("rows_out"));
                }
                profiles.put(name, QueryProfile.of(query));
              };
          run.accept("as written");
          String[] conditions = {
            "true",
            "customer_id < 100",
            "country = 'DE'",
            "country IN ('DE', 'FR') AND segment = 'business'",
            "signup_date >= DATE'2024-01-01'",
            "upper(country) = 'DE'",
            "country = 'XX'"
          };
          List<String> without = estimates(spark, conditions);

          notebook.step("ANALYZE TABLE: rows, and what is in the columns");
          optimizeByCost(spark);
          analyze(spark, "customers");
          List<String> rowsOnly = estimates(spark, conditions);
          analyzeColumns(spark, "customers", "customer_id", "country", "segment", "signup_date");
          analyzeColumns(spark, "orders", "order_id", "customer_id", "status");
          analyzeColumns(spark, "items", "order_id", "product_id");
          analyzeColumns(spark, "products", "product_id");
          notebook.table("the column country", columnStatistics(spark, "customers", "country"));
          List<String> withColumns = estimates(spark, conditions);
          List<Row> estimates = new ArrayList<>();
          for (int i = 0; i < conditions.length; i++) {
            estimates.add(
                RowFactory.create(
                    conditions[i],
                    without.get(i),
                    rowsOnly.get(i),
                    withColumns.get(i),
                    spark.table("customers").where(conditions[i]).count()));
          }
          notebook.table(
              "customers: rows that Spark expects, and rows that there are",
              spark.createDataFrame(
                  estimates,
                  StructType.fromDDL(
                      "condition STRING, no_statistics STRING, rows_only STRING,"
                          + " with_columns STRING, real BIGINT")));
          notebook.text(
              "Spark takes the values for evenly spread, and two conditions for independent. Of a"
                  + " function of a column it knows nothing, and of a value that is not there it"
                  + " expects as many rows as of any other.");

          notebook.step("The same query, ordered by cost");
          run.accept("by cost");
          notebook.text("The same %d rows come out.", Measured.sameRows(results));
          notebook.chart(through);
          notebook.profiles("as written, and by cost", profiles);
          notebook.text("With the filtered tables first, most rows never reach the later joins.");

          notebook.step("Broadcasts chosen by statistics");
          List<Row> sizes = new ArrayList<>();
          for (boolean cost : new boolean[] {false, true}) {
            spark.conf().set("spark.sql.cbo.enabled", cost);
            sizes.add(
                RowFactory.create(
                    cost ? "with statistics" : "size of the files",
                    estimatedBytes(spark.table("customers")),
                    estimatedBytes(spark.table("customers").where("customer_id < 100"))));
          }
          notebook.table(
              "bytes that Spark compares with spark.sql.autoBroadcastJoinThreshold",
              spark.createDataFrame(
                  sizes,
                  StructType.fromDDL(
                      "estimate STRING, all_customers BIGINT, a_hundred_customers BIGINT")));
          notebook.text(
              "It goes both ways: files are compressed, so that a whole table is larger than Spark"
                  + " took it for, and may not be broadcast any more; a filtered one is smaller,"
                  + " and may be.");

          notebook.step("A skewed column: histograms");
          String few = "customer_id < " + data.customerCount() / 100;
          Chart skew = new Chart("orders of the first hundredth of the customers", "orders");
          skew.bar("expected", estimatedRows(spark.table("orders").where(few)).orElseThrow());
          withHistograms(spark);
          analyzeColumns(spark, "orders", "customer_id");
          skew.bar(
              "with a histogram", estimatedRows(spark.table("orders").where(few)).orElseThrow());
          skew.bar("real", spark.table("orders").where(few).count());
          notebook.chart(skew);

          notebook.step("Delta tables");
          data.customers().limit(100).write().format("delta").saveAsTable("delta_customers");
          notebook.refused(
              "ANALYZE TABLE delta_customers",
              "NOT_SUPPORTED_COMMAND_FOR_V2_TABLE",
              () -> analyze(spark, "delta_customers"));
          List<Row> stale = new ArrayList<>();
          stale.add(deltaSize(spark, "written"));
          spark.sql("ANALYZE TABLES IN " + notebook.sandbox().schema() + " COMPUTE STATISTICS");
          stale.add(deltaSize(spark, "ANALYZE TABLES"));
          data.customers().write().format("delta").mode("append").saveAsTable("delta_customers");
          stale.add(deltaSize(spark, "all customers appended"));
          notebook.table(
              "a way around it, and what comes of it",
              spark.createDataFrame(
                  stale,
                  StructType.fromDDL(
                      "after STRING, expected_rows STRING, expected_bytes BIGINT, real_rows"
                          + " BIGINT")));
          notebook.text(
              "ANALYZE TABLES, of a whole schema, does not refuse Delta tables: it puts rows and"
                  + " bytes into the catalog, which Delta never updates. From then on Spark"
                  + " believes them in place of the size in Delta's log, and may broadcast a table"
                  + " that has grown a hundredfold. Do not run it on schemas with Delta tables."
                  + " What works: the size of the files from the log, adaptive execution, which"
                  + " measures, and a cached view, which can be analyzed.");
          spark.table("delta_customers").createOrReplaceTempView("cached_customers");
          spark.sql("CACHE TABLE cached_customers");
          analyzeColumns(spark, "cached_customers", "country");
          notebook.text(
              "In a cached view of the table, %s of %,d rows are expected to be German; %,d are.",
              estimatedRows(spark.table("cached_customers").where("country = 'DE'")).getAsLong(),
              spark.table("cached_customers").count(),
              spark.table("cached_customers").where("country = 'DE'").count());
          spark.sql("UNCACHE TABLE cached_customers");

          notebook.step("When not to");
          notebook.text(
              "An INSERT throws a Parquet table's statistics away, columns included: analyze after"
                  + " loads, or not at all. Files that another program adds leave them as they are,"
                  + " and wrong. With one join there is no order to choose, and adaptive execution"
                  + " finds small sides by itself. Correlated conditions and skew mislead the"
                  + " estimates: compare them with real rows before you trust the order.");
        });
  }

  private static List<String> estimates(SparkSession spark, String... conditions) {
    return Arrays.stream(conditions)
        .map(condition -> known(estimatedRows(spark.table("customers").where(condition))))
        .toList();
  }

  private static String known(OptionalLong rows) {
    return rows.isPresent() ? String.valueOf(rows.getAsLong()) : "unknown";
  }

  private static Row deltaSize(SparkSession spark, String after) {
    Dataset<Row> table = spark.table("delta_customers");
    return RowFactory.create(
        after, known(estimatedRows(table)), estimatedBytes(table), table.count());
  }
}
