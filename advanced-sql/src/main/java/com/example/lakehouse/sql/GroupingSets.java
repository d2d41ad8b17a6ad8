package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.grouping;
import static org.apache.spark.sql.functions.grouping_id;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Subtotals: {@code ROLLUP}, {@code CUBE} and {@code GROUPING SETS} group several ways at once, and
 * {@code grouping()} tells a subtotal from a NULL in the data.
 *
 * <p>Run: {@code ./run GroupingSets}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: sales with a region that is not known, and their subtotals; the labels that confuse the
 * two; one shuffle in place of three.
 *
 * <p>On Databricks: the same SQL, in an editor too.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-groupby.html">Spark
 *     SQL: GROUP BY</a>
 */
public final class GroupingSets {

  private GroupingSets() {}

  /**
   * The sales of each product in each region, with a subtotal for each region and a grand total. A
   * NULL in the data has a label of its own.
   *
   * @return {@code region STRING, product STRING, amount DECIMAL} of the table or view {@code sales
   *     (region, product, amount)}; of no sales, no row, not even a grand total
   */
  public static Dataset<Row> rollup(SparkSession spark) {
    return spark.sql(
        """
        SELECT IF(grouping(region) = 1, 'all regions', coalesce(region, '(unknown)')) AS region,
               IF(grouping(product) = 1, 'all products', coalesce(product, '(unknown)')) AS product,
               sum(amount) AS amount
        FROM sales
        GROUP BY ROLLUP (region, product)
        """);
  }

  /** The same from a Dataset. */
  public static Dataset<Row> rollup(Dataset<Row> sales) {
    return sales
        .rollup("region", "product")
        .agg(
            sum("amount").as("amount"),
            label("region", "all regions").as("region_label"),
            label("product", "all products").as("product_label"))
        .select(
            col("region_label").as("region"), col("product_label").as("product"), col("amount"));
  }

  private static Column label(String column, String total) {
    return when(grouping(column).equalTo(1), total)
        .otherwise(coalesce(col(column), lit("(unknown)")));
  }

  /**
   * All combinations: each product in each region, each region, each product, and all.
   *
   * @return {@code region STRING, product STRING, level BIGINT, sales BIGINT, amount DECIMAL}; the
   *     level has a bit for each column that is summed over, {@code region} the higher one: 0 a
   *     region and product, 1 a region, 2 a product, 3 all
   */
  public static Dataset<Row> cube(SparkSession spark) {
    return spark.sql(
        """
        SELECT region, product, grouping_id(region, product) AS level,
               count(*) AS sales, sum(amount) AS amount
        FROM sales
        GROUP BY CUBE (region, product)
        """);
  }

  /** The same from a Dataset. */
  public static Dataset<Row> cube(Dataset<Row> sales) {
    return sales
        .cube("region", "product")
        .agg(
            grouping_id("region", "product").as("level"),
            count("*").as("sales"),
            sum("amount").as("amount"));
  }

  /**
   * Just the groups that are named: by region, by product, and all. Columns as of {@link #cube}.
   */
  public static Dataset<Row> groupingSets(SparkSession spark) {
    return spark.sql(
        """
        SELECT region, product, grouping_id(region, product) AS level,
               count(*) AS sales, sum(amount) AS amount
        FROM sales
        GROUP BY GROUPING SETS ((region), (product), ())
        """);
  }

  /** The same as three queries: each reads and shuffles the sales again. */
  public static Dataset<Row> byUnion(SparkSession spark) {
    return spark.sql(
        """
        SELECT region, NULL AS product, 1L AS level, count(*) AS sales, sum(amount) AS amount
        FROM sales GROUP BY region
        UNION ALL
        SELECT NULL, product, 2L, count(*), sum(amount) FROM sales GROUP BY product
        UNION ALL
        SELECT NULL, NULL, 3L, count(*), sum(amount) FROM sales
        """);
  }

  /**
   * Subtotals within each region, and no grand total: what stands outside of {@code ROLLUP} is in
   * every group. Columns as of {@link #cube}.
   */
  public static Dataset<Row> withinRegions(SparkSession spark) {
    return spark.sql(
        """
        SELECT region, product, grouping_id(region, product) AS level,
               count(*) AS sales, sum(amount) AS amount
        FROM sales
        GROUP BY region, ROLLUP (product)
        """);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        GroupingSets.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE OR REPLACE TEMP VIEW sales AS SELECT * FROM VALUES
                ('north', 'mug', 10.00),
                ('north', 'mug',  5.00),
                ('north', 'pen', 20.00),
                ('south', 'mug', 30.00),
                ('south', NULL,   7.00), -- which product was not noted
                (NULL,    'pen',  4.00)  -- nor here the region
                AS sales (region, product, amount)
              """);

          notebook.step("ROLLUP: subtotals of each region, and a grand total");
          notebook.table("sales", spark.table("sales"));
          notebook.table("with labels", rollup(spark).orderBy("region", "product"));

          notebook.step("A NULL in the data is not a subtotal");
          notebook.table(
              "coalesce(region, 'all regions') cannot tell them apart: two rows of the same name",
              spark.sql(
                  """
                  SELECT coalesce(region, 'all regions') AS region, grouping(region) AS is_subtotal,
                         sum(amount) AS amount
                  FROM sales GROUP BY ROLLUP (region) ORDER BY amount
                  """));

          notebook.step("CUBE: all combinations, numbered by grouping_id");
          notebook.table("cube", cube(spark).orderBy("level", "region", "product"));

          notebook.step("GROUPING SETS: the groups that are wanted");
          notebook.table(
              "by region, by product, all",
              groupingSets(spark).orderBy("level", "region", "product"));
          notebook.table(
              "subtotals within regions, no grand total",
              withinRegions(spark).orderBy("region", "level", "product"));
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("GROUPING SETS", QueryProfile.of(groupingSets(spark)));
          profiles.put("UNION ALL", QueryProfile.of(byUnion(spark)));
          notebook.profiles("one pass, or three", profiles);

          notebook.step("What is refused");
          notebook.refused(
              "grouping() where nothing is summed over",
              "UNSUPPORTED_GROUPING_EXPRESSION",
              () -> spark.sql("SELECT region, grouping(region) FROM sales GROUP BY region"));
          notebook.refused(
              "grouping_id of some of the columns",
              "GROUPING_ID_COLUMN_MISMATCH",
              () ->
                  spark.sql(
                      "SELECT grouping_id(product) FROM sales GROUP BY CUBE (region, product)"));
          notebook.refused(
              "A column that is neither grouped nor aggregated",
              "MISSING_AGGREGATION",
              () -> spark.sql("SELECT region, product, sum(amount) FROM sales GROUP BY region"));
        });
  }
}
