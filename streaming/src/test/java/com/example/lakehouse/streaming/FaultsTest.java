package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import org.apache.commons.io.FileUtils;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/**
 * What becomes of a stream when what it stands on fails. Processes that are killed are {@link
 * ExactlyOnceTest}'s, malformed records {@code BadRecordsTest}'s.
 */
@SparkTest
@KafkaTest
class FaultsTest {
  private static final Duration PATIENCE = Duration.ofMinutes(2);

  private String location;
  private String checkpoint;
  private String source;

  @BeforeEach
  void createSource(SparkSession spark, Sandbox sandbox) {
    source = sandbox.path("source");
    location = sandbox.path("copy");
    checkpoint = sandbox.path("checkpoint");
  }

  /** One file of numbers for each thousand. */
  private void arrive(SparkSession spark, long from, long to) {
    spark
        .range(from, to, 1, (int) ((to - from) / 1_000))
        .toDF("id")
        .write()
        .format("delta")
        .mode("append")
        .save(source);
  }

  private void copyAll(Dataset<Row> rows, String location, String checkpoint) throws Exception {
    StreamingQuery query = CheckpointRecovery.append(rows, location, checkpoint);
    try {
      query.processAllAvailable();
    } finally {
      query.stop();
    }
  }

  private Dataset<Row> numbers(SparkSession spark) {
    return spark.readStream().format("delta").option("maxFilesPerTrigger", 1).load(source);
  }

  private void assertCopied(SparkSession spark, String location, long rows) {
    assertThat(spark.read().format("delta").load(location))
        .hasSameRowsAs(spark.range(rows).toDF("id"));
  }

  @Test
  void aBrokerThatIsAwayForTenSecondsIsWaitedFor(SparkSession spark, Sandbox sandbox)
      throws Exception {
    try (EmbeddedKafka kafka = EmbeddedKafka.start(sandbox.folder().resolve("kafka"))) {
      assumeTrue(kafka.isEmbedded(), "a broker of one's own is not stopped");
      String topic = kafka.newTopic("events", 2);
      send(spark, kafka, topic, 0, 3_000);
      StreamingQuery query =
          ExactlyOnce.ingest(spark, kafka.bootstrapServers(), topic, location, checkpoint);
      try {
        query.processAllAvailable();
        kafka.stopBroker();
        await()
            .during(Duration.ofSeconds(10))
            .atMost(Duration.ofSeconds(20))
            .until(query::isActive);
        kafka.startBroker();
        send(spark, kafka, topic, 3_000, 2_000);
        await()
            .atMost(PATIENCE)
            .until(() -> spark.read().format("delta").load(location).count() == 5_000);

        assertThat(query.isActive()).isTrue();
        assertThat(
                ExactlyOnce.audit(spark.read().format("delta").load(location))
                    .selectExpr("sum(records)", "sum(missing)", "sum(twice)"))
            .hasRows(row(5_000L, 0L, 0L));
      } finally {
        query.stop();
      }
    }
  }

  private static void send(
      SparkSession spark, EmbeddedKafka kafka, String topic, long from, long records) {
    spark
        .range(from, from + records)
        .selectExpr("CAST(id AS STRING) AS key", "CAST(id AS STRING) AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("topic", topic)
        .save();
  }

  @Test
  void aCheckpointThatCannotBeMadeStopsTheStartAndNothingIsWritten(
      SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 1_000);
    Path file = Files.createFile(sandbox.folder().resolve("a-file"));

    assertThatThrownBy(() -> copyAll(numbers(spark), location, file + "/checkpoint"))
        .hasStackTraceContaining("a-file");
    assertThat(Path.of(location)).doesNotExist();
  }

  @Test
  void aCheckpointThatCannotBeWrittenStopsTheStreamAndLosesNothing(
      SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 2_000);
    copyAll(numbers(spark), location, checkpoint);
    Path offsets = sandbox.folder().resolve("checkpoint/offsets");
    Path aside = sandbox.folder().resolve("aside");
    arrive(spark, 2_000, 4_000);
    StreamingQuery query = CheckpointRecovery.append(numbers(spark), location, checkpoint);
    query.processAllAvailable();
    // Under the running query, which reads from it no more: it can only write.
    Files.move(offsets, aside);
    Files.createFile(offsets);
    arrive(spark, 4_000, 6_000);
    assertThatThrownBy(query::processAllAvailable)
        .isInstanceOf(StreamingQueryException.class)
        .hasStackTraceContaining("checkpoint/offsets");
    assertCopied(spark, location, 4_000);

    Files.delete(offsets);
    Files.move(aside, offsets);
    copyAll(numbers(spark), location, checkpoint);

    assertCopied(spark, location, 6_000);
  }

  @Test
  void aFullDiskStopsTheStreamAndWithRoomItGoesOn(SparkSession spark, Sandbox sandbox)
      throws Exception {
    // 16 bytes a row that do not compress: 20 files of 600 kB.
    spark
        .range(0, 640_000, 1, 20)
        .selectExpr("id", "xxhash64(id) AS h", "xxhash64(h) AS h2")
        .write()
        .format("delta")
        .save(source);
    try (SmallDisk disk = SmallDisk.in(spark, sandbox.folder())) {
      Dataset<Row> rows = numbers(spark);

      assertThatThrownBy(() -> copyAll(rows, disk.path("copy"), disk.path("checkpoint")))
          .isInstanceOf(StreamingQueryException.class)
          .hasStackTraceContaining("No space left on device");
      Dataset<Row> copied = spark.read().format("delta").load(disk.path("copy"));
      long before = copied.count();
      assertThat(before).as("whole batches only").isGreaterThan(0).isLessThan(640_000);
      assertThat(before % 32_000).isZero();

      disk.grow();
      copyAll(rows, disk.path("copy"), disk.path("checkpoint"));

      assertThat(spark.read().format("delta").load(disk.path("copy")).select("id"))
          .hasSameRowsAs(spark.range(640_000).toDF("id"));
    }
  }

  @Test
  void withoutItsCheckpointAStreamBeginsAgainAndAppendsAllOnceMore(
      SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 2_000);
    copyAll(numbers(spark), location, checkpoint);
    FileUtils.deleteDirectory(sandbox.folder().resolve("checkpoint").toFile());

    copyAll(numbers(spark), location, checkpoint);

    assertThat(
            spark
                .read()
                .format("delta")
                .load(location)
                .groupBy("id")
                .count()
                .groupBy("count")
                .count())
        .as("what to do: ForeachBatchUpsert, or startingVersion and the number of the last batch")
        .hasRows(row(2L, 2_000L));
  }

  @Test
  void aPoisonedMessageStopsTheStreamAtTheSamePlaceUntilTheQueryCanReadIt(
      SparkSession spark, EmbeddedKafka kafka) throws Exception {
    String topic = kafka.newTopic("events", 1);
    send(spark, kafka, topic, 0, 10);
    spark
        .sql("SELECT 'x' AS key, 'not a number' AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("topic", topic)
        .save();
    send(spark, kafka, topic, 10, 10);
    Dataset<Row> records =
        KafkaIngest.read(
            spark,
            kafka.bootstrapServers(),
            topic,
            Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "5"));
    Dataset<Row> strict = records.selectExpr("CAST(CAST(value AS STRING) AS BIGINT) AS id");
    for (int start = 0; start < 2; start++) {
      assertThatThrownBy(() -> copyAll(strict, location, checkpoint))
          .isInstanceOf(StreamingQueryException.class)
          .hasStackTraceContaining("CAST_INVALID_INPUT");
      assertThat(spark.read().format("delta").load(location))
          .as("the batches before it")
          .hasSameRowsAs(spark.range(10).toDF("id"));
    }

    copyAll(
        records
            .selectExpr("try_cast(CAST(value AS STRING) AS BIGINT) AS id")
            .where("id IS NOT NULL"),
        location,
        checkpoint);

    assertCopied(spark, location, 20);
  }
}
