package com.example.lakehouse.delta;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.DatasetAssert;
import com.example.lakehouse.common.testing.ExampleContract;
import io.delta.kernel.Snapshot;
import io.delta.kernel.data.FilteredColumnarBatch;
import io.delta.kernel.defaults.engine.DefaultEngine;
import io.delta.kernel.engine.Engine;
import io.delta.kernel.internal.types.DataTypeJsonSerDe;
import io.delta.kernel.internal.util.Utils;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.apache.hadoop.conf.Configuration;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.StructType;

class DeltaLakeExamplesTest extends ExampleContract {

  /**
   * The tables that the Kernel must not read, with its reason. Spark has no rows of the last two
   * either: a feature that there is not, and a clone whose source has been vacuumed.
   */
  private static final Map<String, String> REFUSED =
      Map.of(
          "VariantColumns/events", "variant is not supported",
          "VariantColumns/as_variant", "variant is not supported",
          "VariantColumns/as_shredded", "variant is not supported",
          "TableFeatures/later", "requires feature \"teleportation\"",
          "CloneTable/second", "FileNotFoundException");

  /** Every table that an example leaves is read by Delta Kernel with Spark's schema and rows. */
  @Override
  protected void checkWhatIsLeft(SparkSession spark, Path kept) throws IOException {
    List<Path> tables;
    try (Stream<Path> files = Files.walk(kept)) {
      tables = files.filter(file -> file.endsWith("_delta_log")).map(Path::getParent).toList();
    }
    assertThat(tables).isNotEmpty();
    for (Path table : tables) {
      String name = kept.getFileName() + "/" + table.getFileName();
      Path copy = Files.createDirectories(kept.resolve("kernel").resolve(table.getFileName()));
      if (REFUSED.containsKey(name)) {
        assertThatThrownBy(() -> writeByKernel(ReadWithoutSpark.latest(table.toString()), copy))
            .as(name)
            .hasStackTraceContaining(REFUSED.get(name));
      } else {
        assertSameForTheKernel(spark, table, copy);
      }
    }
  }

  private static void assertSameForTheKernel(SparkSession spark, Path table, Path copy)
      throws IOException {
    Dataset<Row> expected = spark.read().format("delta").load(table.toString());
    Snapshot snapshot = ReadWithoutSpark.latest(table.toString());

    String schema = DataTypeJsonSerDe.serializeStructType(snapshot.getSchema());
    StructType kernelSchema = (StructType) DataType.fromJson(schema);
    // Names, types and nullability of all levels.
    assertThat(kernelSchema.treeString()).isEqualTo(expected.schema().treeString());

    // What the Kernel has read it writes as Parquet: Spark then compares row by row.
    writeByKernel(snapshot, copy);
    DatasetAssert.assertThat(spark.read().schema(kernelSchema).parquet(copy.toString()))
        .as(table.toString())
        .hasSameRowsAs(expected);
  }

  private static void writeByKernel(Snapshot snapshot, Path folder) throws IOException {
    ReadWithoutSpark.readBatches(
        snapshot,
        snapshot.getSchema().fieldNames(),
        Optional.empty(),
        batch -> write(batch, folder));
  }

  private static void write(FilteredColumnarBatch batch, Path folder) {
    Engine engine = DefaultEngine.create(new Configuration());
    try (var files =
        engine
            .getParquetHandler()
            .writeParquetFiles(
                folder.toString(), Utils.singletonCloseableIterator(batch), List.of())) {
      files.forEachRemaining(file -> {});
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
