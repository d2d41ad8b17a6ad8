package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static java.util.stream.Collectors.toMap;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ConvertToDeltaTest {
  private Dataset<Row> customers;
  private String folder;

  @BeforeEach
  void describeCustomers(SparkSession spark, Sandbox sandbox) {
    customers =
        spark
            .range(0, 1_000, 1, 4)
            .selectExpr(
                "id AS customer_id",
                "CAST(id % 3 AS INT) AS segment",
                "IF(id % 2 = 0, 'DE', 'FR') AS country");
    folder = sandbox.path("customers");
  }

  /** Every Parquet file below the folder, and the hash of its bytes. */
  private Map<Path, Integer> files(Sandbox sandbox) throws IOException {
    try (Stream<Path> files = Files.walk(sandbox.folder().resolve("customers"))) {
      return files
          .filter(file -> file.toString().endsWith(".snappy.parquet"))
          .collect(toMap(file -> file, ConvertToDeltaTest::hash));
    }
  }

  private static int hash(Path file) {
    try {
      return Arrays.hashCode(Files.readAllBytes(file));
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void theFilesAreTheSameToTheByteAndTheRowsToo(SparkSession spark, Sandbox sandbox)
      throws IOException {
    customers.write().parquet(folder);
    Map<Path, Integer> before = files(sandbox);

    ConvertToDelta.convert(spark, folder);

    assertThat(files(sandbox)).isEqualTo(before).hasSize(4);
    assertThat(spark.read().format("delta").load(folder)).hasSameRowsAs(customers);
  }

  @Test
  void aPartitionedFolderKeepsItsPartitions(SparkSession spark, Sandbox sandbox)
      throws IOException {
    customers.write().partitionBy("segment", "country").parquet(folder);
    Map<Path, Integer> before = files(sandbox);

    ConvertToDelta.convert(spark, folder, "segment INT, country STRING");
    ConvertToDelta.register(spark, "customers", folder);

    assertThat(files(sandbox)).isEqualTo(before);
    assertThat(spark.table("customers").select("customer_id", "segment", "country"))
        .hasSameRowsAs(customers);
    assertThat(
            spark.sql("DESCRIBE DETAIL customers").selectExpr("concat_ws(',', partitionColumns)"))
        .hasRows(row("segment,country"));
    assertThat(spark.table("customers").where("country = 'DE' AND segment = 1").inputFiles())
        .allMatch(file -> file.contains("segment=1/country=DE/"));
  }

  @Test
  void aPartitionedFolderWithoutItsColumnsIsRefusedAndStaysParquet(
      SparkSession spark, Sandbox sandbox) {
    customers.write().partitionBy("country").parquet(folder);

    assertRefused(
        "DELTA_UNEXPECTED_NUM_PARTITION_COLUMNS_FROM_FILE_NAME",
        () -> ConvertToDelta.convert(spark, folder));

    assertThat(sandbox.folder().resolve("customers/_delta_log/00000000000000000000.json"))
        .doesNotExist();
  }

  @Test
  void aPartitionTypeThatTheFoldersDoNotFitIsRefused(SparkSession spark) {
    customers.write().partitionBy("country").parquet(folder);

    assertRefused(
        "DELTA_FAILED_CAST_PARTITION_VALUE",
        () -> ConvertToDelta.convert(spark, folder, "country INT"));
  }

  @Test
  void aFolderOfOtherFilesIsRefusedAndStaysAsItWas(SparkSession spark) throws IOException {
    customers.limit(10).write().json(folder);

    assertRefused("DELTA_FAILED_READ_FILE_FOOTER", () -> ConvertToDelta.convert(spark, folder));

    assertThat(spark.read().json(folder)).hasRowCount(10);
  }

  @Test
  void convertingTwiceChangesNothing(SparkSession spark) {
    customers.write().parquet(folder);

    ConvertToDelta.convert(spark, folder);
    ConvertToDelta.convert(spark, folder);
    ConvertToDelta.register(spark, "customers", folder);

    assertThat(TableState.version(spark, "customers")).isZero();
  }

  @Test
  void afterwardsItCanBeUpdatedAndReadAsItWas(SparkSession spark) {
    customers.write().parquet(folder);
    ConvertToDelta.convert(spark, folder);
    ConvertToDelta.register(spark, "customers", folder);

    spark.sql("UPDATE customers SET segment = 9 WHERE customer_id = 1");

    assertThat(spark.sql("SELECT segment FROM customers WHERE customer_id = 1")).hasRows(row(9));
    assertThat(spark.sql("SELECT segment FROM customers VERSION AS OF 0 WHERE customer_id = 1"))
        .hasRows(row(1));
  }

  @Test
  void aFileThatComesLaterIsNotInTheTable(SparkSession spark) {
    customers.write().parquet(folder);
    ConvertToDelta.convert(spark, folder);

    customers.limit(10).write().mode("append").parquet(folder);

    assertThat(spark.read().format("delta").load(folder)).hasRowCount(1_000);
  }

  @Test
  void aBacktickInTheNameIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> ConvertToDelta.convert(spark, "/tmp/x` WHERE `1"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("a backtick in the folder's name: /tmp/x` WHERE `1");
  }
}
