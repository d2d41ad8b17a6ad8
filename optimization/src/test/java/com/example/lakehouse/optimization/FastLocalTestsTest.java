package com.example.lakehouse.optimization;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.ChildJvm;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.optimization.support.Counted;
import com.example.lakehouse.optimization.support.SessionStarts;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TimeZone;
import java.util.stream.IntStream;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

@SparkTest
class FastLocalTestsTest {
  private static final String SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions";
  private static final String SNAPSHOT_PARTITIONS = "spark.databricks.delta.snapshotPartitions";
  private static final String LISTING = "spark.sql.sources.parallelPartitionDiscovery.parallelism";

  private static final Set<String> APPLICATIONS = new HashSet<>();
  private static int methods;

  private Dataset<Row> orders;

  @BeforeEach
  void useTheSettings(SparkSession spark, Sandbox sandbox) {
    FastLocalTests.settings()
        .forEach(
            (key, value) -> {
              if (spark.conf().isModifiable(key)) {
                spark.conf().set(key, value);
              }
            });
    orders = SampleData.of(spark).rows(300).orders().select("order_id", "status", "amount");
    APPLICATIONS.add(spark.sparkContext().applicationId());
    methods++;
  }

  /** What this library's tests do. */
  @AfterAll
  static void allMethodsHadOneSparkContext() {
    assertThat(APPLICATIONS).hasSize(1);
    assertThat(methods).isPositive();
  }

  private static int tasks(SparkSession spark, Counted.Work work) throws Exception {
    return Counted.of(spark, work).tasks();
  }

  /** A query whose generated code no other test has: a tower of arithmetic. */
  private static Dataset<Row> unusual(SparkSession spark, int height) {
    Column tower = expr("id");
    for (int i = 0; i < height; i++) {
      tower = tower.multiply(3).plus(expr("pmod(id, 7)")).bitwiseXOR(expr("id"));
    }
    return spark.range(0, 10, 1, 2).select(tower.as("tower")).where("tower % 2 = 0");
  }

  /** A project that has copied the snippets and nothing else. */
  static final class Copied {
    public static void main(String[] args) {
      SparkSession spark = FastLocalTests.session();
      Dataset<Row> orders =
          spark.sql("SELECT 1L AS order_id, 'new' AS status, 2 AS amount, DATE'2025-12-24' AS day");
      System.out.println("READ " + FastLocalTests.mergeAndRead(spark, "orders", orders).size());
      System.out.println("READ " + spark.table("orders").where("order_id = 1").head().get(3));
      spark.stop();
    }
  }

  @Test
  void theSessionRunsTheSnippetsByItselfAndAgainInTheNextJvm() throws Exception {
    for (int run = 1; run <= 2; run++) {
      assertThat(ChildJvm.run(Copied.class, List.of("-Xmx1g")).outputOfSuccess().lines())
          .filteredOn(line -> line.startsWith("READ "))
          .containsExactly("READ 2", "READ 2025-12-24");
    }
  }

  @Test
  void thisLibraryRunsItsTestsWithTheseSettings(SparkSession spark) {
    try (Sandbox untouched = new Sandbox(spark.newSession(), "untouched", false)) {
      SparkSession fresh = spark.newSession();
      FastLocalTests.settings()
          .forEach(
              (key, value) -> {
                if (!key.equals("spark.master")) {
                  assertThat(fresh.conf().get(key)).as(key).isEqualTo(value);
                }
              });
    }
    assertThat(spark.sparkContext().uiWebUrl().isEmpty()).isTrue();
  }

  @Test
  void twoCommandsReadDeltasLogWithATaskForEachSnapshotPartition(SparkSession spark)
      throws Exception {
    FastLocalTests.mergeAndRead(spark, "first", orders);
    Counted two = Counted.of(spark, () -> FastLocalTests.mergeAndRead(spark, "two", orders));

    spark.conf().set(SNAPSHOT_PARTITIONS, "12");
    Counted twelve = Counted.of(spark, () -> FastLocalTests.mergeAndRead(spark, "twelve", orders));

    assertThat(twelve.jobs()).isEqualTo(two.jobs());
    assertThat((twelve.tasks() - two.tasks()) % 10).isZero();
    assertThat((twelve.tasks() - two.tasks()) / 10).isBetween(2, 6);
  }

  @Test
  void outsideUtcEachCommitReadsDeltasLogOnceMoreUnlessToldNotTo(SparkSession spark)
      throws Exception {
    String check = "spark.databricks.delta.allFilesInCrc.verificationMode.forceOnNonUTC.enabled";
    assertThat(spark.conf().get(check)).isEqualTo("false");
    FastLocalTests.mergeAndRead(spark, "first", orders);
    TimeZone before = TimeZone.getDefault();
    TimeZone.setDefault(TimeZone.getTimeZone("Europe/Berlin"));
    try {
      Counted unchecked = Counted.of(spark, () -> FastLocalTests.mergeAndRead(spark, "t", orders));
      spark.conf().set(check, "true");
      Counted checked = Counted.of(spark, () -> FastLocalTests.mergeAndRead(spark, "u", orders));

      // Of two commits the second has something to read.
      assertThat(checked.jobs()).isGreaterThan(unchecked.jobs());
    } finally {
      TimeZone.setDefault(before);
    }
  }

  @Test
  void shufflePartitionsMakeNoTasksWhereAdaptiveExecutionMergesThem(SparkSession spark)
      throws Exception {
    Dataset<Row> two = FastLocalTests.totals(orders);
    int ofTwo = tasks(spark, two::collectAsList);
    spark.conf().set(SHUFFLE_PARTITIONS, "200");
    int ofTwoHundred = tasks(spark, () -> FastLocalTests.totals(orders).collectAsList());
    spark.conf().set("spark.sql.adaptive.enabled", "false");
    int unmerged = tasks(spark, () -> FastLocalTests.totals(orders).collectAsList());

    assertThat(ofTwoHundred).isEqualTo(ofTwo).isLessThan(12);
    assertThat(unmerged).isGreaterThan(200);
  }

  @Test
  void inAStreamEachShufflePartitionIsATask(SparkSession spark, Sandbox sandbox) throws Exception {
    orders.write().format("delta").saveAsTable("orders");
    FastLocalTests.streamTotals(spark, "orders", sandbox.path("first"));
    int two = tasks(spark, () -> FastLocalTests.streamTotals(spark, "orders", sandbox.path("two")));

    spark.conf().set(SHUFFLE_PARTITIONS, "12");
    int twelve =
        tasks(spark, () -> FastLocalTests.streamTotals(spark, "orders", sandbox.path("twelve")));

    assertThat(twelve - two).isEqualTo(10);
  }

  @Test
  void vacuumListsWithATaskForEachFolderUpToTheLimit(SparkSession spark) throws Exception {
    orders.write().format("delta").saveAsTable("orders");
    spark.conf().set("spark.databricks.delta.vacuum.parallelDelete.enabled", "false");
    String vacuum = "VACUUM orders DRY RUN";
    spark.sql(vacuum).collectAsList();
    int four = tasks(spark, () -> spark.sql(vacuum).collectAsList());

    spark.conf().set(LISTING, "40");
    int forty = tasks(spark, () -> spark.sql(vacuum).collectAsList());

    assertThat(forty - four).isGreaterThanOrEqualTo(36);
  }

  @Test
  void noCodegenCompilesNothingAndOnlyStagesInterpretedStillDoes(SparkSession spark)
      throws Exception {
    spark.range(10).where("id > 3").collectAsList();
    Counted neither = Counted.of(spark, () -> unusual(spark, 11).collectAsList());
    spark.conf().set("spark.sql.codegen.factoryMode", "FALLBACK");
    Counted noWholeStage = Counted.of(spark, () -> unusual(spark, 12).collectAsList());
    spark.conf().set("spark.sql.codegen.wholeStage", "true");
    Counted all = Counted.of(spark, () -> unusual(spark, 13).collectAsList());
    Counted again = Counted.of(spark, () -> unusual(spark, 13).collectAsList());
    spark.conf().set("spark.sql.codegen.factoryMode", "NO_CODEGEN");
    Counted noCodegen = Counted.of(spark, () -> unusual(spark, 14).collectAsList());

    assertThat(neither.classes()).isZero();
    assertThat(noWholeStage.classes()).isPositive();
    assertThat(all.classes()).isPositive();
    // It goes before spark.sql.codegen.wholeStage, which is true here.
    assertThat(noCodegen.classes()).isZero();
    // The JVM keeps what it has compiled.
    assertThat(again.classes()).isZero();
  }

  @Test
  void theSettingsChangeNoRow(SparkSession spark) throws Exception {
    List<Row> fast = FastLocalTests.mergeAndRead(spark, "fast", orders);
    spark.conf().set(SHUFFLE_PARTITIONS, "7");
    spark.conf().set(SNAPSHOT_PARTITIONS, "5");
    spark.conf().set("spark.sql.codegen.wholeStage", "true");
    spark.conf().set("spark.sql.codegen.factoryMode", "CODEGEN_ONLY");

    assertThat(FastLocalTests.mergeAndRead(spark, "slow", orders)).isEqualTo(fast);
    // 100 orders, of which 50 are changed, and 50 new ones without a status.
    assertThat(fast).hasSizeGreaterThan(4);
    assertThat(spark.table("fast")).hasSameRowsAs(spark.table("slow"));
    assertThat(spark.table("fast")).hasRowCount(150);
    assertThat(spark.table("fast").where("amount = 1")).hasRowCount(100);
  }

  @Test
  void anIsolatedSessionHasItsOwnSettingsAndViewsAndTheSameContext(SparkSession spark) {
    spark.conf().set(SHUFFLE_PARTITIONS, "9");
    orders.createOrReplaceTempView("mine");
    orders.write().format("delta").saveAsTable("ours");

    SparkSession other = FastLocalTests.isolated(spark);

    assertThat(other.sparkContext()).isSameAs(spark.sparkContext());
    assertThat(other.conf().get(SHUFFLE_PARTITIONS)).isEqualTo("2");
    other.conf().set(SHUFFLE_PARTITIONS, "3");
    assertThat(spark.conf().get(SHUFFLE_PARTITIONS)).isEqualTo("9");
    assertThat(other.catalog().tableExists("mine")).isFalse();
    assertThat(other.table(spark.catalog().currentDatabase() + ".ours")).hasRowCount(100);
  }

  @Test
  void aSettingIsPutBackAlsoWhenTheWorkFails(SparkSession spark) {
    String unset = "spark.lakehouse.unset";
    assertThat(
            FastLocalTests.withSetting(
                spark, SHUFFLE_PARTITIONS, "5", () -> spark.conf().get(SHUFFLE_PARTITIONS)))
        .isEqualTo("5");
    assertThat(spark.conf().get(SHUFFLE_PARTITIONS)).isEqualTo("2");

    assertThatThrownBy(
            () ->
                FastLocalTests.withSetting(
                    spark,
                    unset,
                    "1",
                    () -> {
                      throw new IllegalStateException("on purpose");
                    }))
        .hasMessage("on purpose");
    assertThat(spark.conf().getOption(unset).isEmpty()).isTrue();
  }

  @Test
  void theRunningSessionIsTheSession(SparkSession spark) {
    assertThat(IntStream.range(0, 3).mapToObj(i -> FastLocalTests.session()).distinct())
        .containsExactly(spark);
  }

  @Test
  void aSessionThatIsStoppedMakesANewContextAndTheUiListensOnlyIfAsked() throws Exception {
    List<SessionStarts.Started> starts = SessionStarts.run();

    assertThat(starts)
        .extracting(SessionStarts.Started::way)
        .containsExactly("new", "reused", "after stop", "with UI");
    assertThat(starts.stream().map(SessionStarts.Started::application).distinct()).hasSize(3);
    assertThat(starts.get(1).application()).isEqualTo(starts.get(0).application());
    assertThat(starts)
        .extracting(SessionStarts.Started::ui)
        .containsExactly(false, false, false, true);
  }
}
