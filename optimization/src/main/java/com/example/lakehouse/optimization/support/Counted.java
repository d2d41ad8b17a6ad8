package com.example.lakehouse.optimization.support;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.spark.metrics.source.CodegenMetrics$;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerTaskEnd;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * All that Spark did meanwhile, Delta's own queries included, which a {@code QueryProfile} leaves
 * out.
 *
 * @param jobs jobs that began
 * @param tasks tasks that ended
 * @param classes classes that were generated and compiled
 * @param time from start to end
 */
public record Counted(int jobs, int tasks, int classes, Duration time) {

  /** Some work, which may fail. */
  @FunctionalInterface
  public interface Work {
    void run() throws Exception;
  }

  /** Runs {@code work}, which must be all that the session's context does at the time. */
  public static Counted of(SparkSession spark, Work work) throws Exception {
    AtomicInteger jobs = new AtomicInteger();
    AtomicInteger tasks = new AtomicInteger();
    SparkListener listener =
        new SparkListener() {
          @Override
          public void onJobStart(SparkListenerJobStart job) {
            jobs.incrementAndGet();
          }

          @Override
          public void onTaskEnd(SparkListenerTaskEnd task) {
            tasks.incrementAndGet();
          }
        };
    awaitEvents(spark);
    spark.sparkContext().addSparkListener(listener);
    try {
      long classes = generatedClasses();
      long start = System.nanoTime();
      work.run();
      Duration time = Duration.ofNanos(System.nanoTime() - start);
      classes = generatedClasses() - classes;
      awaitEvents(spark);
      return new Counted(jobs.get(), tasks.get(), (int) classes, time);
    } finally {
      spark.sparkContext().removeSparkListener(listener);
    }
  }

  /**
   * Several of them, a row for each.
   *
   * @return {@code settings STRING, jobs INT, tasks INT, classes INT, millis BIGINT}
   */
  public static Dataset<Row> table(SparkSession spark, Map<String, Counted> counted) {
    List<Row> rows = new ArrayList<>();
    counted.forEach(
        (name, c) ->
            rows.add(
                RowFactory.create(name, c.jobs(), c.tasks(), c.classes(), c.time().toMillis())));
    return spark.createDataFrame(
        rows,
        StructType.fromDDL("settings STRING, jobs INT, tasks INT, classes INT, millis BIGINT"));
  }

  /** Spark hands events to its listeners from another thread. */
  private static void awaitEvents(SparkSession spark) throws TimeoutException {
    spark.sparkContext().listenerBus().waitUntilEmpty();
  }

  /** Of this JVM, since it began. */
  private static long generatedClasses() {
    return CodegenMetrics$.MODULE$.METRIC_GENERATED_CLASS_BYTECODE_SIZE().getCount();
  }
}
