package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.sum;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.OtherSessions;
import com.example.lakehouse.optimization.support.OtherSessions.Figures;
import com.example.lakehouse.optimization.support.Room;
import com.example.lakehouse.optimization.support.Stored;
import java.io.Serializable;
import java.math.BigDecimal;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.util.SizeEstimator;

/**
 * Shuffles and memory: how many partitions, when a sort spills to disk, what a codec saves, and
 * what a row takes as a Java object.
 *
 * <p>Run: {@code ./run ShuffleAndSpill}, or Run in the IDE; no JVM flags, no setup; 300,000 order
 * items, {@code --scale} for more.
 *
 * <p>See: a sum that shuffles more bytes the more partitions it has; a sort in a small memory that
 * spills with 2 partitions and not with 32; the same rows shuffled with four codecs; a cache of
 * rows beside one of serialized objects.
 *
 * <p>On Databricks: the same code; {@code spark.sql.shuffle.partitions} may be {@code auto} there.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/tuning.html">Spark: tuning</a>
 */
public final class ShuffleAndSpill {

  private ShuffleAndSpill() {}

  /**
   * Units sold of each product: {@code product_id, units BIGINT}. How many partitions its shuffle
   * has, {@code spark.sql.shuffle.partitions} says, 200 by default; adaptive execution merges small
   * ones when they are read, and not when they are written.
   *
   * @param items with {@code product_id, quantity}
   */
  public static Dataset<Row> unitsPerProduct(Dataset<Row> items) {
    return items.groupBy("product_id").agg(sum("quantity").as("units"));
  }

  /**
   * The items of each product in one partition, by price. A task sorts a partition in memory, as
   * far as its share of the memory goes, and by way of the disk beyond that: it spills.
   *
   * @param items with {@code product_id, unit_price}
   * @param partitions so many that one of them fits into a task's memory
   */
  public static Dataset<Row> byPrice(Dataset<Row> items, int partitions) {
    return items
        .repartition(partitions, col("product_id"))
        .sortWithinPartitions("product_id", "unit_price");
  }

  /**
   * How many partitions a shuffle should have.
   *
   * @param shuffleBytes what it writes, as an earlier run or the Spark UI has it
   * @param bytesPerPartition such as 128 MB: compressed, so that it takes a few times that in
   *     memory
   * @param cores at least as many as can work at once
   * @throws IllegalArgumentException if {@code bytesPerPartition} or {@code cores} is not positive
   */
  public static int partitionsFor(long shuffleBytes, long bytesPerPartition, int cores) {
    if (bytesPerPartition <= 0 || cores <= 0) {
      throw new IllegalArgumentException("bytes per partition and cores must be positive");
    }
    return Math.toIntExact(Math.max(cores, -Math.floorDiv(-shuffleBytes, bytesPerPartition)));
  }

  /**
   * Typed objects that Spark still keeps as rows: it knows the columns of a bean.
   *
   * @param items with {@code order_item_id, product_id BIGINT, quantity INT, unit_price}
   */
  public static Dataset<Item> asBeans(Dataset<Row> items) {
    return items
        .selectExpr(
            "order_item_id AS id", "product_id AS productId", "quantity", "unit_price AS unitPrice")
        .as(Encoders.bean(Item.class));
  }

  /** The same, each serialized by Java into one column of bytes, of which Spark knows nothing. */
  public static Dataset<Item> asSerializedObjects(Dataset<Row> items) {
    MapFunction<Item, Item> same = item -> item;
    return asBeans(items).map(same, Encoders.javaSerialization(Item.class));
  }

  /** An order item. */
  public static final class Item implements Serializable {
    private static final long serialVersionUID = 1;

    private long id;
    private long productId;
    private int quantity;
    private BigDecimal unitPrice;

    public long getId() {
      return id;
    }

    public void setId(long id) {
      this.id = id;
    }

    public long getProductId() {
      return productId;
    }

    public void setProductId(long productId) {
      this.productId = productId;
    }

    public int getQuantity() {
      return quantity;
    }

    public void setQuantity(int quantity) {
      this.quantity = quantity;
    }

    public BigDecimal getUnitPrice() {
      return unitPrice;
    }

    public void setUnitPrice(BigDecimal unitPrice) {
      this.unitPrice = unitPrice;
    }
  }

  /** {@link #byPrice} in another session, by its {@code spark.sql.shuffle.partitions}. */
  public static final class ByPrice implements OtherSessions.Query {
    @Override
    public Dataset<Row> of(SparkSession spark, long rows) {
      int partitions = Integer.parseInt(spark.conf().get("spark.sql.shuffle.partitions"));
      return byPrice(SampleData.of(spark).rows(rows).orderItems(), partitions);
    }
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ShuffleAndSpill.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 300_000, 400, 0);
          data.orderItems().write().format("delta").saveAsTable("items");
          Dataset<Row> items = spark.table("items");
          notebook.text(
              "A shuffle brings rows of a key together: each task writes its rows by partition, and"
                  + " other tasks read a partition each. Here: %,d order items.",
              data.orderItemCount());

          notebook.step("How many partitions");
          Map<String, QueryProfile> sums = new LinkedHashMap<>();
          Chart bytes = new Chart("shuffled for a sum of each product", "bytes");
          Chart tasks = new Chart("tasks for it, those that read the table included", "tasks");
          for (int partitions : new int[] {2, 20, 200}) {
            spark.conf().set("spark.sql.shuffle.partitions", String.valueOf(partitions));
            for (String adaptive : new String[] {"true", "false"}) {
              spark.conf().set("spark.sql.adaptive.enabled", adaptive);
              QueryProfile profile = QueryProfile.of(unitsPerProduct(items));
              String name = adaptive.equals("true") ? "adaptive" : "not adaptive";
              tasks.bar(name, partitions + " partitions", profile.tasks());
              if (adaptive.equals("false")) {
                sums.put(partitions + " partitions", profile);
                bytes.bar(partitions + " partitions", profile.shuffleBytes());
              }
            }
          }
          spark.conf().set("spark.sql.adaptive.enabled", "true");
          spark.conf().set("spark.sql.shuffle.partitions", "2");
          notebook.profiles("the same sum, not adaptive", sums);
          notebook.chart(bytes);
          notebook.chart(tasks);
          notebook.text(
              "Many small partitions compress worse, and each is a task. Adaptive execution saves"
                  + " the tasks; the bytes are written by then.");

          notebook.step("Too few partitions for the memory: spill");
          String fraction = "spark.memory.fraction";
          String partitions = "spark.sql.shuffle.partitions";
          String codec = "spark.io.compression.codec";
          Map<String, Map<String, String>> settings = new LinkedHashMap<>();
          settings.put("2 partitions", Map.of(fraction, "0.05", partitions, "2"));
          settings.put("32 partitions", Map.of(fraction, "0.05", partitions, "32"));
          settings.put("2 partitions, more memory", Map.of(partitions, "2"));
          for (String name : new String[] {"lz4", "snappy", "zstd"}) {
            settings.put(name, Map.of(codec, name, partitions, "16"));
          }
          settings.put(
              "not compressed", Map.of("spark.shuffle.compress", "false", partitions, "16"));
          notebook.text(
              "Memory and codec are fixed when Spark starts, so these run in a second JVM of 512"
                  + " MB. Its Spark has 5 % of that beyond 300 MB for sorts and caches, and then"
                  + " the usual 60 %.");
          Chart spill = new Chart("spilled to disk by a sort of all items", "bytes");
          Chart shuffled = new Chart("shuffled, by codec", "bytes");
          Chart times = new Chart("time of the query, by codec", "ms");
          for (Figures session :
              OtherSessions.run("512m", ByPrice.class, data.orderItemCount(), settings)) {
            if (session.name().contains("partitions")) {
              spill.bar(session.name(), session.spillBytes());
            } else {
              shuffled.bar(session.name(), session.shuffleBytes());
              times.bar(session.name(), session.millis());
            }
          }
          notebook.chart(spill);
          notebook.text(
              "Nothing fails, it is only written and read once more. More partitions are smaller"
                  + " ones; more memory helps as well.");

          notebook.step("What a codec saves");
          notebook.chart(shuffled);
          notebook.chart(times);
          notebook.text(
              "Fewer bytes cross the network between machines, and here there is none: what is left"
                  + " in the times is the processor's part. lz4 is Spark's default.");

          notebook.step("Rows and objects");
          Dataset<Row> some = items.limit(50_000);
          Chart kept = new Chart("50,000 order items in memory", "bytes");
          Map<String, Dataset<?>> forms = new LinkedHashMap<>();
          forms.put("rows in a cache", some);
          forms.put("beans in a cache", asBeans(some));
          forms.put("serialized objects in a cache", asSerializedObjects(some));
          forms.forEach(
              (name, form) -> {
                form.persist(StorageLevel.MEMORY_ONLY());
                form.count();
                kept.bar(name, Stored.of(spark).memoryBytes());
                form.unpersist(true);
              });
          kept.bar(
              "objects on the heap (estimate)",
              SizeEstimator.estimate(asBeans(some).collectAsList().toArray(new Item[0])));
          notebook.chart(kept);
          notebook.text(
              "Spark keeps rows as columns, compressed, and beans too. Of an object with its own"
                  + " encoder it keeps bytes, with the names of classes and fields in each.");

          notebook.step("When not to");
          notebook.text(
              "Do not raise the partitions of a small shuffle, and do not lower those of one that"
                  + " spills. Leave adaptive execution on, with a number for the largest shuffle:"
                  + " it merges, and splits only for skewed joins and the REBALANCE hint. Do not"
                  + " change the codec before the shuffle bytes say that it matters.");
        });
  }
}
