package com.example.lakehouse.optimization.support;

import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/** What it takes to compare two forms of a query: generated code, and the same rows from both. */
public final class Measured {
  private Measured() {}

  /**
   * Switches code generation on, as Spark has it by default. The session of this library interprets
   * expressions, because its data is small; here rows are many.
   */
  public static void generateCode(SparkSession spark) {
    spark.conf().set("spark.sql.codegen.wholeStage", "true");
    spark.conf().set("spark.sql.codegen.factoryMode", "FALLBACK");
  }

  /**
   * Compares the results of {@code queries} by their number of rows and a checksum over all columns
   * that does not depend on the rows' order.
   *
   * @param queries each by its name, with the same columns in the same order, none of them a map
   * @return how many rows each has
   * @throws IllegalStateException if two differ; the message names all of them with their figures
   */
  public static long sameRows(Map<String, Dataset<Row>> queries) {
    Map<String, Row> results = new LinkedHashMap<>();
    queries.forEach(
        (name, query) ->
            results.put(
                name,
                query
                    .selectExpr("xxhash64(struct(*)) AS hash")
                    .selectExpr("count(*) AS row_count", "sum(CAST(hash AS DECIMAL(38, 0)))")
                    .head()));
    if (results.values().stream().distinct().count() != 1) {
      throw new IllegalStateException(
          "The queries give different rows (number, checksum): " + results);
    }
    return results.values().iterator().next().getLong(0);
  }
}
