package com.example.lakehouse.common;

import com.samskivert.mustache.Mustache;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;

/**
 * Writes the story as one HTML file that needs nothing else: styles, charts and source are in it.
 */
final class HtmlSink implements Sink {
  private final Example example;
  private final ExampleSource source;
  private final Path folder;
  private final List<Block> blocks = new ArrayList<>();

  HtmlSink(Example example, ExampleSource source, Path folder) {
    this.example = example;
    this.source = source;
    this.folder = folder;
  }

  Path file() {
    return file(folder, example).toAbsolutePath().normalize();
  }

  private static Path file(Path folder, Example example) {
    return folder.resolve(example.module()).resolve(example.name() + ".html");
  }

  @Override
  public void show(Block block) {
    blocks.add(block);
  }

  @Override
  public void close() {
    write(
        file(),
        "page.html",
        Map.of(
            "module", example.module(),
            "source", source,
            "blocks", blocks.stream().map(HtmlSink::model).toList()));
  }

  /** Lists the pages in {@code folder}, by module, and returns the list's own file. */
  static Path writeIndex(Path folder, List<Example> examples) {
    Map<String, List<ExampleSource>> modules = new TreeMap<>();
    for (Example example : examples) {
      if (Files.exists(file(folder, example))) {
        modules
            .computeIfAbsent(example.module(), m -> new ArrayList<>())
            .add(ExampleSource.of(example.type()));
      }
    }
    Path index = folder.resolve("index.html").toAbsolutePath().normalize();
    write(index, "index.html", Map.of("modules", modules.entrySet()));
    return index;
  }

  /** The block under the name of its kind, which is what the template asks for. */
  private static Map<String, Object> model(Block block) {
    Object model = block;
    if (block instanceof Block.Table table) {
      model =
          Map.of(
              "caption", table.caption(),
              "head", cells(table.columns(), table.numeric()),
              "body", table.rows().stream().map(row -> cells(row, table.numeric())).toList(),
              "more", table.more() ? "only the first " + table.rows().size() + " rows" : "");
    } else if (block instanceof Block.Figure figure) {
      model = Map.of("title", figure.drawing().title(), "svg", Svg.draw(figure.drawing()));
    }
    return Map.of(block.getClass().getSimpleName().toLowerCase(Locale.ROOT), model);
  }

  private record Cell(String text, boolean numeric) {}

  private static List<Cell> cells(List<String> texts, List<Boolean> numeric) {
    return IntStream.range(0, texts.size())
        .mapToObj(i -> new Cell(texts.get(i), numeric.get(i)))
        .toList();
  }

  private static void write(Path file, String template, Map<String, Object> values) {
    Map<String, Object> model = new HashMap<>(values);
    model.put("style", resource("style.css"));
    String page =
        Mustache.compiler()
            .escapeHTML(true)
            .emptyStringIsFalse(true)
            .compile(resource(template))
            .execute(model);
    try {
      Files.createDirectories(file.getParent());
      Files.writeString(file, page);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String resource(String name) {
    try (InputStream in = HtmlSink.class.getResourceAsStream(name)) {
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
