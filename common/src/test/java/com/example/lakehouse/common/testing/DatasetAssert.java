package com.example.lakehouse.common.testing;

import java.util.Arrays;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.types.StructType;
import org.assertj.core.api.AbstractAssert;
import org.assertj.core.api.Assertions;

/**
 * Assertions on the schema and the rows of a {@link Dataset}; a failure shows the rows that differ.
 */
public final class DatasetAssert extends AbstractAssert<DatasetAssert, Dataset<Row>> {
  private static final int SHOWN = 20;

  private DatasetAssert(Dataset<Row> actual) {
    super(actual, DatasetAssert.class);
  }

  public static DatasetAssert assertThat(Dataset<Row> actual) {
    return new DatasetAssert(actual);
  }

  /** A row to compare with. */
  public static Row row(Object... values) {
    return RowFactory.create(values);
  }

  /**
   * Compares names and types, in order; neither nullability nor comments.
   *
   * @param ddl such as {@code id BIGINT, name STRING}
   */
  public DatasetAssert hasSchema(String ddl) {
    return hasColumns(StructType.fromDDL(ddl));
  }

  private DatasetAssert hasColumns(StructType expected) {
    Assertions.assertThat(columns(actual.schema())).as("schema").isEqualTo(columns(expected));
    return this;
  }

  /** Compares all rows, in any order; a row that is there twice must be expected twice. */
  public DatasetAssert hasRows(Row... expected) {
    List<Row> rows = actual.collectAsList();
    Assertions.assertThat(rows.stream().map(DatasetAssert::text))
        .as("rows")
        .containsExactlyInAnyOrderElementsOf(
            Arrays.stream(expected).map(DatasetAssert::text).toList());
    return this;
  }

  /** Compares all rows in the order in which the dataset gives them. */
  public DatasetAssert hasRowsInOrder(Row... expected) {
    Assertions.assertThat(actual.collectAsList().stream().map(DatasetAssert::text))
        .as("rows")
        .containsExactlyElementsOf(Arrays.stream(expected).map(DatasetAssert::text).toList());
    return this;
  }

  public DatasetAssert hasRowCount(long expected) {
    Assertions.assertThat(actual.count()).as("row count").isEqualTo(expected);
    return this;
  }

  public DatasetAssert isEmpty() {
    Assertions.assertThat(actual.takeAsList(SHOWN)).as("rows").isEmpty();
    return this;
  }

  /**
   * Compares with another dataset by the same columns, in any order and of any size: Spark does it.
   */
  public DatasetAssert hasSameRowsAs(Dataset<Row> expected) {
    hasColumns(expected.schema());
    Assertions.assertThat(expected.exceptAll(actual).takeAsList(SHOWN))
        .as("missing rows")
        .isEmpty();
    Assertions.assertThat(actual.exceptAll(expected).takeAsList(SHOWN))
        .as("surplus rows")
        .isEmpty();
    return this;
  }

  private static List<String> columns(StructType schema) {
    return Arrays.stream(schema.fields())
        .map(field -> field.name() + " " + field.dataType().sql())
        .toList();
  }

  /** With its type, so that 1 and 1L differ and say so. */
  private static String text(Row row) {
    StringBuilder text = new StringBuilder("[");
    for (int i = 0; i < row.size(); i++) {
      Object value = row.get(i);
      text.append(i == 0 ? "" : ", ").append(value instanceof Row inner ? text(inner) : value);
      text.append(value instanceof Long ? "L" : value instanceof Float ? "f" : "");
    }
    return text.append("]").toString();
  }
}
