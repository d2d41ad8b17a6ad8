package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Instant;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaUnsupportedOperationException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class MergeUpsertTest {
  private static final Instant DAY_1 = Instant.parse("2025-03-01T00:00:00Z");
  private static final Instant DAY_2 = Instant.parse("2025-03-02T00:00:00Z");

  private static final Row ADA = row(1L, "Ada", "Berlin", DAY_1);
  private static final Row GRACE = row(2L, "Grace", "Paris", DAY_1);
  private static final Row RADIA = row(3L, "Radia", "Rome", DAY_1);

  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    changes(
            spark,
            "(1L, 'Ada', 'Berlin', TIMESTAMP'2025-03-01')",
            "(2L, 'Grace', 'Paris', TIMESTAMP'2025-03-01')",
            "(3L, 'Radia', 'Rome', TIMESTAMP'2025-03-01')")
        .write()
        .format("delta")
        .saveAsTable("customers");
  }

  private static Dataset<Row> changes(SparkSession spark, String... rows) {
    return spark.sql(
        "SELECT * FROM VALUES %s AS v (customer_id, name, city, updated_at)"
            .formatted(String.join(", ", rows)));
  }

  private static Dataset<Row> operations(SparkSession spark, String... rows) {
    return spark.sql(
        "SELECT * FROM VALUES %s AS v (customer_id, name, city, updated_at, op)"
            .formatted(String.join(", ", rows)));
  }

  @Test
  void anUpsertUpdatesOneRowAndInsertsOneInOneVersion(SparkSession spark) {
    MergeUpsert.upsert(
        spark,
        "customers",
        changes(
            spark,
            "(2L, 'Grace', 'Madrid', TIMESTAMP'2025-03-02')",
            "(4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02')"));

    assertThat(spark.table("customers"))
        .hasRows(ADA, row(2L, "Grace", "Madrid", DAY_2), RADIA, row(4L, "Edsger", "Vienna", DAY_2));
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
    assertThat(TableState.metrics(spark, "customers"))
        .containsEntry("numTargetRowsUpdated", "1")
        .containsEntry("numTargetRowsInserted", "1")
        .containsEntry("numTargetRowsDeleted", "0");
  }

  @Test
  void theSqlUpsertDoesTheSame(SparkSession spark) {
    changes(
            spark,
            "(2L, 'Grace', 'Madrid', TIMESTAMP'2025-03-02')",
            "(4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02')")
        .createOrReplaceTempView("new_customers");

    MergeUpsert.upsertInSql(spark, "customers", "new_customers");

    assertThat(spark.table("customers"))
        .hasRows(ADA, row(2L, "Grace", "Madrid", DAY_2), RADIA, row(4L, "Edsger", "Vienna", DAY_2));
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
  }

  @Test
  void twoChangesOfOneRowAreRefusedAndNothingIsWritten(SparkSession spark) {
    Dataset<Row> ambiguous =
        changes(
            spark,
            "(1L, 'Ada', 'Hamburg', TIMESTAMP'2025-03-01')",
            "(1L, 'Ada', 'Munich', TIMESTAMP'2025-03-02')",
            "(4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02')");

    assertThatThrownBy(() -> MergeUpsert.upsert(spark, "customers", ambiguous))
        .isInstanceOfSatisfying(
            DeltaUnsupportedOperationException.class,
            e ->
                assertThat(e.getCondition())
                    .isEqualTo("DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE"));

    assertThat(spark.table("customers")).hasRows(ADA, GRACE, RADIA);
    assertThat(TableState.version(spark, "customers")).isZero();
  }

  @Test
  void theLatestChangeOfEachCustomerIsNotAmbiguous(SparkSession spark) {
    Dataset<Row> latest =
        MergeUpsert.latestPerCustomer(
            changes(
                spark,
                "(1L, 'Ada', 'Munich', TIMESTAMP'2025-03-02')",
                "(1L, 'Ada', 'Hamburg', TIMESTAMP'2025-03-01')",
                "(2L, 'Grace', 'Lyon', TIMESTAMP'2025-03-01')"));

    assertThat(latest).hasRows(row(1L, "Ada", "Munich", DAY_2), row(2L, "Grace", "Lyon", DAY_1));
  }

  @Test
  void anUnknownColumnIsRefused(SparkSession spark) {
    Dataset<Row> noKey = spark.sql("SELECT 1L AS id, 'Ada' AS name");

    assertThatThrownBy(() -> MergeUpsert.upsert(spark, "customers", noKey))
        .isInstanceOfSatisfying(
            AnalysisException.class,
            e -> assertThat(e.getCondition()).startsWith("DELTA_MERGE_UNRESOLVED_EXPRESSION"));
    assertThat(TableState.version(spark, "customers")).isZero();
  }

  @Test
  void changesUpdateDeleteAndInsertByTheirOperation(SparkSession spark) {
    MergeUpsert.applyChanges(
        spark,
        "customers",
        operations(
            spark,
            "(1L, 'Ada', 'Munich', TIMESTAMP'2025-03-02', 'upsert')",
            "(2L, NULL, NULL, TIMESTAMP'2025-03-02', 'delete')",
            "(4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02', 'upsert')",
            "(5L, NULL, NULL, TIMESTAMP'2025-03-02', 'delete')"));

    assertThat(spark.table("customers"))
        .hasRows(row(1L, "Ada", "Munich", DAY_2), RADIA, row(4L, "Edsger", "Vienna", DAY_2));
    assertThat(TableState.metrics(spark, "customers"))
        .containsEntry("numTargetRowsUpdated", "1")
        .containsEntry("numTargetRowsInserted", "1")
        .containsEntry("numTargetRowsDeleted", "1");
  }

  @Test
  void aChangeThatComesTooLateIsLeftOut(SparkSession spark) {
    MergeUpsert.applyChanges(
        spark,
        "customers",
        operations(
            spark,
            "(1L, 'Ada', 'Hamburg', TIMESTAMP'2025-02-01', 'upsert')",
            "(2L, NULL, NULL, TIMESTAMP'2025-02-01', 'delete')"));

    assertThat(spark.table("customers")).hasRows(ADA, GRACE, RADIA);
  }

  @Test
  void aFullSyncMakesTheTableEqualToItsSource(SparkSession spark) {
    Dataset<Row> source =
        changes(
            spark,
            "(1L, 'Ada', 'Berlin', TIMESTAMP'2025-03-01')",
            "(2L, 'Grace', 'Madrid', TIMESTAMP'2025-03-02')",
            "(5L, 'Leslie', 'Oslo', TIMESTAMP'2025-03-02')");

    MergeUpsert.fullSync(spark, "customers", source);

    assertThat(spark.table("customers")).hasSameRowsAs(source);
    assertThat(TableState.metrics(spark, "customers"))
        .as("the row that is equal on both sides is not updated")
        .containsEntry("numTargetRowsUpdated", "1")
        .containsEntry("numTargetRowsInserted", "1")
        .containsEntry("numTargetRowsDeleted", "1");
  }

  @Test
  void aFullSyncWithAnEmptySourceIsRefused(SparkSession spark) {
    assertThatThrownBy(
            () -> MergeUpsert.fullSync(spark, "customers", spark.table("customers").limit(0)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("the source is empty: customers would lose every row");
    assertThat(spark.table("customers")).hasRows(ADA, GRACE, RADIA);
  }

  @Test
  void aBatchThatComesTwiceIsStoredOnce(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(1_000).duplicates(0.1);
    Dataset<Row> batch = data.events();
    batch.limit(0).write().format("delta").saveAsTable("events");

    MergeUpsert.insertNew(spark, "events", batch);
    assertThat(TableState.metrics(spark, "events")).containsEntry("numTargetRowsInserted", "1000");

    MergeUpsert.insertNew(spark, "events", batch);
    assertThat(TableState.version(spark, "events")).as("not even a new version").isEqualTo(1);
    assertThat(spark.table("events").select("event_id").distinct()).hasRowCount(1_000);
    assertThat(spark.table("events")).hasRowCount(1_000);
    assertThat(batch).hasRowCount(1_000 + data.duplicateCount());
  }
}
