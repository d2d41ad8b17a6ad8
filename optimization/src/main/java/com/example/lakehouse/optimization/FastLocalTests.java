package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Counted;
import com.example.lakehouse.optimization.support.Room;
import com.example.lakehouse.optimization.support.SessionStarts;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.function.Supplier;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;
import scala.jdk.javaapi.OptionConverters;

/**
 * Fast tests: why a test of ten rows takes seconds in Spark, and the settings and habits that make
 * it take less.
 *
 * <p>Run: {@code ./run FastLocalTests}, or Run in the IDE; no JVM flags, no setup; 300 rows,
 * because it is about small tests.
 *
 * <p>See: tasks, generated classes and time of the same small work under Spark's defaults and under
 * this library's settings; what a session costs to start, with the UI and without.
 *
 * <p>On Databricks: for tests on your machine; leave a cluster's settings as they are.
 *
 * @see <a href="https://spark.apache.org/docs/latest/configuration.html">Spark: configuration</a>
 */
public final class FastLocalTests {
  private static final String SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions";
  private static final String SNAPSHOT_PARTITIONS = "spark.databricks.delta.snapshotPartitions";
  private static final String CHECK_OUTSIDE_UTC =
      "spark.databricks.delta.allFilesInCrc.verificationMode.forceOnNonUTC.enabled";
  private static final String WHOLE_STAGE = "spark.sql.codegen.wholeStage";
  private static final String CODEGEN = "spark.sql.codegen.factoryMode";

  private FastLocalTests() {}

  /** Settings for small data on a few cores. */
  public static Map<String, String> settings() {
    Map<String, String> settings = new LinkedHashMap<>();
    settings.put("spark.master", "local[2]");
    settings.put("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension");
    settings.put(
        "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog");
    // Under Delta's parser Spark 4.1 loses the parameters of a statement without this
    // (github.com/delta-io/delta/issues/7640).
    settings.put("spark.sql.legacy.parameterSubstitution.constantsOnly", "true");
    // LocalDate and Instant: the older types need --add-opens from JDK 17 on.
    settings.put("spark.sql.datetime.java8API.enabled", "true");
    // Nobody looks at it, and it takes time and a port.
    settings.put("spark.ui.enabled", "false");
    settings.put("spark.driver.host", "127.0.0.1");
    settings.put("spark.driver.bindAddress", "127.0.0.1");
    // 200 by default: a task and a state store for each, in every batch of a stream.
    settings.put(SHUFFLE_PARTITIONS, "2");
    // 50 by default: tasks that read a log of three lines.
    settings.put(SNAPSHOT_PARTITIONS, "2");
    // True by default: where the JVM's time zone is not UTC, each commit reads the log once more
    // to check what it wrote beside it.
    settings.put(CHECK_OUTSIDE_UTC, "false");
    // 10,000 by default, for VACUUM.
    settings.put("spark.sql.sources.parallelPartitionDiscovery.parallelism", "4");
    // To compile a class takes longer than to interpret ten rows. NO_CODEGEN alone compiles
    // nothing;
    // the other one alone still compiles expressions.
    settings.put(WHOLE_STAGE, "false");
    settings.put(CODEGEN, "NO_CODEGEN");
    return settings;
  }

  /**
   * The session of all tests in this JVM: the first call starts it. Do not stop it after a test;
   * Spark does when the JVM ends. A {@code spark.*} system property wins over {@link #settings}.
   */
  public static SparkSession session() {
    // Not one that is stopped.
    Optional<SparkSession> running = OptionConverters.toJava(SparkSession.getDefaultSession());
    if (running.isPresent()) {
      return running.get();
    }
    SparkConf conf = new SparkConf().setAppName("tests");
    settings().forEach(conf::setIfMissing);
    // The catalog goes with the JVM, a table's folder does not: in the next run it would be in the
    // way of a table of that name.
    conf.setIfMissing("spark.sql.warehouse.dir", "target/spark-warehouse/" + UUID.randomUUID());
    return SparkSession.builder().config(conf).getOrCreate();
  }

  /**
   * A session for a test that changes settings, temporary views or functions: it has its own, and
   * shares the Spark context, the tables and the cache with the others.
   */
  public static SparkSession isolated(SparkSession spark) {
    return spark.newSession();
  }

  /** Runs {@code work} with a setting, and puts it back as it was, whatever happens. */
  public static <T> T withSetting(SparkSession spark, String key, String value, Supplier<T> work) {
    Optional<String> before = OptionConverters.toJava(spark.conf().getOption(key));
    spark.conf().set(key, value);
    try {
      return work.get();
    } finally {
      before.ifPresentOrElse(old -> spark.conf().set(key, old), () -> spark.conf().unset(key));
    }
  }

  /** A small test's work: a Delta table is made, merged into and read. */
  public static List<Row> mergeAndRead(SparkSession spark, String table, Dataset<Row> orders) {
    orders.write().format("delta").saveAsTable(table);
    spark.sql(
        """
        MERGE INTO IDENTIFIER(:table) AS t
        USING (SELECT order_id + 50 AS order_id, 1 AS amount FROM IDENTIFIER(:table)) AS s
        ON t.order_id = s.order_id
        WHEN MATCHED THEN UPDATE SET amount = s.amount
        WHEN NOT MATCHED THEN INSERT (order_id, amount) VALUES (s.order_id, s.amount)
        """,
        Map.of("table", table));
    return totals(spark.table(table)).collectAsList();
  }

  /** {@code status STRING, amount DECIMAL(22,2)}: the sum of each status. */
  public static Dataset<Row> totals(Dataset<Row> orders) {
    return orders.groupBy("status").agg(sum("amount").as("amount")).orderBy(col("amount"));
  }

  /** Another: a stream that adds up, to its end. Each shuffle partition has a state store. */
  public static void streamTotals(SparkSession spark, String table, String checkpoint)
      throws Exception {
    spark
        .readStream()
        .table(table)
        .groupBy("status")
        .count()
        .writeStream()
        .format("noop")
        .outputMode("update")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .start()
        .awaitTermination();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        FastLocalTests.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          SampleData data = Room.sampleData(notebook, 300, 1_000, 1_000);
          Dataset<Row> orders = data.orders().select("order_id", "status", "amount");
          settings().forEach((key, value) -> apply(spark, key, value));
          Chart tasks = new Chart("tasks", "tasks");
          Chart times = new Chart("time", "ms");

          notebook.step("One small test under different settings");
          notebook.text(
              "%d orders: a Delta table is made, merged into and read. No task has work for a"
                  + " millisecond, so that what counts is how many there are, and what is compiled"
                  + " before they begin.",
              data.orderCount());
          // What Spark loads and compiles once in a JVM is none of the settings' doing.
          mergeAndRead(spark, "warm_up", orders);
          Map<String, Counted> tests = new LinkedHashMap<>();
          tests.put(
              "all settings", Counted.of(spark, () -> mergeAndRead(spark, "all_settings", orders)));
          for (Change change :
              List.of(
                  new Change("50 snapshot partitions", Map.of(SNAPSHOT_PARTITIONS, "50")),
                  new Change("200 shuffle partitions", Map.of(SHUFFLE_PARTITIONS, "200")),
                  new Change(
                      "code generation", Map.of(WHOLE_STAGE, "true", CODEGEN, "FALLBACK")))) {
            change.settings().forEach((key, value) -> spark.conf().set(key, value));
            String table = change.name().replace(' ', '_').replaceAll("^(\\d)", "t$1");
            tests.put(change.name(), Counted.of(spark, () -> mergeAndRead(spark, table, orders)));
            change.settings().keySet().forEach(key -> spark.conf().set(key, settings().get(key)));
          }
          tests.forEach(
              (name, counted) -> {
                tasks.bar(name, counted.tasks());
                times.bar(name, counted.time().toMillis());
              });
          notebook.table(
              "with one of Spark's defaults put back at a time", Counted.table(spark, tests));
          notebook.chart(tasks);
          notebook.chart(times);
          notebook.text(
              "Delta reads a table's log with as many tasks as spark.databricks.delta"
                  + ".snapshotPartitions says, after each commit. spark.sql.shuffle.partitions, the"
                  + " setting that everybody knows, changes nothing here: adaptive execution merges"
                  + " the empty partitions before there are tasks for them. Generated classes are"
                  + " kept for the JVM, so that the first test of a kind pays.");

          notebook.step("Where shuffle partitions do count: a stream");
          Map<String, Counted> streams = new LinkedHashMap<>();
          for (String partitions : List.of("2", "50")) {
            spark.conf().set(SHUFFLE_PARTITIONS, partitions);
            String checkpoint = notebook.sandbox().path("checkpoint_" + partitions);
            streams.put(
                partitions + " shuffle partitions",
                Counted.of(spark, () -> streamTotals(spark, "warm_up", checkpoint)));
          }
          spark.conf().set(SHUFFLE_PARTITIONS, "2");
          notebook.table(
              "one batch of a stream that counts, with a quarter of the default",
              Counted.table(spark, streams));
          notebook.text(
              "Adaptive execution is off for streams: each partition is a task, and a state store"
                  + " with files of its own, in every batch.");

          notebook.step("One session for all tests");
          List<Row> starts = new ArrayList<>();
          Chart starting = new Chart("until the first query of a session has ended", "ms");
          for (SessionStarts.Started start : SessionStarts.run()) {
            starting.bar(start.way(), start.millis());
            starts.add(
                RowFactory.create(
                    start.way(), start.application(), start.ui() ? "on" : "off", start.millis()));
          }
          notebook.table(
              "sessions of another JVM, one after another",
              spark.createDataFrame(
                  starts,
                  StructType.fromDDL(
                      "session STRING, application STRING, ui STRING, millis BIGINT")));
          notebook.chart(starting);
          notebook.text(
              "The first one loads Spark's classes, and every JVM pays for it once: let the build"
                  + " run all test classes in one (Surefire: forkCount 1 and reuseForks true, its"
                  + " defaults). A session that is there costs nothing. One that is stopped and"
                  + " started again costs less than the first, and that for each test class.");

          notebook.step("When not to");
          notebook.text(
              "Interpreted expressions and generated ones are two implementations: run a test of"
                  + " the few that must agree with generated code on, and every measurement. Two"
                  + " partitions hide bugs that need many, such as an order that holds by chance:"
                  + " test such code with seven. One session shares its settings, views and tables:"
                  + " put back what a test changes, or give it a session of its own, with"
                  + " newSession and a schema. On a cluster none of this is for you: there 200"
                  + " partitions are few, and generated code is what makes rows cheap.");
        });
  }

  private record Change(String name, Map<String, String> settings) {}

  /** The rest can only be set before the session starts. */
  private static void apply(SparkSession spark, String key, String value) {
    if (spark.conf().isModifiable(key)) {
      spark.conf().set(key, value);
    }
  }
}
