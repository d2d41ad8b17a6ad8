package com.example.lakehouse.optimization.support;

import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.Test;

@SparkTest
class TableSizeTest {

  @Test
  void theFilesOfTheLatestVersionAreCountedWithTheirFooters(SparkSession spark, Sandbox sandbox)
      throws IOException {
    // A folder's name that is escaped on disk and in the log.
    spark
        .range(100)
        .selectExpr("id", "concat('a b/', id % 2) AS k")
        .coalesce(1)
        .write()
        .format("delta")
        .partitionBy("k")
        .saveAsTable("t");
    List<Path> files = endingIn(sandbox, ".parquet");
    long bytes = 0;
    for (Path file : files) {
      bytes += Files.size(file);
    }
    assertThat(files).hasSize(2);

    TableSize size = TableSize.of(spark, "t");

    assertThat(size.files()).isEqualTo(2);
    assertThat(size.bytes()).isEqualTo(bytes);
    // What is before the footer are PAR1 and the rows; the schema's JSON is in the footer.
    assertThat(size.footerBytes()).isBetween(bytes / 4, bytes - 1);
    assertThat(footerOf(files.get(0)) + footerOf(files.get(1))).isEqualTo(size.footerBytes());
    assertThat(size.logBytes())
        .isGreaterThanOrEqualTo(Files.size(endingIn(sandbox, "00000.json").get(0)));

    spark.sql("DELETE FROM t WHERE k = 'a b/0'");

    assertThat(TableSize.of(spark, "t").files()).isEqualTo(1);
  }

  /** The first place in the file from which the length at its end counts. */
  private static long footerOf(Path file) throws IOException {
    byte[] bytes = Files.readAllBytes(file);
    assertThat(new String(bytes, bytes.length - 4, 4, StandardCharsets.US_ASCII)).isEqualTo("PAR1");
    int length = 0;
    for (int i = 0; i < 4; i++) {
      length |= (bytes[bytes.length - 8 + i] & 0xff) << (8 * i);
    }
    return length + 8L;
  }

  private static List<Path> endingIn(Sandbox sandbox, String suffix) throws IOException {
    try (Stream<Path> all = Files.walk(sandbox.folder())) {
      return all.filter(f -> f.toString().endsWith(suffix) && !f.toString().contains(".crc"))
          .filter(f -> !f.toString().contains("_delta_log") || suffix.endsWith("json"))
          .toList();
    }
  }
}
