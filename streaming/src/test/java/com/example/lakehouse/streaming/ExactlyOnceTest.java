package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.IngestProcess;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@SparkTest
class ExactlyOnceTest {
  private static final int KILLS = 20;
  private static final int SENT_FOR_EACH_KILL = 5_000;
  private static EmbeddedKafka kafka;

  private String topic;
  private String location;
  private String checkpoint;
  private Dataset<Row> table;

  @BeforeAll
  static void startBroker(@TempDir Path folder) {
    kafka = EmbeddedKafka.start(folder.resolve("kafka"));
  }

  @AfterAll
  static void stopBroker() {
    kafka.close();
  }

  @BeforeEach
  void createTable(SparkSession spark, Sandbox sandbox) {
    topic = kafka.newTopic("events", 2);
    location = sandbox.path("events");
    checkpoint = sandbox.path("checkpoint");
    spark
        .sql("SELECT 0 AS kafka_partition, 0L AS kafka_offset, '' AS value WHERE FALSE")
        .write()
        .format("delta")
        .save(location);
    table = spark.read().format("delta").load(location);
  }

  /** Sends the numbers from {@code from}, each once. */
  private void send(SparkSession spark, long from, long records) {
    spark
        .range(from, from + records)
        .selectExpr("CAST(id AS STRING) AS key", "CAST(id AS STRING) AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("kafka.enable.idempotence", "true")
        .option("topic", topic)
        .save();
  }

  private void ingestAll(SparkSession spark) throws Exception {
    StreamingQuery query =
        ExactlyOnce.ingest(spark, kafka.bootstrapServers(), topic, location, checkpoint);
    try {
      query.processAllAvailable();
    } finally {
      query.stop();
    }
  }

  private void assertNoneMissingAndNoneTwice() {
    assertThat(ExactlyOnce.audit(table).where("missing <> 0 OR twice <> 0")).isEmpty();
  }

  /**
   * 20 times: more records are sent, a process takes them in and is killed at a random moment, its
   * first commit or its start among them; at every fifth the broker goes away meanwhile and comes
   * back.
   */
  @Test
  void everyRecordIsThereOnceAfterEachOfTwentyKillsAndAtTheEnd(SparkSession spark)
      throws Exception {
    Random random = new Random(42);
    long sent = 0;
    int killedWhileWriting = 0;
    for (int kill = 1; kill <= KILLS; kill++) {
      send(spark, sent, SENT_FOR_EACH_KILL);
      sent += SENT_FOR_EACH_KILL;
      long before = table.count();
      try (IngestProcess process =
          IngestProcess.start(kafka.bootstrapServers(), topic, location, checkpoint)) {
        await()
            .atMost(Duration.ofMinutes(2))
            .pollInterval(Duration.ofMillis(500))
            .until(
                () -> {
                  process.requireAlive();
                  return table.count() > before;
                });
        if (kill % 5 == 0 && kafka.isEmbedded()) {
          kafka.stopBroker();
          kafka.startBroker();
        }
        // The moment is what this test varies: a batch takes about half a second.
        TimeUnit.MILLISECONDS.sleep(random.nextInt(1_000));
        process.requireAlive();
        process.kill();
      }
      if (table.count() < sent) {
        killedWhileWriting++;
      }
      assertNoneMissingAndNoneTwice();
    }
    ingestAll(spark);

    assertNoneMissingAndNoneTwice();
    assertThat(table).hasRowCount(sent);
    assertThat(table.select("value").distinct()).hasRowCount(sent);
    assertThat(killedWhileWriting).as("kills with records still to come").isPositive();
  }

  /**
   * The batch as it was before Spark noted it as done: a crash between Delta's commit and Spark's.
   */
  private static void forgetLastBatch(Sandbox sandbox) throws IOException {
    Path checkpoint = sandbox.folder().resolve("checkpoint");
    try (Stream<Path> files = Files.list(checkpoint.resolve("commits"))) {
      long last =
          files
              .map(file -> file.getFileName().toString())
              .filter(name -> name.matches("\\d+"))
              .mapToLong(Long::parseLong)
              .max()
              .orElseThrow();
      Checkpoints.forgetCommit(checkpoint, last);
    }
  }

  @Test
  void aBatchThatWasCommittedAndNotNotedIsNotWrittenTwice(SparkSession spark, Sandbox sandbox)
      throws Exception {
    send(spark, 0, 3_000);
    ingestAll(spark);
    forgetLastBatch(sandbox);
    ingestAll(spark);

    assertThat(table).hasRowCount(3_000);
    assertNoneMissingAndNoneTwice();
  }

  /** When this test fails, SPARK-55271 is mended and SparkSessions needs its setting no more. */
  @Test
  void theNewerSourceFailsAfterARepeatedBatchAndLosesNothing(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.conf().set("spark.sql.streaming.disabledV2MicroBatchReaders", "");
    send(spark, 0, 3_000);
    ingestAll(spark);
    forgetLastBatch(sandbox);

    assertThatThrownBy(() -> ingestAll(spark))
        .isInstanceOf(StreamingQueryException.class)
        .hasRootCauseInstanceOf(NullPointerException.class)
        .hasStackTraceContaining("KafkaMicroBatchStream$.metrics");
    send(spark, 3_000, 10);
    ingestAll(spark);
    assertThat(table).hasRowCount(3_010);
    assertNoneMissingAndNoneTwice();
  }

  @Test
  void withAnotherCheckpointEveryRecordIsThereTwice(SparkSession spark, Sandbox sandbox)
      throws Exception {
    send(spark, 0, 100);
    ingestAll(spark);
    checkpoint = sandbox.path("another");
    ingestAll(spark);

    assertThat(ExactlyOnce.audit(table).selectExpr("sum(records)", "sum(twice)"))
        .hasRows(row(200L, 100L));
  }

  @Test
  void theAuditFindsWhatIsMissingAndWhatIsTwice(SparkSession spark) {
    Dataset<Row> rows =
        spark.sql(
            "SELECT * FROM VALUES (0, 0L), (0, 2L), (0, 2L), (1, 0L) AS t (kafka_partition, kafka_offset)");

    assertThat(ExactlyOnce.audit(rows)).hasRows(row(0, 3L, 1L, 1L), row(1, 1L, 0L, 0L));
  }

  @Test
  void theNumberOfTheLastBatchStandsInTheTablesLog(SparkSession spark, Sandbox sandbox)
      throws Exception {
    send(spark, 0, 3_000);
    ingestAll(spark);

    List<Row> transactions =
        spark
            .read()
            .json(sandbox.path("events/_delta_log/*.json"))
            .where("txn IS NOT NULL")
            .selectExpr("max(txn.version)", "count(DISTINCT txn.appId)")
            .collectAsList();
    assertThat(transactions).containsExactly(row(1L, 1L));
  }
}
