package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static java.util.stream.Collectors.toMap;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.Map;
import java.util.Set;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** 40,000 events in 4 files; each customer has 40 of them, 10 in each file. */
@SparkTest
class DeletionVectorsTest {

  @BeforeEach
  void createEvents(SparkSession spark, Sandbox sandbox) {
    for (String table : new String[] {"plain", "vectors"}) {
      spark
          .range(0, 40_000, 1, 4)
          .selectExpr(
              "id AS event_id", "id % 1000 AS customer_id", "sha1(CAST(id AS STRING)) AS page")
          .write()
          .format("delta")
          .saveAsTable(table);
    }
    DeletionVectors.enable(spark, "vectors");
  }

  private static Map<String, Row> onDisk(SparkSession spark, String table) {
    return DeletionVectors.onDisk(spark, table).collectAsList().stream()
        .collect(toMap(r -> r.<String>getAs("kind"), r -> r));
  }

  @Test
  void withoutVectorsADeleteRewritesEveryFileThatHoldsARow(SparkSession spark) {
    long before = onDisk(spark, "plain").get("data file").<Long>getAs("bytes");

    Map<String, String> did = DeletionVectors.deleteCustomer(spark, "plain", 7);

    assertThat(did)
        .containsEntry("numDeletedRows", "40")
        .containsEntry("numCopiedRows", "39960")
        .containsEntry("numRemovedFiles", "4")
        .containsEntry("numDeletionVectorsAdded", "0");
    assertThat(Long.parseLong(did.get("numAddedBytes"))).isGreaterThan(before * 9 / 10);
  }

  @Test
  void withVectorsItRewritesNoneAndWritesAFileOfBits(SparkSession spark) {
    Set<String> files = TableState.files(spark, "vectors");

    Map<String, String> did = DeletionVectors.deleteCustomer(spark, "vectors", 7);

    assertThat(did)
        .containsEntry("numDeletedRows", "40")
        .containsEntry("numCopiedRows", "0")
        .containsEntry("numRemovedFiles", "0")
        .containsEntry("numAddedBytes", "0")
        .containsEntry("numDeletionVectorsAdded", "4");
    assertThat(TableState.files(spark, "vectors")).isEqualTo(files);
    Map<String, Row> onDisk = onDisk(spark, "vectors");
    assertThat(onDisk.get("data file").<Long>getAs("files")).isEqualTo(4);
    assertThat(onDisk.get("deletion vector").<Long>getAs("files")).isEqualTo(1);
    assertThat(onDisk.get("deletion vector").<Long>getAs("bytes"))
        .as("a thousandth of the data's bytes")
        .isLessThan(onDisk.get("data file").<Long>getAs("bytes") / 1_000);
  }

  @Test
  void bothTablesHaveTheSameRowsAfterwards(SparkSession spark) {
    for (String table : new String[] {"plain", "vectors"}) {
      DeletionVectors.deleteCustomer(spark, table, 7);
      spark.sql("UPDATE %s SET page = 'x' WHERE customer_id = 8".formatted(table));
      DeletionVectors.deleteCustomer(spark, table, 9);
    }

    assertThat(spark.table("vectors")).hasSameRowsAs(spark.table("plain"));
    assertThat(spark.sql("SELECT count(*), count_if(page = 'x') FROM vectors"))
        .hasRows(row(39_920L, 40L));
  }

  @Test
  void anUpdateMarksTheOldRowsAndWritesOnlyTheNewOnes(SparkSession spark) {
    Set<String> files = TableState.files(spark, "vectors");

    spark.sql("UPDATE vectors SET page = 'x' WHERE customer_id = 8");

    assertThat(TableState.metrics(spark, "vectors"))
        .containsEntry("numUpdatedRows", "40")
        .containsEntry("numCopiedRows", "0")
        .containsEntry("numDeletionVectorsAdded", "4");
    assertThat(TableState.files(spark, "vectors")).containsAll(files);
  }

  @Test
  void theVersionBeforeTheDeleteStillHasTheRows(SparkSession spark) {
    DeletionVectors.deleteCustomer(spark, "vectors", 7);

    assertThat(spark.sql("SELECT count(*) FROM vectors WHERE customer_id = 7")).hasRows(row(0L));
    assertThat(spark.sql("SELECT count(*) FROM vectors VERSION AS OF 1 WHERE customer_id = 7"))
        .hasRows(row(40L));
  }

  @Test
  void aPurgeRewritesTheFilesWithMarkedRowsAndNoOthers(SparkSession spark) {
    Set<String> files = TableState.files(spark, "vectors");
    // The first quarter of the events is one file.
    spark.sql("DELETE FROM vectors WHERE event_id < 10000 AND customer_id = 7");
    var rows = spark.table("vectors").localCheckpoint();

    DeletionVectors.purge(spark, "vectors");

    assertThat(TableState.metrics(spark, "vectors"))
        .containsEntry("numRemovedFiles", "1")
        .containsEntry("numAddedFiles", "1")
        .containsEntry("numDeletionVectorsRemoved", "1");
    assertThat(TableState.files(spark, "vectors").stream().filter(files::contains)).hasSize(3);
    assertThat(spark.table("vectors")).hasSameRowsAs(rows);
  }

  @Test
  void onceAllRowsOfAFileAreMarkedTheFileIsRemoved(SparkSession spark) {
    spark.sql("DELETE FROM vectors WHERE event_id < 10000");

    assertThat(TableState.metrics(spark, "vectors")).containsEntry("numRemovedFiles", "1");
    assertThat(TableState.files(spark, "vectors")).hasSize(3);
  }

  @Test
  void aNameThatIsMoreThanANameIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> DeletionVectors.purge(spark, "vectors APPLY (PURGE); --"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: vectors APPLY (PURGE); --");
  }
}
