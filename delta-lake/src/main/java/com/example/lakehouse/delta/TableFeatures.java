package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Table features: what a reader and a writer must know of a table, which grows with what the table
 * uses, and can shrink again.
 *
 * <p>Run: {@code ./run TableFeatures}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a plain table that a client of 2019 reads; one feature more and it does not; the feature
 * dropped; and what a client is told that is too old.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's. New tables there
 * have more features from the start.
 *
 * @see <a href="https://docs.delta.io/versioning/">Delta Lake: feature compatibility</a>
 */
public final class TableFeatures {

  private TableFeatures() {}

  /**
   * What the table asks of its clients: {@code minReaderVersion INT, minWriterVersion INT,
   * tableFeatures ARRAY<STRING>}. From reader version 3 and writer version 7 on the features say
   * all.
   */
  public static Dataset<Row> protocol(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table)
        .detail()
        .select("minReaderVersion", "minWriterVersion", "tableFeatures");
  }

  /**
   * Lets the table use a feature. Every client must know it from now on, also those that read the
   * table once a month.
   *
   * @param feature such as {@code deletionVectors} or {@code columnMapping}
   * @throws org.apache.spark.sql.delta.DeltaTableFeatureException
   *     DELTA_UNSUPPORTED_FEATURES_IN_CONFIG if this version of Delta Lake does not know it
   */
  public static void addFeature(SparkSession spark, String table, String feature) {
    DeltaTable.forName(spark, table).addFeatureSupport(feature);
  }

  /**
   * Takes a feature away: rewrites what uses it and asks no client for it any more. Some features
   * leave {@code checkpointProtection} behind, which only writers must know.
   *
   * @throws org.apache.spark.sql.delta.DeltaTableFeatureException
   *     DELTA_FEATURE_DROP_FEATURE_NOT_PRESENT if the table does not have it,
   *     DELTA_FEATURE_DROP_NONREMOVABLE_FEATURE if it cannot be taken away
   * @throws IllegalArgumentException if {@code table} or {@code feature} is anything but a name
   */
  public static void dropFeature(SparkSession spark, String table, String feature) {
    // This statement is Delta's own, which takes no parameters, not even IDENTIFIER(:table).
    if (!table.matches("\\w+(\\.\\w+){0,2}")) {
      throw new IllegalArgumentException("not a name: " + table);
    }
    if (!feature.matches("[\\w-]+")) {
      throw new IllegalArgumentException("not a name: " + feature);
    }
    spark.sql("ALTER TABLE %s DROP FEATURE `%s`".formatted(table, feature));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TableFeatures.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql("CREATE TABLE orders (order_id BIGINT, status STRING) USING delta");
          spark.sql("INSERT INTO orders SELECT id, 'open' FROM range(1000)");

          notebook.step("A plain table asks for little");
          notebook.table("orders", protocol(spark, "orders"));

          notebook.step("Deletion vectors ask for more, of readers too");
          addFeature(spark, "orders", "deletionVectors");
          spark.sql(
              "ALTER TABLE orders SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')");
          spark.sql("DELETE FROM orders WHERE order_id < 10");
          notebook.table("orders", protocol(spark, "orders"));
          notebook.refused(
              "A feature that nobody knows",
              "DELTA_UNSUPPORTED_FEATURES_IN_CONFIG",
              () ->
                  spark.sql(
                      "ALTER TABLE orders SET TBLPROPERTIES ('delta.feature.teleportation' = 'supported')"));

          notebook.step("Drop it, for the sake of an old reader");
          dropFeature(spark, "orders", "deletionVectors");
          notebook.table("orders", protocol(spark, "orders"));
          notebook.text("The table has %,d rows, as before.", spark.table("orders").count());

          notebook.step(
              "What a client is told that is too old: this one, by a table of the future");
          spark.sql("CREATE TABLE later (id INT) USING delta");
          Path log = notebook.sandbox().folder().resolve("schema/later/_delta_log");
          // A commit as a later version of Delta Lake would make it.
          Files.writeString(
              log.resolve("00000000000000000001.json"),
              """
              {"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["teleportation"],"writerFeatures":["teleportation"]}}
              """);
          notebook.refused(
              "Reading it",
              "DELTA_UNSUPPORTED_FEATURES_FOR_READ",
              () -> spark.table("later").collectAsList());
        });
  }
}
