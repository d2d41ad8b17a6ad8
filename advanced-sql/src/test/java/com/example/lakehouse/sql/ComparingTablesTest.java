package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ComparingTablesTest {
  private static final String COLUMNS = "product_id INT, name STRING, price INT, stock INT";

  private Dataset<Row> before;
  private Dataset<Row> after;

  @BeforeEach
  void createViews(SparkSession spark, Sandbox sandbox) {
    createViews(
        spark,
        List.of(
            row(1, "mug", 9, 40),
            row(2, "pen", 2, 70),
            row(3, "cap", 15, null),
            row(4, "bag", 30, 5)),
        List.of(
            row(1, "mug", 9, 40),
            row(2, "pen", 3, 65),
            row(3, "cap", 15, 8),
            row(5, "tie", 20, 12)));
  }

  private void createViews(SparkSession spark, List<Row> rowsBefore, List<Row> rowsAfter) {
    before = Views.view(spark, "before", COLUMNS, rowsBefore);
    after = Views.view(spark, "after", COLUMNS, rowsAfter);
  }

  @Test
  void theDifferenceIsTheRowsThatOneSideHasAlone(SparkSession spark) {
    Row[] expected = {
      row("before", 2, "pen", 2, 70),
      row("after", 2, "pen", 3, 65),
      row("before", 3, "cap", 15, null),
      row("after", 3, "cap", 15, 8),
      row("before", 4, "bag", 30, 5),
      row("after", 5, "tie", 20, 12)
    };

    assertThat(ComparingTables.difference(spark)).hasRows(expected);
    assertThat(ComparingTables.difference(before, after)).hasRows(expected);
    // The order of the columns is no difference.
    assertThat(
            ComparingTables.difference(
                before, after.select("stock", "price", "name", "product_id")))
        .hasRows(expected);
    assertThat(ComparingTables.common(spark)).hasRows(row(1, "mug", 9, 40));
  }

  @Test
  void tablesOfTheSameRowsHaveNoDifferenceNullsIncluded(SparkSession spark) {
    createViews(
        spark,
        List.of(row(1, null, null, null), row(2, "pen", 2, 70)),
        List.of(row(2, "pen", 2, 70), row(1, null, null, null)));

    assertThat(ComparingTables.difference(spark)).isEmpty();
    assertThat(ComparingTables.changes(spark)).isEmpty();
    assertThat(ComparingTables.common(spark)).hasRowCount(2);
  }

  @Test
  void aRowThatIsThereMoreOftenIsADifferenceForAllOnly(SparkSession spark) {
    Row mug = row(1, "mug", 9, 40);
    createViews(spark, List.of(mug, mug, mug), List.of(mug));

    assertThat(ComparingTables.difference(spark))
        .hasRows(row("before", 1, "mug", 9, 40), row("before", 1, "mug", 9, 40));
    assertThat(ComparingTables.difference(before, after)).hasRowCount(2);
    assertThat(ComparingTables.common(spark)).hasRows(mug);
    assertThat(spark.sql("SELECT * FROM before EXCEPT SELECT * FROM after")).isEmpty();
  }

  @Test
  void aChangeNamesItsColumns(SparkSession spark) {
    Row[] expected = {
      row(2, "changed", "price, stock"),
      row(3, "changed", "stock"),
      row(4, "gone", "name, price, stock"),
      row(5, "new", "name, price, stock")
    };

    assertThat(readable(ComparingTables.changes(spark))).hasRows(expected);
    assertThat(readable(ComparingTables.changes(before, after, "product_id"))).hasRows(expected);
  }

  private static Dataset<Row> readable(Dataset<Row> changes) {
    return changes.selectExpr("product_id", "change", "array_join(columns, ', ') AS columns");
  }

  @Test
  void unequalDoesNotSeeAChangeFromOrToNull(SparkSession spark) {
    String stocks = "SELECT product_id FROM before AS b JOIN after AS a USING (product_id) WHERE ";

    assertThat(spark.sql(stocks + "b.stock <> a.stock")).hasRows(row(2));
    assertThat(spark.sql(stocks + "NOT (b.stock <=> a.stock)")).hasRows(row(2), row(3));
  }

  @Test
  void hundredsOfProductsGiveTheChangesThatPlainJavaFinds(SparkSession spark) {
    Random random = new Random(3);
    Map<Integer, Row> old = products(random);
    Map<Integer, Row> now = products(random);
    Set<Integer> ids = new TreeSet<>(old.keySet());
    ids.addAll(now.keySet());
    String[] names = {"name", "price", "stock"};
    List<Row> expected = new ArrayList<>();
    for (int id : ids) {
      Row then = old.get(id);
      Row current = now.get(id);
      List<String> columns = new ArrayList<>();
      for (int i = 0; i < names.length; i++) {
        if (!Objects.equals(
            then == null ? null : then.get(i + 1), current == null ? null : current.get(i + 1))) {
          columns.add(names[i]);
        }
      }
      if (then == null || current == null || !columns.isEmpty()) {
        expected.add(
            row(
                id,
                then == null ? "new" : current == null ? "gone" : "changed",
                String.join(", ", columns)));
      }
    }
    createViews(spark, List.copyOf(old.values()), List.copyOf(now.values()));
    assertThat(expected).hasSizeLessThan(ids.size());

    assertThat(readable(ComparingTables.changes(spark))).hasRows(expected.toArray(Row[]::new));
    assertThat(readable(ComparingTables.changes(before, after, "product_id")))
        .hasRows(expected.toArray(Row[]::new));
  }

  /** Few different values, so that many are equal, and NULLs. */
  private static Map<Integer, Row> products(Random random) {
    Map<Integer, Row> products = new TreeMap<>();
    for (int i = 0; i < 300; i++) {
      int id = random.nextInt(400);
      products.put(
          id,
          row(
              id,
              random.nextInt(4) == 0 ? null : "p" + id,
              random.nextInt(3) == 0 ? null : random.nextInt(2),
              random.nextInt(3) == 0 ? null : random.nextInt(2)));
    }
    return products;
  }

  @Test
  void aKeyThatIsThereTwiceIsComparedWithEachOfItsKind(SparkSession spark) {
    createViews(
        spark, List.of(row(1, "mug", 9, 40)), List.of(row(1, "mug", 9, 40), row(1, "cup", 9, 40)));

    // The mug is as it was, and yet the key is listed: count the keys first, or use difference.
    assertThat(readable(ComparingTables.changes(spark))).hasRows(row(1, "changed", "name"));
    assertThat(ComparingTables.difference(spark)).hasRows(row("after", 1, "cup", 9, 40));
  }

  @Test
  void aUnionGoesByPositionUnlessItGoesByName(SparkSession spark) {
    Dataset<Row> first = before.where("product_id = 2").select("product_id", "price", "stock");
    Dataset<Row> second = after.where("product_id = 2").select("product_id", "stock", "price");

    assertThat(first.unionAll(second).select("price")).hasRows(row(2), row(65));
    assertThat(ComparingTables.unionByName(first, second))
        .hasSchema("product_id INT, price INT, stock INT")
        .hasRows(row(2, 2, 70), row(2, 3, 65));
    assertThat(ComparingTables.unionByName(first, after.where("product_id = 5")))
        .hasSchema("product_id INT, price INT, stock INT, name STRING")
        .hasRows(row(2, 2, 70, null), row(5, 20, 12, "tie"));
  }

  @Test
  void intersectBindsMoreTightlyThanUnion(SparkSession spark) {
    assertThat(spark.sql("SELECT 1 AS x UNION ALL SELECT 2 INTERSECT SELECT 3")).hasRows(row(1));
    assertThat(spark.sql("(SELECT 1 AS x UNION ALL SELECT 2) INTERSECT SELECT 3")).isEmpty();
  }

  @Test
  void tablesThatDoNotFitAreRefused(SparkSession spark) {
    assertRefused(
        "PARSE_SYNTAX_ERROR",
        () -> spark.sql("SELECT * FROM before UNION ALL BY NAME SELECT * FROM after"));
    assertRefused(
        "NUM_COLUMNS_MISMATCH",
        () -> spark.sql("SELECT * FROM before EXCEPT ALL SELECT product_id FROM after"));
    assertRefused(
        "INCOMPATIBLE_COLUMN_TYPE",
        () -> spark.sql("SELECT price FROM before UNION ALL SELECT array(price) FROM after"));
    assertRefused(
        "UNSUPPORTED_FEATURE.SET_OPERATION_ON_MAP_TYPE",
        () -> spark.sql("SELECT map('a', 1) AS m EXCEPT ALL SELECT map('a', 1)"));
    assertRefused("_LEGACY_ERROR_TEMP_1201", () -> before.unionByName(after.drop("stock")));
    assertThatThrownBy(() -> ComparingTables.difference(before, after.drop("stock")))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith("not the same columns: [product_id, name, price, stock] and");
  }

  @Test
  void aNumberBesideATextIsTakenForANumberUntilOneIsNot(SparkSession spark) {
    // Analysis lets it pass; the first name that is no number stops the query.
    assertRefused(
        "CAST_INVALID_INPUT",
        () ->
            spark.sql("SELECT price FROM before UNION ALL SELECT name FROM after").collectAsList());
  }
}
