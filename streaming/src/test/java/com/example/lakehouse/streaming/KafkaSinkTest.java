package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static com.example.lakehouse.common.testing.Refusals.assertRefused;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.when;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import io.delta.tables.DeltaTable;
import java.time.Duration;
import java.util.Map;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class KafkaSinkTest {
  private static final Map<String, String> DEFAULTS = Map.of();

  private EmbeddedKafka kafka;
  private String servers;
  private String swiss;
  private String abroad;
  private Column topic;
  private String checkpoint;

  @BeforeEach
  void createTopics(SparkSession spark, Sandbox sandbox, EmbeddedKafka kafka) {
    this.kafka = kafka;
    servers = kafka.bootstrapServers();
    swiss = kafka.newTopic("orders-ch", 1);
    abroad = kafka.newTopic("orders-abroad", 2);
    topic = when(col("country").equalTo("CH"), swiss).otherwise(abroad);
    checkpoint = sandbox.path("checkpoint");
    spark.sql(
        "CREATE TABLE changes (change_id BIGINT, order_id BIGINT, country STRING, status STRING,"
            + " amount DECIMAL(12,2)) USING delta");
  }

  /** In one file, in their order. */
  private static void arrive(SparkSession spark, String changes) {
    spark.sql("INSERT INTO changes SELECT /*+ COALESCE(1) */ * FROM VALUES " + changes);
  }

  /** Two changes of each of the orders from {@code from} to {@code to}, in one batch. */
  private static void arrive(SparkSession spark, long from, long to) {
    spark
        .range(from * 2, to * 2, 1, 1)
        .selectExpr(
            "id AS change_id",
            "id div 2 AS order_id",
            "'FR' AS country",
            "IF(id % 2 = 0, 'new', 'paid') AS status",
            "CAST(1 AS DECIMAL(12,2)) AS amount")
        .write()
        .format("delta")
        .mode("append")
        .saveAsTable("changes");
  }

  private void send(Dataset<Row> records, Map<String, String> options) throws Exception {
    KafkaSink.sendAvailable(records, servers, options, checkpoint).awaitTermination();
  }

  private void send(SparkSession spark) throws Exception {
    send(KafkaSink.records(spark.readStream().table("changes"), topic), DEFAULTS);
  }

  /** What was sent, read by a batch. */
  private Dataset<Row> sent(SparkSession spark) {
    return spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", swiss + "," + abroad)
        .option("includeHeaders", true)
        .load();
  }

  private Dataset<Row> received(SparkSession spark) {
    return KafkaSink.received(
        KafkaIngest.read(
            spark, servers, swiss + "," + abroad, Map.of("startingOffsets", "earliest")));
  }

  private void takeOnce(SparkSession spark, Sandbox sandbox) throws Exception {
    if (!spark.catalog().tableExists("once")) {
      KafkaSink.received(sent(spark)).limit(0).write().format("delta").saveAsTable("once");
    }
    KafkaSink.takeOnceAvailable(received(spark), "once", sandbox.path("once")).awaitTermination();
  }

  /** How many changes were sent how often. */
  private static Dataset<Row> repetitions(Dataset<Row> received) {
    return received
        .groupBy("change_id")
        .count()
        .groupBy("count")
        .count()
        .toDF("records", "changes");
  }

  @Test
  void recordsAreSentAsTheyStand(SparkSession spark) throws Exception {
    arrive(
        spark,
        """
        (1, 101, 'CH', 'new', 20.00), (2, 102, 'FR', 'new', 35.50), (3, 103, 'CH', 'new', 8.90),
        (4, 101, 'CH', 'paid', 20.00), (5, 103, 'CH', 'deleted', 8.90)
        """);
    send(spark);

    assertThat(
            sent(spark)
                .selectExpr(
                    "topic",
                    "offset",
                    "CAST(key AS STRING) AS key",
                    "CAST(value AS STRING) AS value",
                    "transform(headers, h -> h.key || '=' || CAST(h.value AS STRING))[0] AS header",
                    "size(headers) AS headers")
                .where("topic = '%s'".formatted(swiss)))
        .hasRows(
            row(
                swiss,
                0L,
                "101",
                "{\"order_id\":101,\"country\":\"CH\",\"status\":\"new\",\"amount\":20.00}",
                "change_id=1",
                1),
            row(
                swiss,
                1L,
                "103",
                "{\"order_id\":103,\"country\":\"CH\",\"status\":\"new\",\"amount\":8.90}",
                "change_id=3",
                1),
            row(
                swiss,
                2L,
                "101",
                "{\"order_id\":101,\"country\":\"CH\",\"status\":\"paid\",\"amount\":20.00}",
                "change_id=4",
                1),
            row(swiss, 3L, "103", null, "change_id=5", 1));
    assertThat(KafkaSink.received(sent(spark)).where("topic = '%s'".formatted(abroad)))
        .hasRows(
            row(
                "102",
                2L,
                "{\"order_id\":102,\"country\":\"FR\",\"status\":\"new\",\"amount\":35.50}",
                abroad));
  }

  @Test
  void anOrderWhoseLastRecordIsATombstoneIsGone(SparkSession spark, Sandbox sandbox)
      throws Exception {
    arrive(
        spark,
        "(1, 101, 'CH', 'new', 20.00), (2, 103, 'CH', 'new', 8.90), (3, 103, 'CH', 'deleted',"
            + " 8.90)");
    send(spark);
    takeOnce(spark, sandbox);

    assertThat(spark.table("once")).hasRowCount(3);
    assertThat(KafkaSink.current(spark.table("once")))
        .hasRows(
            row(
                "101",
                "{\"order_id\":101,\"country\":\"CH\",\"status\":\"new\",\"amount\":20.00}"));
  }

  @Test
  void theChangesOfAnOrderAreInOnePartitionInTheirOrder(SparkSession spark) throws Exception {
    arrive(spark, 0, 50);
    send(spark);

    assertThat(sent(spark).select("partition").distinct()).hasRowCount(2);
    assertThat(
            sent(spark)
                .selectExpr(
                    "key",
                    "partition",
                    "offset",
                    "get_json_object(CAST(value AS STRING), '$.status') AS status")
                .groupBy("key", "partition")
                .agg(expr("array_sort(collect_list(struct(offset, status))) AS changes"))
                .selectExpr("array_join(changes.status, ', ') AS statuses")
                .groupBy("statuses")
                .count())
        .as("one partition for each of the 50 keys")
        .hasRows(row("new, paid", 50L));
  }

  @Test
  void aBatchThatIsRunAgainSendsItsRecordsAgain(SparkSession spark, Sandbox sandbox)
      throws Exception {
    arrive(spark, 0, 10);
    send(spark);
    arrive(spark, 10, 17);
    send(spark);
    assertThat(sent(spark)).hasRowCount(34);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 1);

    send(spark);

    assertThat(sent(spark)).hasRowCount(48);
    assertThat(repetitions(KafkaSink.received(sent(spark))))
        .as("batch 0 once, batch 1 twice")
        .hasRows(row(1L, 20L), row(2L, 14L));
    assertThat(
            sent(spark)
                .where("CAST(CAST(key AS STRING) AS BIGINT) >= 10")
                .groupBy("key", "value", "partition", "headers")
                .count()
                .where("count <> 2"))
        .as("byte for byte, in the same partition")
        .isEmpty();
  }

  @Test
  void aConsumerThatMergesTakesEachOnceThoughBothCopiesAreInOneBatch(
      SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 17);
    send(spark);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    send(spark);

    KafkaIngest.ingestAvailable(received(spark), "appended", sandbox.path("appended"))
        .awaitTermination();
    takeOnce(spark, sandbox);

    assertThat(spark.table("appended")).hasRowCount(68);
    assertThat(spark.table("once").selectExpr("CAST(order_key AS BIGINT) AS o", "change_id AS c"))
        .hasSameRowsAs(spark.table("changes").selectExpr("order_id AS o", "change_id AS c"));
  }

  @Test
  void andAlsoWhenTheCopiesComeInALaterBatch(SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(spark, 0, 10);
    send(spark);
    takeOnce(spark, sandbox);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    send(spark);
    arrive(
        spark,
        "(20, 3, 'FR', 'sent', 1.00), (21, 4, 'FR', 'sent', 1.00), (22, 11, 'FR', 'new', 1.00),"
            + " (23, 11, 'FR', 'paid', 1.00)");
    send(spark);

    takeOnce(spark, sandbox);

    assertThat(repetitions(KafkaSink.received(sent(spark)))).hasRows(row(2L, 20L), row(1L, 4L));
    assertThat(repetitions(spark.table("once"))).hasRows(row(1L, 24L));
    Row merge = DeltaTable.forName(spark, "once").history(1).first();
    assertThat(merge.<String, String>getJavaMap(merge.fieldIndex("operationMetrics")))
        .as("20 come again, 4 are new, two of them of orders that are there")
        .containsEntry("numSourceRows", "24")
        .containsEntry("numTargetRowsInserted", "4");
  }

  @Test
  void anIdThatTheQueryMakesIsAnotherOneWhenTheBatchIsRunAgain(SparkSession spark, Sandbox sandbox)
      throws Exception {
    arrive(spark, 0, 5);
    Dataset<Row> records =
        KafkaSink.records(spark.readStream().table("changes"), topic)
            .selectExpr(
                "key",
                "value",
                "array(struct('id' AS key, CAST(uuid() AS BINARY) AS value)) AS headers",
                "topic");
    send(records, DEFAULTS);
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 0);
    send(records, DEFAULTS);

    assertThat(sent(spark)).hasRowCount(20);
    assertThat(sent(spark).select("key", "value").distinct()).hasRowCount(10);
    assertThat(sent(spark).selectExpr("headers[0].value").distinct()).hasRowCount(20);
  }

  @Test
  void aRecordThatIsTooLargeStopsItsBatchWhichHasSentWhatCameBefore(
      SparkSession spark, Sandbox sandbox) throws Exception {
    arrive(
        spark,
        "(1, 101, 'CH', 'new', 1.00), (2, 102, 'CH', repeat('!', 2000000), 1.00), (3, 103, 'CH',"
            + " 'new', 1.00)");

    assertThatThrownBy(() -> send(spark))
        .isInstanceOf(StreamingQueryException.class)
        .hasRootCauseInstanceOf(RecordTooLargeException.class)
        .hasStackTraceContaining("larger than 1048576, which is the value of the max.request.size");
    kafka.awaitRecords(swiss, 1, Duration.ofSeconds(30));
    assertThat(KafkaSink.received(sent(spark)).select("change_id")).hasRows(row(1L));

    // The producer's limit is on what it is given, the broker's on what it is sent.
    send(
        KafkaSink.records(spark.readStream().table("changes"), topic),
        Map.of("kafka.max.request.size", "4000000", "kafka.compression.type", "gzip"));
    takeOnce(spark, sandbox);

    assertThat(KafkaSink.received(sent(spark)).select("change_id"))
        .hasRows(row(1L), row(1L), row(2L), row(3L));
    assertThat(spark.table("once").selectExpr("change_id", "length(value) > 2000000"))
        .hasRows(row(1L, false), row(2L, true), row(3L, false));
  }

  @Test
  void theBrokerHasALimitOfItsOwnForEachTopic(SparkSession spark) throws Exception {
    arrive(spark, "(1, 101, 'CH', repeat('!', 2000000), 1.00)");
    Map<String, String> options = Map.of("kafka.max.request.size", "4000000");

    assertThatThrownBy(
            () -> send(KafkaSink.records(spark.readStream().table("changes"), topic), options))
        .isInstanceOf(StreamingQueryException.class)
        .hasRootCauseInstanceOf(RecordTooLargeException.class)
        .hasStackTraceContaining("larger than the max message size the server will accept");
    assertThat(sent(spark)).isEmpty();

    swiss = kafka.newTopic("large-orders", 1, Map.of("max.message.bytes", "4000000"));
    send(KafkaSink.records(spark.readStream().table("changes"), lit(swiss)), options);

    assertThat(KafkaSink.received(sent(spark)).select("change_id")).hasRows(row(1L));
  }

  @Test
  void theOptionTopicWinsOverTheColumn(SparkSession spark) throws Exception {
    arrive(spark, "(1, 101, 'CH', 'new', 20.00), (2, 102, 'FR', 'new', 35.50)");
    send(KafkaSink.records(spark.readStream().table("changes"), topic), Map.of("topic", abroad));

    assertThat(KafkaSink.received(sent(spark)).select("change_id", "topic"))
        .hasRows(row(1L, abroad), row(2L, abroad));
  }

  @Test
  void aRecordWithoutATopicIsRefused(SparkSession spark) {
    arrive(spark, "(1, 101, 'FR', 'new', 20.00)");

    assertRefused(
        "KAFKA_NULL_TOPIC_IN_DATA",
        () ->
            send(
                KafkaSink.records(
                    spark.readStream().table("changes"), when(col("country").equalTo("CH"), swiss)),
                DEFAULTS));
    assertThat(sent(spark)).isEmpty();
  }

  @Test
  void aTopicThatThereIsNotIsRefusedAndTheBatchIsSentLater(SparkSession spark) throws Exception {
    arrive(spark, "(1, 101, 'CH', 'new', 20.00)");

    assertThatThrownBy(
            () ->
                send(
                    KafkaSink.records(spark.readStream().table("changes"), lit("nothing")),
                    Map.of("kafka.max.block.ms", "1000")))
        .isInstanceOf(StreamingQueryException.class)
        .hasCauseInstanceOf(Exception.class)
        .satisfies(
            e ->
                assertThat(e)
                    .hasStackTraceContaining(TimeoutException.class.getName())
                    .hasStackTraceContaining(
                        "Topic nothing not present in metadata after 1000 ms"));

    send(spark);
    assertThat(KafkaSink.received(sent(spark)).select("change_id", "topic"))
        .hasRows(row(1L, swiss));
  }
}
