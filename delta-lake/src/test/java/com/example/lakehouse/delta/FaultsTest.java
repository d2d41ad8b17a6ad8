package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.fs.ChecksumException;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaLog;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What is left of a table when a writer is killed, and when its files are damaged. */
@SparkTest
class FaultsTest {
  private static final int KILLS = 20;
  private static final int ROWS_PER_BATCH = 50;

  /**
   * A process that appends batch after batch, updates the one before, and says so after each
   * commit. It begins when it is told to, and ends when it is killed.
   */
  static final class Writer {
    public static void main(String[] args) throws IOException {
      String table = args[0];
      PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
      SparkSession spark = SparkSessions.open("writer");
      spark.range(1).count();
      out.println("ready");
      if (System.in.read() < 0) {
        return;
      }
      long batch = spark.sql("SELECT coalesce(max(batch), -1) + 1 FROM " + table).head().getLong(0);
      while (true) {
        spark
            .range(0, ROWS_PER_BATCH, 1, 4)
            .selectExpr(batch + "L AS batch", "id", "0 AS updates")
            .write()
            .format("delta")
            .mode("append")
            .save(args[1]);
        out.println("appended " + batch);
        spark.sql("UPDATE %s SET updates = updates + 1 WHERE batch = %d".formatted(table, batch));
        out.println("updated " + batch);
        batch++;
      }
    }
  }

  @Test
  void aWriterThatIsKilledTwentyTimesLosesNothingAndWritesNothingTwice(
      SparkSession spark, Sandbox sandbox) throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    spark.sql(
        """
        CREATE TABLE events (batch BIGINT, id BIGINT, updates INT) USING delta
        TBLPROPERTIES ('delta.checkpointInterval' = '3')
        """);
    String location = sandbox.folder().resolve("schema/events").toString();
    long acknowledged = -1;
    long updated = -1;
    long versionBefore = 0;

    Process writer = start(location);
    try {
      for (int kill = 1; kill <= KILLS; kill++) {
        BufferedReader output = writer.inputReader();
        awaitLine(output, "ready");
        writer.getOutputStream().write('\n');
        writer.getOutputStream().flush();
        for (int commits = 1 + random.nextInt(4); commits > 0; commits--) {
          String[] commit = awaitLine(output, "(appended|updated) \\d+").split(" ", -1);
          long batch = Long.parseLong(commit[1]);
          acknowledged = batch;
          updated = commit[0].equals("updated") ? batch : updated;
        }
        // Somewhere in the next commit, which takes about half a second.
        TimeUnit.MILLISECONDS.sleep(random.nextInt(600));
        // SIGKILL. Process.destroyForcibly would also close the output, which is read to its end
        // below.
        writer.toHandle().destroyForcibly();
        writer.waitFor();
        for (String line : output.lines().toList()) {
          long batch = Long.parseLong(line.replaceAll("\\D", ""));
          acknowledged = batch;
          updated = line.startsWith("updated") ? batch : updated;
        }

        // The next writer starts up meanwhile; it touches nothing before it is told to.
        writer = kill < KILLS ? start(location) : writer;
        versionBefore =
            verify(spark, versionBefore, acknowledged, updated, "kill " + kill + ", seed " + seed);
      }
    } finally {
      writer.destroyForcibly().waitFor();
    }

    spark.sql("INSERT INTO events VALUES (1000000, 0, 0)");
    assertThat(spark.table("events").where("batch = 1000000")).hasRowCount(1);
  }

  private static Process start(String location) throws IOException {
    return new ProcessBuilder(
            ChildJvm.command(Writer.class, List.of("-Xmx1g"), "delta.`" + location + "`", location))
        .redirectError(ProcessBuilder.Redirect.DISCARD)
        .start();
  }

  private static String awaitLine(BufferedReader output, String pattern) throws IOException {
    for (String line = output.readLine(); line != null; line = output.readLine()) {
      if (line.matches(pattern)) {
        return line;
      }
    }
    throw new AssertionError("the writer ended before it said " + pattern);
  }

  /** Checks every version since {@code from} and returns the latest. */
  private static long verify(
      SparkSession spark, long from, long acknowledged, long updated, String when) {
    DeltaLog.clearCache();
    long latest = TableState.version(spark, "events");
    for (long version = from; version <= latest; version++) {
      assertThat(
              spark.sql(
                  """
                  SELECT batch, count(*) AS rows FROM events VERSION AS OF %d
                  GROUP BY batch
                  HAVING count(*) <> %d OR count(DISTINCT id) <> %d OR min(updates) <> max(updates)
                      OR max(updates) > 1
                  """
                      .formatted(version, ROWS_PER_BATCH, ROWS_PER_BATCH)))
          .as("batches of version %d that are not whole, after %s", version, when)
          .isEmpty();
    }
    Row batches = spark.sql("SELECT count(DISTINCT batch), max(batch) FROM events").head();
    assertThat(batches.getLong(0)).as("no gap, after %s", when).isEqualTo(batches.getLong(1) + 1);
    assertThat(batches.getLong(1))
        .as("the last acknowledged batch, or the one after, after %s", when)
        .isBetween(acknowledged, acknowledged + 1);
    assertThat(spark.table("events").where("updates = 0 AND batch = " + updated))
        .as("no acknowledged update is lost, after %s", when)
        .isEmpty();
    return latest;
  }

  /** Five commits of ten rows each, with a checkpoint at version 3; returns the log's folder. */
  private static Path createNumbers(SparkSession spark, Sandbox sandbox) {
    spark.sql(
        """
        CREATE TABLE numbers (id BIGINT) USING delta
        TBLPROPERTIES ('delta.checkpointInterval' = '3')
        """);
    for (int i = 0; i < 5; i++) {
      spark
          .range(i * 10L, i * 10L + 10, 1, 1)
          .write()
          .format("delta")
          .mode("append")
          .saveAsTable("numbers");
    }
    DeltaLog.clearCache();
    return sandbox.folder().resolve("schema/numbers/_delta_log");
  }

  /** Cuts a file without telling the file system's checksum of it. */
  private static void truncate(Path file, int length) throws IOException {
    Files.write(file, Arrays.copyOf(Files.readAllBytes(file), length));
  }

  private static void forgetChecksum(Path file) throws IOException {
    Files.delete(file.resolveSibling("." + file.getFileName() + ".crc"));
  }

  @ParameterizedTest(name = "cut {0}")
  @ValueSource(strings = {"in a line", "after a line"})
  void aTruncatedLastCommitFailsTheFileSystemsChecksum(
      String where, SparkSession spark, Sandbox sandbox) throws IOException {
    Path commit = createNumbers(spark, sandbox).resolve("00000000000000000005.json");
    int line = Files.readAllLines(commit).get(0).length() + 1;
    truncate(commit, where.equals("in a line") ? line + 20 : line);

    assertThatThrownBy(() -> spark.table("numbers").collectAsList())
        .hasRootCauseInstanceOf(ChecksumException.class);
    assertThatThrownBy(() -> spark.sql("INSERT INTO numbers VALUES (99)"))
        .hasRootCauseInstanceOf(ChecksumException.class);
  }

  @Test
  void aCommitThatIsCutInALineIsRefusedWithoutThatChecksumToo(SparkSession spark, Sandbox sandbox)
      throws IOException {
    Path commit = createNumbers(spark, sandbox).resolve("00000000000000000005.json");
    truncate(commit, (int) Files.size(commit) - 20);
    forgetChecksum(commit);

    assertRefused(
        "MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION",
        () -> spark.table("numbers").collectAsList());
  }

  /**
   * Delta reads such a commit as one that did nothing. Where the storage has no checksums and may
   * lose content, the table must be verified before it is trusted.
   */
  @ParameterizedTest(name = "cut {0}")
  @ValueSource(strings = {"to nothing", "after a line"})
  void aCommitThatStillParsesIsFoundByTheVersionsChecksum(
      String where, SparkSession spark, Sandbox sandbox) throws IOException {
    Path commit = createNumbers(spark, sandbox).resolve("00000000000000000005.json");
    String location = sandbox.path("schema/numbers");
    assertThat(TransactionLog.verify(spark, location)).isTrue();
    truncate(
        commit, where.equals("to nothing") ? 0 : Files.readAllLines(commit).get(0).length() + 1);
    forgetChecksum(commit);

    assertRefused("DELTA_TXN_LOG_FAILED_INTEGRITY", () -> TransactionLog.verify(spark, location));
    assertThat(spark.table("numbers")).as("what Delta reads all the same").hasRowCount(40);
  }

  @Test
  void aTableWithoutItsTruncatedLastCommitIsTheVersionBefore(SparkSession spark, Sandbox sandbox)
      throws IOException {
    Path commit = createNumbers(spark, sandbox).resolve("00000000000000000005.json");
    truncate(commit, 20);
    Files.delete(commit);
    forgetChecksum(commit);
    DeltaLog.clearCache();

    assertThat(spark.sql("SELECT count(*), max(id) FROM numbers")).hasRows(row(40L, 39L));
    spark.sql("INSERT INTO numbers VALUES (99)");
    assertThat(spark.sql("SELECT count(*), max(id) FROM numbers")).hasRows(row(41L, 99L));
  }

  @Test
  void aMissingCommitAfterTheCheckpointIsRefused(SparkSession spark, Sandbox sandbox)
      throws IOException {
    Path log = createNumbers(spark, sandbox);
    Files.delete(log.resolve("00000000000000000004.json"));

    assertRefused("DELTA_TRUNCATED_TRANSACTION_LOG", () -> spark.table("numbers").collectAsList());
  }

  @Test
  void aDeletedDataFileFailsTheQueriesThatNeedItAndNoOthers(SparkSession spark, Sandbox sandbox)
      throws IOException {
    createNumbers(spark, sandbox);
    String file =
        spark
            .sql("SELECT DISTINCT _metadata.file_path FROM numbers WHERE id = 25")
            .head()
            .getString(0);
    Files.delete(Path.of(URI.create(file)));

    assertRefused("FAILED_READ_FILE.FILE_NOT_EXIST", () -> spark.table("numbers").collectAsList());
    assertThat(spark.sql("SELECT count(id) FROM numbers WHERE id < 20")).hasRows(row(20L));
  }

  @Test
  void aTruncatedCheckpointIsRefusedAndWithoutItTheCommitsSayTheSame(
      SparkSession spark, Sandbox sandbox) throws IOException {
    Path checkpoint =
        createNumbers(spark, sandbox).resolve("00000000000000000003.checkpoint.parquet");
    truncate(checkpoint, (int) Files.size(checkpoint) / 2);
    forgetChecksum(checkpoint);

    assertRefused("FAILED_READ_FILE.NO_HINT", () -> spark.table("numbers").collectAsList());

    Files.delete(checkpoint);
    DeltaLog.clearCache();
    assertThat(spark.sql("SELECT count(*), count(DISTINCT id) FROM numbers"))
        .hasRows(row(50L, 50L));
  }

  @Test
  void anEmptyCheckpointIsPassedOver(SparkSession spark, Sandbox sandbox) throws IOException {
    Path checkpoint =
        createNumbers(spark, sandbox).resolve("00000000000000000003.checkpoint.parquet");
    truncate(checkpoint, 0);
    forgetChecksum(checkpoint);

    assertThat(spark.sql("SELECT count(*), count(DISTINCT id) FROM numbers"))
        .hasRows(row(50L, 50L));
    spark.sql("INSERT INTO numbers VALUES (99)");
    assertThat(spark.table("numbers")).hasRowCount(51);
  }
}
