package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.util.Set;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class CloneTableTest {
  private Dataset<Row> orders;

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    orders =
        spark.range(0, 4_000, 1, 4).selectExpr("id AS order_id", "CAST(id % 7 AS INT) AS amount");
    orders.write().format("delta").saveAsTable("orders");
  }

  @Test
  void aCloneHasTheRowsAndNoFileOfItsOwn(SparkSession spark, Sandbox sandbox) throws IOException {
    CloneTable.shallowClone(spark, "orders", "experiment");

    assertThat(spark.table("experiment")).hasSameRowsAs(orders);
    assertThat(TableState.filesOnDisk(sandbox, "experiment")).isEmpty();
    assertThat(CloneTable.sharedFiles(spark, "orders", "experiment")).hasRowCount(4);
  }

  @Test
  void everyKindOfWriteToTheCloneLeavesTheSourceAsItWas(SparkSession spark) {
    Set<String> files = TableState.files(spark, "orders");
    CloneTable.shallowClone(spark, "orders", "experiment");

    spark.sql("DELETE FROM experiment WHERE order_id < 2500");
    spark.sql("UPDATE experiment SET amount = 100 WHERE order_id < 3000");
    spark.sql("INSERT INTO experiment VALUES (9999, 5)");
    spark.sql(
        """
        MERGE INTO experiment AS t USING (SELECT 3999L AS order_id, 200 AS amount) AS s
        ON t.order_id = s.order_id WHEN MATCHED THEN UPDATE SET *
        """);
    spark.sql("OPTIMIZE experiment");
    spark.sql("ALTER TABLE experiment ADD COLUMN note STRING");
    TableState.vacuumAll(spark, "experiment");

    assertThat(
            spark.sql(
                "SELECT count(*), count_if(amount = 100), count_if(amount = 200) FROM experiment"))
        .hasRows(row(1_501L, 500L, 1L));
    assertThat(spark.table("orders")).hasSameRowsAs(orders);
    assertThat(TableState.files(spark, "orders")).isEqualTo(files);
    assertThat(TableState.version(spark, "orders")).isZero();

    spark.sql("DROP TABLE experiment");
    assertThat(spark.table("orders")).hasSameRowsAs(orders);
  }

  @Test
  void aFileThatTheCloneRewritesIsItsOwn(SparkSession spark, Sandbox sandbox) throws IOException {
    CloneTable.shallowClone(spark, "orders", "experiment");

    spark.sql("UPDATE experiment SET amount = 100 WHERE order_id = 0");

    assertThat(CloneTable.sharedFiles(spark, "orders", "experiment")).hasRowCount(3);
    assertThat(TableState.filesOnDisk(sandbox, "experiment")).hasSize(1);
  }

  @Test
  void laterWritesToTheSourceAreNotInTheClone(SparkSession spark) {
    CloneTable.shallowClone(spark, "orders", "experiment");

    spark.sql("UPDATE orders SET amount = 0");
    spark.sql("INSERT INTO orders VALUES (9999, 5)");

    assertThat(spark.table("experiment")).hasSameRowsAs(orders);
  }

  @Test
  void aCloneOfAnEarlierVersionHasItsRows(SparkSession spark) {
    spark.sql("DELETE FROM orders WHERE order_id >= 10");

    CloneTable.shallowCloneAt(spark, "orders", 0, "before");

    assertThat(spark.table("before")).hasSameRowsAs(orders);
    assertThat(spark.table("orders")).hasRowCount(10);
  }

  @Test
  void aVersionThatDoesNotExistIsRefusedAndMakesNoTable(SparkSession spark) {
    assertRefused(
        "DELTA_VERSION_NOT_FOUND", () -> CloneTable.shallowCloneAt(spark, "orders", 7, "before"));
    assertThat(spark.catalog().tableExists("before")).isFalse();
  }

  @Test
  void aTableThatIsThereIsNotOverwritten(SparkSession spark) {
    spark.sql("CREATE TABLE taken (id INT) USING delta");
    spark.sql("INSERT INTO taken VALUES (1)");

    assertRefused(
        "DELTA_TABLE_ALREADY_EXISTS", () -> CloneTable.shallowClone(spark, "orders", "taken"));
    assertThat(spark.table("taken")).hasRows(row(1));
  }

  @Test
  void filesThatTheSourcesVacuumTakesAreMissingInTheClone(SparkSession spark) {
    CloneTable.shallowClone(spark, "orders", "experiment");
    spark.sql("DELETE FROM orders WHERE order_id < 1000");
    TableState.vacuumAll(spark, "orders");

    assertRefused(
        "FAILED_READ_FILE.FILE_NOT_EXIST", () -> spark.table("experiment").collectAsList());
    assertThat(spark.sql("SELECT count(amount) FROM experiment WHERE order_id >= 1000"))
        .hasRows(row(3_000L));
  }
}
