package com.example.lakehouse.delta;

import com.example.lakehouse.common.Notebook;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.SparkSession;

/**
 * Constraints: CHECK and NOT NULL, which every write to the table must meet, whoever makes it.
 *
 * <p>Run: {@code ./run Constraints}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a constraint that existing rows break is not added; a batch with one bad row is refused
 * whole.
 *
 * <p>On Databricks: the same code; a Unity Catalog name in place of the table's.
 *
 * @see <a href="https://docs.delta.io/delta-constraints/">Delta Lake: constraints</a>
 */
public final class Constraints {

  private Constraints() {}

  /**
   * Adds a CHECK constraint. A row for which the condition is NULL is refused too.
   *
   * @param name the constraint's name; letters, digits and underscores
   * @param condition a SQL expression over the table's columns; it is code, so it must not come
   *     from outside
   * @throws AnalysisException DELTA_NEW_CHECK_CONSTRAINT_VIOLATION if a row that is there breaks
   *     it, DELTA_CONSTRAINT_ALREADY_EXISTS if there is one of that name
   * @throws IllegalArgumentException if {@code table} or {@code name} is anything but a name
   */
  public static void addCheck(SparkSession spark, String table, String name, String condition) {
    spark.sql(
        "ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s)"
            .formatted(checked(table), checked(name), condition));
  }

  /**
   * Takes a CHECK constraint away.
   *
   * @throws AnalysisException DELTA_CONSTRAINT_DOES_NOT_EXIST if there is none of that name
   */
  public static void dropCheck(SparkSession spark, String table, String name) {
    spark.sql("ALTER TABLE %s DROP CONSTRAINT %s".formatted(checked(table), checked(name)));
  }

  /** These statements are Delta's own, which take no parameters, not even IDENTIFIER(:table). */
  private static String checked(String name) {
    if (!name.matches("\\w+(\\.\\w+){0,2}")) {
      throw new IllegalArgumentException("not a name: " + name);
    }
    return name;
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        Constraints.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark.sql(
              "CREATE TABLE products (product_id BIGINT NOT NULL, name STRING, price DECIMAL(12,2)) USING delta");
          spark.sql("INSERT INTO products VALUES (1, 'Lamp', 29.90), (2, 'Chair', -1.00)");

          notebook.step("A constraint that a row breaks is not added");
          notebook.refused(
              "Chair costs -1.00",
              "DELTA_NEW_CHECK_CONSTRAINT_VIOLATION",
              () -> addCheck(spark, "products", "price_is_positive", "price > 0"));
          spark.sql("UPDATE products SET price = 149.00 WHERE product_id = 2");
          addCheck(spark, "products", "price_is_positive", "price > 0");
          notebook.table("once it is mended", spark.sql("SHOW TBLPROPERTIES products"));

          notebook.step("A batch with one bad row is refused whole");
          notebook.refused(
              "A price of 0",
              "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
              () ->
                  spark.sql("INSERT INTO products VALUES (3, 'Clock', 19.50), (4, 'Desk', 0.00)"));
          notebook.refused(
              "No product_id",
              "DELTA_NOT_NULL_CONSTRAINT_VIOLATED",
              () -> spark.sql("INSERT INTO products VALUES (NULL, 'Clock', 19.50)"));
          notebook.table("products", spark.table("products").orderBy("product_id"));

          notebook.step("Without the constraint the row is welcome");
          dropCheck(spark, "products", "price_is_positive");
          spark.sql("INSERT INTO products VALUES (4, 'Desk', 0.00)");
          notebook.table("products", spark.table("products").orderBy("product_id"));
        });
  }
}
