import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.SparkSessions;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedWriter;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.spark.SparkThrowable;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.unsafe.types.VariantVal;

/**
 * Started by {@code bench/interop}: writes each table's schema and rows, as Spark reads them, to a
 * file of JSON lines; of a table that Spark refuses, the error's condition.
 *
 * <p>A value is written as a text that {@code interop.py} can make of the same value in Arrow, with
 * nothing rounded: numbers in full, floating point as its bits, times as microseconds.
 */
public final class Interop {
  private static final ObjectMapper JSON = new ObjectMapper();

  /**
   * Some examples end with a table that nobody can read: a clone whose source has been vacuumed,
   * and a table with a feature that there is not. Spark must not fail for another reason.
   */
  private static final Set<String> REFUSALS =
      Set.of("FAILED_READ_FILE.FILE_NOT_EXIST", "DELTA_UNSUPPORTED_FEATURES_FOR_READ");

  private Interop() {}

  /** The first argument is a file of lines "file to write, tab, folder of a table". */
  public static void main(String[] args) throws IOException {
    SparkSession spark = SparkSessions.open("interop");
    try {
      for (String line : Files.readAllLines(Path.of(args[0]))) {
        String[] expectedAndTable = line.split("\t", 2);
        write(spark, Path.of(expectedAndTable[1]), Path.of(expectedAndTable[0]));
      }
    } finally {
      SparkSessions.close(spark);
    }
  }

  private static void write(SparkSession spark, Path table, Path expected) throws IOException {
    List<Object> lines = new ArrayList<>();
    try {
      Dataset<Row> dataset = spark.read().format("delta").load(table.toUri().toString());
      List<List<String>> schema = new ArrayList<>();
      for (StructField field : dataset.schema().fields()) {
        // Arrow has no VARIANT: its readers give the two parts in which one is stored.
        String type = field.dataType().simpleString();
        schema.add(
            List.of(field.name(), type.replace("variant", "struct<metadata:binary,value:binary>")));
      }
      lines.add(schema);
      for (Row row : dataset.collectAsList()) {
        lines.add(canonical(row));
      }
    } catch (Exception e) {
      if (!(e instanceof SparkThrowable refusal) || !REFUSALS.contains(refusal.getCondition())) {
        throw e;
      }
      lines = List.of(refusal.getCondition());
    }
    try (BufferedWriter out = Files.newBufferedWriter(expected)) {
      for (Object line : lines) {
        out.write(JSON.writeValueAsString(line));
        out.newLine();
      }
    }
  }

  private static Object canonical(Object value) throws IOException {
    if (value == null) {
      return null;
    } else if (value instanceof Row row) {
      List<Object> values = new ArrayList<>();
      for (int i = 0; i < row.size(); i++) {
        values.add(canonical(row.get(i)));
      }
      return values;
    } else if (value instanceof scala.collection.Map<?, ?> map) {
      // A map has no order: that of its entries' texts.
      List<Object> entries = new ArrayList<>();
      for (Map.Entry<?, ?> entry : asJava(map).entrySet()) {
        entries.add(Arrays.asList(canonical(entry.getKey()), canonical(entry.getValue())));
      }
      entries.sort(Comparator.comparing(Interop::text));
      return entries;
    } else if (value instanceof scala.collection.Seq<?> list) {
      List<Object> values = new ArrayList<>();
      for (Object element : asJava(list)) {
        values.add(canonical(element));
      }
      return values;
    } else if (value instanceof Double number) {
      return "%016x".formatted(Double.doubleToLongBits(number));
    } else if (value instanceof Float number) {
      return "%016x".formatted(Double.doubleToLongBits(number));
    } else if (value instanceof BigDecimal number) {
      return number.toPlainString();
    } else if (value instanceof byte[] bytes) {
      return HexFormat.of().formatHex(bytes);
    } else if (value instanceof VariantVal variant) {
      return List.of(canonical(variant.getMetadata()), canonical(variant.getValue()));
    } else if (value instanceof Instant time) {
      return String.valueOf(ChronoUnit.MICROS.between(Instant.EPOCH, time));
    } else if (value instanceof LocalDateTime time) {
      return canonical(time.toInstant(ZoneOffset.UTC));
    } else {
      // Whole numbers, booleans, strings and dates say it themselves.
      return value.toString();
    }
  }

  private static String text(Object entry) {
    try {
      return JSON.writeValueAsString(entry);
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }
}
