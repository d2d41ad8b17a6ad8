package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import io.delta.tables.DeltaTable;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Generated columns: defaults, columns computed from others, and identity keys, kept by the table
 * whoever writes.
 *
 * <p>Run: {@code ./run GeneratedColumns}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: writers give two of five columns; a filter on the time reads one day's file although
 * nobody filters by the day; a computed value that is wrong is refused.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#use-generated-columns">Delta Lake: generated
 *     columns</a>
 */
public final class GeneratedColumns {

  private GeneratedColumns() {}

  /**
   * Creates a table of events whose writers give {@code customer_id} and {@code event_time} only.
   *
   * <ul>
   *   <li>{@code event_key BIGINT}: an identity; unique and growing, with gaps
   *   <li>{@code customer_id BIGINT}
   *   <li>{@code event_time TIMESTAMP}
   *   <li>{@code event_date DATE}: always {@code event_time}'s, in the session's time zone; the
   *       table is partitioned by it
   *   <li>{@code channel STRING}: {@code web} if nobody says otherwise
   * </ul>
   *
   * <p>An identity takes concurrent writers away: each commit must know the highest key.
   */
  public static void createEvents(SparkSession spark, String table) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table) (
          event_key BIGINT GENERATED ALWAYS AS IDENTITY (START WITH 1 INCREMENT BY 1),
          customer_id BIGINT,
          event_time TIMESTAMP,
          event_date DATE GENERATED ALWAYS AS (CAST(event_time AS DATE)),
          channel STRING DEFAULT 'web'
        )
        USING delta
        PARTITIONED BY (event_date)
        TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'supported')
        """,
        Map.of("table", table));
  }

  /**
   * Creates a table of products by the builder. Its key may be given, as a load of old rows needs,
   * and is made otherwise.
   *
   * @param firstKey the first key that is made
   */
  public static DeltaTable createProducts(SparkSession spark, String table, long firstKey) {
    return DeltaTable.create(spark)
        .tableName(table)
        .addColumn(
            DeltaTable.columnBuilder(spark, "product_id")
                .dataType("BIGINT")
                .generatedByDefaultAsIdentity(firstKey, 1)
                .build())
        .addColumn("name", "STRING")
        .addColumn("net", "DECIMAL(12,2)")
        .addColumn(
            DeltaTable.columnBuilder(spark, "gross")
                .dataType("DECIMAL(12,2)")
                .generatedAlwaysAs("CAST(net * 1.19 AS DECIMAL(12,2))")
                .build())
        .execute();
  }

  /**
   * After rows with keys of their own: the next key that is made is higher than all there are.
   *
   * @param table a table whose {@code product_id} is an identity that may be given
   * @throws IllegalArgumentException if {@code table} is anything but a name
   */
  public static void syncIdentity(SparkSession spark, String table) {
    // This statement is Delta's own, which takes no parameters, not even IDENTIFIER(:table).
    if (!table.matches("\\w+(\\.\\w+){0,2}")) {
      throw new IllegalArgumentException("not a name: " + table);
    }
    spark.sql("ALTER TABLE %s ALTER COLUMN product_id SYNC IDENTITY".formatted(table));
  }

  /** The events since {@code time}, such as {@code 2025-03-02 00:00:00}; no word of the day. */
  public static Dataset<Row> since(SparkSession spark, String table, String time) {
    return spark.sql(
        "SELECT * FROM IDENTIFIER(:table) WHERE event_time >= CAST(:time AS TIMESTAMP)",
        Map.of("table", table, "time", time));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        GeneratedColumns.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();

          notebook.step("Writers give two of five columns");
          createEvents(spark, "events");
          spark.sql(
              """
              INSERT INTO events (customer_id, event_time) VALUES
                (7, TIMESTAMP'2025-03-01 10:00:00'),
                (8, TIMESTAMP'2025-03-01 11:30:00'),
                (7, TIMESTAMP'2025-03-02 09:15:00')
              """);
          spark.sql(
              "INSERT INTO events (customer_id, event_time, channel) VALUES (9, TIMESTAMP'2025-03-03 08:00:00', 'shop')");
          notebook.table("events", spark.table("events").orderBy("event_key"));

          notebook.step("A filter on the time becomes one on the day");
          Dataset<Row> recent = since(spark, "events", "2025-03-03 00:00:00");
          QueryProfile profile = QueryProfile.of(recent);
          notebook.text(
              "The query asks for the event_time only, and reads %d of %d files.",
              profile.filesRead(), profile.filesRead() + profile.filesPruned());

          notebook.step("What contradicts the table is refused");
          notebook.refused(
              "Another day than the time's",
              "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
              () ->
                  spark.sql(
                      "INSERT INTO events (customer_id, event_time, event_date) VALUES (1, TIMESTAMP'2025-03-03 08:00:00', DATE'2025-01-01')"));
          notebook.refused(
              "A key of one's own",
              "DELTA_IDENTITY_COLUMNS_EXPLICIT_INSERT_NOT_SUPPORTED",
              () -> spark.sql("INSERT INTO events (event_key, customer_id) VALUES (1, 1)"));

          notebook.step("Keys that may be given: old rows first, then new ones");
          createProducts(spark, "products", 1);
          spark.sql(
              "INSERT INTO products (product_id, name, net) VALUES (501, 'Lamp', 10.00), (502, 'Chair', 100.00)");
          syncIdentity(spark, "products");
          spark.sql("INSERT INTO products (name, net) VALUES ('Desk', 200.00)");
          notebook.table("products", spark.table("products").orderBy("product_id"));
        });
  }
}
