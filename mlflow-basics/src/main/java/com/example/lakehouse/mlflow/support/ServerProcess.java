package com.example.lakehouse.mlflow.support;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.Proxy;
import java.net.ServerSocket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.IntFunction;
import java.util.stream.Stream;
import org.apache.hadoop.util.ShutdownHookManager;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A server of MLflow's as a child of this JVM, on a free port of the loopback interface: {@code
 * mlflow server}, with SQLite and a folder of artifacts, or {@code mlflow models serve}. It ends
 * with the JVM, also with one that is killed: see {@code run_server.py}.
 */
final class ServerProcess {
  private static final Logger LOG = LoggerFactory.getLogger(ServerProcess.class);
  private static final String SCRIPT = "run_server.py";
  private static final int ATTEMPTS = 3;
  private static final int LOG_LINES = 15;

  /** It takes 3 to 5 s on two free cores, and with a model of Spark's 15 s. */
  private static final Duration TIME_TO_START = Duration.ofSeconds(90);

  /** After this the script that runs it kills it too, so this is longer than what that waits. */
  private static final Duration TIME_TO_END = Duration.ofSeconds(10);

  /**
   * On Ctrl-C the server goes when Spark, at 40, has stopped and before folders, at 1, are deleted.
   */
  private static final int AFTER_SPARK = 20;

  private final Process process;
  private final int port;
  private final Runnable endWithTheJvm = this::end;
  private List<ProcessHandle> started = List.of();

  private ServerProcess(Process process, int port) {
    this.process = process;
    this.port = port;
  }

  /**
   * Starts it, and returns when it answers.
   *
   * @param folder where its data are, or will be; with the port of last time, if that is free
   */
  static ServerProcess start(PythonEnvironment python, Path folder) {
    int port = lastPort(folder).filter(ServerProcess::isFree).orElseGet(ServerProcess::freePort);
    return start(python, folder, port);
  }

  /**
   * Starts it, and returns when it answers.
   *
   * @param port a port that was free; another one is taken if it is not any more
   */
  static ServerProcess start(PythonEnvironment python, Path folder, int port) {
    return start(free -> trackingServer(python, free), folder, port);
  }

  /**
   * Starts {@code mlflow models serve}, and returns when it answers.
   *
   * @param model the folder with {@code MLmodel}
   * @param folder for all that it writes
   */
  static ServerProcess startModel(PythonEnvironment python, Path model, Path folder) {
    return start(free -> modelServer(python, model, folder, free), folder, freePort());
  }

  private static ServerProcess start(IntFunction<ProcessBuilder> command, Path folder, int port) {
    int free = port;
    try {
      Files.createDirectories(folder);
      Files.writeString(folder.resolve(SCRIPT), PythonEnvironment.text(SCRIPT));
      Path log = folder.resolve("server.log");
      for (int attempt = 1; ; attempt++) {
        long logged = Files.exists(log) ? Files.size(log) : 0;
        ServerProcess server = new ServerProcess(run(command.apply(free), folder, log), free);
        ShutdownHookManager.get().addShutdownHook(server.endWithTheJvm, AFTER_SPARK);
        boolean answers = server.awaitAnswer(log, logged);
        if (answers) {
          server.started = server.processes();
          Files.writeString(folder.resolve("port"), String.valueOf(free));
          return server;
        }
        boolean ended = !server.process.isAlive();
        server.stop();
        String said = since(log, logged);
        // Somebody took the port since it was found to be free.
        if (!said.contains("error while attempting to bind on address") || attempt == ATTEMPTS) {
          throw new IllegalStateException(
              "MLflow's server %s. The end of %s:%n%s"
                  .formatted(
                      ended
                          ? "ended with " + server.process.exitValue() + " before it answered"
                          : "did not answer within " + TIME_TO_START.toSeconds() + " s",
                      log,
                      lastLines(said)));
        }
        free = freePort();
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  String uri() {
    return "http://127.0.0.1:" + port;
  }

  long pid() {
    return process.pid();
  }

  boolean isAlive() {
    return process.isAlive();
  }

  /** Ends it in order: requests that it works on are answered. */
  void stop() {
    forgetTheJvmsEnd();
    end();
  }

  /** Kills all its processes at once, as a crash of its machine would. */
  void kill() {
    forgetTheJvmsEnd();
    destroy(processes());
  }

  private void forgetTheJvmsEnd() {
    if (!ShutdownHookManager.get().isShutdownInProgress()) {
      ShutdownHookManager.get().removeShutdownHook(endWithTheJvm);
    }
  }

  /**
   * The one that was started, and its descendants: it runs the web server as its child. That one is
   * known from the start too, since it is nobody's child any more when something has killed the
   * other.
   */
  private List<ProcessHandle> processes() {
    return Stream.of(Stream.of(process.toHandle()), process.descendants(), started.stream())
        .flatMap(handles -> handles)
        .distinct()
        .toList();
  }

  private void end() {
    List<ProcessHandle> processes = processes();
    try {
      process.getOutputStream().close();
      process.waitFor(TIME_TO_END.toSeconds(), TimeUnit.SECONDS);
    } catch (IOException e) {
      LOG.debug("It has ended already", e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } finally {
      destroy(processes);
    }
  }

  private static void destroy(List<ProcessHandle> processes) {
    processes.forEach(ProcessHandle::destroyForcibly);
    CompletableFuture.allOf(
            processes.stream().map(ProcessHandle::onExit).toArray(CompletableFuture<?>[]::new))
        .join();
  }

  private static Process run(ProcessBuilder command, Path folder, Path log) throws IOException {
    return command
        .directory(folder.toFile())
        .redirectErrorStream(true)
        .redirectOutput(ProcessBuilder.Redirect.appendTo(log.toFile()))
        .start();
  }

  private static ProcessBuilder trackingServer(PythonEnvironment python, int port) {
    ProcessBuilder builder =
        python.process(
            SCRIPT,
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            String.valueOf(port),
            // Its threads are enough for one machine, and SQLite has one writer in any case.
            "--workers",
            "1",
            // Below its working directory, whatever characters are in that path.
            "--backend-store-uri",
            "sqlite:///mlflow.db",
            "--serve-artifacts",
            "--artifacts-destination",
            "artifacts");
    // Seven more processes of 190 MB, which the examples have no jobs for; the start takes twice
    // as long with them.
    builder.environment().put("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false");
    return builder;
  }

  private static ProcessBuilder modelServer(
      PythonEnvironment python, Path model, Path folder, int port) {
    return python.withSpark(
        folder,
        SCRIPT,
        "models",
        "serve",
        "--model-uri",
        model.toString(),
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        String.valueOf(port));
  }

  /**
   * Waits until the server takes requests.
   *
   * @param logged the log's size before the start
   * @return whether it does: not when it has ended, or the deadline has passed
   */
  private boolean awaitAnswer(Path log, long logged) throws IOException {
    long deadline = System.nanoTime() + TIME_TO_START.toNanos();
    try {
      while (System.nanoTime() < deadline && !process.waitFor(50, TimeUnit.MILLISECONDS)) {
        // Its own word too: another server may have taken the port, and answer.
        if (isHealthy() && since(log, logged).contains("Uvicorn running on " + uri())) {
          return true;
        }
      }
      return false;
    } catch (InterruptedException e) {
      stop();
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while MLflow's server started", e);
    }
  }

  private boolean isHealthy() {
    try {
      HttpURLConnection connection =
          (HttpURLConnection) URI.create(uri() + "/health").toURL().openConnection(Proxy.NO_PROXY);
      connection.setConnectTimeout(1000);
      connection.setReadTimeout(5000);
      return connection.getResponseCode() == HttpURLConnection.HTTP_OK;
    } catch (IOException e) {
      LOG.trace("Not yet", e);
      return false;
    }
  }

  private static String since(Path log, long position) throws IOException {
    try (InputStream in = Files.newInputStream(log)) {
      in.skipNBytes(position);
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    }
  }

  private static String lastLines(String text) {
    List<String> lines = text.lines().toList();
    return String.join(
        System.lineSeparator(), lines.subList(Math.max(0, lines.size() - LOG_LINES), lines.size()));
  }

  private static Optional<Integer> lastPort(Path folder) {
    Path file = folder.resolve("port");
    try {
      return Files.exists(file)
          ? Optional.of(Integer.valueOf(Files.readString(file)))
          : Optional.empty();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static boolean isFree(int port) {
    try (ServerSocket socket = new ServerSocket(port, 1, InetAddress.getLoopbackAddress())) {
      return socket.isBound();
    } catch (IOException e) {
      LOG.debug("The port of last time, {}, is taken", port, e);
      return false;
    }
  }

  private static int freePort() {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
