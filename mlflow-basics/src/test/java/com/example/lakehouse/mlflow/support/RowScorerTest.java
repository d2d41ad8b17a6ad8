package com.example.lakehouse.mlflow.support;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.testing.SparkTest;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
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
import org.apache.spark.unsafe.types.UTF8String;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

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
    return RowScorer.of(spark, model, rows(spark).drop("label").schema(), "3.17.2");
  }

  private static void assertSame(SparkSession spark, PipelineModel model)
      throws InterruptedException {
    List<Object[]> values = new ArrayList<>();
    for (Row row : rows(spark).collectAsList()) {
      values.add(new Object[] {UTF8String.fromString(row.getString(0)), row.getDouble(1)});
    }
    List<Double> expected =
        model
            .transform(rows(spark))
            .orderBy("label")
            .select("prediction")
            .as(Encoders.DOUBLE())
            .collectAsList();

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
            sql("SELECT *, CAST(label > 12 AS DOUBLE) AS y FROM __THIS__"),
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
                SELECT *, nvl(nullif(size, 3D), -1D) + length(left(colour, 3)) AS prediction
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
  void aStageThatLeavesRowsOutIsRefusedWhenItIsLoaded(SparkSession spark) {
    PipelineModel model =
        pipeline(rows(spark), indexer("skip"), sql("SELECT *, index AS prediction FROM __THIS__"));

    assertThatIllegalArgumentException()
        .isThrownBy(() -> scorer(spark, model))
        .withMessageContaining("leaves rows out: its plan has a Filter");
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
        .hasMessage("the model has no prediction for this row");
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
    pipeline(rows(spark), sql("SELECT *, size AS prediction FROM __THIS__"))
        .save(folder.resolve("sparkml").toUri().toString());
    Files.writeString(folder.resolve("MLmodel"), "signature:\n  inputs: '" + inputs + "'\n");

    assertThatIllegalArgumentException()
        .isThrownBy(() -> RowScorer.load(spark, folder))
        .withMessageContaining(reason);
  }

  @Test
  void aSignatureThatMlflowFoldedOverLinesIsRead(SparkSession spark, @TempDir Path folder)
      throws Exception {
    pipeline(rows(spark), sql("SELECT *, size AS prediction FROM __THIS__"))
        .save(folder.resolve("sparkml").toUri().toString());
    Files.writeString(
        folder.resolve("MLmodel"),
        """
        mlflow_version: 3.17.2
        signature:
          inputs: '[{"type": "double", "name": "size", "required": true}, {"type": "string",
            "name": "it''s", "required": true}]'
          outputs: null
        """);

    RowScorer scorer = RowScorer.load(spark, folder);

    assertThat(scorer.inputs().simpleString()).isEqualTo("struct<size:double,it's:string>");
    assertThat(scorer.mlflowVersion()).isEqualTo("3.17.2");
    assertThat(scorer.predict(List.<Object[]>of(new Object[] {2.5, null}))).containsExactly(2.5);
  }
}
