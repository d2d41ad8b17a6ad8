package com.example.lakehouse.streaming;

import com.example.lakehouse.common.Notebook;
import java.util.concurrent.TimeoutException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;

/**
 * A first stream: files arrive in a folder, and a table always has the count of all of them.
 *
 * <p>Run: {@code ./run FirstStream}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the counts after the first files and after more of them; the same query as a batch, with
 * equal rows; a second start that reads only what is new.
 *
 * <p>On Databricks: the same code, with a volume in place of the folder; Auto Loader ({@code
 * cloudFiles}) lists large folders faster than the file source.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/streaming/getting-started.html">Structured
 *     Streaming: getting started</a>
 */
public final class FirstStream {

  private FirstStream() {}

  /** All files that are in the folder now. */
  public static Dataset<Row> readAsBatch(SparkSession spark, String folder, String schema) {
    return spark.read().schema(schema).json(folder);
  }

  /** The files that are in the folder, and those that come. */
  public static Dataset<Row> readAsStream(SparkSession spark, String folder, String schema) {
    return spark.readStream().schema(schema).json(folder);
  }

  /**
   * Counts events by type, be they a batch or a stream.
   *
   * @param events with {@code event_type STRING}
   * @return {@code event_type STRING, events BIGINT}
   */
  public static Dataset<Row> countByType(Dataset<Row> events) {
    return events.groupBy("event_type").count().withColumnRenamed("count", "events");
  }

  /**
   * Brings {@code table} up to date with all files that are there, and ends.
   *
   * @param counts what {@link #countByType} makes of a stream
   * @param checkpoint a folder that remembers which files are counted, and the counts: the next
   *     start goes on from there
   */
  public static StreamingQuery update(Dataset<Row> counts, String table, String checkpoint)
      throws TimeoutException {
    return counts
        .writeStream()
        .format("delta")
        .outputMode("complete")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        FirstStream.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String folder = notebook.sandbox().path("events");
          String checkpoint = notebook.sandbox().path("checkpoint");
          Dataset<Row> events = notebook.sampleData(3_000).events();
          String schema = events.schema().toDDL();

          notebook.step("The first 1,000 events arrive");
          events.where("event_id < 1000").write().json(folder);
          Dataset<Row> counts = countByType(readAsStream(spark, folder, schema));
          update(counts, "counts", checkpoint).awaitTermination();
          notebook.table("counts", spark.table("counts").orderBy("event_type"));

          notebook.step("The other events arrive: only their files are read");
          events.where("event_id >= 1000").write().mode("append").json(folder);
          StreamingQuery second = update(counts, "counts", checkpoint);
          second.awaitTermination();
          notebook.text("The second start read %,d rows.", second.lastProgress().numInputRows());
          notebook.table("counts", spark.table("counts").orderBy("event_type"));

          notebook.step("The same query as a batch");
          notebook.table(
              "counts of all files",
              countByType(readAsBatch(spark, folder, schema)).orderBy("event_type"));
        });
  }
}
