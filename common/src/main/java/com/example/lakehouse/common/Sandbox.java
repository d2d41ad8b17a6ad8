package com.example.lakehouse.common;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.apache.spark.sql.SparkSession;

/**
 * A temporary folder and a fresh schema for one run. The schema is the session's current one until
 * the sandbox is closed, so bare table names are its tables. Closing deletes what the sandbox made
 * and nothing else, drops the temporary views that were made meanwhile, which would hide tables of
 * the next run, and puts the session's settings back to what they were.
 *
 * <p>The folder is a new one in the JVM's temporary folder, or in the folder that the system
 * property {@code lakehouse.sandbox} names: on a cluster, one that all its machines see.
 */
public final class Sandbox implements AutoCloseable {
  private final SparkSession spark;
  private final String schema;
  private final String schemaBefore;
  private final Map<String, String> settingsBefore;
  private final Set<String> viewsBefore;
  private final Path folder;
  private final boolean keep;
  private boolean closed;

  /**
   * Makes the folder and the schema.
   *
   * @param name what the sandbox is for; its schema is called so, in snake_case, with a suffix if
   *     that name is taken
   * @param keep whether closing leaves everything in place
   */
  public Sandbox(SparkSession spark, String name, boolean keep) {
    this.spark = spark;
    this.keep = keep;
    this.folder = newFolder();
    if (!keep) {
      Folders.deleteOnExit(folder);
    }
    this.schemaBefore = spark.catalog().currentDatabase();
    this.settingsBefore = asJava(spark.conf().getAll());
    this.viewsBefore = temporaryViews();
    this.schema = createSchema(snakeCase(name));
    spark.catalog().setCurrentDatabase(schema);
  }

  public String schema() {
    return schema;
  }

  public Path folder() {
    return folder;
  }

  /** The qualified name of a table of this sandbox. */
  public String table(String name) {
    return schema + "." + name;
  }

  /** A path below the folder, in the form that Spark reads and writes. */
  public String path(String name) {
    return folder.resolve(name).toUri().toString();
  }

  @Override
  public void close() {
    if (closed) {
      return;
    }
    closed = true;
    if (!spark.sparkContext().isStopped()) {
      restoreSettings();
      temporaryViews().stream()
          .filter(view -> !viewsBefore.contains(view))
          .forEach(spark.catalog()::dropTempView);
      spark.catalog().setCurrentDatabase(schemaBefore);
      if (!keep) {
        spark.sql("DROP SCHEMA IF EXISTS " + schema + " CASCADE");
      }
    }
    if (!keep) {
      Folders.delete(folder);
    }
  }

  /** From the catalog itself: each run begins and ends with this, and a query takes longer. */
  private Set<String> temporaryViews() {
    return Set.copyOf(asJava(spark.sessionState().catalog().getTempViewNames()));
  }

  private void restoreSettings() {
    Map<String, String> now = asJava(spark.conf().getAll());
    now.keySet().stream()
        .filter(key -> !settingsBefore.containsKey(key))
        .forEach(key -> spark.conf().unset(key));
    settingsBefore.forEach(
        (key, value) -> {
          if (!value.equals(now.get(key))) {
            spark.conf().set(key, value);
          }
        });
  }

  private String createSchema(String wanted) {
    String free =
        spark.catalog().databaseExists(wanted)
            ? wanted + "_" + UUID.randomUUID().toString().substring(0, 8)
            : wanted;
    spark.sql("CREATE SCHEMA " + free + " LOCATION '" + folder.resolve("schema").toUri() + "'");
    return free;
  }

  private static Path newFolder() {
    String root = System.getProperty("lakehouse.sandbox");
    try {
      return root == null
          ? Files.createTempDirectory("lakehouse-")
          : Files.createTempDirectory(Files.createDirectories(Path.of(root)), "lakehouse-");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String snakeCase(String name) {
    return name.replaceAll("(?<=[a-z0-9])(?=[A-Z])", "_")
        .replaceAll("[^A-Za-z0-9]+", "_")
        .toLowerCase(Locale.ROOT);
  }
}
