package com.example.lakehouse.streaming.support;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Checkpoints as a crash leaves them. */
public final class Checkpoints {

  private Checkpoints() {}

  /**
   * As if the process had died after a batch's work and before Spark noted that it was done: the
   * next start runs the batch again.
   */
  public static void forgetCommit(Path checkpoint, long batch) throws IOException {
    forget(checkpoint.resolve("commits"), batch);
  }

  /** Takes a batch out of one of a checkpoint's logs, with its checksum if there is one. */
  public static void forget(Path log, long batch) throws IOException {
    Files.delete(log.resolve(String.valueOf(batch)));
    Files.deleteIfExists(log.resolve("." + batch + ".crc"));
  }
}
