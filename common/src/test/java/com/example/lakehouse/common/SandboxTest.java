package com.example.lakehouse.common;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.testing.SparkTest;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class SandboxTest {

  @Test
  void bareTableNamesAreTheSandboxsTables(SparkSession spark) {
    try (Sandbox sandbox = new Sandbox(spark, "MyExample", false)) {
      spark.range(3).write().format("delta").saveAsTable("numbers");

      assertThat(sandbox.schema()).isEqualTo("my_example");
      assertThat(spark.table("my_example.numbers").count()).isEqualTo(3);
      assertThat(sandbox.folder().resolve("schema/numbers/_delta_log")).isDirectory();
    }
  }

  @Test
  void closingDeletesTheFolderAndTheSchemaAndNothingElse(SparkSession spark) {
    String schemaBefore = spark.catalog().currentDatabase();
    Sandbox other = new Sandbox(spark, "other", false);
    spark.range(1).write().format("delta").saveAsTable("stays");
    Sandbox sandbox = new Sandbox(spark, "gone", false);
    spark.range(1).write().format("delta").saveAsTable("goes");

    sandbox.close();

    assertThat(sandbox.folder()).doesNotExist();
    assertThat(spark.catalog().databaseExists("gone")).isFalse();
    assertThat(spark.catalog().currentDatabase()).isEqualTo("other");
    assertThat(spark.table("other.stays").count()).isEqualTo(1);
    other.close();
    assertThat(spark.catalog().currentDatabase()).isEqualTo(schemaBefore);
  }

  @Test
  void closingPutsTheSessionsSettingsBack(SparkSession spark) {
    String set = "spark.sql.shuffle.partitions";
    String unset = "spark.sql.files.maxRecordsPerFile";
    String setBefore = spark.conf().get(set);
    String unsetBefore = spark.conf().get(unset);
    Sandbox sandbox = new Sandbox(spark, "settings", false);
    spark.conf().set(set, "77");
    spark.conf().set(unset, "77");

    sandbox.close();

    assertThat(spark.conf().get(set)).isEqualTo(setBefore).isNotEqualTo("77");
    assertThat(spark.conf().get(unset)).isEqualTo(unsetBefore).isNotEqualTo("77");
  }

  @Test
  void closingDropsTheTemporaryViewsMadeMeanwhile(SparkSession spark) {
    spark.range(1).createOrReplaceTempView("before");
    Sandbox sandbox = new Sandbox(spark, "views", false);
    spark.range(1).createOrReplaceTempView("meanwhile");

    sandbox.close();

    assertThat(spark.catalog().tableExists("meanwhile")).isFalse();
    assertThat(spark.catalog().dropTempView("before")).isTrue();
  }

  @Test
  void aKeptSandboxStays(SparkSession spark) {
    Sandbox sandbox = new Sandbox(spark, "kept", true);
    spark.range(1).write().format("delta").saveAsTable("numbers");

    sandbox.close();

    assertThat(spark.table("kept.numbers").count()).isEqualTo(1);
    assertThat(sandbox.folder()).isDirectory();
    spark.sql("DROP SCHEMA kept CASCADE");
    Folders.delete(sandbox.folder());
  }

  @Test
  void aSchemaNameThatIsTakenGetsASuffix(SparkSession spark) {
    try (Sandbox first = new Sandbox(spark, "same", false);
        Sandbox second = new Sandbox(spark, "same", false)) {
      assertThat(first.schema()).isEqualTo("same");
      assertThat(second.schema()).matches("same_[0-9a-f]{8}");
    }
  }

  @Test
  void thePathIsBelowTheFolder(Sandbox sandbox, SparkSession spark) {
    spark.range(5).write().parquet(sandbox.path("numbers"));

    Path written = sandbox.folder().resolve("numbers/_SUCCESS");
    assertThat(Files.exists(written)).isTrue();
  }
}
