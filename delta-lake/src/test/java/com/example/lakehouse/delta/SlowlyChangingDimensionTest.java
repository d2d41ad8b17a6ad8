package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.TreeMap;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class SlowlyChangingDimensionTest {
  private static final Instant JANUARY = Instant.parse("2025-01-01T00:00:00Z");
  private static final Instant MARCH = Instant.parse("2025-03-01T00:00:00Z");
  private static final Instant MAY = Instant.parse("2025-05-01T00:00:00Z");

  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    SlowlyChangingDimension.create(spark, "customers");
    apply(spark, row(1L, "Berlin", JANUARY), row(2L, "Paris", JANUARY));
  }

  private static void apply(SparkSession spark, Row... changes) {
    spark
        .createDataFrame(
            List.of(changes),
            StructType.fromDDL("customer_id BIGINT, city STRING, changed_at TIMESTAMP"))
        .createOrReplaceTempView("changes");
    SlowlyChangingDimension.apply(spark, "customers", "changes");
  }

  @Test
  void aMoveClosesOneRowAndOpensAnotherInOneVersion(SparkSession spark) {
    apply(spark, row(2L, "Madrid", MAY), row(3L, "Rome", MAY));

    assertThat(spark.table("customers"))
        .hasRows(
            row(1L, "Berlin", JANUARY, null),
            row(2L, "Paris", JANUARY, MAY),
            row(2L, "Madrid", MAY, null),
            row(3L, "Rome", MAY, null));
    assertThat(TableState.version(spark, "customers")).isEqualTo(2);
    assertThat(TableState.metrics(spark, "customers"))
        .containsEntry("numTargetRowsUpdated", "1")
        .containsEntry("numTargetRowsInserted", "2");
  }

  @Test
  void aLateChangeFindsItsPlaceBetweenTwoRows(SparkSession spark) {
    apply(spark, row(2L, "Madrid", MAY));

    apply(spark, row(2L, "Lyon", MARCH));

    assertThat(spark.table("customers").where("customer_id = 2"))
        .hasRows(
            row(2L, "Paris", JANUARY, MARCH),
            row(2L, "Lyon", MARCH, MAY),
            row(2L, "Madrid", MAY, null));
  }

  @Test
  void aLateChangeThatSaysWhatALaterRowSaysLeavesOneCurrentRow(SparkSession spark) {
    apply(spark, row(2L, "Madrid", MAY));

    apply(spark, row(2L, "Madrid", MARCH));

    assertThat(spark.table("customers").where("customer_id = 2"))
        .hasRows(
            row(2L, "Paris", JANUARY, MARCH),
            row(2L, "Madrid", MARCH, MAY),
            row(2L, "Madrid", MAY, null));
  }

  @Test
  void aChangeFromBeforeTheFirstRowComesFirst(SparkSession spark) {
    Instant before = Instant.parse("2024-06-01T00:00:00Z");

    apply(spark, row(1L, "Bonn", before));

    assertThat(spark.table("customers").where("customer_id = 1"))
        .hasRows(row(1L, "Bonn", before, JANUARY), row(1L, "Berlin", JANUARY, null));
  }

  @Test
  void severalChangesOfOneCustomerInOneBatchAreARowEach(SparkSession spark) {
    apply(spark, row(1L, "Hamburg", MAY), row(1L, "Munich", MARCH));

    assertThat(spark.table("customers").where("customer_id = 1"))
        .hasRows(
            row(1L, "Berlin", JANUARY, MARCH),
            row(1L, "Munich", MARCH, MAY),
            row(1L, "Hamburg", MAY, null));
  }

  @Test
  void aChangeThatChangesNothingMakesNoRow(SparkSession spark) {
    apply(spark, row(1L, "Berlin", MAY));

    assertThat(spark.table("customers").where("customer_id = 1"))
        .hasRows(row(1L, "Berlin", JANUARY, null));
  }

  @Test
  void theSameBatchTwiceChangesNoRow(SparkSession spark) {
    apply(spark, row(2L, "Madrid", MAY), row(3L, "Rome", MAY));
    var once = spark.table("customers").collectAsList();

    apply(spark, row(2L, "Madrid", MAY), row(3L, "Rome", MAY));

    assertThat(spark.table("customers")).hasRows(once.toArray(Row[]::new));
  }

  @Test
  void aChangeToTheTimeOfARowCorrectsThatRow(SparkSession spark) {
    apply(spark, row(1L, "Bremen", JANUARY));

    assertThat(spark.table("customers").where("customer_id = 1"))
        .hasRows(row(1L, "Bremen", JANUARY, null));
  }

  @Test
  void aCityThatIsGoneIsARowToo(SparkSession spark) {
    apply(spark, row(1L, null, MAY));

    assertThat(SlowlyChangingDimension.current(spark, "customers").where("customer_id = 1"))
        .hasRows(row(1L, null, MAY, null));
  }

  @Test
  void twoCitiesAtOneTimeAreRefused(SparkSession spark) {
    assertThatThrownBy(() -> apply(spark, row(1L, "Rome", MAY), row(1L, "Oslo", MAY)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageStartingWith(
            "more than one city, or no customer_id or changed_at: [1,2025-05-01");
    assertThatThrownBy(() -> apply(spark, row(null, "Rome", MAY)))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> apply(spark, row(1L, "Rome", null)))
        .isInstanceOf(IllegalArgumentException.class);
    assertThat(TableState.version(spark, "customers")).isEqualTo(1);
  }

  @Test
  void theRowsOfATimeAreThoseThatWereTrueThen(SparkSession spark) {
    apply(spark, row(2L, "Madrid", MAY), row(3L, "Rome", MAY));

    assertThat(
            SlowlyChangingDimension.asOf(spark, "customers", "2025-04-30 23:59:59")
                .select("customer_id", "city"))
        .hasRows(row(1L, "Berlin"), row(2L, "Paris"));
    assertThat(
            SlowlyChangingDimension.asOf(spark, "customers", "2025-05-01 00:00:00")
                .select("customer_id", "city"))
        .hasRows(row(1L, "Berlin"), row(2L, "Madrid"), row(3L, "Rome"));
  }

  @Test
  void anyOrderOfArrivalGivesTheHistoryThatPlainJavaComputes(SparkSession spark) {
    Random random = new Random(7);
    Map<Long, TreeMap<Instant, String>> cities = new TreeMap<>();
    cities.computeIfAbsent(1L, id -> new TreeMap<>()).put(JANUARY, "Berlin");
    cities.computeIfAbsent(2L, id -> new TreeMap<>()).put(JANUARY, "Paris");
    List<Row> changes = new ArrayList<>();
    for (int i = 0; i < 60; i++) {
      long customer = 1L + random.nextInt(5);
      Instant at = JANUARY.plusSeconds(3_600L * (i + 1));
      // No two neighbours in time are equal, so which of them is left out does not matter.
      String city = "city " + i;
      cities.computeIfAbsent(customer, id -> new TreeMap<>()).put(at, city);
      changes.add(row(customer, city, at));
    }
    Collections.shuffle(changes, random);

    for (int batch = 0; batch < 4; batch++) {
      apply(spark, changes.subList(batch * 15, batch * 15 + 15).toArray(Row[]::new));
    }

    List<Row> expected = new ArrayList<>();
    cities.forEach(
        (customer, history) ->
            history.forEach(
                (from, city) -> expected.add(row(customer, city, from, history.higherKey(from)))));
    assertThat(spark.table("customers")).hasRows(expected.toArray(Row[]::new));
    assertThat(SlowlyChangingDimension.current(spark, "customers").collectAsList())
        .hasSize(cities.size())
        .allMatch(current -> Objects.isNull(current.getAs("valid_to")));
  }
}
