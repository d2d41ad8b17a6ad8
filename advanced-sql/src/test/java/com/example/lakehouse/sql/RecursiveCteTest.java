package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static com.example.lakehouse.sql.Views.view;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.IntStream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class RecursiveCteTest {

  private static void employees(SparkSession spark, List<Row> rows) {
    view(spark, "employees", "employee_id INT, name STRING, manager_id INT", rows);
  }

  private static void components(SparkSession spark, Row... rows) {
    view(spark, "components", "assembly STRING, part STRING, quantity INT", List.of(rows));
  }

  /** Each employee is the manager of the next. */
  private static void chain(SparkSession spark, int length) {
    employees(
        spark,
        IntStream.rangeClosed(1, length)
            .mapToObj(i -> row(i, "e" + i, i == 1 ? null : i - 1))
            .toList());
  }

  private static List<List<Integer>> circles(SparkSession spark) {
    return RecursiveCte.circles(spark, "employees").collectAsList().stream()
        .map(row -> row.<Integer>getList(0))
        .toList();
  }

  private static Dataset<Row> endless(SparkSession spark, String select) {
    return spark.sql("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) " + select);
  }

  @Test
  void eachEmployeeHasALevelAndAPathFromTheTop(SparkSession spark, Sandbox sandbox) {
    employees(
        spark,
        List.of(
            row(5, "Radia", 4),
            row(4, "Alan", 2),
            row(2, "Ken", 1),
            row(3, "Grace", 1),
            row(1, "Ada", null),
            row(6, "Tony", null)));

    assertThat(RecursiveCte.organisation(spark, "employees"))
        .hasSchema("employee_id INT, name STRING, level INT, path STRING")
        .hasRows(
            row(1, "Ada", 1, "Ada"),
            row(2, "Ken", 2, "Ada > Ken"),
            row(3, "Grace", 2, "Ada > Grace"),
            row(4, "Alan", 3, "Ada > Ken > Alan"),
            row(5, "Radia", 4, "Ada > Ken > Alan > Radia"),
            row(6, "Tony", 1, "Tony"));
  }

  @Test
  void levelsOfATreeOfAThousandAreThosePlainJavaCounts(SparkSession spark, Sandbox sandbox) {
    Random random = new Random(3);
    List<Row> rows = new ArrayList<>();
    Map<Integer, Integer> levels = new TreeMap<>(Map.of(1, 1));
    rows.add(row(1, "e1", null));
    for (int id = 2; id <= 1_000; id++) {
      int manager = 1 + random.nextInt(id - 1);
      rows.add(row(id, "e" + id, manager));
      levels.put(id, levels.get(manager) + 1);
    }
    employees(spark, rows);

    assertThat(RecursiveCte.organisation(spark, "employees").select("employee_id", "level"))
        .hasRows(
            levels.entrySet().stream()
                .map(level -> row(level.getKey(), level.getValue()))
                .toArray(Row[]::new));
    assertThat(levels.values()).contains(10);
    assertThat(circles(spark)).isEmpty();
  }

  @Test
  void twentyLevelsAreGivenAndTwentyOneRefused(SparkSession spark, Sandbox sandbox) {
    chain(spark, 20);
    assertThat(RecursiveCte.organisation(spark, "employees")).hasRowCount(20);

    chain(spark, 21);
    assertRefused(
        "RECURSION_LEVEL_LIMIT_EXCEEDED",
        () -> RecursiveCte.organisation(spark, "employees").collectAsList());
  }

  @Test
  void whoIsInACircleIsNotInTheTreeAndIsFound(SparkSession spark, Sandbox sandbox) {
    employees(
        spark,
        List.of(
            row(1, "Ada", null),
            row(2, "Ken", 1),
            row(6, "Tony", 8),
            row(7, "Jean", 6),
            row(8, "John", 7),
            row(9, "Leslie", 6),
            row(10, "Karen", 10)));

    assertThat(RecursiveCte.organisation(spark, "employees").select("name"))
        .hasRows(row("Ada"), row("Ken"));
    // Leslie leads to a circle, and is not in it.
    assertThat(circles(spark)).containsExactlyInAnyOrder(List.of(6, 8, 7), List.of(10));
  }

  @Test
  void aPartThatIsInSeveralAssembliesIsAddedUp(SparkSession spark, Sandbox sandbox) {
    components(
        spark,
        row("bicycle", "frame", 1),
        row("bicycle", "wheel", 2),
        row("bicycle", "screw", 6),
        row("wheel", "rim", 1),
        row("wheel", "spoke", 32),
        row("wheel", "hub", 1),
        row("hub", "screw", 4),
        row("frame", "tube", 3),
        row("frame", "screw", 2),
        row("lamp", "screw", 9));

    assertThat(RecursiveCte.parts(spark, "components", "bicycle"))
        .hasSchema("part STRING, quantity BIGINT")
        .hasRows(row("rim", 2L), row("spoke", 64L), row("screw", 6L + 2 * 4 + 2), row("tube", 3L));
    assertThat(RecursiveCte.parts(spark, "components", "hub")).hasRows(row("screw", 4L));
    assertThat(RecursiveCte.parts(spark, "components", "screw")).isEmpty();
  }

  @Test
  void quantitiesMayBeMoreThanAnIntHolds(SparkSession spark, Sandbox sandbox) {
    components(spark, row("a", "b", 100_000), row("b", "c", 100_000));

    assertThat(RecursiveCte.parts(spark, "components", "a")).hasRows(row("c", 10_000_000_000L));
  }

  @Test
  void anAssemblyThatContainsItselfReachesTheLimit(SparkSession spark, Sandbox sandbox) {
    components(spark, row("a", "b", 1), row("b", "a", 1));

    assertRefused(
        "RECURSION_LEVEL_LIMIT_EXCEEDED",
        () -> RecursiveCte.parts(spark, "components", "a").collectAsList());
  }

  @Test
  void routesMeetNoStopTwiceAndTheShortestIsNotTheOneWithTheFewestStops(
      SparkSession spark, Sandbox sandbox) {
    view(
        spark,
        "connections",
        "from_stop STRING, to_stop STRING, minutes INT",
        List.of(
            row("A", "B", 4),
            row("B", "A", 4),
            row("B", "C", 3),
            row("C", "B", 3),
            row("A", "C", 9),
            row("C", "A", 9),
            row("C", "D", 2),
            row("D", "C", 2)));

    assertThat(
            RecursiveCte.routes(spark, "connections", "A")
                .selectExpr("stop", "minutes", "concat_ws('', route)"))
        .hasRows(
            row("A", 0, "A"),
            row("B", 4, "AB"),
            row("B", 12, "ACB"),
            row("C", 7, "ABC"),
            row("C", 9, "AC"),
            row("D", 9, "ABCD"),
            row("D", 11, "ACD"));
    assertThat(
            RecursiveCte.shortestRoutes(spark, "connections", "A")
                .selectExpr("stop", "minutes", "concat_ws('', route)"))
        .hasRows(row("A", 0, "A"), row("B", 4, "AB"), row("C", 7, "ABC"), row("D", 9, "ABCD"));
  }

  @Test
  void aHundredLevelsAreTheDefaultAndMoreMustBeAskedFor(SparkSession spark, Sandbox sandbox) {
    String count =
        "WITH RECURSIVE n (i) %s AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT"
            + " count(*) FROM n";
    assertThat(spark.sql(count.formatted("", 100))).hasRows(row(100L));
    assertRefused(
        "RECURSION_LEVEL_LIMIT_EXCEEDED",
        () -> spark.sql(count.formatted("", 101)).collectAsList());
    assertThat(spark.sql(count.formatted("MAX RECURSION LEVEL 300", 300))).hasRows(row(300L));
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () -> spark.sql(count.formatted("MAX RECURSION LEVEL :max", 9), Map.of("max", 9)));
    spark.conf().set("spark.sql.cteRecursionLevelLimit", 101);
    assertThat(spark.sql(count.formatted("", 101))).hasRows(row(101L));
  }

  @Test
  void aRecursionWithoutEndIsRefusedButForALimitAroundIt(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "RECURSION_LEVEL_LIMIT_EXCEEDED", () -> endless(spark, "SELECT * FROM n").collectAsList());
    assertThat(endless(spark, "SELECT * FROM n LIMIT 3")).hasRows(row(1), row(2), row(3));
    // So a look at the first rows shows no error.
    assertThat(endless(spark, "SELECT * FROM n").takeAsList(3)).hasSize(3);
  }

  @Test
  void aMillionRowsAreRefusedAlthoughTheLevelsAreFew(SparkSession spark, Sandbox sandbox) {
    String doubling =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n, VALUES (1), (2) WHERE i <"
            + " %d) SELECT count(*) FROM n";
    assertRefused(
        "RECURSION_ROW_LIMIT_EXCEEDED", () -> spark.sql(doubling.formatted(30)).collectAsList());

    spark.conf().set("spark.sql.cteRecursionRowLimit", 1_100);
    // 1 + 2 + 4 + … + 512
    assertThat(spark.sql(doubling.formatted(10))).hasRows(row(1_023L));
    assertRefused(
        "RECURSION_ROW_LIMIT_EXCEEDED", () -> spark.sql(doubling.formatted(11)).collectAsList());
  }

  @Test
  void whatAStepMayNotDoIsRefused(SparkSession spark, Sandbox sandbox) {
    String recursion = "WITH RECURSIVE n (i) AS (SELECT 1 %s) SELECT * FROM n";
    assertRefused(
        "UNION_NOT_SUPPORTED_IN_RECURSIVE_CTE",
        () -> spark.sql(recursion.formatted("UNION SELECT i + 1 FROM n WHERE i < 9")));
    assertRefused(
        "INVALID_RECURSIVE_REFERENCE.PLACE",
        () -> spark.sql(recursion.formatted("UNION ALL SELECT max(i) + 1 FROM n WHERE i < 9")));
    assertRefused(
        "INVALID_RECURSIVE_REFERENCE.PLACE",
        () ->
            spark.sql(
                recursion.formatted(
                    "UNION ALL SELECT n.i + 1 FROM (VALUES (1)) AS v (x) LEFT JOIN n ON x = i")));
    assertRefused(
        "INVALID_RECURSIVE_CTE",
        () ->
            spark.sql(
                "WITH RECURSIVE n (i) AS (SELECT i + 1 FROM n WHERE i < 9 UNION ALL SELECT 1)"
                    + " SELECT * FROM n"));
    assertRefused(
        "TABLE_OR_VIEW_NOT_FOUND",
        () ->
            spark.sql(
                "WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT *"
                    + " FROM n"));
    assertRefused(
        "CANNOT_MERGE_INCOMPATIBLE_DATA_TYPE",
        () ->
            spark
                .sql(recursion.formatted("UNION ALL SELECT i + 1L FROM n WHERE i < 9"))
                .collectAsList());
  }
}
