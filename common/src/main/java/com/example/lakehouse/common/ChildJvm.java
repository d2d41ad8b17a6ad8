package com.example.lakehouse.common;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * Runs a main class of this class path in a JVM of its own, for what one JVM cannot show: another
 * master, a small heap, a crash.
 *
 * @param exitCode the process's exit code
 * @param output what it printed to both streams
 */
public record ChildJvm(int exitCode, String output) {
  private static final Duration TIMEOUT = Duration.ofMinutes(5);

  /** What starts {@code main}, for a process that does not run to its end by itself. */
  public static List<String> command(Class<?> main, List<String> jvmOptions, String... args) {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    // With C1 alone the JVM keeps 48 MB of compiled code. Spark fills that in a minute, and what
    // comes later is interpreted.
    command.addAll(
        List.of("-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=256m", "-XX:+UseSerialGC"));
    command.addAll(jvmOptions);
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), main.getName()));
    command.addAll(List.of(args));
    return command;
  }

  /**
   * Runs {@code main} to its end, for which it has five minutes.
   *
   * @param jvmOptions such as {@code -Xmx1g} or {@code -Dspark.master=local[1]}
   */
  public static ChildJvm run(Class<?> main, List<String> jvmOptions, String... args)
      throws IOException, InterruptedException {
    return run(TIMEOUT, main, jvmOptions, args);
  }

  /**
   * The same, with another limit.
   *
   * @throws IllegalStateException with what it printed, if it is then still running; it is killed
   */
  public static ChildJvm run(
      Duration timeout, Class<?> main, List<String> jvmOptions, String... args)
      throws IOException, InterruptedException {
    List<String> command = command(main, jvmOptions, args);
    Path log = Files.createTempFile("child-jvm-", ".log");
    try {
      Process process =
          new ProcessBuilder(command)
              .redirectErrorStream(true)
              .redirectOutput(log.toFile())
              .start();
      if (!process.waitFor(timeout.toMillis(), TimeUnit.MILLISECONDS)) {
        process.destroyForcibly().waitFor();
        throw new IllegalStateException(
            "%s did not end in %d minutes:%n%s"
                .formatted(main.getName(), timeout.toMinutes(), Files.readString(log)));
      }
      return new ChildJvm(process.exitValue(), Files.readString(log, StandardCharsets.UTF_8));
    } finally {
      Files.delete(log);
    }
  }

  /**
   * What it printed.
   *
   * @throws IllegalStateException with that, if it failed
   */
  public String outputOfSuccess() {
    if (exitCode != 0) {
      throw new IllegalStateException(
          "the other JVM ended with %d:%n%s".formatted(exitCode, output));
    }
    return output;
  }
}
