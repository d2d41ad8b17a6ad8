package com.example.lakehouse.optimization.support;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.spark.sql.SparkSession;

/**
 * What a Delta table takes on disk.
 *
 * @param files the data files of its latest version
 * @param bytes their size
 * @param footerBytes what the footers take of it: schema and statistics, once in each file
 * @param logBytes the size of the table's log, all versions and their checkpoints
 */
public record TableSize(int files, long bytes, long footerBytes, long logBytes) {

  /** The end of a Parquet file: the footer's length in four bytes, then {@code PAR1}. */
  private static final int TAIL = 8;

  public static TableSize of(SparkSession spark, String table) {
    String[] files = spark.table(table).inputFiles();
    Configuration hadoop = spark.sessionState().newHadoopConf();
    long bytes = 0;
    long footerBytes = 0;
    long logBytes = 0;
    try {
      for (String file : files) {
        Path path = new Path(file);
        FileSystem system = path.getFileSystem(hadoop);
        long size = system.getFileStatus(path).getLen();
        byte[] tail = new byte[TAIL];
        try (FSDataInputStream in = system.open(path)) {
          in.readFully(size - TAIL, tail);
        }
        bytes += size;
        footerBytes += TAIL + ByteBuffer.wrap(tail).order(ByteOrder.LITTLE_ENDIAN).getInt();
      }
      String location = spark.sql("DESCRIBE DETAIL " + table).head().getAs("location");
      Path log = new Path(location, "_delta_log");
      for (FileStatus file : log.getFileSystem(hadoop).listStatus(log)) {
        logBytes += file.getLen();
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return new TableSize(files.length, bytes, footerBytes, logBytes);
  }
}
