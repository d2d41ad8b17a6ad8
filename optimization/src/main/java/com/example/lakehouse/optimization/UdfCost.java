package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.lower;
import static org.apache.spark.sql.functions.month;
import static org.apache.spark.sql.functions.substring_index;
import static org.apache.spark.sql.functions.udf;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import com.sun.management.HotSpotDiagnosticMXBean;
import java.lang.management.ManagementFactory;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.apache.spark.api.java.function.FilterFunction;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.expressions.UserDefinedFunction;
import org.apache.spark.sql.types.DataTypes;

/**
 * What a Java method in a query costs: the same rule as expression, SQL function, Java UDF and
 * typed method, in rows per second, and what each hides from the optimizer.
 *
 * <p>Run: {@code ./run UdfCost}, or Run in the IDE; no JVM flags, no setup; 500,000 rows, {@code
 * --scale} for more.
 *
 * <p>See: rates that differ less between the four forms than between built-in functions that do the
 * same; a filter that reads 2 files of 12 as an expression or SQL function, and 12 as a method;
 * what a UDF does not hide.
 *
 * <p>On Databricks: the same code on classic compute; Photon runs expressions and SQL functions,
 * and hands rows over to the JVM for a UDF.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-functions-udf-scalar.html">Spark SQL:
 *     scalar user-defined functions</a>
 */
public final class UdfCost {
  private static final LocalDate SEASON = LocalDate.of(2025, 12, 1);

  private UdfCost() {}

  /** Ten points a piece, and five more from three pieces on; NULL of NULL. */
  public static Column points(Column quantity) {
    Column tens = quantity.multiply(10);
    return when(quantity.geq(3), tens.plus(5)).otherwise(tens);
  }

  /** A mail address's domain in lower case: {@code mail.example} of {@code ann@Mail.Example}. */
  public static Column domain(Column email) {
    return lower(substring_index(email, "@", -1));
  }

  /** Whether a day is in December 2025 or later. */
  public static Column inSeason(Column day) {
    return day.geq(lit(SEASON));
  }

  /**
   * The three rules as SQL functions of this session: {@code points(INT)}, {@code domain(STRING)},
   * {@code in_season(DATE)}. Spark puts their text in place of the call: to the optimizer they are
   * the expressions.
   */
  public static void createFunctions(SparkSession spark) {
    spark.sql(
        """
        CREATE OR REPLACE TEMPORARY FUNCTION points(quantity INT) RETURNS INT
        RETURN quantity * 10 + IF(quantity >= 3, 5, 0)
        """);
    spark.sql(
        """
        CREATE OR REPLACE TEMPORARY FUNCTION domain(email STRING) RETURNS STRING
        RETURN lower(substring_index(email, '@', -1))
        """);
    spark.sql(
        """
        CREATE OR REPLACE TEMPORARY FUNCTION in_season(day DATE) RETURNS BOOLEAN
        RETURN day >= DATE'2025-12-01'
        """);
  }

  /**
   * {@link #points} as a Java method. It is given NULL as null, and has to say what comes of it.
   */
  public static UserDefinedFunction pointsUdf() {
    UDF1<Integer, Integer> points = quantity -> pointsOf(quantity);
    return udf(points, DataTypes.IntegerType).withName("points_udf");
  }

  /** As the expression does, it fails where an INT has no room: Java's own * and + do not. */
  private static Integer pointsOf(Integer quantity) {
    if (quantity == null) {
      return null;
    }
    return Math.addExact(Math.multiplyExact(quantity, 10), quantity >= 3 ? 5 : 0);
  }

  /** {@link #domain} as a Java method. */
  public static UserDefinedFunction domainUdf() {
    UDF1<String, String> domain =
        email ->
            email == null
                ? null
                : email.substring(email.lastIndexOf('@') + 1).toLowerCase(Locale.ROOT);
    return udf(domain, DataTypes.StringType).withName("domain_udf");
  }

  /** {@link #inSeason} as a Java method: what it compares with, the optimizer cannot see. */
  public static UserDefinedFunction inSeasonUdf() {
    UDF1<LocalDate, Boolean> inSeason = day -> day == null ? null : !day.isBefore(SEASON);
    return udf(inSeason, DataTypes.BooleanType).withName("in_season_udf");
  }

  /**
   * {@link #points} as a typed map.
   *
   * @param items with {@code quantity INT}
   */
  public static Dataset<Integer> pointsTyped(Dataset<Row> items) {
    MapFunction<Integer, Integer> points = quantity -> pointsOf(quantity);
    return items.select("quantity").as(Encoders.INT()).map(points, Encoders.INT());
  }

  /**
   * {@link #domain} as a typed map.
   *
   * @param items with {@code email STRING}
   */
  public static Dataset<String> domainTyped(Dataset<Row> items) {
    MapFunction<String, String> domain =
        email ->
            email == null
                ? null
                : email.substring(email.lastIndexOf('@') + 1).toLowerCase(Locale.ROOT);
    return items.select("email").as(Encoders.STRING()).map(domain, Encoders.STRING());
  }

  /**
   * {@link #inSeason} as a typed filter. Which columns the method looks at, the optimizer cannot
   * see either: all are read and made into Java objects.
   *
   * @param orders with {@code order_date DATE} and any other columns
   */
  public static Dataset<Row> inSeasonTyped(Dataset<Row> orders) {
    FilterFunction<Row> inSeason =
        order -> {
          LocalDate day = order.getAs("order_date");
          return day != null && !day.isBefore(SEASON);
        };
    return orders.filter(inSeason);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        UdfCost.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          createFunctions(spark);
          SampleData data = Room.sampleData(notebook, 500_000, 60, 0);
          data.orderItems()
              .select(
                  col("quantity"),
                  expr("concat('Customer', order_id, '@Mail', product_id % 7, '.Example')")
                      .as("email"))
              .write()
              .format("delta")
              .saveAsTable("items");
          Dataset<Row> items = spark.table("items");

          notebook.step("The same rule four times: rows per second");
          Map<String, Dataset<Row>> numbers = new LinkedHashMap<>();
          numbers.put("expression", items.select(points(col("quantity")).as("v")));
          numbers.put("SQL function", items.select(expr("points(quantity)").as("v")));
          numbers.put("Java UDF", items.select(pointsUdf().apply(col("quantity")).as("v")));
          numbers.put("typed map", pointsTyped(items).toDF("v"));
          Map<String, Dataset<Row>> texts = new LinkedHashMap<>();
          texts.put("expression", items.select(domain(col("email")).as("v")));
          texts.put("SQL function", items.select(expr("domain(email)").as("v")));
          texts.put("Java UDF", items.select(domainUdf().apply(col("email")).as("v")));
          texts.put("typed map", domainTyped(items).toDF("v"));
          notebook.text(
              "%,d rows from each of the four, and the same, of the points and of the domains.",
              Math.min(Measured.sameRows(numbers), Measured.sameRows(texts)));
          numbers.put("no rule, reading alone", items.select("quantity"));
          texts.put("no rule, reading alone", items.select("email"));
          texts.put("another expression: split", items.selectExpr("lower(split(email, '@')[1])"));
          texts.put(
              "another expression: regexp_extract",
              items.selectExpr("lower(regexp_extract(email, '@(.*)$', 1))"));
          Map<String, Map<String, Dataset<Row>>> rules = new LinkedHashMap<>();
          rules.put("points: arithmetic", numbers);
          rules.put("domains: texts", texts);
          for (var rule : rules.entrySet()) {
            Map<String, List<Long>> times = new LinkedHashMap<>();
            // In turn, so that what disturbs one round disturbs all; the first compiles.
            for (int round = 0; round < 4; round++) {
              for (var form : rule.getValue().entrySet()) {
                long nanos = QueryProfile.of(form.getValue()).wallTime().toNanos();
                if (round > 0) {
                  times.computeIfAbsent(form.getKey(), k -> new ArrayList<>()).add(nanos);
                }
              }
            }
            Chart rates = new Chart(rule.getKey() + ", median of three", "million rows per second");
            times.forEach(
                (form, nanos) -> {
                  Collections.sort(nanos);
                  rates.bar(form, data.orderItemCount() * 1e3 / nanos.get(1));
                });
            notebook.chart(rates);
          }
          boolean c1 =
              ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class)
                  .getVMOption("TieredStopAtLevel")
                  .getValue()
                  .equals("1");
          notebook.text(
              "Each reads its column from a Delta table and drops the result; a part of each is the"
                  + " query's start, and small differences are noise: run it again. Spark compiles"
                  + " the call of a Java method into the same loop as an expression. For texts it"
                  + " makes a String of each, and still regexp_extract is the slow one. This JVM"
                  + " compiles with %s.",
              c1
                  ? "C1 alone, as ./run starts it; JAVA_OPTS=-XX:TieredStopAtLevel=4 for C2 too"
                  : "C1 and C2");

          notebook.step("What it really costs: the filter that the optimizer cannot see");
          data.orders()
              .withColumn("month", month(col("order_date")))
              .repartitionByRange(12, col("order_date"))
              .write()
              .format("delta")
              .saveAsTable("orders");
          Dataset<Row> orders = spark.table("orders");
          Map<String, Dataset<Row>> filters = new LinkedHashMap<>();
          filters.put("expression", orders.where(inSeason(col("order_date"))).select("amount"));
          filters.put("SQL function", orders.where("in_season(order_date)").select("amount"));
          filters.put(
              "Java UDF", orders.where(inSeasonUdf().apply(col("order_date"))).select("amount"));
          filters.put("typed filter", inSeasonTyped(orders).select("amount"));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          // The first round compiles.
          for (int round = 0; round < 2; round++) {
            filters.forEach((form, query) -> profiles.put(form, QueryProfile.of(query)));
          }
          Chart bytes = new Chart("read for the amounts of December", "bytes");
          profiles.forEach((form, profile) -> bytes.bar(form, profile.bytesRead()));
          notebook.profiles(
              "%,d orders of December, the same from all four"
                  .formatted(Measured.sameRows(filters)),
              profiles);
          notebook.chart(bytes);
          notebook.text(
              "From an expression Delta knows which files have December, and Parquet which of their"
                  + " pages. A UDF has to see every row. A typed filter has to see every row with"
                  + " every column.");

          notebook.step("NULL");
          UDF1<Integer, Integer> careless = quantity -> quantity * 10;
          Dataset<Row> none = spark.sql("SELECT CAST(NULL AS INT) AS quantity");
          notebook.table(
              "of NULL",
              none.select(
                  points(col("quantity")).as("expression"),
                  expr("points(quantity)").as("sql_function"),
                  pointsUdf().apply(col("quantity")).as("java_udf")));
          notebook.refused(
              "A UDF that does not expect it",
              "FAILED_EXECUTE_UDF",
              () ->
                  none.select(udf(careless, DataTypes.IntegerType).apply(col("quantity")))
                      .collectAsList());

          notebook.step("What a Java UDF does not hide");
          orders.write().format("delta").partitionBy("month").saveAsTable("by_month");
          UDF1<Integer, Boolean> isDecember = month -> month != null && month == 12;
          Dataset<Row> byMonth = spark.table("by_month");
          Map<String, Dataset<Row>> onMonth = new LinkedHashMap<>();
          onMonth.put("expression", byMonth.where("month = 12"));
          onMonth.put(
              "Java UDF",
              byMonth.where(udf(isDecember, DataTypes.BooleanType).apply(col("month"))));
          Measured.sameRows(onMonth);
          Map<String, QueryProfile> partitions = new LinkedHashMap<>();
          onMonth.forEach((form, query) -> partitions.put(form, QueryProfile.of(query)));
          notebook.profiles("a filter on the partition column", partitions);
          notebook.text(
              "Of a partition column there is one value for each partition: Spark calls the UDF"
                  + " with it and leaves the other partitions out. It also moves a UDF's filter"
                  + " below a join, and drops unused UDFs.");

          notebook.step("When not to");
          notebook.text(
              "Not in a filter or a join condition on a column that files can be skipped by: add"
                  + " the plain condition beside it. Not for what a built-in function does in one"
                  + " call. For logic that no function has, a Java UDF is a plain, tested method,"
                  + " and costs about what an expression does; a SQL function costs nothing.");
        });
  }
}
