package com.example.lakehouse.common;

import static java.util.stream.Collectors.joining;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import org.apache.commons.lang3.exception.ExceptionUtils;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.NumericType;
import org.apache.spark.sql.types.StructField;
import picocli.CommandLine;
import picocli.CommandLine.Help.Ansi;
import scala.collection.Seq;

/**
 * Tells the story of a run: steps, texts, tables and charts, on the terminal and, with {@code
 * --html}, on a page.
 *
 * <p>{@link #run} is the whole of a {@code main}: it reads the options, opens the session and a
 * sandbox, hands a notebook to the story, and cleans up whatever happens.
 */
public final class Notebook {
  private static final int MAX_ROWS = 20;
  private static final int MAX_MESSAGE = 300;

  private final SparkSession spark;
  private final Sandbox sandbox;
  private final RunOptions options;
  private final List<Sink> sinks;
  private int steps;

  private Notebook(SparkSession spark, Sandbox sandbox, RunOptions options, List<Sink> sinks) {
    this.spark = spark;
    this.sandbox = sandbox;
    this.options = options;
    this.sinks = sinks;
  }

  /** A story, which may fail: the run then fails with the same exception. */
  @FunctionalInterface
  public interface Story {
    void tell(Notebook notebook) throws Exception;
  }

  /**
   * Runs {@code story} as the example's {@code main}.
   *
   * @param args {@code --html}, {@code --out FOLDER}, {@code --keep}, {@code --scale ROWS}, {@code
   *     --seed N}, {@code --master URL}, {@code --help}
   * @throws SetupException if an option or the machine is not what the run needs; its message says
   *     what to do
   */
  public static void run(Class<?> example, String[] args, Story story) throws Exception {
    RunOptions options = RunOptions.parse(new RunOptions(), args);
    ExampleSource source = ExampleSource.of(example);
    // Boxes and bars are not in every terminal's default charset.
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    if (options.help) {
      out.println(source.summary());
      CommandLine.usage(new CommandLine(options).setCommandName(source.name()), out, Ansi.AUTO);
      return;
    }
    TerminalSink terminal = new TerminalSink(out, Ansi.AUTO);
    terminal.header(source);
    List<Sink> sinks = new ArrayList<>(List.of(terminal));
    boolean sessionIsOurs = SparkSessions.running().isEmpty();
    SparkSession spark = SparkSessions.open(source.name());
    try (Sandbox sandbox = new Sandbox(spark, source.name(), options.keep)) {
      HtmlSink page = options.html ? new HtmlSink(Example.of(example), source, options.out) : null;
      if (page != null) {
        sinks.add(page);
      }
      story.tell(new Notebook(spark, sandbox, options, sinks));
      sinks.forEach(Sink::close);
      if (page != null) {
        out.println("\nPage: " + page.file().toUri());
      }
      if (options.keep) {
        out.println("\nKept: " + sandbox.folder() + " (schema " + sandbox.schema() + ")");
      }
    } catch (Exception e) {
      // Ctrl-C stops queries and Spark while the story still goes on.
      if (!Shutdown.hasBegun()) {
        throw e;
      }
    } finally {
      if (sessionIsOurs) {
        SparkSessions.close(spark);
      }
    }
  }

  public SparkSession spark() {
    return spark;
  }

  public Sandbox sandbox() {
    return sandbox;
  }

  /**
   * The shop's data, of the size that {@code --scale} asks for.
   *
   * @param defaultRows its size otherwise
   */
  public SampleData sampleData(long defaultRows) {
    return SampleData.of(spark)
        .rows(options.scale == null ? defaultRows : options.scale)
        .seed(options.seed);
  }

  /** Begins the next step. */
  public void step(String title) {
    steps++;
    show(new Block.Step(steps, title));
  }

  /** A paragraph, formatted as {@link String#format(Locale, String, Object...)} does. */
  public void text(String format, Object... values) {
    show(new Block.Text(values.length == 0 ? format : String.format(Locale.ROOT, format, values)));
  }

  /** Runs {@code rows} and shows the first 20. */
  public void table(String caption, Dataset<Row> rows) {
    List<Row> first = rows.takeAsList(MAX_ROWS + 1);
    StructField[] fields = rows.schema().fields();
    show(
        new Block.Table(
            caption,
            Arrays.stream(fields).map(StructField::name).toList(),
            Arrays.stream(fields).map(f -> f.dataType() instanceof NumericType).toList(),
            first.stream().limit(MAX_ROWS).map(Notebook::cells).toList(),
            first.size() > MAX_ROWS));
  }

  /** Shows what queries really did side by side, a column for each. */
  public void profiles(String caption, Map<String, QueryProfile> profiles) {
    List<String> columns = new ArrayList<>(List.of("figure"));
    List<Boolean> numeric = new ArrayList<>(List.of(false));
    Map<String, List<String>> rows = new LinkedHashMap<>();
    profiles.forEach(
        (name, profile) -> {
          columns.add(name);
          numeric.add(true);
          figures(profile)
              .forEach(
                  (figure, value) ->
                      rows.computeIfAbsent(figure, f -> new ArrayList<>(List.of(f))).add(value));
        });
    show(new Block.Table(caption, columns, numeric, List.copyOf(rows.values()), false));
  }

  public void chart(Drawing drawing) {
    show(new Block.Figure(drawing));
  }

  /** What a step expects to be refused. */
  @FunctionalInterface
  public interface Attempt {
    void run() throws Exception;
  }

  /**
   * Makes an attempt that Spark or Delta must refuse, and shows the error.
   *
   * @param condition the error's condition, such as {@code DELTA_VERSION_NOT_FOUND}; the error
   *     itself has it, or one of its causes
   * @throws Exception the attempt's own, if it fails for another reason
   * @throws IllegalStateException if it is not refused
   */
  public void refused(String what, String condition, Attempt attempt) throws Exception {
    try {
      attempt.run();
    } catch (Exception e) {
      Throwable refusal =
          ExceptionUtils.getThrowableList(e).stream()
              .filter(t -> t instanceof SparkThrowable s && condition.equals(s.getCondition()))
              .findFirst()
              .orElseThrow(() -> e);
      show(
          new Block.Refusal(
              what,
              refusal.getClass().getName(),
              condition,
              shortened(String.valueOf(refusal.getMessage()))));
      return;
    }
    throw new IllegalStateException("expected " + condition + ", but it was not refused: " + what);
  }

  /** In one line, without the condition that Spark puts in front. */
  static String shortened(String message) {
    String line = message.strip().replaceFirst("^\\[[A-Z0-9_.]+] ", "").replaceAll("\\s+", " ");
    return line.length() <= MAX_MESSAGE ? line : line.substring(0, MAX_MESSAGE) + " …";
  }

  private static Map<String, String> figures(QueryProfile profile) {
    Map<String, String> figures = new LinkedHashMap<>();
    figures.put("files read", Numbers.format(profile.filesRead()));
    figures.put("files pruned", Numbers.format(profile.filesPruned()));
    figures.put("bytes read", Numbers.format(profile.bytesRead()));
    figures.put("rows read", Numbers.format(profile.rowsRead()));
    figures.put(
        "exchanges",
        profile.exchanges().isEmpty()
            ? "none"
            : profile.exchanges().toString().replaceAll("[{}]", "").replace('=', ' '));
    figures.put("joins", profile.joins().isEmpty() ? "none" : String.join(", ", profile.joins()));
    figures.put("shuffle bytes", Numbers.format(profile.shuffleBytes()));
    figures.put("spill bytes", Numbers.format(profile.spillBytes()));
    figures.put("tasks", Numbers.format(profile.tasks()));
    figures.put("longest task, ms", Numbers.format(profile.longestTask().toMillis()));
    figures.put("median task, ms", Numbers.format(profile.medianTask().toMillis()));
    figures.put("time, ms", Numbers.format(profile.wallTime().toMillis()));
    return figures;
  }

  private static List<String> cells(Row row) {
    return IntStream.range(0, row.size()).mapToObj(i -> cell(row.get(i))).toList();
  }

  /** Without the names of the Scala classes that hold arrays and maps. */
  static String cell(Object value) {
    if (value instanceof Row struct) {
      return "[" + String.join(", ", cells(struct)) + "]";
    } else if (value instanceof Seq<?> array) {
      return asJava(array).stream().map(Notebook::cell).collect(joining(", ", "[", "]"));
    } else if (value instanceof scala.collection.Map<?, ?> map) {
      return asJava(map).entrySet().stream()
          .map(entry -> cell(entry.getKey()) + ": " + cell(entry.getValue()))
          .collect(joining(", ", "{", "}"));
    } else {
      return String.valueOf(value);
    }
  }

  private void show(Block block) {
    sinks.forEach(sink -> sink.show(block));
  }
}
