package com.example.lakehouse.mlflow.support;

import static java.util.stream.Collectors.joining;

import com.example.lakehouse.common.SetupException;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.apache.commons.io.FileUtils;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A Python environment in the user's cache folder, made at its first use from a lock file that pins
 * every package with its hashes, and taken as it is from then on. A new lock file is a new
 * environment.
 *
 * <p>The environment variable {@code LAKEHOUSE_PYTHON} names the Python to make it with; otherwise
 * that is the first one of 3.10 or newer on the {@code PATH}.
 */
public final class PythonEnvironment {
  private static final Logger LOG = LoggerFactory.getLogger(PythonEnvironment.class);
  private static final boolean WINDOWS = System.getProperty("os.name").startsWith("Windows");

  /** The newest minor version for which all locked packages have wheels; the oldest is 3.10. */
  private static final int NEWEST = 14;

  private static final int OLDEST = 10;

  /** Written last: without it, making the environment was broken off. */
  private static final String MARKER = "complete";

  /**
   * One run of pip.
   *
   * @param name of the lock file
   * @param lock its text
   * @param options pip's options beside those that every run has
   */
  record Install(String name, String lock, List<String> options) {
    static Install of(String name, String... options) {
      return new Install(name, text(name), List.of(options));
    }

    /** A package is there once for each range of Python versions, if these differ. */
    long pins() {
      return lock.lines().filter(line -> line.contains("==")).count();
    }
  }

  /**
   * What an environment consists of.
   *
   * @param size what to expect of the first use
   * @param otherwise what a user can do who cannot have the environment; begins with a comma
   */
  record Recipe(
      String name, String purpose, String size, String otherwise, List<Install> installs) {}

  private static final Recipe SERVER =
      new Recipe(
          "mlflow-server",
          "MLflow's server",
          "70 MB to download, 390 MB on disk, about a minute",
          ", or set MLFLOW_TRACKING_URI to a server that runs already",
          List.of(Install.of("server.lock", "--only-binary", ":all:")));

  private static final Recipe SCORING =
      new Recipe(
          "mlflow-scoring",
          "models in Python",
          "560 MB to download, 960 MB on disk, about two minutes",
          "",
          List.of(
              Install.of("build.lock", "--only-binary", ":all:"),
              // PySpark comes as source only, and builds with what the first run installed.
              Install.of(
                  "scoring.lock",
                  "--only-binary",
                  ":all:",
                  "--no-binary",
                  "pyspark",
                  "--no-build-isolation")));

  private final Path folder;

  private PythonEnvironment(Path folder) {
    this.folder = folder;
  }

  /**
   * The environment that {@link MlflowServer} runs in.
   *
   * @throws SetupException if it must be made, and there is no Python or no package index
   */
  public static PythonEnvironment server() {
    return of(SERVER, cacheFolder(), System.getenv());
  }

  /**
   * An environment that loads and serves Spark models: {@code mlflow.pyfunc.load_model} and {@code
   * mlflow models serve --env-manager local}, with the Spark version of this project.
   *
   * @throws SetupException if it must be made, and there is no Python or no package index
   */
  public static PythonEnvironment scoring() {
    return of(SCORING, cacheFolder(), System.getenv());
  }

  /** Its interpreter. */
  public Path python() {
    return WINDOWS
        ? folder.resolve("Scripts").resolve("python.exe")
        : folder.resolve("bin").resolve("python");
  }

  public Path folder() {
    return folder;
  }

  /**
   * A program of this environment, to be started by the caller: with the environment's commands
   * first on its {@code PATH}, since {@code mlflow models serve} looks for {@code uvicorn} there,
   * and without the settings of the user's own Python, and of another MLflow server and the web
   * server that runs it: with another level of its log a server's start would not be seen.
   *
   * @param arguments of the interpreter, such as {@code -m mlflow models serve}
   */
  public ProcessBuilder process(String... arguments) {
    List<String> command = new ArrayList<>(List.of(python().toString()));
    command.addAll(List.of(arguments));
    ProcessBuilder builder = new ProcessBuilder(command);
    Map<String, String> variables = withoutPythonSettings(builder.environment());
    variables.entrySet().stream()
        .filter(PythonEnvironment::isPath)
        .forEach(
            path -> path.setValue(python().getParent() + File.pathSeparator + path.getValue()));
    variables
        .keySet()
        .removeIf(
            name ->
                name.startsWith("MLFLOW_")
                    || name.startsWith("_MLFLOW_")
                    || name.startsWith("UVICORN_"));
    variables.put("MLFLOW_DISABLE_TELEMETRY", "true");
    variables.put("DO_NOT_TRACK", "true");
    builder.environment().clear();
    builder.environment().putAll(variables);
    return builder;
  }

  /**
   * A program of this environment that has PySpark, to be started by the caller: on this JVM's JDK,
   * in UTC as this project's sessions are, listening on the loopback interface alone, and without
   * the settings of another Spark.
   *
   * @param folder for what it writes
   */
  public ProcessBuilder withSpark(Path folder, String... arguments) {
    ProcessBuilder builder = process(arguments);
    Map<String, String> variables = builder.environment();
    variables.keySet().removeIf(name -> name.startsWith("PYSPARK_") || name.startsWith("SPARK_"));
    variables.put("JAVA_HOME", System.getProperty("java.home"));
    variables.put("SPARK_LOCAL_IP", "127.0.0.1");
    variables.put("SPARK_LOCAL_DIRS", folder.toString());
    variables.put("PYSPARK_PYTHON", python().toString());
    variables.put(
        "PYSPARK_SUBMIT_ARGS",
        "--driver-memory 1g --conf spark.ui.enabled=false --conf spark.sql.session.timeZone=UTC"
            + " pyspark-shell");
    variables.put("TZ", "UTC");
    variables.put("MLFLOW_DFS_TMP", folder.resolve("dfs").toString());
    return builder;
  }

  /** Windows writes it Path. */
  private static boolean isPath(Map.Entry<String, String> variable) {
    return variable.getKey().equalsIgnoreCase("PATH");
  }

  /**
   * The environment of {@code recipe}, made if it is not there.
   *
   * @param cache the folder that it is kept in
   * @param variables the environment variables for finding Python and for pip
   */
  static PythonEnvironment of(Recipe recipe, Path cache, Map<String, String> variables) {
    String name = recipe.name() + "-" + digest(recipe);
    try {
      PythonEnvironment environment = new PythonEnvironment(cache.resolve(name));
      // A lock of a file is the JVM's, not the thread's.
      synchronized (PythonEnvironment.class) {
        if (!environment.isComplete()) {
          Files.createDirectories(cache);
          try (FileChannel channel =
                  FileChannel.open(
                      cache.resolve(name + ".mutex"),
                      StandardOpenOption.CREATE,
                      StandardOpenOption.WRITE);
              FileLock mutex = lock(channel, recipe)) {
            // Another process may have made it meanwhile.
            if (!environment.isComplete()) {
              environment.make(recipe, cache.resolve(name + ".log"), variables);
            }
          }
        }
      }
      return environment;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Its Python is a link to the one that made it, which may be gone. */
  private boolean isComplete() {
    return Files.exists(folder.resolve(MARKER)) && Files.isExecutable(python());
  }

  private static FileLock lock(FileChannel channel, Recipe recipe) throws IOException {
    FileLock lock = channel.tryLock();
    if (lock == null) {
      LOG.info(
          "Another process makes the Python environment for {}: waiting for it", recipe.purpose());
      lock = channel.lock();
    }
    return lock;
  }

  private void make(Recipe recipe, Path log, Map<String, String> variables) throws IOException {
    FileUtils.deleteDirectory(folder.toFile());
    Path interpreter = findPython(recipe, variables);
    LOG.info(
        "Making the Python environment for {}, once: {}, in {}",
        recipe.purpose(),
        recipe.size(),
        folder);
    long start = System.nanoTime();
    Files.deleteIfExists(log);
    Optional<String> failure =
        run(
            List.of(interpreter.toString(), "-m", "venv", folder.toString()),
            variables,
            log,
            line -> {});
    for (Install install : recipe.installs()) {
      if (failure.isEmpty()) {
        failure = pip(install, variables, log);
      }
    }
    if (failure.isPresent()) {
      throw new SetupException(
          "The Python environment for %s could not be made: %s (see %s). Let pip reach a package index%s."
              .formatted(recipe.purpose(), failure.get(), log, recipe.otherwise()));
    }
    Files.writeString(folder.resolve(MARKER), "");
    LOG.info("Made it in {} s", Duration.ofNanos(System.nanoTime() - start).toSeconds());
  }

  private Optional<String> pip(Install install, Map<String, String> variables, Path log)
      throws IOException {
    Path requirements = folder.resolve(install.name());
    Files.writeString(requirements, install.lock());
    List<String> command =
        new ArrayList<>(
            List.of(
                python().toString(),
                "-m",
                "pip",
                "install",
                "--require-hashes",
                "--no-deps",
                "--no-input",
                "--disable-pip-version-check",
                "--requirement",
                requirements.toString()));
    command.addAll(install.options());
    return run(command, variables, log, new Progress(install.pins()));
  }

  /** Turns pip's lines into a few of ours. */
  private static final class Progress implements Consumer<String> {
    private static final int STEP = 20;
    private final long packages;
    private long seen;
    private long told;

    Progress(long packages) {
      this.packages = packages;
    }

    @Override
    public void accept(String line) {
      // Those for another platform or another Python are ignored.
      if (line.startsWith("Collecting ") || line.startsWith("Ignoring ")) {
        seen++;
        long percent = 100 * seen / packages;
        if (percent >= told + STEP && packages > STEP) {
          told = percent - percent % STEP;
          LOG.info("  {} % of the packages", told);
        }
      } else if (line.startsWith("Installing collected packages")) {
        LOG.info("  installing them");
      }
    }
  }

  /**
   * Runs {@code command} to its end, with its output in {@code log} too.
   *
   * @return what it says of its failure, if it fails
   */
  private static Optional<String> run(
      List<String> command, Map<String, String> variables, Path log, Consumer<String> lines)
      throws IOException {
    Process process = start(command, variables);
    // Whoever comes next begins anew, which this process must not disturb.
    Thread endWithTheJvm = new Thread(process::destroy);
    Runtime.getRuntime().addShutdownHook(endWithTheJvm);
    String failure = "no output";
    try (BufferedReader output = process.inputReader(StandardCharsets.UTF_8);
        Writer file =
            Files.newBufferedWriter(log, StandardOpenOption.CREATE, StandardOpenOption.APPEND)) {
      file.write("$ " + String.join(" ", command) + "\n");
      for (String line = output.readLine(); line != null; line = output.readLine()) {
        file.write(line + "\n");
        lines.accept(line);
        if (line.startsWith("ERROR:") || (!failure.startsWith("ERROR:") && !line.isBlank())) {
          failure = line.strip();
        }
      }
      return process.waitFor() == 0 ? Optional.empty() : Optional.of(failure);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while running " + command, e);
    } finally {
      process.destroy();
      removeHook(endWithTheJvm);
    }
  }

  private static void removeHook(Thread hook) {
    try {
      Runtime.getRuntime().removeShutdownHook(hook);
    } catch (IllegalStateException e) {
      LOG.debug("The JVM ends, and the hook with it", e);
    }
  }

  private static Process start(List<String> command, Map<String, String> variables)
      throws IOException {
    ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
    builder.environment().clear();
    builder.environment().putAll(withoutPythonSettings(variables));
    return builder.start();
  }

  /** Settings of the user's own Python would lead out of the environment. */
  static Map<String, String> withoutPythonSettings(Map<String, String> variables) {
    Map<String, String> rest = new HashMap<>(variables);
    rest.keySet()
        .removeIf(
            name ->
                name.startsWith("PYTHON")
                    || List.of("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER").contains(name));
    rest.put("PYTHONUTF8", "1");
    rest.put("PYTHONUNBUFFERED", "1");
    return rest;
  }

  /**
   * A Python that was found.
   *
   * @param canMake whether it has what makes environments, which Debian packs apart
   */
  private record Python(Path executable, int major, int minor, boolean canMake) {
    private static final String PROBE =
        "import sys, importlib.util as u; "
            + "print(sys.version_info[0], sys.version_info[1],"
            + " int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))), sys.executable)";

    boolean isNewEnough() {
      return major == 3 && minor >= OLDEST;
    }

    boolean isTried() {
      return isNewEnough() && minor <= NEWEST;
    }

    static Optional<Python> of(Path command, Map<String, String> variables) {
      try {
        Process process = start(List.of(command.toString(), "-c", PROBE), variables);
        try (BufferedReader output = process.inputReader(StandardCharsets.UTF_8)) {
          String[] answer = output.lines().collect(joining("\n")).strip().split(" ", 4);
          return process.waitFor() == 0 && answer.length == 4
              ? Optional.of(
                  new Python(
                      Path.of(answer[3]),
                      Integer.parseInt(answer[0]),
                      Integer.parseInt(answer[1]),
                      answer[2].equals("1")))
              : Optional.empty();
        }
      } catch (IOException | NumberFormatException e) {
        LOG.debug("{} is no Python", command, e);
        return Optional.empty();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IllegalStateException("interrupted while looking for Python", e);
      }
    }

    @Override
    public String toString() {
      return "%s is %d.%d".formatted(executable, major, minor);
    }
  }

  /** The interpreter to make {@code recipe} with. */
  static Path findPython(Recipe recipe, Map<String, String> variables) {
    List<Python> found = new ArrayList<>();
    for (Path command : commands(variables)) {
      Optional<Python> python = Python.of(command, variables);
      if (python.isPresent()) {
        found.add(python.get());
        if (python.get().isTried() && python.get().canMake()) {
          return python.get().executable();
        }
      }
    }
    // A newer one may do: what it lacks pip will say.
    return found.stream()
        .filter(python -> python.isNewEnough() && python.canMake())
        .map(Python::executable)
        .findFirst()
        .orElseThrow(() -> new SetupException(whatIsMissing(recipe, variables, found)));
  }

  private static String whatIsMissing(
      Recipe recipe, Map<String, String> variables, List<Python> found) {
    Optional<Python> withoutVenv = found.stream().filter(Python::isNewEnough).findFirst();
    if (withoutVenv.isPresent()) {
      return "%s, but lacks the module venv, which the environment for %s is made with. Install it (on Debian: apt install python3-venv)%s."
          .formatted(withoutVenv.get(), recipe.purpose(), recipe.otherwise());
    }
    String override = variables.get("LAKEHOUSE_PYTHON");
    String seen =
        override != null ? "LAKEHOUSE_PYTHON is " + override : "there is none on the PATH";
    if (!found.isEmpty()) {
      seen += found.stream().map(Python::toString).distinct().collect(joining(", ", " (", ")"));
    }
    return "The environment for %s takes Python 3.%d or newer, and %s. Install it%s."
        .formatted(recipe.purpose(), OLDEST, seen, recipe.otherwise());
  }

  /** What may be a Python, in the order in which to try. */
  private static List<Path> commands(Map<String, String> variables) {
    String override = variables.get("LAKEHOUSE_PYTHON");
    if (override != null) {
      return List.of(Path.of(override));
    }
    List<String> names = new ArrayList<>();
    if (WINDOWS) {
      names.addAll(List.of("python.exe", "python3.exe", "py.exe"));
    } else {
      names.add("python3");
      for (int minor = NEWEST - 1; minor >= OLDEST; minor--) {
        names.add("python3." + minor);
      }
      names.addAll(List.of("python3." + NEWEST, "python"));
    }
    List<String> directories =
        variables.entrySet().stream()
            .filter(PythonEnvironment::isPath)
            .flatMap(variable -> Stream.of(variable.getValue().split(File.pathSeparator, -1)))
            .filter(directory -> !directory.isBlank())
            .toList();
    return names.stream()
        .flatMap(name -> directories.stream().map(directory -> Path.of(directory, name)))
        .filter(Files::isExecutable)
        .toList();
  }

  private static Path cacheFolder() {
    return cacheFolder(
        System.getProperty("os.name"), System.getenv(), Path.of(System.getProperty("user.home")));
  }

  /** Where the system's own conventions put what can be made again. */
  static Path cacheFolder(String system, Map<String, String> variables, Path home) {
    Path caches;
    if (system.startsWith("Windows")) {
      String local = variables.get("LOCALAPPDATA");
      caches = local == null ? home.resolve("AppData").resolve("Local") : Path.of(local);
    } else if (system.startsWith("Mac")) {
      caches = home.resolve("Library").resolve("Caches");
    } else {
      String xdg = variables.get("XDG_CACHE_HOME");
      // A relative path is to be ignored, says the specification.
      caches = xdg == null || !xdg.startsWith("/") ? home.resolve(".cache") : Path.of(xdg);
    }
    return caches.resolve("lakehouse-examples");
  }

  private static String digest(Recipe recipe) {
    try {
      MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
      for (Install install : recipe.installs()) {
        sha256.update(install.lock().getBytes(StandardCharsets.UTF_8));
        sha256.update(install.options().toString().getBytes(StandardCharsets.UTF_8));
      }
      return HexFormat.of().formatHex(sha256.digest(), 0, 6);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has SHA-256", e);
    }
  }

  /** Of a resource beside this class. */
  static String text(String resource) {
    try (InputStream in = PythonEnvironment.class.getResourceAsStream(resource)) {
      if (in == null) {
        throw new IllegalStateException(resource + " is not on the class path");
      }
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
