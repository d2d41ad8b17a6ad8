package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaLog;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class TransactionLogTest {
  private Path log;
  private String location;

  /** Version 1 adds two files, version 2 replaces one of them, version 3 removes the other. */
  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    log = sandbox.folder().resolve("schema/orders/_delta_log");
    location = sandbox.path("schema/orders");
    spark.sql(
        """
        CREATE TABLE orders (order_id BIGINT, status STRING) USING delta
        TBLPROPERTIES ('delta.checkpointInterval' = '1000')
        """);
    TransactionLog.append(
        "orders",
        spark.range(0, 100, 1, 2).selectExpr("id AS order_id", "'open' AS status"),
        "import of 2024");
    spark.sql("UPDATE orders SET status = 'shipped' WHERE order_id = 0");
    spark.sql("DELETE FROM orders WHERE order_id >= 50");
  }

  private List<String> logFiles(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(name -> name.matches("\\d{20}\\..*(json|parquet)"))
          .sorted()
          .toList();
    }
  }

  @Test
  void aVersionIsAFileOfActions(SparkSession spark) {
    assertThat(
            TransactionLog.actions(spark, location)
                .where("action <> 'commitInfo'")
                .groupBy("version", "action")
                .count())
        .hasRows(
            row(0L, "protocol", 1L),
            row(0L, "metaData", 1L),
            row(1L, "add", 2L),
            row(2L, "remove", 1L),
            row(2L, "add", 1L),
            row(3L, "remove", 1L));
  }

  @Test
  void theCommitsAddUpToTheFilesThatSparkReads(SparkSession spark) {
    List<String> fromCommits =
        TransactionLog.filesFromCommits(spark, location).collectAsList().stream()
            .map(file -> location + "/" + file.getString(0))
            .toList();

    assertThat(fromCommits).hasSize(1);
    assertThat(TableState.files(spark, "orders").stream().map(f -> f.replace("file:/", "file:///")))
        .containsExactlyInAnyOrderElementsOf(fromCommits);
  }

  @Test
  void aFileThatIsRemovedAndRestoredIsInTheTable(SparkSession spark) {
    spark.sql("RESTORE TABLE orders TO VERSION AS OF 1");

    assertThat(TransactionLog.filesFromCommits(spark, location)).hasRowCount(2);
    assertThat(spark.table("orders").where("status = 'open'")).hasRowCount(100);
  }

  @Test
  void theStateOfACheckpointIsThatOfTheCommits(SparkSession spark) throws IOException {
    for (int i = 0; i < 5; i++) {
      spark.sql("INSERT INTO orders VALUES (%d, 'open')".formatted(200 + i));
    }
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.checkpointInterval' = '10')");
    spark.sql("UPDATE orders SET status = 'late' WHERE order_id = 201");

    String checkpoint = "00000000000000000010.checkpoint.parquet";
    assertThat(logFiles(log)).contains(checkpoint);
    assertThat(TransactionLog.filesFromCheckpoint(spark, location + "/_delta_log/" + checkpoint))
        .hasSameRowsAs(TransactionLog.filesFromCommits(spark, location))
        .hasRowCount(6);
  }

  @Test
  void theStateOfAV2CheckpointIsTooAndStandsInSidecars(SparkSession spark) throws IOException {
    TransactionLog.useV2Checkpoints(spark, "orders");
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.checkpointInterval' = '6')");
    spark.sql("INSERT INTO orders VALUES (200, 'open')");

    assertThat(logFiles(log))
        .filteredOn(name -> name.contains("checkpoint"))
        .singleElement()
        .asString()
        .matches("00000000000000000006\\.checkpoint\\.[0-9a-f-]{36}\\.(parquet|json)");
    assertThat(TransactionLog.filesFromCheckpoint(spark, location + "/_delta_log/_sidecars"))
        .hasSameRowsAs(TransactionLog.filesFromCommits(spark, location))
        .hasRowCount(2);
  }

  @Test
  void aTableThatIsReadFromItsCheckpointHasTheSameRows(SparkSession spark) throws IOException {
    var before = spark.table("orders").localCheckpoint();
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.checkpointInterval' = '4')");
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.checkpointInterval' = '5')");
    assertThat(logFiles(log)).contains("00000000000000000005.checkpoint.parquet");

    // Without the commits before it there is nothing else to read.
    for (int version = 0; version < 5; version++) {
      Files.delete(log.resolve("%020d.json".formatted(version)));
    }
    DeltaLog.clearCache();

    assertThat(spark.table("orders")).hasSameRowsAs(before);
    assertThat(TableState.version(spark, "orders")).isEqualTo(5);
  }

  @Test
  void oldCommitsAreCleanedUpOnceACheckpointCoversThem(SparkSession spark) throws IOException {
    for (String name : logFiles(log)) {
      Files.setLastModifiedTime(
          log.resolve(name), FileTime.from(Instant.now().minus(Duration.ofDays(40))));
    }
    DeltaLog.clearCache();
    spark.sql(
        """
        ALTER TABLE orders SET TBLPROPERTIES
          ('delta.checkpointInterval' = '1', 'delta.logRetentionDuration' = 'interval 30 days')
        """);
    spark.sql("INSERT INTO orders VALUES (300, 'open')");
    spark.sql("INSERT INTO orders VALUES (301, 'open')");

    assertThat(logFiles(log))
        .as("commits 0 to 3 are older than 30 days")
        .doesNotContain(
            "00000000000000000000.json", "00000000000000000001.json", "00000000000000000002.json")
        .contains("00000000000000000006.json", "00000000000000000006.checkpoint.parquet");
    DeltaLog.clearCache();
    assertThat(spark.sql("SELECT count(*), max(order_id) FROM orders")).hasRows(row(52L, 301L));
  }

  @Test
  void theHistorySaysWhoDidWhatAndWhy(SparkSession spark) {
    assertThat(
            TransactionLog.whoDidWhat(spark, "orders")
                .selectExpr(
                    "version",
                    "operation",
                    "coalesce(operationMetrics.numOutputRows, operationMetrics.numUpdatedRows, operationMetrics.numDeletedRows)",
                    "userMetadata",
                    "engineInfo"))
        .hasRowsInOrder(
            row(3L, "DELETE", "50", null, "Apache-Spark/4.1.0 Delta-Lake/4.4.0"),
            row(2L, "UPDATE", "1", null, "Apache-Spark/4.1.0 Delta-Lake/4.4.0"),
            row(1L, "WRITE", "100", "import of 2024", "Apache-Spark/4.1.0 Delta-Lake/4.4.0"),
            row(0L, "CREATE TABLE", null, null, "Apache-Spark/4.1.0 Delta-Lake/4.4.0"));
  }
}
