package com.example.lakehouse.common.testing;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaCodeUnit;
import com.tngtech.archunit.core.domain.JavaModifier;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import java.io.IOException;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalog.Database;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/**
 * What holds for all examples of a module. A module inherits it with an empty class in the package
 * of its examples.
 */
@SparkTest
public abstract class ExampleContract {
  /** A row of the README's table begins with the example's name, linked to its source. */
  private static final Pattern README_ROW =
      Pattern.compile("(?m)^\\| \\[`?(\\w+)`?]\\(([^)]+)\\) \\|");

  /** Pages may link to others, but load nothing from them. */
  private static final Pattern LOADS =
      Pattern.compile("(?i)(src|srcset)\\s*=|@import|url\\((?!#)|<link\\b|<script\\b");

  private static final Pattern FORBIDDEN_IN_SNIPPETS =
      Pattern.compile(
          "com\\.example\\.lakehouse\\.(common|\\w+\\.support)\\..*|org\\.slf4j\\..*|java\\.io\\.PrintStream"
              + "|org\\.apache\\.spark\\.SparkContext|org\\.apache\\.spark\\.api\\.java\\.Java(Spark.*|.*RDD)"
              + "|org\\.apache\\.spark\\.rdd\\..*");

  /**
   * Classes of {@code support} that are copied with a snippet, because what it uses has no client
   * in Java.
   */
  protected Set<String> copiedWithSnippets() {
    return Set.of();
  }

  /** The module's folder: Surefire and IDEs run tests there. */
  private final Path module = Path.of("").toAbsolutePath();

  private List<JavaClass> examples() {
    return new ClassFileImporter()
            .withImportOption(ImportOption.Predefined.DO_NOT_INCLUDE_TESTS)
            .importPackages(getClass().getPackageName())
            .stream()
            .filter(c -> c.getPackageName().equals(getClass().getPackageName()))
            .filter(c -> c.getMethods().stream().anyMatch(m -> isMain(m)))
            .toList();
  }

  @TestFactory
  Stream<DynamicTest> mainRunsToItsEndAndWritesAPageThatLoadsNothing(
      SparkSession spark, Sandbox sandbox) {
    return examples().stream()
        .map(
            example ->
                DynamicTest.dynamicTest(
                    example.getSimpleName(),
                    () -> runMain(spark, example.reflect(), sandbox.folder())));
  }

  /**
   * What more a module checks of an example that has run.
   *
   * @param kept the folder that the example's sandbox is in, with its tables
   */
  protected void checkWhatIsLeft(SparkSession spark, Path kept) throws Exception {}

  private void runMain(SparkSession spark, Class<?> example, Path folder) throws Exception {
    Path pages = folder.resolve("html");
    Path kept = Files.createDirectories(folder.resolve("kept").resolve(example.getSimpleName()));
    // What it tells goes into a file: in the build's own output it would hide the tests.
    Path told = module.resolve("target/examples/" + example.getSimpleName() + ".txt");
    Files.createDirectories(told.getParent());
    PrintStream terminal = System.out;
    System.setProperty("lakehouse.sandbox", kept.toString());
    try (PrintStream file = new PrintStream(told.toFile(), UTF_8)) {
      System.setOut(file);
      example
          .getMethod("main", String[].class)
          .invoke(null, (Object) new String[] {"--keep", "--html", "--out=" + pages});
      checkWhatIsLeft(spark, kept);
    } catch (InvocationTargetException e) {
      throw new AssertionError(
          "%s failed: %s; what it told is in %s"
              .formatted(example.getSimpleName(), e.getCause(), told),
          e.getCause());
    } finally {
      System.setOut(terminal);
      System.clearProperty("lakehouse.sandbox");
      for (Database schema : spark.catalog().listDatabases().collectAsList()) {
        if (schema.locationUri().contains(kept.toString())) {
          spark.sql("DROP SCHEMA `" + schema.name() + "` CASCADE");
        }
      }
    }
    Path page = pages.resolve(module.getFileName()).resolve(example.getSimpleName() + ".html");
    assertThat(page).exists();
    String withoutText = Files.readString(page).replaceAll("(?s)<pre>.*?</pre>", "");
    assertThat(withoutText)
        .as("steps, and a link to what was followed")
        .contains("<h2>", "<a href=\"https://")
        .doesNotContainPattern(LOADS);
  }

  @Test
  void everyExampleHasATestOfItsName() {
    assertThat(examples())
        .allSatisfy(
            example ->
                assertThat(
                        module.resolve(
                            "src/test/java/" + example.getName().replace('.', '/') + "Test.java"))
                    .exists());
  }

  @Test
  void theReadmeHasARowForEachExampleAndNoOther() throws IOException {
    List<MatchResult> rows =
        README_ROW.matcher(Files.readString(module.resolve("README.md"))).results().toList();

    assertThat(rows.stream().map(row -> row.group(1)))
        .containsExactlyInAnyOrderElementsOf(
            examples().stream().map(JavaClass::getSimpleName).toList());
    assertThat(rows).allSatisfy(row -> assertThat(module.resolve(row.group(2))).exists());
  }

  @Test
  void snippetsCanBeCopiedAsTheyStand() {
    Set<String> violations = new TreeSet<>();
    for (JavaClass example : examples()) {
      for (JavaCodeUnit unit : example.getCodeUnits()) {
        if (!isMain(unit)) {
          used(unit)
              .filter(type -> FORBIDDEN_IN_SNIPPETS.matcher(type).matches())
              .filter(type -> !copiedWithSnippets().contains(type))
              .forEach(type -> violations.add(unit.getFullName() + " uses " + type));
        }
      }
    }
    assertThat(violations).isEmpty();
  }

  private static Stream<String> used(JavaCodeUnit unit) {
    return Stream.concat(
        unit.getAccessesFromSelf().stream().map(access -> access.getTargetOwner().getName()),
        Stream.concat(
            unit.getRawParameterTypes().stream().map(JavaClass::getName),
            Stream.of(unit.getRawReturnType().getName())));
  }

  private static boolean isMain(JavaCodeUnit unit) {
    return unit.getName().equals("main") && unit.getModifiers().contains(JavaModifier.PUBLIC);
  }
}
