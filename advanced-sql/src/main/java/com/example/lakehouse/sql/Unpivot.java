package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.inline;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.struct;

import com.example.lakehouse.common.Notebook;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Unpivot: columns become rows, with or without their NULLs, one column at a time or several
 * together, and back again.
 *
 * <p>Run: {@code ./run Unpivot}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a row for each quarter; a shop without any sales that vanishes, or stays; pieces and
 * amounts of a quarter in one row; which types go together, and what that does to them.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the views'.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-unpivot.html">Spark
 *     SQL: UNPIVOT clause</a>
 */
public final class Unpivot {

  private Unpivot() {}

  /**
   * A row for each quarter in which a shop has sales: {@code shop STRING, quarter STRING, sales
   * INT}. NULLs are left out, which is UNPIVOT's default: a shop that has nothing else is gone.
   *
   * @param quarters the name of a table or view with {@code shop STRING, q1 INT, q2 INT, q3 INT}
   */
  public static Dataset<Row> sales(SparkSession spark, String quarters) {
    return spark.sql(
        """
        SELECT * FROM IDENTIFIER(:quarters)
        UNPIVOT (sales FOR quarter IN (q1, q2, q3))
        """,
        Map.of("quarters", quarters));
  }

  /** The same with a row for each NULL too: three for each shop. */
  public static Dataset<Row> allSales(SparkSession spark, String quarters) {
    return spark.sql(
        """
        SELECT * FROM IDENTIFIER(:quarters)
        UNPIVOT INCLUDE NULLS (sales FOR quarter IN (q1, q2, q3))
        """,
        Map.of("quarters", quarters));
  }

  /** {@link #sales}, as a DataFrame: {@code unpivot} keeps NULLs, unlike the SQL clause. */
  public static Dataset<Row> sales(Dataset<Row> quarters) {
    return allSales(quarters).where("sales IS NOT NULL");
  }

  /**
   * {@link #allSales}, as a DataFrame, of whatever columns there are beside {@code shop}, so that a
   * fourth quarter needs no change. SQL has no such form.
   */
  public static Dataset<Row> allSales(Dataset<Row> quarters) {
    return quarters.unpivot(new Column[] {col("shop")}, "quarter", "sales");
  }

  /**
   * Back to a column for each quarter: {@code shop, q1, q2, q3}.
   *
   * @param sales the name of a table or view with {@code shop, quarter, sales}, at most one row for
   *     a shop and a quarter
   */
  public static Dataset<Row> back(SparkSession spark, String sales) {
    return spark.sql(
        """
        SELECT * FROM (SELECT shop, quarter, sales FROM IDENTIFIER(:sales))
        PIVOT (max(sales) FOR quarter IN ('q1', 'q2', 'q3'))
        """,
        Map.of("sales", sales));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> back(Dataset<Row> sales) {
    return sales
        .groupBy("shop")
        .pivot("quarter", List.<Object>of("q1", "q2", "q3"))
        .agg(max("sales"));
  }

  /**
   * Pieces and amount of a quarter together: {@code shop STRING, quarter STRING, pieces INT, amount
   * DECIMAL}. A row is left out if both are NULL.
   *
   * @param quarters the name of a table or view with {@code shop, q1_pieces INT, q1_amount DECIMAL,
   *     q2_pieces, q2_amount}
   */
  public static Dataset<Row> piecesAndAmounts(SparkSession spark, String quarters) {
    return spark.sql(
        """
        SELECT * FROM IDENTIFIER(:quarters)
        UNPIVOT (
          (pieces, amount) FOR quarter IN (
            (q1_pieces, q1_amount) AS q1,
            (q2_pieces, q2_amount) AS q2)
        )
        """,
        Map.of("quarters", quarters));
  }

  /**
   * The same, as a DataFrame: {@code unpivot} has one column of values, an array of structs any
   * number.
   */
  public static Dataset<Row> piecesAndAmounts(Dataset<Row> quarters) {
    Column[] rows =
        List.of("q1", "q2").stream()
            .map(
                quarter ->
                    struct(
                        lit(quarter).as("quarter"),
                        col(quarter + "_pieces").as("pieces"),
                        col(quarter + "_amount").as("amount")))
            .toArray(Column[]::new);
    return quarters
        .select(col("shop"), inline(array(rows)))
        .where("pieces IS NOT NULL OR amount IS NOT NULL");
  }

  /**
   * All columns but the key as text: {@code id, field STRING, value STRING}, with a row for each
   * NULL. Columns of any types, which are refused together without the CASTs.
   *
   * @param id the key's name
   */
  public static Dataset<Row> fields(Dataset<Row> table, String id) {
    Column[] values =
        Arrays.stream(table.columns())
            .filter(name -> !name.equals(id))
            .map(name -> table.col("`" + name.replace("`", "``") + "`").cast("string").as(name))
            .toArray(Column[]::new);
    return table.unpivot(new Column[] {table.col(id)}, values, "field", "value");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Unpivot.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Berlin', 10, 20, NULL), ('Paris', 30, NULL, 50), ('Rome', NULL, NULL, NULL)
                    AS quarters (shop, q1, q2, q3)
                  """)
              .createOrReplaceTempView("quarters");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('Berlin', 1, 10.00BD, 2, NULL), ('Paris', NULL, NULL, 3, 5.50BD)
                    AS pairs (shop, q1_pieces, q1_amount, q2_pieces, q2_amount)
                  """)
              .createOrReplaceTempView("pairs");

          notebook.step("Columns become rows");
          notebook.table("quarters", spark.table("quarters"));
          notebook.table(
              "UNPIVOT: Rome is gone", sales(spark, "quarters").orderBy("shop", "quarter"));
          notebook.table("INCLUDE NULLS", allSales(spark, "quarters").orderBy("shop", "quarter"));

          notebook.step("And back");
          sales(spark, "quarters").createOrReplaceTempView("sales");
          allSales(spark, "quarters").createOrReplaceTempView("all_sales");
          notebook.table("from the rows with NULLs", back(spark, "all_sales").orderBy("shop"));
          notebook.table("from those without", back(spark, "sales").orderBy("shop"));

          notebook.step("Several columns together");
          notebook.table("pairs", spark.table("pairs"));
          notebook.table(
              "a row for each pair", piecesAndAmounts(spark, "pairs").orderBy("shop", "quarter"));

          notebook.step("Types");
          notebook.table("all fields, as text", fields(spark.table("pairs"), "shop"));
          notebook.table(
              "a BIGINT beside a DOUBLE is one, and 9007199254740993 is even",
              spark.sql(
                  """
                  SELECT name, value, CAST(value AS BIGINT) AS as_bigint
                  FROM (SELECT 9007199254740993L AS big, 0.5D AS half)
                  UNPIVOT (value FOR name IN (big, half))
                  """));
          notebook.refused(
              "An INT beside a STRING",
              "UNPIVOT_VALUE_DATA_TYPE_MISMATCH",
              () -> spark.sql("SELECT * FROM quarters UNPIVOT (value FOR name IN (shop, q1))"));
          notebook.refused(
              "No column to turn",
              "UNPIVOT_REQUIRES_VALUE_COLUMNS",
              () -> allSales(spark.table("quarters").select("shop")));
        });
  }
}
