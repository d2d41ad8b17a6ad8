package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@MlflowTest
class MlflowTestTest {
  private static MlflowServer first;

  /** Asks for a server, as the extension does before a class of tests. */
  static final class Asking {
    public static void main(String[] args) {
      try {
        MlflowExtension.orSkip(() -> MlflowServer.open(Path.of(args[0])));
      } catch (RuntimeException e) {
        System.out.println(e.getClass().getName());
      }
    }
  }

  @Test
  void aTestHasAServer(MlflowServer server) {
    assertThatItIsTheSame(server);
  }

  @Test
  void anotherTestHasTheSame(MlflowServer server) {
    assertThatItIsTheSame(server);
  }

  private static void assertThatItIsTheSame(MlflowServer server) {
    first = first == null ? server : first;
    assertThat(server).isSameAs(first);
    assertThat(server.client().getExperiment("0").getName()).isEqualTo("Default");
  }

  @Test
  void whereThereCanBeNoServerTestsAreSkippedAndSaySo(@TempDir Path empty) throws Exception {
    assertThat(ask(empty, "false"))
        .contains(
            "WARN", "Tests are skipped. The environment for MLflow's server takes Python 3.10")
        .contains("Install it, or set MLFLOW_TRACKING_URI to a server that runs already.")
        .endsWith("org.opentest4j.TestAbortedException\n");
  }

  @Test
  void onABuildServerTheyFail(@TempDir Path empty) throws Exception {
    assertThat(ask(empty, "true")).isEqualTo("com.example.lakehouse.common.SetupException\n");
  }

  /** Without Python, and with a cache that holds no environment. */
  private static String ask(Path empty, String ci) throws Exception {
    ProcessBuilder builder =
        new ProcessBuilder(ChildJvm.command(Asking.class, List.of(), empty.toString()));
    builder.environment().remove("MLFLOW_TRACKING_URI");
    builder.environment().remove("LAKEHOUSE_PYTHON");
    builder.environment().put("CI", ci);
    builder.environment().put("PATH", empty.toString());
    // Of each system.
    for (String folder : List.of("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME")) {
      builder.environment().put(folder, empty.toString());
    }
    Process jvm = builder.redirectErrorStream(true).start();
    String output = new String(jvm.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(jvm.waitFor()).as(output).isZero();
    return output
        .lines()
        .filter(line -> !line.startsWith("Picked up"))
        .reduce("", (a, b) -> a + b + "\n");
  }
}
