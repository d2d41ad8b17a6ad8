package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Stored;
import java.time.LocalDate;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.util.LongAccumulator;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class CachingTest {
  private static final LocalDate FIRST_DAY = LocalDate.of(2025, 1, 1);

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
  }

  @AfterEach
  void clearCache(SparkSession spark) {
    spark.catalog().clearCache();
  }

  /** {@code n}: the numbers below {@code rows}, each of which a call has counted. */
  private static Dataset<Row> counted(
      SparkSession spark, LongAccumulator calls, long rows, int partitions) {
    UDF1<Long, Long> count =
        n -> {
          calls.add(1);
          return n;
        };
    return spark
        .range(0, rows, 1, partitions)
        .select(udf(count, DataTypes.LongType).apply(col("id")).as("n"));
  }

  /**
   * 24,000 orders in 12 files: file i has days 30 i to 30 i + 29, and 80 customers of all 240 days
   * have 300 orders of 10.00 each.
   */
  private static Dataset<Row> orders(SparkSession spark) {
    spark
        .range(0, 24_000, 1, 12)
        .selectExpr(
            "id AS order_id",
            "id % 80 AS customer_id",
            "date_add(DATE'2025-01-01', CAST(id div 2000 * 30 + id % 30 AS INT)) AS order_date",
            "CAST(10 AS DECIMAL(12,2)) AS amount",
            "md5(CAST(id AS STRING)) AS note")
        .write()
        .format("delta")
        .saveAsTable("orders");
    return spark.table("orders");
  }

  @Test
  void cacheDoesNothingUntilAnActionReadsAndThenKeepsWhatItRead(SparkSession spark) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    Dataset<Row> numbers = counted(spark, calls, 1_000, 10);

    numbers.cache();
    assertThat(calls.value()).isZero();
    assertThat(Stored.of(spark)).isEqualTo(new Stored(0, 0, 0));

    numbers.takeAsList(1);
    assertThat(calls.value()).as("one partition").isEqualTo(100);
    assertThat(Stored.of(spark).partitions()).isEqualTo(1);

    assertThat(numbers.where("n = 5").count()).isEqualTo(1);
    assertThat(calls.value()).as("the other nine").isEqualTo(1_000);
    assertThat(Stored.of(spark).partitions()).isEqualTo(10);

    assertThat(numbers.where("n = 5").count()).isEqualTo(1);
    assertThat(calls.value()).isEqualTo(1_000);
  }

  @Test
  void withCacheComputesOnceAndReleases(SparkSession spark) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    Dataset<Row> numbers = counted(spark, calls, 1_000, 2);

    long found =
        Caching.withCache(
            numbers,
            StorageLevel.DISK_ONLY(),
            kept -> {
              long sum = kept.where("n < 10").count() + kept.where("n >= 990").count();
              assertThat(numbers.storageLevel()).isEqualTo(StorageLevel.DISK_ONLY());
              assertThat(Stored.of(spark).diskBytes()).isPositive();
              return sum;
            });

    assertThat(found).isEqualTo(20);
    assertThat(calls.value()).isEqualTo(1_000);
    assertThat(numbers.storageLevel()).isEqualTo(StorageLevel.NONE());
  }

  @Test
  void withCacheReleasesWhenItsUseFails(SparkSession spark) {
    Dataset<Row> numbers = spark.range(10).toDF();

    assertThatThrownBy(
            () ->
                Caching.withCache(
                    numbers,
                    StorageLevel.MEMORY_ONLY(),
                    kept -> {
                      throw new IllegalArgumentException("after " + kept.count());
                    }))
        .hasMessage("after 10");
    assertThat(numbers.storageLevel()).isEqualTo(StorageLevel.NONE());
  }

  /** The trap: a Dataset keeps the plan of its first run, and that has no cache in it. */
  @Test
  void aDatasetThatRanBeforeIsComputedAgainBesideItsCache(SparkSession spark) {
    LongAccumulator calls = spark.sparkContext().longAccumulator();
    Dataset<Row> numbers = counted(spark, calls, 100, 2);
    numbers.collectAsList();
    calls.reset();

    int rows =
        Caching.withCache(
            numbers,
            StorageLevel.MEMORY_ONLY(),
            kept -> {
              kept.count();
              assertThat(calls.value()).as("to fill it").isEqualTo(100);
              numbers.collectAsList();
              assertThat(calls.value()).as("the old Dataset").isEqualTo(200);
              return kept.collectAsList().size();
            });

    assertThat(rows).isEqualTo(100);
    assertThat(calls.value()).as("the new one").isEqualTo(200);
  }

  @Test
  void whatIsCachedAlreadyIsRefusedAndStays(SparkSession spark) {
    Dataset<Row> numbers = spark.range(10).toDF().persist(StorageLevel.DISK_ONLY());
    orders(spark).persist(StorageLevel.DISK_ONLY());

    assertThatThrownBy(() -> Caching.withCache(numbers, StorageLevel.MEMORY_ONLY(), Dataset::count))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("cached already, as Disk Serialized 1x Replicated");
    assertThatThrownBy(() -> Caching.cacheTable(spark, "orders", StorageLevel.MEMORY_ONLY()))
        .isInstanceOf(IllegalStateException.class)
        .hasMessage("orders is cached already: uncacheTable first");

    // What Spark does itself: nothing.
    numbers.persist(StorageLevel.MEMORY_ONLY());
    assertThat(numbers.storageLevel()).isEqualTo(StorageLevel.DISK_ONLY());
  }

  @Test
  void aCacheIsFoundByThePlanAndNotByTheRows(SparkSession spark) {
    Dataset<Row> numbers = spark.range(0, 1_000, 1, 2).toDF("n");
    numbers.where("n > 5").where("n < 50").cache();

    assertThat(usesCache(spark.range(0, 1_000, 1, 2).toDF("n").where("n > 5").where("n < 50")))
        .isTrue();
    assertThat(usesCache(numbers.where("n > 5").where("n < 50").where("n = 7"))).isTrue();
    assertThat(usesCache(numbers.where("n < 50").where("n > 5"))).isFalse();
    assertThat(usesCache(numbers.where("n > 5 AND n < 50"))).isFalse();
  }

  private static boolean usesCache(Dataset<Row> query) {
    return query.queryExecution().executedPlan().toString().contains("InMemoryRelation");
  }

  /** 24,000 rows read once and 80 sums shuffled once, and not four times. */
  @Test
  void aSumThatFourQuestionsUseIsReadAndShuffledOnce(SparkSession spark) {
    Dataset<Row> spend = Caching.spendPerCustomer(orders(spark));

    QueryProfile again = QueryProfile.of(spark, () -> ask(spend));
    QueryProfile cached =
        Caching.withCache(
            spend, StorageLevel.MEMORY_ONLY(), kept -> QueryProfile.of(spark, () -> ask(kept)));

    assertThat(again.rowsRead()).isEqualTo(4 * 24_000);
    assertThat(cached.rowsRead()).as("with a batch for each read").isBetween(24_000L, 24_020L);
    assertThat(cached.shuffleBytes()).isLessThan(again.shuffleBytes() / 2);
  }

  private static void ask(Dataset<Row> spend) {
    for (int orders = 296; orders < 300; orders++) {
      assertThat(spend.where("spent = 3000.00 AND orders > " + orders).count()).isEqualTo(80);
    }
  }

  /** Day 95 is in file 3 of 0 to 11; its rows: those of file 3 with id % 30 = 5. */
  @Test
  void aCacheOfTheTableHidesItsFilesAndColumnsFromTheQuery(SparkSession spark) {
    Dataset<Row> orders = orders(spark);
    LocalDate day = FIRST_DAY.plusDays(95);
    long rows = LongStream.range(6_000, 8_000).filter(id -> id % 30 == 5).count();

    QueryProfile files = QueryProfile.of(Caching.amountsOf(orders, day));
    assertThat(files.filesRead()).isEqualTo(1);
    assertThat(files.filesPruned()).isEqualTo(11);
    assertThat(files.rowsRead()).isEqualTo(2_000);
    assertThat(files.rowsOut()).hasValue(rows);

    Caching.withCache(
        orders,
        StorageLevel.MEMORY_ONLY(),
        kept -> {
          QueryProfile first = QueryProfile.of(Caching.amountsOf(kept, day));
          QueryProfile further = QueryProfile.of(Caching.amountsOf(kept, day));
          assertThat(first.rowsRead()).isGreaterThanOrEqualTo(24_000);
          assertThat(further.rowsOut()).hasValue(rows);
          assertThat(further.bytesRead())
              .as("the whole cache, at every use")
              .isEqualTo(Stored.of(spark).memoryBytes())
              .isGreaterThan(5 * files.bytesRead());
          assertThat(further.plans().get(0)).contains("PushedFilters: []").contains("note");
          return null;
        });

    Caching.withCache(
        Caching.amountsOf(orders, day),
        StorageLevel.MEMORY_ONLY(),
        kept -> assertThat(QueryProfile.of(kept).rowsRead()).isBetween(2_000L, 2_010L));
  }

  @Test
  void theLevelSaysWhereAndAllHaveTheSameBytes(SparkSession spark) {
    orders(spark);
    Map<String, Stored> stored =
        Map.of(
                "memory", StorageLevel.MEMORY_ONLY(),
                "serialized", StorageLevel.MEMORY_ONLY_SER(),
                "both", StorageLevel.MEMORY_AND_DISK(),
                "disk", StorageLevel.DISK_ONLY())
            .entrySet()
            .stream()
            .collect(Collectors.toMap(Map.Entry::getKey, e -> stored(spark, e.getValue())));
    long bytes = stored.get("memory").memoryBytes();

    assertThat(stored.get("memory").diskBytes()).isZero();
    assertThat(stored.get("serialized").memoryBytes()).isBetween(bytes * 95 / 100, bytes);
    assertThat(stored.get("both")).as("enough memory").isEqualTo(stored.get("memory"));
    assertThat(stored.get("disk").memoryBytes()).isZero();
    assertThat(stored.get("disk").diskBytes()).isBetween(bytes * 95 / 100, bytes);

    spark.conf().set("spark.sql.inMemoryColumnarStorage.compressed", "false");
    assertThat(stored(spark, StorageLevel.MEMORY_ONLY()).memoryBytes())
        .as("not compressed")
        .isGreaterThan(bytes * 5 / 4);
  }

  private static Stored stored(SparkSession spark, StorageLevel level) {
    Caching.cacheTable(spark, "orders", level);
    Stored stored = Stored.of(spark);
    assertThat(spark.catalog().isCached("orders")).isTrue();
    spark.catalog().uncacheTable("orders");
    return stored;
  }

  @Test
  void whatThisApplicationWritesIsSeenInAnyOfItsSessions(SparkSession spark, Sandbox sandbox) {
    Dataset<Row> cached = numbers(spark).cache();
    Dataset<Row> sum = cached.selectExpr("sum(n) AS sum").cache();
    assertThat(now(sum)).isEqualTo(45);

    spark.sql("DELETE FROM numbers WHERE n = 9");
    assertThat(now(sum)).isEqualTo(36);
    spark.newSession().sql("INSERT INTO " + sandbox.table("numbers") + " VALUES (64)");
    assertThat(now(sum)).isEqualTo(100);
    assertThat(cached.storageLevel()).as("still cached").isEqualTo(StorageLevel.MEMORY_AND_DISK());
    assertThat(usesCache(sum.select("sum"))).isTrue();
  }

  @Test
  void whatAStreamOfThisApplicationWritesIsSeenToo(SparkSession spark, Sandbox sandbox)
      throws Exception {
    numbers(spark);
    Caching.cacheTable(spark, "numbers", StorageLevel.MEMORY_ONLY());
    spark.range(10, 12).toDF("n").write().format("delta").saveAsTable("source");

    spark
        .readStream()
        .table("source")
        .writeStream()
        .format("delta")
        .option("checkpointLocation", sandbox.path("checkpoint"))
        .trigger(Trigger.AvailableNow())
        .toTable("numbers")
        .processAllAvailable();

    assertThat(spark.table("numbers")).hasRowCount(12);
    assertThat(usesCache(spark.table("numbers"))).isTrue();
  }

  @Test
  void aTableThatCannotBeReadIsNotLeftMarkedAsCached(SparkSession spark) {
    spark.sql("CREATE VIEW broken AS SELECT raise_error('no') AS n FROM range(1)");

    assertThatThrownBy(() -> Caching.cacheTable(spark, "broken", StorageLevel.MEMORY_ONLY()))
        .hasStackTraceContaining("no");

    assertThat(spark.catalog().isCached("broken")).isFalse();
  }

  /** By a new Dataset: one that has run repeats what it did then, cached or not. */
  private static long now(Dataset<Row> sum) {
    return sum.select("sum").head().getLong(0);
  }

  /** The trap: Delta 4.4 leaves caches as they are when it restores a table. */
  @Test
  void restoreLeavesTheCacheBehindUntilARefresh(SparkSession spark) {
    numbers(spark);
    spark.sql("DELETE FROM numbers WHERE n >= 5");
    Caching.cacheTable(spark, "numbers", StorageLevel.MEMORY_ONLY());
    spark.sql("RESTORE TABLE numbers TO VERSION AS OF 0");

    assertThat(spark.table("numbers")).as("five rows that were deleted").hasRowCount(5);
    assertThat(spark.sql("SELECT count(*) FROM numbers VERSION AS OF 2")).hasRows(row(10L));

    Caching.refresh(spark, "numbers");

    assertThat(spark.table("numbers")).hasRowCount(10);
    assertThat(spark.table("numbers").storageLevel()).isEqualTo(StorageLevel.MEMORY_ONLY());
    assertThat(usesCache(spark.table("numbers"))).isTrue();
  }

  /** Another application, which knows nothing of this one's caches. */
  static final class Insert {
    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("insert");
      spark.sql("INSERT INTO delta.`%s` VALUES (55)".formatted(args[0]));
      SparkSessions.close(spark);
    }
  }

  @Test
  void whatAnotherApplicationWritesIsMissedUntilARefresh(SparkSession spark) throws Exception {
    Dataset<Row> sum = numbers(spark).selectExpr("sum(n) AS sum").cache();
    assertThat(now(sum)).isEqualTo(45);
    String location = spark.sql("DESCRIBE DETAIL numbers").head().getAs("location");

    ChildJvm other = ChildJvm.run(Insert.class, List.of("-Xmx1g"), location);

    assertThat(other.exitCode()).as(other.output()).isZero();
    assertThat(now(sum)).as("as cached").isEqualTo(45);
    assertThat(spark.table("numbers")).as("which is not cached").hasRowCount(11);
    Caching.refresh(spark, "numbers");
    assertThat(now(sum)).isEqualTo(100);
  }

  private static Dataset<Row> numbers(SparkSession spark) {
    spark.range(0, 10, 1, 1).toDF("n").write().format("delta").saveAsTable("numbers");
    return spark.table("numbers");
  }

  /** About 11 MB for caches, and a result of 27 MB in 16 partitions. */
  static final class SmallMemory {
    public static void main(String[] args) {
      SparkSession spark = SparkSessions.open("small");
      Measured.generateCode(spark);
      LongAccumulator calls = spark.sparkContext().longAccumulator();
      for (StorageLevel level :
          List.of(StorageLevel.MEMORY_ONLY(), StorageLevel.MEMORY_AND_DISK())) {
        Dataset<Row> wide =
            counted(spark, calls, 1_600_000, 16)
                .withColumn("h", expr("xxhash64(n)"))
                .withColumn("i", expr("xxhash64(h)"));
        wide.persist(level);
        for (int use = 1; use <= 3; use++) {
          calls.reset();
          int before = Stored.of(spark).partitions();
          long sum = wide.selectExpr("sum(n)", "max(h)", "max(i)").head().getLong(0);
          Stored stored = Stored.of(spark);
          System.out.printf(
              "FIGURES %d %d %d %d %d%n",
              sum, calls.value(), before, stored.memoryBytes(), stored.diskBytes());
        }
        wide.unpersist(true);
      }
      SparkSessions.close(spark);
    }
  }

  @Test
  void inASmallMemoryPartitionsAreDroppedAndComputedAgainOrGoToDisk() throws Exception {
    ChildJvm child =
        ChildJvm.run(
            SmallMemory.class,
            List.of(
                "-Xmx512m",
                "-Dspark.master=local[2]",
                "-Dspark.memory.fraction=0.05",
                // When memory is short Spark serializes some blocks with Kryo, which needs this.
                "--add-opens=java.base/java.nio=ALL-UNNAMED"));

    assertThat(child.exitCode()).as(child.output()).isZero();
    List<long[]> uses =
        child
            .output()
            .lines()
            .filter(line -> line.startsWith("FIGURES"))
            .map(line -> line.substring(8).split(" "))
            .map(figures -> Arrays.stream(figures).mapToLong(Long::parseLong).toArray())
            .toList();
    assertThat(uses).hasSize(6);
    long sum = 1_600_000L * 1_599_999 / 2;
    assertThat(uses).allSatisfy(use -> assertThat(use[0]).isEqualTo(sum));
    // MEMORY_ONLY: what did not fit is computed at each use, 100,000 rows for each partition.
    for (long[] use : uses.subList(1, 3)) {
      assertThat(use[2]).as("partitions that fit").isBetween(1L, 12L);
      assertThat(use[1]).as("calls").isEqualTo((16 - use[2]) * 100_000);
      assertThat(use[4]).as("bytes on disk").isZero();
    }
    // MEMORY_AND_DISK: computed once.
    for (long[] use : uses.subList(4, 6)) {
      assertThat(use[2]).isEqualTo(16);
      assertThat(use[1]).as("calls").isZero();
      assertThat(use[3]).as("bytes in memory").isPositive();
      assertThat(use[4]).as("bytes on disk").isGreaterThan(use[3]);
    }
  }
}
