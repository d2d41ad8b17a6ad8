package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class IdempotentWritesTest {

  @BeforeEach
  void createNumbers(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE numbers (id BIGINT) USING delta");
  }

  private static Dataset<Row> batch(SparkSession spark, long from, long until) {
    return spark.range(from, until).toDF();
  }

  @Test
  void aBatchThatIsWrittenAgainIsThereOnceAndMakesNoVersion(SparkSession spark) {
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);

    assertThat(spark.table("numbers")).hasSameRowsAs(batch(spark, 0, 100));
    assertThat(TableState.version(spark, "numbers")).isEqualTo(1);
  }

  @Test
  void anOlderBatchThatComesAgainIsLeftOut(SparkSession spark) {
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);
    IdempotentWrites.writeOnce("numbers", batch(spark, 100, 200), "job", 2);
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);

    assertThat(spark.table("numbers")).hasSameRowsAs(batch(spark, 0, 200));
    assertThat(TableState.version(spark, "numbers")).isEqualTo(2);
  }

  @Test
  void anotherApplicationHasNumbersOfItsOwn(SparkSession spark) {
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);
    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "other job", 1);

    assertThat(spark.table("numbers")).hasRowCount(200);
  }

  @Test
  void aJobThatFailedMayWriteItsBatchUnderTheSameNumber(SparkSession spark) {
    Dataset<Row> failing =
        spark.sql("SELECT IF(id = 99, raise_error('no'), id) AS id FROM range(100)");
    assertThatThrownBy(() -> IdempotentWrites.writeOnce("numbers", failing, "job", 1))
        .hasStackTraceContaining("USER_RAISED_EXCEPTION");

    IdempotentWrites.writeOnce("numbers", batch(spark, 0, 100), "job", 1);

    assertThat(spark.table("numbers")).hasSameRowsAs(batch(spark, 0, 100));
  }

  @Test
  void aNegativeNumberIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> IdempotentWrites.writeOnce("numbers", batch(spark, 0, 1), "job", -1))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("a batch's number must not be negative: -1");
    assertThat(TableState.version(spark, "numbers")).isZero();
  }
}
