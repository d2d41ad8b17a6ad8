package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.common.TopicPartition;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class KafkaIngestTest {
  private static final String SCHEMA =
      "event_id BIGINT, customer_id BIGINT, product_id BIGINT, event_type STRING, event_time TIMESTAMP, arrival_time TIMESTAMP";
  private static final Map<String, String> EARLIEST = Map.of("startingOffsets", "earliest");
  private static final String AVRO =
      """
      {"type": "record", "name": "Event", "fields": [
        {"name": "event_id", "type": "long"},
        {"name": "customer_id", "type": "long"},
        {"name": "event_type", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}
      """;

  private EmbeddedKafka kafka;

  private String servers;
  private String topic;
  private String checkpoint;
  private Dataset<Row> events;

  @BeforeEach
  void createTopic(SparkSession spark, Sandbox sandbox, EmbeddedKafka kafka) {
    this.kafka = kafka;
    servers = kafka.bootstrapServers();
    topic = kafka.newTopic("events", 2);
    checkpoint = sandbox.path("checkpoint");
    events = SampleData.of(spark).rows(1_000).events();
  }

  private StreamingQuery ingest(SparkSession spark, Map<String, String> options) throws Exception {
    StreamingQuery query =
        KafkaIngest.ingestAvailable(
            KafkaIngest.parseJson(KafkaIngest.read(spark, servers, topic, options), SCHEMA),
            "events",
            checkpoint);
    query.awaitTermination();
    return query;
  }

  private static Dataset<Row> withoutKafka(Dataset<Row> table) {
    return table.drop("kafka_partition", "kafka_offset", "kafka_time");
  }

  @Test
  void everyEventOfTheTopicIsInTheTableOnce(SparkSession spark) throws Exception {
    KafkaIngest.sendJson(events, servers, topic);
    ingest(spark, EARLIEST);

    assertThat(withoutKafka(spark.table("events"))).hasSameRowsAs(events);
    assertThat(spark.table("events").select("kafka_partition", "kafka_offset").distinct())
        .hasRowCount(1_000);
  }

  @Test
  void aCustomersEventsAreInOnePartitionInTheirOrder(SparkSession spark) throws Exception {
    KafkaIngest.sendJson(events.coalesce(1).sortWithinPartitions("event_id"), servers, topic);
    ingest(spark, EARLIEST);

    Dataset<Row> stored = spark.table("events");
    assertThat(stored.select("kafka_partition").distinct()).hasRowCount(2);
    assertThat(
            stored
                .groupBy("customer_id")
                .agg(Map.of("kafka_partition", "approx_count_distinct"))
                .where("`approx_count_distinct(kafka_partition)` > 1"))
        .isEmpty();
    assertThat(
            stored
                .selectExpr(
                    "event_id",
                    "lag(event_id) OVER (PARTITION BY customer_id ORDER BY kafka_offset) AS before")
                .where("before > event_id"))
        .isEmpty();
  }

  @Test
  void keyHeadersAndTimestampComeWithTheValue(SparkSession spark, Sandbox sandbox)
      throws Exception {
    Instant start = Instant.now();
    KafkaIngest.sendJson(events.where("event_id = 7"), servers, topic);
    KafkaIngest.ingestAvailable(
            KafkaIngest.read(spark, servers, topic, EARLIEST),
            "records",
            sandbox.path("checkpoint"))
        .awaitTermination();

    Row record =
        spark
            .table("records")
            .selectExpr(
                "CAST(CAST(key AS STRING) AS BIGINT) AS key",
                "headers[0].key AS header",
                "CAST(headers[0].value AS STRING) AS source",
                "timestamp")
            .head();
    assertThat(record.getLong(0)).isEqualTo(events.where("event_id = 7").head().getLong(1));
    assertThat(record.getString(1)).isEqualTo("source");
    assertThat(record.getString(2)).isEqualTo("shop");
    assertThat(record.getInstant(3)).isBetween(start.minusMillis(1), Instant.now());
  }

  @Test
  void aBurstIsTakenInByBatchesOfABoundedSize(SparkSession spark) throws Exception {
    KafkaIngest.sendJson(events, servers, topic);
    StreamingQuery query =
        ingest(spark, Map.of("startingOffsets", "earliest", "maxOffsetsPerTrigger", "300"));

    List<Long> batches =
        Arrays.stream(query.recentProgress())
            .map(p -> p.numInputRows())
            .filter(n -> n > 0)
            .toList();
    assertThat(batches).hasSize(4).allMatch(rows -> rows <= 300);
    assertThat(batches.stream().mapToLong(Long::longValue).sum()).isEqualTo(1_000);
  }

  @Test
  void aFirstStartBeginsAtTheEndUnlessToldOtherwise(SparkSession spark) throws Exception {
    KafkaIngest.sendJson(events, servers, topic);
    ingest(spark, Map.of());
    assertThat(spark.table("events")).isEmpty();
    KafkaIngest.sendJson(events.where("event_id < 10"), servers, topic);
    ingest(spark, Map.of());
    assertThat(spark.table("events")).hasRowCount(10);
  }

  @Test
  void aLaterStartGoesOnFromTheCheckpointWhateverTheOptionSays(SparkSession spark)
      throws Exception {
    KafkaIngest.sendJson(events, servers, topic);
    ingest(spark, EARLIEST);
    KafkaIngest.sendJson(events.where("event_id < 10"), servers, topic);
    ingest(spark, EARLIEST);

    assertThat(spark.table("events")).hasRowCount(1_010);
  }

  @Test
  void aStartByTimeReadsWhatCameSince(SparkSession spark) throws Exception {
    KafkaIngest.sendJson(events.where("event_id < 100"), servers, topic);
    long latest =
        spark
            .read()
            .format("kafka")
            .option("kafka.bootstrap.servers", servers)
            .option("subscribe", topic)
            .load()
            .selectExpr("unix_millis(max(timestamp))")
            .head()
            .getLong(0);
    await().until(() -> System.currentTimeMillis() > latest);
    KafkaIngest.sendJson(events.where("event_id >= 900"), servers, topic);
    ingest(spark, Map.of("startingTimestamp", String.valueOf(latest + 1)));

    assertThat(withoutKafka(spark.table("events"))).hasSameRowsAs(events.where("event_id >= 900"));
  }

  /** Kafka forgets the first records of partition 0, as it does when their time is over. */
  private void forget(long records) throws Exception {
    try (Admin admin = kafka.admin()) {
      admin
          .deleteRecords(
              Map.of(new TopicPartition(topic, 0), RecordsToDelete.beforeOffset(records)))
          .all()
          .get();
    }
  }

  @Test
  void recordsThatKafkaHasDeletedStopTheStreamAndItKeepsItsPlace(SparkSession spark)
      throws Exception {
    KafkaIngest.sendJson(events.where("event_id < 500"), servers, topic);
    ingest(spark, EARLIEST);
    long before = spark.table("events").where("kafka_partition = 0").count();
    KafkaIngest.sendJson(events.where("event_id >= 500"), servers, topic);
    forget(before + 20);

    assertThatThrownBy(() -> ingest(spark, EARLIEST))
        .isInstanceOf(StreamingQueryException.class)
        .hasStackTraceContaining(
            "Some data may have been lost because they are not available in Kafka any more");
    assertThat(spark.table("events")).hasRowCount(500);

    ingest(spark, Map.of("startingOffsets", "earliest", "failOnDataLoss", "false"));
    assertThat(spark.table("events")).as("all but the 20").hasRowCount(980);
    assertThat(
            spark
                .table("events")
                .where("kafka_partition = 0")
                .selectExpr("max(kafka_offset) - count(*) + 1"))
        .as("which they were can be seen")
        .hasRows(row(20L));
  }

  @Test
  void whatIsNoJsonIsNullAndKeepsItsOffset(SparkSession spark) throws Exception {
    spark
        .sql("SELECT '1' AS key, '{\"event_id\": 1' AS value")
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .save();
    ingest(spark, EARLIEST);

    assertThat(spark.table("events").select("event_type", "kafka_offset")).hasRows(row(null, 0L));
  }

  private StreamingQuery ingestAvro(SparkSession spark) throws Exception {
    StreamingQuery query =
        KafkaIngest.ingestAvailable(
            KafkaIngest.parseAvro(KafkaIngest.read(spark, servers, topic, EARLIEST), AVRO),
            "events",
            checkpoint);
    query.awaitTermination();
    return query;
  }

  @Test
  void avroKeepsItsTypes(SparkSession spark) throws Exception {
    Dataset<Row> sent = events.select("event_id", "customer_id", "event_type", "event_time");
    KafkaIngest.sendAvro(sent, AVRO, servers, topic);
    ingestAvro(spark);

    assertThat(withoutKafka(spark.table("events"))).hasSameRowsAs(sent);
  }

  @Test
  void aValueThatIsNotOfTheAvroSchemaStopsTheStreamBeforeAnythingIsWritten(SparkSession spark) {
    KafkaIngest.sendJson(events.where("event_id < 10"), servers, topic);

    assertThatThrownBy(() -> ingestAvro(spark))
        .isInstanceOf(StreamingQueryException.class)
        .hasStackTraceContaining("Malformed records are detected in record parsing");
    assertThat(spark.table("events")).isEmpty();
  }

  @Test
  void aTopicThatThereIsNotIsNamed(SparkSession spark) {
    topic = "nothing";

    assertThatThrownBy(() -> ingest(spark, EARLIEST))
        .isInstanceOf(StreamingQueryException.class)
        .hasStackTraceContaining("UnknownTopicOrPartitionException");
  }
}
