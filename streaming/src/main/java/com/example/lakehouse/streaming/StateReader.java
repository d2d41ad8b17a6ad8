package com.example.lakehouse.streaming;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.max;
import static org.apache.spark.sql.functions.sum;
import static scala.jdk.javaapi.CollectionConverters.asJava;
import static scala.jdk.javaapi.CollectionConverters.asScala;

import com.example.lakehouse.common.Notebook;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.concurrent.TimeoutException;
import org.apache.spark.api.java.function.MapFunction;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.OutputMode;
import org.apache.spark.sql.streaming.StatefulProcessorWithInitialState;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.TTLConfig;
import org.apache.spark.sql.streaming.TimeMode;
import org.apache.spark.sql.streaming.TimerValues;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.streaming.ValueState;
import org.apache.spark.sql.types.StructType;
import scala.collection.Iterator;

/**
 * The state reader: what a query keeps in its checkpoint, as a table, to explain a wrong result and
 * to repair it without reading everything again.
 *
 * <p>Run: {@code ./run StateReader}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: a till sends cents for euros, and a total is a hundred times too high; the batch that
 * made it so; a new query that starts from the corrected state and goes on where the old one was.
 *
 * <p>On Databricks: the same code, and {@code read_statestore} in SQL.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/structured-streaming-state-data-source.html">Structured
 *     Streaming: state data source</a>
 */
public final class StateReader {

  private static final StructType TOTAL = StructType.fromDDL("product STRING, total BIGINT");

  private StateReader() {}

  /**
   * What keeps state in a query: a row for each store, with the batches that can still be read.
   *
   * @return {@code operatorId BIGINT, operatorName STRING, stateStoreName STRING, numPartitions
   *     INT, minBatchId BIGINT, maxBatchId BIGINT, operatorProperties STRING}: the last committed
   *     batch is {@code maxBatchId}; the properties of transformWithState are its variables, as
   *     JSON
   */
  public static Dataset<Row> operators(SparkSession spark, String checkpoint) {
    return spark.read().format("state-metadata").load(checkpoint);
  }

  /**
   * The state of an aggregation after a batch: what it groups by, and its running sums and counts.
   * RocksDB's can be read once {@code spark.streams()} has been called in the session, as each
   * start of a stream does: the reader reports to a coordinator, which that call creates.
   *
   * @throws org.apache.spark.SparkRuntimeException {@code STDS_COMMITTED_BATCH_UNAVAILABLE} if the
   *     batch is not done, or so old that Spark has deleted it
   */
  public static Dataset<Row> stateAfter(SparkSession spark, String checkpoint, long batch) {
    return spark
        .read()
        .format("statestore")
        .option("batchId", batch)
        .load(checkpoint)
        .select("key.*", "value.*");
  }

  /**
   * Which batch changed which key, and to what. RocksDB has it with changelog checkpointing only.
   *
   * @return {@code batch_id BIGINT, change_type STRING}, the key's and the value's columns; a
   *     change is {@code update}, also of a new key, or {@code delete}, with NULL values
   */
  public static Dataset<Row> changes(SparkSession spark, String checkpoint, long fromBatch) {
    return spark
        .read()
        .format("statestore")
        .option("readChangeFeed", true)
        .option("changeStartBatchId", fromBatch)
        .load(checkpoint)
        .select("batch_id", "change_type", "key.*", "value.*");
  }

  /**
   * The rows that a join of two streams keeps, as they came.
   *
   * @param side {@code left} or {@code right}
   */
  public static Dataset<Row> joinRows(SparkSession spark, String checkpoint, String side) {
    return spark
        .read()
        .format("statestore")
        .option("joinSide", side)
        .load(checkpoint)
        .select("value.*");
  }

  /**
   * A variable of transformWithState.
   *
   * @return {@code key} and {@code value} for a value; {@code key} and {@code list_element}, or
   *     {@code key}, {@code user_map_key} and {@code user_map_value}, a row for each entry; all are
   *     structs
   */
  public static Dataset<Row> variable(SparkSession spark, String checkpoint, String name) {
    return spark.read().format("statestore").option("stateVarName", name).load(checkpoint);
  }

  /**
   * The version of the Delta table that a query would read next, by what it has noted with its last
   * committed batch.
   *
   * @throws IllegalStateException if it has read a part of that version
   */
  public static long nextVersion(SparkSession spark, String checkpoint) {
    Row committed = operators(spark, checkpoint).agg(max("maxBatchId")).head();
    // Two lines are the log's version and the query's settings; the source's offset is the third.
    Row offset =
        spark
            .read()
            .option("wholetext", true)
            .text(checkpoint + "/offsets/" + committed.getLong(0))
            .selectExpr("split(value, '\\n')[2] AS offset")
            .selectExpr(
                "CAST(get_json_object(offset, '$.reservoirVersion') AS BIGINT)",
                "CAST(get_json_object(offset, '$.index') AS BIGINT)")
            .head();
    if (offset.getLong(1) >= 0) {
      throw new IllegalStateException(
          "version %d is read in part: let the query come to its end first"
              .formatted(offset.getLong(0)));
    }
    return offset.getLong(0);
  }

  /**
   * Where totals differ from those that they should be.
   *
   * @param kept and {@code right}: {@code product STRING, total BIGINT}
   * @return {@code product STRING, kept BIGINT, right BIGINT}, with NULL where a product is not
   */
  public static Dataset<Row> wrong(Dataset<Row> kept, Dataset<Row> right) {
    return kept.withColumnRenamed("total", "kept")
        .join(
            right.withColumnRenamed("total", "right"),
            asScala(List.of("product")).toSeq(),
            "full_outer")
        .where("NOT kept <=> right");
  }

  /** {@code amount} summed by {@code product}, in euros: {@code product, total}. */
  public static Dataset<Row> totals(Dataset<Row> orders) {
    return orders.groupBy("product").agg(sum("amount").as("total"));
  }

  /** The same sums, from a state that is given. */
  public static final class Totals
      extends StatefulProcessorWithInitialState<String, Row, Row, Row> {
    private transient ValueState<Long> total;

    @Override
    public void init(OutputMode outputMode, TimeMode timeMode) {
      total = getHandle().getValueState("total", Encoders.LONG(), TTLConfig.NONE());
    }

    @Override
    public void handleInitialState(String product, Row start, TimerValues time) {
      total.update(start.getAs("total"));
    }

    @Override
    public Iterator<Row> handleInputRows(String product, Iterator<Row> orders, TimerValues time) {
      long sum = total.exists() ? total.get() : 0;
      for (Row order : (Iterable<Row>) () -> asJava(orders)) {
        sum += order.<Long>getAs("amount");
      }
      total.update(sum);
      return asScala(List.of(RowFactory.create(product, sum)).iterator());
    }
  }

  /**
   * As {@link #totals}, going on from {@code start}; it emits the products of each batch, so what
   * is right from the start is not emitted. Needs RocksDB.
   *
   * @param start {@code product STRING, total BIGINT}, a row for each product
   */
  public static Dataset<Row> totalsFrom(Dataset<Row> orders, Dataset<Row> start) {
    MapFunction<Row, String> product = row -> row.getAs("product");
    return orders
        .groupByKey(product, Encoders.STRING())
        .transformWithState(
            new Totals(),
            TimeMode.None(),
            OutputMode.Update(),
            start.groupByKey(product, Encoders.STRING()),
            Encoders.row(TOTAL),
            Encoders.row(start.schema()));
  }

  /** Brings {@code table} up to date with the totals of some products. */
  public static void upsert(Dataset<Row> totals, String table) {
    DeltaTable.forName(totals.sparkSession(), table)
        .as("t")
        .merge(totals.as("s"), "t.product = s.product")
        .whenMatched()
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
  }

  /** Keeps {@code table} up to date with all orders that are there, and ends. */
  public static StreamingQuery upsertAvailable(Dataset<Row> totals, String table, String checkpoint)
      throws TimeoutException {
    return totals
        .writeStream()
        .outputMode("update")
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (batch, id) -> upsert(batch, table))
        .start();
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        StateReader.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          String checkpoint = notebook.sandbox().path("totals");
          spark.sql("CREATE TABLE orders (id INT, product STRING, amount BIGINT) USING delta");
          spark.sql("CREATE TABLE totals (product STRING, total BIGINT) USING delta");
          Dataset<Row> stream = spark.readStream().table("orders");

          notebook.step("Totals by product, from three arrivals of orders");
          for (String arrival :
              List.of(
                  "(1, 'lamp', 20), (2, 'desk', 150)",
                  "(3, 'lamp', 3000), (4, 'rug', 80)",
                  "(5, 'lamp', 25), (6, 'desk', 150)")) {
            spark.sql("INSERT INTO orders VALUES " + arrival);
            upsertAvailable(totals(stream), "totals", checkpoint).awaitTermination();
          }
          notebook.table("totals: is the lamp right?", spark.table("totals").orderBy("product"));

          notebook.step("What the query keeps, and which batch changed it");
          notebook.table("its operators", operators(spark, checkpoint).drop("operatorProperties"));
          notebook.table("the state after batch 0", stateAfter(spark, checkpoint, 0));
          notebook.table(
              "the lamp, batch by batch",
              changes(spark, checkpoint, 0).where("product = 'lamp'").orderBy("batch_id"));
          notebook.text(
              "Batch 1 added 3,000 euros; it read order 3, from a till that sends cents. The"
                  + " ledger has 30 euros.");

          notebook.step("The keys that are wrong");
          spark.sql(
              """
              CREATE TABLE ledger USING delta AS
              SELECT * FROM VALUES (1, 'lamp', 20L), (2, 'desk', 150L), (3, 'lamp', 30L),
                (4, 'rug', 80L), (5, 'lamp', 25L), (6, 'desk', 150L), (7, 'lamp', 40L),
                (8, 'vase', 15L)
                AS ledger (id, product, amount)
              """);
          spark.sql("INSERT INTO orders VALUES (7, 'lamp', 40), (8, 'vase', 15)");
          long next = nextVersion(spark, checkpoint);
          notebook.text(
              "The query has read the orders up to version %d; two more have come since.",
              next - 1);
          Dataset<Row> right =
              totals(
                  spark
                      .table("ledger")
                      .join(
                          spark.read().option("versionAsOf", next - 1).table("orders").select("id"),
                          "id"));
          long last = operators(spark, checkpoint).agg(max("maxBatchId")).head().getLong(0);
          Dataset<Row> kept =
              stateAfter(spark, checkpoint, last).select(col("product"), col("sum").as("total"));
          notebook.table("against the ledger", wrong(kept, right));

          notebook.step("The repair: a new query from the corrected state");
          Dataset<Row> corrected =
              kept.join(
                      wrong(kept, right).select("product", "right"),
                      asScala(List.of("product")).toSeq(),
                      "left")
                  .select(col("product"), expr("coalesce(right, total) AS total"));
          upsert(corrected, "totals");
          notebook.table("totals, corrected", spark.table("totals").orderBy("product"));
          spark
              .conf()
              .set(
                  "spark.sql.streaming.stateStore.providerClass",
                  "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider");
          String repaired = notebook.sandbox().path("repaired");
          StreamingQuery query =
              upsertAvailable(
                  totalsFrom(
                      spark.readStream().option("startingVersion", next).table("orders"),
                      corrected),
                  "totals",
                  repaired);
          query.awaitTermination();
          notebook.text("It read %d orders.", query.recentProgress()[0].numInputRows());
          notebook.table("totals", spark.table("totals").orderBy("product"));
          notebook.table(
              "its state",
              variable(spark, repaired, "total")
                  .selectExpr("key.value AS product", "value.value AS total")
                  .orderBy("product"));
        });
  }
}
