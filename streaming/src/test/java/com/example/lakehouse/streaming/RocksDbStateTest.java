package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

@SparkTest
class RocksDbStateTest {
  private static final int KEYS = 2_000_000;

  enum Store {
    DEFAULT,
    ROCKS_DB,
    CHANGELOG;

    void use(SparkSession spark) {
      if (this != DEFAULT) {
        RocksDbState.useRocksDb(spark);
      }
      if (this == CHANGELOG) {
        RocksDbState.useChangelog(spark);
      }
    }
  }

  private static StreamingQuery count(SparkSession spark, Sandbox sandbox) throws Exception {
    StreamingQuery query =
        RocksDbState.countAvailable(
            spark.readStream().option("maxFilesPerTrigger", 1).table("events"),
            "counts",
            sandbox.path("checkpoint"));
    query.awaitTermination();
    return query;
  }

  private static void arrive(SparkSession spark, long from, long to) {
    spark
        .range(from, to, 1, 1)
        .selectExpr("id AS customer_id", "TIMESTAMP'2025-03-01 10:00:00' AS event_time")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("events");
  }

  private static Dataset<Row> files(SparkSession spark, Sandbox sandbox) {
    return RocksDbState.stateFiles(spark, sandbox.path("checkpoint"));
  }

  /** Name and size of each file. */
  private static Map<String, Long> sizes(SparkSession spark, Sandbox sandbox) {
    Map<String, Long> sizes = new LinkedHashMap<>();
    files(spark, sandbox)
        .collectAsList()
        .forEach(f -> sizes.put(f.getInt(0) + "/" + f.getString(1), f.getLong(4)));
    return sizes;
  }

  @ParameterizedTest
  @EnumSource
  void theResultsAreTheSame(Store store, SparkSession spark, Sandbox sandbox) throws Exception {
    store.use(spark);
    SampleData data = SampleData.of(spark).rows(6_000).duplicates(0.05);
    data.events()
        .select("customer_id", "event_time")
        .repartition(3)
        .write()
        .format("delta")
        .saveAsTable("events");

    StreamingQuery query = count(spark, sandbox);

    assertThat(query.recentProgress()).hasSizeGreaterThanOrEqualTo(3);
    assertThat(spark.table("counts"))
        .hasSameRowsAs(
            spark.sql(
                """
                SELECT customer_id, count(*) AS events, max(event_time) AS last
                FROM events GROUP BY customer_id
                """));
    assertThat(spark.sql("SELECT sum(events) FROM counts"))
        .hasRows(row(6_000 + data.duplicateCount()));
  }

  /** A batch of 20,000 keys, and what a batch of ten more keys adds to the checkpoint. */
  private static Map<String, Long> addedByTenKeys(SparkSession spark, Sandbox sandbox)
      throws Exception {
    arrive(spark, 0, 20_000);
    count(spark, sandbox);
    Map<String, Long> before = sizes(spark, sandbox);
    arrive(spark, 0, 10);
    count(spark, sandbox);
    Map<String, Long> added = sizes(spark, sandbox);
    before.forEach(
        (file, size) -> assertThat(added.remove(file)).as("unchanged " + file).isEqualTo(size));
    return added;
  }

  private static long sum(Map<String, Long> sizes) {
    return sizes.values().stream().mapToLong(Long::longValue).sum();
  }

  @Test
  void theDefaultStoreWritesWhatABatchChanges(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Map<String, Long> added = addedByTenKeys(spark, sandbox);

    assertThat(added).containsOnlyKeys("0/2.delta", "1/2.delta");
    assertThat(sum(added)).isLessThan(1_000);
  }

  @Test
  void rocksDbWritesItsOwnFilesWithEachBatch(SparkSession spark, Sandbox sandbox) throws Exception {
    RocksDbState.useRocksDb(spark);
    Map<String, Long> added = addedByTenKeys(spark, sandbox);

    assertThat(added).containsKeys("0/2.zip", "1/2.zip");
    assertThat(added.keySet()).filteredOn(file -> file.endsWith(".sst")).isNotEmpty();
    assertThat(files(spark, sandbox).select("kind").distinct()).hasRows(row("zip"), row("sst"));
    assertThat(sum(added)).isGreaterThan(5_000);
  }

  @Test
  void withAChangelogItWritesWhatABatchChanges(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Store.CHANGELOG.use(spark);
    Map<String, Long> added = addedByTenKeys(spark, sandbox);

    assertThat(added).containsOnlyKeys("0/2.changelog", "1/2.changelog");
    assertThat(sum(added)).isLessThan(1_000);
    assertThat(files(spark, sandbox).select("partition", "kind", "batch"))
        .hasRows(
            row(0, "changelog", 0L),
            row(1, "changelog", 0L),
            row(0, "changelog", 1L),
            row(1, "changelog", 1L));
  }

  @Test
  void theChangelogCanBeSwitchedOnLater(SparkSession spark, Sandbox sandbox) throws Exception {
    RocksDbState.useRocksDb(spark);
    arrive(spark, 0, 100);
    count(spark, sandbox);
    RocksDbState.useChangelog(spark);
    arrive(spark, 50, 150);
    count(spark, sandbox);

    assertThat(
            files(spark, sandbox).where("batch IS NOT NULL").select("partition", "kind", "batch"))
        .hasRows(
            row(0, "zip", 0L), row(1, "zip", 0L), row(0, "changelog", 1L), row(1, "changelog", 1L));
    assertThat(spark.sql("SELECT events, count(*) FROM counts GROUP BY events"))
        .hasRows(row(1L, 100L), row(2L, 50L));
  }

  @Test
  void aCheckpointKeepsTheStoreItBeganWith(SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 100);
    count(spark, sandbox);
    Store.CHANGELOG.use(spark);
    arrive(spark, 50, 150);
    count(spark, sandbox);

    assertThat(files(spark, sandbox).select("kind").distinct()).hasRows(row("delta"));
    assertThat(spark.sql("SELECT events, count(*) FROM counts GROUP BY events"))
        .hasRows(row(1L, 100L), row(2L, 50L));
  }

  /** Counts the ids of Parquet files, one file in a batch. */
  static final class ManyKeys {
    public static void main(String[] args) throws Exception {
      SparkSession spark = SparkSessions.open("many keys");
      Store.valueOf(args[0]).use(spark);
      spark
          .readStream()
          .schema("id BIGINT")
          .option("maxFilesPerTrigger", 1)
          .parquet(args[1])
          .groupBy("id")
          .count()
          .writeStream()
          .format("noop")
          .outputMode("update")
          .option("checkpointLocation", args[2])
          .trigger(Trigger.AvailableNow())
          .start()
          .awaitTermination();
      SparkSessions.close(spark);
    }
  }

  private static ChildJvm run(Store store, String heap, String source, Path folder)
      throws Exception {
    Path temporary = Files.createDirectories(folder.resolve(store + "-" + heap));
    return ChildJvm.run(
        ManyKeys.class,
        List.of(
            heap,
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.io.tmpdir=" + temporary,
            // Rows are many.
            "-Dspark.sql.codegen.wholeStage=true",
            "-Dspark.sql.codegen.factoryMode=FALLBACK"),
        store.name(),
        source,
        temporary.resolve("checkpoint").toUri().toString());
  }

  @Test
  void twoMillionKeysInAHeapThatTheDefaultStoreOverflows(SparkSession spark, Sandbox sandbox)
      throws Exception {
    String source = sandbox.path("ids");
    // Eight files of 250,000 ids each, and a ninth with the ids of the first again.
    spark.range(0, KEYS, 1, 8).write().parquet(source);
    spark.range(0, KEYS / 8, 1, 1).write().mode("append").parquet(source);

    ChildJvm rocksDb = run(Store.CHANGELOG, "-Xmx512m", source, sandbox.folder());
    assertThat(rocksDb.exitCode()).as(rocksDb.output()).isZero();
    // The reader of RocksDB's state reports to a coordinator, which this starts in a new session.
    spark.streams();
    Dataset<Row> state =
        spark
            .read()
            .format("statestore")
            .load(sandbox.path("CHANGELOG--Xmx512m/checkpoint"))
            .selectExpr("key.id", "value.count");
    assertThat(state.selectExpr("count(*)", "sum(id)", "sum(count)", "max(count)"))
        .hasRows(row(2_000_000L, 1_999_999_000_000L, 2_250_000L, 2L));

    ChildJvm onHeap = run(Store.DEFAULT, "-Xmx512m", source, sandbox.folder());
    assertThat(onHeap.output()).contains("java.lang.OutOfMemoryError");
    assertThat(onHeap.exitCode()).as(onHeap.output()).isNotZero();
  }
}
