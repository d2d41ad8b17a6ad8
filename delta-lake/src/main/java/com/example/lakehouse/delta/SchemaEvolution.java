package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.DataType;

/**
 * Schema evolution: new columns, wider types, renamed and dropped columns, and what of it rewrites
 * data.
 *
 * <p>Run: {@code ./run SchemaEvolution}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a new column is refused until the write asks for it; old rows read as NULL in it;
 * renaming and dropping columns leaves every data file where it is.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#automatic-schema-update">Delta Lake: schema
 *     updates</a>
 * @see <a href="https://docs.delta.io/delta-type-widening/">Delta Lake: type widening</a>
 * @see <a href="https://docs.delta.io/delta-column-mapping/">Delta Lake: column mapping</a>
 */
public final class SchemaEvolution {

  private SchemaEvolution() {}

  /**
   * Adds {@code rows} and the columns that {@code table} does not have, also within structs, in one
   * commit; the rows that are there read as NULL in them.
   *
   * @param rows some of the table's columns, and new ones
   * @throws AnalysisException DATATYPE_MISMATCH if a column has a type that does not fit
   */
  public static void appendWithNewColumns(String table, Dataset<Row> rows) {
    rows.write().format("delta").mode("append").option("mergeSchema", "true").saveAsTable(table);
  }

  /**
   * Upserts {@code changes} by {@code customer_id}, and adds the columns that {@code table} does
   * not have.
   *
   * @param changes at most one row per {@code customer_id}; columns that it lacks keep their values
   */
  public static void upsertWithNewColumns(SparkSession spark, String table, Dataset<Row> changes) {
    DeltaTable.forName(spark, table)
        .as("t")
        .merge(changes.as("c"), "t.customer_id = c.customer_id")
        .withSchemaEvolution()
        .whenMatched()
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  /**
   * Puts other rows with another schema in place of {@code table}'s, in one commit; the versions
   * before keep theirs.
   *
   * @param rows the new columns and rows
   */
  public static void overwriteSchema(String table, Dataset<Row> rows) {
    rows.write()
        .format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .saveAsTable(table);
  }

  /**
   * Lets a column take larger values, such as INT to BIGINT, without rewriting data.
   *
   * @param type a type that holds every value of the column's present one
   * @throws AnalysisException NOT_SUPPORTED_CHANGE_COLUMN if it does not
   */
  public static void widenType(SparkSession spark, String table, String column, String type) {
    setProperty(spark, table, "delta.enableTypeWidening", "true");
    // Neither a column's name nor a type can be a parameter: one is quoted, the other parsed.
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) ALTER COLUMN %s TYPE %s"
            .formatted(quoted(column), DataType.fromDDL(type).sql()),
        Map.of("table", table));
  }

  /**
   * Gives columns names of their own in the files, so that they can be renamed and dropped without
   * rewriting data. Clients that do not know column mapping can no longer read the table.
   */
  public static void enableColumnMapping(SparkSession spark, String table) {
    setProperty(spark, table, "delta.columnMapping.mode", "name");
  }

  /**
   * Renames a column, in the log only.
   *
   * @throws AnalysisException DELTA_UNSUPPORTED_RENAME_COLUMN before {@link #enableColumnMapping}
   */
  public static void renameColumn(SparkSession spark, String table, String from, String to) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) RENAME COLUMN %s TO %s".formatted(quoted(from), quoted(to)),
        Map.of("table", table));
  }

  /**
   * Drops a column, in the log only: its values stay in the files until they are rewritten ({@code
   * REORG TABLE … APPLY (PURGE)}) and vacuumed.
   *
   * @throws AnalysisException DELTA_UNSUPPORTED_DROP_COLUMN before {@link #enableColumnMapping}
   */
  public static void dropColumn(SparkSession spark, String table, String column) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) DROP COLUMN " + quoted(column), Map.of("table", table));
  }

  private static String quoted(String name) {
    return "`" + name.replace("`", "``") + "`";
  }

  private static void setProperty(SparkSession spark, String table, String key, String value) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('" + key + "' = '" + value + "')",
        Map.of("table", table));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        SchemaEvolution.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              "CREATE TABLE customers (customer_id INT, name STRING, address STRUCT<city: STRING>) USING delta");
          spark.sql(
              """
              INSERT INTO customers VALUES
                (1, 'Ada',   named_struct('city', 'Berlin')),
                (2, 'Grace', named_struct('city', 'Paris'))
              """);
          Dataset<Row> withEmail =
              spark.sql(
                  """
                  SELECT 3 AS customer_id, 'Radia' AS name,
                         named_struct('city', 'Rome', 'zip', '00185') AS address,
                         'radia@example.com' AS email
                  """);

          notebook.step("A new column is refused until the write asks for it");
          notebook.refused(
              "Nothing was written",
              "DELTA_METADATA_MISMATCH",
              () -> withEmail.write().format("delta").mode("append").saveAsTable("customers"));
          appendWithNewColumns("customers", withEmail);
          notebook.table(
              "with mergeSchema: a new column, and a new field in address",
              spark.table("customers").orderBy("customer_id"));

          notebook.step("A merge that brings a new column");
          upsertWithNewColumns(
              spark,
              "customers",
              spark.sql(
                  """
                  SELECT * FROM VALUES (2, 'gold'), (4, 'silver') AS changes (customer_id, level)
                  """));
          notebook.table("customers", spark.table("customers").orderBy("customer_id"));

          notebook.step("A wider type, a new name and a column less: no file is touched");
          List<Row> before = dataFiles(spark);
          widenType(spark, "customers", "customer_id", "BIGINT");
          enableColumnMapping(spark, "customers");
          renameColumn(spark, "customers", "level", "tier");
          dropColumn(spark, "customers", "email");
          notebook.table("customers", spark.table("customers").orderBy("customer_id"));
          notebook.table("columns", spark.sql("DESCRIBE TABLE customers"));
          List<Row> after = dataFiles(spark);
          notebook.text(
              "%d data files before and %d after; the same ones: %s.",
              before.size(), after.size(), before.equals(after));

          notebook.step("Another schema altogether, and the old one in the version before");
          overwriteSchema("customers", spark.sql("SELECT 'Ada' AS customer, 3 AS orders"));
          notebook.table("customers", spark.table("customers"));
          long version = DeltaTable.forName(spark, "customers").history().count() - 1;
          notebook.table(
              "customers at version " + (version - 1),
              spark
                  .read()
                  .option("versionAsOf", version - 1)
                  .table("customers")
                  .orderBy("customer_id"));
        });
  }

  private static List<Row> dataFiles(SparkSession spark) {
    return spark
        .table("customers")
        .select("_metadata.file_path")
        .distinct()
        .orderBy("file_path")
        .collectAsList();
  }
}
