package com.example.lakehouse.streaming;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.streaming.runtime.MemoryStream;
import org.apache.spark.sql.types.StructType;
import scala.jdk.javaapi.CollectionConverters;

/** A stream of the rows that a test adds, for one query: what a query has done is gone. */
final class Rows {
  private final SparkSession spark;
  private final StructType schema;
  private final MemoryStream<Row> stream;
  private final List<Row> pending = new ArrayList<>();

  /** With columns such as {@code event_id BIGINT, event_time TIMESTAMP}. */
  Rows(SparkSession spark, String ddl) {
    this.spark = spark;
    this.schema = StructType.fromDDL(ddl);
    this.stream = MemoryStream.apply(Encoders.row(schema), spark);
  }

  Dataset<Row> stream() {
    return stream.toDF();
  }

  /** Adds rows in SQL, such as {@code (1, '2025-01-01 10:00:00')}, which are cast to the types. */
  void add(String... values) {
    String[] columns =
        Arrays.stream(schema.fields())
            .map(f -> "CAST(%1$s AS %2$s) AS %1$s".formatted(f.name(), f.dataType().sql()))
            .toArray(String[]::new);
    add(
        spark
            .sql(
                "SELECT * FROM VALUES %s AS added (%s)"
                    .formatted(String.join(", ", values), String.join(", ", schema.fieldNames())))
            .selectExpr(columns)
            .collectAsList());
  }

  void add(List<Row> rows) {
    pending.addAll(rows);
  }

  /** Makes what was added visible to running queries, all at once: it is one batch for them. */
  void arrive() {
    if (!pending.isEmpty()) {
      stream.addData(CollectionConverters.asScala(List.copyOf(pending)).toSeq());
      pending.clear();
    }
  }
}
