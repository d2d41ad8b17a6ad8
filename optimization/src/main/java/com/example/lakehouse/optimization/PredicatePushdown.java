package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import java.math.BigDecimal;
import java.time.YearMonth;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.execution.FileSourceScanExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;

/**
 * Predicate push-down: which filters and columns reach the Parquet files, what stops them, and when
 * one that arrives saves nothing.
 *
 * <p>Run: {@code ./run PredicatePushdown}, or Run in the IDE; no JVM flags, no setup; 200,000
 * orders of 600,000 items, {@code --scale} for more.
 *
 * <p>See: rows read for the same orders by conditions that say the same; row groups, pages and
 * files that are left out; fields of structs that are not read.
 *
 * <p>On Databricks: the same code on classic compute; Photon does the same and shows it in the
 * query profile.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-data-sources-parquet.html">Spark SQL:
 *     Parquet files</a>
 */
public final class PredicatePushdown {

  private PredicatePushdown() {}

  /**
   * Sets the size of row groups for files that this session writes. A row group is what Parquet
   * keeps the smallest and largest value of, for each column: with more of them a reader can leave
   * out more. As an option of a write, {@code parquet.block.size} does the same for Parquet, and
   * nothing for Delta.
   *
   * @param bytes 128 MB by default, in memory, before compression
   */
  public static void rowGroupsOf(SparkSession spark, long bytes) {
    spark.conf().set("parquet.block.size", bytes);
  }

  /**
   * Lets this session write timestamps with which Parquet can leave out row groups. By default
   * Spark writes INT96, an old type of which no smallest and largest value is kept.
   */
  public static void timestampsWithStatistics(SparkSession spark) {
    spark.conf().set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS");
  }

  /**
   * Orders of more than {@code amount}.
   *
   * @param amount not a double: for {@code gt(1000.5)} Spark makes a double of each amount, and the
   *     file is asked for none
   */
  public static Dataset<Row> dearerThan(Dataset<Row> orders, BigDecimal amount) {
    return orders.where(col("amount").gt(amount));
  }

  /** Orders of a month, by a range of the column itself: {@code month(order_date)} asks for all. */
  public static Dataset<Row> ofMonth(Dataset<Row> orders, YearMonth month) {
    return orders.where(
        col("order_date")
            .geq(month.atDay(1))
            .and(col("order_date").lt(month.plusMonths(1).atDay(1))));
  }

  /**
   * The filters that the files are asked for, as the plan says it.
   *
   * @param query of one table or of files
   * @return such as {@code [IsNotNull(order_id), EqualTo(order_id,7)]}
   * @throws IllegalArgumentException if it reads no files
   */
  public static String pushedFilters(Dataset<?> query) {
    return scan(query.queryExecution().executedPlan()).metadata().apply("PushedFilters");
  }

  /**
   * The columns, and the fields of structs, that are read.
   *
   * @return such as {@code struct<order_id:bigint>}
   */
  public static String readSchema(Dataset<?> query) {
    return scan(query.queryExecution().executedPlan()).metadata().apply("ReadSchema");
  }

  private static FileSourceScanExec scan(SparkPlan plan) {
    if (plan instanceof FileSourceScanExec scan) {
      return scan;
    } else if (plan instanceof AdaptiveSparkPlanExec adaptive) {
      return scan(adaptive.executedPlan());
    } else if (plan instanceof QueryStageExec stage) {
      return scan(stage.plan());
    }
    return asJava(plan.children()).stream()
        .findFirst()
        .map(PredicatePushdown::scan)
        .orElseThrow(() -> new IllegalArgumentException("no scan of files: " + plan.nodeName()));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        PredicatePushdown.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 600_000, 120, 8);
          Dataset<Row> byId =
              data.orders().repartitionByRange(1, col("order_id")).sortWithinPartitions("order_id");
          rowGroupsOf(spark, 512 << 10);
          byId.write().parquet(notebook.sandbox().path("orders"));
          Dataset<Row> orders = spark.read().parquet(notebook.sandbox().path("orders"));
          spark.udf().register("as_is", (UDF1<Long, Long>) id -> id, DataTypes.LongType);
          long id = data.orderCount() / 2;

          notebook.step("One order, asked for in several ways");
          notebook.text(
              "%,d orders in one Parquet file, by number, in row groups of 512 kB. For each row"
                  + " group and column the file's footer has the smallest and the largest value: a"
                  + " reader that knows the filter leaves out those that cannot have a match.",
              data.orderCount());
          String pushed = "order_id = %d".formatted(id);
          String hidden = "as_is(order_id) = %d".formatted(id);
          List<String> conditions =
              List.of(
                  pushed,
                  "order_id = '%d'".formatted(id),
                  pushed + " AND " + hidden,
                  pushed + " OR " + hidden,
                  hidden,
                  "CAST(order_id AS STRING) = '%d'".formatted(id),
                  "order_id = %dD".formatted(id),
                  "order_id - 1 = %d".formatted(id - 1));
          List<Row> asked = new ArrayList<>();
          Chart rows = new Chart("rows read, to find one order", "rows");
          Map<String, Dataset<Row>> same = new LinkedHashMap<>();
          for (String condition : conditions) {
            Dataset<Row> query = orders.where(condition);
            same.put(condition, query);
            QueryProfile profile = QueryProfile.of(query);
            rows.bar(condition, profile.rowsRead());
            asked.add(RowFactory.create(condition, pushedFilters(query), profile.rowsRead()));
          }
          notebook.table(
              "as_is(x) is a Java function that returns x",
              spark.createDataFrame(
                  asked, StructType.fromDDL("condition STRING, pushed STRING, rows_read BIGINT")));
          notebook.text("The same %d row comes out of all.", Measured.sameRows(same));
          notebook.chart(rows);
          notebook.text(
              "What is pushed down is a column compared with a constant. Spark turns the constant"
                  + " into the column's type where it can, as with '7'. What it cannot take apart,"
                  + " it applies to every row: a function of yours, a cast of the column,"
                  + " arithmetic. A double (7D) makes a double of a BIGINT or a DECIMAL. An AND"
                  + " keeps the part that can be pushed, an OR nothing unless both parts can.");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put(pushed, QueryProfile.of(same.get(pushed)));
          profiles.put(hidden, QueryProfile.of(same.get(hidden)));
          notebook.profiles("with and without", profiles);

          notebook.step("From Java: BigDecimal, and ranges of dates");
          Function<Map<String, Dataset<Row>>, Dataset<Row>> asRead =
              queries -> {
                List<Row> found = new ArrayList<>();
                queries.forEach(
                    (name, query) -> {
                      QueryProfile profile = QueryProfile.of(query);
                      found.add(
                          RowFactory.create(
                              name,
                              pushedFilters(query),
                              profile.rowsRead(),
                              profile.rowsOut().orElseThrow()));
                    });
                return spark.createDataFrame(
                    found,
                    StructType.fromDDL(
                        "condition STRING, pushed STRING, rows_read BIGINT, rows_out BIGINT"));
              };
          byId.orderBy("amount").coalesce(1).write().parquet(notebook.sandbox().path("by_amount"));
          Dataset<Row> byAmount = spark.read().parquet(notebook.sandbox().path("by_amount"));
          BigDecimal amount = new BigDecimal("1000.50");
          YearMonth june = YearMonth.of(2025, 6);
          Map<String, Dataset<Row>> java = new LinkedHashMap<>();
          java.put("col(\"amount\").gt(BigDecimal)", dearerThan(byAmount, amount));
          java.put("col(\"amount\").gt(double)", byAmount.where(col("amount").gt(1000.5)));
          java.put("a range of order_date", ofMonth(orders, june));
          java.put(
              "year(order_date), month(order_date)",
              orders.where("year(order_date) = 2025 AND month(order_date) = 6"));
          notebook.table("two pairs that find the same rows", asRead.apply(java));

          notebook.step("Pushed down, and of no use");
          Map<String, Dataset<Row>> useless = new LinkedHashMap<>();
          useless.put("order_date = '2025-06-01'", orders.where("order_date = '2025-06-01'"));
          useless.put("status = 'shipped'", orders.where("status = 'shipped'"));
          useless.put("status LIKE '%ped'", orders.where("status LIKE '%ped'"));
          String day = "CAST(order_time AS DATE) = '2025-06-01'";
          useless.put("order_time as INT96, one day", orders.where(day));
          timestampsWithStatistics(spark);
          byId.write().parquet(notebook.sandbox().path("micros"));
          useless.put(
              "order_time as TIMESTAMP_MICROS",
              spark.read().parquet(notebook.sandbox().path("micros")).where(day));
          notebook.table("on the file by order number", asRead.apply(useless));
          notebook.text(
              "Each row group has orders of every status, so that none can be left out: the rows"
                  + " must be sorted or clustered by what queries filter on. The end of a text has"
                  + " no order. And a timestamp has none either, as Spark writes it by default:"
                  + " INT96. Spark 4.1 makes a range of times of the cast to a date, and pushes it;"
                  + " only TIMESTAMP_MICROS makes use of it. PushedFilters says what was asked, not"
                  + " what it saved: the rows read do.");

          notebook.step("Columns, and fields of structs");
          Dataset<Row> nested =
              byId.select(
                  expr("struct(customer_id AS id, struct(status, order_time) AS last)")
                      .as("customer"),
                  expr("array(struct(order_id, amount))").as("orders"));
          rowGroupsOf(spark, 128 << 20);
          nested.coalesce(1).write().parquet(notebook.sandbox().path("nested"));
          Dataset<Row> customers = spark.read().parquet(notebook.sandbox().path("nested"));
          List<Row> fields = new ArrayList<>();
          Chart bytes = new Chart("bytes read", "bytes");
          for (String expression :
              List.of(
                  "customer",
                  "customer.id",
                  "customer.last.status",
                  "to_json(customer)",
                  "orders.order_id",
                  "transform(orders, o -> o.order_id)")) {
            Dataset<Row> query = customers.selectExpr(expression);
            long read = QueryProfile.of(query).bytesRead();
            bytes.bar(expression, read);
            fields.add(RowFactory.create(expression, readSchema(query), read));
          }
          notebook.table(
              "what a query reads",
              spark.createDataFrame(
                  fields,
                  StructType.fromDDL("expression STRING, read_schema STRING, bytes_read BIGINT")));
          notebook.chart(bytes);
          notebook.text(
              "A path into a struct, or through an array of structs, reads that field alone. What"
                  + " takes the whole struct reads all of it: a function, a typed Dataset, and the"
                  + " lambda of transform, even one that looks at one field.");

          notebook.step("On Delta: whole files first");
          data.orders()
              .repartitionByRange(8, col("order_id"))
              .write()
              .format("delta")
              .saveAsTable("o");
          Dataset<Row> delta = spark.table("o");
          // The first query of a table reads its log, which is none of the filter's doing.
          delta.where("order_id < 0").count();
          Map<String, QueryProfile> files = new LinkedHashMap<>();
          for (String condition : List.of(pushed, pushed + "D", hidden)) {
            files.put(condition, QueryProfile.of(delta.where(condition)));
          }
          notebook.profiles("a Delta table of 8 files", files);
          notebook.text(
              "Delta's log has the smallest and largest value of each file: the same conditions"
                  + " leave out whole files before one is opened, and the same casts and functions"
                  + " stop it.");

          notebook.step("When not to");
          notebook.text(
              "Small row groups are not free: each has its own footer entries, dictionaries and"
                  + " reads, and compresses worse. Leave 128 MB for large tables, and sort instead:"
                  + " within a row group Parquet also leaves out pages of 20,000 rows. A filter"
                  + " that leaves nothing out reads a little more than none, because dictionaries"
                  + " and indexes are looked at first. For a table of a few thousand rows,"
                  + " none of this matters.");
        });
  }
}
