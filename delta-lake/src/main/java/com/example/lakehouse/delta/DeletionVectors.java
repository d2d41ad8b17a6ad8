package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Deletion vectors: a DELETE or UPDATE marks rows as gone in a small file of bits, in place of
 * rewriting every data file that holds one.
 *
 * <p>Run: {@code ./run DeletionVectors}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: to delete 0.1% of the rows, spread over all files, one table writes its data anew and the
 * other a few hundred bytes; purging later does the rewriting, once.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's. New tables have
 * deletion vectors there by default.
 *
 * @see <a href="https://docs.delta.io/delta-deletion-vectors/">Delta Lake: deletion vectors</a>
 */
public final class DeletionVectors {

  private DeletionVectors() {}

  /**
   * Lets later DELETE, UPDATE and MERGE statements use deletion vectors. Readers and writers of the
   * table must know them from now on; Delta Lake does since 2.4.
   */
  public static void enable(SparkSession spark, String table) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')",
        Map.of("table", table));
  }

  /**
   * Deletes the events of one customer.
   *
   * @return what the delete did: {@code numDeletedRows, numRemovedFiles, numAddedBytes,
   *     numDeletionVectorsAdded} and more
   */
  public static Map<String, String> deleteCustomer(
      SparkSession spark, String table, long customerId) {
    DeltaTable.forName(spark, table).delete("customer_id = " + customerId);
    return DeltaTable.forName(spark, table)
        .history(1)
        .select("operationMetrics")
        .head()
        .getJavaMap(0);
  }

  /**
   * Rewrites the files in which rows are marked as deleted, and no others. The old files stay for
   * time travel until a vacuum: for a legal deletion, do both.
   *
   * @throws IllegalArgumentException if {@code table} is anything but a name
   */
  public static void purge(SparkSession spark, String table) {
    // This statement is Delta's own, which takes no parameters, not even IDENTIFIER(:table).
    if (!table.matches("\\w+(\\.\\w+){0,2}")) {
      throw new IllegalArgumentException("not a name: " + table);
    }
    spark.sql("REORG TABLE %s APPLY (PURGE)".formatted(table));
  }

  /**
   * What is in the table's folder, by kind: {@code kind STRING} (data file, deletion vector),
   * {@code files BIGINT, bytes BIGINT}; files of earlier versions too.
   */
  public static Dataset<Row> onDisk(SparkSession spark, String table) {
    String location =
        DeltaTable.forName(spark, table).detail().select("location").head().getString(0);
    return spark
        .read()
        .format("binaryFile")
        .option("recursiveFileLookup", "true")
        .load(location)
        .groupBy(expr("IF(path LIKE '%.bin', 'deletion vector', 'data file')").as("kind"))
        .agg(expr("count(*) AS files"), expr("sum(length) AS bytes"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DeletionVectors.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> events =
              notebook
                  .sampleData(100_000)
                  .events()
                  .withColumn("customer_id", expr("event_id % 1000"));

          notebook.step("Delete 0.1% of the rows, spread over all files");
          Chart chart = new Chart("bytes written to delete one customer's events", "bytes");
          for (boolean vectors : List.of(false, true)) {
            String table = vectors ? "with_vectors" : "without";
            events.repartition(8).write().format("delta").saveAsTable(table);
            if (vectors) {
              enable(spark, table);
            }
            long before = bytesOnDisk(spark, table);
            Map<String, String> did = deleteCustomer(spark, table, 7);
            long written = bytesOnDisk(spark, table) - before;
            notebook.text(
                "%s: %s rows deleted, %s of 8 data files rewritten, %,d bytes written.",
                vectors ? "With deletion vectors" : "Without",
                did.get("numDeletedRows"),
                did.get("numRemovedFiles"),
                written);
            chart = chart.bar(vectors ? "with" : "without", written);
          }
          notebook.chart(chart);
          notebook.table("on disk, with deletion vectors", onDisk(spark, "with_vectors"));

          notebook.step("An update marks the old rows and writes the new ones");
          spark.sql("UPDATE with_vectors SET event_type = 'withdrawn' WHERE customer_id = 8");
          notebook.table(
              "what the update did",
              DeltaTable.forName(spark, "with_vectors")
                  .history(1)
                  .selectExpr(
                      "operationMetrics.numUpdatedRows AS updated",
                      "operationMetrics.numCopiedRows AS copied",
                      "operationMetrics.numAddedBytes AS bytes_added",
                      "operationMetrics.numDeletionVectorsUpdated AS vectors_updated"));

          notebook.step("Purge: rewrite the files that have marked rows, once");
          purge(spark, "with_vectors");
          notebook.table(
              "what the purge did",
              DeltaTable.forName(spark, "with_vectors")
                  .history(1)
                  .selectExpr(
                      "operation",
                      "operationMetrics.numRemovedFiles AS files_removed",
                      "operationMetrics.numDeletionVectorsRemoved AS vectors_removed",
                      "operationMetrics.numAddedFiles AS files_added"));
          notebook.table(
              "on disk: the old files stay for time travel until a vacuum",
              onDisk(spark, "with_vectors"));
        });
  }

  private static long bytesOnDisk(SparkSession spark, String table) {
    return onDisk(spark, table).selectExpr("sum(bytes)").head().getLong(0);
  }
}
