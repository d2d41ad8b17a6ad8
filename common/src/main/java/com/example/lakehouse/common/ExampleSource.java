package com.example.lakehouse.common;

import com.github.javaparser.JavaParser;
import com.github.javaparser.JavaToken;
import com.github.javaparser.ParserConfiguration;
import com.github.javaparser.ParserConfiguration.LanguageLevel;
import com.github.javaparser.ast.CompilationUnit;
import com.github.javaparser.ast.body.ClassOrInterfaceDeclaration;
import com.github.javaparser.ast.body.MethodDeclaration;
import com.github.javaparser.ast.nodeTypes.NodeWithRange;
import com.github.javaparser.javadoc.Javadoc;
import com.github.javaparser.javadoc.JavadocBlockTag;
import com.github.javaparser.javadoc.description.JavadocDescription;
import com.github.javaparser.javadoc.description.JavadocInlineTag;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * An example's own source, which stands on the class path beside its class: what it says of itself,
 * and its text in pieces that a page can colour.
 */
final class ExampleSource {
  private static final Pattern LINK =
      Pattern.compile("<a\\s+href=\"([^\"]+)\">\\s*(.*?)\\s*</a>", Pattern.DOTALL);

  /**
   * A run of the text. {@code kind} is empty, {@code keyword}, {@code literal} or {@code comment}.
   */
  record Piece(String kind, String text) {}

  /** Lines that belong together: a snippet, or what stands between snippets. */
  record Part(boolean snippet, List<Piece> pieces) {}

  record Link(String address, String text) {}

  private final String name;
  private final CompilationUnit unit;
  private final Javadoc header;

  private ExampleSource(String name, CompilationUnit unit) {
    this.name = name;
    this.unit = unit;
    this.header =
        unit.getType(0)
            .toClassOrInterfaceDeclaration()
            .flatMap(ClassOrInterfaceDeclaration::getJavadoc)
            .orElseThrow(() -> new IllegalStateException(name + " has no Javadoc on its class"));
  }

  static ExampleSource of(Class<?> example) {
    try {
      String text = read(example);
      CompilationUnit unit =
          new JavaParser(new ParserConfiguration().setLanguageLevel(LanguageLevel.JAVA_17))
              .parse(text)
              .getResult()
              .orElseThrow();
      return new ExampleSource(example.getSimpleName(), unit);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String read(Class<?> example) throws IOException {
    try (InputStream in = example.getResourceAsStream(example.getSimpleName() + ".java")) {
      if (in != null) {
        return new String(in.readAllBytes(), StandardCharsets.UTF_8);
      }
    }
    // Some IDEs do not copy sources beside the classes: …/target/classes has its …/src/main/java.
    Path classes =
        Path.of(URI.create(example.getProtectionDomain().getCodeSource().getLocation().toString()));
    return Files.readString(
        classes
            .resolve("../../src/main/java")
            .resolve(example.getName().replace('.', '/') + ".java")
            .normalize());
  }

  String name() {
    return name;
  }

  /** The first paragraph of the header, in one line: the question that the example answers. */
  String summary() {
    return paragraphs().get(0);
  }

  /** The header's paragraphs as plain text. */
  List<String> paragraphs() {
    String all = plain(header.getDescription());
    return List.of(all.split("\\s*<p>\\s*", -1)).stream()
        .map(paragraph -> paragraph.replaceAll("\\s+", " ").strip())
        .toList();
  }

  /** What the header's {@code @see} tags point to. */
  List<Link> links() {
    return header.getBlockTags().stream()
        .filter(tag -> tag.getType() == JavadocBlockTag.Type.SEE)
        .map(tag -> LINK.matcher(tag.getContent().toText()))
        .filter(Matcher::find)
        .map(link -> new Link(link.group(1), link.group(2).replaceAll("\\s+", " ")))
        .toList();
  }

  /**
   * The whole text, cut where a snippet (a public static method other than main) begins and ends.
   */
  List<Part> parts() {
    List<MethodDeclaration> snippets =
        unit.findAll(MethodDeclaration.class).stream()
            .filter(m -> m.isPublic() && m.isStatic() && !m.getNameAsString().equals("main"))
            .toList();
    List<Part> parts = new ArrayList<>();
    boolean inSnippet = false;
    List<Piece> pieces = new ArrayList<>();
    for (JavaToken token : unit.getTokenRange().orElseThrow()) {
      boolean snippet = snippets.stream().anyMatch(s -> covers(s, token));
      if (snippet != inSnippet) {
        parts.add(new Part(inSnippet, pieces));
        pieces = new ArrayList<>();
        inSnippet = snippet;
      }
      pieces.add(new Piece(kind(token), token.getText()));
    }
    parts.add(new Part(inSnippet, pieces));
    return parts.stream().filter(part -> !part.pieces().isEmpty()).toList();
  }

  private static boolean covers(MethodDeclaration snippet, JavaToken token) {
    int line = token.getRange().orElseThrow().begin.line;
    int first =
        snippet
            .getComment()
            .flatMap(NodeWithRange::getBegin)
            .or(snippet::getBegin)
            .orElseThrow()
            .line;
    return line >= first && line <= snippet.getEnd().orElseThrow().line;
  }

  private static String kind(JavaToken token) {
    return switch (token.getCategory()) {
      case KEYWORD -> "keyword";
      case LITERAL -> "literal";
      case COMMENT -> "comment";
      default -> "";
    };
  }

  private static String plain(JavadocDescription description) {
    return description.getElements().stream()
        .map(e -> e instanceof JavadocInlineTag tag ? tag.getContent().strip() : e.toText())
        .collect(Collectors.joining())
        .replaceAll("</p>", "");
  }
}
