package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.min;
import static org.apache.spark.sql.functions.min_by;

import com.example.lakehouse.common.Notebook;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Recursive CTEs: an organisation's tree, a bill of materials and the routes of a network, and how
 * a circle in the data is found before it runs into the limit.
 *
 * <p>Run: {@code ./run RecursiveCte}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: each employee's path to the top; a circle of managers whom the tree silently leaves out;
 * the screws in a bicycle; routes that do not go round; the errors at the limits.
 *
 * <p>On Databricks: the same code, from runtime 17 on; a Unity Catalog name in place of the views'.
 *
 * @see <a
 *     href="https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-syntax-qry-select-cte">Databricks
 *     SQL: common table expressions</a>
 */
public final class RecursiveCte {

  private RecursiveCte() {}

  /**
   * Everyone below those who have no manager: {@code employee_id INT, name STRING, level INT, path
   * STRING}. Who is in a circle, or below one, has no such top and is not there: see {@link
   * #circles}.
   *
   * @param employees the name of a table or view with {@code employee_id INT, name STRING,
   *     manager_id INT}
   * @throws org.apache.spark.SparkException RECURSION_LEVEL_LIMIT_EXCEEDED if there are more than
   *     20 levels; without MAX RECURSION LEVEL it would be 100. The number cannot be a parameter
   */
  public static Dataset<Row> organisation(SparkSession spark, String employees) {
    return spark.sql(
        """
        WITH RECURSIVE tree (employee_id, name, level, path) MAX RECURSION LEVEL 20 AS (
          SELECT employee_id, name, 1, name
          FROM IDENTIFIER(:employees)
          WHERE manager_id IS NULL
          UNION ALL
          SELECT e.employee_id, e.name, tree.level + 1, concat(tree.path, ' > ', e.name)
          FROM tree JOIN IDENTIFIER(:employees) AS e ON e.manager_id = tree.employee_id
        )
        SELECT * FROM tree
        """,
        Map.of("employees", employees));
  }

  /**
   * The circles among managers, each once: {@code circle ARRAY<INT>}, from its smallest id upwards,
   * manager by manager. It goes up from every employee, and stops at whom it has met.
   *
   * @param employees as for {@link #organisation}
   */
  public static Dataset<Row> circles(SparkSession spark, String employees) {
    return spark.sql(
        """
        WITH RECURSIVE up (employee_id, manager_id, path) AS (
          SELECT employee_id, manager_id, array(employee_id)
          FROM IDENTIFIER(:employees)
          UNION ALL
          SELECT up.employee_id, e.manager_id, array_append(up.path, e.employee_id)
          FROM up JOIN IDENTIFIER(:employees) AS e ON e.employee_id = up.manager_id
          WHERE NOT array_contains(up.path, up.manager_id)
        )
        SELECT path AS circle FROM up
        WHERE manager_id = employee_id AND employee_id = array_min(path)
        """,
        Map.of("employees", employees));
  }

  /**
   * What one piece of {@code product} is made of, down to the parts that are bought: {@code part
   * STRING, quantity BIGINT}. A part that is in several assemblies comes along each way to it, and
   * is added up at the end, where an aggregate is allowed.
   *
   * <p>The first SELECT decides the types. The step must give the same, or the query fails with
   * CANNOT_MERGE_INCOMPATIBLE_DATA_TYPE: hence the CASTs.
   *
   * @param components the name of a table or view with {@code assembly STRING, part STRING,
   *     quantity INT}
   * @throws org.apache.spark.SparkException RECURSION_LEVEL_LIMIT_EXCEEDED if an assembly contains
   *     itself
   */
  public static Dataset<Row> parts(SparkSession spark, String components, String product) {
    return spark.sql(
        """
        WITH RECURSIVE needed (part, quantity) AS (
          SELECT part, CAST(quantity AS BIGINT)
          FROM IDENTIFIER(:components)
          WHERE assembly = :product
          UNION ALL
          SELECT c.part, needed.quantity * CAST(c.quantity AS BIGINT)
          FROM needed JOIN IDENTIFIER(:components) AS c ON c.assembly = needed.part
        )
        SELECT part, sum(quantity) AS quantity
        FROM needed
        WHERE NOT EXISTS (
          SELECT * FROM IDENTIFIER(:components) AS c WHERE c.assembly = needed.part)
        GROUP BY part
        """,
        Map.of("components", components, "product", product));
  }

  /**
   * All routes from a stop that meet no stop twice: {@code stop STRING, minutes INT, route
   * ARRAY<STRING>}. In a network, unlike in a tree, going on without the route's memory would not
   * end. There may be very many routes: with more than 1,000,000 rows the query fails with
   * RECURSION_ROW_LIMIT_EXCEEDED.
   *
   * @param connections the name of a table or view with {@code from_stop STRING, to_stop STRING,
   *     minutes INT}, one row for each direction
   */
  public static Dataset<Row> routes(SparkSession spark, String connections, String from) {
    return spark.sql(
        """
        WITH RECURSIVE routes (stop, minutes, route) AS (
          SELECT :from, 0, array(:from)
          UNION ALL
          SELECT c.to_stop, routes.minutes + c.minutes, array_append(routes.route, c.to_stop)
          FROM routes JOIN IDENTIFIER(:connections) AS c ON c.from_stop = routes.stop
          WHERE NOT array_contains(routes.route, c.to_stop)
        )
        SELECT * FROM routes
        """,
        Map.of("connections", connections, "from", from));
  }

  /** The shortest route to each stop: {@code stop, minutes, route}. */
  public static Dataset<Row> shortestRoutes(SparkSession spark, String connections, String from) {
    return routes(spark, connections, from)
        .groupBy("stop")
        .agg(min("minutes").as("minutes"), min_by(col("route"), col("minutes")).as("route"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        RecursiveCte.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    (1, 'Ada', NULL), (2, 'Ken', 1), (3, 'Grace', 1), (4, 'Alan', 2),
                    (5, 'Radia', 4), (6, 'Tony', 8), (7, 'Jean', 6), (8, 'John', 7), (9, 'Leslie', 6)
                    AS employees (employee_id, name, manager_id)
                  """)
              .createOrReplaceTempView("employees");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('bicycle', 'frame', 1), ('bicycle', 'wheel', 2), ('bicycle', 'screw', 6),
                    ('wheel', 'rim', 1), ('wheel', 'spoke', 32), ('wheel', 'hub', 1),
                    ('hub', 'screw', 4), ('frame', 'tube', 3), ('frame', 'screw', 2)
                    AS components (assembly, part, quantity)
                  """)
              .createOrReplaceTempView("components");
          spark
              .sql(
                  """
                  SELECT * FROM VALUES
                    ('A', 'B', 4), ('B', 'A', 4), ('B', 'C', 3), ('C', 'B', 3), ('A', 'C', 9),
                    ('C', 'A', 9), ('C', 'D', 2), ('D', 'C', 2)
                    AS connections (from_stop, to_stop, minutes)
                  """)
              .createOrReplaceTempView("connections");

          notebook.step("A tree");
          notebook.table("employees", spark.table("employees"));
          notebook.table("from the top down", organisation(spark, "employees").orderBy("path"));

          notebook.step("Four of nine are not there: a circle");
          notebook.table("who is whose manager, round and round", circles(spark, "employees"));
          notebook.text(
              "Tony's manager is John, John's is Jean, and Jean's is Tony; Leslie is below Tony."
                  + " Nothing fails: whoever has no way to the top is not in the tree.");

          notebook.step("A bill of materials");
          notebook.table("components", spark.table("components"));
          notebook.table(
              "what a bicycle is made of", parts(spark, "components", "bicycle").orderBy("part"));

          notebook.step("Routes");
          notebook.table(
              "from A, no stop twice",
              routes(spark, "connections", "A").orderBy("stop", "minutes"));
          notebook.table("the shortest", shortestRoutes(spark, "connections", "A").orderBy("stop"));

          notebook.step("What is refused");
          String endless =
              "WITH RECURSIVE n (i) %s AS (SELECT 1 UNION ALL SELECT i + 1 FROM n%s) SELECT max(i)"
                  + " FROM n";
          notebook.refused(
              "A recursion without an end",
              "RECURSION_LEVEL_LIMIT_EXCEEDED",
              () -> spark.sql(endless.formatted("", "")).collectAsList());
          notebook.refused(
              "A recursion that doubles its rows",
              "RECURSION_ROW_LIMIT_EXCEEDED",
              () -> spark.sql(endless.formatted("", ", VALUES (1), (2)")).collectAsList());
          notebook.refused(
              "UNION in place of UNION ALL",
              "UNION_NOT_SUPPORTED_IN_RECURSIVE_CTE",
              () ->
                  spark.sql(
                      "WITH RECURSIVE n (i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 9)"
                          + " SELECT * FROM n"));
          notebook.refused(
              "An aggregate in the step",
              "INVALID_RECURSIVE_REFERENCE.PLACE",
              () ->
                  spark.sql(
                      "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT max(i) + 1 FROM n WHERE i"
                          + " < 9) SELECT * FROM n"));
          notebook.refused(
              "A step of another type",
              "CANNOT_MERGE_INCOMPATIBLE_DATA_TYPE",
              () ->
                  spark
                      .sql(
                          "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1L FROM n WHERE i"
                              + " < 9) SELECT * FROM n")
                      .collectAsList());
        });
  }
}
