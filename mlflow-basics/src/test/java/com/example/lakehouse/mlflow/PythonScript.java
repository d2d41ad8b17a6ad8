package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.mlflow.support.PythonEnvironment;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/**
 * Runs a script in the Python environment that loads models, on this JVM's JDK. Spark listens on
 * the loopback interface there too.
 */
final class PythonScript {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final long TIMEOUT_MINUTES = 5;

  private PythonScript() {}

  /**
   * Runs {@code script} with a file of {@code input} as its first argument.
   *
   * @param folder for its files; a new one for each run
   * @param trackingUri the server that MLflow talks to
   * @return what it wrote as JSON to the file of its second argument
   */
  static JsonNode run(String script, Object input, Path folder, String trackingUri)
      throws IOException, InterruptedException {
    PythonEnvironment environment = MlflowExtension.orSkip(PythonEnvironment::scoring);
    Files.createDirectories(folder);
    Path in = folder.resolve("in.json");
    Path out = folder.resolve("out.json");
    Path log = folder.resolve("log.txt");
    JSON.writeValue(in.toFile(), input);
    Files.writeString(folder.resolve("script.py"), script);
    ProcessBuilder builder =
        environment
            .withSpark(folder, "script.py", in.toString(), out.toString())
            .directory(folder.toFile())
            .redirectErrorStream(true)
            .redirectOutput(log.toFile());
    builder.environment().put("MLFLOW_TRACKING_URI", trackingUri);
    Process process = builder.start();
    if (!process.waitFor(TIMEOUT_MINUTES, TimeUnit.MINUTES)) {
      process.descendants().forEach(ProcessHandle::destroyForcibly);
      process.destroyForcibly().waitFor();
      throw new AssertionError("the script did not end:\n" + Files.readString(log));
    }
    assertThat(process.exitValue()).as(Files.readString(log)).isZero();
    return JSON.readTree(out.toFile());
  }
}
