package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class FileIngestTest {
  private static final String SCHEMA = "order_id BIGINT, amount DECIMAL(12,2)";

  private Path files;
  private String folder;
  private String checkpoint;

  @BeforeEach
  void createFolder(Sandbox sandbox) throws IOException {
    files = Files.createDirectory(sandbox.folder().resolve("files"));
    folder = sandbox.path("files");
    checkpoint = sandbox.path("checkpoint");
  }

  private void write(String name, String... lines) throws IOException {
    Files.write(files.resolve(name), List.of(lines));
  }

  /** A file of one order, of an age: modification times decide what is new, and in which order. */
  private void write(String name, int order, Duration age) throws IOException {
    write(name, order(order));
    Files.setLastModifiedTime(files.resolve(name), FileTime.from(Instant.now().minus(age)));
  }

  private static String order(int id) {
    return "{\"order_id\": %d, \"amount\": %d.5}".formatted(id, id);
  }

  /** Appends what is new to the table "orders", and gives the rows of each batch. */
  private List<Long> append(Dataset<Row> rows) throws Exception {
    StreamingQuery query = FileIngest.append(rows, "orders", checkpoint);
    query.awaitTermination();
    return Arrays.stream(query.recentProgress())
        .filter(batch -> batch.durationMs().containsKey("addBatch"))
        .map(batch -> batch.numInputRows())
        .toList();
  }

  private Dataset<Row> json(SparkSession spark) {
    return FileIngest.read(spark, "json", folder, SCHEMA, 100);
  }

  private static Row orderRow(long id, String amount) {
    return row(id, new BigDecimal(amount));
  }

  private static List<Long> ids(Dataset<Row> orders) {
    return orders.collectAsList().stream().map(order -> order.<Long>getAs("order_id")).toList();
  }

  @Test
  void aBatchTakesSoManyFilesInTheOrderOfTheirTimes(SparkSession spark) throws Exception {
    for (int i = 1; i <= 5; i++) {
      write("%d.json".formatted(9 - i), i, Duration.ofHours(10 - i));
    }

    assertThat(append(FileIngest.read(spark, "json", folder, SCHEMA, 2)))
        .containsExactly(2L, 2L, 1L);
    Dataset<Row> afterTwo = spark.read().option("versionAsOf", 2).table("orders");
    assertThat(ids(afterTwo)).containsExactlyInAnyOrder(1L, 2L, 3L, 4L);
  }

  @Test
  void aSecondStartReadsOnlyWhatIsNew(SparkSession spark) throws Exception {
    write("1.json", order(1), order(2));
    assertThat(append(json(spark))).containsExactly(2L);
    write("2.json", order(3));

    assertThat(append(json(spark))).containsExactly(1L);
    assertThat(append(json(spark))).as("nothing is new").isEmpty();
    assertThat(spark.table("orders"))
        .hasRows(orderRow(1, "1.50"), orderRow(2, "2.50"), orderRow(3, "3.50"));
  }

  /** The trap: half of a number is a number. */
  @Test
  void ofAHalfWrittenCsvAWrongAmountStaysAndTheRestIsNeverRead(SparkSession spark)
      throws Exception {
    Dataset<Row> csv = FileIngest.read(spark, "csv", folder, SCHEMA, 100);
    Files.writeString(files.resolve("1.csv"), "1,12.50\n2,3");
    append(csv);
    Files.writeString(files.resolve("1.csv"), "1,12.50\n2,35.50\n3,8.00\n");
    append(csv);

    assertThat(spark.table("orders")).hasRows(orderRow(1, "12.50"), orderRow(2, "3.00"));
  }

  @Test
  void ofAHalfWrittenJsonARowOfNullsStaysWhichCorruptRecordExplains(SparkSession spark)
      throws Exception {
    String half = "{\"order_id\": 2, \"am";
    Files.writeString(files.resolve("1.json"), order(1) + "\n" + half);
    append(FileIngest.readWithCorrupt(spark, folder, SCHEMA));
    FileIngest.append(json(spark), "unexplained", checkpoint + "2").awaitTermination();
    write("1.json", order(1), order(2));
    append(FileIngest.readWithCorrupt(spark, folder, SCHEMA));

    assertThat(spark.table("orders"))
        .hasRows(row(1L, new BigDecimal("1.50"), null), row(null, null, half));
    assertThat(spark.table("unexplained")).hasRows(orderRow(1, "1.50"), row(null, null));
  }

  @Test
  void aHalfWrittenParquetStopsTheStreamUntilItIsWhole(SparkSession spark, Sandbox sandbox)
      throws Exception {
    spark.range(1, 11).toDF("order_id").coalesce(1).write().parquet(sandbox.path("elsewhere"));
    byte[] whole;
    try (Stream<Path> written = Files.list(sandbox.folder().resolve("elsewhere"))) {
      whole =
          Files.readAllBytes(
              written.filter(f -> f.toString().endsWith(".parquet")).findAny().orElseThrow());
    }
    Dataset<Row> parquet = FileIngest.read(spark, "parquet", folder, "order_id BIGINT", 100);
    Files.write(files.resolve("1.parquet"), Arrays.copyOf(whole, whole.length / 2));
    assertRefused("FAILED_READ_FILE.NO_HINT", () -> append(parquet));
    assertThat(spark.table("orders")).isEmpty();
    Files.write(files.resolve("1.parquet"), whole);

    assertThat(append(parquet)).containsExactly(10L);
    assertThat(spark.table("orders")).hasSameRowsAs(spark.range(1, 11).toDF("order_id"));
  }

  @Test
  void aPublishedFileIsReadWhenItIsWholeAndNotBefore(SparkSession spark) throws Exception {
    write("0.json", order(0));
    Iterable<String> lines =
        () ->
            Stream.of(1, 2, 3)
                .map(
                    i -> {
                      // The stream looks into the folder before each line.
                      assertThat(readWhileWriting(spark)).containsExactly(0L);
                      return order(i);
                    })
                .iterator();

    FileIngest.publish(files, "1.json", lines);

    assertThat(append(json(spark))).containsExactly(3L);
    assertThat(ids(spark.table("orders"))).containsExactlyInAnyOrder(0L, 1L, 2L, 3L);
  }

  private List<Long> readWhileWriting(SparkSession spark) {
    try {
      append(json(spark));
      return ids(spark.table("orders"));
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void aFileWhoseWriterFailsIsNeverRead(SparkSession spark) throws Exception {
    write("0.json", order(0));
    Iterable<String> lines =
        () ->
            Stream.of(1, 2)
                .peek(
                    i -> {
                      if (i == 2) {
                        throw new UncheckedIOException(new IOException("the disk is full"));
                      }
                    })
                .map(FileIngestTest::order)
                .iterator();

    assertThatThrownBy(() -> FileIngest.publish(files, "1.json", lines))
        .hasMessageContaining("the disk is full");
    append(json(spark));

    assertThat(ids(spark.table("orders"))).containsExactly(0L);
  }

  @Test
  void namesWithAnUnderscoreOrADotInFrontAreLeftAloneUntilRenamed(SparkSession spark)
      throws Exception {
    write("0.json", order(0));
    write("_1.json", order(1));
    write(".2.json", order(2));
    assertThat(append(json(spark))).containsExactly(1L);

    Files.move(files.resolve("_1.json"), files.resolve("1.json"));
    Files.move(files.resolve(".2.json"), files.resolve("2.json"));
    assertThat(append(json(spark))).containsExactly(2L);
  }

  @Test
  void aFileThatIsOverwrittenIsNotReadAgainSoPublishRefuses(SparkSession spark) throws Exception {
    write("1.json", order(1));
    append(json(spark));
    write("1.json", order(2));
    assertThat(append(json(spark))).isEmpty();

    assertThatThrownBy(() -> FileIngest.publish(files, "1.json", List.of(order(3))))
        .isInstanceOf(FileAlreadyExistsException.class);
    assertThat(Files.readString(files.resolve("1.json"))).isEqualTo(order(2) + "\n");
    assertThat(ids(spark.table("orders"))).containsExactly(1L);
  }

  /** The trap: a copy that keeps the file's time, as rsync makes it, may be too old. */
  @Test
  void aFileAWeekOlderThanTheNewestIsIgnoredExceptInTheFirstBatch(SparkSession spark)
      throws Exception {
    write("1.json", 1, Duration.ofDays(30));
    write("2.json", 2, Duration.ZERO);
    assertThat(append(json(spark))).as("the first batch").containsExactly(2L);

    write("3.json", 3, Duration.ofDays(6));
    write("4.json", 4, Duration.ofDays(8));
    assertThat(append(json(spark))).containsExactly(1L);
    assertThat(ids(spark.table("orders"))).containsExactlyInAnyOrder(1L, 2L, 3L);
  }

  @Test
  void aNameIsForgottenWhenANewerFileIsAWeekAhead(SparkSession spark) throws Exception {
    write("1.json", 1, Duration.ofDays(9));
    append(json(spark));
    write("2.json", 2, Duration.ofDays(1));
    append(json(spark));

    write("1.json", 3, Duration.ZERO);
    assertThat(append(json(spark))).as("overwritten, and read again").containsExactly(1L);
    assertThat(ids(spark.table("orders"))).containsExactlyInAnyOrder(1L, 2L, 3L);
  }

  private static final String WITH_COUPON =
      "{\"order_id\": 2, \"amount\": 2.5, \"coupon\": \"SPRING\"}";

  @Test
  void aGivenSchemaIgnoresAFieldThatIsNewAndNullsOneThatIsMissing(SparkSession spark)
      throws Exception {
    write("1.json", order(1), WITH_COUPON, "{\"order_id\": 3}");
    append(json(spark));

    assertThat(spark.table("orders"))
        .hasSchema(SCHEMA)
        .hasRows(orderRow(1, "1.50"), orderRow(2, "2.50"), row(3L, null));
  }

  @Test
  void anInferredSchemaStaysUntilANewStartTakesTheNewColumnIn(SparkSession spark) throws Exception {
    write("1.json", order(1));
    Dataset<Row> before = FileIngest.readInferred(spark, folder);
    append(before);
    write("2.json", WITH_COUPON);
    append(before);
    assertThat(spark.table("orders")).hasSchema("amount DOUBLE, order_id BIGINT");

    write("3.json", WITH_COUPON.replace("2", "3"));
    append(FileIngest.readInferred(spark, folder));
    assertThat(spark.table("orders").select("order_id", "amount", "coupon"))
        .as("the coupon of order 2 was read without it, and is not read again")
        .hasRows(row(1L, 1.5, null), row(2L, 2.5, null), row(3L, 3.5, "SPRING"));
  }

  /** The trap: a type is inferred from what is there by chance, and holds for what comes. */
  @Test
  void anInferredTypeLosesAmountsThatAGivenOneKeeps(SparkSession spark) throws Exception {
    write("1.json", "{\"order_id\": 1, \"amount\": 10}");
    Dataset<Row> before = FileIngest.readInferred(spark, folder);
    append(before);
    write("2.json", "{\"order_id\": 2, \"amount\": 20.5}");
    append(before);
    write("3.json", "{\"order_id\": 3, \"amount\": 30.5}");
    Dataset<Row> after = FileIngest.readInferred(spark, folder);
    append(after);

    assertThat(before).hasSchema("amount BIGINT, order_id BIGINT");
    assertThat(after).hasSchema("amount DOUBLE, order_id BIGINT");
    assertThat(spark.table("orders"))
        .as("20.5 is no BIGINT; 30.5 is cast to the table's BIGINT")
        .hasRows(row(10L, 1L), row(null, 2L), row(30L, 3L));

    FileIngest.append(json(spark), "given", checkpoint + "2").awaitTermination();
    assertThat(spark.table("given"))
        .hasRows(orderRow(1, "10.00"), orderRow(2, "20.50"), orderRow(3, "30.50"));
  }

  @Test
  void aVariantKeepsFieldsThatNobodyKnewOf(SparkSession spark) throws Exception {
    write("1.json", order(1));
    Dataset<Row> docs = FileIngest.readAsVariant(spark, folder);
    append(docs);
    write("2.json", WITH_COUPON);
    append(docs);

    assertThat(docs).hasSchema("doc VARIANT");
    assertThat(
            spark
                .table("orders")
                .selectExpr(
                    "doc:order_id::BIGINT", "doc:amount::DECIMAL(12,2)", "doc:coupon::STRING"))
        .hasRows(row(1L, new BigDecimal("1.50"), null), row(2L, new BigDecimal("2.50"), "SPRING"));
  }

  @Test
  void aVariantOfWhatIsNoJsonIsNull(SparkSession spark) throws Exception {
    write("1.json", order(1), "{\"order_id\": 2, \"am");
    append(FileIngest.readAsVariant(spark, folder));

    assertThat(spark.table("orders").selectExpr("to_json(doc)"))
        .hasRows(row("{\"amount\":1.5,\"order_id\":1}"), row((Object) null));
  }

  @Test
  void withoutASchemaOrAFileToInferItFromThereIsNoStream(SparkSession spark) throws Exception {
    assertRefused("UNABLE_TO_INFER_SCHEMA", () -> FileIngest.readInferred(spark, folder));

    spark.conf().unset("spark.sql.streaming.schemaInference");
    write("1.json", order(1));
    assertThatThrownBy(() -> spark.readStream().json(folder))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("Schema must be specified");
  }

  @Test
  void filesThatAreDoneMoveToTheArchiveButThoseOfTheLastBatch(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Dataset<Row> archiving =
        FileIngest.readAndArchive(spark, folder, SCHEMA, sandbox.path("archive"));
    write("1.json", 1, Duration.ofHours(3));
    write("2.json", 2, Duration.ofHours(2));
    write("3.json", 3, Duration.ofHours(1));
    assertThat(append(archiving)).containsExactly(1L, 1L, 1L);
    assertThat(list(files)).containsExactly("3.json");

    write("4.json", order(4));
    append(archiving);
    assertThat(list(files)).containsExactly("4.json");
    // Below the archive the files have the path that they had before.
    Path archived = sandbox.folder().resolve("archive" + files);
    assertThat(list(archived)).containsExactly("1.json", "2.json", "3.json");
    assertThat(ids(spark.table("orders"))).containsExactlyInAnyOrder(1L, 2L, 3L, 4L);
  }

  private static List<String> list(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(name -> name.endsWith(".json"))
          .sorted()
          .toList();
    }
  }
}
