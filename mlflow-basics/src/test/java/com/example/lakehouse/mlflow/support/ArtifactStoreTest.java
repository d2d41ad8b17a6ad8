package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.mlflow.MlflowTest;
import com.example.lakehouse.mlflow.support.ArtifactStore.ArtifactFile;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Stream;
import org.awaitility.Awaitility;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.mlflow.api.proto.Service.CreateExperiment;
import org.mlflow.api.proto.Service.RunInfo;
import org.mlflow.tracking.MlflowClient;

@MlflowTest
class ArtifactStoreTest {
  private static final String PROXY = "/api/2.0/mlflow-artifacts/artifacts";

  @TempDir Path folder;
  private Path model;
  private Path target;
  private ArtifactStore store;
  private LoopbackProxy proxy;
  private ArtifactStore broken;
  private String server;
  private String run;
  private String artifacts;

  @BeforeEach
  void open(MlflowServer mlflow) throws IOException {
    server = mlflow.uri();
    store = mlflow.artifacts();
    try (MlflowClient client = Credentials.of(server).client()) {
      RunInfo info = client.createRun();
      run = info.getRunId();
      artifacts = info.getArtifactUri();
    }
    proxy = new LoopbackProxy(server);
    broken = new ArtifactStore(impatient(Credentials.of(proxy.uri())));
    target = folder.resolve("target");
    model = folder.resolve("model");
    write("MLmodel", "flavors: {}\n");
    write("data/part-0", "x".repeat(1_000_000));
    write("data/stages/_SUCCESS", "");
  }

  @AfterEach
  void closeProxy() {
    proxy.close();
  }

  private static MlflowHttp impatient(Credentials credentials) {
    return new MlflowHttp(credentials, Duration.ofMillis(1), Duration.ofSeconds(60));
  }

  private void write(String name, String text) throws IOException {
    Path file = model.resolve(name);
    Files.createDirectories(file.getParent());
    Files.writeString(file, text);
  }

  /** A folder's files and their text. */
  private static SortedMap<String, String> contents(Path folder) throws IOException {
    SortedMap<String, String> files = new TreeMap<>();
    try (Stream<Path> all = Files.walk(folder)) {
      for (Path path : all.filter(Files::isRegularFile).toList()) {
        files.put(folder.relativize(path).toString(), Files.readString(path));
      }
    }
    return files;
  }

  /** What anyone who can reach the server can do to a run's files. */
  private void request(String method, String path, String body) throws Exception {
    String url = server + PROXY + artifacts.replace("mlflow-artifacts:", "") + "/" + path;
    assertThat(
            HttpClient.newHttpClient()
                .send(
                    HttpRequest.newBuilder(URI.create(url))
                        .version(HttpClient.Version.HTTP_1_1)
                        .method(method, BodyPublishers.ofString(body))
                        .build(),
                    BodyHandlers.ofString())
                .statusCode())
        .isEqualTo(200);
  }

  private void assertNothingIsLeft() {
    assertThat(target)
        .satisfiesAnyOf(t -> assertThat(t).doesNotExist(), t -> assertThat(t).isEmptyDirectory());
  }

  @Test
  void aFolderComesBackEqual() throws IOException {
    store.upload(run, model, "model");

    Path downloaded = store.download(run, "model", target);

    assertThat(downloaded).isEqualTo(target.resolve("model"));
    assertThat(contents(downloaded)).isEqualTo(contents(model)).hasSize(3);
    assertThat(target)
        .isDirectoryContaining(file -> file.equals(downloaded))
        .isDirectoryNotContaining("glob:**/.*");
  }

  @Test
  void aFileGoesIntoItsFolder() throws IOException {
    store.upload(run, model.resolve("MLmodel"), "");
    store.upload(run, model.resolve("MLmodel"), "a/b");

    assertThat(store.list(run, "a/b"))
        .extracting(ArtifactFile::path)
        .containsExactlyInAnyOrder("a/b/MLmodel", "a/b/MLmodel.sha256");
    assertThat(store.download(run, "a/b/MLmodel", target))
        .isEqualTo(target.resolve("MLmodel"))
        .hasContent("flavors: {}\n");
    assertThat(store.download(run, "MLmodel", target)).as("replaced").hasContent("flavors: {}\n");
  }

  @Test
  void aListHasFilesWithTheirLengthAndFolders() {
    store.upload(run, model, "model");

    assertThat(store.list(run, ""))
        .containsExactlyInAnyOrder(
            new ArtifactFile("model", true, 0), new ArtifactFile("model.sha256", false, 239));
    assertThat(store.list(run, "model/data"))
        .containsExactlyInAnyOrder(
            new ArtifactFile("model/data/part-0", false, 1_000_000),
            new ArtifactFile("model/data/stages", true, 0));
    assertThat(store.list(run, "nothing")).isEmpty();
  }

  @Test
  void theManifestIsThatOfSha256sum() throws IOException {
    store.upload(run, model, "model");

    assertThat(Files.readString(store.download(run, "model.sha256", target)))
        .isEqualTo(
            """
            7f8f4a879eefb3f9fed9c6af4077c9acb0db066b2906d6570c42913478686b0f  MLmodel
            1b977e9f84f1b26b6ed7f68b0498faee2385ea4125bd29adce4a7d9106ba3134  data/part-0
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  data/stages/_SUCCESS
            """);
  }

  @Test
  void theDigestIsThatOfTheSourceAndOfTheDownload() throws IOException {
    String digest = store.upload(run, model, "model");

    assertThat(digest)
        .matches("[0-9a-f]{64}")
        .isEqualTo(ArtifactStore.digest(model))
        .isEqualTo(ArtifactStore.digest(store.download(run, "model", target, digest)));
    write("data/stages/_SUCCESS", "changed");
    assertThat(ArtifactStore.digest(model)).isNotEqualTo(digest);
    assertThat(store.upload(run, model.resolve("MLmodel"), ""))
        .as("a file's own SHA-256")
        .isEqualTo("7f8f4a879eefb3f9fed9c6af4077c9acb0db066b2906d6570c42913478686b0f");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "two words",
        "größe 模型 😀",
        "100%",
        "50% off",
        "a+b&c=d",
        "what?now",
        "a;b",
        "[1]{2}",
        "'quoted'",
        "..hidden",
        "%2",
        "x@y:z",
        "a~b!$*(),"
      })
  void aNameCanHaveAlmostAnyCharacters(String name) throws IOException {
    write(name + "/" + name + ".txt", "of " + name);

    store.upload(run, model, "m " + name + ".d");

    assertThat(store.list(run, "m " + name + ".d/" + name))
        .containsExactly(
            new ArtifactFile(
                "m " + name + ".d/" + name + "/" + name + ".txt",
                false,
                Files.size(model.resolve(name).resolve(name + ".txt"))));
    assertThat(contents(store.download(run, "m " + name + ".d", target)))
        .isEqualTo(contents(model));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"a#b", "a%20b", "%2e%2e%2fb", "why?", "end;", "a;?b", "back\\slash", "new\nline"})
  void aNameThatMlflowWouldChangeIsRefusedBeforeAnythingIsSent(String name) throws IOException {
    write(name, "");

    assertThatThrownBy(() -> broken.upload(run, model, "model"))
        .isInstanceOf(MlflowException.class)
        .hasMessageStartingWith(name + ": MLflow cannot store");
    assertThatThrownBy(() -> broken.upload(run, model.resolve("MLmodel"), name))
        .isInstanceOf(MlflowException.class);
    assertThat(proxy.requests()).isEmpty();
  }

  @ParameterizedTest
  @ValueSource(strings = {"..", "../x", "a/../../x", "/etc", "a//b", "a/", "."})
  void aPathThatLeavesTheRunIsRefused(String path) {
    assertThatThrownBy(() -> broken.upload(run, model, path))
        .isInstanceOf(MlflowException.class)
        .hasMessage("no path within a folder: " + path);
    assertThatThrownBy(() -> broken.download(run, path, target)).hasMessageContaining(path);
    assertThatThrownBy(() -> broken.list(run, path)).hasMessageContaining(path);
    assertThat(proxy.requests()).isEmpty();
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"..", "../evil", "a/../../evil", "/tmp/evil", "..\\\\evil", "C:\\\\evil", ".", ""})
  void aPathInAListingThatLeavesTheTargetIsRefused(String path) throws IOException {
    store.upload(run, model, "model");
    proxy
        .next("GET .*artifacts$", proxy::pass)
        .each("GET .*artifacts$", LoopbackProxy.answer(200, listing(path, false)))
        .each("GET .*/[^/]*evil", LoopbackProxy.answer(200, "evil"));

    assertThatThrownBy(() -> broken.download(run, "model", target))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("lists a path");
    assertNothingIsLeft();
    assertThat(contents(folder)).as("in the folder above").hasSize(3);
  }

  @Test
  void anEncodedPathInAListingIsAPlainName() throws IOException {
    store.upload(run, model, "model");
    proxy
        .next("GET .*artifacts$", LoopbackProxy.answer(200, listing("model", true)))
        .next("GET .*artifacts$", LoopbackProxy.answer(200, listing("%2e%2e%2fevil", false)))
        .next("GET .*%2e%2e%2fevil", LoopbackProxy.answer(200, "evil"));

    assertThat(contents(broken.download(run, "model", target)))
        .containsExactly(Map.entry("%2e%2e%2fevil", "evil"));
  }

  @Test
  void foldersWithoutEndAreRefused() {
    proxy.each("GET .*artifacts$", LoopbackProxy.answer(200, listing("model", true)));

    assertThatThrownBy(() -> broken.download(run, "model", target))
        .hasMessageEndingWith("is deeper than 64 folders");
    assertNothingIsLeft();
  }

  private static String listing(String path, boolean folder) {
    return "{\"files\": [{\"path\": \"%s\", \"is_dir\": %s, \"file_size\": 4}]}"
        .formatted(path, folder);
  }

  @Test
  void aVersionsFilesAreFoundByItsUri(MlflowServer mlflow) throws IOException {
    ModelRegistry registry = mlflow.registry();
    String name = "the model " + UUID.randomUUID();
    store.upload(run, model, "model");
    registry.createModel(name, "", Map.of());
    registry.createVersion(name, "runs:/" + run + "/model", run, "", Map.of());
    registry.createVersion(name, artifacts + "/model", run, "", Map.of());
    registry.setAlias(name, "champion", 2);

    for (String uri :
        List.of(
            "models:/" + name + "/1",
            "models:/" + name + "@champion",
            "runs:/" + run + "/model",
            artifacts + "/model",
            server + PROXY + artifacts.replace("mlflow-artifacts:", "") + "/model")) {
      Path into = target.resolve(UUID.randomUUID().toString());
      assertThat(contents(store.download(uri, "", into))).as(uri).isEqualTo(contents(model));
      assertThat(store.list(uri, "data")).as(uri).hasSize(2);
      assertThat(store.download(uri, "data/part-0", into)).as(uri).hasSize(1_000_000);
    }
    assertThatThrownBy(() -> store.download("models:/" + name + "@none", "", target))
        .hasMessageStartingWith("RESOURCE_DOES_NOT_EXIST (HTTP 404): ")
        .hasMessageEndingWith("has no alias none");
    assertThatThrownBy(() -> store.download("models:/" + name, "", target))
        .hasMessageContaining("is neither models:/name/version nor models:/name@alias");
  }

  @Test
  void whatIsNotThereIsNamed() {
    assertThatThrownBy(() -> store.download(run, "model", target))
        .isInstanceOf(MlflowException.class)
        .hasMessageStartingWith("RESOURCE_DOES_NOT_EXIST (HTTP 404): ")
        .hasMessageEndingWith("/model");
    assertThatThrownBy(() -> store.download("0123456789abcdef", "model", target))
        .isInstanceOf(MlflowException.class)
        .hasMessageStartingWith("RESOURCE_DOES_NOT_EXIST (HTTP 404): ");
    assertThatThrownBy(() -> store.upload(run, folder.resolve("nothing"), ""))
        .isInstanceOf(UncheckedIOException.class)
        .hasCauseInstanceOf(NoSuchFileException.class);
    assertNothingIsLeft();
  }

  @Test
  void aFolderThatIsThereIsNotReplaced() throws IOException {
    store.upload(run, model, "model");
    store.download(run, "model", target);
    Files.writeString(target.resolve("model/mine"), "mine");

    assertThatThrownBy(() -> store.download(run, "model", target))
        .hasCauseInstanceOf(FileAlreadyExistsException.class);
    assertThat(contents(target)).hasSize(4).containsEntry("model/mine", "mine");
  }

  @Test
  void aLinkAtTheTargetIsReplacedAndNotFollowed() throws IOException {
    store.upload(run, model.resolve("MLmodel"), "");
    Path elsewhere = Files.writeString(folder.resolve("elsewhere"), "mine");
    Files.createDirectories(target);
    Files.createSymbolicLink(target.resolve("MLmodel"), elsewhere);

    assertThat(store.download(run, "MLmodel", target)).hasContent("flavors: {}\n");
    assertThat(elsewhere).hasContent("mine");
  }

  @Test
  void anUploadThatCouldHaveNoManifestIsRefused() throws IOException {
    Path empty = Files.createDirectories(folder.resolve("empty/empty"));

    assertThatThrownBy(() -> broken.upload(run, model, ""))
        .hasMessageStartingWith("a folder needs a path");
    assertThatThrownBy(() -> broken.upload(run, model, "model.sha256"))
        .hasMessageStartingWith("model.sha256: names that end in .sha256");
    assertThatThrownBy(() -> broken.upload(run, empty.getParent(), "model"))
        .hasMessageEndingWith("has no files");
    assertThat(proxy.requests()).isEmpty();
  }

  @Test
  void aSecondUploadReplacesFilesAndItsLeftoversAreFound() throws IOException {
    store.upload(run, model, "model");
    write("MLmodel", "flavors: {spark: {}}\n");
    store.upload(run, model, "model");
    assertThat(contents(store.download(run, "model", target))).isEqualTo(contents(model));

    Files.delete(model.resolve("data/part-0"));
    store.upload(run, model, "model");

    assertThatThrownBy(() -> store.download(run, "model", target.resolve("again")))
        .hasMessageEndingWith("missing [], added [data/part-0]");
  }

  @Test
  void aLinkToAFolderIsNotSilentlyLeftOut() throws IOException {
    Files.createSymbolicLink(model.resolve("link"), folder);

    assertThatThrownBy(() -> broken.upload(run, model, "model"))
        .hasMessageEndingWith("is neither a file nor a folder");
    assertThat(proxy.requests()).isEmpty();
  }

  @Test
  void aFileThatWasChangedOnTheServerIsFound() throws Exception {
    store.upload(run, model, "model");
    request("PUT", "model/MLmodel", "flavors: []\n");

    assertThatThrownBy(() -> broken.download(run, "model", target))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("model/MLmodel is not what was uploaded: its SHA-256 is");
    assertNothingIsLeft();
  }

  @Test
  void aFileThatWasAddedOrRemovedOnTheServerIsFound() throws Exception {
    store.upload(run, model, "model");
    request("PUT", "model/data/part-1", "more rows");
    assertThatThrownBy(() -> store.download(run, "model", target))
        .hasMessageEndingWith("model is not what was uploaded: missing [], added [data/part-1]");

    request("DELETE", "model/data", "");

    assertThatThrownBy(() -> store.download(run, "model", target))
        .hasMessageContaining("missing [data/part-0, data/stages/_SUCCESS], added []");
    assertNothingIsLeft();
  }

  @Test
  void filesThatWereChangedWithTheirManifestAreFoundByTheDigest() throws Exception {
    String digest = store.upload(run, model, "model");
    write("MLmodel", "evil");
    store.upload(run, model, "model");

    assertThatThrownBy(() -> store.download(run, "model", target, digest))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("its digest is " + ArtifactStore.digest(model) + ", not " + digest);
    assertNothingIsLeft();
    assertThat(store.download(run, "model", target)).as("without it they are not").exists();
  }

  @Test
  void whatAnotherClientUploadedIsDownloadedWithoutAManifest() throws Exception {
    request("PUT", "theirs/a.txt", "from Python");

    assertThat(contents(store.download(run, "theirs", target)))
        .containsExactly(Map.entry("a.txt", "from Python"));
  }

  @Test
  void aFolderThatIsHalfUploadedHasNoManifestAndNotItsDigest() {
    proxy.each("PUT .*part-0", LoopbackProxy.answer(507, "disk full"));

    assertThatThrownBy(() -> broken.upload(run, model, "model")).hasMessage("HTTP 507: disk full");

    assertThat(store.list(run, ""))
        .as("no manifest")
        .containsExactly(new ArtifactFile("model", true, 0));
    assertThatThrownBy(() -> store.download(run, "model", target, ArtifactStore.digest(model)))
        .hasMessageContaining("is not what was uploaded");
    assertNothingIsLeft();
  }

  @Test
  void anUploadIsRepeatedWhenTheServerIsAwayOrTheConnectionIsCut() throws IOException {
    proxy
        .next("PUT .*part-0", LoopbackProxy.answer(503, "starting"))
        .next("PUT .*part-0", LoopbackProxy.cutRequest(500_000))
        .next("PUT .*part-0", proxy.loseAnswer())
        .next("GET .*part-0", proxy.cutAnswer(500_000));

    broken.upload(run, model, "model");

    assertThat(proxy.count("PUT .*part-0")).isEqualTo(5);
    assertThat(proxy.count("PUT .*MLmodel")).as("not that of other files").isEqualTo(1);
    assertThat(contents(store.download(run, "model", target))).isEqualTo(contents(model));
  }

  @Test
  void aDownloadIsRepeatedWhenTheServerIsAwayOrTheConnectionIsCut() throws IOException {
    String digest = store.upload(run, model, "model");
    proxy
        .next("GET .*part-0", LoopbackProxy.answer(500, "oops"))
        .next("GET .*part-0", proxy.cutAnswer(500_000))
        .next("GET .*artifacts$", LoopbackProxy.answer(429, ""))
        .next("GET .*model.sha256", proxy.cutAnswer(100));

    assertThat(contents(broken.download(run, "model", target, digest))).isEqualTo(contents(model));
    assertThat(proxy.count("GET .*part-0")).isEqualTo(3);
  }

  @Test
  @Timeout(50)
  void aServerThatStopsInMidAnswerIsAskedAgain() throws IOException {
    ArtifactStore hasty =
        new ArtifactStore(
            new MlflowHttp(
                Credentials.of(proxy.uri()), Duration.ofMillis(1), Duration.ofSeconds(2)));
    proxy
        .next("PUT .*MLmodel", LoopbackProxy.stallRequest())
        .next("GET .*MLmodel", proxy.stallAnswer(5))
        .next("GET .*artifacts$", LoopbackProxy.stallRequest());

    hasty.upload(run, model, "model");

    assertThat(contents(hasty.download(run, "model", target))).isEqualTo(contents(model));
    assertThat(proxy.count("PUT .*MLmodel")).isEqualTo(3);
  }

  @Test
  void anInterruptEndsADownloadAndLeavesNothing() throws Exception {
    store.upload(run, model, "model");
    proxy.each("GET .*part-0", proxy.stallAnswer(500_000));
    AtomicReference<Throwable> failure = new AtomicReference<>();
    AtomicBoolean interrupted = new AtomicBoolean();
    Thread download =
        new Thread(
            () -> {
              failure.set(catchThrowable(() -> broken.download(run, "model", target)));
              interrupted.set(Thread.currentThread().isInterrupted());
            });
    download.start();
    Awaitility.await().until(() -> proxy.count("GET .*part-0") == 1);

    download.interrupt();
    download.join(Duration.ofSeconds(30).toMillis());

    assertThat(failure.get())
        .isInstanceOf(MlflowException.class)
        .hasMessageEndingWith("interrupted");
    assertThat(interrupted).isTrue();
    assertNothingIsLeft();
  }

  @Test
  void aDownloadThatIsAlwaysCutLeavesNothing() {
    store.upload(run, model, "model");
    proxy.each("GET .*part-0", proxy.cutAnswer(500_000));

    assertThatThrownBy(() -> broken.download(run, "model", target))
        .isInstanceOf(MlflowException.class)
        .hasMessageStartingWith("downloading ")
        .hasMessageContaining("part-0 at " + proxy.uri() + " failed: ");
    assertNothingIsLeft();
    assertThat(proxy.count("GET .*part-0")).isEqualTo(7);
  }

  @Test
  void anAnswerThatIsShorterThanTheListingIsNoDownload() throws Exception {
    request("PUT", "theirs/a.txt", "from Python");
    proxy.each("GET .*a.txt", LoopbackProxy.answer(200, "from"));

    assertThatThrownBy(() -> broken.download(run, "theirs", target))
        .hasMessageEndingWith("4 bytes came, of 11");
    assertNothingIsLeft();
  }

  @Test
  void bytesThatWereChangedOnTheWayAreSentAgain() throws IOException {
    proxy.next("PUT .*part-0", proxy.changeRequest());

    broken.upload(run, model, "model");

    assertThat(proxy.count("PUT .*part-0")).isEqualTo(2);
    assertThat(contents(store.download(run, "model", target))).isEqualTo(contents(model));
  }

  @Test
  void bytesThatAreAlwaysChangedOnTheWayAreAnError() {
    proxy.each("PUT .*part-0", proxy.changeRequest());

    assertThatThrownBy(() -> broken.upload(run, model, "model"))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining("part-0 is not what was uploaded: its SHA-256 is");
    assertThat(store.list(run, "")).extracting(ArtifactFile::path).containsExactly("model");
  }

  @Test
  void withoutReadingBackTheDownloadFindsWhatWasChangedOnTheWay() {
    proxy.next("PUT .*part-0", proxy.changeRequest());

    broken.withoutReadingBack().upload(run, model, "model");

    assertThat(proxy.count("GET .*part-0")).isZero();
    assertThatThrownBy(() -> broken.download(run, "model", target))
        .hasMessageContaining("part-0 is not what was uploaded: its SHA-256 is");
  }

  @Test
  void aFileThatShrinksDuringItsUploadIsAnError() throws IOException {
    Path file = folder.resolve("shrinks");
    try (RandomAccessFile sparse = new RandomAccessFile(file.toFile(), "rw")) {
      sparse.setLength(64 << 20);
    }
    proxy.next(
        "PUT",
        exchange -> {
          try (RandomAccessFile sparse = new RandomAccessFile(file.toFile(), "rw")) {
            sparse.setLength(1 << 20);
          }
          LoopbackProxy.answer(200, "").handle(exchange);
        });

    assertThatThrownBy(() -> broken.upload(run, file, ""))
        .isInstanceOf(MlflowException.class)
        .hasMessage("the file was changed while it was uploaded");
    assertThat(proxy.count("PUT")).as("not again").isEqualTo(1);
  }

  @Test
  void eachRequestHasTheLoginAlsoBelowAPath() throws IOException {
    try (LoopbackProxy gateway = new LoopbackProxy(server, "/team/mlflow")) {
      ArtifactStore behind =
          new ArtifactStore(impatient(Credentials.login(gateway.uri(), "ann", "s3cret")));

      behind.upload(run, model, "model");
      assertThat(contents(behind.download(run, "model", target))).isEqualTo(contents(model));

      assertThat(gateway.requests()).hasSizeGreaterThan(10);
      assertThat(gateway.authorizations()).containsOnly("Basic YW5uOnMzY3JldA==");
    }
  }

  @Test
  void aTokenIsInNoMessageAndFollowsNoRedirect() {
    try (LoopbackProxy other = new LoopbackProxy(server)) {
      ArtifactStore withToken =
          new ArtifactStore(impatient(Credentials.token(proxy.uri(), "s3cret")));
      proxy
          .next("PUT", LoopbackProxy.answer(403, "Bearer s3cret may not write"))
          .next("PUT", LoopbackProxy.answer(302, "", Map.of("Location", other.uri() + "/api/x")));

      assertThatThrownBy(() -> withToken.upload(run, model, "model"))
          .hasMessage("HTTP 403: Bearer *** may not write")
          .hasNoCause();
      assertThatThrownBy(() -> withToken.upload(run, model, "model"))
          .isInstanceOf(MlflowException.class)
          .hasMessageContaining("redirects")
          .hasMessageNotContaining("s3cret");
      assertThat(other.requests()).isEmpty();
    }
  }

  @Test
  void aRunWhoseFilesAreNotBehindTheServerIsRefusedWithTheWayOut() {
    String elsewhere;
    try (MlflowClient client = Credentials.of(server).client()) {
      String experiment =
          client.createExperiment(
              CreateExperiment.newBuilder()
                  .setName("elsewhere " + UUID.randomUUID())
                  .setArtifactLocation("s3://bucket/models")
                  .build());
      elsewhere = client.createRun(experiment).getRunId();
    }

    assertThatThrownBy(() -> store.upload(elsewhere, model, "model"))
        .isInstanceOf(MlflowException.class)
        .hasMessage(
            "%s keeps its files at s3://bucket/models/%s/artifacts, not behind the server: start the"
                    .formatted(elsewhere, elsewhere)
                + " server with --serve-artifacts and --artifacts-destination, without"
                + " --default-artifact-root, and log into a new experiment");
  }

  @ParameterizedTest
  @CsvSource({
    "file:///srv/mlruns, file:///srv/mlruns",
    "/srv/mlruns, /srv/mlruns",
    "https://ann:s3cret@other.example.com/x, https://other.example.com/x",
    "mlflow-artifacts://other.example.com:5000/x, other.example.com:5000",
    "mlflow-artifacts:/../x, no path within a folder: ../x",
  })
  void aPlaceThatTheServerNamesElsewhereGetsNoRequest(String uri, String named) {
    proxy.each(
        "runs/get",
        LoopbackProxy.answer(200, "{\"run\": {\"info\": {\"artifact_uri\": \"" + uri + "\"}}}"));

    assertThatThrownBy(() -> broken.upload(run, model, "model"))
        .isInstanceOf(MlflowException.class)
        .hasMessageContaining(named)
        .hasMessageNotContaining("s3cret");
    assertThat(proxy.requests()).containsExactly("GET /api/2.0/mlflow/runs/get");
  }

  @Test
  void aFileThatIsLargerThanTheHeapIsStreamed() throws Exception {
    Path large = folder.resolve("large");
    long bytes = 500L << 20;
    Random random = new Random(7);
    try (RandomAccessFile sparse = new RandomAccessFile(large.toFile(), "rw")) {
      sparse.setLength(bytes);
      for (int i = 0; i < 500; i++) {
        sparse.seek((long) (random.nextDouble() * bytes) - 8);
        sparse.writeLong(random.nextLong());
      }
    }

    ChildJvm process =
        ChildJvm.run(
            ThereAndBack.class,
            List.of("-Xmx256m"),
            server,
            run,
            large.toString(),
            target.toString());

    assertThat(process.exitCode()).as(process.output()).isZero();
    assertThat(target.resolve("large")).hasSize(bytes);
    assertThat(Files.mismatch(target.resolve("large"), large)).isEqualTo(-1);
    request("DELETE", "large", "");
  }

  /** A process that uploads a file and downloads it again. */
  static final class ThereAndBack {
    public static void main(String[] args) {
      ArtifactStore store = new ArtifactStore(Credentials.of(args[0]));
      String digest = store.upload(args[1], Path.of(args[2]), "");
      store.download(args[1], "large", Path.of(args[3]), digest);
    }
  }
}
