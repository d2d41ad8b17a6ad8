package com.example.lakehouse.optimization.support;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.optimization.FastLocalTests;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import org.apache.spark.sql.SparkSession;

/**
 * Starts sessions in a process of its own, because a JVM has one Spark context at a time, and here
 * it is the example's.
 */
public final class SessionStarts {
  private static final String PREFIX = "STARTED ";
  private static final Duration TIMEOUT = Duration.ofMinutes(3);

  private SessionStarts() {}

  /**
   * One start.
   *
   * @param way {@code new}, {@code reused}, {@code after stop} or {@code with UI}
   * @param application the Spark context's id
   * @param ui whether the UI listens
   * @param millis until the session's first query has ended
   */
  public record Started(String way, String application, boolean ui, long millis) {}

  /** Starts the process and waits for its end. */
  public static List<Started> run() throws IOException, InterruptedException {
    return ChildJvm.run(TIMEOUT, SessionStarts.class, List.of("-Xmx1g"))
        .outputOfSuccess()
        .lines()
        .filter(line -> line.startsWith(PREFIX))
        .map(line -> started(line.substring(PREFIX.length()).split(";", -1)))
        .toList();
  }

  private static Started started(String[] fields) {
    return new Started(
        fields[0], fields[1], Boolean.parseBoolean(fields[2]), Long.parseLong(fields[3]));
  }

  /** The process. */
  public static void main(String[] args) {
    start("new");
    start("reused");
    stop();
    start("after stop");
    stop();
    System.setProperty("spark.ui.enabled", "true");
    start("with UI");
    stop();
  }

  private static void start(String way) {
    long start = System.nanoTime();
    SparkSession spark = FastLocalTests.session();
    spark.range(10).count();
    long millis = (System.nanoTime() - start) / 1_000_000;
    System.out.println(
        PREFIX
            + String.join(
                ";",
                way,
                spark.sparkContext().applicationId(),
                String.valueOf(spark.sparkContext().uiWebUrl().isDefined()),
                String.valueOf(millis)));
  }

  private static void stop() {
    FastLocalTests.session().stop();
  }
}
