package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.JoinRows;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;

/**
 * Star joins: a filter on the small table becomes one on the folders of the large table as the
 * query runs, and a bloom filter keeps rows without a partner out of the shuffle.
 *
 * <p>Run: {@code ./run DynamicPartitionPruning}, or Run in the IDE; no JVM flags, no setup. 67,000
 * orders in 12 folders and 200,000 order items; {@code --scale} for more.
 *
 * <p>See: a join with the table of months that reads one folder of twelve; 13 forms of it, of which
 * some read all; the rows that reach a join of two large tables with and without a bloom filter.
 *
 * <p>On Databricks: the same code; there a join skips files by statistics too (dynamic file
 * pruning), which Delta does not do here.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-performance-tuning.html">Spark:
 *     performance tuning</a>
 */
public final class DynamicPartitionPruning {
  private static final String BLOOM_FROM =
      "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold";

  private DynamicPartitionPruning() {}

  /**
   * The orders of the months that have {@code name}.
   *
   * <p>Spark broadcasts the months that are left, and takes the folders to read from what it
   * broadcasts. That needs a filter on the months that looks selective ({@code =, <, IN, LIKE}; not
   * {@code IS NOT NULL} and not a UDF), a join by {@code =} on the folders' column or an expression
   * of it, and a broadcast.
   *
   * @return {@code order_id BIGINT, amount DECIMAL(12,2)} of the tables or views {@code sales},
   *     with folders by {@code order_month INT}, and {@code months (month INT, name STRING)}
   */
  public static Dataset<Row> salesOf(SparkSession spark, String name) {
    return spark.sql(
        """
        SELECT s.order_id, s.amount
        FROM sales AS s
        JOIN months AS m ON s.order_month = m.month
        WHERE m.name = :name
        """,
        Map.of("name", name));
  }

  /**
   * The same for a name that one month has: the subquery runs first, and its value is a filter on
   * the folders, with or without a broadcast.
   *
   * @throws org.apache.spark.SparkRuntimeException SCALAR_SUBQUERY_TOO_MANY_ROWS if several months
   *     have the name
   */
  public static Dataset<Row> salesOfOneMonth(SparkSession spark, String name) {
    return spark.sql(
        """
        SELECT order_id, amount
        FROM sales
        WHERE order_month = (SELECT month FROM months WHERE name = :name)
        """,
        Map.of("name", name));
  }

  /**
   * The rows of {@code facts} whose {@code key} is among {@code keys}, in two queries: with the
   * values as constants Delta can skip files too, which it cannot for a join.
   *
   * @param keys one column, of few values, which the driver takes; its name does not matter
   */
  public static Dataset<Row> keysFirst(Dataset<Row> facts, String key, Dataset<Row> keys) {
    Object[] values = keys.distinct().collectAsList().stream().map(row -> row.get(0)).toArray();
    return facts.where(col(key).isin(values));
  }

  /**
   * The items of a customer's orders, from the tables or views {@code order_items} and {@code
   * orders}: a join of two large tables by a key that neither has folders of.
   *
   * @return {@code order_item_id BIGINT, status STRING}
   */
  public static Dataset<Row> itemsOf(SparkSession spark, long customer) {
    return spark.sql(
        """
        SELECT i.order_item_id, o.status
        FROM order_items AS i
        JOIN orders AS o ON i.order_id = o.order_id
        WHERE o.customer_id = :customer
        """,
        Map.of("customer", customer));
  }

  /**
   * Lets Spark put a bloom filter before the shuffle of a table of {@code bytes} or more, 10 GB by
   * default. It holds the keys that the filter on the other side leaves: rows with another key do
   * not reach the join, but for a few by mistake, which the join drops.
   */
  public static void bloomFiltersFrom(long bytes, SparkSession spark) {
    spark.conf().set(BLOOM_FROM, bytes + "b");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DynamicPartitionPruning.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 200_000, 100, 0);
          Dataset<Row> orders = data.orders().withColumn("order_month", expr("month(order_date)"));
          orders
              .repartition(col("order_month"))
              .write()
              .format("delta")
              .partitionBy("order_month")
              .saveAsTable("sales");
          orders
              .repartitionByRange(12, col("order_date"))
              .write()
              .format("delta")
              .saveAsTable("sorted_sales");
          spark
              .range(1, 13, 1, 1)
              .selectExpr(
                  "CAST(id AS INT) AS month",
                  "date_format(make_date(2025, CAST(id AS INT), 1), 'MMMM') AS name")
              .write()
              .format("delta")
              .saveAsTable("months");

          notebook.step("A filter on the months reads one folder of the orders");
          notebook.table("months", spark.table("months").limit(3));
          String pruning = "spark.sql.optimizer.dynamicPartitionPruning.enabled";
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Chart read = new Chart("bytes that the join reads", "bytes");
          for (boolean on : List.of(false, true)) {
            spark.conf().set(pruning, on);
            String name = on ? "pruned" : "pruning off";
            profiles.put(name, QueryProfile.of(salesOf(spark, "March")));
            read.bar(name, profiles.get(name).bytesRead());
          }
          long rows =
              Measured.sameRows(
                  Map.of(
                      "join", salesOf(spark, "March"),
                      "constant",
                          spark
                              .table("sales")
                              .where("order_month = 3")
                              .select("order_id", "amount")));
          notebook.profiles("the %,d orders of March".formatted(rows), profiles);
          notebook.chart(read);
          notebook.text(
              "The query does not say which folder: that is in the other table. What Spark"
                  + " broadcasts for the join is used a second time (an exchange that is reused) to"
                  + " choose among the folders. One file more is the table of months.");

          notebook.step("What disables it");
          spark
              .udf()
              .register(
                  "is_march",
                  (UDF1<String, Boolean>) name -> name.equals("March"),
                  DataTypes.BooleanType);
          spark.sql("SELECT month, name FROM months").createOrReplaceTempView("m");
          List<Row> forms = new ArrayList<>();
          Map<String, String> queries = new LinkedHashMap<>();
          String select = "SELECT s.order_id FROM sales s ";
          String join = select + "JOIN m ON order_month = month ";
          String march = "WHERE name = 'March'";
          queries.put("name = 'March'", join + march);
          queries.put(
              "an expression of the folders' column",
              select + "JOIN m ON CAST(order_month AS STRING) = CAST(month AS STRING) " + march);
          queries.put(
              "LEFT SEMI JOIN",
              select + "LEFT SEMI JOIN m ON order_month = month AND name = 'March'");
          queries.put(
              "IN (SELECT …)",
              select + "WHERE order_month IN (SELECT month FROM m WHERE name = 'March')");
          queries.put(
              "= (SELECT …)",
              select + "WHERE order_month = (SELECT month FROM m WHERE name = 'March')");
          queries.put("no filter", join);
          queries.put("name IS NOT NULL", join + "WHERE name IS NOT NULL");
          queries.put("a UDF as filter", join + "WHERE is_march(name)");
          queries.put(
              "an expression of another column",
              select + "JOIN m ON month(order_date) = month " + march);
          queries.put("<=>", select + "JOIN m ON order_month <=> month " + march);
          queries.put(
              "LEFT JOIN", select + "LEFT JOIN m ON order_month = month AND name = 'March'");
          queries.put(
              "sort-merge join",
              "SELECT /*+ MERGE(m) */ order_id FROM sales JOIN m ON order_month = month " + march);
          queries.put(
              "months as VALUES",
              select
                  + "JOIN VALUES (2, 'February'), (3, 'March') AS v (month, name)"
                  + " ON order_month = month "
                  + march);
          queries.forEach(
              (form, sql) -> {
                QueryProfile profile = QueryProfile.of(spark.sql(sql));
                forms.add(
                    RowFactory.create(
                        form,
                        12 - profile.filesPruned(),
                        profile.joins().isEmpty() ? "none" : profile.joins().get(0)));
              });
          notebook.table(
              "folders of sales that are read, of 12",
              spark.createDataFrame(
                  forms, StructType.fromDDL("form STRING, folders BIGINT, strategy STRING")));

          notebook.step("A table without folders");
          Dataset<Row> sales = spark.table("sorted_sales");
          Dataset<Row> keys = spark.table("months").where("name = 'March'").select("month");
          Dataset<Row> joined =
              sales.join(keys, col("order_month").equalTo(col("month")), "left_semi");
          Dataset<Row> keysFirst = keysFirst(sales, "order_month", keys);
          Measured.sameRows(Map.of("join", joined, "keys first", keysFirst));
          Map<String, QueryProfile> sorted = new LinkedHashMap<>();
          sorted.put("a join", QueryProfile.of(joined));
          sorted.put("keys first", QueryProfile.of(keysFirst));
          notebook.profiles("the orders of March, of 12 files in order of time", sorted);
          notebook.text(
              "The statistics of the files could tell, but a join does not ask them. Two queries"
                  + " do: the first fetches the keys, the second has them as constants.");

          notebook.step("A bloom filter before the shuffle");
          data.orders().coalesce(2).write().format("delta").saveAsTable("orders");
          data.orderItems().coalesce(2).write().format("delta").saveAsTable("order_items");
          // As if both were too large to broadcast.
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");
          long customer = data.customerCount() / 2;
          Map<String, QueryProfile> bloom = new LinkedHashMap<>();
          Chart reach = new Chart("order items that reach the join", "rows");
          for (String name : List.of("from 10 GB", "from 1 byte")) {
            bloomFiltersFrom(name.equals("from 1 byte") ? 1 : 10_737_418_240L, spark);
            bloom.put(name, QueryProfile.of(itemsOf(spark, customer)));
            reach.bar(name, JoinRows.of(bloom.get(name)).get(0).left());
          }
          notebook.profiles("the items of one customer's orders", bloom);
          notebook.chart(reach);
          notebook.text(
              "The orders of the customer are read twice: once for the filter, once for the join."
                  + " Spark does so for a table of 10 GB and more, if the other side has a filter"
                  + " and takes less than 10 MB (creationSideThreshold).");

          notebook.step("When not to");
          notebook.text(
              "Both are on by default and cost little. Do not partition a table for the sake of"
                  + " joins alone, and lower the 10 GB only where profiles show a shuffle of rows"
                  + " that find no partner: the filter's side is read once more.");
        });
  }
}
