package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import io.delta.kernel.Snapshot;
import io.delta.kernel.exceptions.TableNotFoundException;
import io.delta.kernel.expressions.Predicate;
import java.io.IOException;
import java.time.Instant;
import java.time.LocalDate;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class ReadWithoutSparkTest {
  private static final List<String> COLUMNS =
      List.of("order_id", "country", "amount", "order_date", "order_time", "note");

  private String location;

  /** 8 files of 100 orders in each of two countries, then a tenth of the rows marked as deleted. */
  @BeforeEach
  void createOrders(SparkSession spark, Sandbox sandbox) {
    location = sandbox.path("schema/orders");
    spark
        .range(0, 1_600, 1, 8)
        .selectExpr(
            "id AS order_id",
            "IF(id % 2 = 0, 'DE', 'FR') AS country",
            "CAST(id / 4 AS DECIMAL(12,2)) AS amount",
            "DATE'2025-01-01' + CAST(id % 365 AS INT) AS order_date",
            "TIMESTAMP'2025-01-01 00:00:00' + make_dt_interval(0, 0, 0, id + 0.123456) AS order_time",
            "IF(id % 3 = 0, NULL, concat('note ', id)) AS note")
        .write()
        .format("delta")
        .partitionBy("country")
        .option("delta.enableDeletionVectors", "true")
        .saveAsTable("orders");
    spark.sql("DELETE FROM orders WHERE order_id % 10 = 7");
  }

  /** The Kernel's rows with Java's types, as Spark has them. */
  private static List<Row> read(Snapshot snapshot, Optional<Predicate> filter) throws IOException {
    List<Row> rows = new ArrayList<>();
    ReadWithoutSpark.read(
        snapshot,
        COLUMNS,
        filter,
        r ->
            rows.add(
                row(
                    r.getLong(0),
                    r.getString(1),
                    r.getDecimal(2),
                    LocalDate.ofEpochDay(r.getInt(3)),
                    Instant.EPOCH.plus(r.getLong(4), ChronoUnit.MICROS),
                    r.isNullAt(5) ? null : r.getString(5))));
    return rows;
  }

  private static org.apache.spark.sql.Dataset<Row> orders(SparkSession spark) {
    return spark.table("orders").selectExpr(COLUMNS.toArray(String[]::new));
  }

  @Test
  void theRowsAreSparksWithoutThoseThatDeletionVectorsMark(SparkSession spark) throws IOException {
    List<Row> rows = read(ReadWithoutSpark.latest(location), Optional.empty());

    assertThat(rows).hasSize(1_440);
    assertThat(orders(spark)).hasRows(rows.toArray(Row[]::new));
    assertThat(TableState.metrics(spark, "orders")).containsEntry("numDeletionVectorsAdded", "8");
  }

  @Test
  void schemaAndVersionAreSparksToo(SparkSession spark) {
    Snapshot snapshot = ReadWithoutSpark.latest(location);

    assertThat(snapshot.getVersion()).isEqualTo(TableState.version(spark, "orders"));
    assertThat(snapshot.getSchema().fields().stream().map(f -> f.getName() + " " + f.getDataType()))
        .containsExactly(
            "order_id long",
            "country string",
            "amount Decimal(12, 2)",
            "order_date date",
            "order_time timestamp",
            "note string");
    assertThat(snapshot.getPartitionColumnNames()).containsExactly("country");
  }

  @Test
  void anEarlierVersionHasItsRows() throws IOException {
    assertThat(read(ReadWithoutSpark.atVersion(location, 0), Optional.empty())).hasSize(1_600);
  }

  @Test
  void aFilterOnAColumnLeavesOutFilesByTheirStatistics(SparkSession spark) throws IOException {
    Predicate first = ReadWithoutSpark.lessThan("order_id", 150);
    List<Long> ids = new ArrayList<>();

    long files =
        ReadWithoutSpark.read(
            ReadWithoutSpark.latest(location),
            List.of("order_id"),
            Optional.of(first),
            r -> ids.add(r.getLong(0)));

    assertThat(files).as("of 16: the first range of ids, in two countries").isEqualTo(2);
    assertThat(ids).hasSize(135).allMatch(id -> id < 150 && id % 10 != 7);
    assertThat(read(ReadWithoutSpark.latest(location), Optional.of(first))).hasSize(135);
    assertThat(orders(spark).where("order_id < 150"))
        .hasRows(read(ReadWithoutSpark.latest(location), Optional.of(first)).toArray(Row[]::new));
  }

  @Test
  void aFilterOnAPartitionLeavesOutTheOthers(SparkSession spark) throws IOException {
    Predicate germany = ReadWithoutSpark.equal("country", "DE");
    long files =
        ReadWithoutSpark.read(
            ReadWithoutSpark.latest(location), COLUMNS, Optional.of(germany), r -> {});

    assertThat(files).isEqualTo(8);
    assertThat(orders(spark).where("country = 'DE'"))
        .hasRows(read(ReadWithoutSpark.latest(location), Optional.of(germany)).toArray(Row[]::new));
  }

  @Test
  void renamedColumnsAreReadByTheirNewNames(SparkSession spark) throws IOException {
    spark.sql("ALTER TABLE orders SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')");
    spark.sql("ALTER TABLE orders RENAME COLUMN amount TO total");

    List<Object> totals = new ArrayList<>();
    ReadWithoutSpark.read(
        ReadWithoutSpark.latest(location),
        List.of("total"),
        Optional.empty(),
        r -> totals.add(r.getDecimal(0)));

    assertThat(totals)
        .containsExactlyInAnyOrderElementsOf(
            spark.table("orders").select("total").collectAsList().stream()
                .map(r -> (Object) r.getDecimal(0))
                .toList());
  }

  @Test
  void aFolderWithoutATableIsNamed(Sandbox sandbox) {
    assertThatThrownBy(() -> ReadWithoutSpark.latest(sandbox.path("nothing")))
        .isInstanceOf(TableNotFoundException.class)
        .hasMessageContaining("nothing");
  }

  @Test
  void noSparkSessionIsNeeded() throws Exception {
    ChildJvm process = ChildJvm.run(CountRows.class, List.of("-Xmx256m"), location);

    assertThat(process.exitCode()).as(process.output()).isZero();
    assertThat(process.output()).contains("1440 rows, Spark running: false");
  }

  /** A process that counts a table's rows and has no Spark session. */
  static final class CountRows {
    public static void main(String[] args) throws IOException {
      long[] rows = {0};
      ReadWithoutSpark.read(
          ReadWithoutSpark.latest(args[0]), List.of("order_id"), Optional.empty(), r -> rows[0]++);
      boolean spark = SparkSession.getDefaultSession().isDefined();
      System.out.printf("%d rows, Spark running: %s%n", rows[0], spark);
    }
  }
}
