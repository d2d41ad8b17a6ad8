package com.example.lakehouse.delta.support;

import static org.apache.spark.sql.functions.udf;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.types.DataTypes;

/**
 * Runs one write inside another, so that a conflict comes every time and not by luck. In this JVM
 * only: the write that waits runs its tasks here.
 */
public final class Interleaving {
  private static final long TIMEOUT_SECONDS = 60;

  /** Of the interleaving that runs; there is one at a time. */
  private static volatile Interleaving current;

  private final CountDownLatch outerWaits = new CountDownLatch(1);
  private final CountDownLatch innerIsDone = new CountDownLatch(1);

  private Interleaving() {}

  /**
   * Runs {@code inner}, from its begin to its commit, between the reading and the commit of {@code
   * outer}.
   *
   * @param outer a write that computes the SQL function {@code pause(n BIGINT)} for at least one
   *     row; it returns {@code n}
   * @throws CompletionException if {@code outer} fails, with the reason as its cause
   */
  public static void run(SparkSession spark, Runnable outer, Runnable inner)
      throws InterruptedException {
    Interleaving interleaving = new Interleaving();
    current = interleaving;
    if (!spark.catalog().functionExists("pause")) {
      UDF1<Long, Long> pause = Interleaving::pause;
      spark.udf().register("pause", udf(pause, DataTypes.LongType));
    }
    CompletableFuture<Void> running =
        CompletableFuture.runAsync(outer)
            .whenComplete((ok, error) -> interleaving.outerWaits.countDown());
    await(interleaving.outerWaits);
    if (running.isDone()) {
      running.join();
      throw new IllegalStateException("the outer write ended without a call of pause(n)");
    }
    try {
      inner.run();
    } finally {
      interleaving.innerIsDone.countDown();
    }
    running.join();
  }

  /** Like {@link #run}, and says what became of {@code outer}. */
  public static String outcome(SparkSession spark, Runnable outer, Runnable inner)
      throws InterruptedException {
    try {
      run(spark, outer, inner);
      return "committed";
    } catch (CompletionException e) {
      return "refused: " + e.getCause().getClass().getSimpleName();
    }
  }

  private static Long pause(Long n) throws InterruptedException {
    current.outerWaits.countDown();
    await(current.innerIsDone);
    return n;
  }

  private static void await(CountDownLatch latch) throws InterruptedException {
    if (!latch.await(TIMEOUT_SECONDS, TimeUnit.SECONDS)) {
      throw new IllegalStateException(
          "the other write took more than %d s".formatted(TIMEOUT_SECONDS));
    }
  }
}
