package com.example.lakehouse.streaming;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import io.delta.tables.DeltaTable;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;

/**
 * Deduplication: each event once, from a stream that delivers some twice; what each way keeps in
 * memory, and which duplicates it does not catch.
 *
 * <p>Run: {@code ./run Deduplication}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: 10,500 rows, 500 of them duplicates, through three operators and a MERGE: what comes out,
 * and how many keys each remembers; an event that is sent again with another time.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the tables'.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#streaming-deduplication">Structured
 *     Streaming: streaming deduplication</a>
 */
public final class Deduplication {

  private Deduplication() {}

  /**
   * Each id once, for ever: every id is remembered, so the state grows without end.
   *
   * @param events with {@code event_id}
   */
  public static Dataset<Row> onceForEver(Dataset<Row> events) {
    return events.dropDuplicates("event_id");
  }

  /**
   * Each id and time once: a duplicate with another {@code event_time} is another event. An id is
   * forgotten when the watermark has reached its time, for then a copy is too late to come in.
   *
   * @param events with {@code event_id, event_time TIMESTAMP}
   * @param delay how long a row may take from its {@code event_time} on, such as {@code 1 minute};
   *     one that takes longer may be dropped, though it be the first
   */
  public static Dataset<Row> onceAtItsTime(Dataset<Row> events, String delay) {
    return events.withWatermark("event_time", delay).dropDuplicates("event_id", "event_time");
  }

  /**
   * Each id once, if its copies' times are no more than {@code delay} apart. An id is forgotten
   * when the watermark is {@code delay} past the time of its first row; one that is sent again
   * later, with a new {@code event_time}, comes through.
   *
   * @param events with {@code event_id, event_time TIMESTAMP}
   * @param delay as for {@link #onceAtItsTime}
   */
  public static Dataset<Row> onceWithin(Dataset<Row> events, String delay) {
    return events.withWatermark("event_time", delay).dropDuplicatesWithinWatermark("event_id");
  }

  /** Appends to {@code table} what comes out for all rows that are there, and ends. */
  public static StreamingQuery appendAvailable(Dataset<Row> events, String table, String checkpoint)
      throws TimeoutException {
    return events
        .writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * Inserts into {@code table} the ids that it does not have, and ends. The table itself is what is
   * remembered: no state, no watermark, any distance, and a batch that is repeated inserts nothing.
   * Each batch is joined with the table; a condition on a partition of it bounds what is read.
   *
   * @param events with {@code event_id}
   * @param table a Delta table with the columns of {@code events}, without duplicates
   */
  public static StreamingQuery insertNew(Dataset<Row> events, String table, String checkpoint)
      throws TimeoutException {
    return events
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, id) ->
                    DeltaTable.forName(batch.sparkSession(), table)
                        .as("known")
                        // MERGE does not compare the rows of a batch with each other.
                        .merge(
                            batch.dropDuplicates("event_id").as("new"),
                            "known.event_id = new.event_id")
                        .whenNotMatched()
                        .insertAll()
                        .execute())
        .start();
  }

  /** How many ids an operator remembered after a batch. */
  public static long rememberedIds(StreamingQueryProgress batch) {
    return Arrays.stream(batch.stateOperators()).mapToLong(kept -> kept.numRowsTotal()).sum();
  }

  /** The duplicates that were dropped in the batches that a query remembers, the last hundred. */
  public static long droppedDuplicates(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        // While a query waits, it reports the figures of its last batch again.
        .filter(progress -> progress.durationMs().containsKey("addBatch"))
        .flatMap(progress -> Arrays.stream(progress.stateOperators()))
        .mapToLong(operator -> operator.customMetrics().get("numDroppedDuplicateRows"))
        .sum();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Deduplication.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData data = notebook.sampleData(10_000).duplicates(0.05);
          Dataset<Row> events =
              data.events().select("event_id", "event_type", "event_time", "arrival_time");
          // Ten arrive in a second.
          long seconds = data.orderItemCount() / 10 / 5 + 10;
          for (int i = 0; i < 5; i++) {
            events
                .where(
                    "(unix_seconds(arrival_time) - unix_seconds(TIMESTAMP'2025-12-01')) div %d = %d"
                        .formatted(seconds, i))
                .coalesce(1)
                .write()
                .format("delta")
                .mode("append")
                .saveAsTable("events");
          }
          notebook.step("Events that come twice");
          notebook.text(
              "%,d rows arrive in five batches; %,d are second rows of an event, 1 to 30 seconds"
                  + " after the first.",
              spark.table("events").count(), data.duplicateCount());
          notebook.table(
              "one of them",
              spark
                  .table("events")
                  .where(
                      "event_id IN (SELECT event_id FROM events GROUP BY event_id HAVING count(*) ="
                          + " 2)")
                  .orderBy("event_id", "arrival_time")
                  .limit(2));

          notebook.step("Three operators and a MERGE");
          Dataset<Row> stream = spark.readStream().option("maxFilesPerTrigger", 1).table("events");
          Map<String, Dataset<Row>> ways = new LinkedHashMap<>();
          ways.put("onceForEver", onceForEver(stream));
          ways.put("onceAtItsTime", onceAtItsTime(stream, "1 minute"));
          ways.put("onceWithin", onceWithin(stream, "1 minute"));
          List<Row> results = new ArrayList<>();
          for (Map.Entry<String, Dataset<Row>> way : ways.entrySet()) {
            StreamingQuery query =
                appendAvailable(
                    way.getValue(), way.getKey(), notebook.sandbox().path(way.getKey()));
            query.awaitTermination();
            results.add(
                RowFactory.create(
                    way.getKey(),
                    spark.table(way.getKey()).count(),
                    spark.table(way.getKey()).select("event_id").distinct().count(),
                    rememberedIds(query.lastProgress())));
          }
          spark.table("events").limit(0).write().format("delta").saveAsTable("insertNew");
          insertNew(stream, "insertNew", notebook.sandbox().path("insertNew")).awaitTermination();
          results.add(
              RowFactory.create(
                  "insertNew",
                  spark.table("insertNew").count(),
                  spark.table("insertNew").select("event_id").distinct().count(),
                  0L));
          notebook.table(
              "with a delay of one minute",
              spark.createDataFrame(
                  results,
                  StructType.fromDDL(
                      "way STRING, rows BIGINT, events BIGINT, ids_remembered_at_the_end BIGINT")));

          notebook.step("An event that is sent again with another time");
          spark.sql("CREATE TABLE again (event_id INT, event_time TIMESTAMP) USING delta");
          Dataset<Row> again = spark.readStream().table("again");
          Map<String, Dataset<Row>> shortWays = new LinkedHashMap<>();
          shortWays.put("onceAtItsTime", onceAtItsTime(again, "10 minutes"));
          shortWays.put("onceWithin", onceWithin(again, "10 minutes"));
          spark.sql(
              "CREATE TABLE again_insertNew (event_id INT, event_time TIMESTAMP) USING delta");
          for (String arrival :
              new String[] {"(1, '10:00'), (1, '10:05'), (2, '10:40')", "(1, '10:45')"}) {
            spark.sql(
                "INSERT INTO again SELECT id, CAST('2025-03-01 ' || time AS TIMESTAMP) FROM VALUES %s AS v (id, time)"
                    .formatted(arrival));
            for (Map.Entry<String, Dataset<Row>> way : shortWays.entrySet()) {
              String name = "again_" + way.getKey();
              appendAvailable(way.getValue(), name, notebook.sandbox().path(name))
                  .awaitTermination();
            }
            insertNew(again, "again_insertNew", notebook.sandbox().path("again_insertNew"))
                .awaitTermination();
          }
          notebook.text(
              "It comes at 10:00, 10:05 and 10:45, with ten minutes' delay; the watermark is 10:30"
                  + " before the last.");
          notebook.table(
              "how often event 1 came out",
              spark.sql(
                  """
                  SELECT 'onceAtItsTime' AS way, count(*) AS times FROM again_onceAtItsTime WHERE event_id = 1
                  UNION ALL SELECT 'onceWithin', count(*) FROM again_onceWithin WHERE event_id = 1
                  UNION ALL SELECT 'insertNew', count(*) FROM again_insertNew WHERE event_id = 1
                  ORDER BY times DESC
                  """));

          notebook.step("What is refused");
          notebook.refused(
              "dropDuplicatesWithinWatermark without a watermark",
              "_LEGACY_ERROR_TEMP_3102",
              () ->
                  appendAvailable(
                      again.dropDuplicatesWithinWatermark("event_id"),
                      "refused",
                      notebook.sandbox().path("refused")));
          notebook.refused(
              "The same of a batch",
              "_LEGACY_ERROR_TEMP_3102",
              () -> onceWithin(spark.table("again"), "1 minute").count());
        });
  }
}
