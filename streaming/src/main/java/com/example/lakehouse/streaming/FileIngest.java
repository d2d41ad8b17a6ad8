package com.example.lakehouse.streaming;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.Sandbox;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeoutException;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.StructType;

/**
 * Files as they arrive: each is read once, as it is when the stream finds it, so a writer shows it
 * only when it is whole; and what becomes of a column that is new.
 *
 * <p>Run: {@code ./run FileIngest}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: five files in batches of two; a half-written file that leaves a wrong amount for ever,
 * and the way to write that cannot; a new field under a given schema, an inferred one and as a
 * VARIANT; files that are moved away when they are read.
 *
 * <p>On Databricks: the same code on a volume; Auto Loader ({@code cloudFiles}) also keeps fields
 * that no column takes in {@code _rescued_data}, and widens the schema at a restart.
 *
 * @see <a
 *     href="https://spark.apache.org/docs/4.1.0/streaming/apis-on-dataframes-and-datasets.html#input-sources">Structured
 *     Streaming: input sources</a>
 */
public final class FileIngest {

  private FileIngest() {}

  /**
   * The files of a folder in the order of their modification times, each of them once: what is
   * remembered is the path, so that a file that is overwritten is not read again. Files whose names
   * begin with {@code _} or {@code .} are left alone. A file that is a week older than the newest
   * one read is ignored, except in a stream's first batch ({@code maxFileAge}).
   *
   * @param format such as {@code json}, {@code csv} or {@code parquet}
   * @param schema the columns to read, such as {@code order_id BIGINT, amount DECIMAL(12,2)}; other
   *     fields are ignored, and a column that a file lacks is NULL
   * @param filesPerBatch the most files that a batch takes in
   */
  public static Dataset<Row> read(
      SparkSession spark, String format, String folder, String schema, int filesPerBatch) {
    return spark
        .readStream()
        .format(format)
        .schema(schema)
        .option("maxFilesPerTrigger", filesPerBatch)
        .load(folder);
  }

  /**
   * JSON files with the columns and types of the files that are there now. Later files do not
   * change them: that takes another call, and a new start of the stream.
   *
   * @throws org.apache.spark.sql.AnalysisException UNABLE_TO_INFER_SCHEMA if there is no file yet
   */
  public static Dataset<Row> readInferred(SparkSession spark, String folder) {
    spark.conf().set("spark.sql.streaming.schemaInference", "true");
    return spark.readStream().json(folder);
  }

  /** JSON files as one column {@code doc VARIANT}: all fields of any file, whatever comes. */
  public static Dataset<Row> readAsVariant(SparkSession spark, String folder) {
    return spark.readStream().option("singleVariantColumn", "doc").json(folder);
  }

  /**
   * JSON files with one more column, {@code _corrupt_record STRING}: the text of a line that is not
   * JSON or does not fit the schema, NULL for the others. Without it such a line is a row of NULLs.
   */
  public static Dataset<Row> readWithCorrupt(SparkSession spark, String folder, String schema) {
    // The name is that of spark.sql.columnNameOfCorruptRecord.
    return spark.readStream().schema(schema + ", _corrupt_record STRING").json(folder);
  }

  /**
   * JSON files, which are moved to {@code archive} when they are done, so that the listing of the
   * folder stays short. Those of a batch go when the next batch begins; the last ones stay.
   *
   * @param archive a folder outside {@code folder}; the files keep their whole path below it
   */
  public static Dataset<Row> readAndArchive(
      SparkSession spark, String folder, String schema, String archive) {
    return spark
        .readStream()
        .schema(schema)
        .option("maxFilesPerTrigger", 1)
        .option("cleanSource", "archive")
        .option("sourceArchiveDir", archive)
        .json(folder);
  }

  /** Appends all that is there now to {@code table}, adds columns that it lacks, and ends. */
  public static StreamingQuery append(Dataset<Row> rows, String table, String checkpoint)
      throws TimeoutException {
    return rows.writeStream()
        .format("delta")
        .option("checkpointLocation", checkpoint)
        .option("mergeSchema", "true")
        .trigger(Trigger.AvailableNow())
        .toTable(table);
  }

  /**
   * Puts a file where a stream finds it, in one step: it is written under a name that the stream
   * does not read, and then renamed. If the writing fails, no part of it is ever read. (An object
   * store needs no such step: an object is there when it is whole.)
   *
   * @param folder on one file system, for a rename across two is a copy
   * @throws FileAlreadyExistsException if the name is taken: a stream would not read it again
   */
  public static void publish(Path folder, String name, Iterable<String> lines) throws IOException {
    Path file = folder.resolve(name);
    if (Files.exists(file)) {
      throw new FileAlreadyExistsException(file.toString());
    }
    Path hidden = folder.resolve("_" + name);
    Files.write(hidden, lines);
    Files.move(hidden, file, StandardCopyOption.ATOMIC_MOVE);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        FileIngest.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Sandbox sandbox = notebook.sandbox();
          String schema = "order_id BIGINT, amount DECIMAL(12,2)";

          notebook.step("Five files, two in a batch");
          Path orders = Files.createDirectory(sandbox.folder().resolve("orders"));
          for (int i = 1; i <= 5; i++) {
            publish(orders, i + ".csv", List.of("%d,%d.50".formatted(i, 10 * i)));
          }
          Dataset<Row> csv = read(spark, "csv", sandbox.path("orders"), schema, 2);
          StreamingQuery first = append(csv, "orders", sandbox.path("checkpoint"));
          first.awaitTermination();
          List<Row> batches = new ArrayList<>();
          Arrays.stream(first.recentProgress())
              .forEach(b -> batches.add(RowFactory.create(b.batchId(), b.numInputRows())));
          notebook.table(
              "rows of the batches, one from each file",
              spark.createDataFrame(batches, StructType.fromDDL("batch BIGINT, rows BIGINT")));

          notebook.step("A file that is read while it is written");
          Files.writeString(orders.resolve("6.csv"), "6,60.50\n7,7");
          append(csv, "orders", sandbox.path("checkpoint")).awaitTermination();
          Files.writeString(orders.resolve("6.csv"), "6,60.50\n7,70.50\n8,80.50\n");
          append(csv, "orders", sandbox.path("checkpoint")).awaitTermination();
          notebook.table(
              "order 7 is wrong, order 8 is lost", spark.table("orders").orderBy("order_id"));
          publish(orders, "9.csv", List.of("9,90.50", "10,100.50"));
          append(csv, "orders", sandbox.path("checkpoint")).awaitTermination();
          notebook.table(
              "9 and 10 were published: written as _9.csv, then renamed",
              spark.table("orders").where("order_id > 8").orderBy("order_id"));

          notebook.step("A field that is new");
          Path json = Files.createDirectory(sandbox.folder().resolve("json"));
          String folder = sandbox.path("json");
          String checkpoints = sandbox.path("checkpoints");
          publish(json, "1.json", List.of("{\"order_id\": 1, \"amount\": 10.5}"));
          Dataset<Row> given = read(spark, "json", folder, schema, 100);
          Dataset<Row> inferred = readInferred(spark, folder);
          Dataset<Row> variant = readAsVariant(spark, folder);
          ingest(given, inferred, variant, checkpoints);
          publish(
              json,
              "2.json",
              List.of("{\"order_id\": 2, \"amount\": 20.5, \"coupon\": \"SPRING\"}"));
          ingest(given, inferred, variant, checkpoints);
          publish(
              json, "3.json", List.of("{\"order_id\": 3, \"amount\": 30.5, \"coupon\": \"MAY\"}"));
          ingest(given, readInferred(spark, folder), variant, checkpoints);
          notebook.table("given: ignored", spark.table("given").orderBy("order_id"));
          notebook.table(
              "inferred: missed in order 2, there after a new start",
              spark.table("inferred").select("order_id", "amount", "coupon").orderBy("order_id"));
          notebook.table(
              "variant: all there, to be asked for later",
              spark
                  .table("variant")
                  .selectExpr("doc:order_id::BIGINT AS order_id", "doc:coupon::STRING AS coupon")
                  .orderBy("order_id"));

          notebook.step("Files that are done");
          Dataset<Row> archived = readAndArchive(spark, folder, schema, sandbox.path("archive"));
          append(archived, "archived", checkpoints + "/archived").awaitTermination();
          try (Stream<Path> left = Files.list(json)) {
            notebook.text(
                "Read one in a batch, and archived: of 3 files %d is left, the last batch's.",
                left.filter(file -> file.toString().endsWith(".json")).count());
          }
        });
  }

  private static void ingest(
      Dataset<Row> given, Dataset<Row> inferred, Dataset<Row> variant, String checkpoints)
      throws Exception {
    append(given, "given", checkpoints + "/given").awaitTermination();
    append(inferred, "inferred", checkpoints + "/inferred").awaitTermination();
    append(variant, "variant", checkpoints + "/variant").awaitTermination();
  }
}
