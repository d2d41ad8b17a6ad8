package com.example.lakehouse.common;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.jupiter.api.Test;
import picocli.CommandLine.Help.Ansi;

class TerminalSinkTest {

  private static String printed(Ansi ansi, Block... blocks) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (TerminalSink sink =
        new TerminalSink(new PrintStream(bytes, true, StandardCharsets.UTF_8), ansi)) {
      for (Block block : blocks) {
        sink.show(block);
      }
    }
    return bytes.toString(StandardCharsets.UTF_8).replace("\r\n", "\n");
  }

  @Test
  void aTableIsAlignedByType() {
    assertThat(
            printed(
                Ansi.OFF,
                new Block.Table(
                    "stock",
                    List.of("product", "pieces"),
                    List.of(false, true),
                    List.of(List.of("lamp", "10"), List.of("desk", "7")),
                    false)))
        .isEqualTo(
            """
            stock
            +---------+--------+
            | product | pieces |
            +---------+--------+
            | lamp    |     10 |
            | desk    |      7 |
            +---------+--------+
            """);
  }

  @Test
  void aChartIsBarsInProportion() {
    assertThat(
            printed(
                Ansi.OFF,
                new Block.Figure(new Chart("read", "files").bar("before", 64).bar("after", 16))))
        .isEqualTo(
            """
            read, files
              before %s 64
              after  %s 16
            """
                .formatted("█".repeat(40), "█".repeat(10)));
  }

  @Test
  void aScatterIsATableOfItsPoints() {
    assertThat(
            printed(
                Ansi.OFF,
                new Block.Figure(
                    Plot.scatter("models", "depth", "error")
                        .point("a", 3, 0.5)
                        .point("b", 5, 0.25))))
        .isEqualTo(
            """
            models
            +---+-------+-------+
            |   | depth | error |
            +---+-------+-------+
            | a |     3 |   0.5 |
            | b |     5 |  0.25 |
            +---+-------+-------+
            """);
  }

  @Test
  void aLongCurveIsElevenOfItsPointsWithBothEnds() {
    Plot curve = Plot.curve("loss", "step", "loss");
    for (int step = 0; step <= 1_000; step++) {
      curve.point("run", step, 2 * step);
    }

    assertThat(printed(Ansi.OFF, new Block.Figure(curve)).lines())
        .hasSize(11 + 5)
        .contains("| run |     0 |     0 |", "| run |   500 | 1,000 |", "| run | 1,000 | 2,000 |");
  }

  @Test
  void aRefusalNamesTheErrorAndItsCondition() {
    assertThat(
            printed(
                Ansi.OFF, new Block.Refusal("No", "SomeException", "SOME_CONDITION", "because")))
        .isEqualTo("✗ No\n  SomeException SOME_CONDITION\n  because\n");
  }

  @Test
  void colourIsUsedOnlyWhereItIsWanted() {
    Block step = new Block.Step(1, "First");

    assertThat(printed(Ansi.ON, step)).contains("\u001B[");
    assertThat(printed(Ansi.OFF, step)).isEqualTo("\n1. First\n");
  }
}
