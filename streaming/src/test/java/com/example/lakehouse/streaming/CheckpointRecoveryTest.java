package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class CheckpointRecoveryTest {
  private String source;
  private String location;
  private String checkpoint;

  @BeforeEach
  void createSource(SparkSession spark, Sandbox sandbox) {
    source = sandbox.path("source");
    location = sandbox.path("copy");
    checkpoint = sandbox.path("checkpoint");
    arrive(spark, 0, 1_000);
  }

  /** Two files of numbers. */
  private void arrive(SparkSession spark, long from, long to) {
    write(spark, from, to, 2);
  }

  private void write(SparkSession spark, long from, long to, int files) {
    spark
        .range(from, to, 1, files)
        .selectExpr("id", "id % 3 AS k")
        .write()
        .format("delta")
        .mode("append")
        .save(source);
  }

  private static Dataset<Row> stream(SparkSession spark, String source) {
    return spark.readStream().format("delta").option("maxFilesPerTrigger", 1).load(source);
  }

  private void copyAll(SparkSession spark) throws Exception {
    StreamingQuery query = CheckpointRecovery.append(stream(spark, source), location, checkpoint);
    try {
      query.processAllAvailable();
    } finally {
      query.stop();
    }
  }

  private StreamingQuery count(Dataset<Row> rows, String key) throws Exception {
    StreamingQuery query = CheckpointRecovery.count(rows, key, "counts", checkpoint);
    query.awaitTermination();
    return query;
  }

  private static void assertCopied(SparkSession spark, String location, long rows) {
    assertThat(spark.read().format("delta").load(location).select("id"))
        .hasSameRowsAs(spark.range(rows).toDF("id"));
  }

  @Test
  void theNextStartReadsWhatIsNewAndNothingElse(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 1_600);
    StreamingQuery second = count(stream(spark, source), "k");

    assertThat(second.recentProgress())
        .extracting(batch -> batch.numInputRows())
        .containsExactly(300L, 300L);
    assertThat(spark.table("counts")).hasRows(row(0L, 534L), row(1L, 533L), row(2L, 533L));
  }

  @Test
  void theCheckpointTellsTheBatchesAndWhichIsNotDone(SparkSession spark, Sandbox sandbox)
      throws Exception {
    copyAll(spark);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 1);

    assertThat(
            CheckpointRecovery.batches(spark, checkpoint)
                .selectExpr(
                    "batch",
                    "CAST(get_json_object(offsets, '$.reservoirVersion') AS BIGINT)",
                    "CAST(get_json_object(offsets, '$.index') AS BIGINT)",
                    "done"))
        .as("up to the first file of version 0; up to the beginning of version 1")
        .hasRows(row(0L, 0L, 0L, true), row(1L, 1L, -1L, false));
  }

  @Test
  void aBatchThatWasNotDoneIsRunAgainWithTheSameRows(SparkSession spark, Sandbox sandbox)
      throws Exception {
    copyAll(spark);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 1);
    arrive(spark, 1_000, 2_000);

    copyAll(spark);

    assertCopied(spark, location, 2_000);
  }

  /**
   * Copies to a table, one file in a batch, and hangs in the middle of the second: its task has
   * begun to write rows and waits for ever.
   */
  static final class HangingCopy {
    public static void main(String[] args) throws Exception {
      String inTheMiddle = args[3];
      SparkSession spark = SparkSessions.open("copy");
      UDF1<Long, Long> hang =
          id -> {
            if (id == 750) {
              Files.createFile(Path.of(inTheMiddle));
              new CountDownLatch(1).await();
            }
            return id;
          };
      spark.udf().register("hang", udf(hang, DataTypes.LongType).asNondeterministic());
      CheckpointRecovery.append(
              stream(spark, args[0]).selectExpr("hang(id) AS id", "k"), args[1], args[2])
          .awaitTermination();
    }
  }

  @Test
  void sigtermInTheMiddleOfABatchLosesNothingAndDoublesNothing(SparkSession spark, Sandbox sandbox)
      throws Exception {
    // A stream reads files by their times, and two that one commit writes have no order.
    source = sandbox.path("in-order");
    write(spark, 0, 500, 1);
    write(spark, 500, 1_000, 1);
    Path inTheMiddle = sandbox.folder().resolve("in-the-middle");
    Path log = sandbox.folder().resolve("copy.log");
    Process process =
        new ProcessBuilder(
                ChildJvm.command(
                    HangingCopy.class,
                    List.of("-Xmx1g"),
                    source,
                    location,
                    checkpoint,
                    inTheMiddle.toString()))
            .redirectErrorStream(true)
            .redirectOutput(log.toFile())
            .start();
    try {
      await()
          .atMost(Duration.ofMinutes(2))
          .until(
              () -> {
                assertThat(process.isAlive()).as(() -> read(log)).isTrue();
                return Files.exists(inTheMiddle);
              });
      process.destroy();
      assertThat(process.waitFor(1, TimeUnit.MINUTES)).as("it ends by itself").isTrue();
    } finally {
      process.toHandle().destroyForcibly();
    }
    assertThat(process.exitValue()).as("128 and SIGTERM's number").isEqualTo(143);
    assertCopied(spark, location, 500);

    arrive(spark, 1_000, 2_000);
    copyAll(spark);

    assertCopied(spark, location, 2_000);
  }

  private static String read(Path log) {
    try {
      return Files.readString(log);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Test
  void aFilterMayBeAddedAndHoldsForWhatComes(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 0, 1_000);
    count(stream(spark, source).where("k <> 0"), "k");

    assertThat(spark.table("counts")).hasRows(row(0L, 334L), row(1L, 666L), row(2L, 666L));
  }

  @Test
  void theSizeOfBatchesMayBeChanged(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 2_000);
    StreamingQuery second = count(spark.readStream().format("delta").load(source), "k");

    assertThat(second.recentProgress())
        .extracting(batch -> batch.numInputRows())
        .containsExactly(1_000L);
  }

  @Test
  void theNumberOfShufflePartitionsStaysThatOfTheFirstStart(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 2_000);
    spark.conf().set("spark.sql.shuffle.partitions", "7");

    StreamingQuery second = count(stream(spark, source), "k");

    assertThat(second.lastProgress().stateOperators()[0].numShufflePartitions()).isEqualTo(2);
  }

  @Test
  void anotherKeyTypeIsRefused(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 2_000);

    assertRefused(
        "STATE_STORE_KEY_SCHEMA_NOT_COMPATIBLE",
        () -> count(stream(spark, source), "CAST(k AS STRING)"));
    assertThat(spark.table("counts"))
        .as("as it was")
        .hasRows(row(0L, 334L), row(1L, 333L), row(2L, 333L));
  }

  /** The trap: types are compared, meanings are not. */
  @Test
  void anotherKeyOfTheSameTypeIsNotNoticedAndMixesTheCounts(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 1_010);
    count(stream(spark, source), "id");

    assertThat(spark.table("counts").where("key IN (0, 1000)"))
        .hasRows(row(0L, 334L), row(1_000L, 1L));
  }

  @Test
  void anotherStatefulOperationIsRefused(SparkSession spark) throws Exception {
    count(stream(spark, source), "k");
    arrive(spark, 1_000, 2_000);

    assertRefused(
        "STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA",
        () -> {
          StreamingQuery query =
              CheckpointRecovery.append(
                  stream(spark, source).dropDuplicates("id"), location, checkpoint);
          try {
            query.processAllAvailable();
          } finally {
            query.stop();
          }
        });
  }

  @Test
  void anotherTableIsRefused(SparkSession spark, Sandbox sandbox) throws Exception {
    count(stream(spark, source), "k");
    String other = sandbox.path("other");
    spark.range(10).selectExpr("id", "id AS k").write().format("delta").save(other);

    assertRefused(
        "DIFFERENT_DELTA_TABLE_READ_BY_STREAMING_SOURCE", () -> count(stream(spark, other), "k"));
  }

  @Test
  void aSecondSourceIsRefused(SparkSession spark, Sandbox sandbox) throws Exception {
    count(stream(spark, source), "k");
    String other = sandbox.path("other");
    spark.range(10).selectExpr("id", "id AS k").write().format("delta").save(other);

    assertThatThrownBy(() -> count(stream(spark, source).union(stream(spark, other)), "k"))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining(
            "There are [1] sources in the checkpoint offsets and now there are [2]");
  }

  @Test
  void aSecondStartFromTheSameCheckpointStopsTheFirst(SparkSession spark) throws Exception {
    StreamingQuery first = CheckpointRecovery.append(stream(spark, source), location, checkpoint);
    StreamingQuery second = CheckpointRecovery.append(stream(spark, source), location, checkpoint);
    try {
      second.processAllAvailable();

      assertThat(first.isActive()).isFalse();
      assertCopied(spark, location, 1_000);
    } finally {
      second.stop();
    }
  }

  @Test
  void whereTheFirstIsToGoOnTheSecondStartIsRefused(SparkSession spark) throws Exception {
    spark.conf().set("spark.sql.streaming.stopActiveRunOnRestart", "false");
    StreamingQuery first = CheckpointRecovery.append(stream(spark, source), location, checkpoint);
    try {
      assertThatThrownBy(
              () -> CheckpointRecovery.append(stream(spark, source), location, checkpoint).stop())
          .isInstanceOf(IllegalStateException.class)
          .hasMessageContaining("already active");
      first.processAllAvailable();
      assertCopied(spark, location, 1_000);
    } finally {
      first.stop();
    }
  }

  @Test
  void aHoleInTheCheckpointIsRefused(SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 1_000, 2_000);
    copyAll(spark);
    Checkpoints.forget(sandbox.folder().resolve("checkpoint/offsets"), 2);

    assertThatThrownBy(() -> copyAll(spark))
        .isInstanceOf(StreamingQueryException.class)
        .hasMessageContaining("batch 2");
    assertCopied(spark, location, 2_000);
  }
}
