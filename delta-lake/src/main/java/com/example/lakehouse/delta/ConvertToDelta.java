package com.example.lakehouse.delta;

import static java.util.stream.Collectors.toCollection;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.net.URI;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Convert: a folder of Parquet files becomes a Delta table where it stands; no file is touched.
 *
 * <p>Run: {@code ./run ConvertToDelta}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the same files before and after, plus a log; updates and time travel from then on; a file
 * that somebody drops into the folder later is not in the table.
 *
 * <p>On Databricks: the same code; a cloud folder in place of the path.
 *
 * @see <a
 *     href="https://docs.delta.io/delta-utility/#convert-a-parquet-table-to-a-delta-table">Delta
 *     Lake: convert a Parquet table</a>
 */
public final class ConvertToDelta {

  private ConvertToDelta() {}

  /**
   * Converts a folder of Parquet files. Stop its writers first: files that they add later are not
   * in the table.
   *
   * @param folder its path or URI
   * @throws org.apache.spark.sql.AnalysisException DELTA_MISSING_PARTITION_COLUMN or
   *     DELTA_UNEXPECTED_NUM_PARTITION_COLUMNS_FROM_FILE_NAME if the folder is partitioned
   * @throws IllegalArgumentException if the folder's name has a backtick
   */
  public static DeltaTable convert(SparkSession spark, String folder) {
    return DeltaTable.convertToDelta(spark, identifier(folder));
  }

  /**
   * Converts a partitioned folder, such as {@code country=DE/part-0.parquet}.
   *
   * @param partitions the partition columns and their types, such as {@code country STRING, day
   *     DATE}; the folders' names say the columns but not the types
   */
  public static DeltaTable convert(SparkSession spark, String folder, String partitions) {
    return DeltaTable.convertToDelta(spark, identifier(folder), partitions);
  }

  /**
   * Makes the converted folder known by a name.
   *
   * @param folder the folder of a Delta table
   */
  public static void register(SparkSession spark, String table, String folder) {
    spark.sql(
        "CREATE TABLE IDENTIFIER(:table) USING delta LOCATION '%s'"
            .formatted(folder.replace("'", "\\'")),
        Map.of("table", table));
  }

  private static String identifier(String folder) {
    if (folder.contains("`")) {
      throw new IllegalArgumentException("a backtick in the folder's name: " + folder);
    }
    return "parquet.`" + folder + "`";
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ConvertToDelta.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Dataset<Row> customers = notebook.sampleData(30_000).customers();
          String folder = notebook.sandbox().path("customers");
          customers.write().partitionBy("country").parquet(folder);
          Set<String> before = names(spark.read().parquet(folder));

          notebook.step("The partition columns must be named");
          notebook.refused(
              "A partitioned folder, without its columns",
              "DELTA_UNEXPECTED_NUM_PARTITION_COLUMNS_FROM_FILE_NAME",
              () -> convert(spark, folder));

          notebook.step("Convert");
          convert(spark, folder, "country STRING");
          register(spark, "customers", folder);
          Set<String> after = names(spark.table("customers"));
          notebook.text(
              "%d files before, %d after, the same: %s. The table has %,d rows.",
              before.size(),
              after.size(),
              before.equals(after) ? "yes" : "no",
              spark.table("customers").count());
          notebook.table(
              "its history begins here",
              DeltaTable.forName(spark, "customers")
                  .history()
                  .selectExpr(
                      "version", "operation", "operationMetrics.numConvertedFiles AS files"));

          notebook.step("From now on it is a Delta table");
          spark.sql("UPDATE customers SET segment = 'gold' WHERE country = 'DE'");
          after.removeAll(names(spark.table("customers")));
          notebook.text("%d files of one country were rewritten.", after.size());
          customers.limit(10).write().mode("append").partitionBy("country").parquet(folder);
          notebook.text(
              "A job that still writes Parquet into the folder adds nothing: %,d rows.",
              spark.table("customers").count());
        });
  }

  /** The same file is {@code file:/…} to one reader and {@code file:///…} to another. */
  private static Set<String> names(Dataset<Row> rows) {
    return Arrays.stream(rows.inputFiles())
        .map(file -> URI.create(file).getPath())
        .collect(toCollection(TreeSet::new));
  }
}
