package com.example.lakehouse.streaming.support;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import kafka.server.KafkaConfig;
import kafka.server.KafkaRaftServer;
import org.apache.hadoop.util.ShutdownHookManager;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.metadata.storage.Formatter;
import org.apache.kafka.server.common.MetadataVersion;

/**
 * A Kafka broker in this JVM, on a free port of the loopback interface: a real one, of one node,
 * with KRaft. With the environment variable {@code KAFKA_BOOTSTRAP_SERVERS} it stands for the
 * brokers that this names, and starts nothing.
 *
 * <p>Closing stops the broker; on other brokers it deletes the topics that {@link #newTopic} made.
 */
public final class EmbeddedKafka implements AutoCloseable {
  private static final String EXTERNAL = System.getenv("KAFKA_BOOTSTRAP_SERVERS");
  private static final int NODE = 1;

  /**
   * On Ctrl-C the broker goes when Spark, at 40, has stopped and before folders, at 1, are deleted.
   */
  private static final int AFTER_SPARK = 20;

  private final Optional<Map<String, String>> settings;
  private final String bootstrapServers;
  private final List<String> topics = new ArrayList<>();
  private final Runnable endWithTheJvm = this::stopBroker;
  private Optional<KafkaRaftServer> server = Optional.empty();

  private EmbeddedKafka(Optional<Map<String, String>> settings, String bootstrapServers) {
    this.settings = settings;
    this.bootstrapServers = bootstrapServers;
  }

  /**
   * Starts a broker, and returns when it takes requests.
   *
   * @param folder where it keeps its data: a new folder, which the caller deletes after closing
   */
  public static EmbeddedKafka start(Path folder) {
    if (EXTERNAL != null) {
      return new EmbeddedKafka(Optional.empty(), EXTERNAL);
    }
    try {
      Path data = Files.createDirectories(folder);
      int[] ports = freePorts();
      Map<String, String> settings =
          Map.ofEntries(
              Map.entry("process.roles", "broker,controller"),
              Map.entry("node.id", String.valueOf(NODE)),
              Map.entry("controller.quorum.voters", NODE + "@127.0.0.1:" + ports[1]),
              Map.entry("controller.listener.names", "CONTROLLER"),
              Map.entry(
                  "listeners",
                  "PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d"
                      .formatted(ports[0], ports[1])),
              Map.entry("log.dirs", data.toString()),
              // One broker has no others to copy to; by default it would wait for three.
              Map.entry("offsets.topic.replication.factor", "1"),
              Map.entry("transaction.state.log.replication.factor", "1"),
              Map.entry("transaction.state.log.min.isr", "1"),
              // 50 partitions of each by default, which are files to open at every start.
              Map.entry("offsets.topic.num.partitions", "1"),
              Map.entry("transaction.state.log.num.partitions", "1"),
              Map.entry("group.initial.rebalance.delay.ms", "0"),
              // A topic that nobody made is a mistake.
              Map.entry("auto.create.topics.enable", "false"));
      format(data);
      EmbeddedKafka kafka = new EmbeddedKafka(Optional.of(settings), "127.0.0.1:" + ports[0]);
      kafka.startBroker();
      ShutdownHookManager.get().addShutdownHook(kafka.endWithTheJvm, AFTER_SPARK);
      return kafka;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** What clients connect to: {@code kafka.bootstrap.servers}. */
  public String bootstrapServers() {
    return bootstrapServers;
  }

  /** Creates a topic whose name begins with {@code name}. */
  public String newTopic(String name, int partitions) {
    return newTopic(name, partitions, Map.of());
  }

  /**
   * Creates a topic whose name begins with {@code name}.
   *
   * @param settings such as {@code message.timestamp.type}
   */
  public String newTopic(String name, int partitions, Map<String, String> settings) {
    String topic = name + "-" + UUID.randomUUID().toString().substring(0, 8);
    try (Admin admin = admin()) {
      admin
          .createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(settings)))
          .all()
          .get();
    } catch (ExecutionException e) {
      throw new IllegalStateException("cannot create " + topic, e.getCause());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException("interrupted while creating " + topic, e);
    }
    topics.add(topic);
    return topic;
  }

  /** An administrator's client, to be closed by the caller. */
  public Admin admin() {
    return Admin.create(Map.of("bootstrap.servers", bootstrapServers));
  }

  /**
   * Waits until {@code topic} has had {@code records} records.
   *
   * @throws IllegalStateException if they have not come within {@code timeout}
   */
  public void awaitRecords(String topic, long records, Duration timeout) {
    long deadline = System.nanoTime() + timeout.toNanos();
    try (KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(
            Map.of("bootstrap.servers", bootstrapServers),
            new ByteArrayDeserializer(),
            new ByteArrayDeserializer())) {
      List<TopicPartition> partitions =
          consumer.partitionsFor(topic).stream()
              .map(partition -> new TopicPartition(topic, partition.partition()))
              .toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      long seen = 0;
      while (seen < records) {
        if (System.nanoTime() > deadline) {
          throw new IllegalStateException(
              "%s had %,d of %,d records after %s".formatted(topic, seen, records, timeout));
        }
        seen += consumer.poll(Duration.ofMillis(200)).count();
      }
    }
  }

  /** Stops the broker; its data and its port stay for {@link #startBroker}. */
  public synchronized void stopBroker() {
    server.ifPresent(
        running -> {
          running.shutdown();
          running.awaitShutdown();
        });
    server = Optional.empty();
  }

  /** Starts the broker again after {@link #stopBroker}. */
  public synchronized void startBroker() {
    if (isEmbedded() && server.isEmpty()) {
      KafkaRaftServer broker =
          new KafkaRaftServer(new KafkaConfig(settings.orElseThrow(), false), Time.SYSTEM);
      broker.startup();
      server = Optional.of(broker);
    }
  }

  /** Whether the broker is one that {@link #stopBroker} can stop. */
  public boolean isEmbedded() {
    return settings.isPresent();
  }

  @Override
  public void close() {
    if (isEmbedded()) {
      if (!ShutdownHookManager.get().isShutdownInProgress()) {
        ShutdownHookManager.get().removeShutdownHook(endWithTheJvm);
      }
      stopBroker();
    } else if (!topics.isEmpty()) {
      try (Admin admin = admin()) {
        admin.deleteTopics(topics);
      }
    }
  }

  private static void format(Path data) throws IOException {
    try {
      new Formatter()
          .setPrintStream(
              new PrintStream(OutputStream.nullOutputStream(), false, StandardCharsets.UTF_8))
          .setNodeId(NODE)
          .setClusterId(Uuid.randomUuid().toString())
          .addDirectory(data.toString())
          .setMetadataLogDirectory(data.toString())
          .setControllerListenerName("CONTROLLER")
          .setReleaseVersion(MetadataVersion.LATEST_PRODUCTION)
          .run();
    } catch (IOException e) {
      throw e;
    } catch (Exception e) {
      throw new IllegalStateException("cannot format " + data, e);
    }
  }

  /** Two at once, so that they differ. The quorum's address must be known before the start. */
  private static int[] freePorts() throws IOException {
    InetAddress loopback = InetAddress.getLoopbackAddress();
    try (ServerSocket first = new ServerSocket(0, 1, loopback);
        ServerSocket second = new ServerSocket(0, 1, loopback)) {
      return new int[] {first.getLocalPort(), second.getLocalPort()};
    }
  }
}
