package com.example.lakehouse.delta;

import static java.util.stream.Collectors.toSet;

import com.example.lakehouse.common.Sandbox;
import io.delta.tables.DeltaTable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
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

  /** All data files in the folder of a table that is not partitioned, in whatever version. */
  static Set<Path> filesOnDisk(Sandbox sandbox, String table) throws IOException {
    try (Stream<Path> files = Files.list(sandbox.folder().resolve("schema").resolve(table))) {
      return files.filter(file -> file.toString().endsWith(".parquet")).collect(toSet());
    }
  }

  /** Deletes all files that the latest version does not need, however young. */
  static void vacuumAll(SparkSession spark, String table) {
    spark.conf().set("spark.databricks.delta.retentionDurationCheck.enabled", "false");
    Vacuum.vacuumAll(spark, table);
  }
}
