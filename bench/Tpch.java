import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.NumericType;
import org.apache.spark.sql.types.StructType;

/**
 * Started by {@code bench/tpch}, which says what it measures: one folder of {@code tpch.py} after
 * another, each called as its scale.
 */
public final class Tpch {
  /** Below this scale the planning of a query outweighs its rows, so there is no bar. */
  private static final double MEASURED_SCALE = 1;

  private static final int ROUNDS = 3;
  private static final double MAX_RATIO = 1.1;

  /** Of the larger of two numbers; a double has 15 digits. */
  private static final BigDecimal TOLERANCE = new BigDecimal("1e-12");

  private static final BigDecimal HALF = new BigDecimal("0.5");

  private final SparkSession spark;
  private final Path folder;

  private enum Format {
    DELTA,
    PARQUET;

    String lowerCase() {
      return name().toLowerCase(Locale.ROOT);
    }
  }

  private record Query(int number, String sql, List<String> orderBy, Integer limit) {}

  private record Result(StructType schema, List<Row> rows) {}

  private Tpch(SparkSession spark, Path folder) {
    this.spark = spark;
    this.folder = folder;
  }

  public static void main(String[] args) throws IOException {
    SparkSession spark = SparkSessions.open("tpch");
    boolean passed = true;
    try {
      for (String folder : args) {
        passed &= new Tpch(spark, Path.of(folder)).run();
      }
    } finally {
      SparkSessions.close(spark);
    }
    System.exit(passed ? 0 : 1);
  }

  private boolean run() throws IOException {
    String scale = folder.getFileName().toString();
    boolean measured = Double.parseDouble(scale) >= MEASURED_SCALE;
    List<Query> queries =
        new ObjectMapper()
            .readValue(folder.resolve("queries.json").toFile(), new TypeReference<>() {});
    Map<Integer, Result> expected = new HashMap<>();
    for (Query query : queries) {
      Dataset<Row> rows =
          spark.read().parquet(uri(folder.resolve("expected/" + query.number() + ".parquet")));
      expected.put(query.number(), new Result(rows.schema(), rows.collectAsList()));
    }

    Map<Integer, Map<Format, List<Double>>> seconds = new HashMap<>();
    Map<Integer, Integer> found = new HashMap<>();
    Map<Integer, String> differences = new HashMap<>();
    try (Sandbox delta = new Sandbox(spark, "tpch_delta", false);
        Sandbox parquet = new Sandbox(spark, "tpch_parquet", false)) {
      Map<Format, Sandbox> sandboxes =
          new EnumMap<>(Map.of(Format.DELTA, delta, Format.PARQUET, parquet));
      write(scale, sandboxes);
      for (int round = 0; round < ROUNDS; round++) {
        for (Query query : queries) {
          List<Format> order = new ArrayList<>(List.of(Format.values()));
          // The second one finds the query's generated code compiled.
          if ((round + query.number()) % 2 == 0) {
            Collections.reverse(order);
          }
          for (Format format : order) {
            spark.catalog().setCurrentDatabase(sandboxes.get(format).schema());
            long start = System.nanoTime();
            Dataset<Row> dataset = spark.sql(query.sql());
            List<Row> rows = dataset.collectAsList();
            seconds
                .computeIfAbsent(query.number(), number -> new EnumMap<>(Format.class))
                .computeIfAbsent(format, f -> new ArrayList<>())
                .add((System.nanoTime() - start) / 1e9);
            found.put(query.number(), rows.size());
            String difference =
                difference(query, expected.get(query.number()), new Result(dataset.schema(), rows));
            if (difference != null) {
              differences.putIfAbsent(query.number(), format.lowerCase() + ": " + difference);
            }
          }
        }
      }
    }
    return report(scale, measured, queries, seconds, found, differences);
  }

  /** Both formats from the same rows, in as many files. */
  private void write(String scale, Map<Format, Sandbox> sandboxes) throws IOException {
    List<Path> tables;
    try (Stream<Path> files = Files.list(folder.resolve("tables"))) {
      tables = files.sorted().toList();
    }
    for (Format format : Format.values()) {
      long start = System.nanoTime();
      long rows = 0;
      for (Path table : tables) {
        String name = table.getFileName().toString().replace(".parquet", "");
        Dataset<Row> source = spark.read().parquet(uri(table));
        source.write().format(format.lowerCase()).saveAsTable(sandboxes.get(format).table(name));
        rows += source.count();
      }
      System.out.printf(
          Locale.ROOT,
          "scale %s: %,d rows in %d tables written as %s in %.1f s%n",
          scale,
          rows,
          tables.size(),
          format.lowerCase(),
          (System.nanoTime() - start) / 1e9);
    }
  }

  private static boolean report(
      String scale,
      boolean measured,
      List<Query> queries,
      Map<Integer, Map<Format, List<Double>>> seconds,
      Map<Integer, Integer> found,
      Map<Integer, String> differences) {
    System.out.println("query | rows | delta s | parquet s | ratio | result");
    double deltaTotal = 0;
    double parquetTotal = 0;
    for (Query query : queries) {
      double delta = median(seconds.get(query.number()).get(Format.DELTA));
      double parquet = median(seconds.get(query.number()).get(Format.PARQUET));
      deltaTotal += delta;
      parquetTotal += parquet;
      String difference = differences.get(query.number());
      System.out.printf(
          Locale.ROOT,
          "%d | %,d | %.2f | %.2f | %.2f | %s%n",
          query.number(),
          found.get(query.number()),
          delta,
          parquet,
          delta / parquet,
          difference == null ? "equal" : "DIFFERENT: " + difference);
    }
    int equal = queries.size() - differences.size();
    boolean allEqual = equal == 22;
    System.out.printf(
        "scale %s: %d of %d equal (bar 22): %s%n",
        scale, equal, queries.size(), allEqual ? "pass" : "FAIL");
    double ratio = deltaTotal / parquetTotal;
    boolean fast = !measured || ratio <= MAX_RATIO;
    System.out.printf(
        Locale.ROOT,
        "scale %s: in total delta %.1f s, parquet %.1f s, ratio %.2f %s%n",
        scale,
        deltaTotal,
        parquetTotal,
        ratio,
        measured ? "(bar %.2f): %s".formatted(MAX_RATIO, fast ? "pass" : "FAIL") : "(no bar)");
    return allEqual && fast;
  }

  private static double median(List<Double> values) {
    return values.stream().sorted().toList().get(values.size() / 2);
  }

  private static String uri(Path path) {
    return path.toUri().toString();
  }

  /**
   * What is wrong with a result, or null. It is right when it has as many rows as it must; when the
   * columns that it is ordered by run as in the expected result; and when each row is an expected
   * one, none more often than expected. The expected result is that without the query's LIMIT, so
   * all rows are there of which a limit may take either.
   */
  private static String difference(Query query, Result expected, Result actual) {
    List<String> expectedColumns = columns(expected.schema());
    if (!columns(actual.schema()).equals(expectedColumns)) {
      return "columns %s, not %s".formatted(columns(actual.schema()), expectedColumns);
    }
    int size = expected.rows().size();
    if (query.limit() != null) {
      size = Math.min(size, query.limit());
    }
    if (actual.rows().size() != size) {
      return "%d rows, not %d".formatted(actual.rows().size(), size);
    }

    int[] ordered = query.orderBy().stream().mapToInt(expected.schema()::fieldIndex).toArray();
    for (int i = 0; i < size; i++) {
      List<Object> key = values(actual.rows().get(i), ordered);
      List<Object> expectedKey = values(expected.rows().get(i), ordered);
      if (!key.equals(expectedKey)) {
        return "row %d is at %s, not at %s".formatted(i + 1, key, expectedKey);
      }
    }

    Map<Boolean, List<Integer>> byExactness =
        IntStream.range(0, expectedColumns.size())
            .boxed()
            .collect(
                Collectors.partitioningBy(
                    i -> isExact(expected.schema(), i) && isExact(actual.schema(), i)));
    int[] exact = byExactness.get(true).stream().mapToInt(Integer::intValue).toArray();
    List<Integer> inexact = byExactness.get(false);
    Map<List<Object>, List<Row>> left = new HashMap<>();
    for (Row row : expected.rows()) {
      left.computeIfAbsent(values(row, exact), values -> new ArrayList<>()).add(row);
    }
    for (Row row : actual.rows()) {
      List<Row> candidates = left.getOrDefault(values(row, exact), List.of());
      Row match =
          candidates.stream()
              .filter(
                  candidate -> inexact.stream().allMatch(i -> isNear(row.get(i), candidate.get(i))))
              .findFirst()
              .orElse(null);
      if (match == null) {
        return "%s is not, or not as often, in %s".formatted(row, candidates);
      }
      candidates.remove(match);
    }
    return null;
  }

  /** Names, and types as far as they must agree: a number is a number. */
  private static List<String> columns(StructType schema) {
    return Arrays.stream(schema.fields())
        .map(
            field ->
                field.name()
                    + " "
                    + (field.dataType() instanceof NumericType
                        ? "number"
                        : field.dataType().simpleString()))
        .toList();
  }

  private static boolean isExact(StructType schema, int column) {
    DataType type = schema.fields()[column].dataType();
    return !type.equals(DataTypes.DoubleType) && !type.equals(DataTypes.FloatType);
  }

  /** The values of some columns; numbers without the zeros at their end that come of their type. */
  private static List<Object> values(Row row, int[] columns) {
    List<Object> values = new ArrayList<>();
    for (int column : columns) {
      Object value = row.get(column);
      values.add(value instanceof Number ? number(value).stripTrailingZeros() : value);
    }
    return values;
  }

  /** DuckDB divides decimals as doubles; Spark as decimals, and rounds at the last digit. */
  private static boolean isNear(Object one, Object other) {
    if (one == null || other == null) {
      return one == other;
    }
    BigDecimal a = number(one);
    BigDecimal b = number(other);
    BigDecimal tolerance =
        a.abs().max(b.abs()).multiply(TOLERANCE).add(rounding(one)).add(rounding(other));
    return a.subtract(b).abs().compareTo(tolerance) <= 0;
  }

  private static BigDecimal number(Object value) {
    return new BigDecimal(value.toString());
  }

  private static BigDecimal rounding(Object value) {
    return value instanceof BigDecimal decimal ? decimal.ulp().multiply(HALF) : BigDecimal.ZERO;
  }
}
