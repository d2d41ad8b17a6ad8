package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.delta.DeltaLog;
import org.apache.spark.sql.delta.VersionNotFoundException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class TimeTravelTest {
  /** Version n was committed n hours later. */
  private final Instant hour0 =
      Instant.now().truncatedTo(ChronoUnit.HOURS).minus(6, ChronoUnit.HOURS);

  private static final Row LAMP = row("lamp", 10);
  private static final Row CHAIR = row("chair", 4);
  private static final Row FEWER_CHAIRS = row("chair", 3);
  private static final Row DESK = row("desk", 2);

  @BeforeEach
  void createStock(SparkSession spark, Sandbox sandbox) throws IOException {
    spark.sql("CREATE TABLE stock (product STRING, pieces INT) USING delta");
    spark.sql("INSERT INTO stock VALUES ('lamp', 10), ('chair', 4)");
    spark.sql("UPDATE stock SET pieces = 3 WHERE product = 'chair'");
    spark.sql("DELETE FROM stock WHERE product = 'lamp'");
    spark.sql("INSERT INTO stock VALUES ('desk', 2)");
    setCommitTimes(sandbox, hour0);
  }

  /** Delta takes a commit's time from its file: this is an afternoon's work in a second. */
  private static void setCommitTimes(Sandbox sandbox, Instant first) throws IOException {
    for (int version = 0; version <= 4; version++) {
      Files.setLastModifiedTime(
          commit(sandbox, version), FileTime.from(first.plus(version, ChronoUnit.HOURS)));
    }
    DeltaLog.clearCache();
  }

  private static Path commit(Sandbox sandbox, int version) {
    return sandbox.folder().resolve("schema/stock/_delta_log/%020d.json".formatted(version));
  }

  @Test
  void eachVersionIsAsItWasWritten(SparkSession spark) {
    assertThat(TimeTravel.atVersion(spark, "stock", 0)).isEmpty();
    assertThat(TimeTravel.atVersion(spark, "stock", 1)).hasRows(LAMP, CHAIR);
    assertThat(TimeTravel.atVersion(spark, "stock", 2)).hasRows(LAMP, FEWER_CHAIRS);
    assertThat(TimeTravel.atVersion(spark, "stock", 3)).hasRows(FEWER_CHAIRS);
    assertThat(TimeTravel.atVersion(spark, "stock", 4)).hasRows(FEWER_CHAIRS, DESK);
  }

  @Test
  void sqlReadsTheSameVersions(SparkSession spark) {
    for (int version = 0; version <= 4; version++) {
      assertThat(spark.sql("SELECT * FROM stock VERSION AS OF " + version))
          .hasSameRowsAs(TimeTravel.atVersion(spark, "stock", version));
    }
  }

  @Test
  void aTimeIsTheLastVersionCommittedUntilThen(SparkSession spark) {
    assertThat(TimeTravel.atTime(spark, "stock", hour0.plus(2, ChronoUnit.HOURS)))
        .as("at the time of version 2")
        .hasRows(LAMP, FEWER_CHAIRS);
    assertThat(TimeTravel.atTime(spark, "stock", hour0.plus(179, ChronoUnit.MINUTES)))
        .as("a minute before version 3")
        .hasRows(LAMP, FEWER_CHAIRS);
    assertThat(
            spark.sql(
                "SELECT * FROM stock TIMESTAMP AS OF '%s'"
                    .formatted(hour0.plus(3, ChronoUnit.HOURS))))
        .as("in SQL, at the time of version 3")
        .hasRows(FEWER_CHAIRS);
  }

  @Test
  void theChangesBetweenTwoVersionsAreTheRowsThatDiffer(SparkSession spark) {
    assertThat(TimeTravel.changesBetween(spark, "stock", 1, 4))
        .hasRows(
            row("lamp", 10, "removed"),
            row("chair", 4, "removed"),
            row("chair", 3, "added"),
            row("desk", 2, "added"));
    assertThat(TimeTravel.changesBetween(spark, "stock", 4, 3)).hasRows(row("desk", 2, "removed"));
    assertThat(TimeTravel.changesBetween(spark, "stock", 2, 2)).isEmpty();
  }

  @Test
  void aVersionThatDoesNotExistYetIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> TimeTravel.atVersion(spark, "stock", 5).collect())
        .isInstanceOfSatisfying(
            VersionNotFoundException.class,
            e -> {
              assertThat(e.getCondition()).isEqualTo("DELTA_VERSION_NOT_FOUND");
              assertThat(e.getMessageParameters())
                  .containsEntry("userVersion", "5")
                  .containsEntry("earliest", "0")
                  .containsEntry("latest", "4");
            });
  }

  @Test
  void aVersionWhoseFilesVacuumMayDeleteIsRefused(SparkSession spark, Sandbox sandbox)
      throws IOException {
    setCommitTimes(sandbox, hour0.minus(8, ChronoUnit.DAYS));

    assertThatThrownBy(() -> TimeTravel.atVersion(spark, "stock", 1).collect())
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e ->
                assertThat(e.getCondition())
                    .isEqualTo(
                        "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION"));
    assertThat(spark.table("stock")).hasRows(FEWER_CHAIRS, DESK);
  }

  @Test
  void aVersionWhoseLogWasCleanedUpIsRefused(SparkSession spark, Sandbox sandbox)
      throws IOException {
    setCommitTimes(sandbox, hour0.minus(40, ChronoUnit.DAYS));
    // A checkpoint is when Delta deletes the commits that are past their retention.
    spark.sql(
        """
        ALTER TABLE stock SET TBLPROPERTIES (
          'delta.logRetentionDuration' = 'interval 7 days', 'delta.checkpointInterval' = '1')
        """);

    assertThat(commit(sandbox, 0)).doesNotExist();
    assertThatThrownBy(() -> TimeTravel.atVersion(spark, "stock", 1).collect())
        .isInstanceOfSatisfying(
            VersionNotFoundException.class,
            e -> assertThat(e.getMessageParameters()).containsEntry("userVersion", "1"));
    assertThat(spark.table("stock")).hasRows(FEWER_CHAIRS, DESK);
  }

  @Test
  void aTimeInTheFutureIsRefused(SparkSession spark) {
    assertThatThrownBy(
            () -> TimeTravel.atTime(spark, "stock", hour0.plus(5, ChronoUnit.HOURS)).collect())
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e -> assertThat(e.getCondition()).isEqualTo("DELTA_TIMESTAMP_GREATER_THAN_COMMIT"));
  }

  @Test
  void aTimeBeforeTheTableIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> TimeTravel.atTime(spark, "stock", hour0.minusSeconds(60)).collect())
        .isInstanceOfSatisfying(
            SparkThrowable.class,
            e ->
                assertThat(e.getCondition())
                    .isEqualTo("DELTA_TIMESTAMP_EARLIER_THAN_COMMIT_RETENTION"));
  }

  @Test
  void theHistoryKeepsEveryVersion(SparkSession spark) {
    assertThat(DeltaTable.forName(spark, "stock").history().select("version", "operation"))
        .hasRowsInOrder(
            row(4L, "WRITE"),
            row(3L, "DELETE"),
            row(2L, "UPDATE"),
            row(1L, "WRITE"),
            row(0L, "CREATE TABLE"));
  }
}
