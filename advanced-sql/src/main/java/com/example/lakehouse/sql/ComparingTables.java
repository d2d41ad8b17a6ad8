package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.array_compact;
import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.not;
import static org.apache.spark.sql.functions.size;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Notebook;
import java.util.Arrays;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * The difference of two tables, row by row: {@code EXCEPT ALL} and {@code INTERSECT ALL}, a full
 * join that names the columns that changed, and unions by name.
 *
 * <p>Run: {@code ./run ComparingTables}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: last week's products beside this week's: what is new, gone and changed; a row that is
 * there twice and once; a union that puts prices among the stock.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-setops.html">Spark
 *     SQL: set operators</a>
 */
public final class ComparingTables {

  private ComparingTables() {}

  /**
   * The rows that only one of the tables or views {@code before} and {@code after} has, as often as
   * it has them more often than the other. NULL equals NULL. No row: the tables have the same rows.
   *
   * @return {@code side STRING}, {@code before} or {@code after}, and the tables' columns
   */
  public static Dataset<Row> difference(SparkSession spark) {
    return spark.sql(
        """
        SELECT 'before' AS side, *
        FROM (SELECT * FROM before EXCEPT ALL SELECT * FROM after)
        UNION ALL
        SELECT 'after', *
        FROM (SELECT * FROM after EXCEPT ALL SELECT * FROM before)
        """);
  }

  /**
   * The same from Datasets, whose columns may stand in another order.
   *
   * @throws IllegalArgumentException if they have not the same columns
   */
  public static Dataset<Row> difference(Dataset<Row> before, Dataset<Row> after) {
    String[] columns = before.columns();
    String[] others = after.columns();
    if (!Arrays.equals(
        Arrays.stream(columns).sorted().toArray(), Arrays.stream(others).sorted().toArray())) {
      throw new IllegalArgumentException(
          "not the same columns: %s and %s"
              .formatted(Arrays.toString(columns), Arrays.toString(others)));
    }
    Dataset<Row> same =
        after.select(Arrays.stream(columns).map(c -> col("`" + c + "`")).toArray(Column[]::new));
    return before
        .exceptAll(same)
        .select(lit("before").as("side"), col("*"))
        .unionAll(same.exceptAll(before).select(lit("after").as("side"), col("*")));
  }

  /** The rows that both have, as often as the one that has them less often. */
  public static Dataset<Row> common(SparkSession spark) {
    return spark.sql("SELECT * FROM before INTERSECT ALL SELECT * FROM after");
  }

  /**
   * What happened to each product that is not as it was.
   *
   * @return {@code product_id INT, change STRING} ({@code new}, {@code gone} or {@code changed})
   *     and {@code columns ARRAY<STRING>}, the columns whose values differ, NULL compared as a
   *     value; of {@code before} and {@code after} with {@code product_id} (unique, not NULL),
   *     {@code name, price, stock}
   */
  public static Dataset<Row> changes(SparkSession spark) {
    return spark.sql(
        """
        SELECT coalesce(b.product_id, a.product_id) AS product_id,
               CASE WHEN b.product_id IS NULL THEN 'new'
                    WHEN a.product_id IS NULL THEN 'gone'
                    ELSE 'changed' END AS change,
               array_compact(array(
                 IF(b.name <=> a.name, NULL, 'name'),
                 IF(b.price <=> a.price, NULL, 'price'),
                 IF(b.stock <=> a.stock, NULL, 'stock'))) AS columns
        FROM before AS b
        FULL JOIN after AS a ON a.product_id = b.product_id
        WHERE b.product_id IS NULL
           OR a.product_id IS NULL
           OR NOT (b.name <=> a.name AND b.price <=> a.price AND b.stock <=> a.stock)
        """);
  }

  /**
   * The same from Datasets of any columns.
   *
   * @param key the column that tells a row from all others of its table; not NULL
   */
  public static Dataset<Row> changes(Dataset<Row> before, Dataset<Row> after, String key) {
    Column[] differing =
        Arrays.stream(before.columns())
            .filter(column -> !column.equals(key))
            .map(
                column ->
                    when(
                        not(col("b.`" + column + "`").eqNullSafe(col("a.`" + column + "`"))),
                        lit(column)))
            .toArray(Column[]::new);
    Column isNew = col("b." + key).isNull();
    Column isGone = col("a." + key).isNull();
    return before
        .as("b")
        .join(after.as("a"), col("a." + key).equalTo(col("b." + key)), "full")
        .select(
            coalesce(col("b." + key), col("a." + key)).as(key),
            when(isNew, "new").when(isGone, "gone").otherwise("changed").as("change"),
            array_compact(array(differing)).as("columns"))
        .where(col("change").notEqual("changed").or(size(col("columns")).gt(0)));
  }

  /**
   * Both tables' rows, columns matched by name; one that a table lacks is NULL there. SQL has no
   * {@code UNION BY NAME} in Spark 4.1: there {@code UNION ALL} goes by position, and the columns
   * must be written out.
   */
  public static Dataset<Row> unionByName(Dataset<Row> first, Dataset<Row> second) {
    return first.unionByName(second, true);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ComparingTables.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW before AS SELECT * FROM VALUES
                (1, 'mug', 9, 40), (2, 'pen', 2, 70), (3, 'cap', 15, NULL), (4, 'bag', 30, 5)
                AS before (product_id, name, price, stock)
              """);
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW after AS SELECT * FROM VALUES
                (1, 'mug', 9, 40), (2, 'pen', 3, 65), (3, 'cap', 15, 8), (5, 'tie', 20, 12)
                AS after (product_id, name, price, stock)
              """);

          notebook.step("What is new, gone and changed");
          notebook.table("before", spark.table("before"));
          notebook.table("after", spark.table("after"));
          notebook.table(
              "each product that is not as it was", changes(spark).orderBy("product_id"));
          notebook.table(
              "the rows that only one side has", difference(spark).orderBy("product_id", "side"));
          notebook.table("the rows of both", common(spark));
          notebook.text(
              "The cap's stock was NULL and is 8: stock <> stock is NULL there, and finds %d"
                  + " changes; NOT (stock <=> stock) finds %d.",
              spark
                  .sql(
                      "SELECT * FROM before AS b JOIN after AS a USING (product_id) WHERE b.stock"
                          + " <> a.stock")
                  .count(),
              spark
                  .sql(
                      "SELECT * FROM before AS b JOIN after AS a USING (product_id) WHERE NOT"
                          + " (b.stock <=> a.stock)")
                  .count());

          notebook.step("A row that is there twice");
          Dataset<Row> once = spark.table("before").where("product_id = 1");
          notebook.text(
              "Twice and once: EXCEPT finds %d rows, EXCEPT ALL %d.",
              once.union(once).except(once).count(), once.union(once).exceptAll(once).count());

          notebook.step("Union: by position or by name");
          notebook.table(
              "UNION ALL goes by position: stock among the prices, and no error",
              spark.sql(
                  """
                  SELECT product_id, price, stock FROM before WHERE product_id = 2
                  UNION ALL
                  SELECT product_id, stock, price FROM after WHERE product_id = 2
                  """));
          notebook.table(
              "by name, from Datasets; a column that one side lacks is NULL",
              unionByName(
                  spark.sql(
                      "SELECT product_id, name, price, stock FROM before WHERE product_id = 2"),
                  spark.sql("SELECT stock, product_id, price FROM after WHERE product_id = 2")));

          notebook.step("What is refused");
          notebook.refused(
              "UNION ALL BY NAME in SQL",
              "PARSE_SYNTAX_ERROR",
              () -> spark.sql("SELECT * FROM before UNION ALL BY NAME SELECT * FROM after"));
          notebook.refused(
              "Tables of different width",
              "NUM_COLUMNS_MISMATCH",
              () -> spark.sql("SELECT * FROM before EXCEPT ALL SELECT product_id FROM after"));
          notebook.refused(
              "A column of a map, which cannot be compared",
              "UNSUPPORTED_FEATURE.SET_OPERATION_ON_MAP_TYPE",
              () -> spark.sql("SELECT map('a', 1) AS m EXCEPT ALL SELECT map('a', 1)"));
        });
  }
}
