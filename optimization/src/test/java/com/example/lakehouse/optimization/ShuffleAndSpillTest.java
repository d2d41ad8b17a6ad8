package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.col;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.OtherSessions;
import com.example.lakehouse.optimization.support.OtherSessions.Figures;
import com.example.lakehouse.optimization.support.Stored;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.util.SizeEstimator;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ShuffleAndSpillTest {
  private static final long SORTED_ROWS = 300_000;

  @BeforeEach
  void generateCode(SparkSession spark, Sandbox sandbox) {
    Measured.generateCode(spark);
  }

  @Test
  void theUnitsOfEachProductAreThoseOfAJavaSum(SparkSession spark) {
    Dataset<Row> items = SampleData.of(spark).rows(10_000).orderItems();
    Map<Long, Long> units = new TreeMap<>();
    for (Row item : items.collectAsList()) {
      units.merge(item.getAs("product_id"), (long) item.<Integer>getAs("quantity"), Long::sum);
    }

    assertThat(ShuffleAndSpill.unitsPerProduct(items))
        .hasRows(
            units.entrySet().stream().map(e -> row(e.getKey(), e.getValue())).toArray(Row[]::new));
  }

  /** Two tasks write; then one for each partition reads, or fewer, if adaptive. */
  @Test
  void moreShufflePartitionsWriteMoreBytesAndAdaptiveExecutionSavesOnlyTasks(SparkSession spark) {
    Dataset<Row> items = SampleData.of(spark).rows(100_000).orderItems();
    Map<Integer, QueryProfile> plain = new TreeMap<>();
    Map<Integer, QueryProfile> adaptive = new TreeMap<>();
    for (int partitions : new int[] {2, 20, 200}) {
      spark.conf().set("spark.sql.shuffle.partitions", String.valueOf(partitions));
      spark.conf().set("spark.sql.adaptive.enabled", "false");
      plain.put(partitions, QueryProfile.of(ShuffleAndSpill.unitsPerProduct(items.coalesce(2))));
      spark.conf().set("spark.sql.adaptive.enabled", "true");
      adaptive.put(partitions, QueryProfile.of(ShuffleAndSpill.unitsPerProduct(items.coalesce(2))));
    }

    assertThat(plain.get(2).tasks()).isEqualTo(2 + 2);
    assertThat(plain.get(20).tasks()).isEqualTo(2 + 20);
    assertThat(plain.get(200).tasks()).isEqualTo(2 + 200);
    assertThat(plain.get(20).shuffleBytes()).isGreaterThan(plain.get(2).shuffleBytes());
    assertThat(plain.get(200).shuffleBytes()).isGreaterThan(plain.get(20).shuffleBytes() * 5 / 4);
    adaptive.forEach(
        (partitions, profile) -> {
          assertThat(profile.tasks()).isEqualTo(2 + 1);
          assertThat(profile.shuffleBytes()).isEqualTo(plain.get(partitions).shuffleBytes());
        });
  }

  @Test
  void theItemsOfAProductAreInOnePartitionByPrice(SparkSession spark) {
    Dataset<Row> items =
        SampleData.of(spark).rows(1_000).orderItems().withColumn("unit_price", col("quantity"));

    List<Row> sorted =
        ShuffleAndSpill.byPrice(items, 7)
            .selectExpr("spark_partition_id()", "product_id", "unit_price")
            .collectAsList();

    Map<Long, Integer> partitionOf = new LinkedHashMap<>();
    for (int i = 0; i < sorted.size(); i++) {
      Row item = sorted.get(i);
      assertThat(partitionOf.computeIfAbsent(item.getLong(1), p -> item.getInt(0)))
          .as("partition of product %s", item.get(1))
          .isEqualTo(item.getInt(0));
      if (i > 0 && sorted.get(i - 1).getLong(1) == item.getLong(1)) {
        assertThat(item.getInt(2)).isGreaterThanOrEqualTo(sorted.get(i - 1).getInt(2));
      }
    }
    assertThat(sorted).hasSize(1_000);
    assertThat(partitionOf).hasSize(50);
    assertThat(partitionOf.values().stream().distinct()).hasSize(7);
  }

  @Test
  void partitionsAreAsManyAsTheBytesAskForAndNotFewerThanCores() {
    long mb = 1 << 20;

    assertThat(ShuffleAndSpill.partitionsFor(0, 128 * mb, 4)).isEqualTo(4);
    assertThat(ShuffleAndSpill.partitionsFor(1_280 * mb, 128 * mb, 4)).isEqualTo(10);
    assertThat(ShuffleAndSpill.partitionsFor(1_280 * mb + 1, 128 * mb, 4)).isEqualTo(11);
    assertThatThrownBy(() -> ShuffleAndSpill.partitionsFor(1, 0, 4))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> ShuffleAndSpill.partitionsFor(1, mb, 0))
        .isInstanceOf(IllegalArgumentException.class);
    assertThatThrownBy(() -> ShuffleAndSpill.partitionsFor(Long.MAX_VALUE, 1, 4))
        .isInstanceOf(ArithmeticException.class);
  }

  /** Beside the settings: 300,000 rows sorted in a JVM of 512 MB. */
  @Test
  void aSortInASmallMemorySpillsUnlessItsPartitionsAreSmall() throws Exception {
    String small = "spark.memory.fraction";
    String partitions = "spark.sql.shuffle.partitions";
    Map<String, Figures> sessions =
        run(
            Map.of(
                "small", Map.of(small, "0.05", partitions, "2"),
                "small, more partitions", Map.of(small, "0.05", partitions, "32"),
                "large", Map.of(partitions, "2"),
                "zstd", Map.of("spark.io.compression.codec", "zstd", partitions, "2"),
                "none", Map.of("spark.shuffle.compress", "false", partitions, "2")));

    assertThat(sessions.values())
        .allSatisfy(session -> assertThat(session.rowsOut()).isEqualTo(SORTED_ROWS));
    assertThat(sessions.get("small").spillBytes()).isGreaterThan(1_000_000);
    assertThat(sessions.get("small, more partitions").spillBytes()).isZero();
    assertThat(sessions.get("large").spillBytes()).isZero();
    assertThat(sessions.get("small").shuffleBytes())
        .as("a spill is no shuffle")
        .isEqualTo(sessions.get("large").shuffleBytes());

    // A row: its length, a word of null bits, five columns of a word each.
    assertThat(sessions.get("none").shuffleBytes()).isEqualTo(SORTED_ROWS * (4 + 8 + 5 * 8));
    long lz4 = sessions.get("large").shuffleBytes();
    assertThat(lz4).isLessThan(sessions.get("none").shuffleBytes() / 2);
    assertThat(sessions.get("zstd").shuffleBytes()).isLessThan(lz4 * 2 / 3);
  }

  private static Map<String, Figures> run(Map<String, Map<String, String>> settings)
      throws Exception {
    return OtherSessions.run("512m", ShuffleAndSpill.ByPrice.class, SORTED_ROWS, settings).stream()
        .collect(Collectors.toMap(Figures::name, Function.identity()));
  }

  @Test
  void aFailureInTheOtherJvmSaysWhatItPrinted() {
    assertThatThrownBy(
            () ->
                OtherSessions.run(
                    "512m",
                    ShuffleAndSpill.ByPrice.class,
                    1,
                    Map.of("x", Map.of("spark.sql.shuffle.partitions", "2"))))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("rows must be from 100");
  }

  @Test
  void beansAreKeptAsRowsAndSerializedObjectsTakeManyTimesThat(SparkSession spark) {
    Dataset<Row> items = SampleData.of(spark).rows(20_000).orderItems().coalesce(1);
    Dataset<ShuffleAndSpill.Item> objects = ShuffleAndSpill.asSerializedObjects(items);

    long rows = cached(spark, items);
    long beans = cached(spark, ShuffleAndSpill.asBeans(items));
    long serialized = cached(spark, objects);
    List<ShuffleAndSpill.Item> list = objects.collectAsList();
    long heap = SizeEstimator.estimate(list.toArray(new ShuffleAndSpill.Item[0]));

    assertThat(beans).as("without order_id").isLessThan(rows);
    assertThat(rows).as("fewer than 30 bytes each").isLessThan(30 * 20_000);
    assertThat(heap).as("on the heap").isBetween(60L * 20_000, 120L * 20_000);
    assertThat(serialized).as("more than 300 bytes each").isGreaterThan(300 * 20_000);
    assertThat(list.stream().mapToLong(ShuffleAndSpill.Item::getQuantity).sum())
        .isEqualTo(items.selectExpr("sum(quantity)").head().getLong(0));
  }

  private static long cached(SparkSession spark, Dataset<?> data) {
    data.persist(StorageLevel.MEMORY_ONLY());
    assertThat(data.count()).isEqualTo(20_000);
    long bytes = Stored.of(spark).memoryBytes();
    data.unpersist(true);
    return bytes;
  }
}
