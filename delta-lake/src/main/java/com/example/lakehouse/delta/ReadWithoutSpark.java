package com.example.lakehouse.delta;

import static java.util.stream.Collectors.joining;
import static org.apache.spark.sql.functions.col;

import com.example.lakehouse.common.Notebook;
import io.delta.kernel.Scan;
import io.delta.kernel.Snapshot;
import io.delta.kernel.Table;
import io.delta.kernel.data.ColumnVector;
import io.delta.kernel.data.FilteredColumnarBatch;
import io.delta.kernel.data.Row;
import io.delta.kernel.defaults.engine.DefaultEngine;
import io.delta.kernel.engine.Engine;
import io.delta.kernel.engine.FileReadResult;
import io.delta.kernel.expressions.Column;
import io.delta.kernel.expressions.Literal;
import io.delta.kernel.expressions.Predicate;
import io.delta.kernel.expressions.PredicateEvaluator;
import io.delta.kernel.internal.InternalScanFileUtils;
import io.delta.kernel.internal.data.ScanStateRow;
import io.delta.kernel.internal.util.Utils;
import io.delta.kernel.types.StructType;
import io.delta.kernel.utils.CloseableIterator;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;
import org.apache.hadoop.conf.Configuration;
import org.apache.spark.sql.SparkSession;

/**
 * Delta Kernel: a table read from plain Java, without Spark; for a service that needs a few rows
 * and not a cluster.
 *
 * <p>Run: {@code ./run ReadWithoutSpark}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the schema and version of a table that Spark wrote, its rows without those that deletion
 * vectors mark, and the files that a filter leaves.
 *
 * <p>On Databricks: not needed there; outside of it, with the table's cloud folder and Hadoop's
 * file system for it.
 *
 * @see <a href="https://github.com/delta-io/delta/blob/master/kernel/USER_GUIDE.md">Delta Kernel:
 *     user guide</a>
 */
public final class ReadWithoutSpark {

  private ReadWithoutSpark() {}

  /**
   * The table's latest version.
   *
   * @param location the table's folder, a path or a URI
   * @throws io.delta.kernel.exceptions.TableNotFoundException if there is no Delta table
   */
  public static Snapshot latest(String location) {
    Engine engine = DefaultEngine.create(new Configuration());
    return Table.forPath(engine, location).getLatestSnapshot(engine);
  }

  /** The table at an earlier version. */
  public static Snapshot atVersion(String location, long version) {
    Engine engine = DefaultEngine.create(new Configuration());
    return Table.forPath(engine, location).getSnapshotAsOfVersion(engine, version);
  }

  /**
   * Hands the rows that match {@code filter} to {@code consumer}, one file after the other; no more
   * than a batch of them is in memory.
   *
   * @param columns the columns to read, those of the filter among them
   * @param filter such as {@link #equal}; the Kernel leaves out files by their partition and
   *     statistics
   * @return how many data files were read
   */
  public static long read(
      Snapshot snapshot, List<String> columns, Optional<Predicate> filter, Consumer<Row> consumer)
      throws IOException {
    return readBatches(
        snapshot, columns, filter, batch -> batch.getRows().forEachRemaining(consumer));
  }

  /** As {@link #read}, a batch of columns at a time: for a consumer that works on vectors. */
  public static long readBatches(
      Snapshot snapshot,
      List<String> columns,
      Optional<Predicate> filter,
      Consumer<FilteredColumnarBatch> consumer)
      throws IOException {
    Engine engine = DefaultEngine.create(new Configuration());
    StructType schema = new StructType();
    for (String column : columns) {
      schema = schema.add(snapshot.getSchema().get(column));
    }
    var builder = snapshot.getScanBuilder().withReadSchema(schema);
    Scan scan = (filter.isPresent() ? builder.withFilter(filter.get()) : builder).build();
    Optional<PredicateEvaluator> matches = Optional.empty();
    if (filter.isPresent()) {
      matches =
          Optional.of(engine.getExpressionHandler().getPredicateEvaluator(schema, filter.get()));
    }
    Row state = scan.getScanState(engine);
    long files = 0;
    try (CloseableIterator<FilteredColumnarBatch> listings = scan.getScanFiles(engine)) {
      while (listings.hasNext()) {
        try (CloseableIterator<Row> listing = listings.next().getRows()) {
          while (listing.hasNext()) {
            readFile(engine, state, listing.next(), matches, consumer);
            files++;
          }
        }
      }
    }
    return files;
  }

  private static void readFile(
      Engine engine,
      Row state,
      Row file,
      Optional<PredicateEvaluator> matches,
      Consumer<FilteredColumnarBatch> consumer)
      throws IOException {
    CloseableIterator<FileReadResult> physical =
        engine
            .getParquetHandler()
            .readParquetFiles(
                Utils.singletonCloseableIterator(InternalScanFileUtils.getAddFileStatus(file)),
                ScanStateRow.getPhysicalDataReadSchema(state),
                Optional.empty());
    // Adds the partition columns, renames mapped ones, and takes out what deletion vectors mark.
    try (CloseableIterator<FilteredColumnarBatch> batches =
        Scan.transformPhysicalData(engine, state, file, physical.map(FileReadResult::getData))) {
      while (batches.hasNext()) {
        FilteredColumnarBatch batch = batches.next();
        if (matches.isPresent()) {
          ColumnVector selected = matches.get().eval(batch.getData(), batch.getSelectionVector());
          batch = new FilteredColumnarBatch(batch.getData(), Optional.of(selected));
        }
        consumer.accept(batch);
      }
    }
  }

  /** Rows whose column has a value. */
  public static Predicate equal(String column, String value) {
    return new Predicate("=", new Column(column), Literal.ofString(value));
  }

  /** Rows whose column is less than a value. */
  public static Predicate lessThan(String column, long value) {
    return new Predicate("<", new Column(column), Literal.ofLong(value));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ReadWithoutSpark.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          notebook
              .sampleData(30_000)
              .orders()
              .repartitionByRange(8, col("order_id"))
              .write()
              .format("delta")
              .option("delta.enableDeletionVectors", "true")
              .saveAsTable("orders");
          spark.sql("DELETE FROM orders WHERE order_id % 100 = 7");
          String location = notebook.sandbox().path("schema/orders");

          notebook.step("From here on without Spark: schema and version");
          Snapshot orders = latest(location);
          notebook.text(
              "Version %d: %s",
              orders.getVersion(),
              orders.getSchema().fields().stream()
                  .map(field -> field.getName() + " " + field.getDataType())
                  .collect(joining(", ")));

          notebook.step("All rows");
          long[] count = {0};
          long files = read(orders, List.of("order_id"), Optional.empty(), row -> count[0]++);
          notebook.text(
              "%,d rows of %d files; Spark counts %,d.",
              count[0], files, spark.table("orders").count());
          long[] before = {0};
          read(atVersion(location, 0), List.of("order_id"), Optional.empty(), row -> before[0]++);
          notebook.text("Version 0, before the delete: %,d rows.", before[0]);

          notebook.step("With a filter");
          List<String> found = new ArrayList<>();
          long filesRead =
              read(
                  orders,
                  List.of("order_id", "status"),
                  Optional.of(lessThan("order_id", 10)),
                  row -> found.add(row.getLong(0) + " " + row.getString(1)));
          notebook.text(
              "%d of %d files were read for the %d rows with order_id < 10: %s.",
              filesRead, files, found.size(), String.join(", ", found));
        });
  }
}
