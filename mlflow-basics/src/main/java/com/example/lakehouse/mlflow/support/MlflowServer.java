package com.example.lakehouse.mlflow.support;

import com.example.lakehouse.common.SetupException;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;
import org.mlflow.tracking.MlflowClient;

/**
 * An MLflow server, and the clients for it. With the environment variable {@code
 * MLFLOW_TRACKING_URI} it stands for the server which that names, with {@code
 * MLFLOW_TRACKING_TOKEN} or {@code MLFLOW_TRACKING_USERNAME} and {@code MLFLOW_TRACKING_PASSWORD};
 * without, a real one is started on a free port of the loopback interface. It keeps its data, and
 * its log, in one folder, and ends with this JVM, however that ends.
 *
 * <p>It runs in a {@link PythonEnvironment}, which the first use makes.
 */
public final class MlflowServer implements AutoCloseable {
  /** What {@link #open} started in this JVM. */
  private static Optional<MlflowServer> shared = Optional.empty();

  private final String uri;
  private final MlflowClient client;
  private final Credentials credentials;
  private final Optional<ServerProcess> process;

  private MlflowServer(
      String uri, MlflowClient client, Credentials credentials, Optional<ServerProcess> process) {
    this.uri = uri;
    this.client = client;
    this.credentials = credentials;
    this.process = process;
  }

  /**
   * The server that {@code MLFLOW_TRACKING_URI} names; or the one that this method started in this
   * JVM and that is not closed yet, which the result's {@link #close} then leaves; or a new one.
   *
   * @param folder where a new one keeps its data: the caller deletes it after closing
   * @throws SetupException if the named server does not answer, or if there is no Python
   *     environment for a new one and none can be made
   */
  public static synchronized MlflowServer open(Path folder) {
    String named = System.getenv("MLFLOW_TRACKING_URI");
    if (named != null && !named.isBlank()) {
      return external(named.strip().replaceAll("/+$", ""));
    }
    Optional<ServerProcess> running =
        shared.flatMap(server -> server.process).filter(ServerProcess::isAlive);
    if (running.isPresent()) {
      return local(running.get(), Optional.empty());
    }
    MlflowServer server = start(folder);
    shared = Optional.of(server);
    return server;
  }

  /**
   * A new server of its own, whatever the environment says. In the folder of an earlier one it has
   * that one's data and, if it is free, its address.
   *
   * @throws SetupException if there is no Python environment and none can be made
   */
  public static MlflowServer start(Path folder) {
    ServerProcess process =
        ServerProcess.start(PythonEnvironment.server(), folder.toAbsolutePath());
    return local(process, Optional.of(process));
  }

  private static MlflowServer local(ServerProcess running, Optional<ServerProcess> process) {
    String uri = running.uri();
    Credentials credentials = Credentials.of(uri);
    return new MlflowServer(uri, credentials.client(), credentials, process);
  }

  private static MlflowServer external(String uri) {
    checkThatItAnswers(uri);
    Credentials credentials = Credentials.fromEnvironment().orElseThrow();
    return new MlflowServer(uri, credentials.client(), credentials, Optional.empty());
  }

  private static void checkThatItAnswers(String uri) {
    URI address = URI.create(uri);
    if (address.getHost() == null || !String.valueOf(address.getScheme()).startsWith("http")) {
      throw new SetupException(
          "MLFLOW_TRACKING_URI must be a server's http:// or https:// address. Unset it, and one is"
              + " started here.");
    }
    try {
      // Any answer will do: one that asks for a user comes from a server too.
      HttpClient.newBuilder()
          .connectTimeout(Duration.ofSeconds(10))
          .build()
          .send(
              HttpRequest.newBuilder(URI.create(uri + "/health"))
                  .timeout(Duration.ofSeconds(30))
                  .build(),
              BodyHandlers.discarding());
    } catch (IOException e) {
      throw new SetupException(
          "No server answers at %s:%d, which MLFLOW_TRACKING_URI names. Start it; or unset the variable, and one is started here."
              .formatted(address.getHost(), address.getPort()));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while looking for " + address.getHost(), e);
    }
  }

  /** Its address, for clients and, in a browser, for people. */
  public String uri() {
    return uri;
  }

  /** The client for experiments and runs; it is closed with this. */
  public MlflowClient client() {
    return client;
  }

  public ModelRegistry registry() {
    return new ModelRegistry(credentials);
  }

  public ArtifactStore artifacts() {
    return new ArtifactStore(credentials);
  }

  /**
   * The process that was started here.
   *
   * @throws IllegalStateException if this did not start the server
   */
  public long pid() {
    return own().pid();
  }

  /**
   * Kills the server, in the middle of whatever it does; {@link #start} with the same folder starts
   * it again.
   *
   * @throws IllegalStateException if this did not start the server
   */
  public void kill() {
    own().kill();
  }

  private ServerProcess own() {
    return process.orElseThrow(
        () -> new IllegalStateException("the server at " + uri + " was not started here"));
  }

  @Override
  public void close() {
    client.close();
    process.ifPresent(ServerProcess::stop);
    forget(this);
  }

  private static synchronized void forget(MlflowServer server) {
    shared = shared.filter(other -> other != server);
  }
}
