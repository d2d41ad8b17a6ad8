package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.delta.support.Interleaving;
import io.delta.exceptions.ConcurrentAppendException;
import io.delta.exceptions.ConcurrentDeleteDeleteException;
import io.delta.exceptions.ConcurrentDeleteReadException;
import io.delta.exceptions.DeltaConcurrentModificationException;
import io.delta.exceptions.MetadataChangedException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ConcurrentWritersTest {
  /** About as long as an increment takes: shorter pauses only make more attempts fail. */
  private static final Duration PAUSE = Duration.ofSeconds(1);

  @BeforeEach
  void createAccounts(SparkSession spark, Sandbox sandbox) {
    ConcurrentWriters.create(spark, "accounts");
    spark.sql("INSERT INTO accounts VALUES ('DE', 1, 10), ('DE', 2, 20)");
    spark.sql("INSERT INTO accounts VALUES ('FR', 3, 30)");
  }

  private static void germany(SparkSession spark) {
    ConcurrentWriters.update(spark, "accounts", "DE", 1, "pause(balance) + 1");
  }

  /** The append that {@code pause} holds up. */
  private static void slowAppend(SparkSession spark) {
    spark.sql("INSERT INTO accounts SELECT 'DE', pause(id) + 100, 0 FROM range(1)");
  }

  private static void assertRefused(
      Class<? extends DeltaConcurrentModificationException> expected,
      SparkSession spark,
      Runnable outer,
      Runnable inner) {
    assertThatThrownBy(() -> Interleaving.run(spark, outer, inner))
        .isInstanceOf(CompletionException.class)
        .cause()
        .isExactlyInstanceOf(expected);
  }

  @Test
  void blindAppendsDoNotConflict(SparkSession spark) throws Exception {
    Interleaving.run(
        spark,
        () -> slowAppend(spark),
        () -> spark.sql("INSERT INTO accounts VALUES ('DE', 4, 40)"));

    assertThat(spark.table("accounts").select("account_id"))
        .hasRows(row(1L), row(2L), row(3L), row(4L), row(100L));
    assertThat(ConcurrentWriters.isolation(spark, "accounts").where("version >= 3"))
        .hasRows(row(3L, "WRITE", "Serializable", true), row(4L, "WRITE", "Serializable", true));
  }

  @Test
  void eightThreadsAppendAndEveryRowIsThereOnce(SparkSession spark) throws Exception {
    inParallel(
        8,
        40,
        i -> {
          spark.sql("INSERT INTO accounts VALUES ('IT', %d, 0)".formatted(1_000 + i));
          return null;
        });

    assertThat(
            spark.sql(
                "SELECT count(*), count(DISTINCT account_id) FROM accounts WHERE country = 'IT'"))
        .hasRows(row(40L, 40L));
    assertThat(TableState.version(spark, "accounts")).as("a version for each").isEqualTo(42);
  }

  @Test
  void aBlindAppendDoesNotConflictWithADeleteEither(SparkSession spark) throws Exception {
    Interleaving.run(
        spark,
        () -> slowAppend(spark),
        () -> spark.sql("DELETE FROM accounts WHERE country = 'DE'"));

    assertThat(spark.table("accounts").select("account_id")).hasRows(row(3L), row(100L));
  }

  @Test
  void ofTwoUpdatesOfTheSameRowTheSecondIsRefusedAndTheFirstStays(SparkSession spark) {
    assertRefused(
        ConcurrentAppendException.class,
        spark,
        () -> germany(spark),
        () -> ConcurrentWriters.update(spark, "accounts", "DE", 1, "balance + 100"));

    assertThat(spark.sql("SELECT balance FROM accounts WHERE account_id = 1")).hasRows(row(110L));
    assertThat(TableState.version(spark, "accounts")).isEqualTo(3);
  }

  @Test
  void twoUpdatesOfDifferentPartitionsBothCommit(SparkSession spark) throws Exception {
    Interleaving.run(
        spark,
        () -> germany(spark),
        () -> ConcurrentWriters.update(spark, "accounts", "FR", 3, "balance + 100"));

    assertThat(spark.table("accounts"))
        .hasRows(row("DE", 1L, 11L), row("DE", 2L, 20L), row("FR", 3L, 130L));
  }

  @Test
  void withoutThePartitionInItsConditionAnUpdateReadsThemAll(SparkSession spark) {
    assertRefused(
        ConcurrentAppendException.class,
        spark,
        () -> spark.sql("UPDATE accounts SET balance = pause(balance) + 1 WHERE account_id = 1"),
        () -> ConcurrentWriters.update(spark, "accounts", "FR", 3, "balance + 100"));
  }

  @Test
  void underSerializableAnUpdateIsRefusedWhenRowsWereAppendedToWhatItRead(SparkSession spark) {
    assertRefused(
        ConcurrentAppendException.class,
        spark,
        () -> germany(spark),
        () -> spark.sql("INSERT INTO accounts VALUES ('DE', 5, 50)"));

    assertThatThrownBy(
            () ->
                spark.sql(
                    "ALTER TABLE accounts SET TBLPROPERTIES ('delta.isolationLevel' = 'WriteSerializable')"))
        .as("Databricks' level, under which the update would pass")
        .hasRootCauseMessage("requirement failed: delta.isolationLevel must be Serializable");
  }

  @Test
  void anAppendThatReadTheTableIsNotBlindAndIsRefusedToo(SparkSession spark) {
    // Both would add the same total if each saw the table without the other's row.
    assertRefused(
        ConcurrentAppendException.class,
        spark,
        () ->
            spark.sql(
                "INSERT INTO accounts SELECT 'IT', 9, sum(pause(balance)) FROM accounts WHERE country = 'DE' AND account_id = 1"),
        () -> spark.sql("INSERT INTO accounts VALUES ('DE', 6, 60)"));
  }

  @Test
  void aRowThatWasDeletedMeanwhileCannotBeUpdated(SparkSession spark) {
    assertRefused(
        ConcurrentDeleteReadException.class,
        spark,
        () -> germany(spark),
        () -> spark.sql("DELETE FROM accounts WHERE country = 'DE'"));

    assertThat(spark.table("accounts")).hasRows(row("FR", 3L, 30L));
  }

  @Test
  void aChangeOfTheColumnsMeanwhileRefusesEveryWrite(SparkSession spark) {
    assertRefused(
        MetadataChangedException.class,
        spark,
        () -> slowAppend(spark),
        () -> spark.sql("ALTER TABLE accounts ADD COLUMN note STRING"));

    assertThat(spark.table("accounts")).hasRowCount(3);
  }

  @Test
  void aRetryReadsAnewAndComesThrough(SparkSession spark) throws Exception {
    AtomicInteger attempts = new AtomicInteger();

    ConcurrentWriters.withRetry(
        3,
        PAUSE,
        () -> {
          if (attempts.incrementAndGet() > 1) {
            ConcurrentWriters.update(spark, "accounts", "DE", 1, "balance + 1");
            return null;
          }
          try {
            Interleaving.run(
                spark,
                () -> germany(spark),
                () -> ConcurrentWriters.update(spark, "accounts", "DE", 1, "balance + 100"));
          } catch (CompletionException e) {
            throw (Exception) e.getCause();
          }
          return null;
        });

    assertThat(attempts).hasValue(2);
    assertThat(spark.sql("SELECT balance FROM accounts WHERE account_id = 1")).hasRows(row(111L));
  }

  @Test
  void theRetriesAreBounded() {
    assertThat(attemptsOf(new ConcurrentDeleteDeleteException("again"))).isEqualTo(4);
  }

  @Test
  void anotherErrorThanAConflictIsNotRetried() {
    assertThat(attemptsOf(new IllegalStateException("no conflict"))).isEqualTo(1);
  }

  /** How often a write is made that always fails in this way; four times are allowed. */
  private static int attemptsOf(Exception failure) {
    AtomicInteger attempts = new AtomicInteger();
    assertThatThrownBy(
            () ->
                ConcurrentWriters.withRetry(
                    4,
                    Duration.ofMillis(1),
                    () -> {
                      attempts.incrementAndGet();
                      throw failure;
                    }))
        .isSameAs(failure);
    return attempts.get();
  }

  @Test
  void eightThreadsOf25IncrementsEndAtExactly200(SparkSession spark) throws Exception {
    inParallel(
        8,
        200,
        i ->
            ConcurrentWriters.withRetry(
                200,
                PAUSE,
                () -> {
                  ConcurrentWriters.update(spark, "accounts", "DE", 1, "balance + 1");
                  return null;
                }));

    assertThat(spark.sql("SELECT balance FROM accounts WHERE account_id = 1")).hasRows(row(210L));
    assertThat(TableState.version(spark, "accounts"))
        .as("a version for each increment")
        .isEqualTo(202);
  }

  @Test
  void twoProcessesLoseNoIncrementEither(SparkSession spark, Sandbox sandbox) throws Exception {
    String table = "delta.`" + sandbox.path("schema/accounts") + "`";
    List<ChildJvm> processes = new ArrayList<>();
    inParallel(
        2,
        2,
        i -> {
          ChildJvm process =
              ChildJvm.run(
                  Increments.class, List.of("-Xmx1g", "-Dspark.master=local[1]"), table, "10");
          synchronized (processes) {
            processes.add(process);
          }
          return null;
        });

    assertThat(processes).allSatisfy(p -> assertThat(p.exitCode()).as(p.output()).isZero());
    assertThat(spark.sql("SELECT balance FROM accounts WHERE account_id = 1")).hasRows(row(30L));
    assertThat(TableState.version(spark, "accounts")).isEqualTo(22);
  }

  /** A process that increments a balance: the table and how often. */
  static final class Increments {
    public static void main(String[] args) throws Exception {
      SparkSession spark = SparkSessions.open("increments");
      for (int i = 0; i < Integer.parseInt(args[1]); i++) {
        ConcurrentWriters.withRetry(
            100,
            PAUSE,
            () -> {
              ConcurrentWriters.update(spark, args[0], "DE", 1, "balance + 1");
              return null;
            });
      }
      SparkSessions.close(spark);
    }
  }

  private interface Task {
    Object run(int i) throws Exception;
  }

  /** Runs a task so many times on so many threads; fails with the first task that fails. */
  private static void inParallel(int threads, int times, Task task) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(threads);
    try {
      List<Future<Object>> results = new ArrayList<>();
      for (int i = 0; i < times; i++) {
        int number = i;
        results.add(pool.submit(() -> task.run(number)));
      }
      for (Future<Object> result : results) {
        result.get(10, TimeUnit.MINUTES);
      }
    } finally {
      pool.shutdownNow();
    }
  }
}
