package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * RocksDB as the state store: more keys than the heap holds, and checkpoints that take only what a
 * batch has changed.
 *
 * <p>Run: {@code ./run RocksDbState}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: one query on three stores, with the same result; the files that each leaves in the
 * checkpoint, and the bytes that a small batch writes.
 *
 * <p>On Databricks: RocksDB with changelog checkpointing is the default of newer runtimes.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#rocksdb-state-store-implementation">Structured
 *     Streaming: RocksDB state store implementation</a>
 */
public final class RocksDbState {

  private RocksDbState() {}

  /**
   * Sets the state store of the queries that start from now on. A checkpoint keeps the store that
   * it began with, whatever is set later.
   *
   * <p>The default store has all keys on the heap of the executors, and so many bytes more of
   * garbage. RocksDB has them in files on the executors' disks, and outside the heap a cache, whose
   * size {@code spark.sql.streaming.stateStore.rocksdb.maxMemoryUsageMB} limits for all stores of
   * an executor together, if {@code boundedMemoryUsage} is true.
   */
  public static void useRocksDb(SparkSession spark) {
    spark
        .conf()
        .set(
            "spark.sql.streaming.stateStore.providerClass",
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider");
  }

  /**
   * Lets a batch write what it has changed, and not RocksDB's own files, which then are written in
   * the background, every ten batches or so. It may be switched on for a checkpoint that has begun
   * without it.
   */
  public static void useChangelog(SparkSession spark) {
    spark
        .conf()
        .set("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled", "true");
  }

  /**
   * Counts events by customer, and keeps {@code table} up to date with all that are there.
   *
   * @param events with {@code customer_id BIGINT, event_time TIMESTAMP}
   * @return when it has ended: {@code customer_id BIGINT, events BIGINT, last TIMESTAMP}
   */
  public static StreamingQuery countAvailable(Dataset<Row> events, String table, String checkpoint)
      throws TimeoutException {
    return events
        .groupBy("customer_id")
        .agg(count("*").as("events"), max("event_time").as("last"))
        .writeStream()
        .format("delta")
        .outputMode("complete")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * The files of a query's first stateful operator, without checksums.
   *
   * @return {@code partition INT, file STRING, kind STRING, batch BIGINT, bytes BIGINT}: {@code
   *     delta} and {@code changelog} hold what a batch has changed, {@code snapshot} and {@code
   *     zip} all keys after a batch, the latter by naming {@code sst} files, whose batch is NULL
   */
  public static Dataset<Row> stateFiles(SparkSession spark, String checkpoint) {
    return spark
        .read()
        .format("binaryFile")
        .option("recursiveFileLookup", true)
        .option("pathGlobFilter", "[0-9]*.{delta,snapshot,changelog,zip,sst}")
        .load(checkpoint + "/state/0")
        .selectExpr(
            "CAST(regexp_extract(path, '/state/0/([0-9]+)/', 1) AS INT) AS partition",
            "element_at(split(path, '/'), -1) AS file",
            "element_at(split(path, '[.]'), -1) AS kind",
            "length AS bytes")
        // Batch 0 makes version 1.
        .selectExpr(
            "partition",
            "file",
            "kind",
            "try_cast(split(file, '[.]')[0] AS BIGINT) - 1 AS batch",
            "bytes");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RocksDbState.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData data = notebook.sampleData(30_000);
          Dataset<Row> events = data.events().select("event_id", "customer_id", "event_time");
          events
              .withColumn("customer_id", col("event_id"))
              .coalesce(1)
              .write()
              .format("delta")
              .saveAsTable("events");

          notebook.step("One query on three stores");
          notebook.text(
              "%,d events of as many customers are one batch; then ten more events come.",
              data.orderItemCount());
          Map<String, String> checkpoints = new LinkedHashMap<>();
          for (String store : new String[] {"default", "rocksdb", "changelog"}) {
            checkpoints.put(store, notebook.sandbox().path(store));
          }
          Map<String, Long> firstBytes = new LinkedHashMap<>();
          for (int batch = 0; batch < 2; batch++) {
            if (batch == 1) {
              spark.sql("INSERT INTO events SELECT * FROM events WHERE event_id < 10");
            }
            spark.conf().unset("spark.sql.streaming.stateStore.providerClass");
            spark
                .conf()
                .unset("spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled");
            for (Map.Entry<String, String> store : checkpoints.entrySet()) {
              if (store.getKey().equals("rocksdb")) {
                useRocksDb(spark);
              } else if (store.getKey().equals("changelog")) {
                useChangelog(spark);
              }
              countAvailable(
                      spark.readStream().table("events"),
                      "counts_" + store.getKey(),
                      store.getValue())
                  .awaitTermination();
              firstBytes.putIfAbsent(store.getKey(), bytes(spark, store.getValue()));
            }
          }
          Dataset<Row> results =
              spark
                  .table("counts_default")
                  .union(spark.table("counts_rocksdb"))
                  .union(spark.table("counts_changelog"));
          notebook.text(
              "Of %,d rows in three results, %,d are not in all three.",
              results.count(),
              results.groupBy("customer_id", "events", "last").count().where("count <> 3").count());

          notebook.step("What they have written");
          Chart chart = new Chart("A batch of ten rows", "bytes written");
          for (Map.Entry<String, String> store : checkpoints.entrySet()) {
            notebook.table(
                store.getKey(),
                stateFiles(spark, store.getValue())
                    .groupBy("kind", "batch")
                    .agg(count(lit(1)).as("files"), sum("bytes").as("bytes"))
                    .orderBy("kind", "batch"));
            chart.bar(
                store.getKey(), bytes(spark, store.getValue()) - firstBytes.get(store.getKey()));
          }
          notebook.chart(chart);
          notebook.text(
              "The default store writes as little, but it has all keys on the heap. The test of"
                  + " this class counts two million keys in a heap of 512 MB: RocksDB does, the"
                  + " default store ends with an OutOfMemoryError.");
        });
  }

  private static long bytes(SparkSession spark, String checkpoint) {
    return stateFiles(spark, checkpoint).agg(sum("bytes")).head().getLong(0);
  }
}
