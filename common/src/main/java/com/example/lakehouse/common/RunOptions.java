package com.example.lakehouse.common;

import java.nio.file.Path;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/** What can be said to an example on its command line. */
@Command(
    sortOptions = false,
    optionListHeading = "%nOptions:%n",
    description = "Runs examples and shows what they did.")
class RunOptions {
  @Option(names = "--html", description = "Also write an HTML page for each example, and an index.")
  boolean html;

  @Option(
      names = "--out",
      paramLabel = "FOLDER",
      description = "Where the pages go (${DEFAULT-VALUE}).")
  Path out = Path.of("target/html");

  @Option(
      names = "--keep",
      description = "Keep the tables and files of the run, and print where they are.")
  boolean keep;

  @Option(
      names = "--scale",
      paramLabel = "ROWS",
      description = "Rows of sample data, for the examples that use it.")
  Long scale;

  @Option(names = "--seed", description = "Seed of the sample data (${DEFAULT-VALUE}).")
  long seed = 42;

  @Option(
      names = "--master",
      paramLabel = "URL",
      description = "Spark master, such as local[2] or spark://HOST:7077 (local[*]).")
  String master;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "Show this text.")
  boolean help;

  /** Reads {@code args} into {@code options}. */
  static <T extends RunOptions> T parse(T options, String... args) {
    try {
      new CommandLine(options).parseArgs(args);
    } catch (CommandLine.ParameterException e) {
      throw new SetupException(e.getMessage() + " (--help shows the options.)");
    }
    if (options.master != null) {
      System.setProperty("spark.master", options.master);
    }
    return options;
  }
}
