package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.Set;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class SchemaEvolutionTest {

  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        "CREATE TABLE customers (customer_id INT, name STRING, address STRUCT<city: STRING>) USING delta");
    spark.sql(
        "INSERT INTO customers VALUES (1, 'Ada', struct('Berlin')), (2, 'Grace', struct('Paris'))");
  }

  private static void assertRefused(String condition, ThrowingCallable call) {
    assertThatThrownBy(call)
        .isInstanceOfSatisfying(
            SparkThrowable.class, e -> assertThat(e.getCondition()).isEqualTo(condition));
  }

  @Test
  void aNewColumnIsRefusedWithoutMergeSchema(SparkSession spark) {
    Dataset<Row> withEmail =
        spark.sql("SELECT 3 AS customer_id, 'Radia' AS name, 'r@example.com' AS email");

    assertRefused(
        "DELTA_METADATA_MISMATCH",
        () -> withEmail.write().format("delta").mode("append").saveAsTable("customers"));
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
  }

  @Test
  void newColumnsAndFieldsAreAddedAndOldRowsReadAsNull(SparkSession spark) {
    Set<String> filesBefore = TableState.files(spark, "customers");

    SchemaEvolution.appendWithNewColumns(
        "customers",
        spark.sql(
            """
            SELECT 3 AS customer_id, 'Radia' AS name,
                   named_struct('city', 'Rome', 'zip', '00185') AS address, 'r@example.com' AS email
            """));

    assertThat(spark.table("customers"))
        .hasSchema(
            "customer_id INT, name STRING, address STRUCT<city: STRING, zip: STRING>, email STRING")
        .hasRows(
            row(1, "Ada", row("Berlin", null), null),
            row(2, "Grace", row("Paris", null), null),
            row(3, "Radia", row("Rome", "00185"), "r@example.com"));
    assertThat(TableState.files(spark, "customers")).containsAll(filesBefore);
    assertThat(TableState.version(spark, "customers")).isEqualTo(2);
  }

  @Test
  void aTypeThatDoesNotFitIsRefusedAlsoWithMergeSchema(SparkSession spark) {
    assertRefused(
        "DATATYPE_MISMATCH.CAST_WITH_FUNC_SUGGESTION",
        () ->
            SchemaEvolution.appendWithNewColumns(
                "customers", spark.sql("SELECT DATE'2025-01-01' AS customer_id")));
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
  }

  @Test
  void aMergeAddsTheColumnsThatItBrings(SparkSession spark) {
    SchemaEvolution.upsertWithNewColumns(
        spark,
        "customers",
        spark.sql("SELECT * FROM VALUES (2, 'gold'), (4, 'silver') AS v (customer_id, level)"));

    assertThat(spark.table("customers"))
        .hasRows(
            row(1, "Ada", row("Berlin"), null),
            row(2, "Grace", row("Paris"), "gold"),
            row(4, null, null, "silver"));
  }

  @Test
  void overwritingTheSchemaKeepsTheVersionBefore(SparkSession spark) {
    SchemaEvolution.overwriteSchema(
        "customers", spark.sql("SELECT 'Ada' AS customer, 3 AS orders"));

    assertThat(spark.table("customers"))
        .hasSchema("customer STRING, orders INT")
        .hasRows(row("Ada", 3));
    assertThat(spark.sql("SELECT * FROM customers VERSION AS OF 1"))
        .hasRows(row(1, "Ada", row("Berlin")), row(2, "Grace", row("Paris")));
  }

  @Test
  void aWiderTypeTakesLargerValuesAndRewritesNoFile(SparkSession spark) {
    Set<String> filesBefore = TableState.files(spark, "customers");

    SchemaEvolution.widenType(spark, "customers", "customer_id", "BIGINT");

    assertThat(TableState.files(spark, "customers")).isEqualTo(filesBefore);
    spark.sql("INSERT INTO customers VALUES (5000000000, 'Radia', struct('Rome'))");
    assertThat(spark.table("customers").select("customer_id"))
        .hasSchema("customer_id BIGINT")
        .hasRows(row(1L), row(2L), row(5_000_000_000L));
  }

  @Test
  void aNarrowerTypeIsRefused(SparkSession spark) {
    assertRefused(
        "NOT_SUPPORTED_CHANGE_COLUMN",
        () -> SchemaEvolution.widenType(spark, "customers", "customer_id", "SMALLINT"));
    assertThat(spark.table("customers").select("customer_id")).hasSchema("customer_id INT");
  }

  @Test
  void moreThanATypeIsRefusedBeforeItReachesTheStatement(SparkSession spark) {
    // The statement would take it, and change another column too.
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () ->
            SchemaEvolution.widenType(
                spark, "customers", "customer_id", "BIGINT, name COMMENT 'changed'"));
    assertThat(spark.table("customers").schema().apply("name").getComment().isEmpty()).isTrue();
    assertThat(spark.table("customers").select("customer_id")).hasSchema("customer_id INT");
  }

  @Test
  void columnsAreRenamedAndDroppedWithoutRewritingAFile(SparkSession spark) {
    Set<String> filesBefore = TableState.files(spark, "customers");

    SchemaEvolution.enableColumnMapping(spark, "customers");
    SchemaEvolution.renameColumn(spark, "customers", "name", "first name");
    SchemaEvolution.dropColumn(spark, "customers", "address");

    assertThat(spark.table("customers"))
        .hasSchema("customer_id INT, `first name` STRING")
        .hasRows(row(1, "Ada"), row(2, "Grace"));
    assertThat(TableState.files(spark, "customers")).isEqualTo(filesBefore);
  }

  @Test
  void renamingAndDroppingAreRefusedWithoutColumnMapping(SparkSession spark) {
    assertRefused(
        "DELTA_UNSUPPORTED_RENAME_COLUMN",
        () -> SchemaEvolution.renameColumn(spark, "customers", "name", "first_name"));
    assertRefused(
        "DELTA_UNSUPPORTED_DROP_COLUMN",
        () -> SchemaEvolution.dropColumn(spark, "customers", "name"));
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
  }
}
