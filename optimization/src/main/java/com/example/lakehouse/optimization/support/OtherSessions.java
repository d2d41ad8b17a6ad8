package com.example.lakehouse.optimization.support;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SparkSessions;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.SparkSession;

/**
 * Runs a query under settings that a session takes only when it starts, such as its memory and the
 * codec of its shuffles. A JVM has one Spark at a time: they run one after the other in a second
 * JVM, which has a heap of its own size.
 */
public final class OtherSessions {
  private static final String LINE = "figures\t";
  private static final Duration TIMEOUT = Duration.ofMinutes(10);

  private OtherSessions() {}

  /** A class with a public constructor without parameters, which the other JVM makes one of. */
  @FunctionalInterface
  public interface Query {
    Dataset<?> of(SparkSession spark, long rows);
  }

  /**
   * What the query did in one of the sessions.
   *
   * @param name of its settings
   */
  public record Figures(
      String name, long rowsOut, long shuffleBytes, long spillBytes, int tasks, long millis) {}

  /**
   * Runs the query once for each of the settings, in a JVM of its own.
   *
   * @param heap of the other JVM, such as {@code 512m}
   * @param rows for the query
   * @param settings for each session, by a name for it
   * @throws IllegalStateException if one fails; with what the JVM printed
   */
  public static List<Figures> run(
      String heap,
      Class<? extends Query> query,
      long rows,
      Map<String, Map<String, String>> settings)
      throws IOException, InterruptedException {
    List<String> arguments = new ArrayList<>(List.of(query.getName(), String.valueOf(rows)));
    settings.forEach(
        (name, values) -> {
          arguments.add(name);
          arguments.add(String.valueOf(values.size()));
          values.forEach((key, value) -> arguments.addAll(List.of(key, value)));
        });
    return ChildJvm.run(
            TIMEOUT,
            OtherSessions.class,
            List.of(
                "-Xmx" + heap,
                // Tasks that run at once share the memory: two of them on each machine.
                "-Dspark.master=local[2]",
                // When memory is short Spark serializes some blocks with Kryo, which needs this.
                "--add-opens=java.base/java.nio=ALL-UNNAMED"),
            arguments.toArray(String[]::new))
        .outputOfSuccess()
        .lines()
        .filter(line -> line.startsWith(LINE))
        .map(line -> figures(line.split("\t", -1)))
        .toList();
  }

  private static Figures figures(String[] fields) {
    return new Figures(
        fields[1],
        Long.parseLong(fields[2]),
        Long.parseLong(fields[3]),
        Long.parseLong(fields[4]),
        Integer.parseInt(fields[5]),
        Long.parseLong(fields[6]));
  }

  /** What the other JVM runs. */
  public static void main(String[] args) throws ReflectiveOperationException {
    Query query =
        Class.forName(args[0]).asSubclass(Query.class).getDeclaredConstructor().newInstance();
    long rows = Long.parseLong(args[1]);
    int next = 2;
    while (next < args.length) {
      String name = args[next++];
      Map<String, String> settings = new LinkedHashMap<>();
      for (int left = Integer.parseInt(args[next++]); left > 0; left--) {
        settings.put(args[next++], args[next++]);
      }
      settings.forEach(System::setProperty);
      SparkSession spark = SparkSessions.open(name);
      try {
        Measured.generateCode(spark);
        // The first run compiles.
        QueryProfile.of(query.of(spark, rows));
        QueryProfile profile = QueryProfile.of(query.of(spark, rows));
        System.out.println(
            LINE
                + String.join(
                    "\t",
                    name,
                    String.valueOf(profile.rowsOut().orElse(-1)),
                    String.valueOf(profile.shuffleBytes()),
                    String.valueOf(profile.spillBytes()),
                    String.valueOf(profile.tasks()),
                    String.valueOf(profile.wallTime().toMillis())));
      } finally {
        SparkSessions.close(spark);
        settings.keySet().forEach(System::clearProperty);
      }
    }
  }
}
