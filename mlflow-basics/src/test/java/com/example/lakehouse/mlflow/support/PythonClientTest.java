package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.mlflow.MlflowTest;
import com.example.lakehouse.mlflow.support.ModelRegistry.ModelVersion;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.UUID;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.mlflow.tracking.MlflowClient;

/** What is written here is read by MLflow's Python client, and the other way round. */
@MlflowTest
class PythonClientTest {
  private static final String SCRIPT =
      """
      import sys
      import mlflow

      uri, run, name, folder = sys.argv[1:]
      mlflow.set_tracking_uri(uri)
      client = mlflow.MlflowClient()
      version = client.get_model_version_by_alias(name, "champion")
      print(version.version, version.run_id, version.description, version.tags["rmse"], flush=True)
      mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=folder)
      client.log_artifacts(run, folder, "from Python")
      client.create_registered_model(name + " 2", description="made in Python")
      client.create_model_version(name + " 2", f"runs:/{run}/from Python", run, tags={"rmse": "0.7"})
      client.set_registered_model_alias(name + " 2", "champion", "1")
      """;

  @TempDir Path folder;

  private static String run(Path log, String... command) throws IOException, InterruptedException {
    Process process =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
    assertThat(process.waitFor()).as(Files.readString(log)).isZero();
    return Files.readString(log);
  }

  @Test
  void eachClientReadsWhatTheOtherWrote(MlflowServer server) throws Exception {
    ModelRegistry registry = server.registry();
    ArtifactStore store = server.artifacts();
    String name = "größe " + UUID.randomUUID();
    Path model = Files.createDirectories(folder.resolve("model/data dir"));
    Files.writeString(model.resolve("100% größe.txt"), "of Java");
    String runId;
    try (MlflowClient client = Credentials.of(server.uri()).client()) {
      runId = client.createRun().getRunId();
    }
    store.upload(runId, folder.resolve("model"), "model");
    registry.createModel(name, "", Map.of());
    registry.createVersion(
        name, "runs:/" + runId + "/model", runId, "made in Java", Map.of("rmse", "0.8"));
    registry.setAlias(name, "champion", 1);
    Path inPython = folder.resolve("python");

    String output =
        run(
            folder.resolve("log"),
            PythonEnvironment.server().python().toString(),
            "-c",
            SCRIPT,
            server.uri(),
            runId,
            name,
            inPython.toString());

    assertThat(output).contains("1 " + runId + " made in Java 0.8");
    assertThat(inPython.resolve("data dir/100% größe.txt")).hasContent("of Java");
    ModelVersion theirs = registry.byAlias(name + " 2", "champion").orElseThrow();
    assertThat(theirs.tags()).isEqualTo(Map.of("rmse", "0.7"));
    assertThat(registry.model(name + " 2").description()).isEqualTo("made in Python");
    Path back = store.download("models:/" + name + " 2@champion", "", folder.resolve("back"));
    assertThat(back).hasFileName("from Python");
    assertThat(back.resolve("data dir/100% größe.txt")).hasContent("of Java");
  }
}
