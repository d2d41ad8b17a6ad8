package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class TableFeaturesTest {

  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE orders (order_id BIGINT, status STRING) USING delta");
    spark.sql("INSERT INTO orders SELECT id, 'open' FROM range(100)");
  }

  private static List<String> features(SparkSession spark, String table) {
    return TableFeatures.protocol(spark, table).head().getList(2);
  }

  /** What a later version of Delta Lake would do to the table's protocol. */
  private static void commitProtocol(Sandbox sandbox, String json) throws IOException {
    Path log = sandbox.folder().resolve("schema/orders/_delta_log");
    Files.writeString(log.resolve("00000000000000000002.json"), json);
  }

  @Test
  void aPlainTableAsksForTheFirstVersions(SparkSession spark) {
    assertThat(
            TableFeatures.protocol(spark, "orders").select("minReaderVersion", "minWriterVersion"))
        .hasRows(row(1, 2));
    assertThat(features(spark, "orders")).containsExactly("appendOnly", "invariants");
  }

  @Test
  void aReaderFeatureRaisesBothVersions(SparkSession spark) {
    TableFeatures.addFeature(spark, "orders", "deletionVectors");

    Row protocol = TableFeatures.protocol(spark, "orders").head();
    assertThat(protocol.getInt(0)).isEqualTo(3);
    assertThat(protocol.getInt(1)).isEqualTo(7);
    assertThat(features(spark, "orders"))
        .containsExactly("appendOnly", "deletionVectors", "invariants");
  }

  @Test
  void aWriterFeatureLeavesReadersAlone(SparkSession spark) {
    TableFeatures.addFeature(spark, "orders", "changeDataFeed");

    Row protocol = TableFeatures.protocol(spark, "orders").head();
    assertThat(protocol.getInt(0)).isEqualTo(1);
    assertThat(features(spark, "orders")).contains("changeDataFeed");
  }

  @Test
  void aFeatureThatNobodyKnowsIsRefusedAndNothingChanges(SparkSession spark) {
    assertRefused(
        "DELTA_UNSUPPORTED_FEATURES_IN_CONFIG",
        () ->
            spark.sql(
                "ALTER TABLE orders SET TBLPROPERTIES ('delta.feature.teleportation' = 'supported')"));

    assertThat(TableState.version(spark, "orders")).isEqualTo(1);
  }

  @Test
  void aDroppedFeatureIsGoneWithAllThatUsedItAndTheRowsStay(SparkSession spark) {
    TableFeatures.addFeature(spark, "orders", "deletionVectors");
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')");
    spark.sql("DELETE FROM orders WHERE order_id < 10");

    TableFeatures.dropFeature(spark, "orders", "deletionVectors");

    assertThat(features(spark, "orders"))
        .containsExactly("appendOnly", "checkpointProtection", "invariants");
    assertThat(TableFeatures.protocol(spark, "orders").select("minReaderVersion")).hasRows(row(1));
    assertThat(spark.sql("SELECT count(*), min(order_id) FROM orders")).hasRows(row(90L, 10L));
  }

  @Test
  void aFeatureThatTheTableDoesNotHaveCannotBeDropped(SparkSession spark) {
    assertRefused(
        "DELTA_FEATURE_DROP_FEATURE_NOT_PRESENT",
        () -> TableFeatures.dropFeature(spark, "orders", "deletionVectors"));
    assertRefused(
        "DELTA_FEATURE_DROP_UNSUPPORTED_CLIENT_FEATURE",
        () -> TableFeatures.dropFeature(spark, "orders", "teleportation"));
  }

  @Test
  void aReaderThatIsTooOldIsToldWhichFeatureItLacks(SparkSession spark, Sandbox sandbox)
      throws IOException {
    commitProtocol(
        sandbox,
        """
        {"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["teleportation"],"writerFeatures":["teleportation"]}}
        """);

    assertThatThrownBy(() -> spark.table("orders").collectAsList())
        .hasMessageContaining("DELTA_UNSUPPORTED_FEATURES_FOR_READ")
        .hasMessageContaining("unsupported by Delta Lake \"4.4.0\": teleportation");
  }

  @Test
  void aWriterThatIsTooOldCanStillRead(SparkSession spark, Sandbox sandbox) throws IOException {
    commitProtocol(
        sandbox,
        """
        {"protocol":{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["teleportation"]}}
        """);

    assertThat(spark.table("orders")).hasRowCount(100);
    assertRefused(
        "DELTA_UNSUPPORTED_FEATURES_FOR_WRITE",
        () -> spark.sql("INSERT INTO orders VALUES (1000, 'open')"));
    assertThat(spark.table("orders")).hasRowCount(100);
  }

  @Test
  void aNameThatIsMoreThanANameIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> TableFeatures.dropFeature(spark, "orders", "x` TRUNCATE HISTORY; --"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: x` TRUNCATE HISTORY; --");
    assertThatThrownBy(() -> TableFeatures.dropFeature(spark, "orders--", "deletionVectors"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: orders--");
  }
}
