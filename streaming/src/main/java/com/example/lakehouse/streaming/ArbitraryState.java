package com.example.lakehouse.streaming;

import static scala.jdk.javaapi.CollectionConverters.asJava;
import static scala.jdk.javaapi.CollectionConverters.asScala;

import com.example.lakehouse.common.Notebook;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.ExpiredTimerInfo;
import org.apache.spark.sql.streaming.ListState;
import org.apache.spark.sql.streaming.MapState;
import org.apache.spark.sql.streaming.OutputMode;
import org.apache.spark.sql.streaming.StatefulProcessor;
import org.apache.spark.sql.streaming.StatefulProcessorWithInitialState;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.TTLConfig;
import org.apache.spark.sql.streaming.TimeMode;
import org.apache.spark.sql.streaming.TimerValues;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.streaming.ValueState;
import org.apache.spark.sql.types.StructType;
import scala.collection.Iterator;

/**
 * State of your own: transformWithState finds baskets that were left behind, and cards that pay in
 * two countries at once.
 *
 * <p>Run: {@code ./run ArbitraryState}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: after each arrival, the baskets that nobody has touched for half an hour, and what is
 * kept of the others; baskets that were there before the stream; one alert for a card, not one for
 * each of its payments.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/structured-streaming-transform-with-state.html">Structured
 *     Streaming: transformWithState</a>
 */
public final class ArbitraryState {

  /** The store that has room for several variables, lists, maps and timers. */
  private static final String ROCKS_DB =
      "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider";

  private static final StructType ABANDONED =
      StructType.fromDDL("customer_id BIGINT, product STRING, pieces INT, last_action TIMESTAMP");

  private static final StructType ALERT =
      StructType.fromDDL("card STRING, countries STRING, payments INT, alert_time TIMESTAMP");

  private ArbitraryState() {}

  /** Sets the state store of the queries that start from now on; the default one will not do. */
  public static void useRocksDb(SparkSession spark) {
    spark.conf().set("spark.sql.streaming.stateStore.providerClass", ROCKS_DB);
  }

  /**
   * One customer's basket: a map of what is in it, the time of the last action, and a timer for
   * when nothing has happened for too long. An object of it serves all customers of a partition:
   * the variables are those of the customer whose rows or timer are being handled.
   */
  public static final class Baskets extends StatefulProcessorWithInitialState<Long, Row, Row, Row> {
    private final long patience;
    private transient MapState<String, Integer> pieces;
    private transient ValueState<Long> lastAction;

    /** With the time, of events, after which a basket is abandoned. */
    public Baskets(Duration patience) {
      this.patience = patience.toMillis();
    }

    @Override
    public void init(OutputMode outputMode, TimeMode timeMode) {
      pieces =
          getHandle().getMapState("pieces", Encoders.STRING(), Encoders.INT(), TTLConfig.NONE());
      lastAction = getHandle().getValueState("last_action", Encoders.LONG(), TTLConfig.NONE());
    }

    @Override
    public void handleInitialState(Long customer, Row basket, TimerValues time) {
      pieces.updateValue(basket.getAs("product"), basket.getAs("pieces"));
      touch(millis(basket, "last_action"));
    }

    @Override
    public Iterator<Row> handleInputRows(Long customer, Iterator<Row> rows, TimerValues time) {
      List<Row> abandoned = new ArrayList<>();
      for (Row action : inOrder(rows, "action_time")) {
        long now = millis(action, "action_time");
        // Timers expire after the rows of a batch: one that is due between two of them has not yet.
        if (lastAction.exists() && now >= lastAction.get() + patience) {
          getHandle().deleteTimer(lastAction.get() + patience);
          abandoned.addAll(abandon(customer));
        }
        apply(action);
        touch(now);
      }
      return asScala(abandoned.iterator());
    }

    @Override
    public Iterator<Row> handleExpiredTimer(
        Long customer, TimerValues time, ExpiredTimerInfo timer) {
      return asScala(abandon(customer).iterator());
    }

    private void apply(Row action) {
      String product = action.getAs("product");
      int before = product != null && pieces.containsKey(product) ? pieces.getValue(product) : 0;
      switch (action.<String>getAs("action")) {
        case "add" -> pieces.updateValue(product, before + 1);
        case "remove" -> {
          if (before > 1) {
            pieces.updateValue(product, before - 1);
          } else {
            pieces.removeKey(product);
          }
        }
        case "order" -> pieces.clear();
        default -> throw new IllegalArgumentException("not an action on a basket: " + action);
      }
    }

    /** Moves the timer. Of an empty basket nothing is kept. */
    private void touch(long now) {
      long last = now;
      if (lastAction.exists()) {
        last = Math.max(now, lastAction.get());
        getHandle().deleteTimer(lastAction.get() + patience);
      }
      if (pieces.exists()) {
        lastAction.update(last);
        getHandle().registerTimer(last + patience);
      } else {
        lastAction.clear();
      }
    }

    private List<Row> abandon(Long customer) {
      Instant last = Instant.ofEpochMilli(lastAction.get());
      List<Row> rows = new ArrayList<>();
      asJava(pieces.iterator())
          .forEachRemaining(p -> rows.add(RowFactory.create(customer, p._1(), p._2(), last)));
      pieces.clear();
      lastAction.clear();
      return rows;
    }
  }

  /** A key's rows of one batch, which come in no order. */
  private static List<Row> inOrder(Iterator<Row> rows, String time) {
    List<Row> sorted = new ArrayList<>();
    asJava(rows).forEachRemaining(sorted::add);
    sorted.sort(Comparator.comparing(row -> row.<Instant>getAs(time)));
    return sorted;
  }

  private static long millis(Row row, String column) {
    return row.<Instant>getAs(column).toEpochMilli();
  }

  /**
   * The baskets that nobody has touched for {@code patience}, when the watermark has passed it or
   * the customer's next action comes later. How the actions fall into batches makes no difference,
   * as long as a customer's come in order from batch to batch.
   *
   * @param actions {@code customer_id BIGINT, action STRING, product STRING, action_time
   *     TIMESTAMP}, up to 10 minutes late; an action is {@code add} or {@code remove}, of one
   *     piece, or {@code order}, of the whole basket; any other stops the stream
   * @param before the baskets at the start, which only the first batch of a checkpoint reads:
   *     {@code customer_id BIGINT, product STRING, pieces INT, last_action TIMESTAMP}
   * @return {@code customer_id BIGINT, product STRING, pieces INT, last_action TIMESTAMP}
   */
  public static Dataset<Row> abandoned(
      Dataset<Row> actions, Duration patience, Dataset<Row> before) {
    MapFunction<Row, Long> customer = row -> row.getAs("customer_id");
    return actions
        .withWatermark("action_time", "10 minutes")
        .groupByKey(customer, Encoders.LONG())
        .transformWithState(
            new Baskets(patience),
            TimeMode.EventTime(),
            OutputMode.Append(),
            before.groupByKey(customer, Encoders.LONG()),
            Encoders.row(ABANDONED),
            Encoders.row(before.schema()));
  }

  /** What is kept of a payment: a bean, whose properties are the columns of the state. */
  public static final class Payment {
    private String country;
    private Instant time;

    public String getCountry() {
      return country;
    }

    public void setCountry(String country) {
      this.country = country;
    }

    public Instant getTime() {
      return time;
    }

    public void setTime(Instant time) {
      this.time = time;
    }
  }

  /** One card: a list of its last payments, and whether there was an alert. */
  public static final class Cards extends StatefulProcessor<String, Row, Row> {
    private final Duration window;
    private final Duration memory;
    private transient ListState<Payment> recent;
    private transient ValueState<Boolean> alerted;

    public Cards(Duration window, Duration memory) {
      this.window = window;
      this.memory = memory;
    }

    @Override
    public void init(OutputMode outputMode, TimeMode timeMode) {
      TTLConfig ttl = new TTLConfig(memory);
      recent = getHandle().getListState("recent", Encoders.bean(Payment.class), ttl);
      alerted = getHandle().getValueState("alerted", Encoders.BOOLEAN(), ttl);
    }

    @Override
    public Iterator<Row> handleInputRows(String card, Iterator<Row> rows, TimerValues time) {
      List<Payment> last = new ArrayList<>();
      asJava(recent.get()).forEachRemaining(last::add);
      List<Row> alerts = new ArrayList<>();
      for (Row row : inOrder(rows, "payment_time")) {
        Payment payment = new Payment();
        payment.setCountry(row.getAs("country"));
        payment.setTime(row.getAs("payment_time"));
        last.removeIf(earlier -> earlier.getTime().plus(window).isBefore(payment.getTime()));
        last.add(payment);
        Set<String> countries = new TreeSet<>();
        last.forEach(p -> countries.add(p.getCountry()));
        if (countries.size() > 1 && !alerted.exists()) {
          alerted.update(true);
          alerts.add(
              RowFactory.create(
                  card, String.join(", ", countries), last.size(), payment.getTime()));
        }
      }
      recent.put(last.toArray(new Payment[0]));
      return asScala(alerts.iterator());
    }
  }

  /**
   * Cards that have paid in two countries within {@code window}, and of each the first such payment
   * only, until {@code memory} is over. What is older than that is gone by itself.
   *
   * <p>TTL is in processing time, which goes on while no row comes: Spark then runs batch after
   * batch without rows, as fast as it can, and {@code AvailableNow} never ends. Give the query a
   * trigger with an interval, or set {@code spark.sql.streaming.noDataMicroBatches.enabled} to
   * false.
   *
   * @param payments {@code card STRING, country STRING, payment_time TIMESTAMP}
   * @return {@code card STRING, countries STRING, payments INT, alert_time TIMESTAMP}: the payments
   *     within the window, and the time of the last of them
   */
  public static Dataset<Row> alerts(Dataset<Row> payments, Duration window, Duration memory) {
    return payments
        .groupByKey((MapFunction<Row, String>) row -> row.getAs("card"), Encoders.STRING())
        .transformWithState(
            new Cards(window, memory),
            TimeMode.ProcessingTime(),
            OutputMode.Append(),
            Encoders.row(ALERT));
  }

  /** Appends to {@code table} what comes out for all rows that are there, and ends. */
  public static StreamingQuery appendAvailable(Dataset<Row> rows, String table, String checkpoint)
      throws TimeoutException {
    return rows.writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ArbitraryState.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          useRocksDb(spark);
          String checkpoint = notebook.sandbox().path("baskets");
          spark.sql(
              """
              CREATE TABLE actions
                (customer_id BIGINT, action STRING, product STRING, action_time TIMESTAMP)
              USING delta
              """);

          notebook.step("Baskets that were there before the stream");
          Dataset<Row> before =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (7L, 'desk', 1, TIMESTAMP'2025-03-01 09:50:00'),
                    (7L, 'lamp', 2, TIMESTAMP'2025-03-01 09:50:00'),
                    (8L, 'sofa', 1, TIMESTAMP'2025-03-01 09:58:00')
                    AS before (customer_id, product, pieces, last_action)
                  """);
          notebook.table("the initial state", before);

          String[][] arrivals = {
            {
              "(1, 'add', 'desk', '10:00'), (1, 'add', 'lamp', '10:02'), (2, 'add', 'rug',"
                  + " '10:05')",
              "The watermark is 9:55: no basket has been left for half an hour."
            },
            {
              "(2, 'order', NULL, '10:12'), (8, 'add', 'lamp', '10:20'), (3, 'add', 'vase',"
                  + " '10:35')",
              "The watermark is 10:25: nobody has touched basket 7 since 9:50. Basket 8 got a lamp,"
                  + " and with it another half hour; basket 2 was ordered."
            },
            {
              "(1, 'remove', 'desk', '10:28'), (3, 'add', 'vase', '11:20')",
              "The watermark is 11:10: baskets 1 and 8 are abandoned, with what was in them at the"
                  + " end. Basket 3 was too, before its second vase came."
            }
          };
          for (String[] arrival : arrivals) {
            notebook.step("Actions " + arrival[0]);
            notebook.text(arrival[1]);
            spark.sql(
                """
                INSERT INTO actions
                SELECT id, action, product, CAST('2025-03-01 ' || time AS TIMESTAMP)
                FROM VALUES %s AS v (id, action, product, time)
                """
                    .formatted(arrival[0]));
            appendAvailable(
                    abandoned(spark.readStream().table("actions"), Duration.ofMinutes(30), before),
                    "abandoned",
                    checkpoint)
                .awaitTermination();
            notebook.table(
                "abandoned so far",
                spark.table("abandoned").orderBy("last_action", "customer_id", "product"));
            notebook.table(
                "kept in the state",
                spark
                    .read()
                    .format("statestore")
                    .option("stateVarName", "pieces")
                    .load(checkpoint)
                    .selectExpr(
                        "key.value AS customer_id",
                        "user_map_key.value AS product",
                        "user_map_value.value AS pieces")
                    .orderBy("customer_id", "product"));
          }

          notebook.step("Cards that pay in two countries within ten minutes");
          spark.conf().set("spark.sql.streaming.noDataMicroBatches.enabled", "false");
          spark.sql(
              """
              CREATE TABLE payments USING delta AS
              SELECT card, country, CAST('2025-03-01 ' || time AS TIMESTAMP) AS payment_time
              FROM VALUES
                ('4711', 'DE', '10:00'), ('4711', 'DE', '10:05'), ('4711', 'US', '10:08'),
                ('4711', 'US', '10:09'), ('0815', 'FR', '10:00'), ('0815', 'IT', '10:11')
                AS v (card, country, time)
              """);
          notebook.table("payments", spark.table("payments").orderBy("card", "payment_time"));
          Dataset<Row> alerts =
              alerts(
                  spark.readStream().table("payments"),
                  Duration.ofMinutes(10),
                  Duration.ofHours(1));
          appendAvailable(alerts, "alerts", notebook.sandbox().path("cards")).awaitTermination();
          notebook.table("alerts: card 0815 had eleven minutes to travel", spark.table("alerts"));
          spark.sql("INSERT INTO payments VALUES ('4711', 'DE', TIMESTAMP'2025-03-01 10:10:00')");
          appendAvailable(alerts, "alerts", notebook.sandbox().path("cards")).awaitTermination();
          notebook.text(
              "Card 4711 pays in DE again, and there is still %d alert: for an hour it is known.",
              spark.table("alerts").count());
          notebook.table(
              "its payments in the state, each with the time when it goes",
              spark
                  .read()
                  .format("statestore")
                  .option("stateVarName", "recent")
                  .load(notebook.sandbox().path("cards"))
                  .where("key.value = '4711'")
                  .selectExpr(
                      "key.value AS card",
                      "list_element.value.*",
                      "timestamp_millis(list_element.ttlExpirationMs) AS goes"));

          notebook.step("What is refused");
          spark.conf().unset("spark.sql.streaming.stateStore.providerClass");
          notebook.refused(
              "The default state store",
              "UNSUPPORTED_FEATURE.STATE_STORE_MULTIPLE_COLUMN_FAMILIES",
              () ->
                  appendAvailable(alerts, "refused", notebook.sandbox().path("refused"))
                      .awaitTermination());
        });
  }
}
