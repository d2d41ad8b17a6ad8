package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static java.util.stream.Collectors.toMap;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Observed;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.PartialReducerPartitionSpec;
import org.apache.spark.sql.execution.adaptive.AQEShuffleReadExec;
import org.apache.spark.sql.execution.joins.SortMergeJoinExec;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class SkewJoinTest {
  private static final int PARTITIONS = 8;
  private static final int MAP_TASKS = 16;

  /** More than a task without the hot customer gets, and far less than the one with. */
  private static final long BYTES = 32 << 10;

  private SampleData data;
  private Dataset<Row> orders;
  private Dataset<Row> customers;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
    spark.conf().set("spark.sql.autoBroadcastJoinThreshold", -1);
    spark.conf().set("spark.sql.shuffle.partitions", PARTITIONS);
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", MAP_TASKS);
    // Data this small would be put together in one task.
    spark.conf().set("spark.sql.adaptive.coalescePartitions.enabled", false);
    createOrders(spark, 150_000, 0.5);
  }

  private void createOrders(SparkSession spark, long items, double skew) {
    data = SampleData.of(spark).rows(items).skew(skew);
    orders = data.orders().select("order_id", "customer_id", "order_date");
    customers = data.customers().select("customer_id", "country");
  }

  private static int pieces(Observed run) {
    return (int)
        run.nodes(AQEShuffleReadExec.class).stream()
            .flatMap(read -> asJava(read.partitionSpecs()).stream())
            .filter(PartialReducerPartitionSpec.class::isInstance)
            .count();
  }

  private static boolean isSplit(Observed run) {
    return run.nodes(SortMergeJoinExec.class).stream().anyMatch(SortMergeJoinExec::isSkewJoin);
  }

  /** Of the same shuffle partition as the hot customer. */
  private static long besideCustomer0(Dataset<Row> rows) {
    return rows.where("pmod(hash(customer_id), %1$d) = pmod(hash(0L), %1$d)".formatted(PARTITIONS))
        .count();
  }

  @Test
  void oneTaskHasAllOrdersOfTheHotCustomer(SparkSession spark) {
    Observed run = Observed.of(SkewJoin.withCustomers(orders, customers));

    assertThat(data.hotOrderCount()).isEqualTo(25_000);
    assertThat(run.rowsOfTasks()).hasSize(PARTITIONS);
    assertThat(run.mostRows()).isEqualTo(besideCustomer0(orders) + besideCustomer0(customers));
    assertThat(run.mostRows()).isGreaterThan(7 * run.medianRows());
    assertThat(run.allRows()).isEqualTo(data.orderCount() + data.customerCount());
    assertThat(isSplit(run)).isFalse();
  }

  @Test
  void adaptiveExecutionSplitsThatTask(SparkSession spark) {
    Dataset<Row> join = SkewJoin.withCustomers(orders, customers);
    Observed before = Observed.of(join);

    SkewJoin.splitPartitionsOver(spark, BYTES);

    Observed after = Observed.of(join);
    assertThat(isSplit(after)).isTrue();
    assertThat(pieces(after)).isBetween(5, MAP_TASKS);
    assertThat(after.rowsOfTasks()).hasSize(PARTITIONS - 1 + pieces(after));
    assertThat(after.mostRows()).isLessThan(2 * after.medianRows());
    // Each piece reads what the other side sent there.
    assertThat(after.allRows() - before.allRows())
        .isEqualTo((pieces(after) - 1) * besideCustomer0(customers));
    assertThat(after.initialPlan()).isEqualTo(before.initialPlan());
    assertThat(QueryProfile.of(join).exchanges()).isEqualTo(Map.of("hash", 2));
  }

  @Test
  void aSaltSpreadsThemWithoutAdaptiveExecution(SparkSession spark) {
    spark.conf().set("spark.sql.adaptive.enabled", false);
    List<Long> hot = SkewJoin.hotCustomers(orders, 0.05);
    assertThat(hot).containsExactly(0L);

    Observed run = Observed.of(SkewJoin.withCustomersSalted(orders, customers, hot, 64));

    assertThat(run.rowsOfTasks()).hasSize(PARTITIONS);
    assertThat(run.mostRows()).isLessThan(2 * run.medianRows());
    // 63 rows more: the hot customer's.
    assertThat(run.allRows()).isEqualTo(data.orderCount() + data.customerCount() + 63);
  }

  @Test
  void asManySaltsAsPartitionsFallTooUnevenly(SparkSession spark) {
    Observed run =
        Observed.of(SkewJoin.withCustomersSalted(orders, customers, List.of(0L), PARTITIONS));

    assertThat(run.mostRows()).isGreaterThan(2 * run.medianRows());
  }

  @Test
  void hotCustomersApartAreNotShuffledAtAll(SparkSession spark) {
    Dataset<Row> apart = SkewJoin.withCustomersApart(orders, customers, List.of(0L));

    Observed run = Observed.of(apart);

    assertThat(run.allRows())
        .isEqualTo(data.orderCount() - data.hotOrderCount() + data.customerCount() - 1);
    assertThat(run.mostRows()).isLessThan(2 * run.medianRows());
    assertThat(QueryProfile.of(apart).joins())
        .containsExactlyInAnyOrder("BroadcastHashJoin", "SortMergeJoin");
  }

  @Test
  void theRowsAreThoseOfPlainJavaHoweverTheyAreJoined(SparkSession spark) {
    createOrders(spark, 6_000, 0.5);
    Map<Long, String> countries =
        customers.collectAsList().stream()
            .collect(toMap(c -> c.getAs("customer_id"), c -> c.getAs("country")));
    Row[] expected =
        orders.collectAsList().stream()
            .map(
                o ->
                    row(
                        o.getAs("customer_id"),
                        o.getAs("order_id"),
                        o.getAs("order_date"),
                        countries.get(o.<Long>getAs("customer_id"))))
            .toArray(Row[]::new);
    List<Long> hot = List.of(0L, 7L);

    assertThat(SkewJoin.withCustomersSalted(orders, customers, hot, 64)).hasRows(expected);
    assertThat(SkewJoin.withCustomersApart(orders, customers, hot)).hasRows(expected);
    assertThat(SkewJoin.withCustomersSalted(orders, customers, List.of(), 1)).hasRows(expected);
    assertThat(SkewJoin.withCustomers(orders, customers)).hasRows(expected);
  }

  @Test
  void aTaskThatWasSplitGivesTheSameRows(SparkSession spark) {
    Dataset<Row> salted = SkewJoin.withCustomersSalted(orders, customers, List.of(0L), 64);
    salted.write().format("parquet").saveAsTable("salted");
    SkewJoin.splitPartitionsOver(spark, BYTES);
    SkewJoin.withCustomers(orders, customers).write().format("parquet").saveAsTable("split");

    assertThat(spark.table("split")).hasSameRowsAs(spark.table("salted"));
    assertThat(spark.table("split")).hasRowCount(data.orderCount());
  }

  @Test
  void anOrderWithoutACustomerIsInNoneOfThem(SparkSession spark) {
    Dataset<Row> some =
        spark.sql(
            "SELECT * FROM VALUES (1L, 0L), (2L, NULL), (3L, 99L) AS o (order_id, customer_id)");
    Dataset<Row> known =
        spark.sql("SELECT * FROM VALUES (0L, 'DE'), (NULL, '?') AS c (customer_id, country)");

    assertThat(SkewJoin.withCustomers(some, known)).hasRows(row(0L, 1L, "DE"));
    assertThat(SkewJoin.withCustomersSalted(some, known, List.of(0L), 4))
        .hasRows(row(0L, 1L, "DE"));
    assertThat(SkewJoin.withCustomersApart(some, known, List.of(0L))).hasRows(row(0L, 1L, "DE"));
    // NULL has a third of the orders, and is no customer.
    assertThat(SkewJoin.hotCustomers(some, 0.3)).containsExactlyInAnyOrder(0L, 99L);
  }

  @Test
  void aPieceIsTheOutputOfWholeMapTasks(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, BYTES);
    spark.conf().set("spark.sql.leafNodeDefaultParallelism", 2);
    createOrders(spark, 150_000, 0.5);

    Observed run = Observed.of(SkewJoin.withCustomers(orders, customers));

    assertThat(pieces(run)).isEqualTo(2);
    assertThat(run.mostRows()).isGreaterThan(data.hotOrderCount() / 2);
  }

  @Test
  void bySparksOwnLimitsDataThisSmallIsNotSplit(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, 256L << 20);

    assertThat(isSplit(Observed.of(SkewJoin.withCustomers(orders, customers)))).isFalse();
  }

  @Test
  void lessThanFiveTimesTheMedianIsNotSplitUnlessAskedFor(SparkSession spark) {
    createOrders(spark, 150_000, 0.25);
    SkewJoin.splitPartitionsOver(spark, 16 << 10);
    Dataset<Row> join = SkewJoin.withCustomers(orders, customers);
    Observed before = Observed.of(join);
    assertThat(before.mostRows()).isGreaterThan(2 * before.medianRows());
    assertThat(isSplit(before)).isFalse();

    spark.conf().set("spark.sql.adaptive.skewJoin.skewedPartitionFactor", 2);

    assertThat(isSplit(Observed.of(join))).isTrue();
  }

  @Test
  void anOuterJoinIsSplitOnTheSideWhoseRowsAreAllKept(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, BYTES);
    Column key = orders.col("customer_id").equalTo(customers.col("customer_id"));

    assertThat(isSplit(Observed.of(orders.join(customers, key, "left")))).isTrue();
    assertThat(isSplit(Observed.of(orders.join(customers, key, "left_semi")))).isTrue();
    for (String type : List.of("right", "full")) {
      Observed run = Observed.of(orders.join(customers, key, type));
      assertThat(isSplit(run)).as(type).isFalse();
      assertThat(run.mostRows()).as(type).isGreaterThan(data.hotOrderCount());
    }
  }

  @Test
  void aGroupByTheSameKeyPreventsItUnlessForced(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, BYTES);
    Dataset<Row> query =
        SkewJoin.withCustomers(orders, customers)
            .groupBy("customer_id")
            .agg(count(lit(1)).as("orders"), sum("order_id"));
    assertThat(isSplit(Observed.of(query))).isFalse();
    assertThat(QueryProfile.of(query).exchanges()).isEqualTo(Map.of("hash", 2));

    spark.conf().set("spark.sql.adaptive.forceOptimizeSkewedJoin", true);

    assertThat(isSplit(Observed.of(query))).isTrue();
    assertThat(QueryProfile.of(query).exchanges()).isEqualTo(Map.of("hash", 3));
    assertThat(query.where("customer_id = 0").select("orders")).hasRows(row(data.hotOrderCount()));
  }

  @Test
  void equalKeysAloneCompressToSoLittleThatTheyAreNotSplit(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, BYTES);
    spark.conf().set("spark.sql.adaptive.forceOptimizeSkewedJoin", true);

    // Of the orders only customer_id goes through the shuffle.
    Observed run =
        Observed.of(SkewJoin.withCustomers(orders, customers).groupBy("customer_id").count());

    assertThat(run.mostRows()).isGreaterThan(7 * run.medianRows());
    assertThat(isSplit(run)).isFalse();
  }

  @Test
  void aWindowIsNotSplitAndAGroupHasNoSkew(SparkSession spark) {
    SkewJoin.splitPartitionsOver(spark, BYTES);

    Observed window =
        Observed.of(
            orders.selectExpr("row_number() OVER (PARTITION BY customer_id ORDER BY order_id)"));
    Observed group = Observed.of(orders.groupBy("customer_id").count());

    assertThat(window.mostRows()).isEqualTo(besideCustomer0(orders));
    assertThat(window.rowsOfTasks()).hasSize(PARTITIONS);
    // A row for each customer from each map task, of the hot one too.
    assertThat(group.mostRows()).isLessThan(2 * group.medianRows());
  }

  @Test
  void columnsOfOneNameAndAnotherSaltComeThrough(SparkSession spark) {
    Dataset<Row> salted = orders.selectExpr("*", "order_id AS salt", "1 AS changed");
    Dataset<Row> changed = customers.selectExpr("*", "2 AS changed");
    List<Row> expected = salted.join(changed, "customer_id").collectAsList();

    assertThat(SkewJoin.withCustomersApart(salted, changed, List.of(0L)).collectAsList())
        .containsExactlyInAnyOrderElementsOf(expected);
    assertThat(SkewJoin.withCustomersSalted(salted, changed, List.of(0L), 4).collectAsList())
        .containsExactlyInAnyOrderElementsOf(expected);
  }

  @Test
  void aSaltInALeftOuterJoinMakesNoRows(SparkSession spark) {
    Dataset<Row> salted =
        orders.selectExpr("*", "IF(customer_id = 0, pmod(order_id, 4), 0) AS salt");
    Dataset<Row> copies =
        customers.where("customer_id = 0").selectExpr("*", "explode(sequence(0L, 3L)) AS salt");

    assertThat(salted.join(copies, new String[] {"customer_id", "salt"}, "left"))
        .hasRowCount(orders.count());
  }

  @Test
  void aSaltInARightOuterJoinMakesRowsThatAreNotThere(SparkSession spark) {
    Dataset<Row> none = orders.where("false").selectExpr("*", "0L AS salt");
    Dataset<Row> copies =
        customers.where("customer_id = 0").selectExpr("*", "explode(sequence(0L, 3L)) AS salt");

    // One customer without orders, four times.
    assertThat(none.join(copies, new String[] {"customer_id", "salt"}, "right")).hasRowCount(4);
  }

  @Test
  void sharesAndSaltsThatMakeNoSenseAreRefused(SparkSession spark) {
    assertThatThrownBy(() -> SkewJoin.hotCustomers(orders, 0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("a share must be more than 0: 0.0");
    assertThatThrownBy(() -> SkewJoin.withCustomersSalted(orders, customers, List.of(0L), 0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("at least one salt: 0");
  }
}
