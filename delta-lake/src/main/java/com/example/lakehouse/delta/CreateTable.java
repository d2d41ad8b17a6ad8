package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.TableAlreadyExistsException;
import org.apache.spark.sql.types.Metadata;
import org.apache.spark.sql.types.MetadataBuilder;

/**
 * Creating tables: by DataFrame, by {@code DeltaTableBuilder} and by SQL, with the same outcome.
 *
 * <p>Run: {@code ./run CreateTable}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: three tables with the same columns, comments and properties; a table made from a query;
 * one that replaces another, whose history goes on.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-batch/#create-a-table">Delta Lake: create a table</a>
 */
public final class CreateTable {

  private CreateTable() {}

  /**
   * Creates {@code table} with the rows of a Dataset, in one commit.
   *
   * @param rows {@code product_id BIGINT, name STRING, price DECIMAL(12,2)}
   * @throws TableAlreadyExistsException TABLE_OR_VIEW_ALREADY_EXISTS if there is such a table
   */
  public static void byDataFrame(String table, Dataset<Row> rows)
      throws TableAlreadyExistsException {
    Metadata comment =
        new MetadataBuilder().putString("comment", "what the customer pays, in euros").build();
    rows.withColumn("price", col("price").as("price", comment))
        .writeTo(table)
        .using("delta")
        .tableProperty("comment", "what the shop sells")
        .tableProperty("delta.appendOnly", "true")
        .create();
  }

  /** Creates {@code table} without rows, column by column. */
  public static void byBuilder(SparkSession spark, String table) {
    DeltaTable.create(spark)
        .tableName(table)
        .comment("what the shop sells")
        .property("delta.appendOnly", "true")
        .addColumn("product_id", "BIGINT")
        .addColumn("name", "STRING")
        .addColumn(
            DeltaTable.columnBuilder(spark, "price")
                .dataType("DECIMAL(12,2)")
                .comment("what the customer pays, in euros")
                .build())
        .execute();
  }

  /** Creates {@code table} without rows, in SQL. */
  public static void bySql(SparkSession spark, String table) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table) (
          product_id BIGINT,
          name STRING,
          price DECIMAL(12,2) COMMENT 'what the customer pays, in euros'
        )
        USING delta
        COMMENT 'what the shop sells'
        TBLPROPERTIES ('delta.appendOnly' = 'true')
        """,
        Map.of("table", table));
  }

  /**
   * Creates {@code table} from a query, with the query's columns and rows (CTAS).
   *
   * @param products the name of a table with {@code product_id}, {@code name} and {@code price}
   */
  public static void asSelect(SparkSession spark, String table, String products, int minimumPrice) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table)
        USING delta
        COMMENT 'products that cost more'
        AS SELECT product_id, name, price FROM IDENTIFIER(:products) WHERE price >= :minimum
        """,
        Map.of("table", table, "products", products, "minimum", minimumPrice));
  }

  /**
   * Puts other columns and rows in place of {@code table}'s, or creates it. Readers see the old
   * table or the new one, and the history keeps both: unlike DROP and CREATE, nothing is lost.
   *
   * @param rows the new columns and rows
   */
  public static void replace(String table, Dataset<Row> rows) {
    rows.writeTo(table).using("delta").createOrReplace();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        CreateTable.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> products =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (1L, 'Lamp',  CAST(29.90 AS DECIMAL(12,2))),
                    (2L, 'Chair', CAST(149.00 AS DECIMAL(12,2))),
                    (3L, 'Clock', CAST(19.50 AS DECIMAL(12,2))),
                    (4L, 'Desk',  CAST(399.00 AS DECIMAL(12,2)))
                    AS products (product_id, name, price)
                  """);

          notebook.step("The same table in three ways");
          byDataFrame("by_data_frame", products);
          byBuilder(spark, "by_builder");
          bySql(spark, "by_sql");
          for (String table : List.of("by_data_frame", "by_builder", "by_sql")) {
            notebook.table(table, spark.sql("DESCRIBE TABLE " + table));
          }
          notebook.table(
              "and what Delta says of the first",
              spark
                  .sql("DESCRIBE DETAIL by_data_frame")
                  .select(
                      "format",
                      "description",
                      "properties",
                      "numFiles",
                      "minReaderVersion",
                      "minWriterVersion"));

          notebook.step("A table that exists is not created again");
          notebook.refused(
              "Nothing was written",
              "TABLE_OR_VIEW_ALREADY_EXISTS",
              () -> byDataFrame("by_data_frame", products));

          notebook.step("A table from a query");
          asSelect(spark, "expensive", "by_data_frame", 100);
          notebook.table("expensive", spark.table("expensive").orderBy("product_id"));

          notebook.step("Replaced in one commit: other columns, and the history goes on");
          replace("expensive", spark.sql("SELECT 'Desk' AS name, 1 AS in_stock"));
          notebook.table("expensive", spark.table("expensive"));
          notebook.table(
              "its history",
              DeltaTable.forName(spark, "expensive").history().select("version", "operation"));
          notebook.table(
              "and its version 0, which is still there",
              spark.sql("SELECT * FROM expensive VERSION AS OF 0 ORDER BY product_id"));
        });
  }
}
