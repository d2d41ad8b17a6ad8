package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@SparkTest
class StreamStreamJoinTest {
  private static final String ORDERS = "order_id BIGINT, order_time TIMESTAMP";
  private static final String PAYMENTS = "paid_order_id BIGINT, payment_time TIMESTAMP";
  private static final String WITHIN_AN_HOUR =
      "order_id = paid_order_id AND payment_time >= order_time AND payment_time <= order_time +"
          + " INTERVAL 1 HOUR";
  private static final int BATCHES = 6;
  private static final String[] TIMES = {
    "order_id",
    "date_format(order_time, 'HH:mm') AS order_time",
    "date_format(payment_time, 'HH:mm') AS payment_time"
  };

  private Rows inputs;

  /** Both inputs come from one source, so that what is added arrives at once, as one batch. */
  @BeforeEach
  void createInputs(SparkSession spark) {
    inputs = new Rows(spark, "input STRING, id BIGINT, time TIMESTAMP");
  }

  private Dataset<Row> orders() {
    return inputs.stream()
        .where("input = 'order'")
        .selectExpr("id AS order_id", "time AS order_time");
  }

  private Dataset<Row> payments() {
    return inputs.stream()
        .where("input = 'payment'")
        .selectExpr("id AS paid_order_id", "time AS payment_time");
  }

  private void order(long id, String time) {
    inputs.add("('order', %d, '2025-03-01 %s')".formatted(id, time));
  }

  private void payment(long id, String time) {
    inputs.add("('payment', %d, '2025-03-01 %s')".formatted(id, time));
  }

  private Emitted start(Dataset<Row> joined) throws Exception {
    return new Emitted(joined, "append", inputs);
  }

  private static long dropped(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        .flatMap(progress -> Arrays.stream(progress.stateOperators()))
        .mapToLong(operator -> operator.numRowsDroppedByWatermark())
        .sum();
  }

  @Test
  void aPairComesOutAtOnceWhicheverOfThemIsFirst() throws Exception {
    try (Emitted paid = start(StreamStreamJoin.paid(orders(), payments()).selectExpr(TIMES))) {
      order(1, "10:00");
      payment(2, "10:20");
      assertThat(paid.next()).isEmpty();

      payment(1, "10:30");
      order(2, "10:10");
      assertThat(paid.next()).containsExactlyInAnyOrder("1 10:00 10:30", "2 10:10 10:20");
    }
  }

  @Test
  void anHourIsTheLatestAndTheOrdersTimeTheEarliest() throws Exception {
    try (Emitted paid = start(StreamStreamJoin.paid(orders(), payments()).selectExpr(TIMES))) {
      for (int id = 1; id <= 4; id++) {
        order(id, "10:00");
      }
      payment(1, "09:59:59");
      payment(2, "10:00");
      payment(3, "11:00");
      payment(4, "11:00:01");

      assertThat(paid.next()).containsExactlyInAnyOrder("2 10:00 10:00", "3 10:00 11:00");
    }
  }

  @Test
  void anOrderWithoutPaymentComesOutWhenBothWatermarksArePastItsHour() throws Exception {
    try (Emitted orNot =
        start(StreamStreamJoin.paidOrNot(orders(), payments()).selectExpr(TIMES))) {
      order(1, "10:00");
      order(2, "10:00");
      payment(1, "10:30");
      assertThat(orNot.next()).containsExactly("1 10:00 10:30");

      order(3, "13:00");
      assertThat(orNot.next()).as("the orders' watermark is 12:40, the payments' 10:20").isEmpty();

      payment(9, "11:10");
      assertThat(orNot.next()).as("the payments' watermark is 11:00").isEmpty();

      payment(9, "11:10:00.001");
      assertThat(orNot.next()).as("a millisecond past the hour").containsExactly("2 10:00 null");
      assertThat(orNot.query().lastProgress().eventTime().get("watermark"))
          .isEqualTo("2025-03-01T11:00:00.001Z");
      assertThat(orNot.query().lastProgress().numInputRows())
          .as("a batch without rows, which the watermark made")
          .isZero();
    }
  }

  @Test
  void anInputThatSendsNothingHoldsTheUnpaidBack() throws Exception {
    try (Emitted unpaid =
        start(
            StreamStreamJoin.unpaid(orders(), payments())
                .selectExpr("order_id", "date_format(order_time, 'HH:mm')"))) {
      order(1, "10:00");
      order(2, "10:00");
      order(3, "23:00");
      assertThat(unpaid.next()).isEmpty();

      payment(1, "10:30");
      payment(9, "11:10:00.001");
      assertThat(unpaid.next()).containsExactly("2 10:00");
    }
  }

  @Test
  void aPaymentWithoutAnOrderComesOutWhenTheWatermarkIsPastIt() throws Exception {
    try (Emitted all = start(StreamStreamJoin.reconciled(orders(), payments()).selectExpr(TIMES))) {
      order(1, "10:00");
      order(2, "10:00");
      payment(1, "10:30");
      payment(9, "10:15");
      assertThat(all.next()).containsExactly("1 10:00 10:30");

      order(3, "10:35");
      payment(3, "10:36");
      assertThat(all.next()).as("the watermark is 10:15").containsExactly("3 10:35 10:36");

      order(4, "12:00");
      payment(4, "12:10");
      assertThat(all.next())
          .as("the watermark is 11:40")
          .containsExactlyInAnyOrder("4 12:00 12:10", "9 null 10:15", "2 10:00 null");
    }
  }

  @Test
  void anOrderWithTwoPaymentsIsInTheInnerJoinTwice() throws Exception {
    try (Emitted paid = start(StreamStreamJoin.paid(orders(), payments()).selectExpr(TIMES))) {
      order(1, "10:00");
      payment(1, "10:30");
      payment(1, "10:40");

      assertThat(paid.next()).containsExactlyInAnyOrder("1 10:00 10:30", "1 10:00 10:40");
    }
  }

  @Test
  void anOrderWithThreePaymentsIsInTheSemiJoinOnce() throws Exception {
    try (Emitted once =
        start(
            StreamStreamJoin.ordersWithPayment(orders(), payments())
                .selectExpr("order_id", "date_format(order_time, 'HH:mm')"))) {
      order(1, "10:00");
      order(2, "10:00");
      payment(1, "10:30");
      payment(1, "10:40");
      assertThat(once.next()).containsExactly("1 10:00");

      payment(1, "10:50");
      assertThat(once.next()).isEmpty();
    }
  }

  @Test
  void aPaymentThatIsTooLateIsDroppedAndItsOrderComesOutWithoutOne() throws Exception {
    try (Emitted orNot =
        start(StreamStreamJoin.paidOrNot(orders(), payments()).selectExpr(TIMES))) {
      order(1, "10:00");
      order(2, "11:00");
      payment(9, "10:50");
      assertThat(orNot.next()).as("the watermark is 10:40").isEmpty();

      payment(1, "10:40");
      order(3, "12:00");
      payment(9, "11:15");
      assertThat(orNot.next())
          .as("order 1 was still there, but the payment was not let in")
          .containsExactly("1 10:00 null");
      assertThat(dropped(orNot.query())).isEqualTo(1);
    }
  }

  /**
   * A year's orders and payments in the order of their times, in batches. Of 20 orders one is never
   * paid, one after two hours, and 18 within an hour, some just at its end. An order and a payment
   * of the next year come last: they close all that was before.
   */
  private static List<List<Row>> year(SparkSession spark) {
    List<Row> rows = new ArrayList<>();
    for (Row order :
        SampleData.of(spark)
            .rows(60_000)
            .orders()
            .select("order_id", "order_time")
            .collectAsList()) {
      long id = order.getLong(0);
      Instant time = order.getInstant(1);
      rows.add(RowFactory.create("order", id, time));
      if (id % 20 != 0) {
        long after = id % 20 == 1 ? 7_200 : id * 7_919 % 3_601;
        rows.add(RowFactory.create("payment", id, time.plusSeconds(after)));
      }
    }
    rows.sort(Comparator.comparing(row -> row.getInstant(2)));
    List<List<Row>> batches = new ArrayList<>();
    for (int i = 0; i < BATCHES; i++) {
      batches.add(rows.subList(i * rows.size() / BATCHES, (i + 1) * rows.size() / BATCHES));
    }
    Instant next = Instant.parse("2026-02-01T00:00:00Z");
    batches.add(
        List.of(RowFactory.create("order", -1L, next), RowFactory.create("payment", -2L, next)));
    return batches;
  }

  /** How many rows a join within an hour keeps after each batch, with rows and without. */
  private static List<Long> expectedRows(List<List<Row>> batches) {
    List<Row> kept = new ArrayList<>();
    List<Long> sizes = new ArrayList<>();
    for (List<Row> batch : batches) {
      kept.addAll(batch);
      sizes.add((long) kept.size());
      Instant orders = latest(batch, "order").minus(Duration.ofMinutes(20));
      Instant payments = latest(batch, "payment").minus(Duration.ofMinutes(10));
      Instant watermark = orders.isBefore(payments) ? orders : payments;
      kept.removeIf(
          row ->
              row.getInstant(2)
                  .plus(Duration.ofHours(row.getString(0).equals("order") ? 1 : 0))
                  .isBefore(watermark));
      sizes.add((long) kept.size());
    }
    return sizes;
  }

  private static Instant latest(List<Row> batch, String input) {
    return batch.stream()
        .filter(row -> row.getString(0).equals(input))
        .map(row -> row.getInstant(2))
        .max(Comparator.naturalOrder())
        .orElseThrow();
  }

  /** After each batch; a query also reports that it waits. */
  private static List<Long> keptRows(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        .filter(batch -> batch.durationMs().containsKey("addBatch"))
        .map(StreamStreamJoin::keptRows)
        .toList();
  }

  private List<String> emittedFor(List<List<Row>> batches, Emitted joined) {
    List<String> emitted = new ArrayList<>();
    for (List<Row> batch : batches) {
      inputs.add(batch);
      emitted.addAll(joined.next());
    }
    return emitted.stream().sorted().toList();
  }

  /** What a batch makes of the same rows; those of the next year have no match. */
  private static List<String> batchJoin(
      SparkSession spark, List<List<Row>> batches, String condition, String type) {
    spark
        .createDataFrame(
            batches.subList(0, BATCHES).stream().flatMap(List::stream).toList(),
            StructType.fromDDL("input STRING, id BIGINT, time TIMESTAMP"))
        .createOrReplaceTempView("year");
    return spark
        .sql("SELECT id AS order_id, time AS order_time FROM year WHERE input = 'order'")
        .join(
            spark.sql(
                "SELECT id AS paid_order_id, time AS payment_time FROM year WHERE input ="
                    + " 'payment'"),
            expr(condition),
            type)
        .select("order_id", "order_time", "payment_time")
        .collectAsList()
        .stream()
        .map(row -> row.mkString(" "))
        .sorted()
        .toList();
  }

  @Test
  void aYearWithinAnHourIsTheBatchJoinAndWhatIsKeptIsBounded(SparkSession spark) throws Exception {
    List<List<Row>> year = year(spark);
    try (Emitted orNot = start(StreamStreamJoin.paidOrNot(orders(), payments()))) {
      List<String> emitted = emittedFor(year, orNot);

      assertThat(emitted)
          .hasSize(20_000)
          .isEqualTo(batchJoin(spark, year, WITHIN_AN_HOUR, "left_outer"));
      assertThat(emitted.stream().filter(row -> row.endsWith("null"))).hasSize(2_000);
      assertThat(dropped(orNot.query())).isZero();
      assertThat(keptRows(orNot.query()))
          .isEqualTo(expectedRows(year))
          .as("39,000 rows in six batches: one batch, and less than 20 of those before")
          .allSatisfy(rows -> assertThat(rows).isLessThan(6_520));
    }
  }

  @Test
  void withoutBoundsEveryRowIsKept(SparkSession spark) throws Exception {
    List<List<Row>> year = year(spark);
    try (Emitted atAnyTime = start(StreamStreamJoin.paidAtAnyTime(orders(), payments()))) {
      List<String> emitted = emittedFor(year, atAnyTime);

      assertThat(emitted)
          .hasSize(19_000)
          .isEqualTo(batchJoin(spark, year, "order_id = paid_order_id", "inner"));
      assertThat(keptRows(atAnyTime.query()))
          .hasSize(BATCHES + 1)
          .isSorted()
          .last()
          .isEqualTo(39_002L);
    }
  }

  @Test
  void whatWasReadWaitsForItsMatchAcrossARestart(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.sql("CREATE TABLE orders (%s) USING delta".formatted(ORDERS));
    spark.sql("CREATE TABLE payments (%s) USING delta".formatted(PAYMENTS));
    Dataset<Row> paid =
        StreamStreamJoin.paid(
            spark.readStream().table("orders"), spark.readStream().table("payments"));
    String checkpoint = sandbox.path("checkpoint");

    spark.sql("INSERT INTO orders VALUES (1, TIMESTAMP'2025-03-01 10:00:00')");
    StreamStreamJoin.appendAvailable(paid, "paid", checkpoint).awaitTermination();
    assertThat(spark.table("paid")).isEmpty();

    spark.sql("INSERT INTO payments VALUES (1, TIMESTAMP'2025-03-01 10:30:00')");
    StreamStreamJoin.appendAvailable(paid, "paid", checkpoint).awaitTermination();
    assertThat(spark.table("paid").selectExpr(TIMES)).hasRows(row(1L, "10:00", "10:30"));
  }

  private Dataset<Row> join(String condition, String type) {
    return orders()
        .withWatermark("order_time", "20 minutes")
        .join(payments().withWatermark("payment_time", "10 minutes"), expr(condition), type);
  }

  private void assertUnsupported(Dataset<Row> joined, String mode, String message) {
    assertThatThrownBy(() -> new Emitted(joined, mode, inputs).close())
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining(message);
  }

  @ParameterizedTest
  @CsvSource({
    "left_outer, LeftOuter",
    "right_outer, RightOuter",
    "full_outer, FullOuter",
    "left_semi, LeftSemi"
  })
  void withoutBoundsNothingIsEverWithoutAMatch(String type, String name) {
    assertUnsupported(
        join("order_id = paid_order_id", type),
        "append",
        "Stream-stream %s join between two streaming DataFrame/Datasets is not supported without a watermark"
            .formatted(name));
  }

  @Test
  void boundsAreOfNoUseWithoutTheWatermarkOfTheSideThatMayBeMissing() {
    Dataset<Row> onlyOrders =
        orders()
            .withWatermark("order_time", "20 minutes")
            .join(payments(), expr(WITHIN_AN_HOUR), "left_outer");

    assertUnsupported(onlyOrders, "append", "a watermark on the nullable side");
  }

  @Test
  void thereIsNoAntiJoinAndNoUpdateMode() {
    assertUnsupported(
        join(WITHIN_AN_HOUR, "left_anti"), "append", "LeftAnti joins with a streaming");
    assertUnsupported(
        join(WITHIN_AN_HOUR, "inner"), "update", "is not supported in Update output mode");
  }
}
