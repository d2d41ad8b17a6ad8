package com.example.lakehouse.common;

import java.util.concurrent.TimeoutException;
import org.apache.hadoop.util.ShutdownHookManager;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.streaming.state.StateStore;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The end of a JVM that is stopped with Ctrl-C or SIGTERM, in order: queries, Spark, folders. The
 * JVM alone would run all hooks at once, and a query would write into folders that are being
 * deleted.
 */
final class Shutdown {
  private static final Logger LOG = LoggerFactory.getLogger(Shutdown.class);

  /** Spark stops its context at 40; a higher number is earlier. */
  private static final int BEFORE_SPARK = 60;

  private static final int LAST = 1;

  private Shutdown() {}

  /** Whether the JVM is on its way out: what fails then fails because of that. */
  static boolean hasBegun() {
    return ShutdownHookManager.get().isShutdownInProgress();
  }

  static void stopStreamsFirst(SparkSession spark) {
    ShutdownHookManager.get().addShutdownHook(() -> stopStreams(spark), BEFORE_SPARK);
  }

  static void atEnd(Runnable action) {
    ShutdownHookManager.get().addShutdownHook(action, LAST);
  }

  private static void stopStreams(SparkSession spark) {
    if (spark.sparkContext().isStopped()) {
      return;
    }
    for (StreamingQuery query : spark.streams().active()) {
      try {
        query.stop();
      } catch (TimeoutException e) {
        LOG.warn("The query {} did not stop in time", query.id(), e);
      }
    }
    // See SparkSessions.close.
    StateStore.stop();
  }
}
