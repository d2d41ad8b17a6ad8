package com.example.lakehouse.streaming.support;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Sends payments to a topic at an even rate, as many clients would. */
public final class SteadyLoad {
  private static final int SENDS_PER_SECOND = 100;

  private SteadyLoad() {}

  /**
   * Sends {@code perSecond} payments in each second, a hundredth of them every ten milliseconds,
   * and returns when the broker has them all. Every second one is of 150.00, the others of 20.00;
   * the keys and {@code payment_id} count up from {@code firstId}.
   *
   * @return how many were sent
   * @throws IllegalStateException if the broker refused one
   */
  public static long send(
      String bootstrapServers, String topic, long firstId, int perSecond, Duration duration)
      throws InterruptedException {
    long end = firstId + perSecond * duration.toSeconds();
    List<Future<RecordMetadata>> sent = new ArrayList<>();
    CompletableFuture<Void> allSent = new CompletableFuture<>();
    ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor();
    try (KafkaProducer<byte[], byte[]> producer =
        new KafkaProducer<>(
            Map.of("bootstrap.servers", bootstrapServers),
            new ByteArraySerializer(),
            new ByteArraySerializer())) {
      // The first send fetches the topic's metadata, which takes longer than all that follow.
      producer.partitionsFor(topic);
      ScheduledFuture<?> ticks =
          clock.scheduleAtFixedRate(
              () -> {
                try {
                  for (int i = 0; i < perSecond / SENDS_PER_SECOND && !allSent.isDone(); i++) {
                    sent.add(producer.send(payment(topic, firstId + sent.size())));
                  }
                  if (firstId + sent.size() >= end) {
                    allSent.complete(null);
                  }
                } catch (RuntimeException e) {
                  allSent.completeExceptionally(e);
                }
              },
              0,
              1_000 / SENDS_PER_SECOND,
              TimeUnit.MILLISECONDS);
      allSent.whenComplete((ok, error) -> ticks.cancel(false)).join();
      clock.shutdown();
      for (Future<RecordMetadata> record : sent) {
        record.get();
      }
    } catch (ExecutionException e) {
      throw new IllegalStateException("the broker refused a record", e.getCause());
    } finally {
      clock.shutdownNow();
    }
    return sent.size();
  }

  private static ProducerRecord<byte[], byte[]> payment(String topic, long id) {
    String value =
        "{\"payment_id\": %d, \"amount\": %s}".formatted(id, id % 2 == 0 ? "150.00" : "20.00");
    return new ProducerRecord<>(
        topic,
        String.valueOf(id).getBytes(StandardCharsets.UTF_8),
        value.getBytes(StandardCharsets.UTF_8));
  }
}
