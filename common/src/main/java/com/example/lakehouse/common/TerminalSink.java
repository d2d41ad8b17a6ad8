package com.example.lakehouse.common;

import com.github.freva.asciitable.AsciiTable;
import com.github.freva.asciitable.Column;
import com.github.freva.asciitable.HorizontalAlign;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.IntStream;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.Help.ColorScheme;

/** Prints the story; in colour on a terminal only, and not when {@code NO_COLOR} is set. */
final class TerminalSink implements Sink {
  private static final int BAR_WIDTH = 40;

  /** Of a curve. */
  private static final int MAX_POINTS = 11;

  private final PrintStream out;
  private final ColorScheme colors;

  TerminalSink(PrintStream out, Ansi ansi) {
    this.out = out;
    this.colors = new ColorScheme.Builder(ansi).build();
  }

  void header(ExampleSource source) {
    out.println(style("bold", source.name()));
    out.println(source.summary());
  }

  @Override
  public void show(Block block) {
    if (block instanceof Block.Step step) {
      out.println();
      out.println(style("bold,cyan", step.number() + ". " + step.title()));
    } else if (block instanceof Block.Text text) {
      out.println(text.text());
    } else if (block instanceof Block.Table table) {
      show(table);
    } else if (block instanceof Block.Figure figure) {
      if (figure.drawing() instanceof Chart chart) {
        show(chart);
      } else if (figure.drawing() instanceof Plot plot) {
        show(plot);
      }
    } else if (block instanceof Block.Refusal refusal) {
      out.println(style("red", "✗ " + refusal.what()));
      out.println(
          "  " + refusal.type() + (refusal.condition().isEmpty() ? "" : " " + refusal.condition()));
      out.println("  " + refusal.message());
    }
    out.flush();
  }

  private void show(Block.Table table) {
    if (!table.caption().isEmpty()) {
      out.println(style("faint", table.caption()));
    }
    List<Column> columns = new ArrayList<>();
    for (int i = 0; i < table.columns().size(); i++) {
      columns.add(
          new Column()
              .header(table.columns().get(i))
              .maxWidth(60)
              .dataAlign(table.numeric().get(i) ? HorizontalAlign.RIGHT : HorizontalAlign.LEFT));
    }
    String[][] rows =
        table.rows().stream().map(row -> row.toArray(String[]::new)).toArray(String[][]::new);
    out.println(
        AsciiTable.getTable(
            AsciiTable.BASIC_ASCII_NO_DATA_SEPARATORS, columns.toArray(Column[]::new), rows));
    if (table.more()) {
      out.println("only the first " + table.rows().size() + " rows");
    }
  }

  private void show(Chart chart) {
    out.println(style("faint", chart.title() + ", " + chart.unit()));
    List<String> labels = new ArrayList<>();
    List<Double> values = new ArrayList<>();
    chart
        .series()
        .forEach(
            (name, bars) ->
                bars.forEach(
                    (category, value) -> {
                      labels.add(name.isEmpty() ? category : category + ", " + name);
                      values.add(value);
                    }));
    int width = labels.stream().mapToInt(String::length).max().orElse(0);
    double max = values.stream().mapToDouble(Double::doubleValue).max().orElse(0);
    IntStream.range(0, labels.size())
        .forEach(
            i ->
                out.printf(
                    Locale.ROOT,
                    "  %-" + Math.max(1, width) + "s %s %s%n",
                    labels.get(i),
                    "█".repeat(max == 0 ? 0 : (int) Math.ceil(BAR_WIDTH * values.get(i) / max)),
                    Numbers.format(values.get(i))));
  }

  /** A curve is on the page; here is what it does at its ends and between. */
  private void show(Plot plot) {
    List<List<String>> rows = new ArrayList<>();
    plot.series()
        .forEach(
            (name, points) -> {
              List<Plot.Point> shown = points;
              if (plot.joined() && points.size() > MAX_POINTS) {
                shown =
                    IntStream.range(0, MAX_POINTS)
                        .mapToObj(i -> points.get(i * (points.size() - 1) / (MAX_POINTS - 1)))
                        .toList();
              }
              shown.forEach(
                  p -> rows.add(List.of(name, Numbers.format(p.x()), Numbers.format(p.y()))));
            });
    show(
        new Block.Table(
            plot.title(),
            List.of("", plot.x(), plot.y()),
            List.of(false, true, true),
            rows,
            false));
  }

  private String style(String style, String text) {
    return colors.apply(text, List.of(Ansi.Style.parse(style))).toString();
  }

  @Override
  public void close() {
    out.flush();
  }
}
