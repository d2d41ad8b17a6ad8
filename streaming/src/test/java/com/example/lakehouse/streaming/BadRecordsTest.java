package com.example.lakehouse.streaming;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.call_udf;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.streaming.support.Checkpoints;
import com.example.lakehouse.streaming.support.EmbeddedKafka;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.types.DataTypes;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
@KafkaTest
class BadRecordsTest {
  private static final AtomicLong READ = new AtomicLong();
  private static final String SCHEMA = "event_id BIGINT, customer_id BIGINT, event_time TIMESTAMP";
  private static final List<String> RULES =
      List.of(
          "event.event_id IS NOT NULL",
          "event.event_time <= timestamp + INTERVAL 1 HOUR",
          "try_cast(event.customer_id AS BIGINT) IS NOT NULL");

  private String servers;
  private String topic;
  private String checkpoint;

  @BeforeEach
  void createTopic(Sandbox sandbox, EmbeddedKafka kafka) {
    servers = kafka.bootstrapServers();
    topic = kafka.newTopic("events", 1);
    checkpoint = sandbox.path("checkpoint");
  }

  /** Sends values, given in SQL, in their order. */
  private void send(SparkSession spark, String... values) {
    StringBuilder rows = new StringBuilder();
    for (int i = 0; i < values.length; i++) {
      rows.append(i == 0 ? "" : ", ").append("(%d, CAST(%s AS BINARY))".formatted(i, values[i]));
    }
    send(spark.sql("SELECT value FROM VALUES " + rows + " AS v (n, value) ORDER BY n").coalesce(1));
  }

  private void send(Dataset<Row> records) {
    records
        .write()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        .save();
  }

  private static String json(long event, Object customer) {
    return "'{\"event_id\": %d, \"customer_id\": %s, \"event_time\": \"2025-12-01T10:00:00Z\"}'"
        .formatted(event, customer);
  }

  /** The topic as it is, read by a batch. */
  private Dataset<Row> topic(SparkSession spark) {
    return spark
        .read()
        .format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", topic)
        .option("includeHeaders", true)
        .load();
  }

  private Dataset<Row> stream(SparkSession spark) {
    return KafkaIngest.read(spark, servers, topic, Map.of("startingOffsets", "earliest"));
  }

  private StreamingQuery ingest(Dataset<Row> parsed) throws Exception {
    StreamingQuery query =
        BadRecords.ingestAvailable(parsed, "events", "quarantine", "test", checkpoint);
    query.awaitTermination();
    return query;
  }

  private StreamingQuery ingest(SparkSession spark) throws Exception {
    return ingest(BadRecords.parse(stream(spark), SCHEMA, RULES));
  }

  private static long version(SparkSession spark, String table) {
    return DeltaTable.forName(spark, table).history(1).first().<Long>getAs("version");
  }

  private static Dataset<Row> ids(SparkSession spark) {
    return spark.table("events").select("event_id", "kafka_offset");
  }

  private static Dataset<Row> reasons(SparkSession spark) {
    return spark.table("quarantine").select("offset", "reason");
  }

  /** What a schema reads that takes the customer for a text. */
  private static Dataset<Row> withTheCustomerAsText(SparkSession spark) {
    return BadRecords.events(
            BadRecords.parse(
                spark.table("quarantine"),
                SCHEMA.replace("customer_id BIGINT", "customer_id STRING"),
                RULES))
        .withColumn("customer_id", expr("try_cast(customer_id AS BIGINT)"));
  }

  @Test
  void theRestFlowsAndTheCountsAreThoseOfTheDial(SparkSession spark) throws Exception {
    SampleData data = SampleData.of(spark).rows(2_000).malformed(0.05);
    Dataset<Row> raw = data.rawEvents().localCheckpoint();
    send(raw.select("value"));
    Dataset<Row> events = data.events().drop("arrival_time");
    ingest(BadRecords.parse(stream(spark), events.schema().toDDL(), RULES));

    // What is cut off has forty characters, and all else more.
    Dataset<Row> cut = raw.where("length(value) = 40");
    assertThat(data.malformedCount()).isEqualTo(102);
    assertThat(spark.table("quarantine").groupBy("reason").count()).hasRows(row("not JSON", 102L));
    assertThat(spark.table("quarantine").selectExpr("CAST(value AS STRING) AS value"))
        .hasSameRowsAs(cut.select("value"));
    assertThat(spark.table("events")).hasRowCount(1_898);
    assertThat(spark.table("events").drop("kafka_topic", "kafka_partition", "kafka_offset"))
        .hasSameRowsAs(events.join(cut.select("event_id"), new String[] {"event_id"}, "left_anti"));
  }

  @Test
  void eachRowIsTheRecordAtItsOffset(SparkSession spark) throws Exception {
    send(spark, json(1, 7), "'{\"event'", json(2, 7), "X'FF00'", "NULL", json(3, 8));
    ingest(spark);

    assertThat(spark.table("quarantine").drop("reason", "replayed"))
        .hasSameRowsAs(topic(spark).where("offset IN (1, 3, 4)"));
    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 2L), row(3L, 5L));
  }

  @Test
  void eachReasonIsGiven(SparkSession spark) throws Exception {
    send(
        spark,
        json(0, 7),
        "NULL",
        "unhex(concat(hex('{\"event_id\": 2, \"name\": \"'), 'FF', hex('\"}')))",
        "''",
        "'{\"event_id\": 4, \"customer_id\": 7, \"eve'",
        json(5, 7).replace("}'", "} x'"),
        json(6, 7).replace("}'", "}{\"event_id\": 60}'"),
        json(7, 7).replace("}'", "}, {\"event_id\": 70}'"),
        "'[{\"event_id\": 8}]'",
        "'null'",
        json(10, "\"7\""),
        json(11, "7.5"),
        json(12, "99999999999999999999"),
        "'{\"event_id\": 13, \"event_time\": \"yesterday\"}'",
        "'{\"customer_id\": 7}'",
        "'{\"event_id\": 15, \"event_time\": 1764583200000}'",
        "'{\"event_id\": 16}'",
        json(17, "null"));
    ingest(spark);

    assertThat(ids(spark)).hasRows(row(0L, 0L));
    assertThat(reasons(spark))
        .hasRows(
            row(1L, "no value"),
            row(2L, "not UTF-8"),
            row(3L, "not JSON"),
            row(4L, "not JSON"),
            row(5L, "not JSON"),
            row(6L, "not JSON"),
            row(7L, "not JSON"),
            row(8L, "not of the schema"),
            row(9L, "not of the schema"),
            row(10L, "not of the schema"),
            row(11L, "not of the schema"),
            row(12L, "not of the schema"),
            row(13L, "not of the schema"),
            row(14L, "not: event.event_id IS NOT NULL"),
            row(15L, "not: event.event_time <= timestamp + INTERVAL 1 HOUR"),
            row(16L, "not: event.event_time <= timestamp + INTERVAL 1 HOUR"),
            row(17L, "not: try_cast(event.customer_id AS BIGINT) IS NOT NULL"));
    assertThat(
            BadRecords.parse(topic(spark), SCHEMA, List.of())
                .where("event IS NOT NULL AND event.unread IS NULL")
                .select("offset", "reason"))
        .as("what from_json alone takes for an event")
        .hasRows(
            row(0L, null),
            row(2L, "not UTF-8"),
            row(5L, "not JSON"),
            row(6L, "not JSON"),
            row(7L, "not JSON"),
            row(14L, null),
            row(15L, null),
            row(16L, null),
            row(17L, null));
  }

  @Test
  void aBatchThatIsRunAgainWritesNothingToEitherTable(SparkSession spark, Sandbox sandbox)
      throws Exception {
    send(spark, json(1, 7), "'{'", json(2, 7));
    ingest(spark);
    send(spark, json(3, 7), "'{'");
    ingest(spark);
    List<Long> versions = List.of(version(spark, "events"), version(spark, "quarantine"));
    Checkpoints.forgetCommit(sandbox.folder().resolve("checkpoint"), 1);

    StreamingQuery again = ingest(spark);

    assertThat(again.recentProgress()[0].batchId()).isEqualTo(1);
    assertThat(again.recentProgress()[0].numInputRows())
        .as("both tables have it, so that it is not even read")
        .isZero();
    assertThat(List.of(version(spark, "events"), version(spark, "quarantine"))).isEqualTo(versions);
    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 2L), row(3L, 3L));
    assertThat(reasons(spark)).hasRows(row(1L, "not JSON"), row(4L, "not JSON"));
  }

  @Test
  void aBatchThatDiesBetweenTheTablesIsInBothOnceAfterTheNextStart(SparkSession spark)
      throws Exception {
    send(spark, json(1, 7));
    ingest(spark);
    spark.sql("ALTER TABLE quarantine ADD CONSTRAINT no_rows CHECK (offset < 0)");
    send(spark, "'{'", json(2, 7));

    assertThatThrownBy(() -> ingest(spark))
        .isInstanceOf(StreamingQueryException.class)
        .hasStackTraceContaining("DELTA_VIOLATE_CONSTRAINT");
    assertThat(ids(spark)).as("the first table has the batch").hasRows(row(1L, 0L), row(2L, 2L));
    assertThat(reasons(spark)).as("the second has not").isEmpty();

    spark.sql("ALTER TABLE quarantine DROP CONSTRAINT no_rows");
    ingest(spark);

    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 2L));
    assertThat(reasons(spark)).hasRows(row(1L, "not JSON"));
  }

  @Test
  void theTopicIsReadOnceForBothTables(SparkSession spark) throws Exception {
    send(spark, json(1, 7), "'{'", json(2, 7));
    READ.set(0);
    UDF1<byte[], byte[]> counted =
        value -> {
          READ.incrementAndGet();
          return value;
        };
    spark.udf().register("counted", udf(counted, DataTypes.BinaryType).asNondeterministic());

    ingest(
        BadRecords.parse(
            stream(spark).withColumn("value", call_udf("counted", col("value"))), SCHEMA, RULES));

    assertThat(READ).hasValue(3);
    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 2L));
    assertThat(reasons(spark)).hasRows(row(1L, "not JSON"));
  }

  @Test
  void withANewCheckpointTheOldNameSkipsBatchesAndANewOneDoesNot(
      SparkSession spark, Sandbox sandbox) throws Exception {
    send(spark, json(1, 7));
    ingest(spark);
    send(spark, json(2, 7), "'{'");
    Dataset<Row> fromNowOn =
        BadRecords.parse(
            KafkaIngest.read(
                spark,
                servers,
                topic,
                Map.of("startingOffsets", "{\"%s\":{\"0\":1}}".formatted(topic))),
            SCHEMA,
            RULES);

    BadRecords.ingestAvailable(fromNowOn, "events", "quarantine", "test", sandbox.path("new"))
        .awaitTermination();
    assertThat(ids(spark)).as("taken for batch 0").hasRows(row(1L, 0L));
    assertThat(reasons(spark)).isEmpty();

    BadRecords.ingestAvailable(fromNowOn, "events", "quarantine", "test-2", sandbox.path("newer"))
        .awaitTermination();
    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 1L));
    assertThat(reasons(spark)).hasRows(row(2L, "not JSON"));
  }

  @Test
  void aBetterSchemaBringsRecordsInOnceAlsoWhenItIsRunTwice(SparkSession spark) throws Exception {
    send(spark, json(1, 7), json(2, "\"8\""), "'{'", json(3, "\"9\""));
    ingest(spark);
    // The rows of the first run, so that the second is given the same.
    Dataset<Row> repaired = withTheCustomerAsText(spark).localCheckpoint();

    for (int run = 0; run < 2; run++) {
      BadRecords.replay(repaired, "events", "quarantine");

      assertThat(spark.table("events").select("event_id", "customer_id", "kafka_offset"))
          .hasRows(row(1L, 7L, 0L), row(2L, 8L, 1L), row(3L, 9L, 3L));
      assertThat(spark.table("quarantine").select("offset", "replayed"))
          .as("what the schema does not mend stays open")
          .hasRows(row(1L, true), row(2L, false), row(3L, true));
    }
  }

  @Test
  void aReplayThatDiesBetweenTheTablesIsRunAgain(SparkSession spark) throws Exception {
    send(spark, json(1, 7), json(2, "\"8\""));
    ingest(spark);
    spark.sql("ALTER TABLE quarantine ADD CONSTRAINT stay_open CHECK (NOT replayed)");

    assertThatThrownBy(
            () -> BadRecords.replay(withTheCustomerAsText(spark), "events", "quarantine"))
        .hasStackTraceContaining("DELTA_VIOLATE_CONSTRAINT");
    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 1L));

    spark.sql("ALTER TABLE quarantine DROP CONSTRAINT stay_open");
    BadRecords.replay(withTheCustomerAsText(spark), "events", "quarantine");

    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 1L));
    assertThat(spark.table("quarantine").select("replayed")).hasRows(row(true));
  }

  @Test
  void aRecordThatIsInTheQuarantineTwiceIsReplayedOnce(SparkSession spark) throws Exception {
    send(spark, json(1, 7), json(2, "\"8\""));
    ingest(spark);
    spark.sql("INSERT INTO quarantine SELECT * FROM quarantine");

    BadRecords.replay(withTheCustomerAsText(spark), "events", "quarantine");

    assertThat(ids(spark)).hasRows(row(1L, 0L), row(2L, 1L));
    assertThat(spark.table("quarantine").select("replayed")).hasRows(row(true), row(true));
  }

  @Test
  void afterTheSenderHasSentThemAgainEveryEventIsThereOnce(SparkSession spark) throws Exception {
    SampleData data = SampleData.of(spark).rows(1_000).malformed(0.1);
    send(data.rawEvents().select("value"));
    Dataset<Row> events = data.events().drop("arrival_time");
    ingest(BadRecords.parse(stream(spark), events.schema().toDDL(), RULES));
    assertThat(spark.table("quarantine")).hasRowCount(data.malformedCount());
    Dataset<Row> sentAgain =
        spark
            .table("quarantine")
            .selectExpr(
                "CAST(regexp_extract(CAST(value AS STRING), '\"event_id\":(\\\\d+)') AS BIGINT) AS"
                    + " event_id",
                "topic AS kafka_topic",
                "partition AS kafka_partition",
                "offset AS kafka_offset")
            .join(events, "event_id");

    for (int run = 0; run < 2; run++) {
      BadRecords.replay(sentAgain, "events", "quarantine");

      assertThat(spark.table("events").drop("kafka_topic", "kafka_partition", "kafka_offset"))
          .hasSameRowsAs(events);
      assertThat(spark.table("quarantine").where("NOT replayed")).isEmpty();
    }
  }

  @Test
  void theStreamGoesOnWithTheBetterSchema(SparkSession spark) throws Exception {
    send(spark, json(1, 7), json(2, "\"8\""));
    ingest(spark);
    send(spark, json(3, "\"9\""), json(4, 9));
    Dataset<Row> better =
        BadRecords.parse(
                stream(spark), SCHEMA.replace("customer_id BIGINT", "customer_id STRING"), RULES)
            .withColumn(
                "event",
                col("event")
                    .withField("customer_id", expr("try_cast(event.customer_id AS BIGINT)")));
    ingest(better);

    assertThat(spark.table("events").select("event_id", "customer_id"))
        .hasRows(row(1L, 7L), row(3L, 9L), row(4L, 9L));
    assertThat(reasons(spark)).hasRows(row(1L, "not of the schema"));
  }
}
