package com.example.lakehouse.mlflow.support;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The files of runs and models, through the MLflow server's proxy. MLflow's own Java client starts
 * a Python process for each of these calls.
 *
 * <p>Files are streamed, whatever their size. Beside what was uploaded, and after it, goes a
 * manifest: {@code model.sha256} for {@code model}, in the form of {@code sha256sum}. It says that
 * the upload is whole, and each download is compared with it: a file that was changed, cut, added
 * or removed meanwhile is an error. Its digest, {@link #upload}'s result, can be kept where the
 * files are not, such as in a version's tag, so that files and manifest together are not changed
 * unseen. What has no manifest, from another client, is checked for its length alone.
 *
 * <p>A run is named by its id, or by the URI of files: {@code runs:/RUN/path}, {@code
 * models:/name/3}, {@code models:/name@alias}, {@code mlflow-artifacts:/…}. To copy the class, take
 * {@link ModelRegistry} and what that needs.
 *
 * <p>All methods throw {@link MlflowException}, with MLflow's error code where the server refused,
 * and {@link UncheckedIOException} for a local file that cannot be read or written.
 */
public final class ArtifactStore {
  private static final String PROXY = "/api/2.0/mlflow-artifacts/artifacts";
  private static final String MANIFEST = ".sha256";
  private static final Pattern MANIFEST_LINE = Pattern.compile("([0-9a-f]{64})  (.+)");
  private static final Pattern PROXIED = Pattern.compile("mlflow-artifacts:(?://([^/]*))?/(.*)");

  /**
   * The server decodes a path until it no longer changes: {@code a%20b} would become {@code a b}.
   */
  private static final Pattern UNSTORABLE =
      Pattern.compile("[#\\\\\\p{Cntrl}]|%[0-9a-fA-F]{2}|[?;](\\?|$)");

  /** Larger than those of the JDK's body publishers, which send 16 KB at a time. */
  private static final int CHUNK_BYTES = 256 * 1024;

  private static final int DEEPEST = 64;

  private final MlflowHttp http;
  private final ModelRegistry registry;
  private final boolean readBack;

  /**
   * A file or folder on the server.
   *
   * @param path below what was listed
   * @param bytes a file's length
   */
  public record ArtifactFile(String path, boolean isFolder, long bytes) {}

  /** A file or folder below the proxy's root, and its manifest, if there is one. */
  private record Found(String path, ArtifactFile artifact, Optional<ArtifactFile> manifest) {}

  public ArtifactStore(Credentials credentials) {
    this(new MlflowHttp(credentials));
  }

  ArtifactStore(MlflowHttp http) {
    this(http, true);
  }

  private ArtifactStore(MlflowHttp http, boolean readBack) {
    this.http = http;
    this.registry = new ModelRegistry(http);
    this.readBack = readBack;
  }

  /**
   * A store that does not read back what it uploads: faster, about as an HTTP PUT. What was changed
   * on the way is then found by a download, when the source may be gone.
   */
  public ArtifactStore withoutReadingBack() {
    return new ArtifactStore(http, false);
  }

  /**
   * Uploads a file into the folder {@code path}, or what is in a folder as the folder {@code path}.
   * Each file is read back and compared, which takes about as long as the upload. The manifest
   * comes last: register a model when this has returned, and it is whole.
   *
   * <p>Files that are there are replaced. What an earlier upload of a folder has left besides makes
   * its downloads fail, so another model is better another folder.
   *
   * @param run a run's id, or a URI
   * @param path the artifact folder; empty for a file at the top. Empty folders are not uploaded:
   *     an artifact store has none.
   * @return the SHA-256 of the file, or, for a folder, of its manifest, as {@link #digest} has it
   */
  public String upload(String run, Path source, String path) {
    boolean folder = Files.isDirectory(source);
    SortedMap<String, Path> files = folder ? filesIn(source) : file(source);
    String name = folder ? path : join(path, files.firstKey());
    if (name.isEmpty()) {
      throw new MlflowException(
          "a folder needs a path: an upload of it has its manifest beside it");
    } else if (name.endsWith(MANIFEST)) {
      throw new MlflowException(name + ": names that end in .sha256 are for manifests");
    }
    checkStorable(name);
    files.keySet().forEach(ArtifactStore::checkStorable);
    String target = join(locate(run), name);
    SortedMap<String, String> sums = new TreeMap<>();
    files.forEach(
        (file, local) -> sums.put(file, put(folder ? join(target, file) : target, local)));
    byte[] manifest = manifest(sums);
    put(target + MANIFEST, manifest.length, digest -> new Chunks(manifest, digest));
    return digest(folder, sums);
  }

  /** What {@link #upload} returns for a local file or folder. */
  public static String digest(Path fileOrFolder) {
    boolean folder = Files.isDirectory(fileOrFolder);
    SortedMap<String, String> sums = new TreeMap<>();
    (folder ? filesIn(fileOrFolder) : file(fileOrFolder))
        .forEach((name, file) -> sums.put(name, sum(file)));
    return digest(folder, sums);
  }

  /**
   * The files and folders directly in a folder, manifests too; none if there is no such folder.
   *
   * @param run a run's id, or a URI
   * @param path empty for the top
   */
  public List<ArtifactFile> list(String run, String path) {
    checkStorable(path);
    return children(join(locate(run), path)).stream()
        .map(child -> new ArtifactFile(join(path, child.path()), child.isFolder(), child.bytes()))
        .toList();
  }

  /**
   * Downloads a file or folder into {@code targetFolder}. It is there when it is complete and
   * checked, or not at all.
   *
   * @param run a run's id, or a URI
   * @param path empty for all that the URI names
   * @return the file or folder in {@code targetFolder}. A file there is replaced; a folder is not.
   * @throws MlflowException {@code RESOURCE_DOES_NOT_EXIST} if there is no such artifact
   */
  public Path download(String run, String path, Path targetFolder) {
    return download(run, path, targetFolder, Optional.empty());
  }

  /**
   * The same, for what must be what was uploaded.
   *
   * @param digest {@link #upload}'s result
   */
  public Path download(String run, String path, Path targetFolder, String digest) {
    return download(run, path, targetFolder, Optional.of(digest));
  }

  private Path download(String run, String path, Path targetFolder, Optional<String> digest) {
    checkStorable(path);
    Found found = find(join(locate(run), path));
    String name = found.artifact().path();
    boolean folder = found.artifact().isFolder();
    Path target = targetFolder.resolve(name);
    Path partial = null;
    try {
      if (Files.isDirectory(target, LinkOption.NOFOLLOW_LINKS)) {
        throw new FileAlreadyExistsException(target.toString());
      }
      Files.createDirectories(targetFolder);
      // In the same file system, so that the move is one step.
      partial = Files.createTempDirectory(targetFolder, ".download-");
      Optional<SortedMap<String, String>> expected =
          found.manifest().map(file -> readManifest(found.path() + MANIFEST, file.bytes()));
      Path received = partial.resolve(name);
      SortedMap<String, String> sums = new TreeMap<>();
      if (folder) {
        fetchFolder(found.path(), "", received, expected, sums, 0);
      } else {
        sums.put(name, fetch(found.path(), found.artifact(), received, sum(expected, name)));
      }
      expected.ifPresent(manifest -> checkSame(found.path(), manifest, sums));
      String actual = digest(folder, sums);
      if (digest.isPresent() && !digest.get().equals(actual)) {
        throw new MlflowException(
            "%s is not what was uploaded: its digest is %s, not %s"
                .formatted(found.path(), actual, digest.get()));
      }
      return Files.move(
          received, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } finally {
      if (partial != null) {
        delete(partial);
      }
    }
  }

  private void fetchFolder(
      String path,
      String below,
      Path target,
      Optional<SortedMap<String, String>> expected,
      SortedMap<String, String> sums,
      int depth)
      throws IOException {
    if (depth > DEEPEST) {
      throw new MlflowException(path + " is deeper than %d folders".formatted(DEEPEST));
    }
    Files.createDirectories(target);
    for (ArtifactFile child : children(join(path, below))) {
      String name = join(below, child.path());
      Path local = target.resolve(child.path());
      if (child.isFolder()) {
        fetchFolder(path, name, local, expected, sums, depth + 1);
      } else {
        sums.put(name, fetch(join(path, name), child, local, sum(expected, name)));
      }
    }
  }

  /** Empty for a file that is in no manifest. */
  private static Optional<String> sum(Optional<SortedMap<String, String>> manifest, String name) {
    return manifest.map(sums -> sums.get(name));
  }

  private static void checkSame(
      String path, SortedMap<String, String> expected, SortedMap<String, String> actual) {
    SortedMap<String, String> missing = new TreeMap<>(expected);
    missing.keySet().removeAll(actual.keySet());
    SortedMap<String, String> added = new TreeMap<>(actual);
    added.keySet().removeAll(expected.keySet());
    if (!missing.isEmpty() || !added.isEmpty()) {
      throw new MlflowException(
          "%s is not what was uploaded: missing %s, added %s"
              .formatted(path, missing.keySet(), added.keySet()));
    }
  }

  /** Downloads one file, and again if it is not the expected one. */
  private String fetch(String path, ArtifactFile file, Path local, Optional<String> expected) {
    return http.retry(
        "downloading " + path,
        file.bytes(),
        before -> {
          String sum;
          try (Received received = new Received(local)) {
            sum = receive(path, received, file.bytes());
          }
          checkSum(path, expected.orElse(sum), sum);
          return sum;
        });
  }

  private String receive(String path, Received received, long bytes)
      throws IOException, InterruptedException {
    http.downloadOnce(url(path), received);
    if (received.failure != null) {
      // A full disk is no reason to download again.
      throw new UncheckedIOException(received.failure);
    } else if (received.bytes != bytes) {
      throw new IOException("%,d bytes came, of %,d".formatted(received.bytes, bytes));
    }
    return hex(received.digest);
  }

  /** Takes a file's bytes, for its digest and, with a path, to a file. */
  private static final class Received implements Consumer<byte[]>, AutoCloseable {
    private final MessageDigest digest = sha256();
    private final OutputStream out;
    private long bytes;
    private IOException failure;

    Received(Path file) {
      try {
        out = Files.newOutputStream(file);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }

    /** What is received is compared only. */
    Received() {
      out = OutputStream.nullOutputStream();
    }

    @Override
    public void accept(byte[] chunk) {
      digest.update(chunk);
      bytes += chunk.length;
      try {
        out.write(chunk);
      } catch (IOException e) {
        failure = e;
      }
    }

    @Override
    public void close() throws IOException {
      out.close();
    }
  }

  private static void checkSum(String path, String expected, String actual) throws IOException {
    if (!expected.equals(actual)) {
      throw new IOException(
          "%s is not what was uploaded: its SHA-256 is %s, not %s"
              .formatted(path, actual, expected));
    }
  }

  private String put(String path, Path local) {
    long bytes;
    try {
      bytes = Files.size(local);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return put(path, bytes, digest -> new Chunks(local, bytes, digest));
  }

  /** Uploads one file, and again if what is then on the server is not the same. */
  private String put(String path, long bytes, Source source) {
    return http.retry(
        "uploading " + path,
        2 * bytes,
        before -> {
          MessageDigest digest = sha256();
          try (Chunks chunks = source.open(digest)) {
            send(path, chunks, bytes);
          }
          String sent = hex(digest);
          if (readBack) {
            checkSum(path, sent, receive(path, new Received(), bytes));
          }
          return sent;
        });
  }

  private void send(String path, Chunks chunks, long bytes)
      throws IOException, InterruptedException {
    BodyPublisher all = BodyPublishers.ofByteArrays(() -> chunks);
    try {
      http.putOnce(
          url(path),
          bytes == 0 ? BodyPublishers.noBody() : BodyPublishers.fromPublisher(all, bytes));
    } catch (IOException e) {
      // The HTTP client reports what went wrong with the file like a lost connection.
      if (chunks.failure != null) {
        throw chunks.failure;
      }
      throw e;
    }
  }

  @FunctionalInterface
  private interface Source {
    Chunks open(MessageDigest digest) throws IOException;
  }

  /** A file's bytes, which are added to a digest as they are sent. */
  private static final class Chunks implements Iterator<byte[]>, AutoCloseable {
    private final InputStream in;
    private final MessageDigest digest;
    private long left;
    private RuntimeException failure;

    Chunks(Path file, long bytes, MessageDigest digest) {
      try {
        this.in = Files.newInputStream(file);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
      this.left = bytes;
      this.digest = digest;
    }

    Chunks(byte[] bytes, MessageDigest digest) {
      this.in = new ByteArrayInputStream(bytes);
      this.left = bytes.length;
      this.digest = digest;
    }

    @Override
    public boolean hasNext() {
      return left > 0;
    }

    @Override
    public byte[] next() {
      if (left == 0) {
        throw new NoSuchElementException();
      }
      try {
        byte[] chunk = in.readNBytes((int) Math.min(left, CHUNK_BYTES));
        left -= chunk.length;
        if (chunk.length == 0 || (left == 0 && in.read() >= 0)) {
          failure = new MlflowException("the file was changed while it was uploaded");
          throw failure;
        }
        digest.update(chunk);
        return chunk;
      } catch (IOException e) {
        failure = new UncheckedIOException(e);
        throw failure;
      }
    }

    @Override
    public void close() throws IOException {
      in.close();
    }
  }

  /** The artifact at a path below the proxy's root, from the listing of the folder it is in. */
  private Found find(String path) {
    int slash = path.lastIndexOf('/');
    if (slash < 0) {
      throw new MlflowException("the whole artifact store is no artifact of a run or a model");
    }
    String name = path.substring(slash + 1);
    Map<String, ArtifactFile> siblings =
        children(path.substring(0, slash)).stream()
            .collect(Collectors.toMap(ArtifactFile::path, child -> child, (one, same) -> one));
    if (!siblings.containsKey(name)) {
      throw new MlflowException(404, "RESOURCE_DOES_NOT_EXIST", "No such artifact: " + path);
    }
    return new Found(path, siblings.get(name), Optional.ofNullable(siblings.get(name + MANIFEST)));
  }

  /** By their names. What a server lists becomes a local path, so each is one plain name. */
  private List<ArtifactFile> children(String path) {
    List<ArtifactFile> children = new ArrayList<>();
    for (JsonNode file : http.get(PROXY, Map.of("path", path)).path("files")) {
      String name = file.path("path").asText();
      if (name.isEmpty()
          || name.equals(".")
          || name.equals("..")
          || !name.matches("[^/\\\\\\p{Cntrl}]+")) {
        throw new MlflowException(
            "the server lists a path in %s that leaves it: %s".formatted(path, name));
      }
      children.add(
          new ArtifactFile(name, file.path("is_dir").asBoolean(), file.path("file_size").asLong()));
    }
    return children;
  }

  private SortedMap<String, String> readManifest(String path, long bytes) {
    String text =
        http.retry(
            "downloading " + path,
            bytes,
            before -> {
              ByteArrayOutputStream all = new ByteArrayOutputStream();
              http.downloadOnce(url(path), all::writeBytes);
              return all.toString(StandardCharsets.UTF_8);
            });
    SortedMap<String, String> sums = new TreeMap<>();
    text.lines()
        .forEach(
            line -> {
              Matcher sum = MANIFEST_LINE.matcher(line);
              if (!sum.matches()) {
                throw new MlflowException(path + " is no manifest");
              }
              sums.put(sum.group(2), sum.group(1));
            });
    return sums;
  }

  private static byte[] manifest(SortedMap<String, String> sums) {
    return sums.entrySet().stream()
        .map(sum -> sum.getValue() + "  " + sum.getKey() + "\n")
        .collect(Collectors.joining())
        .getBytes(StandardCharsets.UTF_8);
  }

  private static String digest(boolean folder, SortedMap<String, String> sums) {
    return folder ? hex(updated(sha256(), manifest(sums))) : sums.get(sums.firstKey());
  }

  /** Where the files of a run or of a URI are, below the proxy's root. */
  private String locate(String run) {
    String uri = run.startsWith("models:/") ? sourceOf(run) : run;
    if (!uri.contains(":")) {
      uri = "runs:/" + uri;
    }
    if (uri.startsWith("runs:/")) {
      String[] parts = uri.replaceFirst("runs:/+", "").split("/", 2);
      uri = join(artifactUri(parts[0]), parts.length < 2 ? "" : parts[1]);
    }
    Matcher proxied = PROXIED.matcher(uri);
    String ours = http.credentials().host() + PROXY + "/";
    String path;
    if (proxied.matches()) {
      String server = proxied.group(1);
      if (server != null
          && !server.isEmpty()
          && !server.equals(http.credentials().host().getRawAuthority())) {
        throw new MlflowException(
            "%s keeps its files at %s, which the credentials for %s are not for"
                .formatted(run, server, http.credentials().host()));
      }
      path = proxied.group(2);
    } else if (uri.startsWith(ours)) {
      path = uri.substring(ours.length());
    } else {
      throw new MlflowException(
          ("%s keeps its files at %s, not behind the server: start the server with"
                  + " --serve-artifacts and --artifacts-destination, without --default-artifact-root,"
                  + " and log into a new experiment")
              .formatted(run, uri.replaceAll("(?<=//)[^/@]*@", "")));
    }
    path = path.replaceAll("/+$", "");
    checkStorable(path);
    return path;
  }

  private String artifactUri(String runId) {
    return http.get("/api/2.0/mlflow/runs/get", Map.of("run_id", runId))
        .path("run")
        .path("info")
        .path("artifact_uri")
        .asText();
  }

  private String sourceOf(String model) {
    String named = model.replaceFirst("models:/+", "");
    int at = named.lastIndexOf('@');
    int slash = named.lastIndexOf('/');
    if (at > slash) {
      String name = named.substring(0, at);
      String alias = named.substring(at + 1);
      int version =
          registry
              .byAlias(name, alias)
              .orElseThrow(
                  () ->
                      new MlflowException(
                          404,
                          "RESOURCE_DOES_NOT_EXIST",
                          "%s has no alias %s".formatted(name, alias)))
              .version();
      return registry.downloadUri(name, version);
    } else if (slash < 0 || !named.substring(slash + 1).matches("\\d{1,9}")) {
      throw new MlflowException(model + " is neither models:/name/version nor models:/name@alias");
    }
    return registry.downloadUri(
        named.substring(0, slash), Integer.parseInt(named.substring(slash + 1)));
  }

  /** Refuses a path that leaves its folder, or that the server would store under another name. */
  private static void checkStorable(String path) {
    boolean plain =
        path.isEmpty()
            || parts(path)
                .noneMatch(part -> part.isEmpty() || part.equals(".") || part.equals(".."));
    if (!plain) {
      throw new MlflowException("no path within a folder: " + path);
    } else if (parts(path).anyMatch(part -> UNSTORABLE.matcher(part).find())) {
      throw new MlflowException(
          path
              + ": MLflow cannot store names with #, \\, control characters, or % before two"
              + " hexadecimal digits, or with ? or ; at the end; pack them into an archive");
    }
  }

  /** By their paths within the folder, with {@code /}. */
  private static SortedMap<String, Path> filesIn(Path folder) {
    SortedMap<String, Path> files = new TreeMap<>();
    try (Stream<Path> all = Files.walk(folder)) {
      for (Path path : (Iterable<Path>) all::iterator) {
        if (Files.isRegularFile(path)) {
          files.put(
              folder.relativize(path).toString().replace(path.getFileSystem().getSeparator(), "/"),
              path);
        } else if (!Files.isDirectory(path, LinkOption.NOFOLLOW_LINKS)) {
          throw new MlflowException(path + " is neither a file nor a folder");
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    if (files.isEmpty()) {
      throw new MlflowException(folder + " has no files");
    }
    return files;
  }

  private static SortedMap<String, Path> file(Path file) {
    if (!Files.isRegularFile(file)) {
      throw new UncheckedIOException(new NoSuchFileException(file.toString()));
    }
    return new TreeMap<>(Map.of(file.getFileName().toString(), file));
  }

  private static Stream<String> parts(String path) {
    return Arrays.stream(path.split("/", -1));
  }

  private static String url(String path) {
    return parts(path).map(MlflowHttp::encode).collect(Collectors.joining("/", PROXY + "/", ""));
  }

  private static String join(String folder, String name) {
    return folder.isEmpty() || name.isEmpty() ? folder + name : folder + "/" + name;
  }

  private static void delete(Path folder) {
    try (Stream<Path> all = Files.walk(folder)) {
      for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
        Files.deleteIfExists(path);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String sum(Path file) {
    MessageDigest digest = sha256();
    byte[] chunk = new byte[CHUNK_BYTES];
    try (InputStream in = Files.newInputStream(file)) {
      for (int n = in.read(chunk); n >= 0; n = in.read(chunk)) {
        digest.update(chunk, 0, n);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return hex(digest);
  }

  private static MessageDigest updated(MessageDigest digest, byte[] bytes) {
    digest.update(bytes);
    return digest;
  }

  private static String hex(MessageDigest digest) {
    return HexFormat.of().formatHex(digest.digest());
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java has SHA-256", e);
    }
  }
}
