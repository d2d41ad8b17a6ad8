package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class FirstStreamTest {
  private String folder;
  private String checkpoint;
  private Dataset<Row> events;

  @BeforeEach
  void locate(SparkSession spark, Sandbox sandbox) {
    folder = sandbox.path("events");
    checkpoint = sandbox.path("checkpoint");
    events = SampleData.of(spark).rows(2_000).events();
  }

  private void arrive(long from, long to) {
    events
        .where("event_id >= %d AND event_id < %d".formatted(from, to))
        .write()
        .mode("append")
        .json(folder);
  }

  private StreamingQuery update(SparkSession spark) throws Exception {
    Dataset<Row> stream = FirstStream.readAsStream(spark, folder, events.schema().toDDL());
    StreamingQuery query =
        FirstStream.update(FirstStream.countByType(stream), "counts", checkpoint);
    query.awaitTermination();
    return query;
  }

  @Test
  void afterEachArrivalTheTableHasWhatABatchOverAllFilesGives(SparkSession spark) throws Exception {
    for (long start = 0; start < 2_000; start += 500) {
      arrive(start, start + 500);
      update(spark);

      Dataset<Row> batch = FirstStream.readAsBatch(spark, folder, events.schema().toDDL());
      assertThat(batch).hasRowCount(start + 500);
      assertThat(spark.table("counts")).hasSameRowsAs(FirstStream.countByType(batch));
    }
  }

  @Test
  void theCountsAreThoseOfTheEvents(SparkSession spark) throws Exception {
    spark
        .sql("SELECT * FROM VALUES ('view'), ('cart'), ('view') AS e (event_type)")
        .write()
        .json(folder);
    update(spark);

    assertThat(spark.table("counts")).hasRows(row("view", 2L), row("cart", 1L));
  }

  @Test
  void aSecondStartReadsOnlyTheFilesThatAreNew(SparkSession spark) throws Exception {
    arrive(0, 1_500);
    assertThat(update(spark).lastProgress().numInputRows()).isEqualTo(1_500);
    arrive(1_500, 2_000);
    assertThat(update(spark).lastProgress().numInputRows()).isEqualTo(500);
  }

  @Test
  void aStartWithNothingNewMakesNoVersion(SparkSession spark) throws Exception {
    arrive(0, 1_000);
    update(spark);
    long versions = spark.sql("DESCRIBE HISTORY counts").count();
    update(spark);

    assertThat(spark.sql("DESCRIBE HISTORY counts")).hasRowCount(versions);
  }

  @Test
  void withoutACheckpointTheStreamIsRefused(SparkSession spark) {
    arrive(0, 100);
    Dataset<Row> counts =
        FirstStream.countByType(FirstStream.readAsStream(spark, folder, events.schema().toDDL()));

    assertThatThrownBy(
            () -> counts.writeStream().format("delta").outputMode("complete").toTable("counts"))
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining("checkpointLocation must be specified");
    assertThat(spark.table("counts")).as("created, and nothing written").isEmpty();
  }

  @Test
  void aFolderThatIsNotThereIsNamed(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "PATH_NOT_FOUND",
        () ->
            FirstStream.update(
                FirstStream.countByType(
                    FirstStream.readAsStream(
                        spark, sandbox.path("nothing"), events.schema().toDDL())),
                "counts",
                checkpoint));
  }
}
