package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Notebook;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;

/**
 * Pivot: values of a column become columns, with several aggregates, with NULLs, and with values
 * that are only known when the query runs and may be anything.
 *
 * <p>Run: {@code ./run Pivot}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a row for each shop and two columns for each category; what happens to a category that is
 * not listed, and to a column that nobody names; a category called {@code '); DROP TABLE sales;
 * --}.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the views'.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-pivot.html">Spark
 *     SQL: PIVOT clause</a>
 */
public final class Pivot {

  private Pivot() {}

  /**
   * Sales by shop, with columns for two categories and for those without one: {@code shop,
   * audio_pieces BIGINT, audio_amount, books_pieces, books_amount, unknown_pieces, unknown_amount};
   * NULL where a shop has sold nothing of a category.
   *
   * <p>PIVOT groups by every column that it does not name, so the subquery leaves out the others. A
   * category that is not listed is left out without a word.
   *
   * @param sales the name of a table or view with {@code shop STRING, category STRING, pieces INT,
   *     amount} and others
   */
  public static Dataset<Row> byCategory(SparkSession spark, String sales) {
    return spark.sql(
        """
        SELECT *
        FROM (SELECT shop, category, pieces, amount FROM IDENTIFIER(:sales))
        PIVOT (
          sum(pieces) AS pieces, sum(amount) AS amount
          FOR category IN ('audio' AS audio, 'books' AS books, NULL AS unknown)
        )
        """,
        Map.of("sales", sales));
  }

  /** The same, as a DataFrame, which calls the column of NULL {@code null}. */
  public static Dataset<Row> byCategory(Dataset<Row> sales) {
    return sales
        .groupBy("shop")
        .pivot("category", Arrays.<Object>asList("audio", "books", null))
        .agg(sum("pieces").as("pieces"), sum("amount").as("amount"))
        .withColumnRenamed("null_pieces", "unknown_pieces")
        .withColumnRenamed("null_amount", "unknown_amount");
  }

  /**
   * The categories that there are, in order; NULL first.
   *
   * @param most how many columns they may become
   * @throws IllegalArgumentException if there are more, or if two would become one column: names of
   *     columns differ in more than case, and a NULL's is {@code null}
   */
  public static List<String> categories(Dataset<Row> sales, int most) {
    List<Row> found =
        sales.select("category").distinct().orderBy("category").limit(most + 1).collectAsList();
    if (found.size() > most) {
      throw new IllegalArgumentException("more than " + most + " categories");
    }
    List<String> categories = new ArrayList<>();
    Set<String> names = new HashSet<>();
    for (Row row : found) {
      categories.add(row.getString(0));
      if (!names.add(String.valueOf(row.getString(0)).toLowerCase(Locale.ROOT))) {
        throw new IllegalArgumentException("two categories for the column " + row.getString(0));
      }
    }
    return categories;
  }

  /**
   * The amount by shop, with a column for each of {@code categories}: {@code shop}, and each
   * category as it is. The categories are values here and nothing else, whatever is in them.
   *
   * @param sales with {@code shop STRING, category STRING, amount}
   */
  public static Dataset<Row> byEach(Dataset<Row> sales, List<String> categories) {
    return sales
        .groupBy("shop")
        .pivot("category", new ArrayList<Object>(categories))
        .agg(sum("amount"));
  }

  /**
   * The same, in SQL. The categories are parameters, and get their names afterwards: no name that
   * comes from data is ever part of the text. Quoting it would not do, for Spark puts the value of
   * a setting in place of <code>${name}</code> before it parses, within quotes too.
   */
  public static Dataset<Row> byEach(SparkSession spark, String sales, List<String> categories) {
    Map<String, Object> parameters = new HashMap<>(Map.of("sales", sales));
    List<String> columns = new ArrayList<>();
    List<String> names = new ArrayList<>(List.of("shop"));
    for (String category : categories) {
      String column = "c" + columns.size();
      parameters.put(column, category);
      columns.add(":" + column + " AS " + column);
      names.add(String.valueOf(category));
    }
    return spark
        .sql(
            """
            SELECT *
            FROM (SELECT shop, category, amount FROM IDENTIFIER(:sales))
            PIVOT (sum(amount) FOR category IN (%s))
            """
                .formatted(String.join(", ", columns)),
            parameters)
        .toDF(names.toArray(String[]::new));
  }

  /**
   * One column of a pivot, by its name, whatever is in it: {@code col} takes a path, in which a dot
   * leads into a struct and a backtick quotes.
   */
  public static Column column(String name) {
    return col("`" + name.replace("`", "``") + "`");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Pivot.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1, 'Berlin', 'audio', 1, 10.00BD), (2, 'Berlin', 'audio', 2, 20.00BD),
                    (3, 'Berlin', 'books', 1, 5.00BD),  (4, 'Paris', 'audio', 3, 7.50BD),
                    (5, 'Paris', NULL, 1, 1.25BD),      (6, 'Rome', 'toys', 4, 8.00BD)
                    AS sales (sale_id, shop, category, pieces, amount)
                  """)
              .createOrReplaceTempView("sales");

          notebook.step("Categories become columns");
          notebook.table("sales", spark.table("sales"));
          notebook.table("by category", byCategory(spark, "sales").orderBy("shop"));
          notebook.text("Toys are not listed: Rome has sold some, and its row is empty.");

          notebook.step("A column too many");
          notebook.table(
              "with sale_id among the columns, each sale is a group",
              spark.sql(
                  """
                  SELECT * FROM sales PIVOT (sum(amount) FOR category IN ('audio', 'books'))
                  ORDER BY sale_id
                  """));

          notebook.step("Columns for whatever categories there are");
          List<String> categories = categories(spark.table("sales"), 100);
          notebook.table(
              "found: " + categories, byEach(spark.table("sales"), categories).orderBy("shop"));

          notebook.step("Values are data");
          Dataset<Row> hostile =
              spark.createDataFrame(
                  List.of(
                      RowFactory.create("Berlin", "'); DROP TABLE sales; --", 1),
                      RowFactory.create("Berlin", "a.b", 2),
                      RowFactory.create("Berlin", "`back` and 'quotes'", 3)),
                  StructType.fromDDL("shop STRING, category STRING, amount INT"));
          hostile.createOrReplaceTempView("hostile");
          notebook.table(
              "names of columns, and no more", byEach(spark, "hostile", categories(hostile, 100)));
          notebook.text(
              "None of them is part of the SQL. In backticks it would do no harm either, but for"
                  + " one kind: ${name} is replaced by a setting's value before the text is"
                  + " parsed.");

          notebook.step("What is refused");
          notebook.refused(
              "Values from a subquery",
              "PARSE_SYNTAX_ERROR",
              () ->
                  spark.sql(
                      "SELECT * FROM sales PIVOT (sum(amount) FOR category IN (SELECT DISTINCT"
                          + " category FROM sales))"));
          notebook.refused(
              "Values from a column",
              "NON_LITERAL_PIVOT_VALUES",
              () -> spark.sql("SELECT * FROM sales PIVOT (sum(amount) FOR category IN (shop))"));
          spark.conf().set("spark.sql.pivotMaxValues", 3);
          notebook.refused(
              "Four values where spark.sql.pivotMaxValues is 3 (10,000 by default)",
              "_LEGACY_ERROR_TEMP_1324",
              () -> spark.table("sales").groupBy("shop").pivot("category").sum("amount"));
        });
  }
}
