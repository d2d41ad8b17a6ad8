package com.example.lakehouse.streaming;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Launcher;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** An example that is stopped while its query and its broker run. */
class StoppedExampleTest {

  /** Ctrl-C ends a JVM in the same way, with another number; not every CI lets that one through. */
  @Test
  void sigtermEndsAQueryAndLeavesNothingBehind(@TempDir Path folder) throws Exception {
    Path temporary = Files.createDirectory(folder.resolve("tmp"));
    Path log = folder.resolve("log");
    Process process =
        new ProcessBuilder(
                ChildJvm.command(
                    Launcher.class,
                    List.of(
                        "-Djava.io.tmpdir=" + temporary,
                        "-Dlogback.configurationFile=logback-with-streams.xml"),
                    "Triggers"))
            .redirectErrorStream(true)
            .redirectOutput(log.toFile())
            .start();
    try {
      await()
          .atMost(Duration.ofMinutes(2))
          .until(
              () -> {
                assertThat(process.isAlive()).isTrue();
                return hasACommit(temporary);
              });
      process.destroy();
      assertThat(process.waitFor(1, TimeUnit.MINUTES)).as("it ends by itself").isTrue();
    } finally {
      process.toHandle().destroyForcibly();
    }

    assertThat(process.exitValue()).as("128 and SIGTERM's number").isEqualTo(143);
    assertThat(log).content().contains("as soon as possible").doesNotContain("Exception");
    assertThat(temporary).isEmptyDirectory();
  }

  /** Whether a query has done a batch. */
  private static boolean hasACommit(Path folder) throws Exception {
    try (Stream<Path> files = Files.walk(folder)) {
      return files.anyMatch(file -> file.endsWith("commits/0"));
    } catch (UncheckedIOException e) {
      // A file went while it was listed.
      return false;
    }
  }
}
