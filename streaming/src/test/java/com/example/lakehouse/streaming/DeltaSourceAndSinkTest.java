package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class DeltaSourceAndSinkTest {
  private String checkpoint;

  @BeforeEach
  void createSource(SparkSession spark, Sandbox sandbox) {
    checkpoint = sandbox.path("checkpoint");
    spark.sql(
        """
        CREATE TABLE source (id BIGINT, name STRING) USING delta
        TBLPROPERTIES (
          'delta.enableChangeDataFeed' = 'true', 'delta.columnMapping.mode' = 'name')
        """);
    spark.sql(
        """
        CREATE TABLE target (id BIGINT, name STRING) USING delta
        TBLPROPERTIES ('delta.columnMapping.mode' = 'name')
        """);
  }

  /** Version 1 has rows 1 and 2 in one file, version 2 row 3 in another. */
  private static void insertThree(SparkSession spark) {
    insert(spark, "(1, 'a'), (2, 'b')");
    insert(spark, "(3, 'c')");
  }

  private static void insert(SparkSession spark, String rows) {
    spark
        .sql("SELECT CAST(id AS BIGINT) AS id, name FROM VALUES %s AS v (id, name)".formatted(rows))
        .coalesce(1)
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("source");
  }

  private void append(Dataset<Row> rows) throws Exception {
    DeltaSourceAndSink.appendAvailable(rows, "target", checkpoint).awaitTermination();
  }

  private static long versions(SparkSession spark) {
    return spark.sql("DESCRIBE HISTORY target").count();
  }

  @Test
  void theFirstStartReadsTheTableAsItIsWhateverItsHistory(SparkSession spark) throws Exception {
    insertThree(spark);
    spark.sql("UPDATE source SET name = 'B' WHERE id = 2");
    spark.sql("DELETE FROM source WHERE id = 3");
    append(DeltaSourceAndSink.read(spark, "source"));
    assertThat(spark.table("target")).hasRows(row(1L, "a"), row(2L, "B"));

    insert(spark, "(4, 'd')");
    append(DeltaSourceAndSink.read(spark, "source"));
    assertThat(spark.table("target")).hasRows(row(1L, "a"), row(2L, "B"), row(4L, "d"));
  }

  @Test
  void aStartingVersionIsTheFirstThatIsReadAndHoldsForTheFirstStartOnly(SparkSession spark)
      throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.readFrom(spark, "source", 2));
    assertThat(spark.table("target")).hasRows(row(3L, "c"));

    append(DeltaSourceAndSink.readFrom(spark, "source", 1));
    assertThat(spark.table("target")).as("the checkpoint knows better").hasRows(row(3L, "c"));
  }

  @Test
  void aStartingVersionThatIsNotThereYetIsRefused(SparkSession spark) {
    insertThree(spark);

    assertRefused(
        "DELTA_VERSION_NOT_FOUND", () -> append(DeltaSourceAndSink.readFrom(spark, "source", 3)));
    assertThat(spark.table("target")).isEmpty();
  }

  @Test
  void fromAVersionBeforeAnUpdateTheStreamRunsIntoIt(SparkSession spark) throws Exception {
    insertThree(spark);
    spark.sql("UPDATE source SET name = 'B' WHERE id = 2");

    assertRefused(
        "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
        () -> append(DeltaSourceAndSink.readFrom(spark, "source", 1)));
    assertThat(spark.table("target")).as("not even the rows from before it").isEmpty();
  }

  @Test
  void anUpdateStopsTheStreamAndADeleteToo(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source"));

    spark.sql("DELETE FROM source WHERE id = 3");
    assertRefused(
        "DELTA_SOURCE_IGNORE_DELETE", () -> append(DeltaSourceAndSink.read(spark, "source")));
    spark.sql("UPDATE source SET name = 'B' WHERE id = 2");
    insert(spark, "(4, 'd')");
    assertRefused(
        "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
        () -> append(spark.readStream().option("ignoreDeletes", "true").table("source")));

    assertThat(spark.table("target"))
        .as("nothing after it, and nothing taken back")
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"));
  }

  @Test
  void compactionIsNoChange(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source"));
    spark.sql("OPTIMIZE source");
    insert(spark, "(4, 'd')");
    append(DeltaSourceAndSink.read(spark, "source"));

    assertThat(spark.table("target"))
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(4L, "d"));
  }

  /** The trap: a version is passed over with all that it does. */
  @Test
  void skippingChangesAlsoSkipsWhatTheSameMergeInserts(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.readAppends(spark, "source"));
    merge(spark, "(3, 'C'), (4, 'd')");
    merge(spark, "(5, 'e')");
    spark.sql("DELETE FROM source WHERE id = 1");
    insert(spark, "(6, 'f')");
    append(DeltaSourceAndSink.readAppends(spark, "source"));

    assertThat(spark.table("source"))
        .hasRows(row(2L, "b"), row(3L, "C"), row(4L, "d"), row(5L, "e"), row(6L, "f"));
    assertThat(spark.table("target"))
        .as("without 4; the MERGE of 5 only inserts")
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(5L, "e"), row(6L, "f"));
  }

  private static void merge(SparkSession spark, String rows) {
    spark.sql(
        """
        MERGE INTO source AS s USING (SELECT * FROM VALUES %s AS v (id, name)) AS c ON s.id = c.id
        WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *
        """
            .formatted(rows));
  }

  @Test
  void changesComeAsRowsThatSayWhatTheyAre(SparkSession spark, Sandbox sandbox) throws Exception {
    insertThree(spark);
    changes(spark, sandbox);
    merge(spark, "(3, 'C'), (4, 'd')");
    spark.sql("DELETE FROM source WHERE id = 1");
    changes(spark, sandbox);

    assertThat(spark.table("changes").drop("_commit_timestamp"))
        .hasRows(
            row(1L, "a", "insert", 2L),
            row(2L, "b", "insert", 2L),
            row(3L, "c", "insert", 2L),
            row(3L, "c", "update_preimage", 3L),
            row(3L, "C", "update_postimage", 3L),
            row(4L, "d", "insert", 3L),
            row(1L, "a", "delete", 4L));
  }

  private static void changes(SparkSession spark, Sandbox sandbox) throws Exception {
    DeltaSourceAndSink.appendAvailable(
            DeltaSourceAndSink.readChanges(spark, "source"), "changes", sandbox.path("changes"))
        .awaitTermination();
  }

  @Test
  void anAddedColumnStopsARunningStreamAndIsThereAfterANewStart(SparkSession spark)
      throws Exception {
    insertThree(spark);
    Dataset<Row> before = DeltaSourceAndSink.read(spark, "source");
    StreamingQuery running = DeltaSourceAndSink.append(before, checkpoint).toTable("target");
    try {
      running.processAllAvailable();
      spark.sql("ALTER TABLE source ADD COLUMN price INT");
      spark.sql("INSERT INTO source VALUES (4, 'd', 80)");
      assertRefused("DELTA_SCHEMA_CHANGED_WITH_VERSION", running::processAllAvailable);
    } finally {
      running.stop();
    }
    assertRefused(
        "DELTA_METADATA_MISMATCH", () -> append(DeltaSourceAndSink.read(spark, "source")));
    assertThat(spark.table("target")).as("nothing yet").hasRowCount(3);

    DeltaSourceAndSink.appendWithNewColumns(
            DeltaSourceAndSink.read(spark, "source"), "target", checkpoint)
        .awaitTermination();
    assertThat(spark.table("target"))
        .hasSchema("id BIGINT, name STRING, price INT")
        .hasRows(row(1L, "a", null), row(2L, "b", null), row(3L, "c", null), row(4L, "d", 80));
  }

  @Test
  void whoSelectsColumnsGoesOnWithoutTheNewOneAfterANewStart(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source").select("id", "name"));
    spark.sql("ALTER TABLE source ADD COLUMN price INT");
    spark.sql("INSERT INTO source VALUES (4, 'd', 80)");
    append(DeltaSourceAndSink.read(spark, "source").select("id", "name"));

    assertThat(spark.table("target"))
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(4L, "d"));
  }

  @Test
  void aStreamDatasetFromBeforeTheChangeDoesNotDoForTheNewStart(SparkSession spark)
      throws Exception {
    insertThree(spark);
    Dataset<Row> before = DeltaSourceAndSink.read(spark, "source");
    append(before);
    spark.sql("ALTER TABLE source ADD COLUMN price INT");
    spark.sql("INSERT INTO source VALUES (4, 'd', 80)");

    assertThatThrownBy(() -> append(before))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining("assertion failed: Invalid batch");
    assertThat(spark.table("target")).hasRowCount(3);
  }

  @Test
  void aRenamedColumnStopsAStreamWithoutASchemaLog(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source"));
    spark.sql("ALTER TABLE source RENAME COLUMN name TO title");
    insert(spark, "(4, 'd')", "title");

    assertRefused(
        "DELTA_STREAMING_INCOMPATIBLE_SCHEMA_CHANGE_USE_SCHEMA_LOG",
        () -> append(DeltaSourceAndSink.read(spark, "source")));
    assertThat(spark.table("target")).hasRowCount(3);
  }

  private static void insert(SparkSession spark, String row, String nameColumn) {
    spark.sql("INSERT INTO source (id, %s) VALUES %s".formatted(nameColumn, row));
  }

  @Test
  void aRenamedColumnGoesThroughWithASchemaLogAndConsent(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.readTracked(spark, "source", checkpoint));
    insert(spark, "(4, 'd')");
    spark.sql("ALTER TABLE source RENAME COLUMN name TO title"); // version 4
    insert(spark, "(5, 'e')", "title");

    assertRefused(
        "DELTA_STREAMING_METADATA_EVOLUTION",
        () -> append(DeltaSourceAndSink.readTracked(spark, "source", checkpoint)));
    assertThat(spark.table("target"))
        .as("all from before the change, under the old name")
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(4L, "d"));
    assertRefused(
        "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
        () -> append(DeltaSourceAndSink.readTracked(spark, "source", checkpoint)));
    assertRefused(
        "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION",
        () -> append(DeltaSourceAndSink.readAccepting(spark, "source", checkpoint, 3)));

    spark.sql("ALTER TABLE target RENAME COLUMN name TO title");
    append(DeltaSourceAndSink.readAccepting(spark, "source", checkpoint, 4));
    assertThat(spark.table("target"))
        .hasSchema("id BIGINT, title STRING")
        .hasSameRowsAs(spark.table("source"))
        .hasRowCount(5);
  }

  @Test
  void aDroppedColumnGoesThroughWithASchemaLogAndConsent(SparkSession spark) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.readTracked(spark, "source", checkpoint));
    spark.sql("ALTER TABLE source DROP COLUMN name"); // version 3
    spark.sql("INSERT INTO source VALUES (4)");
    for (String stop :
        new String[] {
          "DELTA_STREAMING_METADATA_EVOLUTION",
          "DELTA_STREAMING_CANNOT_CONTINUE_PROCESSING_POST_SCHEMA_EVOLUTION"
        }) {
      assertRefused(
          stop, () -> append(DeltaSourceAndSink.readTracked(spark, "source", checkpoint)));
    }

    append(DeltaSourceAndSink.readAccepting(spark, "source", checkpoint, 3));
    assertThat(spark.table("target"))
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(4L, null));
  }

  @Test
  void theSchemaLogMustBeUnderTheCheckpoint(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "DELTA_STREAMING_SCHEMA_LOCATION_NOT_UNDER_CHECKPOINT",
        () -> append(DeltaSourceAndSink.readTracked(spark, "source", sandbox.path("elsewhere"))));
  }

  @Test
  void aBatchThatIsRunAgainWritesNothing(SparkSession spark, Sandbox sandbox) throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source"));
    long versions = versions(spark);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    insert(spark, "(4, 'd')");

    StreamingQuery again =
        DeltaSourceAndSink.appendAvailable(
            DeltaSourceAndSink.read(spark, "source"), "target", checkpoint);
    again.awaitTermination();

    assertThat(again.recentProgress()[0].batchId()).as("it was run again").isZero();
    assertThat(again.recentProgress()[0].numInputRows()).isZero();
    assertThat(versions(spark)).as("one for batch 1").isEqualTo(versions + 1);
    assertThat(spark.table("target"))
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(4L, "d"));
  }

  /** The trap: what was written is known by the checkpoint's id. */
  @Test
  void anotherCheckpointWritesEverythingAgain(SparkSession spark, Sandbox sandbox)
      throws Exception {
    insertThree(spark);
    append(DeltaSourceAndSink.read(spark, "source"));
    DeltaSourceAndSink.appendAvailable(
            DeltaSourceAndSink.read(spark, "source"), "target", sandbox.path("another"))
        .awaitTermination();

    assertThat(spark.table("target")).hasRowCount(6);
  }

  @Test
  void twoStreamsAndABatchShareTheTarget(SparkSession spark, Sandbox sandbox) throws Exception {
    spark.sql("CREATE TABLE more (id BIGINT, name STRING) USING delta");
    spark.sql("INSERT INTO more VALUES (10, 'x')");
    insertThree(spark);
    StreamingQuery one =
        DeltaSourceAndSink.append(DeltaSourceAndSink.read(spark, "source"), checkpoint)
            .trigger(Trigger.AvailableNow())
            .toTable("target");
    StreamingQuery other =
        DeltaSourceAndSink.appendAvailable(
            DeltaSourceAndSink.read(spark, "more"), "target", sandbox.path("more"));
    spark.sql("INSERT INTO target VALUES (20, 'y')");
    one.awaitTermination();
    other.awaitTermination();

    assertThat(spark.table("target"))
        .hasRows(row(1L, "a"), row(2L, "b"), row(3L, "c"), row(10L, "x"), row(20L, "y"));
  }
}
