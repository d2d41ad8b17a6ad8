package com.example.lakehouse.streaming.support;

import com.example.lakehouse.streaming.RealTimeMode;
import java.time.Duration;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/** Measures how long records take through a query from a topic to another, under an even load. */
public final class LatencyTrial {
  private static final Duration WARM_UP = Duration.ofSeconds(3);
  private static final Duration PATIENCE = Duration.ofMinutes(2);

  /** A query that hands on the records of the first topic with an even {@code payment_id}. */
  @FunctionalInterface
  public interface Start {
    StreamingQuery start(String in, String out) throws Exception;
  }

  private LatencyTrial() {}

  /**
   * Starts the query, sends records for some seconds until it is warm and then for {@code
   * duration}, and stops it when all have come.
   *
   * @return {@code payment_id BIGINT, received BIGINT, millis BIGINT}, without the records of the
   *     warm-up; both times are the broker's
   */
  public static Dataset<Row> run(
      SparkSession spark, EmbeddedKafka kafka, int perSecond, Duration duration, Start start)
      throws Exception {
    Map<String, String> brokersTime = Map.of("message.timestamp.type", "LogAppendTime");
    String in = kafka.newTopic("payments", 1, brokersTime);
    String out = kafka.newTopic("suspicious", 1, brokersTime);
    String servers = kafka.bootstrapServers();
    StreamingQuery query = start.start(in, out);
    try {
      long before = SteadyLoad.send(servers, in, 0, perSecond, WARM_UP);
      kafka.awaitRecords(out, before / 2, PATIENCE);
      long measured = SteadyLoad.send(servers, in, before, perSecond, duration);
      kafka.awaitRecords(out, (before + measured) / 2, PATIENCE);
      return RealTimeMode.latencies(spark, servers, out)
          .where("payment_id >= " + before)
          .localCheckpoint();
    } finally {
      query.stop();
    }
  }

  /** {@code p50 DOUBLE, p99 DOUBLE, longest BIGINT}, in milliseconds. */
  public static Row figures(Dataset<Row> latencies) {
    return latencies
        .selectExpr(
            "percentile(millis, 0.5) AS p50",
            "percentile(millis, 0.99) AS p99",
            "max(millis) AS longest")
        .first();
  }
}
