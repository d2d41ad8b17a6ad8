package com.example.lakehouse.sql;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class FreshViewsTest {
  private static final String[] COUNTRIES = {"AT", "DE", "FR", "IT"};

  @BeforeEach
  void create(SparkSession spark, Sandbox sandbox) {
    FreshViews.create(spark);
  }

  private static BigDecimal money(String amount) {
    return new BigDecimal(amount);
  }

  @Test
  void theViewIsFreshAndTheCopyIsNot(SparkSession spark) {
    spark.sql("INSERT INTO orders VALUES (1, 'DE', 20.00), (2, 'DE', 35.50), (3, 'FR', 12.00)");
    spark.sql("CREATE TABLE turnover_copy USING delta AS SELECT * FROM turnover_view");
    spark.sql("INSERT INTO orders VALUES (4, 'FR', 8.00)");

    assertThat(spark.table("turnover_view"))
        .hasRows(row("DE", 2L, money("55.50")), row("FR", 2L, money("20.00")));
    assertThat(spark.table("turnover_view")).hasSameRowsAs(FreshViews.turnover(spark));
    assertThat(spark.table("turnover_copy"))
        .hasRows(row("DE", 2L, money("55.50")), row("FR", 1L, money("12.00")));
  }

  @Test
  void aRefreshTakesInsertsUpdatesAndDeletes(SparkSession spark) {
    spark.sql(
        "INSERT INTO orders VALUES (1, 'DE', 20.00), (2, 'DE', 35.50), (3, NULL, 12.00), (4, 'IT',"
            + " 9.00)");
    FreshViews.refresh(spark);
    spark.sql("UPDATE orders SET country = 'AT', amount = 40.00 WHERE order_id = 2");
    spark.sql("DELETE FROM orders WHERE country = 'IT'");
    spark.sql("INSERT INTO orders VALUES (5, NULL, 1.00)");
    assertThat(spark.table("turnover"))
        .as("until the refresh")
        .hasRows(
            row("DE", 2L, money("55.50")),
            row("IT", 1L, money("9.00")),
            row(null, 1L, money("12.00")));

    FreshViews.refresh(spark);

    assertThat(spark.table("turnover"))
        .hasRows(
            row("AT", 1L, money("40.00")),
            row("DE", 1L, money("20.00")),
            row(null, 2L, money("13.00")));
    // The inserts at first were version 1, and of the three statements the last is 4.
    assertThat(spark.table("turnover_kept"))
        .hasRows(
            row("AT", 1L, money("40.00"), 4L),
            row("DE", 1L, money("20.00"), 4L),
            row("IT", 0L, money("0.00"), 4L),
            row(null, 2L, money("13.00"), 4L));
  }

  /** Of a country that is emptied last, nothing else would say that its change is in. */
  @Test
  void aSecondRefreshChangesNothingEvenIfTheLastChangeEmptiedACountry(SparkSession spark) {
    spark.sql("INSERT INTO orders VALUES (1, 'DE', 20.00), (2, 'IT', 9.00)");
    FreshViews.refresh(spark);
    spark.sql("DELETE FROM orders WHERE country = 'IT'");
    FreshViews.refresh(spark);
    long commits = spark.sql("DESCRIBE HISTORY turnover_kept").count();

    FreshViews.refresh(spark);

    assertThat(spark.table("turnover")).hasRows(row("DE", 1L, money("20.00")));
    assertThat(spark.sql("DESCRIBE HISTORY turnover_kept")).hasRowCount(commits);
    spark.sql("INSERT INTO orders VALUES (3, 'IT', 5.00)");
    FreshViews.refresh(spark);
    assertThat(spark.table("turnover"))
        .hasRows(row("DE", 1L, money("20.00")), row("IT", 1L, money("5.00")));
  }

  @Test
  void anyBatchesGiveWhatPlainJavaKeeps(SparkSession spark) {
    Random random = new Random(11);
    Map<Integer, Row> orders = new TreeMap<>();
    int nextId = 0;
    for (int batch = 0; batch < 6; batch++) {
      List<String> inserts = new ArrayList<>();
      for (int i = 0; i < 20; i++) {
        String country = COUNTRIES[random.nextInt(4)];
        BigDecimal amount = BigDecimal.valueOf(random.nextInt(10_000), 2);
        orders.put(nextId, row(country, amount));
        inserts.add("(%d, '%s', %s)".formatted(nextId++, country, amount));
      }
      spark.sql("INSERT INTO orders VALUES " + String.join(", ", inserts));
      int residue = random.nextInt(5);
      spark.sql(
          "UPDATE orders SET country = 'FR', amount = amount + 1 WHERE order_id %% 5 = %d"
              .formatted(residue));
      orders.replaceAll(
          (id, order) ->
              id % 5 == residue ? row("FR", order.getDecimal(1).add(BigDecimal.ONE)) : order);
      String gone = COUNTRIES[random.nextInt(4)];
      spark.sql("DELETE FROM orders WHERE country = '%s' AND order_id %% 2 = 0".formatted(gone));
      orders.entrySet().removeIf(e -> e.getKey() % 2 == 0 && e.getValue().get(0).equals(gone));

      if (batch % 2 == 0) {
        FreshViews.refresh(spark);
      } else {
        FreshViews.applyChangesInJava(
            spark, FreshViews.keptVersion(spark) + 1, FreshViews.latestVersion(spark));
      }

      Row[] expected =
          orders.values().stream()
              .collect(Collectors.groupingBy(order -> order.getString(0)))
              .entrySet()
              .stream()
              .map(
                  e ->
                      row(
                          e.getKey(),
                          (long) e.getValue().size(),
                          e.getValue().stream()
                              .map(order -> order.getDecimal(1))
                              .reduce(BigDecimal.ZERO.setScale(2), BigDecimal::add)))
              .toArray(Row[]::new);
      assertThat(spark.table("turnover")).hasRows(expected);
      assertThat(spark.table("turnover_view")).hasRows(expected);
      assertThat(FreshViews.keptVersion(spark)).isEqualTo(FreshViews.latestVersion(spark));
    }
  }

  @Test
  void aRefreshReadsTheChangesAndNotTheOrders(SparkSession spark) {
    spark
        .range(10_000)
        .selectExpr(
            "id AS order_id",
            "concat('C', id % 8) AS country",
            "CAST(id AS DECIMAL(12,2)) AS amount")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("orders");
    FreshViews.refresh(spark);
    spark.sql("INSERT INTO orders VALUES (10000, 'C1', 1.00), (10001, 'C2', 1.00)");
    spark.sql("DELETE FROM orders WHERE order_id = 8");

    QueryProfile computed = QueryProfile.of(spark.table("turnover_view"));
    QueryProfile refresh = QueryProfile.of(spark, () -> FreshViews.refresh(spark));
    QueryProfile kept = QueryProfile.of(spark.table("turnover"));

    assertThat(computed.rowsRead()).isGreaterThanOrEqualTo(10_001);
    // Three changed rows, and the eight countries a few times: a merge reads its table twice, and
    // keeps its source, which is counted too.
    assertThat(refresh.rowsRead()).isBetween(3L + 8, 50L);
    assertThat(kept.rowsRead()).isEqualTo(8);
    assertThat(spark.table("turnover")).hasSameRowsAs(spark.table("turnover_view"));
  }

  @Test
  void withoutTheChangeFeedARefreshIsRefusedAndNothingIsAdded(SparkSession spark) {
    spark.sql("INSERT INTO orders VALUES (1, 'DE', 20.00)");
    FreshViews.refresh(spark);
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')");
    spark.sql("INSERT INTO orders VALUES (2, 'DE', 30.00)");

    assertRefused("DELTA_MISSING_CHANGE_DATA", () -> FreshViews.refresh(spark));

    assertThat(spark.table("turnover")).hasRows(row("DE", 1L, money("20.00")));
  }

  @Test
  void aTemporaryViewIsItsSessionsOwn(SparkSession spark) {
    spark.sql("CREATE TEMPORARY VIEW big AS SELECT * FROM orders WHERE amount > 10");
    spark.sql("INSERT INTO orders VALUES (1, 'DE', 20.00), (2, 'DE', 5.00)");
    SparkSession another = spark.newSession();
    another.catalog().setCurrentDatabase(spark.catalog().currentDatabase());

    assertThat(spark.table("big")).hasRows(row(1L, "DE", money("20.00")));
    assertThat(another.table("turnover_view")).hasRows(row("DE", 2L, money("25.00")));
    assertRefused("TABLE_OR_VIEW_NOT_FOUND", () -> another.table("big"));
    assertRefused(
        "INVALID_TEMP_OBJ_REFERENCE", () -> spark.sql("CREATE VIEW bigger AS SELECT * FROM big"));
    spark.sql("DROP VIEW big");
  }

  @Test
  void aViewKeepsTheColumnsItWasMadeWith(SparkSession spark) {
    spark.sql("CREATE VIEW all_orders AS SELECT * FROM orders");

    spark.sql("ALTER TABLE orders ADD COLUMN status STRING");

    assertThat(spark.table("all_orders").columns())
        .containsExactly("order_id", "country", "amount");
  }
}
