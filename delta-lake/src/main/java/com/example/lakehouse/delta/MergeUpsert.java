package com.example.lakehouse.delta;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Upserts: one atomic {@code MERGE} updates the rows that exist and inserts the rest.
 *
 * <p>Run: {@code ./run MergeUpsert}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: customer 2 has moved and customer 4 is new, in one version; a batch that names a customer
 * twice is refused; a full copy of the source removes who is gone; a batch of events that comes
 * twice is stored once.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-update/">Delta Lake: table deletes, updates, and
 *     merges</a>
 */
public final class MergeUpsert {

  private MergeUpsert() {}

  /**
   * Applies {@code changes} to {@code table} by {@code customer_id}, in one commit.
   *
   * @param table a Delta table's name
   * @param changes the table's columns, at most one row per {@code customer_id}
   * @throws org.apache.spark.sql.delta.DeltaUnsupportedOperationException
   *     DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE if two rows of {@code changes} match
   *     the same row; the table stays as it was
   */
  public static void upsert(SparkSession spark, String table, Dataset<Row> changes) {
    DeltaTable.forName(spark, table)
        .as("t")
        .merge(changes.as("c"), "t.customer_id = c.customer_id")
        .whenMatched()
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  /**
   * The same in SQL, with {@code changes} as a table or view.
   *
   * @param table a Delta table's name
   * @param changes the name of a table or view with the table's columns, at most one row per {@code
   *     customer_id}
   */
  public static void upsertInSql(SparkSession spark, String table, String changes) {
    spark.sql(
        """
        MERGE INTO IDENTIFIER(:table) AS t
        USING IDENTIFIER(:changes) AS c
        ON t.customer_id = c.customer_id
        WHEN MATCHED THEN UPDATE SET *
        WHEN NOT MATCHED THEN INSERT *
        """,
        Map.of("table", table, "changes", changes));
  }

  /**
   * Keeps the latest of several changes to one customer, so that {@link #upsert} is not ambiguous.
   *
   * @param changes with {@code customer_id} and {@code updated_at TIMESTAMP}
   */
  public static Dataset<Row> latestPerCustomer(Dataset<Row> changes) {
    return changes
        .groupBy("customer_id")
        .agg(expr("max_by(struct(*), updated_at) AS latest"))
        .select("latest.*");
  }

  /**
   * Applies changes that say what to do: {@code op} is {@code upsert} or {@code delete}. A change
   * older than the row it matches is left out, so a batch that comes late or twice does no harm.
   *
   * @param table a Delta table with {@code customer_id, name, city, updated_at}
   * @param changes the same columns and {@code op STRING}, at most one row per {@code customer_id}
   */
  public static void applyChanges(SparkSession spark, String table, Dataset<Row> changes) {
    Map<String, String> values =
        Map.of(
            "customer_id", "c.customer_id",
            "name", "c.name",
            "city", "c.city",
            "updated_at", "c.updated_at");
    DeltaTable.forName(spark, table)
        .as("t")
        .merge(changes.as("c"), "t.customer_id = c.customer_id")
        .whenMatched("c.op = 'delete' AND c.updated_at > t.updated_at")
        .delete()
        .whenMatched("c.op = 'upsert' AND c.updated_at > t.updated_at")
        .updateExpr(values)
        .whenNotMatched("c.op = 'upsert'")
        .insertExpr(values)
        .execute();
  }

  /**
   * Makes {@code table} equal to {@code source}: updates, inserts, and deletes who is no longer
   * there.
   *
   * @param source all rows, with the table's columns, one per {@code customer_id}
   * @throws IllegalArgumentException if {@code source} is empty, which would empty the table
   */
  public static void fullSync(SparkSession spark, String table, Dataset<Row> source) {
    if (source.isEmpty()) {
      throw new IllegalArgumentException("the source is empty: " + table + " would lose every row");
    }
    DeltaTable.forName(spark, table)
        .as("t")
        .merge(source.as("s"), "t.customer_id = s.customer_id")
        .whenMatched("t.updated_at <> s.updated_at")
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .whenNotMatchedBySource()
        .delete()
        .execute();
  }

  /**
   * Adds the events that {@code table} does not have yet: the same batch a second time changes
   * nothing.
   *
   * @param batch the table's columns; a row that the batch itself has twice is added once
   */
  public static void insertNew(SparkSession spark, String table, Dataset<Row> batch) {
    DeltaTable.forName(spark, table)
        .as("t")
        .merge(batch.dropDuplicates("event_id").as("b"), "t.event_id = b.event_id")
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        MergeUpsert.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              """
              CREATE TABLE customers (customer_id BIGINT, name STRING, city STRING, updated_at TIMESTAMP)
              USING delta
              """);
          spark.sql(
              """
              INSERT INTO customers VALUES
                (1, 'Ada',   'Berlin', TIMESTAMP'2025-03-01 08:00:00'),
                (2, 'Grace', 'Paris',  TIMESTAMP'2025-03-01 08:00:00'),
                (3, 'Radia', 'Rome',   TIMESTAMP'2025-03-01 08:00:00')
              """);
          Dataset<Row> changes =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (2L, 'Grace',  'Madrid', TIMESTAMP'2025-03-02 09:00:00'),
                    (4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02 09:30:00')
                    AS changes (customer_id, name, city, updated_at)
                  """);

          notebook.step("Upsert: customer 2 has moved, customer 4 is new");
          notebook.table("customers before", spark.table("customers").orderBy("customer_id"));
          notebook.table("changes", changes);
          upsert(spark, "customers", changes);
          notebook.table("customers after", spark.table("customers").orderBy("customer_id"));
          notebook.table(
              "what the merge did, in Delta's own words",
              DeltaTable.forName(spark, "customers")
                  .history(1)
                  .selectExpr(
                      "version",
                      "operation",
                      "operationMetrics.numTargetRowsUpdated AS updated",
                      "operationMetrics.numTargetRowsInserted AS inserted"));

          notebook.step("Two changes for one customer: Delta refuses to guess");
          Dataset<Row> twice =
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (1L, 'Ada', 'Hamburg', TIMESTAMP'2025-03-03 10:00:00'),
                    (1L, 'Ada', 'Munich',  TIMESTAMP'2025-03-03 11:00:00')
                    AS changes (customer_id, name, city, updated_at)
                  """);
          notebook.refused(
              "The batch was refused, and nothing was written",
              "DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE",
              () -> upsert(spark, "customers", twice));
          upsert(spark, "customers", latestPerCustomer(twice));
          notebook.table(
              "with the latest change of each customer it works",
              spark.table("customers").orderBy("customer_id"));

          notebook.step(
              "Changes that say what to do: delete 3, and an update of 2 that comes too late");
          applyChanges(
              spark,
              "customers",
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (2L, 'Grace', 'Lisbon', TIMESTAMP'2025-03-01 12:00:00', 'upsert'),
                    (3L, NULL,    NULL,     TIMESTAMP'2025-03-04 08:00:00', 'delete')
                    AS changes (customer_id, name, city, updated_at, op)
                  """));
          notebook.table("customers", spark.table("customers").orderBy("customer_id"));

          notebook.step("Full sync: the source system now knows customers 1 and 5 only");
          fullSync(
              spark,
              "customers",
              spark.sql(
                  """
                  SELECT * FROM VALUES
                    (1L, 'Ada',    'Munich', TIMESTAMP'2025-03-03 11:00:00'),
                    (5L, 'Leslie', 'Oslo',   TIMESTAMP'2025-03-05 08:00:00')
                    AS source (customer_id, name, city, updated_at)
                  """));
          notebook.table("customers", spark.table("customers").orderBy("customer_id"));

          notebook.step("The same events twice: stored once");
          Dataset<Row> events = notebook.sampleData(1_000).duplicates(0.05).events();
          events.limit(0).write().format("delta").saveAsTable("events");
          insertNew(spark, "events", events);
          long once = spark.table("events").count();
          insertNew(spark, "events", events);
          notebook.text(
              "The batch has %,d rows, %,d of them sent twice. After the first merge the table has %,d rows,"
                  + " after the second %,d.",
              events.count(),
              events.count() - once,
              once,
              spark.table("events").where(col("event_id").isNotNull()).count());
        });
  }
}
