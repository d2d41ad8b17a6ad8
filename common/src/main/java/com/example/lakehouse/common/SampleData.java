package com.example.lakehouse.common;

import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;

import java.time.DayOfWeek;
import java.time.LocalDate;
import java.time.Month;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * The data of a shop, made by Spark itself from row numbers and hash functions, so that it needs no
 * memory on the driver and scales to a billion rows. The same seed, rows and dials give the same
 * rows, on any number of partitions and cores.
 *
 * <p>Keys are 0, 1, 2, … without gaps, and every foreign key has its row. Money is {@code
 * DECIMAL(12,2)}, time is UTC. The year is 2025: more orders before Christmas and at weekends, a
 * few customers with many orders, a few products with many sales.
 *
 * <p>The dials take a share of rows, such as {@code 0.05}, to a ten-thousandth; no row is in two of
 * them, and the methods that end in {@code Count} say how many rows it is, exactly.
 */
public final class SampleData {
  private static final long MIN_ROWS = 100;
  private static final long MAX_ROWS = 1_000_000_000;
  private static final int SHARES = 10_000;
  private static final LocalDate FIRST_DAY = LocalDate.of(2025, 1, 1);
  private static final int DAYS = 365;

  /** How finely the year's orders are spread over its days. */
  private static final int CALENDAR_SLOTS = 8_192;

  /**
   * Five orders in a row have 1 to 5 items, 15 together, in an order that changes with the five.
   */
  private static final int BLOCK_ORDERS = 5;

  private static final int BLOCK_ITEMS = 15;

  private final SparkSession spark;
  private final long rows;
  private final long seed;
  private final int hot;
  private final int late;
  private final int duplicate;
  private final int malformed;

  private SampleData(
      SparkSession spark, long rows, long seed, int hot, int late, int duplicate, int malformed) {
    this.spark = spark;
    this.rows = rows;
    this.seed = seed;
    this.hot = hot;
    this.late = late;
    this.duplicate = duplicate;
    this.malformed = malformed;
    if (late + duplicate + malformed > SHARES) {
      throw new IllegalArgumentException(
          "late, duplicate and malformed rows are more than all rows together");
    }
  }

  /** A thousand rows, seed 42, every dial at 0. */
  public static SampleData of(SparkSession spark) {
    return new SampleData(spark, 1_000, 42, 0, 0, 0, 0);
  }

  /**
   * Sets the size.
   *
   * @param rows the rows of {@link #orderItems} and of {@link #events}, from a hundred to a
   *     billion; the other tables are smaller in proportion
   */
  public SampleData rows(long rows) {
    if (rows < MIN_ROWS || rows > MAX_ROWS) {
      throw new IllegalArgumentException(
          "rows must be from %,d to %,d, not %,d".formatted(MIN_ROWS, MAX_ROWS, rows));
    }
    return new SampleData(spark, rows, seed, hot, late, duplicate, malformed);
  }

  public SampleData seed(long seed) {
    return new SampleData(spark, rows, seed, hot, late, duplicate, malformed);
  }

  /** The share of orders that belong to customer 0, who has no others. */
  public SampleData skew(double share) {
    return new SampleData(spark, rows, seed, share("skew", share), late, duplicate, malformed);
  }

  /**
   * The share of events that arrive more than an hour after they happened; the others, within 5 s.
   */
  public SampleData late(double share) {
    return new SampleData(spark, rows, seed, hot, share("late", share), duplicate, malformed);
  }

  /** The share of events that arrive a second time, 1 to 30 seconds after the first. */
  public SampleData duplicates(double share) {
    return new SampleData(spark, rows, seed, hot, late, share("duplicates", share), malformed);
  }

  /** The share of events whose JSON in {@link #rawEvents} is cut off in the middle. */
  public SampleData malformed(double share) {
    return new SampleData(spark, rows, seed, hot, late, duplicate, share("malformed", share));
  }

  public long orderItemCount() {
    return rows;
  }

  public long orderCount() {
    // The last block may be cut: its last order is the one that the last item belongs to.
    long last = rows - 1;
    int place = (int) (last % BLOCK_ITEMS);
    int rotation = (int) (last / BLOCK_ITEMS % BLOCK_ORDERS);
    return last / BLOCK_ITEMS * BLOCK_ORDERS + orderInBlock(rotation, place) + 1;
  }

  public long customerCount() {
    return Math.max(20, rows / 30);
  }

  public long productCount() {
    return Math.min(100_000, Math.max(50, rows / 200));
  }

  public long ratingCount() {
    return rows / 5;
  }

  public long hotOrderCount() {
    return count(orderCount(), 0, hot);
  }

  public long lateCount() {
    return count(rows, 0, late);
  }

  public long duplicateCount() {
    return count(rows, late, duplicate);
  }

  public long malformedCount() {
    return count(rows, late + duplicate, malformed);
  }

  /**
   * {@code customer_id BIGINT, name STRING, email STRING, country STRING, segment STRING,
   * signup_date DATE}; everyone signed up before 2025.
   */
  public Dataset<Row> customers() {
    return spark
        .range(customerCount())
        .withColumn("h", hash("customer", "id"))
        .selectExpr(
            "id AS customer_id",
            "concat("
                + pick("h", FIRST_NAMES)
                + ", ' ', "
                + pick("shiftright(h, 16)", LAST_NAMES)
                + ") AS name",
            "concat('customer', id, '@example.com') AS email",
            pick("shiftright(h, 24)", COUNTRIES) + " AS country",
            pick("shiftright(h, 32)", SEGMENTS) + " AS segment",
            "date_sub(DATE'2025-01-01', cast(1 + pmod(shiftright(h, 40), 1500) AS INT)) AS signup_date");
  }

  /** {@code product_id BIGINT, name STRING, category STRING, price DECIMAL(12,2)}. */
  public Dataset<Row> products() {
    return spark
        .range(productCount())
        .withColumn("h", hash("product", "id"))
        .selectExpr(
            "id AS product_id",
            "concat("
                + pick("h", ADJECTIVES)
                + ", ' ', "
                + pick("shiftright(h, 8)", NOUNS)
                + ", ' ', id) AS name",
            pick("id", CATEGORIES) + " AS category",
            price("id") + " AS price");
  }

  /**
   * {@code order_id BIGINT, customer_id BIGINT, order_time TIMESTAMP, order_date DATE, status
   * STRING, amount DECIMAL(12,2)}. A higher id is never an earlier day; {@code amount} is the sum
   * of {@code quantity * unit_price} over the order's items.
   */
  public Dataset<Row> orders() {
    String uniform = unit("shiftright(h, 8)");
    // With the dial on, customer 0 has the hot orders and no other.
    int others = hot > 0 ? 1 : 0;
    List<String> wholes = new ArrayList<>();
    List<String> quantities = new ArrayList<>();
    for (int item = 0; item < BLOCK_ORDERS; item++) {
      String id = "(first_item + " + item + ")";
      String present = item == 0 ? "true" : item + " < item_count AND " + id + " < " + rows + "L";
      wholes.add("IF(%s, q%d * %s, 0L)".formatted(present, item, wholePrice("p" + item)));
      quantities.add("IF(%s, q%d, 0)".formatted(present, item));
    }
    Dataset<Row> orders =
        spark
            .range(orderCount())
            .withColumn("h", hash("order", "id"))
            .withColumn(
                "day",
                lookup(calendar(), "id * %dL div %dL".formatted(CALENDAR_SLOTS, orderCount())))
            .withColumn("block", expr("id div 5"))
            .withColumn("slot", expr("id % 5 + 5 * (block % 5)"))
            .withColumn("item_count", lookup(ITEM_COUNTS, "slot"))
            .withColumn("first_item", expr("block * 15").plus(lookup(ITEM_STARTS, "slot")));
    for (int item = 0; item < BLOCK_ORDERS; item++) {
      String hash = "xxhash64(first_item + %d, %dL)".formatted(item, stream("order_item"));
      orders =
          orders
              .withColumn("i" + item, expr(hash))
              .withColumn("p" + item, expr(productOf("i" + item)))
              .withColumn("q" + item, expr(quantityOf("i" + item)));
    }
    return orders.selectExpr(
        "id AS order_id",
        // The cube of a uniform number: the first hundredth of the customers has a fifth of the
        // orders.
        "IF(%s, 0L, %d + cast(%dL * pow(%s, 3) AS BIGINT)) AS customer_id"
            .formatted(inShare("id", 0, hot), others, customerCount() - others, uniform),
        // Two dice: most orders come around 15:00, none between 23:00 and 7:00.
        ("timestamp_seconds(unix_seconds(TIMESTAMP'2025-01-01T00:00:00Z') + day * 86400L + 25200"
            + " + pmod(shiftright(h, 20), 28800) + pmod(shiftright(h, 36), 28800)) AS order_time"),
        "date_add(DATE'2025-01-01', day) AS order_date",
        pick("shiftright(h, 4)", STATUSES) + " AS status",
        "cast((%s) * 1.00BD - (%s) * 0.01BD AS DECIMAL(12,2)) AS amount"
            .formatted(String.join(" + ", wholes), String.join(" + ", quantities)));
  }

  /**
   * {@code order_item_id BIGINT, order_id BIGINT, product_id BIGINT, quantity INT, unit_price
   * DECIMAL(12,2)}: one to five items for each order, at the product's price.
   */
  public Dataset<Row> orderItems() {
    return spark
        .range(rows)
        .withColumn("h", hash("order_item", "id"))
        .withColumn("product_id", expr(productOf("h")))
        .withColumn(
            "order_id",
            expr("id div 15 * 5").plus(lookup(ORDERS_IN_BLOCK, "id % 15 + 15 * (id div 15 % 5)")))
        .selectExpr(
            "id AS order_item_id",
            "order_id",
            "product_id",
            quantityOf("h") + " AS quantity",
            price("product_id") + " AS unit_price");
  }

  /**
   * {@code event_id BIGINT, customer_id BIGINT, product_id BIGINT, event_type STRING, event_time
   * TIMESTAMP, arrival_time TIMESTAMP}: clicks, ten arrive in a second, from 2025-12-01 on.
   *
   * <p>A late row has an {@code event_time} more than an hour before its {@code arrival_time}; a
   * duplicate is a second row, equal but for {@code arrival_time}. There are {@link
   * #orderItemCount} rows and {@link #duplicateCount} more.
   */
  public Dataset<Row> events() {
    Dataset<Row> once = eventsOnce();
    return once.union(
        once.where(inShare("event_id", late, duplicate))
            .withColumn(
                "arrival_time",
                expr(
                    "timestamp_millis(unix_millis(arrival_time) + 1000 + pmod(xxhash64(event_id), 29000))")));
  }

  /**
   * {@code event_id BIGINT, arrival_time TIMESTAMP, value STRING}: the {@link #events} as the JSON
   * that a client sends, of which {@link #malformedCount} rows are cut off in the middle.
   */
  public Dataset<Row> rawEvents() {
    String json = "to_json(struct(event_id, customer_id, product_id, event_type, event_time))";
    return events()
        .selectExpr(
            "event_id",
            "arrival_time",
            "IF(%s, substring(%s, 1, 40), %s) AS value"
                .formatted(inShare("event_id", late + duplicate, malformed), json, json));
  }

  /**
   * {@code customer_id BIGINT, product_id BIGINT, rating INT, rated_at TIMESTAMP}: 1 to 5 stars, at
   * most one for a customer and a product. A customer likes some categories better than others, so
   * there is something to learn.
   */
  public Dataset<Row> ratings() {
    // 20 ratings each, of products 7 apart: no product twice while there are at least 140; below
    // that the step is 1.
    long step = productCount() >= 140 ? 7 : 1;
    return spark
        .range(ratingCount())
        .withColumn("h", hash("rating", "id"))
        .withColumn("customer_id", expr("id div 20"))
        .withColumn(
            "product_id",
            expr(
                "pmod(pmod(xxhash64(id div 20, %1$dL), %3$dL) + id %% 20 * %2$d, %3$dL)"
                    .formatted(stream("rated"), step, productCount())))
        .selectExpr(
            "customer_id",
            "product_id",
            // Taste: five groups of customers, five categories.
            "cast(greatest(1, least(5, 5 - pmod(product_id - customer_id, 5) + pmod(h, 3) - 1)) AS INT) AS rating",
            "timestamp_seconds(unix_seconds(TIMESTAMP'2025-01-01T00:00:00Z') + pmod(shiftright(h, 8), 31536000)) AS rated_at");
  }

  /** All tables by name. */
  public Map<String, Dataset<Row>> tables() {
    return Map.of(
        "customers", customers(),
        "products", products(),
        "orders", orders(),
        "order_items", orderItems(),
        "events", events(),
        "ratings", ratings());
  }

  private Dataset<Row> eventsOnce() {
    return spark
        .range(rows)
        .withColumn("h", hash("event", "id"))
        .withColumn("arrival", expr("unix_millis(TIMESTAMP'2025-12-01T00:00:00Z') + id * 100"))
        .selectExpr(
            "id AS event_id",
            "cast(%dL * pow(%s, 3) AS BIGINT) AS customer_id".formatted(customerCount(), unit("h")),
            productOf("xxhash64(h)") + " AS product_id",
            pick("shiftright(h, 50)", EVENT_TYPES) + " AS event_type",
            "timestamp_millis(arrival - IF(%s, 3600001 + pmod(h, 3600000), pmod(h, 5000))) AS event_time"
                .formatted(inShare("id", 0, late)),
            "timestamp_millis(arrival) AS arrival_time");
  }

  private Column hash(String stream, String id) {
    return expr("xxhash64(%s, %dL)".formatted(id, stream(stream)));
  }

  /** A seed of its own for each table: without it, row 7 of each would be alike. */
  private long stream(String name) {
    return seed * 1_000_003 + name.hashCode();
  }

  /** A uniform number from 0 to just below 1. */
  private static String unit(String hash) {
    return "((%s & 1048575L) / 1048576D)".formatted(hash);
  }

  /** Squares a uniform number: the first hundredth of the products has a tenth of the sales. */
  private String productOf(String hash) {
    String u = "(%s & 1048575L)".formatted(hash);
    return "shiftright(shiftright(%1$s * %1$s, 20) * %2$dL, 20)".formatted(u, productCount());
  }

  private static String quantityOf(String hash) {
    return "cast(1 + (shiftright(%1$s, 24) & 1) * (shiftright(%1$s, 25) & 3) AS INT)"
        .formatted(hash);
  }

  /** Whole euros, 1 to 466, low ones more often; the price is a cent below. */
  private String wholePrice(String product) {
    String h = "xxhash64(%s, %dL)".formatted(product, stream("price"));
    return "(1 + (shiftright(%1$s, 8) & 31) * (%1$s & 15))".formatted(h);
  }

  /**
   * Decimals of one scale subtract without java.math.BigDecimal, which would take most of the time.
   */
  private String price(String product) {
    return "cast(%s AS DECIMAL(11,2)) - 0.01BD".formatted(wholePrice(product));
  }

  private static String pick(String hash, List<String> values) {
    return "element_at(array('%s'), cast(1 + pmod(%s, %d) AS INT))"
        .formatted(String.join("', '", values), hash, values.size());
  }

  private static Column lookup(int[] values, String index) {
    return lit(values).getItem(expr("cast(" + index + " AS INT)"));
  }

  /**
   * 7919 has no factor in common with 10,000, so each run of 10,000 ids falls once on each slot,
   * and a share takes the slots from one number to another.
   */
  private static String inShare(String id, int from, int share) {
    return "pmod(%s * 7919, %d) BETWEEN %d AND %d".formatted(id, SHARES, from, from + share - 1);
  }

  private static long count(long rows, int from, int share) {
    long count = rows / SHARES * share;
    for (long id = rows / SHARES * SHARES; id < rows; id++) {
      long slot = id * 7919 % SHARES;
      if (slot >= from && slot < from + share) {
        count++;
      }
    }
    return count;
  }

  private static int share(String dial, double share) {
    if (!(share >= 0 && share <= 1)) {
      throw new IllegalArgumentException(
          "%s must be a share from 0 to 1, not %s".formatted(dial, share));
    }
    return (int) Math.round(share * SHARES);
  }

  /** The day of the year for each slot: a day has as many slots as its weekday and season weigh. */
  private static int[] calendar() {
    double[] until = new double[DAYS];
    double sum = 0;
    for (int day = 0; day < DAYS; day++) {
      sum += weight(FIRST_DAY.plusDays(day));
      until[day] = sum;
    }
    int[] days = new int[CALENDAR_SLOTS];
    int day = 0;
    for (int slot = 0; slot < CALENDAR_SLOTS; slot++) {
      while (until[day] < sum * (slot + 0.5) / CALENDAR_SLOTS) {
        day++;
      }
      days[slot] = day;
    }
    return days;
  }

  private static double weight(LocalDate day) {
    double week =
        day.getDayOfWeek() == DayOfWeek.SATURDAY
            ? 1.6
            : day.getDayOfWeek() == DayOfWeek.SUNDAY ? 1.3 : 0.9;
    Month month = day.getMonth();
    double season =
        month == Month.DECEMBER
            ? 1.8
            : month == Month.NOVEMBER ? 1.4 : month == Month.FEBRUARY ? 0.8 : 1;
    return week * season;
  }

  private static int itemCount(int rotation, int order) {
    return (order + rotation) % BLOCK_ORDERS + 1;
  }

  private static int orderInBlock(int rotation, int place) {
    int order = 0;
    for (int end = itemCount(rotation, 0); place >= end; end += itemCount(rotation, order)) {
      order++;
    }
    return order;
  }

  /** By rotation and order. */
  private static final int[] ITEM_COUNTS = new int[BLOCK_ORDERS * BLOCK_ORDERS];

  private static final int[] ITEM_STARTS = new int[BLOCK_ORDERS * BLOCK_ORDERS];

  /** By rotation and place in the block. */
  private static final int[] ORDERS_IN_BLOCK = new int[BLOCK_ORDERS * BLOCK_ITEMS];

  static {
    for (int rotation = 0; rotation < BLOCK_ORDERS; rotation++) {
      int start = 0;
      for (int order = 0; order < BLOCK_ORDERS; order++) {
        ITEM_COUNTS[rotation * BLOCK_ORDERS + order] = itemCount(rotation, order);
        ITEM_STARTS[rotation * BLOCK_ORDERS + order] = start;
        start += itemCount(rotation, order);
      }
      for (int place = 0; place < BLOCK_ITEMS; place++) {
        ORDERS_IN_BLOCK[rotation * BLOCK_ITEMS + place] = orderInBlock(rotation, place);
      }
    }
  }

  private static final List<String> FIRST_NAMES =
      List.of(
          "Ada",
          "Alan",
          "Barbara",
          "Edsger",
          "Frances",
          "Grace",
          "Jean",
          "John",
          "Karen",
          "Ken",
          "Leslie",
          "Margaret",
          "Niklaus",
          "Radia",
          "Shafi",
          "Tony");
  private static final List<String> LAST_NAMES =
      List.of(
          "Andersen",
          "Bianchi",
          "Costa",
          "Dubois",
          "Eriksson",
          "Fischer",
          "García",
          "Horvat",
          "Ivanov",
          "Jansen",
          "Kowalski",
          "López",
          "Müller",
          "Nagy",
          "Okafor",
          "Papadopoulos",
          "Rossi",
          "Silva",
          "Tanaka");
  // A value that stands here twice comes twice as often.
  private static final List<String> COUNTRIES =
      List.of("DE", "DE", "DE", "FR", "FR", "IT", "IT", "ES", "NL", "PL", "SE", "AT");
  private static final List<String> SEGMENTS =
      List.of("consumer", "consumer", "consumer", "consumer", "business", "business", "public");
  private static final List<String> STATUSES =
      List.of(
          "delivered",
          "delivered",
          "delivered",
          "delivered",
          "delivered",
          "delivered",
          "shipped",
          "open",
          "returned",
          "cancelled");
  private static final List<String> EVENT_TYPES =
      List.of("view", "view", "view", "view", "view", "view", "view", "cart", "cart", "purchase");
  private static final List<String> CATEGORIES =
      List.of("audio", "books", "garden", "kitchen", "sport");
  private static final List<String> ADJECTIVES =
      List.of("Bright", "Compact", "Durable", "Foldable", "Light", "Quiet", "Smart", "Solid");
  private static final List<String> NOUNS =
      List.of("Bag", "Bottle", "Box", "Chair", "Clock", "Lamp", "Set", "Stand", "Tool");
}
