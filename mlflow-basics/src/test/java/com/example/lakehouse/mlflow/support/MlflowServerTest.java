package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.mlflow.MlflowTest;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@MlflowTest
class MlflowServerTest {
  private static final HttpClient HTTP = HttpClient.newHttpClient();

  /** Runs until it is stopped from outside. */
  static final class Starter {
    public static void main(String[] args) throws Exception {
      MlflowServer server = MlflowServer.start(Path.of(args[0]));
      List<Long> pids = pids(server.pid());
      Path file = Path.of(args[1]);
      Path partial = file.resolveSibling("partial");
      Files.writeString(partial, String.join("\n", pids.stream().map(String::valueOf).toList()));
      Files.move(partial, file);
      new CountDownLatch(1).await();
    }
  }

  /** Opens the server that its environment names. */
  static final class Opener {
    public static void main(String[] args) {
      try (MlflowServer server = MlflowServer.open(Path.of(args[0]))) {
        System.out.println("opened " + server.uri());
        System.out.println("experiment " + server.client().getExperiment("0").getName());
        server.pid();
      } catch (RuntimeException e) {
        System.out.println(e.getClass().getSimpleName() + ": " + e.getMessage());
      }
    }
  }

  @Test
  void theServerIsTheOneThatIsPinnedWithItsPages(MlflowServer server) throws Exception {
    assertThat(get(server.uri() + "/version").body()).isEqualTo("3.17.2");
    assertThat(server.uri()).matches("http://127\\.0\\.0\\.1:\\d+");
    assertThat(get(server.uri() + "/").body()).startsWith("<!doctype html>").contains("MLflow");
  }

  @Test
  void itSendsNoTelemetry(MlflowServer server) throws Exception {
    assertThat(get(server.uri() + "/ajax-api/3.0/mlflow/ui-telemetry").body())
        .contains("\"disable_ui_telemetry\":true");
  }

  @Test
  void itListensOnTheLoopbackInterfaceAlone(MlflowServer server) throws Exception {
    int port = URI.create(server.uri()).getPort();
    List<InetAddress> others = new ArrayList<>();
    NetworkInterface.networkInterfaces()
        .flatMap(NetworkInterface::inetAddresses)
        .filter(address -> !address.isLoopbackAddress())
        .forEach(others::add);
    if (OS.LINUX.isCurrentOs()) {
      others.add(InetAddress.getByName("127.0.0.2"));
    }

    for (InetAddress other : others) {
      // A server on all addresses would hold this one too.
      try (ServerSocket socket = new ServerSocket()) {
        socket.setReuseAddress(false);
        socket.bind(new InetSocketAddress(other, port));
        assertThat(socket.isBound()).as("%s is free", other).isTrue();
      }
    }
  }

  /** A page elsewhere must not reach it through the browser of whoever runs an example. */
  @Test
  void itAnswersNeitherAnotherHostNameNorAnotherSitesPage(MlflowServer server) throws Exception {
    URI uri = URI.create(server.uri());
    assertThat(statusFor(uri, "elsewhere.example")).contains(" 403 ");
    assertThat(statusFor(uri, "127.0.0.1:" + uri.getPort())).contains(" 200 ");
    HttpResponse<String> created =
        HTTP.send(
            HttpRequest.newBuilder(URI.create(uri + "/api/2.0/mlflow/experiments/create"))
                .header("Content-Type", "application/json")
                .header("Origin", "http://elsewhere.example")
                .POST(BodyPublishers.ofString("{\"name\": \"elsewhere\"}"))
                .build(),
            BodyHandlers.ofString());
    assertThat(created.statusCode()).isEqualTo(403);
    assertThat(server.client().getExperimentByName("elsewhere")).isEmpty();
  }

  @Test
  void openingItAgainGivesTheSameOneWhichStaysWhenThatIsClosed(
      MlflowServer server, @TempDir Path unused) throws Exception {
    try (MlflowServer again = MlflowServer.open(unused)) {
      assertThat(again.uri()).isEqualTo(server.uri());
      assertThat(again.client().getExperiment("0").getName()).isEqualTo("Default");
      assertThatThrownBy(again::kill)
          .isInstanceOf(IllegalStateException.class)
          .hasMessageContaining("was not started here");
    }

    assertThat(get(server.uri() + "/health").statusCode()).isEqualTo(200);
    assertThat(unused).isEmptyDirectory();
  }

  @Test
  void aKilledOneHasItsDataAndItsAddressWhenItIsStartedAgain(
      MlflowServer shared, @TempDir Path parent) throws Exception {
    // Characters that a URI would have to escape.
    Path folder = parent.resolve("a folder, 100 % ours");
    String run;
    String uri;
    try (MlflowServer server = MlflowServer.start(folder)) {
      uri = server.uri();
      assertThat(uri).as("a server of its own").isNotEqualTo(shared.uri());
      run = server.client().createRun().getRunId();
      server.client().logMetric(run, "rmse", 0.5);
      put(uri + "/api/2.0/mlflow-artifacts/artifacts/notes/a.txt", "kept");
      List<Long> pids = pids(server.pid());
      assertThat(pids).as("MLflow, which runs the web server, and no more").hasSize(2);

      server.kill();

      assertThat(alive(pids)).isEmpty();
    }
    assertThat(folder.resolve("artifacts/notes/a.txt")).hasContent("kept");
    try (Stream<Path> files = Files.list(folder)) {
      assertThat(files.map(file -> file.getFileName().toString()))
          .contains("mlflow.db", "artifacts", "server.log")
          .allMatch(
              name ->
                  name.startsWith("mlflow.db")
                      || List.of("artifacts", "server.log", "port", "run_server.py")
                          .contains(name));
    }

    List<Long> pids;
    try (MlflowServer server = MlflowServer.start(folder)) {
      assertThat(server.uri()).isEqualTo(uri);
      assertThat(server.client().getRun(run).getData().getMetrics(0).getValue()).isEqualTo(0.5);
      assertThat(get(uri + "/api/2.0/mlflow-artifacts/artifacts/notes/a.txt").body())
          .isEqualTo("kept");
      pids = pids(server.pid());
    }
    assertThat(pids).hasSize(2);
    assertThat(alive(pids)).as("left after closing").isEmpty();
    assertThat(get(shared.uri() + "/health").statusCode()).isEqualTo(200);
  }

  @Test
  void whatIsLeftOfAServerIsEndedToo(@TempDir Path folder) {
    MlflowServer server = MlflowServer.start(folder);
    List<Long> pids = pids(server.pid());
    ProcessHandle first = ProcessHandle.of(server.pid()).orElseThrow();
    first.destroyForcibly();
    first.onExit().join();
    assertThat(alive(pids)).as("the web server").hasSize(1);

    server.close();

    assertThat(alive(pids)).isEmpty();
  }

  @Test
  void anAddressThatIsTakenIsLeftAlone(@TempDir Path folder) throws Exception {
    try (ServerSocket other = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      Files.writeString(folder.resolve("port"), String.valueOf(other.getLocalPort()));
      try (MlflowServer server = MlflowServer.start(folder)) {
        assertThat(URI.create(server.uri()).getPort()).isNotEqualTo(other.getLocalPort());
        assertThat(get(server.uri() + "/health").statusCode()).isEqualTo(200);
      }
    }
  }

  /** As when another process takes a port between the look at it and the server's start. */
  @Test
  void aServerThatAnswersOnTheChosenPortIsNotTakenForTheNewOne(
      MlflowServer other, @TempDir Path folder) throws Exception {
    int taken = URI.create(other.uri()).getPort();
    ServerProcess server = ServerProcess.start(PythonEnvironment.server(), folder, taken);
    try {
      assertThat(server.uri()).isNotEqualTo(other.uri());
      assertThat(folder.resolve("server.log"))
          .content()
          .contains("error while attempting to bind on address ('127.0.0.1', " + taken + ")");
    } finally {
      server.stop();
    }
  }

  @Test
  void aServerThatDoesNotComeUpSaysWhatItsLogEndsWith(@TempDir Path folder) throws Exception {
    Files.writeString(folder.resolve("mlflow.db"), "This is a text.");

    assertThatThrownBy(() -> MlflowServer.start(folder))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("ended with 1 before it answered")
        .hasMessageContaining("server.log")
        .hasMessageContaining("file is not a database");
  }

  /** Ctrl-C ends a JVM as SIGTERM does; a JVM that is killed has no time to end anything. */
  @ParameterizedTest
  @ValueSource(booleans = {true, false})
  void theServerEndsWithItsJvm(boolean inOrder, @TempDir Path folder) throws Exception {
    Path pidFile = folder.resolve("pids");
    Path output = folder.resolve("output");
    ProcessBuilder builder =
        new ProcessBuilder(
            ChildJvm.command(
                Starter.class, List.of(), folder.resolve("server").toString(), pidFile.toString()));
    builder.environment().put("MLFLOW_TRACKING_URI", "http://127.0.0.1:9");
    builder.environment().put("MLFLOW_TRACKING_TOKEN", "a-secret");
    Process jvm = builder.redirectErrorStream(true).redirectOutput(output.toFile()).start();
    try {
      await()
          .atMost(Duration.ofMinutes(2))
          .until(
              () -> {
                assertThat(jvm.isAlive()).as(Files.readString(output)).isTrue();
                return Files.exists(pidFile);
              });
      List<Long> pids = Files.readAllLines(pidFile).stream().map(Long::valueOf).toList();
      assertThat(pids).hasSize(2);
      assertThat(alive(pids)).hasSize(2);
      assertThatNoneKnows("a-secret", pids);

      if (inOrder) {
        jvm.destroy();
      } else {
        jvm.destroyForcibly();
      }

      assertThat(jvm.waitFor(1, TimeUnit.MINUTES)).isTrue();
      if (inOrder) {
        assertThat(jvm.exitValue()).as("128 and SIGTERM's number").isEqualTo(143);
        assertThat(alive(pids)).isEmpty();
        assertThat(output).content().doesNotContain("Exception");
      } else {
        await().atMost(Duration.ofSeconds(30)).until(() -> alive(pids).isEmpty());
      }
      assertThat(folder.resolve("server/server.log"))
          .content()
          .contains("Application shutdown complete");
    } finally {
      jvm.destroyForcibly();
    }
  }

  @Test
  void theServerThatTheEnvironmentNamesIsUsedAndStays(MlflowServer server, @TempDir Path unused)
      throws Exception {
    String output = open(unused, Map.of("MLFLOW_TRACKING_URI", server.uri() + "/"));

    assertThat(output)
        .contains("opened " + server.uri() + "\n", "experiment Default\n")
        .contains("IllegalStateException: the server at " + server.uri() + " was not started here");
    assertThat(unused).isEmptyDirectory();
    assertThat(get(server.uri() + "/health").statusCode()).isEqualTo(200);
  }

  @Test
  void aNamedServerThatDoesNotAnswerIsOneClearLineWithoutSecrets(@TempDir Path unused)
      throws Exception {
    int port;
    try (ServerSocket closed = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      port = closed.getLocalPort();
    }

    assertThat(
            open(
                unused,
                Map.of(
                    "MLFLOW_TRACKING_URI",
                    "http://user:a-secret@127.0.0.1:" + port,
                    "MLFLOW_TRACKING_TOKEN",
                    "a-secret")))
        .isEqualTo(
            ("SetupException: No server answers at 127.0.0.1:%d, which MLFLOW_TRACKING_URI names."
                    + " Start it; or unset the variable, and one is started here.\n")
                .formatted(port));
    assertThat(open(unused, Map.of("MLFLOW_TRACKING_URI", "file:///mlruns")))
        .isEqualTo(
            "SetupException: MLFLOW_TRACKING_URI must be a server's http:// or https:// address."
                + " Unset it, and one is started here.\n");
  }

  /** Of the process and its descendants. */
  private static List<Long> pids(long pid) {
    return Stream.concat(
            Stream.of(pid),
            ProcessHandle.of(pid).orElseThrow().descendants().map(ProcessHandle::pid))
        .toList();
  }

  private static List<Long> alive(List<Long> pids) {
    return pids.stream()
        .filter(pid -> ProcessHandle.of(pid).map(ProcessHandle::isAlive).orElse(false))
        .toList();
  }

  private static void assertThatNoneKnows(String secret, List<Long> pids) throws IOException {
    for (long pid : pids) {
      Path environment = Path.of("/proc/" + pid + "/environ");
      if (Files.exists(environment)) {
        assertThat(Files.readString(environment, StandardCharsets.ISO_8859_1))
            .contains("MLFLOW_DISABLE_TELEMETRY")
            .doesNotContain(secret);
      }
    }
  }

  private static String open(Path folder, Map<String, String> environment) throws Exception {
    ProcessBuilder builder =
        new ProcessBuilder(ChildJvm.command(Opener.class, List.of(), folder.toString()));
    builder.environment().putAll(environment);
    Process jvm = builder.redirectErrorStream(true).start();
    try {
      String output = new String(jvm.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
      assertThat(jvm.waitFor()).as(output).isZero();
      return output;
    } finally {
      jvm.destroyForcibly();
    }
  }

  private static HttpResponse<String> get(String uri) throws Exception {
    return HTTP.send(HttpRequest.newBuilder(URI.create(uri)).build(), BodyHandlers.ofString());
  }

  private static void put(String uri, String body) throws Exception {
    HttpResponse<String> response =
        HTTP.send(
            HttpRequest.newBuilder(URI.create(uri)).PUT(BodyPublishers.ofString(body)).build(),
            BodyHandlers.ofString());
    assertThat(response.statusCode()).as(response.body()).isEqualTo(200);
  }

  /** The first line of the answer. The JDK's client sets the header Host itself. */
  private static String statusFor(URI server, String host) throws IOException {
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), server.getPort())) {
      socket
          .getOutputStream()
          .write(
              String.join(
                      "\r\n",
                      "GET /api/2.0/mlflow/experiments/get?experiment_id=0 HTTP/1.1",
                      "Host: " + host,
                      "Connection: close",
                      "",
                      "")
                  .getBytes(StandardCharsets.US_ASCII));
      return new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8)
          .lines()
          .findFirst()
          .orElse("");
    }
  }
}
