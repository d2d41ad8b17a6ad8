package com.example.lakehouse.mlflow.support;

import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.udf;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.classification.MultilayerPerceptronClassifier;
import org.apache.spark.ml.classification.RandomForestClassifier;
import org.apache.spark.ml.feature.OneHotEncoder;
import org.apache.spark.ml.feature.SQLTransformer;
import org.apache.spark.ml.feature.StandardScaler;
import org.apache.spark.ml.feature.StringIndexer;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.LinearRegression;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Encoders;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.api.java.UDF1;
import org.apache.spark.sql.expressions.UserDefinedFunction;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.unsafe.types.UTF8String;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class RowScorerTest {
  private static Dataset<Row> rows(SparkSession spark) {
    return spark.sql(
        """
        SELECT IF(id % 3 = 0, 'red', 'blue') AS colour, CAST(id AS DOUBLE) AS size, id AS label
        FROM range(30)
        """);
  }

  private static PipelineModel pipeline(Dataset<Row> rows, PipelineStage... stages) {
    return new Pipeline().setStages(stages).fit(rows);
  }

  private static PipelineStage sql(String statement) {
    return new SQLTransformer().setStatement(statement);
  }

  private static StringIndexer indexer(String handleInvalid) {
    return new StringIndexer()
        .setInputCol("colour")
        .setOutputCol("index")
        .setHandleInvalid(handleInvalid);
  }

  private static RowScorer scorer(SparkSession spark, PipelineModel model) {
    return RowScorer.of(spark, model, StructType.fromDDL("colour STRING, size DOUBLE"), "3.17.2");
  }

  private static List<Double> predictions(PipelineModel model, Dataset<Row> rows) {
    return model
        .transform(rows)
        .orderBy("label")
        .select("prediction")
        .as(Encoders.DOUBLE())
        .collectAsList();
  }

  private static RowScorer load(SparkSession spark, Path folder, String mlmodel)
      throws IOException {
    pipeline(rows(spark), sql("SELECT *, size AS prediction FROM __THIS__"))
        .save(folder.resolve("sparkml").toUri().toString());
    Files.writeString(folder.resolve("MLmodel"), mlmodel);
    return RowScorer.load(spark, folder);
  }

  private static void assertSame(SparkSession spark, PipelineModel model)
      throws InterruptedException {
    List<Object[]> values = new ArrayList<>();
    for (Row row : rows(spark).collectAsList()) {
      values.add(new Object[] {UTF8String.fromString(row.getString(0)), row.getDouble(1)});
    }
    List<Double> expected = predictions(model, rows(spark));

    assertThat(scorer(spark, model).predict(values))
        .containsExactly(expected.stream().mapToDouble(d -> d).toArray());
    assertThat(expected.stream().distinct().count()).isGreaterThan(1);
  }

  @Test
  void aRegressionOverEncodedAndScaledFeaturesPredictsWhatAJobDoes(SparkSession spark)
      throws InterruptedException {
    assertSame(
        spark,
        pipeline(
            rows(spark),
            indexer("keep"),
            new OneHotEncoder().setInputCol("index").setOutputCol("one_hot"),
            new VectorAssembler()
                .setInputCols(new String[] {"one_hot", "size"})
                .setOutputCol("unscaled"),
            new StandardScaler().setInputCol("unscaled").setOutputCol("features"),
            new LinearRegression().setMaxIter(5)));
  }

  @Test
  void aForestThatClassifiesPredictsWhatAJobDoes(SparkSession spark) throws InterruptedException {
    assertSame(
        spark,
        pipeline(
            rows(spark),
            sql("SELECT *, CAST(size > 12 AS DOUBLE) AS y FROM __THIS__"),
            new VectorAssembler().setInputCols(new String[] {"size"}).setOutputCol("features"),
            new RandomForestClassifier().setLabelCol("y").setNumTrees(3).setSeed(1)));
  }

  @Test
  void expressionsThatSparkReplacesBeforeItEvaluatesThemAreEvaluated(SparkSession spark)
      throws InterruptedException {
    assertSame(
        spark,
        pipeline(
            rows(spark),
            sql(
                """
                SELECT *, nvl(nullif(size, 3D), -1D) + length(left(colour, 3))
                  + IF(size + 1 BETWEEN 5 AND 9, 100, 0) AS prediction
                FROM __THIS__
                """)));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "SELECT *, size AS prediction FROM __THIS__ WHERE size > 1 | Filter",
        "SELECT sum(size) AS prediction FROM __THIS__ | Aggregate",
        "SELECT *, avg(size) OVER () AS prediction FROM __THIS__ | Window",
        "SELECT t.*, 1D AS prediction FROM __THIS__ t CROSS JOIN range(2) | Join",
        "SELECT *, size AS prediction FROM __THIS__ LIMIT 1 | Limit",
        "SELECT *, rand() AS prediction FROM __THIS__ | rand()",
        "SELECT *, CAST(year(current_date()) AS DOUBLE) AS prediction FROM __THIS__ |"
            + " current_date()",
        "SELECT *, CAST(length(current_user()) AS DOUBLE) AS prediction FROM __THIS__ |"
            + " current_user()",
        "SELECT *, (SELECT 1D) AS prediction FROM __THIS__ | function of the row",
        "SELECT * FROM __THIS__ | no column prediction",
        "SELECT *, 1 AS prediction FROM __THIS__ | no column prediction",
      })
  void whatIsMoreThanAFunctionOfARowIsRefusedWhenItIsLoaded(
      String statement, String reason, SparkSession spark) {
    PipelineModel model = pipeline(rows(spark), sql(statement));

    assertThatIllegalArgumentException()
        .isThrownBy(() -> scorer(spark, model))
        .withMessageContaining(reason);
  }

  @Test
  void aFunctionOfTheUsersIsCalledUnlessItIsNotDeterministic(SparkSession spark)
      throws InterruptedException {
    UserDefinedFunction twice = udf((UDF1<Double, Double>) size -> 2 * size, DataTypes.DoubleType);
    spark.udf().register("twice", twice);
    spark.udf().register("twice_or_so", twice.asNondeterministic());

    assertSame(
        spark, pipeline(rows(spark), sql("SELECT *, twice(size) AS prediction FROM __THIS__")));
    PipelineModel random =
        pipeline(rows(spark), sql("SELECT *, twice_or_so(size) AS prediction FROM __THIS__"));
    assertThatIllegalArgumentException()
        .isThrownBy(() -> scorer(spark, random))
        .withMessageContaining("not a function of the row: twice_or_so(size)");
  }

  @Test
  void aStageThatLeavesRowsOutIsRefusedWhenItIsLoaded(SparkSession spark) {
    PipelineModel model =
        pipeline(rows(spark), indexer("skip"), sql("SELECT *, index AS prediction FROM __THIS__"));

    assertThatIllegalArgumentException()
        .isThrownBy(() -> scorer(spark, model))
        .withMessageContaining("leaves rows out: its plan has a Filter");
  }

  @Test
  void whatThePredictionDoesNotNeedIsNotEvaluated(SparkSession spark) throws InterruptedException {
    // A row of size 0 would fail, and rand() would be refused.
    assertSame(
        spark,
        pipeline(
            rows(spark),
            indexer("error"),
            sql("SELECT *, 1 / size AS inverse, rand() AS random FROM __THIS__"),
            sql("SELECT *, size + 1 AS prediction FROM __THIS__")));
  }

  @Test
  void aNetworkAnswersEachThreadWithItsOwnRow(SparkSession spark) throws Exception {
    Dataset<Row> rows = rows(spark).withColumn("y", expr("DOUBLE(size > 14)"));
    PipelineModel model =
        pipeline(
            rows,
            new VectorAssembler().setInputCols(new String[] {"size"}).setOutputCol("features"),
            new MultilayerPerceptronClassifier()
                .setLabelCol("y")
                .setLayers(new int[] {1, 20, 20, 2})
                .setMaxIter(50)
                .setSeed(1));
    List<Double> expected = predictions(model, rows);
    assertThat(expected).contains(0.0, 1.0);
    RowScorer scorer = scorer(spark, model);
    ExecutorService pool = Executors.newFixedThreadPool(4);
    try {
      List<Callable<List<Double>>> threads = new ArrayList<>();
      for (int thread = 0; thread < 4; thread++) {
        threads.add(
            () -> {
              List<Double> got = new ArrayList<>();
              for (int i = 0; i < 30_000; i++) {
                Object[] row = {UTF8String.fromString("red"), (double) (i % 30)};
                got.add(scorer.predict(List.<Object[]>of(row))[0]);
              }
              return got;
            });
      }
      for (Future<List<Double>> got : pool.invokeAll(threads)) {
        for (int i = 0; i < 30_000; i++) {
          assertThat(got.get().get(i)).isEqualTo(expected.get(i % 30));
        }
      }
    } finally {
      pool.shutdownNow();
    }
  }

  @Test
  void aNullIsNullAsInAJob(SparkSession spark) throws Exception {
    RowScorer scorer =
        scorer(
            spark,
            pipeline(rows(spark), sql("SELECT *, nvl(size, -1D) AS prediction FROM __THIS__")));

    List<Object[]> rows =
        ScoringRequest.rows(
            "{\"instances\": [{\"colour\": null, \"size\": null}]}"
                .getBytes(StandardCharsets.UTF_8),
            scorer.inputs(),
            scorer.zone());
    assertThat(scorer.predict(rows)).containsExactly(-1);
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "2025-01-31",
        "2025-06-30 23:30:00",
        "2025-06-30T23:30:00.123456",
        // Between the two is no half past two on that day.
        "2025-03-09T02:30:00"
      })
  void aTimeIsOneOfTheSessionsZone(String time, SparkSession spark) throws Exception {
    String before = spark.conf().get("spark.sql.session.timeZone");
    try {
      for (String zone : List.of("UTC", "America/New_York", "Asia/Kolkata")) {
        spark.conf().set("spark.sql.session.timeZone", zone);
        String score = "CAST(unix_micros(at) + hour(at) * 1000 + day(at) AS DOUBLE) AS prediction";
        Dataset<Row> times = spark.sql("SELECT CAST('" + time + "' AS TIMESTAMP) AS at");
        PipelineModel model = pipeline(times, sql("SELECT *, " + score + " FROM __THIS__"));
        RowScorer scorer = RowScorer.of(spark, model, times.schema(), "3.17.2");

        List<Object[]> rows =
            ScoringRequest.rows(
                ("{\"instances\": [{\"at\": \"" + time + "\"}]}").getBytes(StandardCharsets.UTF_8),
                scorer.inputs(),
                scorer.zone());
        assertThat(scorer.predict(rows))
            .as(zone)
            .containsExactly(times.selectExpr(score).first().getDouble(0));
      }
    } finally {
      spark.conf().set("spark.sql.session.timeZone", before);
    }
  }

  @Test
  void settingsAreThoseOfTheSessionInAThreadThatHasNone(SparkSession spark) throws Exception {
    String setting = "spark.sql.legacy.timeParserPolicy";
    String before = spark.conf().get(setting);
    // The legacy parser takes what the other one has as an error: a day with one digit.
    spark.conf().set(setting, "LEGACY");
    try {
      RowScorer scorer =
          scorer(
              spark,
              pipeline(
                  rows(spark),
                  sql(
                      "SELECT *, DOUBLE(unix_timestamp(concat(colour, '/02/2025'), 'dd/MM/yyyy')) AS"
                          + " prediction FROM __THIS__")));
      double expected =
          spark
              .sql("SELECT DOUBLE(unix_timestamp('3/02/2025', 'dd/MM/yyyy'))")
              .first()
              .getDouble(0);
      double[] got = new double[1];
      Thread thread =
          new Thread(
              () -> {
                SparkSession.clearActiveSession();
                try {
                  Object[] row = {UTF8String.fromString("3"), 0.0};
                  got[0] = scorer.predict(List.<Object[]>of(row))[0];
                } catch (InterruptedException e) {
                  throw new IllegalStateException(e);
                }
              });
      thread.start();
      thread.join();
      assertThat(got).containsExactly(expected);
    } finally {
      spark.conf().set(setting, before);
    }
  }

  @Test
  void aRowWithoutAPredictionIsAnError(SparkSession spark) {
    RowScorer scorer =
        scorer(
            spark,
            pipeline(
                rows(spark),
                sql(
                    "SELECT *, IF(size > 1, size, CAST(NULL AS DOUBLE)) AS prediction FROM"
                        + " __THIS__")));

    assertThatThrownBy(() -> scorer.predict(List.<Object[]>of(new Object[] {null, 1.0})))
        .hasMessage("The model does not take row 0: it has no prediction");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "[{\"type\":\"binary\",\"required\":true,\"name\":\"a\"}] | column a of type binary",
        "[{\"type\":\"long\",\"required\":false,\"name\":\"a\"}] | not a named, required column",
        "[{\"type\":\"long\",\"required\":true}] | not a named, required column",
      })
  void aSignatureThatIsNotServedIsRefused(
      String inputs, String reason, SparkSession spark, @TempDir Path folder) throws Exception {
    assertThatIllegalArgumentException()
        .isThrownBy(() -> load(spark, folder, "signature:\n  inputs: '" + inputs + "'\n"))
        .withMessageContaining(reason);
  }

  @Test
  void aSignatureThatMlflowFoldedOverLinesIsRead(SparkSession spark, @TempDir Path folder)
      throws Exception {
    RowScorer scorer =
        load(
            spark,
            folder,
            """
        mlflow_version: 3.17.2
        signature:
          inputs: '[{"type": "double", "name": "size", "required": true}, {"type": "string",
            "name": "it''s", "required": true}]'
          outputs: null
        """);

    assertThat(scorer.inputs().simpleString()).isEqualTo("struct<size:double,it's:string>");
    assertThat(scorer.mlflowVersion()).isEqualTo("3.17.2");
    assertThat(scorer.predict(List.<Object[]>of(new Object[] {2.5, null}))).containsExactly(2.5);
  }
}
