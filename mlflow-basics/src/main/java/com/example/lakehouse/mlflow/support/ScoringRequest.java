package com.example.lakehouse.mlflow.support;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.ZoneId;
import java.time.format.DateTimeParseException;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * Rows from the body of MLflow's {@code /invocations}: {@code dataframe_split}, {@code
 * dataframe_records} or {@code instances}. A value must have its column's type: where pandas, in
 * MLflow's own server, makes 1 of 1.5 or a number of a text, this says what is wrong. A null is
 * NULL, as in a Spark job, where pandas makes NaN of it.
 */
final class ScoringRequest {
  private static final JsonMapper JSON =
      JsonMapper.builder()
          .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
          .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
          .build();

  private static final Set<String> FORMS =
      Set.of("dataframe_split", "dataframe_records", "instances");

  /** MLflow's own server has no null for the other types either. */
  private static final Set<String> NULLABLE = Set.of("string", "float", "double", "timestamp");

  /** What the sender must change. */
  static final class Invalid extends Exception {
    private static final long serialVersionUID = 1;

    Invalid(String message) {
      super(message);
    }
  }

  private ScoringRequest() {}

  /**
   * The rows of a request.
   *
   * @param zone of texts with a date or a time
   * @return values as {@link RowScorer#predict} takes them
   */
  static List<Object[]> rows(byte[] body, StructType inputs, ZoneId zone) throws Invalid {
    JsonNode request;
    try {
      request = JSON.readTree(body);
    } catch (JsonProcessingException e) {
      // Without where it comes from, of which Jackson says that it does not say it.
      String reason = e.getOriginalMessage().replaceFirst("(?s) \\(start marker at .*", "");
      throw new Invalid(
          "The body is not JSON, in line %d at column %d: %s"
              .formatted(e.getLocation().getLineNr(), e.getLocation().getColumnNr(), reason));
    } catch (IOException e) {
      throw new Invalid("The body is not JSON in UTF-8");
    }
    Set<String> forms = new TreeSet<>(FORMS);
    forms.retainAll(names(request));
    if (forms.size() != 1) {
      throw new Invalid(
          "The body must be an object with exactly one of %s; it has %s"
              .formatted(new TreeSet<>(FORMS), forms.isEmpty() ? "none" : forms));
    }
    String form = forms.iterator().next();
    JsonNode data = request.get(form);
    return form.equals("dataframe_split")
        ? split(data, inputs, zone)
        : records(form, data, inputs, zone);
  }

  private static Set<String> names(JsonNode object) {
    Set<String> names = new TreeSet<>();
    object.fieldNames().forEachRemaining(names::add);
    return names;
  }

  private static List<Object[]> split(JsonNode split, StructType inputs, ZoneId zone)
      throws Invalid {
    if (!split.path("columns").isArray() || split.path("data").isEmpty()) {
      throw new Invalid(
          "dataframe_split must have the arrays columns and data, with one row at least");
    }
    Map<String, Integer> places = new HashMap<>();
    for (JsonNode column : split.get("columns")) {
      if (places.put(column.asText(), places.size()) != null) {
        throw new Invalid("dataframe_split has the column %s twice".formatted(column.asText()));
      }
    }
    List<StructField> fields = List.of(inputs.fields());
    missing(fields.stream().map(StructField::name).filter(n -> !places.containsKey(n)).toList());
    List<Object[]> rows = new ArrayList<>();
    for (JsonNode values : split.get("data")) {
      if (!values.isArray() || values.size() != places.size()) {
        throw new Invalid(
            "Row %d of dataframe_split must be an array of %d values"
                .formatted(rows.size(), places.size()));
      }
      Object[] row = new Object[fields.size()];
      for (int i = 0; i < row.length; i++) {
        row[i] =
            value(rows.size(), fields.get(i), values.get(places.get(fields.get(i).name())), zone);
      }
      rows.add(row);
    }
    return rows;
  }

  private static List<Object[]> records(
      String form, JsonNode records, StructType inputs, ZoneId zone) throws Invalid {
    if (!records.isArray() || records.isEmpty()) {
      throw new Invalid(form + " must be an array of objects, with one at least");
    }
    List<StructField> fields = List.of(inputs.fields());
    List<Object[]> rows = new ArrayList<>();
    for (JsonNode record : records) {
      if (!record.isObject()) {
        throw new Invalid("Row %d of %s must be an object".formatted(rows.size(), form));
      }
      missing(fields.stream().map(StructField::name).filter(n -> !record.has(n)).toList());
      Object[] row = new Object[fields.size()];
      for (int i = 0; i < row.length; i++) {
        row[i] = value(rows.size(), fields.get(i), record.get(fields.get(i).name()), zone);
      }
      rows.add(row);
    }
    return rows;
  }

  private static void missing(List<String> names) throws Invalid {
    if (!names.isEmpty()) {
      throw new Invalid("The model is missing inputs: " + names);
    }
  }

  private static Object value(int row, StructField field, JsonNode json, ZoneId zone)
      throws Invalid {
    DataType type = field.dataType();
    Object value = null;
    try {
      value =
          switch (type.typeName()) {
            case "string" -> json.isTextual() ? UTF8String.fromString(json.textValue()) : null;
            case "boolean" -> json.isBoolean() ? json.booleanValue() : null;
            case "integer" ->
                json.canConvertToExactIntegral() && json.canConvertToInt() ? json.intValue() : null;
            case "long" ->
                json.canConvertToExactIntegral() && json.canConvertToLong()
                    ? json.longValue()
                    : null;
            case "float" ->
                json.isNumber() && Float.isFinite(json.floatValue()) ? json.floatValue() : null;
            case "double" ->
                json.isNumber() && Double.isFinite(json.doubleValue()) ? json.doubleValue() : null;
            default -> json.isTextual() ? micros(json.textValue(), zone) : null;
          };
    } catch (DateTimeParseException | ArithmeticException e) {
      value = null;
    }
    if (value == null && !(json.isNull() && NULLABLE.contains(type.typeName()))) {
      String text = json.toString();
      throw new Invalid(
          "Column %s of row %d must be %s, not %s"
              .formatted(
                  field.name(),
                  row,
                  type.typeName().equals("timestamp")
                      ? "a date or a time without a zone, such as \"2025-01-31T08:00:00\""
                      : "of type " + type.typeName(),
                  text.length() > 40 ? text.substring(0, 40) + "…" : text));
    }
    return value;
  }

  private static long micros(String text, ZoneId zone) {
    LocalDateTime time =
        text.length() == "2025-01-31".length()
            ? LocalDate.parse(text).atStartOfDay()
            : LocalDateTime.parse(text.replace(' ', 'T'));
    return ChronoUnit.MICROS.between(Instant.EPOCH, time.atZone(zone).toInstant());
  }
}
