package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import com.example.lakehouse.streaming.support.SteadyLoad;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.AnalysisException;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryProgress;
import org.apache.spark.sql.streaming.Trigger;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class TriggersTest {
  private static final Duration PATIENCE = Duration.ofMinutes(1);

  private EmbeddedKafka kafka;
  private String servers;
  private String in;
  private String out;
  private String checkpoint;

  @BeforeEach
  void createTopics(Sandbox sandbox, EmbeddedKafka kafka) {
    this.kafka = kafka;
    servers = kafka.bootstrapServers();
    in = kafka.newTopic("in", 1);
    out = kafka.newTopic("out", 1);
    checkpoint = sandbox.path("checkpoint");
  }

  private Dataset<Row> records(SparkSession spark, Map<String, String> options) {
    return KafkaIngest.read(spark, servers, in, options).select("key", "value");
  }

  private Dataset<Row> fromTheBeginning(SparkSession spark) {
    return records(spark, Map.of("startingOffsets", "earliest"));
  }

  private void send(long firstId) throws InterruptedException {
    SteadyLoad.send(servers, in, firstId, 100, Duration.ofSeconds(1));
  }

  private Dataset<Row> copied(SparkSession spark) {
    return spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", out)
        .load()
        .selectExpr("CAST(CAST(key AS STRING) AS BIGINT) AS id");
  }

  private static long[] rowsOfBatches(StreamingQuery query) {
    return Arrays.stream(query.recentProgress())
        .mapToLong(StreamingQueryProgress::numInputRows)
        .filter(rows -> rows > 0)
        .toArray();
  }

  @Test
  void asSoonAsPossibleEachArrivalIsABatch(SparkSession spark) throws Exception {
    send(0);
    StreamingQuery query =
        Triggers.asSoonAsPossible(fromTheBeginning(spark), servers, out, checkpoint);
    try {
      query.processAllAvailable();
      KafkaIngest.sendJson(SampleData.of(spark).rows(300).events().coalesce(1), servers, in);
      query.processAllAvailable();
    } finally {
      query.stop();
    }

    assertThat(Arrays.stream(rowsOfBatches(query)).sum()).isEqualTo(400);
    assertThat(rowsOfBatches(query)[0]).as("the first arrival").isEqualTo(100);
  }

  @Test
  void atIntervalsThereIsAtMostOneBatchInEach(SparkSession spark) throws Exception {
    StreamingQuery query =
        Triggers.atIntervals(fromTheBeginning(spark), servers, out, checkpoint, "1 second");
    try {
      SteadyLoad.send(servers, in, 0, 100, Duration.ofSeconds(4));
      kafka.awaitRecords(out, 400, PATIENCE);
    } finally {
      query.stop();
    }

    assertThat(
            Arrays.stream(query.recentProgress())
                .map(batch -> Instant.parse(batch.timestamp()).getEpochSecond()))
        .hasSizeGreaterThan(1)
        .doesNotHaveDuplicates();
    assertThat(copied(spark)).hasSameRowsAs(spark.range(400).toDF("id"));
  }

  @Test
  void allThatIsThereComesInBoundedBatchesAndTheQueryEnds(SparkSession spark) throws Exception {
    send(0);
    StreamingQuery query =
        Triggers.allThatIsThere(
            records(spark, Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "40")),
            servers,
            out,
            checkpoint);

    assertThat(query.awaitTermination(PATIENCE.toMillis())).isTrue();
    assertThat(rowsOfBatches(query)).containsExactly(40, 40, 20);
    assertThat(copied(spark)).hasSameRowsAs(spark.range(100).toDF("id"));
  }

  @Test
  void theNextStartTakesWhatCameInBetween(SparkSession spark) throws Exception {
    for (long first : new long[] {0, 100}) {
      send(first);
      StreamingQuery query =
          Triggers.allThatIsThere(fromTheBeginning(spark), servers, out, checkpoint);
      query.awaitTermination();
      assertThat(rowsOfBatches(query)).containsExactly(100);
    }

    assertThat(copied(spark)).hasSameRowsAs(spark.range(200).toDF("id"));
  }

  @Test
  void whatArrivesWhileAllThatIsThereIsTakenWaitsForTheNextStart(SparkSession spark)
      throws Exception {
    send(0);
    List<Long> taken = new CopyOnWriteArrayList<>();
    fromTheBeginning(spark)
        .writeStream()
        .option("checkpointLocation", checkpoint)
        .trigger(Trigger.AvailableNow())
        .foreachBatch(
            (VoidFunction2<Dataset<Row>, Long>)
                (batch, id) -> {
                  taken.add(batch.count());
                  send(100);
                })
        .start()
        .awaitTermination();

    assertThat(taken).containsExactly(100L);
  }

  @Test
  void continuouslyRecordsComeOutBeforeAnyOffsetIsNoted(SparkSession spark) throws Exception {
    StreamingQuery query =
        Triggers.continuously(fromTheBeginning(spark), servers, out, checkpoint, "1 hour");
    try {
      send(0);
      kafka.awaitRecords(out, 100, PATIENCE);
      assertThat(query.recentProgress()).isEmpty();
    } finally {
      query.stop();
    }

    StreamingQuery again =
        Triggers.continuously(fromTheBeginning(spark), servers, out, checkpoint, "1 hour");
    try {
      kafka.awaitRecords(out, 200, PATIENCE);
    } finally {
      again.stop();
    }
    assertThat(copied(spark).groupBy("id").count().groupBy("count").count())
        .as("no offset was noted, so each came again")
        .hasRows(row(2L, 100L));
  }

  @Test
  void continuouslyTakesNoWatermarkAndSoNoAggregation(SparkSession spark) {
    Dataset<Row> counts =
        KafkaIngest.read(spark, servers, in, Map.of())
            .withWatermark("timestamp", "1 minute")
            .groupBy("timestamp")
            .count()
            .selectExpr("CAST(count AS STRING) AS value");

    assertThatThrownBy(
            () -> Triggers.continuously(counts, servers, out, checkpoint, "1 second").stop())
        .isInstanceOf(AnalysisException.class)
        .hasMessageContaining(
            "Continuous processing does not support EventTimeWatermark operations");
  }

  @Test
  void continuouslyTakesNoTableAsItsSource(SparkSession spark) {
    spark.sql("CREATE TABLE payments (key STRING, value STRING) USING delta");

    assertThatThrownBy(
            () ->
                Triggers.continuously(
                        spark.readStream().table("payments"), servers, out, checkpoint, "1 second")
                    .stop())
        .hasMessageContaining(
            "Continuous processing does not support StreamingRelation operations");
  }
}
