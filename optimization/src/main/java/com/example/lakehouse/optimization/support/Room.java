package com.example.lakehouse.optimization.support;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.SetupException;
import java.nio.file.Path;
import java.util.Locale;

/**
 * Refuses a scale for which there is no room, before any work: a full disk or heap would end the
 * run after an hour, and take others with it.
 */
public final class Room {
  private static final double GB = 1e9;

  private Room() {}

  /**
   * The shop's data of the size that {@code --scale} asks for, if there is room for it.
   *
   * @param rows its size by default, in order items
   * @param diskBytes bytes that the example writes, at most, for each order item: tables, shuffles
   *     and spills
   * @param heapBytes bytes that it holds in memory for each order item; what spills is none
   * @throws SetupException if the sandbox's disk or the heap is too small; it says what is needed
   */
  public static SampleData sampleData(
      Notebook notebook, long rows, long diskBytes, long heapBytes) {
    SampleData data = notebook.sampleData(rows);
    Path folder = notebook.sandbox().folder();
    check(
        data.orderItemCount(),
        diskBytes,
        heapBytes,
        folder,
        // Files.getFileStore looks for a mount point, which there is none of in a chroot.
        folder.toFile().getUsableSpace(),
        Runtime.getRuntime().maxMemory());
    return data;
  }

  /**
   * @param usable free bytes of the disk that {@code folder} is on
   * @param heap the largest heap of this JVM, in bytes
   */
  static void check(
      long rows, long diskBytes, long heapBytes, Path folder, long usable, long heap) {
    // As doubles: a scale of 9 quintillion rows must not overflow into one that fits.
    double disk = (double) rows * diskBytes;
    if (disk > usable) {
      throw new SetupException(
          String.format(
              Locale.ROOT,
              "%,d rows need about %,.1f GB of disk at %s, where %,.1f GB are free: take a smaller"
                  + " --scale, or -Djava.io.tmpdir=FOLDER on a larger disk (in JAVA_OPTS).",
              rows,
              disk / GB,
              folder,
              usable / GB));
    }
    double memory = (double) rows * heapBytes;
    if (memory > heap) {
      throw new SetupException(
          String.format(
              Locale.ROOT,
              "%,d rows need about %,.1f GB of heap, and this JVM has %,.1f GB: take a smaller"
                  + " --scale, or -Xmx%.0fg (in JAVA_OPTS).",
              rows,
              memory / GB,
              heap / GB,
              Math.ceil(memory / GB)));
    }
  }
}
