package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.delta.support.Interleaving;
import io.delta.exceptions.DeltaConcurrentModificationException;
import io.delta.tables.DeltaTable;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * Concurrent writers: nobody waits for a lock; whoever commits second is checked against the first,
 * and tries again if that one changed what it had read.
 *
 * <p>Run: {@code ./run ConcurrentWriters}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: which pairs of writes Delta lets through and which it refuses, each made to overlap; and
 * a counter that loses no increment of four threads.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's. The isolation
 * level there is WriteSerializable by default, which lets an update pass although rows were
 * appended to what it read; and with row-level concurrency two updates of different rows of one
 * file do not conflict. Open-source Delta knows neither.
 *
 * @see <a href="https://docs.delta.io/concurrency-control/">Delta Lake: concurrency control</a>
 */
public final class ConcurrentWriters {

  private ConcurrentWriters() {}

  /** Creates {@code country STRING, account_id BIGINT, balance BIGINT}, partitioned by country. */
  public static void create(SparkSession spark, String table) {
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table) (country STRING, account_id BIGINT, balance BIGINT)
        USING delta PARTITIONED BY (country)
        """,
        Map.of("table", table));
  }

  /**
   * Sets the balance of one account. Naming the partition keeps writers of other countries out of
   * its way: Delta then knows that they read other files.
   *
   * @param newBalance a SQL expression over the row, such as {@code balance + 1}; it is code, so it
   *     must not come from outside
   * @throws DeltaConcurrentModificationException if another writer has meanwhile changed what this
   *     one read; nothing is written
   */
  public static void update(
      SparkSession spark, String table, String country, long accountId, String newBalance) {
    DeltaTable.forName(spark, table)
        .update(
            col("country").equalTo(country).and(col("account_id").equalTo(accountId)),
            Map.of("balance", expr(newBalance)));
  }

  /**
   * Makes a write until it comes through: at most {@code attempts} times, with a random pause in
   * between that doubles its limit each time.
   *
   * @param write reads what it needs anew each time; a value that it read before is out of date
   * @param firstPause the limit of the first pause; about as long as the write takes
   * @throws DeltaConcurrentModificationException the last attempt's
   */
  public static <T> T withRetry(int attempts, Duration firstPause, Callable<T> write)
      throws Exception {
    long limit = firstPause.toMillis();
    for (int attempt = 1; ; attempt++) {
      try {
        return write.call();
      } catch (DeltaConcurrentModificationException e) {
        if (attempt >= attempts) {
          throw e;
        }
        // Without a random part those who conflicted would meet again.
        TimeUnit.MILLISECONDS.sleep(ThreadLocalRandom.current().nextLong(1, limit + 1));
        limit = Math.min(limit * 2, 16 * firstPause.toMillis());
      }
    }
  }

  /**
   * The commits and what they read: {@code version BIGINT, operation STRING, isolationLevel STRING,
   * isBlindAppend BOOLEAN}; a blind append has read nothing of the table.
   */
  public static Dataset<Row> isolation(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table)
        .history()
        .select("version", "operation", "isolationLevel", "isBlindAppend");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ConcurrentWriters.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          create(spark, "accounts");
          spark.sql("INSERT INTO accounts VALUES ('DE', 1, 0), ('DE', 2, 0), ('FR', 3, 0)");

          notebook.step(
              "Each pair of writes overlaps: the second commits in the middle of the first");
          Runnable germany = () -> update(spark, "accounts", "DE", 1, "pause(balance) + 1");
          Runnable append =
              () ->
                  spark.sql(
                      "INSERT INTO accounts SELECT 'DE', pause(account_id) + 100, 0 FROM VALUES (9L) AS n (account_id)");
          List<Row> outcomes = new ArrayList<>();
          outcomes.add(
              RowFactory.create(
                  "append",
                  "append",
                  Interleaving.outcome(
                      spark, append, () -> spark.sql("INSERT INTO accounts VALUES ('DE', 4, 0)"))));
          outcomes.add(
              RowFactory.create(
                  "append",
                  "delete",
                  Interleaving.outcome(
                      spark,
                      append,
                      () -> spark.sql("DELETE FROM accounts WHERE account_id = 4"))));
          outcomes.add(
              RowFactory.create(
                  "update in DE",
                  "update in FR",
                  Interleaving.outcome(
                      spark, germany, () -> update(spark, "accounts", "FR", 3, "balance + 1"))));
          outcomes.add(
              RowFactory.create(
                  "update in DE",
                  "update of the same row",
                  Interleaving.outcome(
                      spark, germany, () -> update(spark, "accounts", "DE", 1, "balance + 1"))));
          outcomes.add(
              RowFactory.create(
                  "update in DE",
                  "append to DE",
                  Interleaving.outcome(
                      spark,
                      germany,
                      () -> spark.sql("INSERT INTO accounts VALUES ('DE', 5, 0)"))));
          outcomes.add(
              RowFactory.create(
                  "update in DE",
                  "compaction",
                  Interleaving.outcome(spark, germany, () -> spark.sql("OPTIMIZE accounts"))));
          outcomes.add(
              RowFactory.create(
                  "update in DE",
                  "a new column",
                  Interleaving.outcome(
                      spark,
                      germany,
                      () -> spark.sql("ALTER TABLE accounts ADD COLUMN note STRING"))));
          notebook.table(
              "what became of the first",
              spark.createDataFrame(
                  outcomes, StructType.fromDDL("first STRING, second STRING, outcome STRING")));

          notebook.step("Four threads, five increments each, with a retry");
          spark.sql("INSERT INTO accounts VALUES ('IT', 7, 0, NULL)");
          AtomicInteger attempts = new AtomicInteger();
          ExecutorService threads = Executors.newFixedThreadPool(4);
          List<Future<Object>> increments = new ArrayList<>();
          for (int i = 0; i < 20; i++) {
            increments.add(
                threads.submit(
                    () ->
                        withRetry(
                            50,
                            Duration.ofMillis(300),
                            () -> {
                              attempts.incrementAndGet();
                              update(spark, "accounts", "IT", 7, "balance + 1");
                              return null;
                            })));
          }
          for (Future<Object> increment : increments) {
            increment.get();
          }
          threads.shutdown();
          notebook.table("the account", spark.sql("SELECT * FROM accounts WHERE account_id = 7"));
          notebook.text("It took %d attempts to make 20 increments.", attempts.get());
          notebook.table(
              "the isolation of the first commits",
              isolation(spark, "accounts").where("version BETWEEN 1 AND 5").orderBy("version"));
        });
  }
}
