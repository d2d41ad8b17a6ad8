package com.example.lakehouse.mlflow;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.mlflow.support.PythonEnvironment;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
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
        new ProcessBuilder(
                environment.python().toString(), "script.py", in.toString(), out.toString())
            .directory(folder.toFile())
            .redirectErrorStream(true)
            .redirectOutput(log.toFile());
    Map<String, String> variables = builder.environment();
    variables
        .keySet()
        .removeIf(
            name ->
                name.startsWith("MLFLOW_")
                    || name.startsWith("PYTHON")
                    || name.startsWith("PYSPARK_")
                    || name.startsWith("SPARK_"));
    variables.put("JAVA_HOME", System.getProperty("java.home"));
    variables.put("SPARK_LOCAL_IP", "127.0.0.1");
    variables.put("SPARK_LOCAL_DIRS", folder.toString());
    variables.put("PYSPARK_PYTHON", environment.python().toString());
    variables.put(
        "PYSPARK_SUBMIT_ARGS",
        "--driver-memory 1g --conf spark.ui.enabled=false --conf spark.sql.session.timeZone=UTC"
            + " pyspark-shell");
    variables.put("TZ", "UTC");
    variables.put("MLFLOW_TRACKING_URI", trackingUri);
    variables.put("MLFLOW_DFS_TMP", folder.resolve("dfs").toString());
    variables.put("MLFLOW_DISABLE_TELEMETRY", "true");
    variables.put("DO_NOT_TRACK", "true");
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
