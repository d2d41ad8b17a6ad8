package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.broadcast;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.explode;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.not;
import static org.apache.spark.sql.functions.pmod;
import static org.apache.spark.sql.functions.sequence;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.when;
import static org.apache.spark.sql.functions.xxhash64;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import com.example.lakehouse.optimization.support.Room;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Skewed joins: one customer has half the orders, and one task has their work, until adaptive
 * execution or a salt splits it.
 *
 * <p>Run: {@code ./run SkewJoin}, or Run in the IDE; no JVM flags, no setup; half a million orders,
 * {@code --scale} for more (it counts order items, three for each order).
 *
 * <p>See: the rows of the longest task against the median, before and after, and the joins that
 * Spark does not split.
 *
 * <p>On Databricks: the same code; Spark's own limits fit there, where a partition has hundreds of
 * megabytes.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/latest/sql-performance-tuning.html#optimizing-skew-join">Spark:
 *     optimizing skew join</a>
 */
public final class SkewJoin {

  /** A name that no table has: a column of it would be lost. */
  private static final String SALT = "__salt";

  private SkewJoin() {}

  /**
   * Each order with its customer. A shuffle sends all orders of a customer to one task.
   *
   * @param orders with {@code order_id BIGINT, customer_id BIGINT}
   * @param customers with {@code customer_id BIGINT}
   */
  public static Dataset<Row> withCustomers(Dataset<Row> orders, Dataset<Row> customers) {
    return orders.join(customers, "customer_id");
  }

  /**
   * Lets adaptive execution split what a shuffle sends to one task, if it has more than {@code
   * bytes} and more than five times the median ({@code
   * spark.sql.adaptive.skewJoin.skewedPartitionFactor}).
   *
   * @param bytes also how large the pieces become, about; 256 MB by default, in pieces of 64 MB
   */
  public static void splitPartitionsOver(SparkSession spark, long bytes) {
    spark.conf().set("spark.sql.adaptive.skewJoin.enabled", true);
    spark.conf().set("spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes", bytes);
    spark.conf().set("spark.sql.adaptive.advisoryPartitionSizeInBytes", bytes);
  }

  /**
   * The customers who have more than {@code share} of the orders each, which at most {@code 1 /
   * share} can have.
   *
   * @throws IllegalArgumentException if {@code share} is not more than 0
   */
  public static List<Long> hotCustomers(Dataset<Row> orders, double share) {
    if (!(share > 0)) {
      throw new IllegalArgumentException("a share must be more than 0: " + share);
    }
    return orders
        .groupBy("customer_id")
        .count()
        .where(col("count").gt(orders.count() * share).and(col("customer_id").isNotNull()))
        .collectAsList()
        .stream()
        .map(row -> row.<Long>getAs("customer_id"))
        .toList();
  }

  /**
   * {@link #withCustomers} with a salt: the hot customers' orders get one of {@code salts} numbers,
   * those customers a row for each number, and the join is by both. It is for inner joins, and for
   * left outer ones; in others the copies come out as rows of their own.
   *
   * @param hotCustomers as {@link #hotCustomers} finds them
   * @param salts several for each shuffle partition, for they fall to them by chance
   * @throws IllegalArgumentException if {@code salts} is less than 1
   */
  public static Dataset<Row> withCustomersSalted(
      Dataset<Row> orders, Dataset<Row> customers, List<Long> hotCustomers, int salts) {
    if (salts < 1) {
      throw new IllegalArgumentException("at least one salt: " + salts);
    }
    Column hot = col("customer_id").isin(hotCustomers.toArray());
    // Of a column and not of rand(): a task that runs again must come to the same number.
    Column salt = pmod(xxhash64(col("order_id")), lit((long) salts));
    Column each = explode(when(hot, sequence(lit(0L), lit(salts - 1L))).otherwise(array(lit(0L))));
    return orders
        .withColumn(SALT, when(hot, salt).otherwise(lit(0L)))
        .join(customers.withColumn(SALT, each), new String[] {"customer_id", SALT}, "inner")
        .drop(SALT);
  }

  /**
   * {@link #withCustomers} in two joins: the hot customers are few enough to be broadcast, so that
   * their orders stay where they are, and all others are joined as before. It reads both tables
   * twice.
   */
  public static Dataset<Row> withCustomersApart(
      Dataset<Row> orders, Dataset<Row> customers, List<Long> hotCustomers) {
    Column hot = col("customer_id").isin(hotCustomers.toArray());
    return orders
        .where(hot)
        .join(broadcast(customers.where(hot)), "customer_id")
        .union(orders.where(not(hot)).join(customers.where(not(hot)), "customer_id"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SkewJoin.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 1_500_000, 30, 8).skew(0.5);
          data.orders()
              .select("order_id", "customer_id", "order_date", "status")
              .repartition(16)
              .write()
              .format("delta")
              .saveAsTable("orders");
          data.customers()
              .select("customer_id", "name", "country")
              .write()
              .format("delta")
              .saveAsTable("customers");
          Dataset<Row> orders = spark.table("orders");
          Dataset<Row> customers = spark.table("customers");
          // As if the customers were too many to be broadcast, which would be the first remedy.
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
          spark.conf().set("spark.sql.shuffle.partitions", 8);
          spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", false);
          // A task for each file, as it is with files of 128 MB.
          spark.conf().set("spark.sql.leafNodeDefaultParallelism", 16);
          spark.conf().set("spark.sql.files.openCostInBytes", 0);

          notebook.step("Half the orders are one customer's");
          List<Long> hot = hotCustomers(orders, 0.05);
          notebook.text(
              "%,d orders of %,d customers; %,d belong to customer %s. The join by customer_id has"
                  + " 8 tasks, and one of them gets all of those.",
              data.orderCount(), data.customerCount(), data.hotOrderCount(), hot);

          notebook.step("The same join four times");
          // About what a task has here without the hot customer; 64 MB and more in real life.
          long bytes = Math.max(64 << 10, data.orderCount() / 2);
          Map<String, Dataset<Row>> joins = new LinkedHashMap<>();
          joins.put("as it is", withCustomers(orders, customers));
          joins.put("adaptive", withCustomers(orders, customers));
          joins.put("salted", withCustomersSalted(orders, customers, hot, 64));
          joins.put("hot apart", withCustomersApart(orders, customers, hot));
          splitPartitionsOver(spark, bytes);
          notebook.text("The same %,d rows come out of all of them.", Measured.sameRows(joins));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Map<String, Observed> runs = new LinkedHashMap<>();
          Chart rows = new Chart("rows that a task of the join reads", "rows");
          Chart times = new Chart("tasks of the longest stage", "ms");
          joins.forEach(
              (name, join) -> {
                splitPartitionsOver(spark, name.equals("adaptive") ? bytes : 256L << 20);
                QueryProfile profile = QueryProfile.of(join);
                Observed run = Observed.of(profile);
                profiles.put(name, profile);
                runs.put(name, run);
                rows.bar("longest", name, run.mostRows()).bar("median", name, run.medianRows());
                times
                    .bar("longest", name, profile.longestTask().toMillis())
                    .bar("median", name, profile.medianTask().toMillis());
              });
          notebook.chart(rows);
          notebook.chart(times);
          notebook.profiles("what each did", profiles);
          notebook.text(
              "Rows of each task, as it is: %s; adaptive: %s; salted: %s; hot apart: %s.",
              runs.get("as it is").rowsOfTasks(),
              runs.get("adaptive").rowsOfTasks(),
              runs.get("salted").rowsOfTasks(),
              runs.get("hot apart").rowsOfTasks());

          notebook.step("What adaptive execution does: it splits one task's rows into several");
          notebook.table("the plan", runs.get("adaptive").plans(spark));
          notebook.text(
              "Each piece joins with all that the other side sent to that task, which is read again"
                  + " for each: %,d rows in all, %,d as it was. A piece is the output of whole map"
                  + " tasks: a table that is read by two tasks gives two pieces and no more.",
              runs.get("adaptive").allRows(), runs.get("as it is").allRows());

          notebook.step("What it does not split");
          splitPartitionsOver(spark, bytes);
          Column key = orders.col("customer_id").equalTo(customers.col("customer_id"));
          Map<String, Dataset<Row>> others = new LinkedHashMap<>();
          others.put("left outer join", orders.join(customers, key, "left"));
          others.put("right outer join", orders.join(customers, key, "right"));
          others.put("full outer join", orders.join(customers, key, "full"));
          others.put(
              "join, then group by it",
              withCustomers(orders, customers).groupBy("customer_id").agg(sum("order_id")));
          others.put(
              "window by customer",
              orders.selectExpr(
                  "*", "row_number() OVER (PARTITION BY customer_id ORDER BY order_id) AS n"));
          others.put("group by customer", orders.groupBy("customer_id").count());
          Chart left = new Chart("rows that a task reads, with adaptive execution", "rows");
          others.forEach(
              (name, query) -> {
                Observed run = Observed.of(query);
                left.bar("longest", name, run.mostRows()).bar("median", name, run.medianRows());
              });
          notebook.chart(left);
          notebook.text(
              "The side of an outer join that is filled with NULL must be whole for each row."
                  + " Grouping by the join's key takes the shuffle's order for granted; with"
                  + " spark.sql.adaptive.forceOptimizeSkewedJoin=true it is split, and shuffled"
                  + " once more. A window needs all rows of a customer in one task. Grouping alone"
                  + " has no skew: each map task sends one row for each customer.");

          notebook.step("When not to");
          notebook.text(
              "Where the other side can be broadcast: then nothing is shuffled, and nothing is"
                  + " skewed. Where the hot key is a NULL or a placeholder such as 0 or 'unknown'"
                  + " that matches nothing: filter it out before the join. Salt by hand only what"
                  + " adaptive execution does not split: hot keys change, and the list of them with"
                  + " it.");
        });
  }
}
