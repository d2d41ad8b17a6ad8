package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.callUDF;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.apache.spark.SparkException;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class AcidTransactionsTest {
  private static final long LAST_ORDER = 999;

  private Dataset<Row> orders;

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    // 3,000 items are 1,000 orders.
    orders = SampleData.of(spark).rows(3_000).orders();
    AcidTransactions.append("orders", orders);
  }

  @Test
  void anAppendAddsItsRowsInOneVersion(SparkSession spark) {
    AcidTransactions.append("orders", orders);

    assertThat(spark.table("orders")).hasSameRowsAs(orders.union(orders));
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
    assertThat(TableState.metrics(spark, "orders")).containsEntry("numOutputRows", "1000");
  }

  @Test
  void anUpdateChangesTheMatchingRowsAndNoOthers(SparkSession spark) {
    long matching = orders.where("status = 'open' AND order_date <= '2025-06-30'").count();

    AcidTransactions.updateStatus(spark, "orders", "open", "shipped", "2025-06-30");

    assertThat(spark.table("orders").where("status = 'open' AND order_date <= '2025-06-30'"))
        .isEmpty();
    assertThat(spark.table("orders").where("status <> 'shipped'"))
        .hasSameRowsAs(
            orders.where(
                "status <> 'shipped' AND NOT (status = 'open' AND order_date <= '2025-06-30')"));
    assertThat(TableState.metrics(spark, "orders"))
        .containsEntry("numUpdatedRows", String.valueOf(matching));
    assertThat(matching).isPositive();
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void aDeleteRemovesTheMatchingRowsAndNoOthers(SparkSession spark) {
    AcidTransactions.deleteByStatus(spark, "orders", "cancelled");

    assertThat(spark.table("orders")).hasSameRowsAs(orders.where("status <> 'cancelled'"));
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void theHistoryNamesEachChange(SparkSession spark) {
    AcidTransactions.updateStatus(spark, "orders", "open", "shipped", "2025-12-31");
    AcidTransactions.deleteByStatus(spark, "orders", "cancelled");

    assertThat(AcidTransactions.history(spark, "orders").select("version", "operation"))
        .hasRowsInOrder(row(2L, "DELETE"), row(1L, "UPDATE"), row(0L, "CREATE TABLE AS SELECT"));
  }

  @Test
  void ordersThatAreInOrderAreAppended(SparkSession spark) throws Exception {
    AcidTransactions.appendChecked("orders", orders);

    assertThat(spark.table("orders")).hasSameRowsAs(orders.union(orders));
  }

  @Test
  void oneBadRowInTheLastTaskLeavesVersionRowsAndHistoryAsTheyWere(
      SparkSession spark, Sandbox sandbox) throws IOException {
    long filesBefore = dataFiles(sandbox);
    Dataset<Row> bad =
        orders
            .repartitionByRange(4, col("order_id"))
            .selectExpr(
                "order_id",
                "customer_id",
                "order_time",
                "order_date",
                "status",
                "cast(IF(order_id = " + LAST_ORDER + ", -1, amount) AS DECIMAL(12,2)) AS amount");

    assertThatThrownBy(() -> AcidTransactions.appendChecked("orders", bad))
        .isInstanceOf(SparkException.class)
        .cause()
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e -> {
              assertThat(e.getCondition()).isEqualTo("USER_RAISED_EXCEPTION");
              assertThat(e.getMessageParameters().get("errorMessage"))
                  .startsWith("order 999 has the amount -1");
            });

    assertThat(spark.table("orders")).hasSameRowsAs(orders);
    assertThat(TableState.version(spark, "orders")).isZero();
    assertThat(dataFiles(sandbox))
        .as("the other tasks' files, in no version")
        .isGreaterThan(filesBefore);
  }

  @Test
  void anAmountThatIsMissingIsRefusedToo(SparkSession spark) {
    Dataset<Row> bad =
        orders.withColumn("amount", expr("nullif(amount, CAST(amount AS DECIMAL(12,2)))"));

    assertThatThrownBy(() -> AcidTransactions.appendChecked("orders", bad))
        .isInstanceOf(SparkException.class)
        .hasStackTraceContaining("has the amount NULL");
    assertThat(TableState.version(spark, "orders")).isZero();
  }

  /** The writer's last row waits here, in the JVM that runs the tasks: this one. */
  private static final CountDownLatch READER_IS_DONE = new CountDownLatch(1);

  private static final CountDownLatch WRITER_WAITS = new CountDownLatch(1);

  @Test
  void aReaderNeverSeesPartOfAWrite(SparkSession spark, Sandbox sandbox) throws Exception {
    long filesBefore = dataFiles(sandbox);
    UDF1<Long, Long> waitAtTheLast =
        orderId -> {
          if (orderId == LAST_ORDER) {
            WRITER_WAITS.countDown();
            if (!READER_IS_DONE.await(60, TimeUnit.SECONDS)) {
              throw new IllegalStateException("the reader never came to its end");
            }
          }
          return orderId;
        };
    spark.udf().register("wait_at_the_last", waitAtTheLast, DataTypes.LongType);
    Dataset<Row> slow =
        orders
            .repartitionByRange(4, col("order_id"))
            .withColumn("order_id", callUDF("wait_at_the_last", col("order_id")));

    CompletableFuture<Void> writer =
        CompletableFuture.runAsync(() -> AcidTransactions.append("orders", slow));
    assertThat(WRITER_WAITS.await(60, TimeUnit.SECONDS)).isTrue();

    assertThat(dataFiles(sandbox)).as("files of the write so far").isGreaterThan(filesBefore);
    assertThat(spark.table("orders")).hasSameRowsAs(orders);
    READER_IS_DONE.countDown();
    writer.get(60, TimeUnit.SECONDS);

    assertThat(spark.table("orders")).hasSameRowsAs(orders.union(orders));
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  private static long dataFiles(Sandbox sandbox) throws IOException {
    try (Stream<Path> files = Files.walk(sandbox.folder().resolve("schema/orders"))) {
      List<Path> parquet = files.filter(f -> f.toString().endsWith(".parquet")).toList();
      return parquet.stream().filter(f -> f.toFile().length() > 0).count();
    }
  }
}
