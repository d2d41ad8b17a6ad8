package com.example.lakehouse.sql;

import java.util.List;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/** Temporary views of a few rows, which are gone after the test. */
final class Views {
  private Views() {}

  /** With columns such as {@code shop STRING, pieces INT}. */
  static Dataset<Row> view(SparkSession spark, String name, String ddl, List<Row> rows) {
    Dataset<Row> data = spark.createDataFrame(rows, StructType.fromDDL(ddl));
    data.createOrReplaceTempView(name);
    return data;
  }

  /** From SQL, such as {@code (1, 'Ada'), (2, 'Grace') AS v (customer_id, name)}. */
  static Dataset<Row> view(SparkSession spark, String name, String values) {
    Dataset<Row> data = spark.sql("SELECT * FROM VALUES " + values);
    data.createOrReplaceTempView(name);
    return data;
  }
}
