package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.udaf;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import java.io.Serializable;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.time.LocalDate;
import java.util.BitSet;
import java.util.Map;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoder;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Aggregator;
import scala.Tuple2;

/**
 * Aggregate functions of your own: an {@code Aggregator} that each partition runs over its rows and
 * whose results Spark merges, for columns, for typed Datasets and for SQL.
 *
 * <p>Run: {@code ./run CustomAggregator}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: each customer's longest run of days with orders; the same for 1, 2 and 7 partitions; an
 * average price that weighs by quantity, with the arguments in the wrong order.
 *
 * <p>On Databricks: the same code on a cluster with dedicated access.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-functions-udf-aggregate.html">Spark
 *     SQL: user-defined aggregate functions</a>
 */
public final class CustomAggregator {

  private CustomAggregator() {}

  /**
   * The longest run of days without a gap, INT; a day that comes twice counts once, a NULL not at
   * all, and no day at all is 0. A group keeps a bit for each day since 1970, 2.5 kB up to 2025,
   * whatever the number of its rows. Days come, and partitions are merged, in any order.
   */
  public static final class LongestStreak extends Aggregator<LocalDate, BitSet, Integer> {

    /** A new one each time: Spark changes it in place, one for each group. */
    @Override
    public BitSet zero() {
      return new BitSet();
    }

    @Override
    public BitSet reduce(BitSet days, LocalDate day) {
      if (day != null) {
        // Throws for a day before 1970, which has no bit.
        days.set(Math.toIntExact(day.toEpochDay()));
      }
      return days;
    }

    @Override
    public BitSet merge(BitSet days, BitSet others) {
      days.or(others);
      return days;
    }

    @Override
    public Integer finish(BitSet days) {
      int longest = 0;
      for (int first = days.nextSetBit(0); first >= 0; ) {
        int gap = days.nextClearBit(first);
        longest = Math.max(longest, gap - first);
        first = days.nextSetBit(gap);
      }
      return longest;
    }

    /** How the days travel from one partition to another. */
    @Override
    public Encoder<BitSet> bufferEncoder() {
      return Encoders.javaSerialization(BitSet.class);
    }

    @Override
    public Encoder<Integer> outputEncoder() {
      return Encoders.INT();
    }
  }

  /** What {@link AveragePrice} takes, and, as sums, what it keeps. */
  public static final class Sale implements Serializable {
    private BigDecimal price;
    private Long quantity;

    public Sale() {}

    public Sale(BigDecimal price, Long quantity) {
      this.price = price;
      this.quantity = quantity;
    }

    public BigDecimal getPrice() {
      return price;
    }

    public void setPrice(BigDecimal price) {
      this.price = price;
    }

    public Long getQuantity() {
      return quantity;
    }

    public void setQuantity(Long quantity) {
      this.quantity = quantity;
    }
  }

  /**
   * The average price of what was sold, to the cent; NULL if nothing was. A sale without price or
   * quantity is left out. The type is {@code DECIMAL(38,18)}, for a bean's BigDecimal has no other.
   */
  public static final class AveragePrice extends Aggregator<Sale, Sale, BigDecimal> {
    @Override
    public Sale zero() {
      return new Sale(BigDecimal.ZERO, 0L);
    }

    @Override
    public Sale reduce(Sale sums, Sale sale) {
      if (sale.getPrice() == null || sale.getQuantity() == null) {
        return sums;
      }
      return new Sale(
          sums.getPrice().add(sale.getPrice().multiply(BigDecimal.valueOf(sale.getQuantity()))),
          sums.getQuantity() + sale.getQuantity());
    }

    @Override
    public Sale merge(Sale sums, Sale others) {
      return new Sale(
          sums.getPrice().add(others.getPrice()), sums.getQuantity() + others.getQuantity());
    }

    @Override
    public BigDecimal finish(Sale sums) {
      return sums.getQuantity() == 0
          ? null
          : sums.getPrice().divide(BigDecimal.valueOf(sums.getQuantity()), 2, RoundingMode.HALF_UP);
    }

    @Override
    public Encoder<Sale> bufferEncoder() {
      return Encoders.bean(Sale.class);
    }

    @Override
    public Encoder<BigDecimal> outputEncoder() {
      return Encoders.DECIMAL();
    }
  }

  /** {@link LongestStreak} of a column of DATE. */
  public static Column longestStreak(Column day) {
    return udaf(new LongestStreak(), Encoders.LOCALDATE()).apply(day);
  }

  /**
   * Both for SQL, until the session ends: {@code longest_streak(day DATE)} and {@code
   * average_price(price DECIMAL, quantity BIGINT)}. Arguments become the bean's properties in the
   * order of the properties' names, whatever their order in the class; their number is not checked,
   * and with one too few the average is a wrong one.
   */
  public static void register(SparkSession spark) {
    spark.udf().register("longest_streak", udaf(new LongestStreak(), Encoders.LOCALDATE()));
    spark.udf().register("average_price", udaf(new AveragePrice(), Encoders.bean(Sale.class)));
  }

  /**
   * {@code customer_id BIGINT, streak INT, december INT}: the longest streak of the year and of
   * December; FILTER works as with any aggregate. Needs {@link #register}.
   *
   * @param orders a table or view with {@code customer_id, order_date DATE}
   */
  public static Dataset<Row> streaks(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT customer_id,
               longest_streak(order_date) AS streak,
               longest_streak(order_date) FILTER (WHERE month(order_date) = 12) AS december
        FROM IDENTIFIER(:orders)
        GROUP BY customer_id
        """,
        Map.of("orders", orders));
  }

  /** {@link #streaks} with columns: {@code customer_id, streak}. */
  public static Dataset<Row> streaks(Dataset<Row> orders) {
    return orders.groupBy("customer_id").agg(longestStreak(col("order_date")).as("streak"));
  }

  /** The average price for each key, of typed rows: the aggregator is itself the column. */
  public static <T> Dataset<Tuple2<Long, BigDecimal>> averagePrices(
      Dataset<T> rows, MapFunction<T, Long> key, MapFunction<T, Sale> sale) {
    return rows.groupByKey(key, Encoders.LONG())
        .mapValues(sale, Encoders.bean(Sale.class))
        .agg(new AveragePrice().toColumn());
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CustomAggregator.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          register(spark);

          notebook.step("The longest run of days with orders");
          Dataset<Row> days =
              spark.sql(
                  """
                  SELECT customer_id, explode(sequence(first, last)) AS order_date
                  FROM VALUES
                    (1L, DATE'2025-01-01', DATE'2025-01-02'), (1L, DATE'2025-12-29', DATE'2026-01-02'),
                    (2L, DATE'2025-06-01', DATE'2025-06-01')
                    AS v (customer_id, first, last)
                  """);
          days.createOrReplaceTempView("days");
          notebook.table("days with orders", days.orderBy("customer_id", "order_date"));
          notebook.table("in SQL", streaks(spark, "days").orderBy("customer_id"));

          notebook.step("The same on any number of partitions");
          SampleData data = notebook.sampleData(30_000).skew(0.02);
          Dataset<Row> orders = data.orders().select("customer_id", "order_date");
          for (int partitions : new int[] {1, 2, 7}) {
            Dataset<Row> streaks = streaks(orders.repartition(partitions));
            notebook.text(
                "%d: %,d customers, the longest streak %d days, all together %,d.",
                partitions,
                streaks.count(),
                streaks.selectExpr("max(streak)").head().getInt(0),
                streaks.selectExpr("sum(streak)").head().getLong(0));
          }

          notebook.step("More than one argument: a bean");
          notebook.table(
              "3 at 2.00 and 1 at 4.00",
              spark.sql(
                  """
                  SELECT average_price(price, quantity) AS average,
                         average_price(quantity, price) AS wrong_way_round
                  FROM VALUES (2.00, 3), (4.00, 1) AS v (price, quantity)
                  """));
        });
  }
}
