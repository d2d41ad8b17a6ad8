package com.example.lakehouse.common;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Modifier;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * A class that can be run and that explains something.
 *
 * @param module the module's folder, such as {@code delta-lake}
 */
record Example(String module, Class<?> type) {
  private static final String ROOT = "com.example.lakehouse";
  private static final String NO_EXAMPLES = "common";
  private static final Pattern JAR = Pattern.compile("(.*?)-\\d.*\\.jar");

  String name() {
    return type.getSimpleName();
  }

  void run(String... args) throws Throwable {
    try {
      type.getMethod("main", String[].class).invoke(null, (Object) args);
    } catch (InvocationTargetException e) {
      throw e.getCause();
    }
  }

  static Example of(Class<?> type) {
    return new Example(moduleOf(type), type);
  }

  /**
   * All examples on the class path, by module and name: the classes with a {@code main} in {@code
   * com.example.lakehouse.*}, but not deeper.
   */
  static List<Example> all() {
    List<Example> examples = new ArrayList<>();
    try {
      String folder = ROOT.replace('.', '/');
      for (URL url : Collections.list(Example.class.getClassLoader().getResources(folder))) {
        if (url.getProtocol().equals("jar")) {
          try (FileSystem jar = FileSystems.newFileSystem(url.toURI(), Map.of())) {
            addAll(jar.getPath(folder), examples);
          }
        } else {
          addAll(Path.of(url.toURI()), examples);
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (URISyntaxException e) {
      throw new IllegalStateException(e);
    }
    examples.sort(Comparator.comparing(Example::module).thenComparing(Example::name));
    return examples;
  }

  private static void addAll(Path root, List<Example> examples) throws IOException {
    try (Stream<Path> files = Files.walk(root, 2)) {
      for (Path file : files.toList()) {
        Path name = root.relativize(file);
        if (name.getNameCount() == 2
            && name.toString().endsWith(".class")
            && !NO_EXAMPLES.equals(name.getName(0).toString())) {
          Class<?> type =
              load(
                  ROOT
                      + "."
                      + name.toString().replaceAll("\\.class$", "").replaceAll("[/\\\\]", "."));
          if (hasMain(type)) {
            examples.add(of(type));
          }
        }
      }
    }
  }

  private static Class<?> load(String name) {
    try {
      return Class.forName(name, false, Example.class.getClassLoader());
    } catch (ClassNotFoundException e) {
      throw new IllegalStateException(e);
    }
  }

  private static boolean hasMain(Class<?> type) {
    return Modifier.isPublic(type.getModifiers())
        && Stream.of(type.getDeclaredMethods())
            .anyMatch(m -> m.getName().equals("main") && Modifier.isPublic(m.getModifiers()));
  }

  /** From {@code …/delta-lake/target/classes} or {@code …/delta-lake-1.0.jar}. */
  private static String moduleOf(Class<?> type) {
    Path place =
        Path.of(URI.create(type.getProtectionDomain().getCodeSource().getLocation().toString()));
    var jar = JAR.matcher(place.getFileName().toString());
    return jar.matches() ? jar.group(1) : place.getParent().getParent().getFileName().toString();
  }
}
