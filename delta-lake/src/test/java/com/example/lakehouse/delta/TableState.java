package com.example.lakehouse.delta;

import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/** What the tests ask of a Delta table beside its rows. */
final class TableState {
  private TableState() {}

  /** The latest version. */
  static long version(SparkSession spark, String table) {
    return lastCommit(spark, table).<Long>getAs("version");
  }

  /** What the latest commit says that it did. */
  static Map<String, String> metrics(SparkSession spark, String table) {
    return lastCommit(spark, table)
        .getJavaMap(lastCommit(spark, table).fieldIndex("operationMetrics"));
  }

  static Row lastCommit(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).history(1).head();
  }

  /** The data files that hold the table's rows now. */
  static Set<String> files(SparkSession spark, String table) {
    return new TreeSet<>(List.of(spark.table(table).inputFiles()));
  }
}
