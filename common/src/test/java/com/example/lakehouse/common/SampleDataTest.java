package com.example.lakehouse.common;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class SampleDataTest {

  @Test
  void theRowsAreTheSameOnAnyNumberOfCores() throws Exception {
    ChildJvm one = ChildJvm.run(PrintChecksums.class, List.of("-Dspark.master=local[1]"));
    ChildJvm four = ChildJvm.run(PrintChecksums.class, List.of("-Dspark.master=local[4]"));

    assertThat(one.exitCode()).as(one.output()).isZero();
    assertThat(one.output().lines().filter(line -> line.startsWith("checksum")).toList())
        .hasSize(6)
        .isEqualTo(four.output().lines().filter(line -> line.startsWith("checksum")).toList());
  }

  /** Prints a checksum of each table that does not depend on the order of its rows. */
  static final class PrintChecksums {
    private PrintChecksums() {}

    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("checksums");
      checksums(SampleData.of(spark).rows(10_000).late(0.1).duplicates(0.1))
          .forEach((table, checksum) -> System.out.println("checksum " + table + " " + checksum));
      SparkSessions.close(spark);
    }
  }

  private static Map<String, String> checksums(SampleData data) {
    return data.tables().entrySet().stream()
        .collect(
            Collectors.toMap(
                Map.Entry::getKey, e -> checksum(e.getValue()), (a, b) -> a, TreeMap::new));
  }

  private static String checksum(Dataset<Row> table) {
    return table
        .selectExpr("sum(cast(xxhash64(*) AS DECIMAL(38,0)))", "count(*)")
        .collectAsList()
        .get(0)
        .mkString("/");
  }

  @Test
  void anotherSeedGivesOtherRows(SparkSession spark) {
    assertThat(checksum(SampleData.of(spark).seed(1).orders()))
        .isEqualTo(checksum(SampleData.of(spark).seed(1).orders()))
        .isNotEqualTo(checksum(SampleData.of(spark).seed(2).orders()));
  }

  @ParameterizedTest
  @ValueSource(longs = {100, 1_000, 12_347})
  void theCountsThatItStatesAreTheRowsThatItMakes(long rows, SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(rows);

    assertThat(data.orderItems()).hasRowCount(rows);
    assertThat(data.orders()).hasRowCount(data.orderCount());
    assertThat(data.customers()).hasRowCount(data.customerCount());
    assertThat(data.products()).hasRowCount(data.productCount());
    assertThat(data.ratings()).hasRowCount(data.ratingCount());
    assertThat(data.events()).hasRowCount(rows);
  }

  @Test
  void everyForeignKeyHasItsRow(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(12_347);

    assertReferences(data.orderItems(), "order_id", data.orders());
    assertReferences(data.orderItems(), "product_id", data.products());
    assertReferences(data.orders(), "customer_id", data.customers());
    assertReferences(data.ratings(), "customer_id", data.customers());
    assertReferences(data.ratings(), "product_id", data.products());
    assertReferences(data.events(), "customer_id", data.customers());
    assertReferences(data.events(), "product_id", data.products());
  }

  private static void assertReferences(Dataset<Row> table, String key, Dataset<Row> parent) {
    assertThat(table.join(parent, table.col(key).equalTo(parent.col(key)), "left_anti")).isEmpty();
  }

  @Test
  void everyOrderHasOneToFiveItems(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(15_000);

    Dataset<Row> items = data.orderItems().groupBy("order_id").count();

    assertThat(items).hasRowCount(data.orderCount());
    assertThat(items.groupBy("count").count().orderBy("count"))
        .hasRows(row(1L, 1000L), row(2L, 1000L), row(3L, 1000L), row(4L, 1000L), row(5L, 1000L));
  }

  @Test
  void anOrdersAmountIsTheSumOfItsItems(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(12_347);

    Dataset<Row> sums =
        data.orderItems()
            .groupBy("order_id")
            .agg(expr("cast(sum(quantity * unit_price) AS DECIMAL(12,2)) AS amount"));

    assertThat(data.orders().select("order_id", "amount")).hasSameRowsAs(sums);
  }

  @Test
  void anItemCostsWhatItsProductCosts(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(5_000);

    assertThat(
            data.orderItems()
                .join(data.products(), "product_id")
                .where("unit_price <> price OR unit_price <= 0"))
        .isEmpty();
  }

  @Test
  void theSchemasAreAsTheyAreDescribed(SparkSession spark) {
    SampleData data = SampleData.of(spark);

    assertThat(data.customers())
        .hasSchema(
            "customer_id BIGINT, name STRING, email STRING, country STRING, segment STRING, signup_date DATE");
    assertThat(data.products())
        .hasSchema("product_id BIGINT, name STRING, category STRING, price DECIMAL(12,2)");
    assertThat(data.orders())
        .hasSchema(
            "order_id BIGINT, customer_id BIGINT, order_time TIMESTAMP, order_date DATE, status STRING,"
                + " amount DECIMAL(12,2)");
    assertThat(data.orderItems())
        .hasSchema(
            "order_item_id BIGINT, order_id BIGINT, product_id BIGINT, quantity INT, unit_price DECIMAL(12,2)");
    assertThat(data.events())
        .hasSchema(
            "event_id BIGINT, customer_id BIGINT, product_id BIGINT, event_type STRING, event_time TIMESTAMP,"
                + " arrival_time TIMESTAMP");
    assertThat(data.rawEvents()).hasSchema("event_id BIGINT, arrival_time TIMESTAMP, value STRING");
    assertThat(data.ratings())
        .hasSchema("customer_id BIGINT, product_id BIGINT, rating INT, rated_at TIMESTAMP");
  }

  @ParameterizedTest
  @ValueSource(longs = {1_000, 12_347, 30_000})
  void theDialsGiveTheCountsThatTheyState(long rows, SparkSession spark) {
    SampleData data =
        SampleData.of(spark).rows(rows).skew(0.2).late(0.05).duplicates(0.03).malformed(0.02);

    assertThat(data.orders().where("customer_id = 0")).hasRowCount(data.hotOrderCount());
    assertThat(
            data.events()
                .dropDuplicates("event_id")
                .where("arrival_time - event_time > INTERVAL 1 HOUR"))
        .hasRowCount(data.lateCount());
    assertThat(data.events().groupBy("event_id").count().where("count > 1"))
        .hasRowCount(data.duplicateCount());
    assertThat(
            data.rawEvents().where("try_parse_json(value) IS NULL").select("event_id").distinct())
        .hasRowCount(data.malformedCount());
    assertThat(data.events()).hasRowCount(rows + data.duplicateCount());
  }

  @Test
  void theDialsCountsAreTheSharesThatWereAskedFor(SparkSession spark) {
    SampleData data =
        SampleData.of(spark).rows(30_000).skew(0.2).late(0.05).duplicates(0.03).malformed(0.02);

    assertThat(data.hotOrderCount()).isEqualTo(2_000);
    assertThat(data.lateCount()).isEqualTo(1_500);
    assertThat(data.duplicateCount()).isEqualTo(900);
    assertThat(data.malformedCount()).isEqualTo(600);
  }

  @Test
  void withTheDialsAtZeroNothingIsLateTwiceOrMalformed(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(5_000);

    assertThat(data.events().where("arrival_time - event_time > INTERVAL 5 SECONDS")).isEmpty();
    assertThat(data.events().groupBy("event_id").count().where("count > 1")).isEmpty();
    assertThat(data.rawEvents().where("try_parse_json(value) IS NULL")).isEmpty();
  }

  @Test
  void ordersFollowTheWeekAndTheSeason(SparkSession spark) {
    Dataset<Row> orders = SampleData.of(spark).rows(60_000).orders();

    long saturdays = orders.where("dayofweek(order_date) = 7").count();
    long tuesdays = orders.where("dayofweek(order_date) = 3").count();
    long december = orders.where("month(order_date) = 12").count();
    long february = orders.where("month(order_date) = 2").count();
    assertThat((double) saturdays / tuesdays).isBetween(1.6, 2.0);
    assertThat((double) december / february).isBetween(2.2, 2.8);
    assertThat(orders.where("to_date(order_time) <> order_date")).isEmpty();
    assertThat(orders.where("hour(order_time) < 7")).isEmpty();
  }

  @Test
  void aFewCustomersHaveManyOrders(SparkSession spark) {
    SampleData data = SampleData.of(spark).rows(60_000);
    long top = data.customerCount() / 100;

    long ofTop = data.orders().where(col("customer_id").lt(top)).count();

    assertThat((double) ofTop / data.orderCount()).isBetween(0.19, 0.24);
  }

  @Test
  void aCustomerRatesAProductOnce(SparkSession spark) {
    for (long rows : List.of(1_000L, 100_000L)) {
      Dataset<Row> ratings = SampleData.of(spark).rows(rows).ratings();

      assertThat(ratings.groupBy("customer_id", "product_id").count().where("count > 1")).isEmpty();
      assertThat(ratings.where("rating NOT BETWEEN 1 AND 5")).isEmpty();
    }
  }

  @Test
  void aSizeOrDialOutOfRangeIsNamed(SparkSession spark) {
    SampleData data = SampleData.of(spark);

    assertThatThrownBy(() -> data.rows(99))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("rows must be from 100 to 1,000,000,000, not 99");
    assertThatThrownBy(() -> data.late(1.5))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("late must be a share from 0 to 1, not 1.5");
    assertThatThrownBy(() -> data.late(0.6).duplicates(0.6))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("late, duplicate and malformed rows are more than all rows together");
  }
}
