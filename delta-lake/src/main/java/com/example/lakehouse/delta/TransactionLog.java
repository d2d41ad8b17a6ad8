package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.input_file_name;
import static org.apache.spark.sql.functions.regexp_extract;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaLog;
import scala.collection.immutable.Map$;

/**
 * The transaction log, read as data: which actions make a version, how checkpoints sum them up, and
 * who did what.
 *
 * <p>Run: {@code ./run TransactionLog}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a version is a file of actions; the table is what the actions add up to, and a checkpoint
 * says the same; a commit that lost its content is found.
 *
 * <p>On Databricks: the same code on a table's cloud folder; the history on any table.
 *
 * @see <a href="https://github.com/delta-io/delta/blob/master/PROTOCOL.md">Delta transaction log
 *     protocol</a>
 */
public final class TransactionLog {

  private TransactionLog() {}

  /**
   * The actions of the commits that the log still has: {@code version BIGINT, action STRING}
   * (commitInfo, protocol, metaData, add, remove, txn, domainMetadata …) and {@code content
   * STRING}, its JSON.
   *
   * @param location the table's folder
   */
  public static Dataset<Row> actions(SparkSession spark, String location) {
    return spark
        .read()
        .text(location + "/_delta_log/" + "[0-9]".repeat(20) + ".json")
        .select(
            regexp_extract(input_file_name(), "(\\d{20})\\.json$", 1).cast("long").as("version"),
            expr("json_object_keys(value)[0]").as("action"),
            col("value").as("content"));
  }

  /**
   * The data files that the commits add up to: {@code path STRING, size BIGINT}. A file is in the
   * table if the last action that names it adds it.
   *
   * <p>Of a table without deletion vectors, and from a log that still has all its commits: what
   * Delta itself does is the same, and starts from the latest checkpoint.
   */
  public static Dataset<Row> filesFromCommits(SparkSession spark, String location) {
    return actions(spark, location)
        .where("action IN ('add', 'remove')")
        .selectExpr(
            "version",
            "action",
            "get_json_object(content, '$.' || action || '.path') AS path",
            "CAST(get_json_object(content, '$.add.size') AS BIGINT) AS size")
        .groupBy("path")
        .agg(expr("max_by(struct(action, size), struct(version, action = 'add')) AS last"))
        .where("last.action = 'add'")
        .selectExpr("path", "last.size AS size");
  }

  /**
   * The data files that a checkpoint lists: {@code path STRING, size BIGINT}.
   *
   * @param checkpoint a checkpoint's Parquet file, or the folder {@code _delta_log/_sidecars} of a
   *     table with V2 checkpoints, if it has one checkpoint
   */
  public static Dataset<Row> filesFromCheckpoint(SparkSession spark, String checkpoint) {
    return spark
        .read()
        .parquet(checkpoint)
        .where("add IS NOT NULL")
        .select(col("add.path"), col("add.size"));
  }

  /**
   * Makes a write and says why, for the history.
   *
   * @param reason such as a ticket or the job's run; it is kept as {@code userMetadata}
   */
  public static void append(String table, Dataset<Row> rows, String reason) {
    rows.write().format("delta").mode("append").option("userMetadata", reason).saveAsTable(table);
  }

  /**
   * Who did what: {@code version, timestamp, operation, operationParameters, operationMetrics,
   * userMetadata, engineInfo}, the latest first.
   */
  public static Dataset<Row> whoDidWhat(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table)
        .history()
        .select(
            "version",
            "timestamp",
            "operation",
            "operationParameters",
            "operationMetrics",
            "userMetadata",
            "engineInfo");
  }

  /**
   * Lets the table write V2 checkpoints: a small file that points to sidecars with the files, so
   * that a table of millions of files need not write them all anew.
   */
  public static void useV2Checkpoints(SparkSession spark, String table) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.checkpointPolicy' = 'v2')",
        Map.of("table", table));
  }

  /**
   * Compares the latest version, read anew, with the checksum that its writer left beside it: the
   * numbers of files and bytes, the protocol and the schema. Delta does not do that by itself when
   * it reads: a commit's file that a storage fault emptied is to it a version that did nothing.
   *
   * @return whether there is a checksum to compare with
   * @throws IllegalStateException DELTA_TXN_LOG_FAILED_INTEGRITY if they differ
   */
  public static boolean verify(SparkSession spark, String location) {
    DeltaLog.clearCache();
    return DeltaLog.forTable(spark, location)
        .unsafeVolatileSnapshot()
        .validateChecksum(Map$.MODULE$.<String, String>empty());
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        TransactionLog.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE TABLE orders (order_id BIGINT, status STRING) USING delta
              TBLPROPERTIES ('delta.checkpointInterval' = '4')
              """);
          String location = notebook.sandbox().path("schema/orders");
          Path log = notebook.sandbox().folder().resolve("schema/orders/_delta_log");
          append(
              "orders",
              spark.range(0, 100, 1, 2).selectExpr("id", "'open'").toDF("order_id", "status"),
              "import of 2024");
          spark.sql("UPDATE orders SET status = 'shipped' WHERE order_id = 0");

          notebook.step("A version is a file of actions");
          notebook.table(
              "the actions",
              actions(spark, location)
                  .groupBy("version", "action")
                  .count()
                  .orderBy("version", "action"));
          notebook.table(
              "one of them",
              actions(spark, location)
                  .where("action = 'remove'")
                  .selectExpr("substring(content, 1, 120) AS content"));

          notebook.step("The table is what they add up to");
          notebook.table(
              "files from the commits",
              filesFromCommits(spark, location).selectExpr("left(path, 20) AS path", "size"));
          notebook.text("Spark reads %d files.", spark.table("orders").inputFiles().length);

          notebook.step("A checkpoint sums up the commits so far");
          spark.sql("DELETE FROM orders WHERE order_id = 1");
          spark.sql("INSERT INTO orders VALUES (100, 'open')");
          notebook.text("In the log: %s", files(log));
          notebook.table(
              "files from the checkpoint",
              filesFromCheckpoint(
                      spark, location + "/_delta_log/00000000000000000004.checkpoint.parquet")
                  .selectExpr("left(path, 20) AS path", "size"));

          notebook.step("Who did what");
          notebook.table(
              "the history",
              whoDidWhat(spark, "orders")
                  .selectExpr(
                      "version",
                      "operation",
                      "operationParameters.predicate AS predicate",
                      "operationMetrics.numOutputRows AS rows_written",
                      "userMetadata",
                      "engineInfo"));

          notebook.step("V2 checkpoints have sidecars");
          useV2Checkpoints(spark, "orders");
          for (int i = 0; i < 3; i++) {
            spark.sql("INSERT INTO orders VALUES (%d, 'open')".formatted(200 + i));
          }
          notebook.text("In the log: %s", files(log));
          notebook.text("The sidecars: %s", files(log.resolve("_sidecars")));

          notebook.step("Is the log whole?");
          spark.sql("INSERT INTO orders VALUES (300, 'open')");
          notebook.text(
              "The latest version is what its checksum says: %s.",
              verify(spark, location) ? "yes" : "there is none");
          // What a storage fault leaves that loses the content of the file.
          Files.writeString(log.resolve("00000000000000000009.json"), "");
          notebook.refused(
              "An emptied commit", "DELTA_TXN_LOG_FAILED_INTEGRITY", () -> verify(spark, location));
        });
  }

  private static String files(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return String.join(
          ", ",
          files
              .map(file -> file.getFileName().toString())
              .filter(name -> name.matches(".*\\.(json|parquet)|_last_checkpoint"))
              .filter(name -> !name.startsWith("."))
              .sorted()
              .toList());
    }
  }
}
