package com.example.lakehouse.delta;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Launcher;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What {@code ./run} does once it has built. Here, because common has no examples. */
class LauncherTest {

  private static ChildJvm run(String... args) throws Exception {
    return ChildJvm.run(Launcher.class, List.of(), args);
  }

  @Test
  void listShowsEveryExampleWithItsQuestion() throws Exception {
    ChildJvm list = run("list");

    assertThat(list.exitCode()).isZero();
    assertThat(list.output())
        .contains("delta-lake")
        .containsPattern(
            "MergeUpsert +Upserts: one atomic MERGE updates the rows that exist and inserts the rest\\.")
        .contains(
            "CreateTable", "AcidTransactions", "TimeTravel", "SchemaEvolution", "OptimizeTable")
        .doesNotContain("Launcher");
  }

  @Test
  void anUnknownNameGivesTheNearestOnesAndCode2() throws Exception {
    ChildJvm unknown = run("MergeUpsrt");

    assertThat(unknown.exitCode()).isEqualTo(2);
    assertThat(unknown.output())
        .startsWith("There is no example or module 'MergeUpsrt'. The nearest are: MergeUpsert, ");
  }

  @Test
  void anUnknownOptionIsNamedAndGivesCode2() throws Exception {
    ChildJvm unknown = run("MergeUpsert", "--colour");

    assertThat(unknown.exitCode()).isEqualTo(2);
    assertThat(unknown.output())
        .isEqualTo("Unknown option: '--colour' (--help shows the options.)\n");
  }

  @Test
  void withoutArgumentsItShowsItsHelp() throws Exception {
    assertThat(run().output()).contains("Usage: ./run", "--html", "--master", "--keep", "--scale");
  }

  @Test
  void severalExamplesWriteTheirPagesAndAnIndex(@TempDir Path folder) throws Exception {
    ChildJvm two = run("--html", "createtable", "TimeTravel", "--out=" + folder);

    assertThat(two.exitCode()).as(two.output()).isZero();
    assertThat(two.output()).contains("2 examples, 0 failed");
    assertThat(folder.resolve("delta-lake/CreateTable.html")).exists();
    assertThat(folder.resolve("delta-lake/TimeTravel.html")).exists();
    assertThat(folder.resolve("index.html"))
        .content()
        .contains("delta-lake/CreateTable.html", "delta-lake/TimeTravel.html")
        .doesNotContain("MergeUpsert");
  }

  @Test
  void anExampleThatFailsGivesItsErrorFirstAndCode1(@TempDir Path folder) throws Exception {
    Path file = Files.createFile(folder.resolve("a-file"));

    ChildJvm failed =
        ChildJvm.run(Launcher.class, List.of("-Dlakehouse.sandbox=" + file), "TimeTravel");

    assertThat(failed.exitCode()).isEqualTo(1);
    // After the example's name and question, and before any log or stack trace.
    assertThat(failed.output().lines().skip(2).findFirst())
        .hasValue(
            "TimeTravel failed: java.io.UncheckedIOException: java.nio.file.FileAlreadyExistsException: "
                + file);
  }
}
