package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.util.List;
import java.util.Random;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ChangeDataFeedTest {

  @BeforeEach
  void createCustomers(SparkSession spark, Sandbox sandbox) {
    spark.sql("CREATE TABLE customers (customer_id BIGINT, city STRING) USING delta");
    spark.sql("CREATE TABLE replica (customer_id BIGINT, city STRING) USING delta");
    ChangeDataFeed.enable(spark, "customers");
    spark.sql("INSERT INTO customers VALUES (1, 'Berlin'), (2, 'Paris'), (3, 'Rome')");
  }

  private static void replicate(SparkSession spark, Sandbox sandbox) throws Exception {
    ChangeDataFeed.replicate(spark, "customers", "replica", sandbox.path("checkpoint"))
        .awaitTermination();
  }

  @Test
  void eachVersionSaysWhatItInsertedUpdatedAndDeleted(SparkSession spark) {
    spark.sql("UPDATE customers SET city = 'Madrid' WHERE customer_id = 2");
    spark.sql("DELETE FROM customers WHERE customer_id = 3");

    assertThat(ChangeDataFeed.changes(spark, "customers", 3, 4).drop("_commit_timestamp"))
        .hasRows(
            row(2L, "Paris", "update_preimage", 3L),
            row(2L, "Madrid", "update_postimage", 3L),
            row(3L, "Rome", "delete", 4L));
    assertThat(ChangeDataFeed.changes(spark, "customers", 2, 2).drop("_commit_timestamp"))
        .hasRows(
            row(1L, "Berlin", "insert", 2L),
            row(2L, "Paris", "insert", 2L),
            row(3L, "Rome", "insert", 2L));
  }

  @Test
  void aMergeAndAnOverwriteAreRowsToo(SparkSession spark) {
    spark.sql(
        """
        MERGE INTO customers AS t
        USING (SELECT * FROM VALUES (1L, 'Bonn'), (4L, 'Vienna') AS s (customer_id, city)) AS s
        ON t.customer_id = s.customer_id
        WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *
        """);
    spark.sql("INSERT OVERWRITE customers VALUES (9, 'Oslo')");

    assertThat(ChangeDataFeed.changes(spark, "customers", 3, 3).drop("_commit_timestamp"))
        .hasRows(
            row(1L, "Berlin", "update_preimage", 3L),
            row(1L, "Bonn", "update_postimage", 3L),
            row(4L, "Vienna", "insert", 3L));
    assertThat(ChangeDataFeed.changes(spark, "customers", 4, 4).drop("_commit_timestamp"))
        .hasRows(
            row(1L, "Bonn", "delete", 4L),
            row(2L, "Paris", "delete", 4L),
            row(3L, "Rome", "delete", 4L),
            row(4L, "Vienna", "delete", 4L),
            row(9L, "Oslo", "insert", 4L));
  }

  @Test
  void compactionChangesNoRow(SparkSession spark) {
    spark.sql("INSERT INTO customers VALUES (4, 'Vienna')");
    spark.sql("OPTIMIZE customers");

    assertThat(TableState.version(spark, "customers")).isEqualTo(4);
    assertThat(ChangeDataFeed.changes(spark, "customers", 4, 4)).isEmpty();
  }

  @Test
  void versionsFromBeforeTheFeedAndFromTheFutureAreRefused(SparkSession spark) {
    assertRefused(
        "DELTA_MISSING_CHANGE_DATA",
        () -> ChangeDataFeed.changes(spark, "customers", 0, 2).collectAsList());
    assertRefused(
        "DELTA_CDC_START_VERSION_AFTER_LATEST",
        () -> ChangeDataFeed.changes(spark, "customers", 9, 9).collectAsList());
  }

  @Test
  void theReplicaEqualsTheSourceAfterEveryBatch(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Random random = new Random(11);
    List<String> statements =
        List.of(
            "INSERT INTO customers SELECT id + %1$d * 100, concat('city ', id) FROM range(20)",
            "UPDATE customers SET city = concat(city, ' %1$d') WHERE customer_id %% 3 = %1$d %% 3",
            "DELETE FROM customers WHERE customer_id %% 5 = %1$d %% 5",
            "UPDATE customers SET customer_id = customer_id + 100000 WHERE customer_id %% 7 = %1$d %% 7");

    for (int batch = 1; batch <= 6; batch++) {
      spark.sql(statements.get(0).formatted(batch));
      for (int i = 0; i < 2; i++) {
        spark.sql(statements.get(random.nextInt(statements.size())).formatted(10 * batch + i));
      }

      replicate(spark, sandbox);

      assertThat(spark.table("replica")).hasSameRowsAs(spark.table("customers"));
    }
    assertThat(TableState.version(spark, "replica")).as("a version for each batch").isEqualTo(6);
  }

  @Test
  void aKeyThatIsDeletedAndComesBackWithinOneBatchIsThere(SparkSession spark, Sandbox sandbox)
      throws Exception {
    replicate(spark, sandbox);
    spark.sql("DELETE FROM customers WHERE customer_id = 1");
    spark.sql("INSERT INTO customers VALUES (1, 'Bonn')");
    spark.sql("INSERT INTO customers VALUES (4, 'Vienna')");
    spark.sql("DELETE FROM customers WHERE customer_id = 4");

    replicate(spark, sandbox);

    assertThat(spark.table("replica")).hasRows(row(1L, "Bonn"), row(2L, "Paris"), row(3L, "Rome"));
  }

  @Test
  void aKeyThatAnOverwriteDeletesAndInsertsIsThere(SparkSession spark, Sandbox sandbox)
      throws Exception {
    replicate(spark, sandbox);
    spark.sql("INSERT OVERWRITE customers VALUES (1, 'Bonn')");

    replicate(spark, sandbox);

    assertThat(spark.table("replica")).hasRows(row(1L, "Bonn"));
  }

  @Test
  void theSameChangesAgainChangeNothing(SparkSession spark) {
    spark.sql("DELETE FROM customers WHERE customer_id = 3");
    var changes = ChangeDataFeed.changes(spark, "customers", 2, 3);

    ChangeDataFeed.apply("replica", changes);
    ChangeDataFeed.apply("replica", changes);

    assertThat(spark.table("replica")).hasRows(row(1L, "Berlin"), row(2L, "Paris"));
  }

  @Test
  void aRunWithNothingNewWritesNothing(SparkSession spark, Sandbox sandbox) throws Exception {
    replicate(spark, sandbox);
    long version = TableState.version(spark, "replica");

    replicate(spark, sandbox);

    assertThat(TableState.version(spark, "replica")).isEqualTo(version);
  }
}
