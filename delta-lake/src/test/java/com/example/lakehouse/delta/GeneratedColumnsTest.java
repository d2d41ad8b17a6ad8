package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.time.LocalDate;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class GeneratedColumnsTest {

  private static void createEventsOfFourDays(SparkSession spark) {
    GeneratedColumns.createEvents(spark, "events");
    spark
        .range(0, 4, 1, 1)
        .selectExpr(
            "id AS customer_id",
            "TIMESTAMP'2025-03-01 12:00:00' + make_dt_interval(CAST(id AS INT)) AS event_time")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("events");
  }

  @Test
  void theTableFillsInKeyDayAndDefault(SparkSession spark, Sandbox sandbox) {
    createEventsOfFourDays(spark);

    assertThat(spark.table("events").select("customer_id", "event_date", "channel"))
        .hasRows(
            row(0L, LocalDate.of(2025, 3, 1), "web"),
            row(1L, LocalDate.of(2025, 3, 2), "web"),
            row(2L, LocalDate.of(2025, 3, 3), "web"),
            row(3L, LocalDate.of(2025, 3, 4), "web"));
  }

  @Test
  void aGivenValueWinsOverTheDefaultEvenNull(SparkSession spark, Sandbox sandbox) {
    GeneratedColumns.createEvents(spark, "events");

    spark.sql("INSERT INTO events (customer_id, channel) VALUES (1, 'shop'), (2, NULL)");
    spark.sql("INSERT INTO events (customer_id, channel) VALUES (3, DEFAULT)");

    assertThat(spark.table("events").select("customer_id", "channel"))
        .hasRows(row(1L, "shop"), row(2L, null), row(3L, "web"));
  }

  @Test
  void aFilterOnTheTimeBecomesAPartitionFilterOnTheDay(SparkSession spark, Sandbox sandbox) {
    createEventsOfFourDays(spark);

    Dataset<Row> recent = GeneratedColumns.since(spark, "events", "2025-03-03 18:00:00");
    QueryProfile profile = QueryProfile.of(recent);

    assertThat(recent.queryExecution().executedPlan().toString())
        .containsPattern("PartitionFilters: \\[[^]]*event_date#\\d+ >= 2025-03-03");
    assertThat(profile.filesRead()).isEqualTo(1);
    assertThat(profile.filesPruned()).isEqualTo(3);
    assertThat(recent.select("customer_id")).hasRows(row(3L));
  }

  @Test
  void aDayThatIsNotTheTimesIsRefused(SparkSession spark, Sandbox sandbox) {
    GeneratedColumns.createEvents(spark, "events");

    assertRefused(
        "DELTA_VIOLATE_CONSTRAINT_WITH_VALUES",
        () ->
            spark.sql(
                """
                INSERT INTO events (customer_id, event_time, event_date)
                VALUES (1, TIMESTAMP'2025-03-03 08:00:00', DATE'2025-03-04')
                """));

    spark.sql(
        """
        INSERT INTO events (customer_id, event_time, event_date)
        VALUES (2, TIMESTAMP'2025-03-03 08:00:00', DATE'2025-03-03')
        """);
    assertThat(spark.table("events").select("customer_id")).hasRows(row(2L));
  }

  @Test
  void anUpdateOfTheTimeMovesTheDayWithIt(SparkSession spark, Sandbox sandbox) {
    createEventsOfFourDays(spark);

    spark.sql(
        "UPDATE events SET event_time = TIMESTAMP'2025-05-05 00:00:00' WHERE customer_id = 0");

    assertThat(spark.table("events").where("event_date = '2025-05-05'").select("customer_id"))
        .hasRows(row(0L));
  }

  @Test
  void identityKeysAreUniqueAndGrowWithEachCommit(SparkSession spark, Sandbox sandbox) {
    GeneratedColumns.createEvents(spark, "events");
    for (int commit = 0; commit < 3; commit++) {
      spark
          .range(commit * 1_000L, (commit + 1) * 1_000L, 1, 4)
          .toDF("customer_id")
          .write()
          .format("delta")
          .mode("append")
          .saveAsTable("events");
    }

    assertThat(spark.sql("SELECT count(DISTINCT event_key), min(event_key), count(*) FROM events"))
        .hasRows(row(3_000L, 1L, 3_000L));
    assertThat(
            spark.sql(
                """
                SELECT count(*) FROM
                  (SELECT floor(customer_id / 1000) AS commit, min(event_key) AS first, max(event_key) AS last
                   FROM events GROUP BY 1) AS a
                JOIN
                  (SELECT floor(customer_id / 1000) AS commit, min(event_key) AS first
                   FROM events GROUP BY 1) AS b
                ON b.commit = a.commit + 1 AND b.first > a.last
                """))
        .hasRows(row(2L));
  }

  @Test
  void aKeyOfOnesOwnIsRefused(SparkSession spark, Sandbox sandbox) {
    GeneratedColumns.createEvents(spark, "events");

    assertRefused(
        "DELTA_IDENTITY_COLUMNS_EXPLICIT_INSERT_NOT_SUPPORTED",
        () -> spark.sql("INSERT INTO events (event_key, customer_id) VALUES (1, 1)"));
    assertRefused(
        "DELTA_IDENTITY_COLUMNS_UPDATE_NOT_SUPPORTED",
        () -> spark.sql("UPDATE events SET event_key = 2"));
    assertThat(TableState.version(spark, "events")).isZero();
  }

  @Test
  void keysThatMayBeGivenGoOnAboveTheHighestOnceSynced(SparkSession spark, Sandbox sandbox) {
    GeneratedColumns.createProducts(spark, "products", 1);
    spark.sql("INSERT INTO products (product_id, name, net) VALUES (501, 'Lamp', 10.00)");

    spark.sql("INSERT INTO products (name, net) VALUES ('Chair', 100.00)");
    GeneratedColumns.syncIdentity(spark, "products");
    spark.sql("INSERT INTO products (name, net) VALUES ('Desk', 200.00)");

    assertThat(spark.table("products"))
        .hasRows(
            row(501L, "Lamp", new BigDecimal("10.00"), new BigDecimal("11.90")),
            row(1L, "Chair", new BigDecimal("100.00"), new BigDecimal("119.00")),
            row(502L, "Desk", new BigDecimal("200.00"), new BigDecimal("238.00")));
  }

  @Test
  void aNameThatIsMoreThanANameIsRefused(SparkSession spark) {
    assertThatThrownBy(() -> GeneratedColumns.syncIdentity(spark, "products; DROP TABLE x"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("not a name: products; DROP TABLE x");
  }
}
