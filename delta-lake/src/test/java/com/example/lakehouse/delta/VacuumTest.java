package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static java.util.stream.Collectors.toSet;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.Set;
import java.util.stream.Stream;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class VacuumTest {
  private Path folder;
  private Set<Path> removed;

  /** Version 0 has 4 files, of which version 1 keeps 3 and replaces one. */
  @BeforeEach
  void createOrdersAndRewriteOneFile(SparkSession spark, Sandbox sandbox) {
    folder = sandbox.folder().resolve("schema/orders");
    spark
        .range(0, 4_000, 1, 4)
        .selectExpr("id AS order_id", "'open' AS status")
        .write()
        .format("delta")
        .saveAsTable("orders");
    removed = liveFiles(spark);
    spark.sql("UPDATE orders SET status = 'shipped' WHERE order_id = 0");
    removed.removeAll(liveFiles(spark));
  }

  private static Set<Path> liveFiles(SparkSession spark) {
    return Stream.of(spark.table("orders").inputFiles())
        .map(file -> Path.of(URI.create(file)))
        .collect(toSet());
  }

  /** What a job leaves that dies before its commit. */
  private Path copyOfALiveFile(SparkSession spark, String name, Duration age) throws IOException {
    Path copy = folder.resolve("part-00000-%s.snappy.parquet".formatted(name));
    Files.copy(liveFiles(spark).iterator().next(), copy);
    age(copy, age);
    return copy;
  }

  private static void age(Path file, Duration age) throws IOException {
    Files.setLastModifiedTime(file, FileTime.from(Instant.now().minus(age)));
  }

  @Test
  void deletesTheFilesThatNoVersionNeedsAnyMoreAndKeepsTheTablesOwn(
      SparkSession spark, Sandbox sandbox) throws IOException {
    assertThat(removed).hasSize(1);
    assertThat(TableState.filesOnDisk(sandbox, "orders")).hasSize(5);
    Vacuum.keepRemovedFiles(spark, "orders", 0);

    Vacuum.vacuum(spark, "orders");

    assertThat(TableState.filesOnDisk(sandbox, "orders")).isEqualTo(liveFiles(spark)).hasSize(4);
    assertThat(spark.sql("SELECT count(*), count_if(status = 'shipped') FROM orders"))
        .hasRows(row(4_000L, 1L));
  }

  @Test
  void aDryRunNamesTheFilesAndDeletesNone(SparkSession spark, Sandbox sandbox) throws IOException {
    Vacuum.keepRemovedFiles(spark, "orders", 0);
    long version = TableState.version(spark, "orders");

    assertThat(
            Vacuum.filesToDelete(spark, "orders").collectAsList().stream()
                .map(file -> Path.of(URI.create(file.getString(0)))))
        .containsExactlyElementsOf(removed);

    assertThat(TableState.filesOnDisk(sandbox, "orders")).hasSize(5);
    assertThat(TableState.version(spark, "orders")).isEqualTo(version);
  }

  @Test
  void aVacuumOfAllIsRefusedUnlessTheCheckIsSwitchedOff(SparkSession spark, Sandbox sandbox)
      throws IOException {
    assertRefused(
        "DELTA_VACUUM_RETENTION_PERIOD_TOO_SHORT", () -> Vacuum.vacuumAll(spark, "orders"));
    assertThat(TableState.filesOnDisk(sandbox, "orders")).hasSize(5);

    TableState.vacuumAll(spark, "orders");

    assertThat(TableState.filesOnDisk(sandbox, "orders")).isEqualTo(liveFiles(spark)).hasSize(4);
  }

  @ParameterizedTest(name = "RETAIN {0} HOURS")
  @ValueSource(ints = {1, 167, 1_000})
  void aNumberOfHoursInTheStatementHasNoEffect(int hours, SparkSession spark) throws IOException {
    Path young = copyOfALiveFile(spark, "young", Duration.ofHours(160));
    Path old = copyOfALiveFile(spark, "old", Duration.ofHours(170));

    spark.sql("VACUUM orders RETAIN %d HOURS".formatted(hours));

    assertThat(young).exists();
    assertThat(old).doesNotExist();
  }

  @Test
  void theTablesOwnRetentionHas(SparkSession spark) throws IOException {
    Path young = copyOfALiveFile(spark, "young", Duration.ofHours(20));
    Path old = copyOfALiveFile(spark, "old", Duration.ofHours(30));
    Vacuum.keepRemovedFiles(spark, "orders", 24);

    Vacuum.vacuum(spark, "orders");

    assertThat(young).exists();
    assertThat(old).doesNotExist();
  }

  @Test
  void whatWasRemovedLessThanAWeekAgoIsKept(SparkSession spark, Sandbox sandbox)
      throws IOException {
    // Old files, but they were removed from the table a moment ago: that is what counts.
    for (Path file : removed) {
      age(file, Duration.ofDays(30));
    }

    Vacuum.vacuum(spark, "orders");

    assertThat(TableState.filesOnDisk(sandbox, "orders")).hasSize(5);
    assertThat(spark.sql("SELECT count_if(status = 'open') FROM orders VERSION AS OF 0"))
        .hasRows(row(4_000L));
  }

  @Test
  void filesOfADeadJobGoOnceTheyAreAWeekOldAndOtherFoldersStay(SparkSession spark)
      throws IOException {
    Path dead = copyOfALiveFile(spark, "dead", Duration.ofDays(8));
    Path young = copyOfALiveFile(spark, "young", Duration.ofDays(6));
    Path checkpoint = folder.resolve("_checkpoint/offsets/0");
    Files.createDirectories(checkpoint.getParent());
    Files.writeString(checkpoint, "v1");
    age(checkpoint, Duration.ofDays(8));

    Vacuum.vacuum(spark, "orders");

    assertThat(dead).doesNotExist();
    assertThat(young).exists();
    assertThat(checkpoint).exists();
    assertThat(spark.table("orders")).hasRowCount(4_000);
  }

  @Test
  void afterwardsTheOldVersionIsInTheHistoryButItsRowsAreGone(SparkSession spark) {
    TableState.vacuumAll(spark, "orders");

    assertRefused(
        "FAILED_READ_FILE.FILE_NOT_EXIST",
        () -> spark.sql("SELECT * FROM orders VERSION AS OF 0").collectAsList());
    // Without a column to read, the log alone answers.
    assertThat(spark.sql("SELECT count(*) FROM orders VERSION AS OF 0")).hasRows(row(4_000L));
    assertThat(spark.sql("DESCRIBE HISTORY orders").select("version", "operation"))
        .hasRows(
            row(0L, "CREATE TABLE AS SELECT"),
            row(1L, "UPDATE"),
            row(2L, "VACUUM START"),
            row(3L, "VACUUM END"));
  }

  @Test
  void aTableThatKeepsNothingRefusesTimeTravel(SparkSession spark) {
    Vacuum.keepRemovedFiles(spark, "orders", 0);

    assertRefused(
        "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION",
        () -> spark.sql("SELECT * FROM orders VERSION AS OF 0").collectAsList());
  }

  @Test
  void aReaderThatIsUnderWayLosesItsFilesWithoutRetention(SparkSession spark) {
    Iterator<Row> reader = spark.table("orders").toLocalIterator();
    reader.next();
    spark.sql("UPDATE orders SET status = 'returned'");
    TableState.vacuumAll(spark, "orders");

    assertRefused("FAILED_READ_FILE.FILE_NOT_EXIST", () -> reader.forEachRemaining(row -> {}));
  }

  @Test
  void aReaderThatIsUnderWayReadsToItsEndWithIt(SparkSession spark) {
    Iterator<Row> reader = spark.table("orders").toLocalIterator();
    reader.next();
    spark.sql("UPDATE orders SET status = 'returned'");

    Vacuum.vacuum(spark, "orders");

    int rows = 1;
    while (reader.hasNext()) {
      assertThat(reader.next().getString(1)).isNotEqualTo("returned");
      rows++;
    }
    assertThat(rows).isEqualTo(4_000);
  }

  @Test
  void aNameThatIsMoreThanANameIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> Vacuum.filesToDelete(spark, "orders RETAIN 0 HOURS; --"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: orders RETAIN 0 HOURS; --");
  }
}
