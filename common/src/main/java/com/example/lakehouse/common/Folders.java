package com.example.lakehouse.common;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.commons.io.FileUtils;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Deleting temporary folders, also when a run is stopped with Ctrl-C. */
final class Folders {
  private static final Logger LOG = LoggerFactory.getLogger(Folders.class);

  private Folders() {}

  static void delete(Path folder) {
    try {
      FileUtils.deleteDirectory(folder.toFile());
    } catch (IOException e) {
      throw new UncheckedIOException("cannot delete " + folder, e);
    }
  }

  /** After Spark has stopped: until then it may write there. */
  static void deleteOnExit(Path folder) {
    Shutdown.atEnd(
        () -> {
          if (Files.exists(folder) && !FileUtils.deleteQuietly(folder.toFile())) {
            LOG.warn("{} could not be deleted", folder);
          }
        });
  }
}
