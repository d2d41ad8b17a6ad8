package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import io.delta.tables.DeltaTable;
import java.util.Set;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class RestoreTableTest {
  private Set<String> filesBefore;

  @BeforeEach
  void createPricesAndSpoilThem(SparkSession spark, Sandbox sandbox) {
    spark
        .range(0, 1_000, 1, 4)
        .selectExpr("id", "id * 2 AS price")
        .write()
        .format("delta")
        .saveAsTable("prices");
    filesBefore = TableState.files(spark, "prices");
    spark.sql("UPDATE prices SET price = 0");
  }

  @Test
  void restoringBringsBackTheRowsAndTheVeryFiles(SparkSession spark) {
    Row result = RestoreTable.restore(spark, "prices", 0).head();

    assertThat(result.<Long>getAs("num_restored_files")).isEqualTo(4);
    assertThat(TableState.files(spark, "prices")).isEqualTo(filesBefore);
    assertThat(spark.table("prices"))
        .hasSameRowsAs(spark.range(1_000).selectExpr("id", "id * 2 AS price"));
  }

  @Test
  void theHistoryKeepsTheMistakeAndItsUndoing(SparkSession spark) {
    RestoreTable.undoLatest(spark, "prices");

    assertThat(DeltaTable.forName(spark, "prices").history().select("version", "operation"))
        .hasRowsInOrder(row(2L, "RESTORE"), row(1L, "UPDATE"), row(0L, "CREATE TABLE AS SELECT"));
    assertThat(spark.sql("SELECT DISTINCT price FROM prices VERSION AS OF 1")).hasRows(row(0L));
    assertThat(spark.table("prices"))
        .hasSameRowsAs(spark.range(1_000).selectExpr("id", "id * 2 AS price"));
  }

  @Test
  void undoingTheUndoingBringsBackTheMistake(SparkSession spark) {
    RestoreTable.undoLatest(spark, "prices");
    RestoreTable.undoLatest(spark, "prices");

    assertThat(spark.sql("SELECT DISTINCT price FROM prices")).hasRows(row(0L));
  }

  @Test
  void aVersionThatDoesNotExistIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> RestoreTable.restore(spark, "prices", 9))
        .isInstanceOfSatisfying(
            AnalysisException.class,
            e -> assertThat(e.getCondition()).isEqualTo("DELTA_CANNOT_RESTORE_TABLE_VERSION"));
    assertThat(TableState.version(spark, "prices")).isEqualTo(1);
  }

  @Test
  void afterVacuumARestoreIsRefusedAndTheTableStaysAsItWas(SparkSession spark) {
    TableState.vacuumAll(spark, "prices");
    long version = TableState.version(spark, "prices");

    assertThatThrownBy(() -> RestoreTable.restore(spark, "prices", 0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("Not all files from version 0 are available in file system");

    assertThat(TableState.version(spark, "prices")).isEqualTo(version);
    assertThat(spark.sql("SELECT DISTINCT price FROM prices")).hasRows(row(0L));
  }
}
