package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class StreamStaticJoinTest {
  private static final String ORDER = "order_id BIGINT, customer_id BIGINT, order_time TIMESTAMP";
  private static final String VERSION =
      "customer_id BIGINT, city STRING, valid_from TIMESTAMP, valid_to TIMESTAMP";

  private Rows orders;

  @BeforeEach
  void createTables(SparkSession spark, Sandbox sandbox) {
    orders = new Rows(spark, ORDER);
    spark.sql("CREATE TABLE customers (customer_id BIGINT, city STRING) USING delta");
    spark.sql("INSERT INTO customers VALUES (1, 'Bern'), (2, 'Lyon')");
  }

  /** The columns order_id and city of what comes out. */
  private Emitted start(Dataset<Row> enriched) throws Exception {
    return new Emitted(enriched.select("order_id", "city"), "append", orders);
  }

  private void add(long order, long customer) {
    add(order, customer, "2025-03-01 10:00:00");
  }

  private void add(long order, long customer, String time) {
    orders.add("(%d, %d, '%s')".formatted(order, customer, time));
  }

  @Test
  void aDeltaTableIsReadAnewForEachBatchAndNothingIsKept(SparkSession spark) throws Exception {
    try (Emitted enriched =
        start(StreamStaticJoin.enrich(orders.stream(), spark.table("customers")))) {
      add(11, 1);
      add(12, 3);
      assertThat(enriched.next()).containsExactlyInAnyOrder("11 Bern", "12 null");

      spark.sql("UPDATE customers SET city = 'Rome' WHERE customer_id = 1");
      spark.sql("INSERT INTO customers VALUES (3, 'Oslo')");
      add(13, 1);
      add(14, 3);
      assertThat(enriched.next()).containsExactlyInAnyOrder("13 Rome", "14 Oslo");

      spark.sql("DELETE FROM customers WHERE customer_id = 1");
      add(15, 1);
      assertThat(enriched.next()).containsExactly("15 null");
      assertThat(enriched.query().lastProgress().stateOperators()).isEmpty();
    }
  }

  @Test
  void oneVersionOfADeltaTableStaysThatVersion(SparkSession spark) throws Exception {
    Dataset<Row> pinned = spark.read().option("versionAsOf", 1).table("customers");
    try (Emitted enriched = start(StreamStaticJoin.enrich(orders.stream(), pinned))) {
      add(11, 1);
      assertThat(enriched.next()).containsExactly("11 Bern");
      spark.sql("UPDATE customers SET city = 'Rome' WHERE customer_id = 1");
      add(12, 1);
      assertThat(enriched.next()).containsExactly("12 Bern");
    }
  }

  private static void overwrite(SparkSession spark, String folder, String... customers) {
    spark
        .sql(
            "SELECT CAST(id AS BIGINT) AS customer_id, city FROM VALUES %s AS v (id, city)"
                .formatted(String.join(", ", customers)))
        .write()
        .mode("overwrite")
        .parquet(folder);
  }

  /** The trap: the files are those of the moment in which the folder was opened. */
  @Test
  void aNewParquetFileIsNotSeenAndOneThatIsGoneStopsTheStream(SparkSession spark, Sandbox sandbox)
      throws Exception {
    String folder = sandbox.path("files");
    overwrite(spark, folder, "(1, 'Bern')");
    try (Emitted enriched =
        start(StreamStaticJoin.enrich(orders.stream(), spark.read().parquet(folder)))) {
      add(11, 1);
      assertThat(enriched.next()).containsExactly("11 Bern");

      spark.sql("SELECT 3L AS customer_id, 'Oslo' AS city").write().mode("append").parquet(folder);
      add(12, 3);
      assertThat(spark.read().parquet(folder)).hasRows(row(1L, "Bern"), row(3L, "Oslo"));
      assertThat(enriched.next()).containsExactly("12 null");

      overwrite(spark, folder, "(1, 'Rome')");
      add(13, 1);
      assertRefused("FAILED_READ_FILE.FILE_NOT_EXIST", enriched::next);
    }
  }

  @Test
  void aParquetFolderThatIsOpenedForEachBatchIsUpToDate(SparkSession spark, Sandbox sandbox)
      throws Exception {
    String folder = sandbox.path("files");
    spark.sql("CREATE TABLE orders (%s) USING delta".formatted(ORDER));
    overwrite(spark, folder, "(1, 'Bern')");
    StreamingQuery query = startWithFiles(spark, sandbox, folder);
    try {
      spark.sql("INSERT INTO orders VALUES (11, 1, NULL)");
      query.processAllAvailable();
      overwrite(spark, folder, "(1, 'Rome')", "(3, 'Oslo')");
      spark.sql("INSERT INTO orders VALUES (12, 1, NULL), (13, 3, NULL)");
      query.processAllAvailable();
    } finally {
      query.stop();
    }
    assertThat(spark.table("enriched").select("order_id", "city"))
        .hasRows(row(11L, "Bern"), row(12L, "Rome"), row(13L, "Oslo"));
  }

  @Test
  void aBatchOfItThatIsRunAgainIsPassedOver(SparkSession spark, Sandbox sandbox) throws Exception {
    String folder = sandbox.path("files");
    spark.sql("CREATE TABLE orders (%s) USING delta".formatted(ORDER));
    overwrite(spark, folder, "(1, 'Bern')");
    spark.sql("INSERT INTO orders VALUES (11, 1, NULL)");
    for (int start = 0; start < 2; start++) {
      StreamingQuery query = startWithFiles(spark, sandbox, folder);
      try {
        query.processAllAvailable();
        assertThat(query.recentProgress()[0].batchId()).isZero();
      } finally {
        query.stop();
      }
      Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    }
    assertThat(spark.table("enriched").select("order_id", "city")).hasRows(row(11L, "Bern"));
  }

  private static StreamingQuery startWithFiles(SparkSession spark, Sandbox sandbox, String folder)
      throws Exception {
    return StreamStaticJoin.appendWithFiles(
        spark.readStream().table("orders"),
        folder,
        "enriched",
        "enrichment",
        sandbox.path("checkpoint"));
  }

  /** Another job: it changes a Delta table. */
  static final class Move {
    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("move");
      spark.sql("UPDATE delta.`%s` SET city = '%s'".formatted(args[0], args[1]));
      SparkSessions.close(spark);
    }
  }

  /** The trap: a cache is refreshed by the writes of its own session, and by no others. */
  @Test
  void aCachedDeltaTableMissesWhatAnotherJobWrites(SparkSession spark, Sandbox sandbox)
      throws Exception {
    String location = sandbox.path("location");
    spark.table("customers").write().format("delta").save(location);
    Dataset<Row> cached = spark.read().format("delta").load(location).cache();
    try (Emitted enriched = start(StreamStaticJoin.enrich(orders.stream(), cached))) {
      add(11, 1);
      assertThat(enriched.next()).containsExactly("11 Bern");
      spark.sql("UPDATE delta.`%s` SET city = 'Rome'".formatted(location));
      add(12, 1);
      assertThat(enriched.next()).as("this session wrote").containsExactly("12 Rome");

      ChildJvm job = ChildJvm.run(Move.class, List.of("-Xmx1g"), location, "Oslo");
      assertThat(job.exitCode()).as(job.output()).isZero();
      add(13, 1);
      assertThat(enriched.next()).as("another process wrote").containsExactly("13 Rome");

      cached.unpersist();
      add(14, 1);
      assertThat(enriched.next()).containsExactly("14 Oslo");
    } finally {
      cached.unpersist();
    }
  }

  private static Dataset<Row> history(SparkSession spark, String... rows) {
    spark.sql("CREATE TABLE history (%s) USING delta".formatted(VERSION));
    insertHistory(spark, rows);
    return spark.table("history");
  }

  private static void insertHistory(SparkSession spark, String... rows) {
    spark.sql("INSERT INTO history VALUES " + String.join(", ", rows));
  }

  private static final String[] MOVE = {
    "(1, 'Bern', '2025-01-01 00:00:00', '2025-04-01 00:00:00')",
    "(1, 'Rome', '2025-04-01 00:00:00', NULL)"
  };

  @Test
  void anOrderMeetsTheCityOfItsTimeWhenItComesLateToo(SparkSession spark) throws Exception {
    Dataset<Row> history = history(spark, MOVE);
    try (Emitted asOf = start(StreamStaticJoin.enrichAsOf(orders.stream(), history))) {
      add(11, 1, "2025-05-01 00:00:00");
      assertThat(asOf.next()).containsExactly("11 Rome");

      add(12, 1, "2025-01-01 00:00:00");
      add(13, 1, "2025-03-31 23:59:59");
      add(14, 1, "2025-04-01 00:00:00");
      add(15, 1, "2024-12-31 23:59:59");
      add(16, 2, "2025-03-01 00:00:00");
      assertThat(asOf.next())
          .containsExactlyInAnyOrder("12 Bern", "13 Bern", "14 Rome", "15 null", "16 null");
      assertThat(asOf.query().lastProgress().stateOperators()).isEmpty();
    }
  }

  @Test
  void theCurrentCityIsWrongForAnOrderThatComesLate(SparkSession spark) throws Exception {
    Dataset<Row> current = history(spark, MOVE).where("valid_to IS NULL");
    try (Emitted enriched = start(StreamStaticJoin.enrich(orders.stream(), current))) {
      add(11, 1, "2025-03-01 00:00:00");
      assertThat(enriched.next()).as("it was Bern").containsExactly("11 Rome");
    }
  }

  @Test
  void fiveHundredOrdersInAnyOrderMeetTheCityThatAJavaComputationGives(SparkSession spark)
      throws Exception {
    Random random = new Random(7);
    Map<Long, TreeMap<Instant, String>> cities = new TreeMap<>();
    List<Row> versions = new ArrayList<>();
    for (int i = 0; i < 20; i++) {
      long customer = i;
      TreeMap<Instant, String> moves = new TreeMap<>();
      for (int move = 0; move < 5; move++) {
        moves.put(Instant.ofEpochSecond(1_740_000_000 + random.nextInt(10_000_000)), "c" + move);
      }
      moves.forEach(
          (from, city) ->
              versions.add(RowFactory.create(customer, city, from, moves.higherKey(from))));
      cities.put(customer, moves);
    }
    spark
        .createDataFrame(versions, StructType.fromDDL(VERSION))
        .write()
        .format("delta")
        .saveAsTable("history");
    List<String> expected = new ArrayList<>();
    List<String> emitted = new ArrayList<>();
    try (Emitted asOf =
        start(StreamStaticJoin.enrichAsOf(orders.stream(), spark.table("history")))) {
      for (int batch = 0; batch < 4; batch++) {
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < 125; i++) {
          long order = batch * 125L + i;
          long customer = random.nextInt(20);
          Instant time = Instant.ofEpochSecond(1_740_000_000 + random.nextInt(10_000_000));
          rows.add(RowFactory.create(order, customer, time));
          Map.Entry<Instant, String> city = cities.get(customer).floorEntry(time);
          expected.add(order + " " + (city == null ? null : city.getValue()));
        }
        orders.add(rows);
        emitted.addAll(asOf.next());
      }
    }
    assertThat(expected).hasSize(500).anyMatch(order -> order.endsWith("null"));
    assertThat(emitted).containsExactlyInAnyOrderElementsOf(expected);
  }

  @Test
  void aCustomerOrAChangeThatComesAfterTheOrderIsNotSeenUntilItIsCorrected(
      SparkSession spark, Sandbox sandbox) throws Exception {
    spark.sql("CREATE TABLE orders (%s) USING delta".formatted(ORDER));
    history(spark, "(1, 'Bern', '2025-01-01 00:00:00', NULL)");
    spark.sql(
        """
        INSERT INTO orders VALUES (11, 1, '2025-03-01 00:00:00'), (12, 1, '2025-05-01 00:00:00'),
          (13, 3, '2025-05-01 00:00:00'), (14, 9, '2025-05-01 00:00:00')
        """);
    enrichAsOf(spark, sandbox);
    spark.sql("UPDATE history SET valid_to = '2025-04-01 00:00:00' WHERE customer_id = 1");
    insertHistory(
        spark,
        "(1, 'Rome', '2025-04-01 00:00:00', NULL)",
        "(3, 'Oslo', '2025-02-01 00:00:00', '2025-04-15 00:00:00')",
        "(3, 'Wien', '2025-04-15 00:00:00', NULL)");
    enrichAsOf(spark, sandbox);
    assertThat(spark.table("enriched").select("order_id", "city"))
        .as("a left join keeps orders without a customer")
        .hasRows(row(11L, "Bern"), row(12L, "Bern"), row(13L, null), row(14L, null));

    StreamStaticJoin.correct(spark, "enriched", "history");
    assertThat(spark.table("enriched").select("order_id", "city"))
        .hasRows(row(11L, "Bern"), row(12L, "Rome"), row(13L, "Wien"), row(14L, null));
    assertThat(updatedRows(spark)).isEqualTo("2");

    long versions = spark.sql("DESCRIBE HISTORY enriched").count();
    StreamStaticJoin.correct(spark, "enriched", "history");
    assertThat(spark.sql("DESCRIBE HISTORY enriched"))
        .as("nothing is left to correct, and nothing is written")
        .hasRowCount(versions);
  }

  private static void enrichAsOf(SparkSession spark, Sandbox sandbox) throws Exception {
    StreamStaticJoin.append(
            StreamStaticJoin.enrichAsOf(spark.readStream().table("orders"), spark.table("history")),
            "enriched",
            sandbox.path("checkpoint"))
        .awaitTermination();
  }

  private static String updatedRows(SparkSession spark) {
    return spark
        .sql("DESCRIBE HISTORY enriched LIMIT 1")
        .selectExpr("operationMetrics['numTargetRowsUpdated']")
        .head()
        .getString(0);
  }

  /** The trap: a history whose rows overlap multiplies the orders. */
  @Test
  void anOverlappingHistoryDoublesAnOrderAndCorrectRefusesIt(SparkSession spark) throws Exception {
    Dataset<Row> history =
        history(
            spark,
            "(1, 'Bern', '2025-01-01 00:00:00', NULL)",
            "(1, 'Rome', '2025-04-01 00:00:00', NULL)");
    try (Emitted asOf = start(StreamStaticJoin.enrichAsOf(orders.stream(), history))) {
      add(11, 1, "2025-05-01 00:00:00");
      assertThat(asOf.next()).containsExactlyInAnyOrder("11 Bern", "11 Rome");
    }

    spark.sql(
        "CREATE TABLE enriched USING delta AS SELECT 11L AS order_id, 1L AS customer_id,"
            + " TIMESTAMP'2025-05-01 00:00:00' AS order_time, CAST(NULL AS STRING) AS city");
    assertRefused(
        "DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE",
        () -> StreamStaticJoin.correct(spark, "enriched", "history"));
    assertThat(spark.table("enriched").select("city")).hasRows(row((Object) null));
  }

  @Test
  void theStreamMustBeTheSideThatIsKept(SparkSession spark) {
    for (String type : new String[] {"left", "left_semi", "left_anti"}) {
      assertThatThrownBy(
              () ->
                  new Emitted(
                          spark
                              .table("customers")
                              .join(orders.stream(), new String[] {"customer_id"}, type),
                          "append",
                          orders)
                      .close())
          .as(type)
          .isInstanceOf(AnalysisException.class)
          .hasMessageContaining("with a streaming DataFrame/Dataset on the right");
    }
  }
}
