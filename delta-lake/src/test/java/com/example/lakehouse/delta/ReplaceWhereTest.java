package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.LocalDate;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ReplaceWhereTest {
  private static final LocalDate DAY = LocalDate.of(2025, 6, 3);
  private static final String OF_THE_DAY = "order_date = '2025-06-03'";
  private static final String OF_OTHER_DAYS = "order_date <> '2025-06-03'";

  private Dataset<Row> week;

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    week =
        SampleData.of(spark)
            .rows(30_000)
            .orders()
            .where("order_date BETWEEN '2025-06-02' AND '2025-06-08'");
    week.write().format("delta").partitionBy("order_date").saveAsTable("orders");
  }

  @Test
  void theDayIsReplacedAndNoFileOfAnotherIsTouched(SparkSession spark) {
    Set<String> filesBefore = TableState.files(spark, "orders");
    Dataset<Row> corrected = week.where(OF_THE_DAY + " AND status = 'delivered'");

    ReplaceWhere.replaceDay("orders", corrected, DAY);

    assertThat(spark.table("orders")).hasSameRowsAs(week.where(OF_OTHER_DAYS).union(corrected));
    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
    Set<String> kept = new TreeSet<>(filesBefore);
    kept.removeIf(file -> file.contains("order_date=2025-06-03"));
    assertThat(kept).hasSizeGreaterThanOrEqualTo(6);
    assertThat(TableState.files(spark, "orders")).containsAll(kept);
  }

  @Test
  void aJobThatRunsAgainLeavesTheSameTable(SparkSession spark) {
    Dataset<Row> corrected = week.where(OF_THE_DAY + " AND status = 'delivered'");

    ReplaceWhere.replaceDay("orders", corrected, DAY);
    ReplaceWhere.replaceDay("orders", corrected, DAY);

    assertThat(spark.table("orders")).hasSameRowsAs(week.where(OF_OTHER_DAYS).union(corrected));
  }

  @Test
  void aRowOfAnotherDayIsRefusedAndNothingIsReplaced(SparkSession spark) {
    Dataset<Row> mixed = week.where("order_date IN ('2025-06-03', '2025-06-04')");

    assertThatThrownBy(() -> ReplaceWhere.replaceDay("orders", mixed, DAY))
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e -> assertThat(e.getCondition()).isEqualTo("DELTA_REPLACE_WHERE_MISMATCH"));

    assertThat(spark.table("orders")).hasSameRowsAs(week);
    assertThat(TableState.version(spark, "orders")).isZero();
  }

  @Test
  void anEmptyBatchEmptiesTheDayAndNoOther(SparkSession spark) {
    ReplaceWhere.replaceDay("orders", week.limit(0), DAY);

    assertThat(spark.table("orders")).hasSameRowsAs(week.where(OF_OTHER_DAYS));
  }

  @Test
  void onlyThePartitionsOfTheBatchAreReplaced(SparkSession spark) {
    Dataset<Row> weekend = week.where("order_date >= '2025-06-07' AND status = 'delivered'");

    ReplaceWhere.replacePartitions("orders", weekend);

    assertThat(spark.table("orders"))
        .hasSameRowsAs(week.where("order_date < '2025-06-07'").union(weekend));
  }

  @Test
  void anEmptyBatchReplacesNoPartition(SparkSession spark) {
    ReplaceWhere.replacePartitions("orders", week.limit(0));

    assertThat(spark.table("orders")).hasSameRowsAs(week);
  }
}
