package com.example.lakehouse.mlflow.support;

import static com.example.lakehouse.mlflow.MlflowExtension.orSkip;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SetupException;
import com.example.lakehouse.mlflow.support.PythonEnvironment.Install;
import com.example.lakehouse.mlflow.support.PythonEnvironment.Recipe;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.regex.Pattern;
import org.apache.commons.io.FileUtils;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The small packages of build.lock stand for all: what is tested here does not depend on which. */
class PythonEnvironmentTest {
  private static final Install SMALL = Install.of("build.lock", "--only-binary", ":all:");
  private static final String OTHERWISE = ", or do without";

  @TempDir private Path cache;

  /** Before JUnit does, which warns of each link that it finds. */
  @AfterEach
  void deleteEnvironments() throws IOException {
    FileUtils.cleanDirectory(cache.toFile());
  }

  /** Makes an environment, if need be, in two threads at once. */
  static final class TwoThreads {
    public static void main(String[] args) {
      List<CompletableFuture<PythonEnvironment>> both = new ArrayList<>();
      for (int i = 0; i < 2; i++) {
        both.add(
            CompletableFuture.supplyAsync(
                () -> PythonEnvironment.of(recipe(SMALL), Path.of(args[0]), System.getenv())));
      }
      both.forEach(environment -> System.out.println("has " + environment.join().python()));
    }
  }

  private static Recipe recipe(Install... installs) {
    return new Recipe("small", "a test", "three packages", OTHERWISE, List.of(installs));
  }

  @Test
  void anEnvironmentIsMadeAtFirstUseAndTakenAsItIsLater() throws Exception {
    PythonEnvironment made =
        orSkip(() -> PythonEnvironment.of(recipe(SMALL), cache, System.getenv()));

    assertThat(made.folder().getParent()).isEqualTo(cache);
    assertThat(made.folder().getFileName().toString()).matches("small-[0-9a-f]{12}");
    assertThat(output(made, "import setuptools, wheel; print(setuptools.__version__)"))
        .isEqualTo("84.2.1");
    assertThat(output(made, "import shutil; print(shutil.which('wheel'))"))
        .as("its commands come first")
        .startsWith(made.folder().toString());

    // Neither Python nor a package index is there any more.
    PythonEnvironment again = PythonEnvironment.of(recipe(SMALL), cache, Map.of());

    assertThat(again.python()).isEqualTo(made.python());
    // Another lock file is another environment.
    Install other = new Install(SMALL.name(), SMALL.lock() + "# Renewed.\n", SMALL.options());
    assertThatThrownBy(() -> PythonEnvironment.of(recipe(other), cache, Map.of()))
        .isInstanceOf(SetupException.class);
    assertThat(Files.exists(made.python())).isTrue();
  }

  @Test
  void oneThatIsHalfMadeOrWhosePythonIsGoneIsMadeAnew() throws Exception {
    Path folder =
        orSkip(() -> PythonEnvironment.of(recipe(SMALL), cache, System.getenv())).folder();
    Path left = folder.resolve("left-from-before");

    Files.createFile(left);
    Files.delete(folder.resolve("complete"));
    PythonEnvironment second = PythonEnvironment.of(recipe(SMALL), cache, System.getenv());
    assertThat(left).doesNotExist();
    assertThat(folder.resolve("complete")).exists();

    Files.createFile(left);
    Files.delete(second.python());
    PythonEnvironment third = PythonEnvironment.of(recipe(SMALL), cache, System.getenv());
    assertThat(left).doesNotExist();
    assertThat(output(third, "import wheel; print(wheel.__version__)")).isEqualTo("0.48.0");
  }

  @Test
  void twoProcessesOfTwoThreadsMakeItOnce() {
    orSkip(() -> PythonEnvironment.findPython(recipe(SMALL), System.getenv()));
    List<CompletableFuture<ChildJvm>> both = new ArrayList<>();
    for (int i = 0; i < 2; i++) {
      both.add(
          CompletableFuture.supplyAsync(
              () -> {
                try {
                  return ChildJvm.run(TwoThreads.class, List.of(), cache.toString());
                } catch (IOException | InterruptedException e) {
                  throw new IllegalStateException(e);
                }
              }));
    }
    List<ChildJvm> ended = both.stream().map(CompletableFuture::join).toList();

    String output = ended.get(0).output() + ended.get(1).output();
    assertThat(ended).as(output).allMatch(jvm -> jvm.exitCode() == 0);
    assertThat(times("Making the Python environment for a test, once: three packages", output))
        .as(output)
        .isEqualTo(1);
    assertThat(times("Made it in ", output)).isEqualTo(1);
    assertThat(times("has " + Pattern.quote(cache.toString()), output)).isEqualTo(4);
  }

  @Test
  void aPackageThatIsNotTheOneThatWasPinnedIsRefused() {
    Install other =
        new Install(
            "other.lock",
            SMALL.lock().replaceAll("sha256:[0-9a-f]{4}", "sha256:0000"),
            SMALL.options());

    orSkip(() -> PythonEnvironment.findPython(recipe(SMALL), System.getenv()));

    SetupException refused =
        catchThrowableOfType(
            SetupException.class,
            () -> PythonEnvironment.of(recipe(other), cache, System.getenv()));

    assertThat(refused).hasMessageContaining("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES");
  }

  @Test
  void withoutAPackageIndexThereIsOneLineThatNamesTheLogAndTheWayOut() {
    orSkip(() -> PythonEnvironment.findPython(recipe(SMALL), System.getenv()));
    Map<String, String> variables = new HashMap<>(System.getenv());
    variables.keySet().removeIf(name -> name.startsWith("PIP_"));
    // Nothing answers at this port.
    variables.put("PIP_INDEX_URL", "http://127.0.0.1:9/simple");
    variables.put("PIP_RETRIES", "0");
    variables.put("PIP_CONFIG_FILE", "/dev/null");

    SetupException failed =
        catchThrowableOfType(
            SetupException.class, () -> PythonEnvironment.of(recipe(SMALL), cache, variables));

    assertThat(failed)
        .hasMessageStartingWith("The Python environment for a test could not be made: ERROR: ")
        .hasMessageContaining("No matching distribution found for packaging")
        .hasMessageEndingWith("Let pip reach a package index, or do without.");
    assertThat(failed.getMessage().lines()).hasSize(1);
    String log = failed.getMessage().replaceAll(".*\\(see (.*?)\\).*", "$1");
    assertThat(Path.of(log))
        .content()
        .contains("-m pip install --require-hashes", "ERROR: Could not find")
        .contains("Looking in indexes: http://127.0.0.1:9/simple");

    // And it is not taken for made.
    assertThatThrownBy(() -> PythonEnvironment.of(recipe(SMALL), cache, variables))
        .isInstanceOf(SetupException.class);
  }

  @Test
  void withoutPythonThereIsOneLineThatNamesTheWayOut() {
    assertThatThrownBy(
            () -> PythonEnvironment.of(recipe(SMALL), cache, Map.of("PATH", cache.toString())))
        .isInstanceOf(SetupException.class)
        .hasMessage(
            "The environment for a test takes Python 3.10 or newer, and there is none on the PATH."
                + " Install it, or do without.");
  }

  @Test
  @DisabledOnOs(value = OS.WINDOWS, disabledReason = "there a script is not an executable")
  void anOlderPythonIsPassedOverAndNamedIfThereIsNoOther() throws Exception {
    script(cache.resolve("python3"), "echo 3 9 1 /opt/python3.9");
    Map<String, String> variables = Map.of("PATH", "/nowhere:" + cache);
    assertThatThrownBy(() -> PythonEnvironment.findPython(recipe(SMALL), variables))
        .hasMessageContaining("there is none on the PATH (/opt/python3.9 is 3.9).");

    // Nor does one serve that nobody has tried, if there is one that somebody has.
    script(cache.resolve("python3.13"), "echo 3 15 1 /opt/python3.15");
    assertThat(PythonEnvironment.findPython(recipe(SMALL), variables))
        .hasToString("/opt/python3.15");
    script(cache.resolve("python3.10"), "echo 3 10 1 /opt/python 3.10/bin/python");
    assertThat(PythonEnvironment.findPython(recipe(SMALL), variables))
        .hasToString("/opt/python 3.10/bin/python");
  }

  @Test
  @DisabledOnOs(value = OS.WINDOWS, disabledReason = "there a script is not an executable")
  void theVariableThatNamesAPythonComesFirst() throws Exception {
    script(cache.resolve("python3"), "echo 3 12 1 /opt/python3.12");
    script(cache.resolve("mine"), "echo 3 11 1 /opt/mine");
    Path mine = cache.resolve("mine");
    assertThat(
            PythonEnvironment.findPython(
                recipe(SMALL),
                Map.of("PATH", cache.toString(), "LAKEHOUSE_PYTHON", mine.toString())))
        .hasToString("/opt/mine");

    assertThatThrownBy(
            () ->
                PythonEnvironment.findPython(
                    recipe(SMALL),
                    Map.of("PATH", cache.toString(), "LAKEHOUSE_PYTHON", "/none/python")))
        .isInstanceOf(SetupException.class)
        .hasMessageContaining("and LAKEHOUSE_PYTHON is /none/python. Install it");
  }

  /** As on Debian, where python3-venv is a package of its own. */
  @Test
  @DisabledOnOs(value = OS.WINDOWS, disabledReason = "there a script is not an executable")
  void aPythonThatCannotMakeEnvironmentsSaysWhatToInstall() throws Exception {
    Path python = orSkip(() -> PythonEnvironment.findPython(recipe(SMALL), System.getenv()));
    Files.writeString(
        cache.resolve("sitecustomize.py"), "import sys; sys.modules['ensurepip'] = None");
    script(cache.resolve("python3"), "PYTHONPATH='%s' exec '%s' \"$@\"".formatted(cache, python));

    assertThatThrownBy(
            () -> PythonEnvironment.of(recipe(SMALL), cache, Map.of("PATH", cache.toString())))
        .isInstanceOf(SetupException.class)
        .hasMessageContaining(
            "but lacks the module venv, which the environment for a test is made with."
                + " Install it (on Debian: apt install python3-venv), or do without.");
  }

  @Test
  void settingsOfTheUsersOwnPythonStayOutside() {
    assertThat(
            PythonEnvironment.withoutPythonSettings(
                Map.of(
                    "PYTHONPATH", "/mine", "PYTHONHOME", "/mine", "PIP_USER", "1", "HOME", "/h")))
        .containsOnlyKeys("HOME", "PYTHONUTF8", "PYTHONUNBUFFERED");
  }

  @Test
  void theCacheFolderIsTheOneOfTheSystem() {
    Path home = Path.of("/home/me");
    assertThat(PythonEnvironment.cacheFolder("Linux", Map.of(), home))
        .isEqualTo(Path.of("/home/me/.cache/lakehouse-examples"));
    assertThat(
            PythonEnvironment.cacheFolder("Linux", Map.of("XDG_CACHE_HOME", "/var/cache/me"), home))
        .isEqualTo(Path.of("/var/cache/me/lakehouse-examples"));
    assertThat(PythonEnvironment.cacheFolder("Linux", Map.of("XDG_CACHE_HOME", "here"), home))
        .isEqualTo(Path.of("/home/me/.cache/lakehouse-examples"));
    assertThat(PythonEnvironment.cacheFolder("Mac OS X", Map.of("XDG_CACHE_HOME", "/x"), home))
        .isEqualTo(Path.of("/home/me/Library/Caches/lakehouse-examples"));
    assertThat(PythonEnvironment.cacheFolder("Windows 11", Map.of("LOCALAPPDATA", "/local"), home))
        .isEqualTo(Path.of("/local/lakehouse-examples"));
    assertThat(PythonEnvironment.cacheFolder("Windows 11", Map.of(), home))
        .isEqualTo(Path.of("/home/me/AppData/Local/lakehouse-examples"));
  }

  @ParameterizedTest
  @ValueSource(strings = {"server.lock", "scoring.lock", "build.lock"})
  void everyPackageIsPinnedWithHashes(String name) {
    String lock = PythonEnvironment.text(name);
    List<String> packages =
        Pattern.compile("\\\\\\n\\s+")
            .matcher(lock)
            .replaceAll("")
            .lines()
            .filter(line -> !line.startsWith("#"))
            .toList();

    assertThat(packages)
        .isNotEmpty()
        .allMatch(
            line ->
                line.matches("[a-z0-9-]+==[^ ;]+( ; [^=]*?.*?)?( ?--hash=sha256:[0-9a-f]{64})+"));
    assertThat(lock).contains("uv pip compile").doesNotContain("://", "--index-url");
    // A server without the data-science stack that mlflow asks for.
    assertThat(lock).doesNotContain("scikit-learn==", "matplotlib==", "scipy==");
  }

  @Test
  void theScoringEnvironmentHasThisProjectsSpark() throws Exception {
    PythonEnvironment scoring = orSkip(PythonEnvironment::scoring);

    assertThat(
            output(
                scoring,
                "import mlflow.spark, mlflow.pyfunc, pyspark; print(mlflow.__version__,"
                    + " pyspark.__version__)"))
        .isEqualTo("3.17.2 " + org.apache.spark.package$.MODULE$.SPARK_VERSION());
  }

  private static void script(Path file, String line) throws IOException {
    Files.writeString(file, "#!/bin/sh\n" + line + "\n");
    Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rwx------"));
  }

  private static long times(String pattern, String text) {
    return Pattern.compile(pattern).matcher(text).results().count();
  }

  private static String output(PythonEnvironment environment, String program) throws Exception {
    Process process =
        environment.process("-c", program).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).isZero();
    return output.strip();
  }
}
