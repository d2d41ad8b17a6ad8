package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import io.delta.tables.DeltaTable;
import java.math.BigDecimal;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ForeachBatchUpsertTest {
  private static final String COLUMNS =
      "(order_id BIGINT, status STRING, amount DECIMAL(12,2), changed_at TIMESTAMP)";
  private static final AtomicLong READ = new AtomicLong();

  private String checkpoint;

  @BeforeEach
  void createTables(SparkSession spark, Sandbox sandbox) {
    checkpoint = sandbox.path("checkpoint");
    for (String table : new String[] {"changes", "raw", "orders"}) {
      spark.sql("CREATE TABLE %s %s USING delta".formatted(table, COLUMNS));
    }
    spark.sql("CREATE TABLE payments (shop STRING, amount DECIMAL(12,2)) USING delta");
    spark.sql(
        "CREATE TABLE turnover (shop STRING, turnover DECIMAL(22,2), last_batch BIGINT) USING delta");
  }

  /** Each as {@code (id, 'status', 'time')}. */
  private static void arrive(SparkSession spark, String changes) {
    spark.sql(
        "INSERT INTO changes SELECT id, status, 10.00, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (id, status, time)"
            .formatted(changes));
  }

  private void upsert(SparkSession spark) throws Exception {
    ForeachBatchUpsert.upsertAvailable(spark.readStream().table("changes"), "orders", checkpoint)
        .awaitTermination();
  }

  private StreamingQuery writeBoth(Dataset<Row> changes) throws Exception {
    StreamingQuery query =
        ForeachBatchUpsert.writeBoth(changes, "raw", "orders", "test", checkpoint);
    query.awaitTermination();
    return query;
  }

  private void add(SparkSession spark) throws Exception {
    ForeachBatchUpsert.addAvailable(spark.readStream().table("payments"), "turnover", checkpoint)
        .awaitTermination();
  }

  private static long version(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).history(1).first().<Long>getAs("version");
  }

  private static Dataset<Row> statuses(SparkSession spark) {
    return spark.table("orders").select("order_id", "status");
  }

  @Test
  void theLastChangeOfABatchWins(SparkSession spark) throws Exception {
    arrive(spark, "(1, 'paid', '10:05'), (1, 'new', '10:00'), (2, 'new', '10:01')");
    upsert(spark);

    assertThat(statuses(spark)).hasRows(row(1L, "paid"), row(2L, "new"));
  }

  @Test
  void aLaterBatchUpdatesAndInserts(SparkSession spark) throws Exception {
    arrive(spark, "(1, 'new', '10:00'), (2, 'new', '10:01')");
    upsert(spark);
    arrive(spark, "(2, 'paid', '10:05'), (3, 'new', '10:06')");
    upsert(spark);

    assertThat(statuses(spark)).hasRows(row(1L, "new"), row(2L, "paid"), row(3L, "new"));
  }

  @Test
  void anOlderChangeThatComesLaterChangesNothing(SparkSession spark) throws Exception {
    arrive(spark, "(1, 'paid', '10:05')");
    upsert(spark);
    arrive(spark, "(1, 'new', '10:00')");
    upsert(spark);

    assertThat(statuses(spark)).hasRows(row(1L, "paid"));
  }

  @Test
  void theOrderOfEqualTimesDoesNotDependOnTheOrderOfTheRows(SparkSession spark) {
    arrive(spark, "(1, 'new', '10:00'), (1, 'paid', '10:00')");
    Dataset<Row> changes = spark.table("changes").coalesce(1);

    for (Column order : new Column[] {col("status").asc(), col("status").desc()}) {
      assertThat(ForeachBatchUpsert.latest(changes.sortWithinPartitions(order)).select("status"))
          .hasRows(row("paid"));
    }
  }

  @Test
  void aMergeOfTheWholeBatchWouldBeRefused(SparkSession spark) {
    arrive(spark, "(1, 'new', '10:00')");
    spark.sql("INSERT INTO orders SELECT * FROM changes");
    arrive(spark, "(1, 'paid', '10:05'), (1, 'sent', '10:06')");

    assertRefused(
        "DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE",
        () ->
            DeltaTable.forName(spark, "orders")
                .as("t")
                .merge(spark.table("changes").as("s"), "t.order_id = s.order_id")
                .whenMatched()
                .updateAll()
                .execute());
  }

  @Test
  void aBatchThatIsRunAgainChangesNoRow(SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, "(1, 'new', '10:00'), (1, 'paid', '10:05'), (2, 'new', '10:01')");
    upsert(spark);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    Dataset<Row> before = spark.table("orders").localCheckpoint();

    upsert(spark);

    assertThat(spark.table("orders")).hasSameRowsAs(before);
    Row operation = DeltaTable.forName(spark, "orders").history(1).first();
    assertThat(operation.<String>getAs("operation")).isEqualTo("MERGE");
    assertThat(operation.<String, String>getJavaMap(operation.fieldIndex("operationMetrics")))
        .as("the batch was run again")
        .containsEntry("numSourceRows", "2")
        .containsEntry("numTargetRowsUpdated", "0")
        .containsEntry("numTargetRowsInserted", "0");
  }

  @Test
  void tenThousandOrdersEndAtTheirLastChangeThroughBatchesAndALostCheckpoint(
      SparkSession spark, Sandbox sandbox) throws Exception {
    // Three changes of each order, an hour apart, in random files.
    Dataset<Row> orders = SampleData.of(spark).rows(30_000).orders();
    orders
        .selectExpr(
            "order_id",
            "explode(array('new', 'paid', 'sent')) AS status",
            "amount",
            "order_time AS changed_at")
        .selectExpr(
            "order_id",
            "status",
            "amount",
            "changed_at + make_dt_interval(0, array_position(array('new', 'paid', 'sent'), status)) AS changed_at")
        .repartition(6)
        .write()
        .mode("append")
        .format("delta")
        .saveAsTable("changes");
    for (String each : new String[] {"first", "second"}) {
      ForeachBatchUpsert.upsertAvailable(
              spark.readStream().option("maxFilesPerTrigger", 2).table("changes"),
              "orders",
              sandbox.path(each))
          .awaitTermination();

      assertThat(spark.table("orders"))
          .hasSameRowsAs(
              orders.selectExpr(
                  "order_id",
                  "'sent' AS status",
                  "amount",
                  "order_time + INTERVAL '3' HOUR AS changed_at"));
    }
  }

  @Test
  void aBatchThatIsRunAgainIsAppendedOnce(SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, "(1, 'new', '10:00'), (1, 'paid', '10:05')");
    writeBoth(spark.readStream().table("changes"));
    long version = version(spark, "raw");
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);

    StreamingQuery again = writeBoth(spark.readStream().table("changes"));

    assertThat(again.recentProgress()[0].batchId()).isZero();
    assertThat(version(spark, "raw")).isEqualTo(version);
    assertThat(spark.table("raw")).hasRowCount(2);
  }

  @Test
  void aBatchThatDiesBetweenTheTwoTablesIsInBothOnceAfterTheNextStart(SparkSession spark)
      throws Exception {
    arrive(spark, "(1, 'new', '10:00'), (2, 'new', '10:01')");
    spark.sql("ALTER TABLE orders ADD CONSTRAINT no_order_2 CHECK (order_id <> 2)");

    assertThatThrownBy(() -> writeBoth(spark.readStream().table("changes")))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining("no_order_2");
    assertThat(spark.table("raw")).as("the first table has the batch").hasRowCount(2);
    assertThat(spark.table("orders")).as("the second has not").isEmpty();

    spark.sql("ALTER TABLE orders DROP CONSTRAINT no_order_2");
    writeBoth(spark.readStream().table("changes"));

    assertThat(spark.table("raw")).hasRowCount(2);
    assertThat(statuses(spark)).hasRows(row(1L, "new"), row(2L, "new"));
  }

  @Test
  void theSourceIsReadOnceForBothTables(SparkSession spark) throws Exception {
    arrive(spark, "(1, 'new', '10:00'), (2, 'new', '10:01'), (3, 'new', '10:02')");
    READ.set(0);
    UDF1<Long, Long> counted =
        id -> {
          READ.incrementAndGet();
          return id;
        };
    spark.udf().register("counted", udf(counted, DataTypes.LongType).asNondeterministic());

    writeBoth(
        spark
            .readStream()
            .table("changes")
            .selectExpr("counted(order_id) AS order_id", "status", "amount", "changed_at"));

    assertThat(READ).hasValue(3);
    assertThat(spark.table("raw")).hasRowCount(3);
    assertThat(spark.table("orders")).hasRowCount(3);
  }

  @Test
  void sumsGrowWithEachBatchAndNotWithItsRepetition(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.sql("INSERT INTO payments VALUES ('Bern', 10.00), ('Bern', 5.00), ('Lyon', 7.00)");
    add(spark);
    spark.sql("INSERT INTO payments VALUES ('Bern', 1.00)");
    add(spark);
    assertThat(spark.table("turnover"))
        .hasRows(row("Bern", money("16.00"), 1L), row("Lyon", money("7.00"), 0L));

    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 1);
    add(spark);

    assertThat(spark.table("turnover"))
        .hasRows(row("Bern", money("16.00"), 1L), row("Lyon", money("7.00"), 0L));
  }

  @Test
  void withANewCheckpointSumsGoOnOnlyAfterTheirBatchNumbersAreSetBack(
      SparkSession spark, Sandbox sandbox) throws Exception {
    spark.sql("INSERT INTO payments VALUES ('Bern', 10.00)");
    add(spark);
    spark.sql("INSERT INTO payments VALUES ('Bern', 5.00)");
    Dataset<Row> newPayments = spark.readStream().option("startingVersion", 2).table("payments");

    ForeachBatchUpsert.addAvailable(newPayments, "turnover", sandbox.path("new"))
        .awaitTermination();
    assertThat(spark.table("turnover")).hasRows(row("Bern", money("10.00"), 0L));

    spark.sql("UPDATE turnover SET last_batch = -1");
    ForeachBatchUpsert.addAvailable(newPayments, "turnover", sandbox.path("newer"))
        .awaitTermination();
    assertThat(spark.table("turnover")).hasRows(row("Bern", money("15.00"), 0L));
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }
}
