package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.assertj.core.api.Assertions.assertThat;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.SteadyLoad;
import java.time.Duration;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class RealTimeModeTest {
  private static final Duration PATIENCE = Duration.ofMinutes(1);

  /** Longer than any test: what comes out, comes out before the batch has ended. */
  private static final Trigger ENDLESS = Trigger.RealTime("30 minutes");

  private EmbeddedKafka kafka;
  private String in;
  private String out;
  private String checkpoint;

  @BeforeEach
  void createTopics(SparkSession spark, Sandbox sandbox, EmbeddedKafka kafka) {
    this.kafka = kafka;
    in = kafka.newTopic("payments", 1);
    out = kafka.newTopic("suspicious", 1);
    checkpoint = sandbox.path("checkpoint");
    spark.conf().set("spark.sql.streaming.disabledV2MicroBatchReaders", "");
  }

  private Dataset<Row> payments(SparkSession spark) {
    return KafkaIngest.read(
        spark, kafka.bootstrapServers(), in, Map.of("startingOffsets", "earliest"));
  }

  private StreamingQuery forward(Dataset<Row> records, Trigger trigger) throws Exception {
    return RealTimeMode.forward(records, kafka.bootstrapServers(), out, checkpoint, trigger);
  }

  private void send(long firstId) throws InterruptedException {
    SteadyLoad.send(kafka.bootstrapServers(), in, firstId, 200, Duration.ofSeconds(1));
  }

  private Dataset<Row> forwarded(SparkSession spark) {
    return RealTimeMode.latencies(spark, kafka.bootstrapServers(), out).select("payment_id");
  }

  @Test
  void recordsComeOutWhileTheirBatchIsRunning(SparkSession spark) throws Exception {
    StreamingQuery query = forward(RealTimeMode.suspicious(payments(spark)), ENDLESS);
    try {
      send(0);
      kafka.awaitRecords(out, 100, PATIENCE);

      assertThat(query.recentProgress()).as("no batch has ended").isEmpty();
      assertThat(forwarded(spark)).hasSameRowsAs(spark.range(0, 200, 2).toDF("payment_id"));
    } finally {
      query.stop();
    }
  }

  @Test
  void microBatchesGiveTheSameRecords(SparkSession spark) throws Exception {
    send(0);
    forward(RealTimeMode.suspicious(payments(spark)), Trigger.AvailableNow()).awaitTermination();

    assertThat(forwarded(spark)).hasSameRowsAs(spark.range(0, 200, 2).toDF("payment_id"));
  }

  @Test
  void whatAnUnfinishedBatchHadSentIsSentAgainByTheNextStart(SparkSession spark) throws Exception {
    StreamingQuery query = forward(RealTimeMode.suspicious(payments(spark)), ENDLESS);
    send(0);
    kafka.awaitRecords(out, 100, PATIENCE);
    query.stop();

    StreamingQuery again = forward(RealTimeMode.suspicious(payments(spark)), ENDLESS);
    try {
      send(200);
      kafka.awaitRecords(out, 300, PATIENCE);
    } finally {
      again.stop();
    }

    assertThat(forwarded(spark).groupBy("payment_id").count().groupBy("count").count())
        .as("the first 100 twice, none missing")
        .hasRows(row(2L, 100L), row(1L, 100L));
  }

  @Test
  void whatAFinishedBatchHadSentIsNotSentAgain(SparkSession spark) throws Exception {
    send(0);
    StreamingQuery query =
        forward(RealTimeMode.suspicious(payments(spark)), Trigger.RealTime("5 seconds"));
    query.processAllAvailable();
    query.stop();
    StreamingQuery again = forward(RealTimeMode.suspicious(payments(spark)), ENDLESS);
    try {
      send(200);
      kafka.awaitRecords(out, 200, PATIENCE);
    } finally {
      again.stop();
    }

    assertThat(forwarded(spark)).hasSameRowsAs(spark.range(0, 400, 2).toDF("payment_id"));
  }

  @Test
  void theOlderKafkaSourceIsRefused(SparkSession spark) {
    spark
        .conf()
        .set(
            "spark.sql.streaming.disabledV2MicroBatchReaders",
            "org.apache.spark.sql.kafka010.KafkaSourceProvider");

    assertRefused(
        "STREAMING_REAL_TIME_MODE.INPUT_STREAM_NOT_SUPPORTED",
        () -> awaitFailure(forward(payments(spark), ENDLESS)));
  }

  @Test
  void filesAreRefused(SparkSession spark, Sandbox sandbox) {
    assertRefused(
        "STREAMING_REAL_TIME_MODE.INPUT_STREAM_NOT_SUPPORTED",
        () -> awaitFailure(forward(spark.readStream().text(sandbox.folder().toString()), ENDLESS)));
  }

  @Test
  void anAggregationIsRefused(SparkSession spark) {
    Dataset<Row> counts =
        payments(spark).groupBy("key").count().selectExpr("key", "CAST(count AS STRING) AS value");

    assertRefused(
        "STREAMING_REAL_TIME_MODE.OPERATOR_OR_SINK_NOT_IN_ALLOWLIST",
        () -> awaitFailure(forward(counts, ENDLESS)));
  }

  @Test
  void aDeltaTableIsRefused(SparkSession spark) {
    assertRefused(
        "STREAMING_REAL_TIME_MODE.OPERATOR_OR_SINK_NOT_IN_ALLOWLIST",
        () ->
            awaitFailure(
                payments(spark)
                    .writeStream()
                    .format("delta")
                    .option("checkpointLocation", checkpoint)
                    .trigger(ENDLESS)
                    .toTable("payments")));
  }

  @Test
  void anotherOutputModeIsRefused(SparkSession spark) {
    assertRefused(
        "STREAMING_REAL_TIME_MODE.OUTPUT_MODE_NOT_SUPPORTED",
        () ->
            awaitFailure(
                payments(spark)
                    .writeStream()
                    .format("kafka")
                    .option("kafka.bootstrap.servers", kafka.bootstrapServers())
                    .option("topic", out)
                    .option("checkpointLocation", checkpoint)
                    .outputMode("append")
                    .trigger(ENDLESS)
                    .start()));
  }

  @Test
  void aBatchOfLessThanFiveSecondsIsRefused(SparkSession spark) {
    assertRefused(
        "INVALID_STREAMING_REAL_TIME_MODE_TRIGGER_INTERVAL",
        () -> awaitFailure(forward(payments(spark), Trigger.RealTime("1 second"))));
  }

  private static void awaitFailure(StreamingQuery query) throws Exception {
    try {
      query.awaitTermination(PATIENCE.toMillis());
    } finally {
      query.stop();
    }
  }

  @Test
  void latencyIsTheTimeBetweenTheTopicsByTheBrokersClock(SparkSession spark) throws Exception {
    send(0);
    forward(RealTimeMode.suspicious(payments(spark)), Trigger.AvailableNow()).awaitTermination();

    Dataset<Row> latencies = RealTimeMode.latencies(spark, kafka.bootstrapServers(), out);

    assertThat(latencies).hasSchema("payment_id BIGINT, received BIGINT, millis BIGINT");
    assertThat(latencies)
        .hasSameRowsAs(
            times(spark, in, "received")
                .join(times(spark, out, "sent"), "payment_id")
                .selectExpr("payment_id", "received", "sent - received AS millis"));
    assertThat(latencies.where("millis < 0")).isEmpty();
    assertThat(latencies.where("millis > 0").isEmpty()).as("a batch takes its time").isFalse();
  }

  /** {@code payment_id BIGINT} and the broker's time of each record of a topic, in milliseconds. */
  private Dataset<Row> times(SparkSession spark, String topic, String name) {
    return spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", kafka.bootstrapServers())
        .option("subscribe", topic)
        .load()
        .selectExpr(
            "CAST(get_json_object(CAST(value AS STRING), '$.payment_id') AS BIGINT) AS payment_id",
            "unix_millis(timestamp) AS " + name);
  }
}
