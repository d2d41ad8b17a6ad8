package com.example.lakehouse.optimization.support;

import com.example.lakehouse.optimization.FastLocalTests;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.spark.sql.SparkSession;

/**
 * Starts sessions in a process of its own, because a JVM has one Spark context at a time, and here
 * it is the example's.
 */
public final class SessionStarts {
  private static final String PREFIX = "STARTED ";
  private static final int TIMEOUT_MINUTES = 3;

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
    Path log = Files.createTempFile("session-starts-", ".log");
    try {
      Process process =
          new ProcessBuilder(
                  Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                  "-Xmx1g",
                  "-XX:TieredStopAtLevel=1",
                  "-XX:+UseSerialGC",
                  "-cp",
                  System.getProperty("java.class.path"),
                  SessionStarts.class.getName())
              .redirectErrorStream(true)
              .redirectOutput(log.toFile())
              .start();
      if (!process.waitFor(TIMEOUT_MINUTES, TimeUnit.MINUTES)) {
        process.destroyForcibly().waitFor();
      }
      if (process.exitValue() != 0) {
        throw new IllegalStateException("the sessions' process failed:\n" + Files.readString(log));
      }
      List<Started> starts = new ArrayList<>();
      for (String line : Files.readAllLines(log)) {
        if (line.startsWith(PREFIX)) {
          String[] parts = line.substring(PREFIX.length()).split(";", -1);
          starts.add(
              new Started(
                  parts[0], parts[1], Boolean.parseBoolean(parts[2]), Long.parseLong(parts[3])));
        }
      }
      return starts;
    } finally {
      Files.delete(log);
    }
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
