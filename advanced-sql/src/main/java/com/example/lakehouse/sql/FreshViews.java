package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import io.delta.tables.DeltaTable;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Fresh views: a view computes on every read, a table that keeps the result is brought up to date
 * with the rows that have changed, and both give the same rows.
 *
 * <p>Run: {@code ./run FreshViews}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: turnover by country from a view and from a kept table after inserts, updates and deletes;
 * the rows that each of them reads; a copy that went stale.
 *
 * <p>On Databricks: the same code; {@code CREATE MATERIALIZED VIEW} declares it, and the warehouse
 * does the work of {@code refresh}.
 *
 * @see <a href="https://docs.delta.io/delta-change-data-feed/">Delta Lake: change data feed</a>
 */
public final class FreshViews {

  private FreshViews() {}

  /**
   * Makes the tables and views of this example in the current schema: {@code orders}, with its
   * change feed from the first version on; {@code turnover_view}, which computes; {@code
   * turnover_kept}, which keeps; and {@code turnover}, the kept rows as a reader wants them.
   *
   * <p>A country whose last order is gone stays in {@code turnover_kept} with 0 orders, for the
   * version that is in it.
   */
  public static void create(SparkSession spark) {
    spark.sql(
        """
        CREATE TABLE orders (order_id BIGINT, country STRING, amount DECIMAL(12,2) NOT NULL)
        USING delta
        TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')
        """);
    spark.sql(
        """
        CREATE VIEW turnover_view AS
        SELECT country, count(*) AS orders, sum(amount) AS turnover
        FROM orders
        GROUP BY country
        """);
    spark.sql(
        """
        CREATE TABLE turnover_kept
          (country STRING, orders BIGINT, turnover DECIMAL(22,2), version BIGINT)
        USING delta
        """);
    spark.sql(
        """
        CREATE VIEW turnover AS
        SELECT country, orders, turnover
        FROM turnover_kept
        WHERE orders > 0
        """);
  }

  /** What {@code turnover_view} computes, as a DataFrame. */
  public static Dataset<Row> turnover(SparkSession spark) {
    return spark
        .table("orders")
        .groupBy("country")
        .agg(count(lit(1)).as("orders"), sum("amount").as("turnover"));
  }

  /** The last version of {@code orders}. */
  public static long latestVersion(SparkSession spark) {
    return DeltaTable.forName(spark, "orders").history(1).first().getAs("version");
  }

  /** The version of {@code orders} that {@code turnover_kept} has; -1 if none. */
  public static long keptVersion(SparkSession spark) {
    return spark
        .table("turnover_kept")
        .agg(coalesce(expr("max(version)"), lit(-1L)))
        .first()
        .getLong(0);
  }

  /**
   * Brings {@code turnover_kept} up to date in one commit, from the changed rows alone. How far it
   * is stands in the rows themselves, so a refresh that fails, or runs twice, does no harm.
   *
   * <p>It works for counts and sums, which can be added to and taken from; a maximum cannot. After
   * more time than the change feed is kept for, empty the table and let it begin again.
   *
   * @throws org.apache.spark.sql.AnalysisException DELTA_MISSING_CHANGE_DATA or
   *     DELTA_CHANGE_DATA_FILE_NOT_FOUND if changes since the last refresh are not there any more
   */
  public static void refresh(SparkSession spark) {
    long from = keptVersion(spark) + 1;
    long to = latestVersion(spark);
    if (from <= to) {
      applyChanges(spark, from, to);
    }
  }

  /** Adds the changes of the versions {@code from} to {@code to} of {@code orders}. */
  public static void applyChanges(SparkSession spark, long from, long to) {
    spark.sql(
        """
        MERGE INTO turnover_kept AS k
        USING (
          SELECT country, sum(sign) AS orders, sum(sign * amount) AS turnover
          FROM (
            SELECT country, amount,
              IF(_change_type IN ('insert', 'update_postimage'), 1, -1) AS sign
            FROM table_changes('orders', :from, :to)
          )
          GROUP BY country
        ) AS c
        ON k.country <=> c.country
        WHEN MATCHED THEN UPDATE SET
          orders = k.orders + c.orders, turnover = k.turnover + c.turnover, version = :to
        WHEN NOT MATCHED THEN INSERT (country, orders, turnover, version)
          VALUES (c.country, c.orders, c.turnover, :to)
        """,
        Map.of("from", from, "to", to));
  }

  /** The same as a DataFrame and a merge. */
  public static void applyChangesInJava(SparkSession spark, long from, long to) {
    Dataset<Row> changes =
        spark
            .read()
            .option("readChangeFeed", "true")
            .option("startingVersion", from)
            .option("endingVersion", to)
            .table("orders")
            .withColumn("sign", expr("IF(_change_type IN ('insert', 'update_postimage'), 1, -1)"))
            .groupBy("country")
            .agg(sum("sign").as("orders"), sum(col("sign").multiply(col("amount"))).as("turnover"))
            .withColumn("version", lit(to));
    DeltaTable.forName(spark, "turnover_kept")
        .as("k")
        .merge(changes.as("c"), "k.country <=> c.country")
        .whenMatched()
        .updateExpr(
            Map.of(
                "orders", "k.orders + c.orders",
                "turnover", "k.turnover + c.turnover",
                "version", "c.version"))
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        FreshViews.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          create(spark);

          notebook.step("A view computes, a copy keeps what was true when it was made");
          spark.sql(
              "INSERT INTO orders VALUES (1, 'DE', 20.00), (2, 'DE', 35.50), (3, 'FR', 12.00)");
          spark.sql("CREATE TABLE turnover_copy USING delta AS SELECT * FROM turnover_view");
          refresh(spark);
          spark.sql("INSERT INTO orders VALUES (4, 'FR', 8.00), (5, 'IT', 99.00)");
          notebook.table("the view", spark.table("turnover_view").orderBy("country"));
          notebook.table(
              "the copy, one insert behind, and for ever",
              spark.table("turnover_copy").orderBy("country"));

          notebook.step("The kept table takes what has changed: an insert, an update, a delete");
          spark.sql("UPDATE orders SET country = 'AT', amount = 40.00 WHERE order_id = 2");
          spark.sql("DELETE FROM orders WHERE country = 'IT'");
          long from = keptVersion(spark) + 1;
          notebook.table(
              "the rows that have changed since its last refresh",
              spark
                  .sql(
                      "SELECT * FROM table_changes('orders', :from, :to)",
                      Map.of("from", from, "to", latestVersion(spark)))
                  .drop("_commit_timestamp")
                  .orderBy("_commit_version", "order_id", "_change_type"));
          refresh(spark);
          notebook.table(
              "turnover_kept: IT has no orders any more",
              spark.table("turnover_kept").orderBy("country"));
          notebook.table("turnover, from it", spark.table("turnover").orderBy("country"));
          notebook.table("the view", spark.table("turnover_view").orderBy("country"));

          notebook.step("What does it read?");
          notebook
              .sampleData(20_000)
              .orders()
              .selectExpr(
                  "order_id + 1000 AS order_id",
                  "element_at(array('AT','DE','FR','IT','SE'), CAST(1 + customer_id % 5 AS INT)) AS"
                      + " country",
                  "amount")
              .write()
              .format("delta")
              .mode("append")
              .saveAsTable("orders");
          refresh(spark);
          spark.sql("INSERT INTO orders VALUES (6, 'DE', 1.00), (7, 'SE', 2.00)");
          spark.sql("DELETE FROM orders WHERE order_id = 1");
          QueryProfile computed = QueryProfile.of(spark.table("turnover_view"));
          QueryProfile refreshed = QueryProfile.of(spark, () -> refresh(spark));
          QueryProfile read = QueryProfile.of(spark.table("turnover"));
          notebook.chart(
              new Chart("After 3 changes of %,d orders".formatted(computed.rowsRead()), "rows read")
                  .bar("the view", computed.rowsRead())
                  .bar("refresh", refreshed.rowsRead())
                  .bar("the kept table", read.rowsRead()));
          notebook.table("turnover", spark.table("turnover").orderBy("country"));
          notebook.text(
              "Rows in which the view and the kept table differ: %d.",
              spark.table("turnover_view").exceptAll(spark.table("turnover")).count()
                  + spark.table("turnover").exceptAll(spark.table("turnover_view")).count());
        });
  }
}
