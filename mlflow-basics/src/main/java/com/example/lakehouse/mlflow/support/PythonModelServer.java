package com.example.lakehouse.mlflow.support;

import com.example.lakehouse.common.SetupException;
import java.nio.file.Path;

/** {@code mlflow models serve} of a model's folder: what {@link ScoringServer} is compared with. */
public final class PythonModelServer implements AutoCloseable {
  private final ServerProcess process;

  private PythonModelServer(ServerProcess process) {
    this.process = process;
  }

  /**
   * Starts it, and returns when it answers.
   *
   * @param model the folder with {@code MLmodel}
   * @param folder for all that it writes
   * @throws SetupException if there is no Python environment and none can be made
   */
  public static PythonModelServer start(Path model, Path folder) {
    return new PythonModelServer(
        ServerProcess.startModel(
            PythonEnvironment.scoring(), model.toAbsolutePath(), folder.toAbsolutePath()));
  }

  public String uri() {
    return process.uri();
  }

  @Override
  public void close() {
    process.stop();
  }
}
