package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Change data feed: which rows each version inserted, updated and deleted, as a table and as a
 * stream that keeps a replica equal to its source.
 *
 * <p>Run: {@code ./run ChangeDataFeed}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: an update is two rows, before and after; a replica that has never read the source itself
 * is equal to it after each batch of changes.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables', a volume's path
 * for the checkpoint.
 *
 * @see <a href="https://docs.delta.io/delta-change-data-feed/">Delta Lake: change data feed</a>
 */
public final class ChangeDataFeed {

  private ChangeDataFeed() {}

  /** Records the changes of every version from the next one on; earlier versions have none. */
  public static void enable(SparkSession spark, String table) {
    spark.sql(
        "ALTER TABLE IDENTIFIER(:table) SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')",
        Map.of("table", table));
  }

  /**
   * The changes of some versions: the table's columns, {@code _change_type} (insert, delete,
   * update_preimage, update_postimage), {@code _commit_version BIGINT} and {@code _commit_timestamp
   * TIMESTAMP}.
   *
   * @param from the first version
   * @param to the last version; one that does not exist yet stands for the latest
   * @throws org.apache.spark.sql.AnalysisException DELTA_MISSING_CHANGE_DATA if the feed was not
   *     enabled at {@code from}, when the rows are read
   * @throws IllegalArgumentException DELTA_CDC_START_VERSION_AFTER_LATEST if there is no such
   *     version yet
   */
  public static Dataset<Row> changes(SparkSession spark, String table, long from, long to) {
    return spark.sql(
        "SELECT * FROM table_changes(:table, :from, :to)",
        Map.of("table", table, "from", from, "to", to));
  }

  /**
   * Applies changes of any number of versions to {@code replica}, in one commit. The same changes
   * again change nothing.
   *
   * @param changes a part of the feed of a table with the replica's columns, of which {@code
   *     customer_id} is the key; whole versions
   */
  public static void apply(String replica, Dataset<Row> changes) {
    // The last word on each key. Within a version what a row became comes after what it was, and a
    // row that was and became nothing of the same key is gone: its key was deleted or changed.
    Dataset<Row> latest =
        changes
            .withColumn("is", expr("_change_type IN ('insert', 'update_postimage')"))
            .groupBy("customer_id")
            .agg(expr("max_by(struct(*), struct(_commit_version, is)) AS latest"))
            .select("latest.*");
    DeltaTable.forName(changes.sparkSession(), replica)
        .as("r")
        .merge(latest.as("c"), "r.customer_id = c.customer_id")
        .whenMatched("NOT c.is")
        .delete()
        .whenMatched()
        .updateAll()
        .whenNotMatched("c.is")
        .insertAll()
        .execute();
  }

  /**
   * Brings {@code replica} up to date and stops. The first run copies the source as it is; each
   * later one applies what has changed since, and only that.
   *
   * @param source a table with the feed enabled
   * @param replica a table with the same columns
   * @param checkpoint a folder that remembers how far the replica is; one for each replica
   */
  public static StreamingQuery replicate(
      SparkSession spark, String source, String replica, String checkpoint)
      throws TimeoutException {
    VoidFunction2<Dataset<Row>, Long> applyBatch = (changes, batchId) -> apply(replica, changes);
    return spark
        .readStream()
        .option("readChangeFeed", "true")
        .table(source)
        .writeStream()
        .foreachBatch(applyBatch)
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .start();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ChangeDataFeed.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql("CREATE TABLE customers (customer_id BIGINT, city STRING) USING delta");
          spark.sql("CREATE TABLE replica (customer_id BIGINT, city STRING) USING delta");
          enable(spark, "customers");
          spark.sql("INSERT INTO customers VALUES (1, 'Berlin'), (2, 'Paris'), (3, 'Rome')");

          notebook.step("What did each version change?");
          spark.sql("UPDATE customers SET city = 'Madrid' WHERE customer_id = 2");
          spark.sql("DELETE FROM customers WHERE customer_id = 3");
          notebook.table(
              "the changes of versions 2 to 4",
              changes(spark, "customers", 2, 4)
                  .drop("_commit_timestamp")
                  .orderBy("_commit_version", "customer_id", "_change_type"));
          notebook.refused(
              "Version 0, before the feed was enabled",
              "DELTA_MISSING_CHANGE_DATA",
              () -> changes(spark, "customers", 0, 4).collectAsList());

          notebook.step("A replica");
          String checkpoint = notebook.sandbox().path("checkpoint");
          replicate(spark, "customers", "replica", checkpoint).awaitTermination();
          notebook.table(
              "the replica after its first run", spark.table("replica").orderBy("customer_id"));

          notebook.step("Three more versions, one of which changes a key");
          spark.sql("INSERT INTO customers VALUES (4, 'Vienna')");
          spark.sql("UPDATE customers SET customer_id = 10 WHERE customer_id = 1");
          spark.sql("UPDATE customers SET city = 'Graz' WHERE customer_id = 4");
          replicate(spark, "customers", "replica", checkpoint).awaitTermination();
          notebook.table("customers", spark.table("customers").orderBy("customer_id"));
          notebook.table("the replica", spark.table("replica").orderBy("customer_id"));
          notebook.table(
              "what the replica's versions did: one merge for all that had changed",
              DeltaTable.forName(spark, "replica")
                  .history()
                  .selectExpr(
                      "version",
                      "operation",
                      "operationMetrics.numTargetRowsInserted AS inserted",
                      "operationMetrics.numTargetRowsUpdated AS updated",
                      "operationMetrics.numTargetRowsDeleted AS deleted"));
        });
  }
}
