package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.window;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.stream.Stream;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

@SparkTest
class StateReaderTest {
  private static final String STORE = "spark.sql.streaming.stateStore.";

  enum Store {
    DEFAULT,
    ROCKS_DB;

    void use(SparkSession spark) {
      if (this == ROCKS_DB) {
        ArbitraryState.useRocksDb(spark);
        spark.conf().set(STORE + "rocksdb.changelogCheckpointing.enabled", "true");
      }
    }
  }

  private String checkpoint;

  @BeforeEach
  void createTables(SparkSession spark, Sandbox sandbox) {
    checkpoint = sandbox.path("checkpoint");
    spark.sql("CREATE TABLE orders (id INT, product STRING, amount BIGINT) USING delta");
    spark.sql("CREATE TABLE totals (product STRING, total BIGINT) USING delta");
  }

  private StreamingQuery arrive(SparkSession spark, String orders) throws Exception {
    spark.sql("INSERT INTO orders VALUES " + orders);
    StreamingQuery query =
        StateReader.upsertAvailable(
            StateReader.totals(spark.readStream().table("orders")), "totals", checkpoint);
    query.awaitTermination();
    return query;
  }

  private void threeArrivals(SparkSession spark) throws Exception {
    arrive(spark, "(1, 'lamp', 20), (2, 'desk', 150)");
    arrive(spark, "(3, 'lamp', 3000), (4, 'rug', 80)");
    arrive(spark, "(5, 'lamp', 25), (6, 'desk', 150)");
  }

  /** A folder for the checkpoint of a query that is given none. */
  private static void useCheckpoint(SparkSession spark, Sandbox sandbox) {
    spark.conf().set("spark.sql.streaming.checkpointLocation", sandbox.path("checkpoints"));
  }

  private static String only(Sandbox sandbox) throws IOException {
    try (Stream<Path> folders = Files.list(sandbox.folder().resolve("checkpoints"))) {
      return folders.findFirst().orElseThrow().toUri().toString();
    }
  }

  @ParameterizedTest
  @EnumSource
  void theStateOfAnAggregationAfterEachBatch(Store store, SparkSession spark) throws Exception {
    store.use(spark);
    threeArrivals(spark);

    assertThat(StateReader.stateAfter(spark, checkpoint, 0))
        .hasSchema("product STRING, sum BIGINT")
        .hasRows(row("lamp", 20L), row("desk", 150L));
    assertThat(StateReader.stateAfter(spark, checkpoint, 1))
        .hasRows(row("lamp", 3_020L), row("desk", 150L), row("rug", 80L));
    assertThat(StateReader.stateAfter(spark, checkpoint, 2))
        .hasRows(row("lamp", 3_045L), row("desk", 300L), row("rug", 80L))
        .hasSameRowsAs(spark.table("totals").withColumnRenamed("total", "sum"));
    assertThat(StateReader.operators(spark, checkpoint).drop("operatorProperties"))
        .hasRows(row(0L, "stateStoreSave", "default", 2, 0L, 2L));
    assertRefused(
        "STDS_COMMITTED_BATCH_UNAVAILABLE", () -> StateReader.stateAfter(spark, checkpoint, 3));
  }

  @ParameterizedTest
  @EnumSource
  void theChangesTellWhichBatchMadeATotalWhatItIs(Store store, SparkSession spark)
      throws Exception {
    store.use(spark);
    threeArrivals(spark);

    assertThat(StateReader.changes(spark, checkpoint, 0).where("product = 'lamp'"))
        .hasSchema("batch_id BIGINT, change_type STRING, product STRING, sum BIGINT")
        .hasRows(
            row(0L, "update", "lamp", 20L),
            row(1L, "update", "lamp", 3_020L),
            row(2L, "update", "lamp", 3_045L));
    assertThat(StateReader.changes(spark, checkpoint, 2))
        .as("only what batch 2 changed")
        .hasRows(row(2L, "update", "lamp", 3_045L), row(2L, "update", "desk", 300L));
  }

  @Test
  void theChangesTellWhatIsForgotten(SparkSession spark, Sandbox sandbox) throws Exception {
    useCheckpoint(spark, sandbox);
    Rows events = new Rows(spark, "time TIMESTAMP");
    Dataset<Row> counts =
        events.stream()
            .withWatermark("time", "0 seconds")
            .groupBy(window(col("time"), "10 minutes"))
            .count();
    try (Emitted emitted = new Emitted(counts, "append", events)) {
      events.add("('2025-03-01 10:01:00')");
      emitted.next();
      events.add("('2025-03-01 10:20:00')");
      emitted.next();
    }
    assertThat(
            StateReader.changes(spark, only(sandbox), 0)
                .selectExpr("change_type", "date_format(window.start, 'HH:mm')", "count"))
        .hasRows(
            row("update", "10:00", 1L), row("update", "10:20", 1L), row("delete", "10:00", null));
  }

  @Test
  void rocksDbHasChangesWithItsChangelogOnly(SparkSession spark) throws Exception {
    ArbitraryState.useRocksDb(spark);
    threeArrivals(spark);

    assertThat(StateReader.stateAfter(spark, checkpoint, 1)).hasRowCount(3);
    assertRefused(
        "CANNOT_LOAD_STATE_STORE.CANNOT_READ_STREAMING_STATE_FILE",
        () -> StateReader.changes(spark, checkpoint, 1).count());
  }

  @Test
  void aSnapshotAndTheChangelogsAfterItAreTheState(SparkSession spark) throws Exception {
    ArbitraryState.useRocksDb(spark);
    arrive(spark, "(1, 'lamp', 20), (2, 'desk', 150)");
    // Batch 0 has written a snapshot; these two write changelogs.
    Store.ROCKS_DB.use(spark);
    arrive(spark, "(3, 'lamp', 3000), (4, 'rug', 80)");
    arrive(spark, "(5, 'lamp', 25), (6, 'desk', 150)");
    Dataset<Row> all = spark.read().format("statestore").load(checkpoint);

    for (int partition = 0; partition < 2; partition++) {
      assertThat(
              spark
                  .read()
                  .format("statestore")
                  .option("snapshotStartBatchId", 0)
                  .option("snapshotPartitionId", partition)
                  .load(checkpoint))
          .hasSameRowsAs(all.where("partition_id = " + partition));
    }
    assertThat(all.select("key.*", "value.*"))
        .hasRows(row("lamp", 3_045L), row("desk", 300L), row("rug", 80L));
    assertRefused(
        "CANNOT_LOAD_STATE_STORE.UNCATEGORIZED",
        () ->
            spark
                .read()
                .format("statestore")
                .option("snapshotStartBatchId", 1)
                .option("snapshotPartitionId", 0)
                .load(checkpoint)
                .count());
  }

  @Test
  void batchesThatAreTooOldAreGone(SparkSession spark) throws Exception {
    spark.conf().set("spark.sql.streaming.minBatchesToRetain", "2");
    for (int i = 0; i < 5; i++) {
      arrive(spark, "(%d, 'lamp', 1)".formatted(i));
    }
    Row batches =
        StateReader.operators(spark, checkpoint).select("minBatchId", "maxBatchId").head();
    long oldest = batches.getLong(0);
    assertThat(oldest).isPositive();
    assertThat(batches.getLong(1)).isEqualTo(4);

    assertThat(StateReader.stateAfter(spark, checkpoint, oldest)).hasRows(row("lamp", oldest + 1));
    assertRefused(
        "STDS_COMMITTED_BATCH_UNAVAILABLE",
        () -> StateReader.stateAfter(spark, checkpoint, oldest - 1));
  }

  @ParameterizedTest
  @EnumSource
  void theRowsThatAJoinKeeps(Store store, SparkSession spark, Sandbox sandbox) throws Exception {
    store.use(spark);
    useCheckpoint(spark, sandbox);
    Rows orders = new Rows(spark, "order_id BIGINT, order_time TIMESTAMP");
    Rows payments = new Rows(spark, "paid_order_id BIGINT, payment_time TIMESTAMP");
    try (Emitted paid =
        new Emitted(
            StreamStreamJoin.paidOrNot(orders.stream(), payments.stream()),
            "append",
            orders,
            payments)) {
      orders.add("(1, '2025-03-01 10:00:00')", "(2, '2025-03-01 10:01:00')");
      payments.add("(1, '2025-03-01 10:10:00')", "(9, '2025-03-01 10:12:00')");
      paid.next();
      String join = only(sandbox);

      assertThat(StateReader.joinRows(spark, join, "left").selectExpr("order_id"))
          .hasRows(row(1L), row(2L));
      assertThat(StateReader.joinRows(spark, join, "right").selectExpr("paid_order_id"))
          .hasRows(row(1L), row(9L));
      assertThat(StateReader.operators(spark, join).select("operatorName", "stateStoreName"))
          .hasRows(
              row("symmetricHashJoin", "left-keyToNumValues"),
              row("symmetricHashJoin", "left-keyWithIndexToValue"),
              row("symmetricHashJoin", "right-keyToNumValues"),
              row("symmetricHashJoin", "right-keyWithIndexToValue"));

      orders.add("(3, '2025-03-01 12:00:00')");
      payments.add("(4, '2025-03-01 12:00:00')");
      paid.next();
      assertThat(StateReader.joinRows(spark, join, "left").selectExpr("order_id"))
          .as("the watermark is 11:40: 1 and 2 get no payment anymore")
          .hasRows(row(3L));
      assertThat(StateReader.joinRows(spark, join, "right").selectExpr("paid_order_id"))
          .hasRows(row(4L));
    }
  }

  @Test
  void theVariablesOfTransformWithState(SparkSession spark, Sandbox sandbox) throws Exception {
    Store.ROCKS_DB.use(spark);
    useCheckpoint(spark, sandbox);
    Rows actions =
        new Rows(spark, "customer_id BIGINT, action STRING, product STRING, action_time TIMESTAMP");
    Dataset<Row> none =
        spark.sql(
            """
            SELECT 0L AS customer_id, '' AS product, 0 AS pieces, TIMESTAMP'2025-01-01' AS last_action
            WHERE FALSE
            """);
    try (Emitted abandoned =
        new Emitted(
            ArbitraryState.abandoned(actions.stream(), Duration.ofMinutes(30), none),
            "append",
            actions)) {
      actions.add(
          "(1, 'add', 'desk', '2025-03-01 10:00:00')", "(1, 'add', 'lamp', '2025-03-01 10:01:00')");
      abandoned.next();
    }
    String query = only(sandbox);

    assertThat(
            StateReader.variable(spark, query, "pieces")
                .selectExpr("key.value", "user_map_key.value", "user_map_value.value"))
        .hasRows(row(1L, "desk", 1), row(1L, "lamp", 1));
    assertThat(
            StateReader.variable(spark, query, "last_action")
                .selectExpr("key.value", "timestamp_millis(value.value) AS time")
                .selectExpr("value", "date_format(time, 'HH:mm')"))
        .hasRows(row(1L, "10:01"));
    assertThat(
            StateReader.operators(spark, query)
                .selectExpr(
                    "operatorName",
                    "get_json_object(operatorProperties, '$.stateVariables[*].stateName') AS v"))
        .hasRows(
            row(
                "transformWithStateExec",
                "[\"pieces\",\"last_action\",\"$eventTimers_keyToTimestamp\"]"));
    assertRefused(
        "STDS_INVALID_OPTION_VALUE.WITH_MESSAGE",
        () -> StateReader.variable(spark, query, "other").count());
  }

  private static Dataset<Row> kept(SparkSession spark, String checkpoint, long batch) {
    return StateReader.stateAfter(spark, checkpoint, batch).withColumnRenamed("sum", "total");
  }

  private static Dataset<Row> totals(SparkSession spark, String rows) {
    return spark.sql(
        "SELECT product, CAST(total AS BIGINT) AS total FROM VALUES %s AS v (product, total)"
            .formatted(rows));
  }

  @Test
  void wrongKeysAreThoseThatDifferOrAreOnOneSide(SparkSession spark) throws Exception {
    threeArrivals(spark);

    assertThat(
            StateReader.wrong(
                kept(spark, checkpoint, 2),
                totals(spark, "('lamp', 75), ('desk', 300), ('vase', 1)")))
        .hasSchema("product STRING, kept BIGINT, right BIGINT")
        .hasRows(row("lamp", 3_045L, 75L), row("rug", 80L, null), row("vase", null, 1L));
  }

  @Test
  void aNewQueryGoesOnFromTheCorrectedState(SparkSession spark, Sandbox sandbox) throws Exception {
    threeArrivals(spark);
    spark.sql("INSERT INTO orders VALUES (7, 'lamp', 40), (8, 'vase', 15)");
    long next = StateReader.nextVersion(spark, checkpoint);
    assertThat(next).as("after CREATE TABLE and three arrivals").isEqualTo(4);
    Store.ROCKS_DB.use(spark);

    Dataset<Row> corrected = totals(spark, "('lamp', 75), ('desk', 300), ('rug', 80)");
    StateReader.upsert(corrected, "totals");
    assertThat(spark.table("totals")).hasRows(row("lamp", 75L), row("desk", 300L), row("rug", 80L));

    String repaired = sandbox.path("repaired");
    StreamingQuery query = goOn(spark, next, corrected, repaired);
    assertThat(query.recentProgress()[0].numInputRows()).as("orders 7 and 8").isEqualTo(2);
    assertThat(spark.table("totals"))
        .hasRows(row("lamp", 115L), row("desk", 300L), row("rug", 80L), row("vase", 15L));
    assertThat(
            StateReader.variable(spark, repaired, "total").selectExpr("key.value", "value.value"))
        .hasRows(row("lamp", 115L), row("desk", 300L), row("rug", 80L), row("vase", 15L));

    spark.sql("INSERT INTO orders VALUES (9, 'desk', 150), (10, 'desk', 150)");
    goOn(spark, next, totals(spark, "('desk', 1)"), repaired);
    assertThat(spark.table("totals"))
        .as("the initial state is for the first start only")
        .hasRows(row("lamp", 115L), row("desk", 600L), row("rug", 80L), row("vase", 15L));
  }

  private static StreamingQuery goOn(
      SparkSession spark, long version, Dataset<Row> start, String checkpoint) throws Exception {
    StreamingQuery query =
        StateReader.upsertAvailable(
            StateReader.totalsFrom(
                spark.readStream().option("startingVersion", version).table("orders"), start),
            "totals",
            checkpoint);
    query.awaitTermination();
    return query;
  }

  @Test
  void theNextVersionIsThatAfterTheLastCommittedBatch(SparkSession spark, Sandbox sandbox)
      throws Exception {
    threeArrivals(spark);
    // As if the process had died in batch 2: what it would read is noted, that it is done is not.
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 2);

    assertThat(StateReader.nextVersion(spark, checkpoint)).isEqualTo(3);
    assertThat(StateReader.operators(spark, checkpoint).select("maxBatchId")).hasRows(row(1L));
  }

  @Test
  void aVersionThatIsReadInPartHasNoNext(SparkSession spark) throws Exception {
    spark.sql("INSERT INTO orders SELECT /*+ REPARTITION(2) */ id, 'lamp', 1 FROM range(100)");
    StreamingQuery query =
        StateReader.totals(spark.readStream().option("maxFilesPerTrigger", 1).table("orders"))
            .writeStream()
            .outputMode("update")
            .option("checkpointLocation", checkpoint)
            .foreachBatch(
                (VoidFunction2<Dataset<Row>, Long>)
                    (batch, id) -> {
                      if (id == 1) {
                        throw new IOException("the first batch is enough");
                      }
                      batch.count();
                    })
            .start();
    assertThatThrownBy(query::awaitTermination).hasMessageContaining("the first batch is enough");

    assertThatThrownBy(() -> StateReader.nextVersion(spark, checkpoint))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("version 1 is read in part");
  }
}
