package com.example.lakehouse.common;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import org.apache.commons.text.similarity.LevenshteinDistance;
import org.apache.spark.sql.SparkSession;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.Parameters;

/** Behind the {@code run} script: lists examples, and runs one, those of a module, or all. */
public final class Launcher {

  @Command(name = "./run")
  static final class Options extends RunOptions {
    @Parameters(
        arity = "0..*",
        paramLabel = "WHAT",
        description = "'list', 'all', the name of a module, or names of examples.")
    List<String> what = new ArrayList<>();
  }

  private Launcher() {}

  /**
   * Ends with 0, with 1 if an example failed, or with 2 if the command line or the machine is not
   * what it needs.
   */
  public static void main(String[] args) {
    System.exit(run(args));
  }

  private static int run(String... args) {
    Options options = new Options();
    try {
      RunOptions.parse(options, args);
      if (options.help || options.what.isEmpty()) {
        CommandLine.usage(options, System.out, Ansi.AUTO);
        return 0;
      }
      List<Example> all = Example.all();
      if (options.what.equals(List.of("list"))) {
        list(all);
        return 0;
      }
      List<Example> chosen =
          options.what.stream().flatMap(what -> find(what, all).stream()).toList();
      String[] rest =
          Arrays.stream(args).filter(arg -> !options.what.contains(arg)).toArray(String[]::new);
      int failures = run(chosen, rest);
      if (options.html) {
        System.out.println("Index: " + HtmlSink.writeIndex(options.out, all).toUri());
      }
      return failures == 0 ? 0 : 1;
    } catch (SetupException e) {
      System.err.println(e.getMessage());
      return 2;
    }
  }

  private static int run(List<Example> examples, String... args) {
    // One session for all of them: a single example opens and closes its own.
    SparkSession shared = examples.size() > 1 ? SparkSessions.open("Lakehouse examples") : null;
    List<String> failed = new ArrayList<>();
    for (Example example : examples) {
      try {
        example.run(args);
      } catch (SetupException e) {
        throw e;
      } catch (Throwable e) {
        System.err.println(example.name() + " failed: " + e);
        e.printStackTrace();
        failed.add(example.name());
      }
      System.out.println();
    }
    if (shared != null) {
      SparkSessions.close(shared);
      System.out.printf(
          "%d examples, %d failed%s%n",
          examples.size(), failed.size(), failed.isEmpty() ? "" : ": " + String.join(", ", failed));
    }
    return failed.size();
  }

  private static void list(List<Example> all) {
    String module = "";
    for (Example example : all) {
      if (!module.equals(example.module())) {
        module = example.module();
        System.out.println(Ansi.AUTO.string("%n@|bold %s|@".formatted(module)));
      }
      System.out.printf("  %-24s %s%n", example.name(), ExampleSource.of(example.type()).summary());
    }
  }

  private static List<Example> find(String what, List<Example> all) {
    List<Example> found =
        all.stream()
            .filter(
                e ->
                    what.equals("all")
                        || what.equals(e.module())
                        || what.equalsIgnoreCase(e.name()))
            .toList();
    if (found.isEmpty()) {
      throw new SetupException(
          "There is no example or module '%s'. The nearest are: %s. './run list' shows all."
              .formatted(what, String.join(", ", nearest(what, all))));
    }
    return found;
  }

  private static List<String> nearest(String what, List<Example> all) {
    LevenshteinDistance distance = LevenshteinDistance.getDefaultInstance();
    String wanted = what.toLowerCase(Locale.ROOT);
    return all.stream()
        .flatMap(e -> List.of(e.name(), e.module()).stream())
        .distinct()
        .sorted(Comparator.comparing(name -> distance.apply(wanted, name.toLowerCase(Locale.ROOT))))
        .limit(3)
        .toList();
  }
}
