package com.example.lakehouse.common;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import org.apache.spark.SparkConf;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.streaming.state.StateStore;
import scala.jdk.javaapi.OptionConverters;

/**
 * Builds the one Spark session of a run.
 *
 * <p>Every setting below is only a default: a {@code spark.*} system property, a {@code --conf} of
 * {@code spark-submit} and a session that runs already always win.
 */
public final class SparkSessions {
  private static final String DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension";
  private static final String DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog";
  private static final Set<Integer> SUPPORTED_JAVA = new TreeSet<>(Set.of(17, 21));
  private static final int MASTER_TIMEOUT_MILLIS = 5_000;

  private SparkSessions() {}

  /**
   * Returns the session that runs already, or else a new one.
   *
   * @param appName what the Spark UI calls the application
   * @throws SetupException if this Java is not supported, if {@code spark.master} cannot be
   *     reached, or if the session that runs already lacks Delta Lake or was built with another
   *     value of a setting that is now asked for
   */
  public static SparkSession open(String appName) {
    requireSupportedJava(Runtime.version().feature());
    Optional<SparkSession> running = running();
    if (running.isPresent()) {
      requireCompatible(running.get());
      return running.get();
    }
    if (onDatabricks()) {
      return SparkSession.builder().getOrCreate();
    }
    // SparkConf starts from the spark.* system properties, and spark-submit hands its --conf over
    // as such.
    SparkConf conf = new SparkConf();
    conf.setIfMissing("spark.app.name", appName);
    conf.setIfMissing("spark.master", "local[*]");
    defaults(conf.get("spark.master")).forEach(conf::setIfMissing);
    requireReachable(conf.get("spark.master"));
    SparkSession spark = SparkSession.builder().config(conf).getOrCreate();
    Shutdown.stopStreamsFirst(spark);
    return spark;
  }

  /** The session that runs in this JVM, if there is one. */
  public static Optional<SparkSession> running() {
    return OptionConverters.toJava(SparkSession.getActiveSession())
        .or(() -> OptionConverters.toJava(SparkSession.getDefaultSession()))
        .filter(session -> !session.sparkContext().isStopped());
  }

  /**
   * Stops a local session. One on a cluster or on Databricks belongs to whoever submitted the job,
   * and stays.
   */
  public static void close(SparkSession session) {
    if (isLocal(session.sparkContext().master()) && !onDatabricks()) {
      // Spark leaves RocksDB open, whose threads log through the JVM: one that does so while the
      // JVM ends takes it down with SIGSEGV.
      StateStore.stop();
      session.stop();
    }
  }

  // System.console() is null without a terminal on 17 and 21, the only versions that get here.
  @SuppressWarnings("SystemConsoleNull")
  private static Map<String, String> defaults(String master) {
    Map<String, String> defaults = new LinkedHashMap<>();
    defaults.put("spark.sql.extensions", DELTA_EXTENSION);
    defaults.put("spark.sql.catalog.spark_catalog", DELTA_CATALOG);
    // The same timestamps on every machine.
    defaults.put("spark.sql.session.timeZone", "UTC");
    // DATE is LocalDate and TIMESTAMP is Instant. Spark's older java.sql types need --add-opens on
    // JDK 17.
    defaults.put("spark.sql.datetime.java8API.enabled", "true");
    // Delta's SQL parser loses :name and ? parameters on Spark 4.1
    // (github.com/delta-io/delta/issues/7640).
    defaults.put("spark.sql.legacy.parameterSubstitution.constantsOnly", "true");
    // Kafka's newer source fails after it has repeated a batch that a crash cut short
    // (issues.apache.org/jira/browse/SPARK-55271); the older one goes on.
    defaults.put(
        "spark.sql.streaming.disabledV2MicroBatchReaders",
        "org.apache.spark.sql.kafka010.KafkaSourceProvider");
    if (!isLocal(master)) {
      return defaults;
    }

    // Spark would listen on the machine's outer address.
    defaults.put("spark.driver.host", "127.0.0.1");
    defaults.put("spark.driver.bindAddress", "127.0.0.1");
    // The UI takes a second to start; -Dspark.ui.enabled=true brings it back, on loopback.
    defaults.put("spark.ui.enabled", "false");
    defaults.put("spark.ui.showConsoleProgress", String.valueOf(System.console() != null));
    // Spark's default is a folder in the working directory.
    defaults.put("spark.sql.warehouse.dir", warehouse());

    // Parquet's vectored reads run on threads whose bytes Spark does not count: a scan of 3 MB
    // reports 12 kB, which are the footers. Without them QueryProfile shows what was read.
    defaults.put("spark.hadoop.parquet.hadoop.vectored.io.enabled", "false");

    // From here on: small data on a few cores, where Spark's defaults cost more than the work
    // itself. Six Delta commands five times over take 48 s with these settings, and 73 s with
    // generated code.
    // 200 shuffle partitions, and 50 for the state of each Delta table, are that many tasks for a
    // few rows.
    defaults.put("spark.sql.shuffle.partitions", "2");
    defaults.put("spark.databricks.delta.snapshotPartitions", "2");
    // Where the JVM's time zone is not UTC, Delta checks what it writes beside each commit, and
    // reads the whole log for it: an UPDATE of one row takes 1.74 s in place of 1.37 s.
    defaults.put(
        "spark.databricks.delta.allFilesInCrc.verificationMode.forceOnNonUTC.enabled", "false");
    // VACUUM lists a folder with as many tasks as this says, 10,000 by default: 68 s for ten files,
    // 5 s with 4.
    defaults.put("spark.sql.sources.parallelPartitionDiscovery.parallelism", "4");
    // Compiling generated code takes longer than interpreting a few rows, and gives the same rows.
    // Where rows are many, switch it on: -Dspark.sql.codegen.wholeStage=true
    // -Dspark.sql.codegen.factoryMode=FALLBACK.
    defaults.put("spark.sql.codegen.wholeStage", "false");
    defaults.put("spark.sql.codegen.factoryMode", "NO_CODEGEN");
    return defaults;
  }

  private static String warehouse() {
    try {
      Path folder = Files.createTempDirectory("lakehouse-warehouse-");
      Folders.deleteOnExit(folder);
      return folder.toUri().toString();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static boolean isLocal(String master) {
    return master.equals("local") || master.startsWith("local[");
  }

  private static boolean onDatabricks() {
    return System.getenv("DATABRICKS_RUNTIME_VERSION") != null;
  }

  static void requireSupportedJava(int feature) {
    if (!SUPPORTED_JAVA.contains(feature)) {
      throw new SetupException(
          "Java %d is not supported: run with JDK 17 or 21 (set JAVA_HOME, or the IDE's project JDK)."
              .formatted(feature));
    }
  }

  /**
   * Spark itself tries for a minute and then fails with the trace of a thread that had nothing to
   * do with it.
   */
  private static void requireReachable(String master) {
    if (!master.startsWith("spark://")) {
      return;
    }
    for (String hostAndPort : master.substring("spark://".length()).split(",", -1)) {
      URI uri = URI.create("spark://" + hostAndPort);
      if (uri.getHost() == null || uri.getPort() < 0) {
        throw new SetupException(
            "The Spark master %s is not of the form spark://HOST:PORT.".formatted(master));
      }
      try (Socket socket = new Socket()) {
        socket.connect(new InetSocketAddress(uri.getHost(), uri.getPort()), MASTER_TIMEOUT_MILLIS);
        return;
      } catch (IOException e) {
        if (hostAndPort.equals(lastOf(master))) {
          throw new SetupException(
              "The Spark master %s cannot be reached (%s): start it, or leave out --master to run on this machine."
                  .formatted(master, e.getMessage()));
        }
      }
    }
  }

  private static String lastOf(String master) {
    return master.substring(Math.max(master.lastIndexOf(','), master.lastIndexOf('/')) + 1);
  }

  private static void requireCompatible(SparkSession session) {
    if (onDatabricks()) {
      return;
    }
    if (!Arrays.asList(session.conf().get("spark.sql.extensions", "").split(",", -1))
            .contains(DELTA_EXTENSION)
        || !session.conf().get("spark.sql.catalog.spark_catalog", "").equals(DELTA_CATALOG)) {
      throw new SetupException(
          "The Spark session that runs already has no Delta Lake: stop it first, or build it with"
              + " spark.sql.extensions=%s and spark.sql.catalog.spark_catalog=%s."
                  .formatted(DELTA_EXTENSION, DELTA_CATALOG));
    }
    System.getProperties()
        .stringPropertyNames()
        .forEach(
            key -> {
              String asked = System.getProperty(key);
              if (key.startsWith("spark.") && !session.conf().isModifiable(key)) {
                String has = session.conf().get(key, asked);
                if (!has.equals(asked)) {
                  throw new SetupException(
                      "A Spark session with %1$s=%2$s runs already, and %1$s=%3$s is asked for: stop that session"
                              .formatted(key, has, asked)
                          + " first, or leave the setting out.");
                }
              }
            });
  }
}
