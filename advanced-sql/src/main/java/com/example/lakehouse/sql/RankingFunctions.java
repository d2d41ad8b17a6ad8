package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.dense_rank;
import static org.apache.spark.sql.functions.ntile;
import static org.apache.spark.sql.functions.percent_rank;
import static org.apache.spark.sql.functions.rank;
import static org.apache.spark.sql.functions.row_number;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.expressions.Window;
import org.apache.spark.sql.expressions.WindowSpec;

/**
 * Ranking: {@code row_number}, {@code rank}, {@code dense_rank}, {@code ntile} and {@code
 * percent_rank} side by side, and the first N rows of each group.
 *
 * <p>Run: {@code ./run RankingFunctions}, or Run in the IDE; no JVM flags, no setup; {@code
 * --scale} for more rows.
 *
 * <p>See: what each function makes of ties and of a NULL; two ways to say "the first two", and what
 * they do with a tie; how few rows a top N sends through the shuffle.
 *
 * <p>On Databricks: the same code, and {@code QUALIFY}, which Spark 4.1 does not have.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/sql-ref-syntax-qry-select-window.html">Spark
 *     SQL: window functions</a>
 */
public final class RankingFunctions {

  private RankingFunctions() {}

  /**
   * Every ranking function, within each category, the most sold first: {@code category STRING,
   * product STRING, sold INT, row_number INT, rank INT, dense_rank INT, half INT, percent_rank
   * DOUBLE}.
   *
   * <p>{@code NULLS LAST} is written out: Spark puts NULLs first when it sorts upwards and last
   * when it sorts downwards, other databases the other way round. The order of {@code row_number}
   * and {@code ntile} ends in a key, without which rows that tie get their numbers by chance; that
   * of the others does not, or there would be no ties.
   *
   * @param products the name of a table or view with {@code category, product, sold}; a product is
   *     there once
   */
  public static Dataset<Row> ranks(SparkSession spark, String products) {
    return spark.sql(
        """
        SELECT category, product, sold,
               row_number() OVER in_order AS row_number,
               rank() OVER by_sold AS rank,
               dense_rank() OVER by_sold AS dense_rank,
               ntile(2) OVER in_order AS half,
               percent_rank() OVER by_sold AS percent_rank
        FROM IDENTIFIER(:products)
        WINDOW by_sold AS (PARTITION BY category ORDER BY sold DESC NULLS LAST),
               in_order AS (PARTITION BY category ORDER BY sold DESC NULLS LAST, product)
        """,
        Map.of("products", products));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> ranks(Dataset<Row> products) {
    WindowSpec bySold = Window.partitionBy("category").orderBy(col("sold").desc_nulls_last());
    WindowSpec inOrder =
        Window.partitionBy("category").orderBy(col("sold").desc_nulls_last(), col("product"));
    return products.select(
        col("category"),
        col("product"),
        col("sold"),
        row_number().over(inOrder).as("row_number"),
        rank().over(bySold).as("rank"),
        dense_rank().over(bySold).as("dense_rank"),
        ntile(2).over(inOrder).as("half"),
        percent_rank().over(bySold).as("percent_rank"));
  }

  /**
   * The first {@code n} products of each category, never more: of products that tie for the last
   * place, the first by name. A window function may not stand in WHERE, so it stands in a subquery.
   *
   * @param products as for {@link #ranks}
   */
  public static Dataset<Row> top(SparkSession spark, String products, int n) {
    return spark.sql(
        """
        SELECT category, product, sold
        FROM (
          SELECT *, row_number() OVER (
            PARTITION BY category ORDER BY sold DESC NULLS LAST, product) AS place
          FROM IDENTIFIER(:products)
        )
        WHERE place <= :n
        """,
        Map.of("products", products, "n", n));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> top(Dataset<Row> products, int n) {
    Column place =
        row_number()
            .over(
                Window.partitionBy("category")
                    .orderBy(col("sold").desc_nulls_last(), col("product")));
    return products
        .withColumn("place", place)
        .where(col("place").leq(n))
        .select("category", "product", "sold");
  }

  /**
   * The first {@code n} places of each category with all products that share the last of them: more
   * than {@code n} where there is a tie. Products that have not been sold (NULL) have no place.
   *
   * @param products as for {@link #ranks}
   */
  public static Dataset<Row> topWithTies(SparkSession spark, String products, int n) {
    return spark.sql(
        """
        SELECT category, product, sold
        FROM (
          SELECT *, rank() OVER (PARTITION BY category ORDER BY sold DESC) AS place
          FROM IDENTIFIER(:products)
          WHERE sold IS NOT NULL
        )
        WHERE place <= :n
        """,
        Map.of("products", products, "n", n));
  }

  /** The same, as a DataFrame. */
  public static Dataset<Row> topWithTies(Dataset<Row> products, int n) {
    WindowSpec bySold = Window.partitionBy("category").orderBy(col("sold").desc());
    return products
        .where(col("sold").isNotNull())
        .withColumn("place", rank().over(bySold))
        .where(col("place").leq(n))
        .select("category", "product", "sold");
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RankingFunctions.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('audio', 'Speaker', 90), ('audio', 'Headphones', 70), ('audio', 'Cable', 70),
                    ('audio', 'Radio', 40),   ('audio', 'Stand', NULL),
                    ('books', 'Atlas', 30),   ('books', 'Novel', 30),      ('books', 'Poems', 30),
                    ('books', 'Diary', 10)
                    AS products (category, product, sold)
                  """)
              .createOrReplaceTempView("products");

          notebook.step("Five ways to number rows");
          notebook.table(
              "most sold first", ranks(spark, "products").orderBy("category", "row_number"));
          notebook.text(
              "row_number tells rows that tie apart; rank gives them one place and leaves a gap"
                  + " after it; dense_rank leaves none. ntile(2) makes halves by count, so rows"
                  + " that tie may be in different halves. percent_rank is (rank - 1) / (rows -"
                  + " 1).");

          notebook.step("The first two of each category");
          Column[] order = {col("category"), col("sold").desc(), col("product")};
          notebook.table("by row_number: two", top(spark, "products", 2).orderBy(order));
          notebook.table(
              "by rank: and all that tie with the second",
              topWithTies(spark, "products", 2).orderBy(order));

          notebook.step("What is refused");
          notebook.refused(
              "A window function in WHERE",
              "_LEGACY_ERROR_TEMP_1034",
              () ->
                  spark.sql(
                      "SELECT * FROM products WHERE rank() OVER (PARTITION BY category ORDER BY"
                          + " sold DESC) = 1"));
          notebook.refused(
              "QUALIFY",
              "PARSE_SYNTAX_ERROR",
              () ->
                  spark.sql(
                      "SELECT * FROM products QUALIFY rank() OVER (PARTITION BY category ORDER BY"
                          + " sold DESC) = 1"));
          notebook.refused(
              "A number without an order",
              "_LEGACY_ERROR_TEMP_1037",
              () -> spark.sql("SELECT row_number() OVER (PARTITION BY category) FROM products"));

          notebook.step("What a top N costs");
          notebook
              .sampleData(30_000)
              .orders()
              .selectExpr(
                  "status AS category",
                  "CAST(order_id AS STRING) AS product",
                  "CAST(amount AS INT) AS sold")
              .write()
              .format("delta")
              .saveAsTable("orders");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          profiles.put("every row's place", QueryProfile.of(ranks(spark, "orders")));
          profiles.put("top 3", QueryProfile.of(top(spark, "orders", 3)));
          notebook.profiles("orders by status", profiles);
          notebook.text(
              "Each task keeps its own first three of each status (WindowGroupLimit) before it"
                  + " sends them on.");
        });
  }
}
