package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import io.delta.tables.DeltaTable;
import java.util.List;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class OptimizeTableTest {
  private static final int FILES = 32;
  private static final String MAX_FILE_SIZE = "spark.databricks.delta.optimize.maxFileSize";

  private static final String ONE_MINUTE =
      "event_time BETWEEN '2025-12-01T00:10:00Z' AND '2025-12-01T00:11:00Z'";
  private static final String ONE_CUSTOMER = "customer_id = 500";

  private Dataset<Row> events;

  @BeforeEach
  void createEvents(SparkSession spark, Sandbox sandbox) {
    events = SampleData.of(spark).rows(8_000).events();
    events.repartition(FILES).write().format("delta").saveAsTable("events");
  }

  @Test
  void compactionMakesOneFileOfManyAndKeepsTheRows(SparkSession spark) {
    Row metrics = OptimizeTable.compact(spark, "events").select("metrics.*").head();

    assertThat(metrics.<Long>getAs("numFilesRemoved")).isEqualTo(FILES);
    assertThat(metrics.<Long>getAs("numFilesAdded")).isEqualTo(1);
    assertThat(TableState.files(spark, "events")).hasSize(1);
    assertThat(spark.table("events")).hasSameRowsAs(events);
    assertThat(TableState.version(spark, "events")).isEqualTo(1);
  }

  @Test
  void compactingATableThatIsCompactWritesNothing(SparkSession spark) {
    OptimizeTable.compact(spark, "events");

    OptimizeTable.compact(spark, "events");

    assertThat(TableState.version(spark, "events")).isEqualTo(1);
  }

  @Test
  void zOrderLetsQueriesOnEitherColumnLeaveOutFiles(SparkSession spark) {
    // Enough customers: Z-order needs about as many distinct values in each column.
    Dataset<Row> more = SampleData.of(spark).rows(32_000).events();
    more.repartition(FILES).write().format("delta").mode("overwrite").saveAsTable("events");
    spark.conf().set(MAX_FILE_SIZE, "65536");

    OptimizeTable.zOrder(spark, "events", "event_time", "customer_id");

    int files = TableState.files(spark, "events").size();
    assertThat(files).isGreaterThanOrEqualTo(8);
    for (String condition : List.of(ONE_MINUTE, ONE_CUSTOMER)) {
      Dataset<Row> query = spark.table("events").where(condition);
      QueryProfile profile = QueryProfile.of(query);
      assertThat(profile.filesPruned()).as(condition).isGreaterThanOrEqualTo(files / 4);
      assertThat(profile.filesPruned()).as(condition).isEqualTo(files - profile.filesRead());
      assertThat(query).hasSameRowsAs(more.where(condition));
    }
    assertThat(spark.table("events")).hasRowCount(32_000);
    assertThat(
            DeltaTable.forName(spark, "events")
                .history(1)
                .selectExpr("operation", "operationParameters.zOrderBy"))
        .hasRows(row("OPTIMIZE", "[\"event_time\",\"customer_id\"]"));
  }

  @Test
  void compactionAloneLeavesNoFileOut(SparkSession spark) {
    spark.conf().set(MAX_FILE_SIZE, "16384");

    OptimizeTable.compact(spark, "events");

    QueryProfile profile = QueryProfile.of(spark.table("events").where(ONE_MINUTE));
    assertThat(profile.filesRead()).isGreaterThanOrEqualTo(8);
    assertThat(profile.filesPruned()).isZero();
  }

  @Test
  void zOrderWithoutColumnsIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> OptimizeTable.zOrder(spark, "events"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("Z-order needs the columns that queries filter on");
  }

  @Test
  void zOrderByAColumnThatDoesNotExistIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> OptimizeTable.zOrder(spark, "events", "no_such_column"))
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e -> assertThat(e.getCondition()).isEqualTo("DELTA_ZORDERING_COLUMN_DOES_NOT_EXIST"));
    assertThat(TableState.version(spark, "events")).isZero();
  }

  @Test
  void autoCompactionFollowsAWriteOfManyFiles(SparkSession spark) {
    OptimizeTable.enableAutoCompaction(spark, "events");

    events.repartition(FILES).write().format("delta").mode("append").saveAsTable("events");

    assertThat(TableState.lastCommit(spark, "events").<String>getAs("operation"))
        .isEqualTo("OPTIMIZE");
    assertThat(TableState.files(spark, "events")).hasSize(1);
    assertThat(spark.table("events")).hasSameRowsAs(events.union(events));
  }

  @Test
  void anOptimizedWriteMakesOneFileOfManyPartitions(SparkSession spark) {
    OptimizeTable.enableOptimizedWrites(spark, "events");

    events.repartition(FILES).write().format("delta").mode("append").saveAsTable("events");

    assertThat(TableState.metrics(spark, "events")).containsEntry("numFiles", "1");
    assertThat(spark.table("events")).hasSameRowsAs(events.union(events));
  }
}
