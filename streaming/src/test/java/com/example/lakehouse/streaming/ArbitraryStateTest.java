package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.OutputMode;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.TimeMode;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ArbitraryStateTest {
  private static final String ACTION =
      "customer_id BIGINT, action STRING, product STRING, action_time TIMESTAMP";
  private static final Duration HALF_AN_HOUR = Duration.ofMinutes(30);
  private static final Duration TEN_MINUTES = Duration.ofMinutes(10);

  private Path checkpoints;
  private Rows actions;
  private Rows payments;

  @BeforeEach
  void useRocksDb(SparkSession spark, Sandbox sandbox) {
    ArbitraryState.useRocksDb(spark);
    checkpoints = sandbox.folder().resolve("checkpoints");
    spark.conf().set("spark.sql.streaming.checkpointLocation", sandbox.path("checkpoints"));
    actions = new Rows(spark, ACTION);
    payments = new Rows(spark, "card STRING, country STRING, payment_time TIMESTAMP");
  }

  private static Dataset<Row> baskets(SparkSession spark, String... rows) {
    return spark.sql(
        """
        SELECT id, product, pieces, CAST('2025-03-01 ' || time AS TIMESTAMP) AS last_action
        FROM VALUES (CAST(NULL AS BIGINT), '', 0, '') %s AS v (id, product, pieces, time)
        WHERE id IS NOT NULL
        """
            .formatted(rows.length == 0 ? "" : ", " + String.join(", ", rows))
            .replace("SELECT id,", "SELECT id AS customer_id,"));
  }

  private Emitted start(SparkSession spark, String... before) throws Exception {
    return new Emitted(
        ArbitraryState.abandoned(actions.stream(), HALF_AN_HOUR, baskets(spark, before))
            .selectExpr(
                "customer_id", "product", "pieces", "date_format(last_action, 'HH:mm') AS last"),
        "append",
        actions);
  }

  private void act(int customer, String action, String product, String time) {
    actions.add(
        "(%d, '%s', %s, '2025-03-01 %s')"
            .formatted(customer, action, product == null ? "NULL" : "'" + product + "'", time));
  }

  /** Another customer's action, for nothing but its time. */
  private void clock(String time) {
    act(99, "order", null, time);
  }

  private Dataset<Row> state(SparkSession spark, String option, Object value) throws IOException {
    try (Stream<Path> folders = Files.list(checkpoints)) {
      return spark
          .read()
          .format("statestore")
          .option(option, value.toString())
          .load(folders.findFirst().orElseThrow().toUri().toString());
    }
  }

  private Dataset<Row> pieces(SparkSession spark) throws IOException {
    return state(spark, "stateVarName", "pieces")
        .selectExpr("key.value", "user_map_key.value", "user_map_value.value");
  }

  private Dataset<Row> timers(SparkSession spark) throws IOException {
    return state(spark, "readRegisteredTimers", true)
        .selectExpr(
            "key.value", "date_format(timestamp_millis(expiration_timestamp_ms), 'HH:mm') AS t");
  }

  @Test
  void aBasketIsAbandonedWhenTheWatermarkReachesItsTimer(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      act(1, "add", "desk", "10:01");
      act(1, "add", "lamp", "10:01");
      clock("10:40:59.999");
      assertThat(abandoned.next()).isEmpty();
      assertThat(pieces(spark)).hasRows(row(1L, "desk", 2), row(1L, "lamp", 1));
      assertThat(timers(spark)).hasRows(row(1L, "10:31"));

      clock("10:41");
      assertThat(abandoned.next()).containsExactlyInAnyOrder("1 desk 2 10:01", "1 lamp 1 10:01");
      assertNothingIsKept(spark);
    }
  }

  private void assertNothingIsKept(SparkSession spark) throws IOException {
    assertThat(pieces(spark)).isEmpty();
    assertThat(state(spark, "stateVarName", "last_action")).isEmpty();
    assertThat(timers(spark)).isEmpty();
  }

  @Test
  void anActionMovesTheTimer(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      abandoned.next();
      act(1, "add", "lamp", "10:20");
      clock("10:45");
      assertThat(abandoned.next()).as("the watermark is 10:35").isEmpty();
      assertThat(timers(spark)).hasRows(row(1L, "10:50"));

      clock("11:00");
      assertThat(abandoned.next()).containsExactlyInAnyOrder("1 desk 1 10:20", "1 lamp 1 10:20");
    }
  }

  @Test
  void ofABasketThatIsOrderedOrEmptiedNothingIsKept(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      act(2, "add", "desk", "10:00");
      abandoned.next();
      assertThat(timers(spark)).hasRowCount(2);
      act(1, "order", null, "10:05");
      act(2, "remove", "desk", "10:05");
      clock("12:00");

      assertThat(abandoned.next()).isEmpty();
      assertNothingIsKept(spark);
    }
  }

  @Test
  void theRowsOfABatchAreTakenInTheOrderOfTheirTime(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "remove", "desk", "10:03");
      act(1, "order", null, "10:01");
      act(1, "add", "desk", "10:02");
      act(1, "add", "lamp", "10:04");
      act(1, "add", "rug", "10:00");
      clock("12:00");

      assertThat(abandoned.next()).containsExactly("1 lamp 1 10:04");
    }
  }

  @Test
  void aBasketThatIsLeftBetweenTwoRowsOfABatchIsAbandonedToo(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      act(1, "add", "lamp", "10:30");
      act(2, "add", "desk", "10:00");
      act(2, "add", "lamp", "10:29:59.999");
      assertThat(abandoned.next()).containsExactly("1 desk 1 10:00");
      assertThat(timers(spark)).hasRows(row(1L, "11:00"), row(2L, "10:59"));
    }
  }

  @Test
  void aLateActionIsDropped(SparkSession spark) throws Exception {
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      clock("10:20");
      abandoned.next();
      act(1, "add", "late", "10:09:59");
      act(1, "add", "lamp", "10:10:01");
      abandoned.next();

      assertThat(pieces(spark)).hasRows(row(1L, "desk", 1), row(1L, "lamp", 1));
    }
  }

  /** What was added and neither ordered nor touched for a minute, by a loop over each customer. */
  private static List<String> expected(List<Row> actions) {
    Map<Long, List<Row>> byCustomer = new HashMap<>();
    actions.forEach(
        a -> byCustomer.computeIfAbsent(a.getLong(0), customer -> new ArrayList<>()).add(a));
    List<String> abandoned = new ArrayList<>();
    byCustomer.forEach(
        (customer, rows) -> {
          Map<String, Integer> basket = new TreeMap<>();
          for (int i = 0; i < rows.size(); i++) {
            if (rows.get(i).getString(1).equals("order")) {
              basket.clear();
            } else {
              basket.merge(rows.get(i).getString(2), 1, Integer::sum);
            }
            Instant time = rows.get(i).getInstant(3);
            boolean last = i == rows.size() - 1;
            if (last || !rows.get(i + 1).getInstant(3).isBefore(time.plusSeconds(60))) {
              basket.forEach(
                  (product, pieces) ->
                      abandoned.add("%d %s %d %s".formatted(customer, product, pieces, time)));
              basket.clear();
            }
          }
        });
    return abandoned;
  }

  @Test
  void howTheActionsFallIntoBatchesMakesNoDifference(SparkSession spark) throws Exception {
    List<Row> all =
        SampleData.of(spark)
            .rows(10_000)
            .events()
            .where("event_type IN ('cart', 'purchase')")
            .selectExpr(
                "customer_id",
                "IF(event_type = 'cart', 'add', 'order') AS action",
                "IF(event_type = 'cart', CAST(product_id AS STRING), NULL) AS product",
                "event_time AS action_time")
            .collectAsList()
            .stream()
            .sorted(Comparator.comparing(row -> row.getInstant(3)))
            .toList();
    assertThat(all.stream().map(row -> row.getLong(0) + " " + row.getInstant(3)))
        .as("no customer does two things at once")
        .doesNotHaveDuplicates();
    List<String> expected = expected(all);
    assertThat(expected).hasSizeGreaterThan(1_000);

    for (int batches : new int[] {1, 4}) {
      try (Emitted abandoned =
          new Emitted(
              ArbitraryState.abandoned(actions.stream(), Duration.ofMinutes(1), baskets(spark)),
              "append",
              actions)) {
        List<String> emitted = new ArrayList<>();
        for (int i = 0; i < batches; i++) {
          actions.add(all.subList(i * all.size() / batches, (i + 1) * all.size() / batches));
          emitted.addAll(abandoned.next());
        }
        actions.add("(-1, 'order', NULL, '2025-12-02 00:00:00')");
        emitted.addAll(abandoned.next());

        assertThat(emitted).containsExactlyInAnyOrderElementsOf(expected);
      }
      actions = new Rows(spark, ACTION);
    }
  }

  private static void insert(SparkSession spark, String... rows) {
    spark.sql(
        """
        INSERT INTO actions
        SELECT id, action, product, CAST('2025-03-01 ' || time AS TIMESTAMP)
        FROM VALUES %s AS v (id, action, product, time)
        """
            .formatted(String.join(", ", rows)));
  }

  private static void run(SparkSession spark, Sandbox sandbox, Dataset<Row> before)
      throws Exception {
    ArbitraryState.appendAvailable(
            ArbitraryState.abandoned(spark.readStream().table("actions"), HALF_AN_HOUR, before),
            "abandoned",
            sandbox.path("checkpoint"))
        .awaitTermination();
  }

  @Test
  void initialBasketsAreReadOnceAndStateSurvivesARestart(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.sql("CREATE TABLE actions (%s) USING delta".formatted(ACTION));
    insert(spark, "(8, 'add', 'vase', '09:59')", "(1, 'add', 'rug', '10:00')");
    run(
        spark,
        sandbox,
        baskets(
            spark,
            "(7, 'desk', 1, '09:15')",
            "(7, 'lamp', 2, '09:15')",
            "(8, 'sofa', 3, '09:58')"));
    Dataset<Row> abandoned = spark.table("abandoned").select("customer_id", "product", "pieces");
    assertThat(abandoned).as("no row came for 7").hasRows(row(7L, "desk", 1), row(7L, "lamp", 2));

    insert(spark, "(99, 'order', NULL, '12:00')");
    run(spark, sandbox, baskets(spark, "(9, 'bed', 1, '09:00')"));
    assertThat(spark.table("abandoned").select("customer_id", "product", "pieces"))
        .as("9 came too late to be an initial basket")
        .hasRows(
            row(7L, "desk", 1),
            row(7L, "lamp", 2),
            row(8L, "sofa", 3),
            row(8L, "vase", 1),
            row(1L, "rug", 1));
  }

  @Test
  void anUnknownActionStopsTheStreamAndWritesNothing(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.sql("CREATE TABLE actions (%s) USING delta".formatted(ACTION));
    insert(spark, "(1, 'add', 'rug', '10:00')");
    run(spark, sandbox, baskets(spark));
    insert(spark, "(2, 'steal', 'rug', '10:05')", "(3, 'order', NULL, '12:00')");

    assertRefused(
        "TRANSFORM_WITH_STATE_USER_FUNCTION_ERROR", () -> run(spark, sandbox, baskets(spark)));
    assertThat(spark.table("abandoned")).isEmpty();
    assertThat(
            spark
                .read()
                .format("statestore")
                .option("stateVarName", "pieces")
                .load(sandbox.path("checkpoint"))
                .selectExpr("key.value", "user_map_key.value"))
        .as("as it was")
        .hasRows(row(1L, "rug"));
  }

  @Test
  void theDefaultStoreIsRefused(SparkSession spark) throws Exception {
    spark.conf().unset("spark.sql.streaming.stateStore.providerClass");
    try (Emitted abandoned = start(spark)) {
      act(1, "add", "desk", "10:00");
      assertRefused(
          "UNSUPPORTED_FEATURE.STATE_STORE_MULTIPLE_COLUMN_FAMILIES", () -> abandoned.next());
    }
  }

  private Emitted watch(SparkSession spark, Duration memory) throws Exception {
    spark.conf().set("spark.sql.streaming.noDataMicroBatches.enabled", "false");
    return new Emitted(
        ArbitraryState.alerts(payments.stream(), TEN_MINUTES, memory)
            .selectExpr("card", "countries", "payments", "date_format(alert_time, 'HH:mm')"),
        "append",
        payments);
  }

  private void pay(String card, String country, String time) {
    payments.add("('%s', '%s', '2025-03-01 %s')".formatted(card, country, time));
  }

  @Test
  void twoCountriesWithinTheWindowAreOneAlert(SparkSession spark) throws Exception {
    try (Emitted alerts = watch(spark, Duration.ofDays(1))) {
      pay("A", "DE", "10:00");
      pay("A", "DE", "10:05");
      pay("B", "FR", "10:00");
      pay("C", "FR", "10:00");
      assertThat(alerts.next()).isEmpty();

      pay("A", "US", "10:10");
      pay("A", "US", "10:11");
      pay("B", "IT", "10:10:01");
      assertThat(alerts.next()).containsExactly("A DE, US 3 10:10");

      pay("A", "ES", "10:12");
      assertThat(alerts.next()).as("A is known").isEmpty();
      assertThat(
              state(spark, "stateVarName", "recent")
                  .selectExpr(
                      "key.value",
                      "list_element.value.country",
                      "date_format(list_element.value.time, 'HH:mm')"))
          .as("ten minutes of each")
          .hasRows(
              row("A", "DE", "10:05"),
              row("A", "US", "10:10"),
              row("A", "US", "10:11"),
              row("A", "ES", "10:12"),
              row("B", "IT", "10:10"),
              row("C", "FR", "10:00"));
      assertThat(state(spark, "stateVarName", "alerted").selectExpr("key.value")).hasRows(row("A"));
    }
  }

  @Test
  void whatIsKeptExpiresInProcessingTime(SparkSession spark) throws Exception {
    try (Emitted alerts = watch(spark, Duration.ofHours(1))) {
      pay("A", "DE", "10:00");
      alerts.next();

      Instant batch = Instant.parse(alerts.query().lastProgress().timestamp());
      Row kept = state(spark, "stateVarName", "recent").head();
      Instant expires = Instant.ofEpochMilli(kept.getStruct(1).getLong(1));
      // The progress has the time of the trigger; the batch takes its own a moment later.
      assertThat(Duration.between(batch, expires))
          .isBetween(Duration.ofHours(1), Duration.ofHours(1).plusMinutes(1));
    }
  }

  @Test
  void afterThatTheCardIsForgottenAndGivesAnAlertAgain(SparkSession spark) throws Exception {
    try (Emitted alerts = watch(spark, Duration.ofSeconds(2))) {
      pay("A", "DE", "10:00");
      pay("A", "US", "10:00");
      pay("B", "US", "10:00");
      assertThat(alerts.next()).containsExactly("A DE, US 2 10:00");

      await()
          .atMost(Duration.ofMinutes(1))
          .until(
              () -> {
                pay("A", "FR", "10:01");
                pay("A", "IT", "10:01");
                return !alerts.next().isEmpty();
              });
      assertThat(state(spark, "stateVarName", "recent").where("key.value = 'B'"))
          .as("a card that is not used goes too")
          .isEmpty();
    }
  }

  @Test
  void ttlNeedsProcessingTime(SparkSession spark) throws Exception {
    Dataset<Row> inEventTime =
        payments.stream()
            .withWatermark("payment_time", "10 minutes")
            .groupByKey((MapFunction<Row, String>) row -> row.getAs("card"), Encoders.STRING())
            .transformWithState(
                new ArbitraryState.Cards(TEN_MINUTES, TEN_MINUTES),
                TimeMode.EventTime(),
                OutputMode.Append(),
                Encoders.row(StructType.fromDDL("card STRING")));
    try (Emitted alerts = new Emitted(inEventTime, "append", payments)) {
      pay("A", "DE", "10:00");
      assertRefused("STATEFUL_PROCESSOR_INCORRECT_TIME_MODE_TO_ASSIGN_TTL", () -> alerts.next());
    }
  }

  @Test
  void inProcessingTimeBatchesWithoutRowsGoOnWithoutEnd(SparkSession spark) throws Exception {
    try (Emitted alerts = watch(spark, Duration.ofHours(1))) {
      pay("A", "DE", "10:00");
      alerts.next();
      assertThat(alerts.query().lastProgress().batchId()).as("switched off").isZero();
    }
    spark.conf().unset("spark.sql.streaming.noDataMicroBatches.enabled");
    spark.sql(
        "CREATE TABLE payments (card STRING, country STRING, payment_time TIMESTAMP)"
            + " USING delta");
    spark.sql("INSERT INTO payments VALUES ('A', 'DE', TIMESTAMP'2025-03-01 10:00:00')");
    StreamingQuery availableNow =
        ArbitraryState.appendAvailable(
            ArbitraryState.alerts(spark.readStream().table("payments"), TEN_MINUTES, TEN_MINUTES),
            "alerts",
            checkpoints.resolve("endless").toUri().toString());
    try {
      await()
          .atMost(Duration.ofMinutes(1))
          .until(
              () ->
                  !availableNow.isActive()
                      || (availableNow.lastProgress() != null
                          && availableNow.lastProgress().batchId() >= 5));
      assertThat(availableNow.isActive()).as("one row, and no end").isTrue();
    } finally {
      availableNow.stop();
    }
  }
}
