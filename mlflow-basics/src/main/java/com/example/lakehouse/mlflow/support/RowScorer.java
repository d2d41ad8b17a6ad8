package com.example.lakehouse.mlflow.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.ZoneId;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.AttributeReference;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.catalyst.expressions.InterpretedProjection;
import org.apache.spark.sql.catalyst.expressions.NamedExpression;
import org.apache.spark.sql.catalyst.expressions.Nondeterministic;
import org.apache.spark.sql.catalyst.expressions.Unevaluable;
import org.apache.spark.sql.catalyst.optimizer.ReplaceExpressions;
import org.apache.spark.sql.catalyst.plans.logical.LocalRelation;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.plans.logical.Project;
import org.apache.spark.sql.catalyst.plans.logical.SubqueryAlias;
import org.apache.spark.sql.catalyst.plans.logical.View;
import org.apache.spark.sql.classic.Dataset;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;

/**
 * A Spark pipeline as a function of one row, evaluated in the calling thread: no job, no plan per
 * call.
 *
 * <p>What a pipeline does to a row is what its plan says. It is analysed once, over an empty table;
 * a plan of projections alone is then evaluated by Spark's own interpreter, so each value is the
 * one that a job would have. A pipeline with anything else in its plan, such as a filter or a join,
 * is refused when it is loaded.
 */
public final class RowScorer {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final String PREDICTION = "prediction";

  /** In single quotes, in which a quote is doubled and a line may be folded. */
  private static final Pattern INPUTS = Pattern.compile("(?m)^ +inputs: '((?:[^']|'')*)'");

  private static final Pattern MLFLOW_VERSION = Pattern.compile("(?m)^mlflow_version: (\\S+)$");

  private final StructType inputs;
  private final ZoneId zone;
  private final String mlflowVersion;

  /** Expressions keep state while they are evaluated, so one thread at a time has each. */
  private final BlockingQueue<Steps> free;

  /** One projection after another, and where in the last one's row the prediction is. */
  private record Steps(List<InterpretedProjection> projections, int prediction) {
    double apply(Object[] values) {
      InternalRow row = new GenericInternalRow(values);
      for (InterpretedProjection projection : projections) {
        row = projection.apply(row);
      }
      if (row.isNullAt(prediction)) {
        throw new IllegalArgumentException("the model has no prediction for this row");
      }
      return row.getDouble(prediction);
    }
  }

  private RowScorer(
      StructType inputs, ZoneId zone, String mlflowVersion, BlockingQueue<Steps> free) {
    this.inputs = inputs;
    this.zone = zone;
    this.mlflowVersion = mlflowVersion;
    this.free = free;
  }

  /**
   * Loads a pipeline that was saved as an MLflow model, for rows as its signature has them.
   *
   * @param folder with {@code MLmodel} and {@code sparkml}
   * @throws IllegalArgumentException if a row's prediction takes more than that row: see {@link
   *     #of}
   */
  public static RowScorer load(SparkSession spark, Path folder) {
    try {
      String mlmodel = Files.readString(folder.resolve("MLmodel"));
      Matcher version = MLFLOW_VERSION.matcher(mlmodel);
      return of(
          spark,
          PipelineModel.load(folder.resolve("sparkml").toUri().toString()),
          signature(mlmodel),
          version.find() ? version.group(1) : "unknown");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * @param inputs the columns of a row
   * @throws IllegalArgumentException if the pipeline does more than projections, or has one that is
   *     not a function of the row, or no {@code prediction DOUBLE}
   */
  static RowScorer of(
      SparkSession spark, PipelineModel model, StructType inputs, String mlflowVersion) {
    int threads = Runtime.getRuntime().availableProcessors();
    BlockingQueue<Steps> free = new ArrayBlockingQueue<>(threads);
    for (int i = 0; i < threads; i++) {
      free.add(steps(spark, model, inputs));
    }
    ZoneId zone = ZoneId.of(spark.conf().get("spark.sql.session.timeZone"));
    return new RowScorer(inputs, zone, mlflowVersion, free);
  }

  private static StructType signature(String mlmodel) throws IOException {
    Matcher inputs = INPUTS.matcher(mlmodel);
    if (!inputs.find()) {
      throw new IllegalArgumentException("the model has no signature with inputs");
    }
    String json = inputs.group(1).replace("''", "'").replaceAll("\\s*\\n\\s*", " ");
    List<StructField> fields = new ArrayList<>();
    for (JsonNode column : JSON.readTree(json)) {
      if (!column.hasNonNull("name") || !column.path("required").asBoolean(true)) {
        throw new IllegalArgumentException("not a named, required column: " + column);
      }
      String name = column.path("name").asText();
      fields.add(DataTypes.createStructField(name, type(name, column.path("type").asText()), true));
    }
    return DataTypes.createStructType(fields);
  }

  private static DataType type(String name, String mlflow) {
    return switch (mlflow) {
      case "boolean" -> DataTypes.BooleanType;
      case "integer" -> DataTypes.IntegerType;
      case "long" -> DataTypes.LongType;
      case "float" -> DataTypes.FloatType;
      case "double" -> DataTypes.DoubleType;
      case "string" -> DataTypes.StringType;
      case "datetime" -> DataTypes.TimestampType;
      default ->
          throw new IllegalArgumentException(
              "column %s of type %s is not served here".formatted(name, mlflow));
    };
  }

  private static Steps steps(SparkSession spark, PipelineModel model, StructType inputs) {
    Dataset<Row> scored =
        (Dataset<Row>) model.transform(spark.createDataFrame(List.<Row>of(), inputs));
    StructType outputs = scored.schema();
    int prediction = List.of(outputs.fieldNames()).indexOf(PREDICTION);
    if (prediction < 0 || !outputs.fields()[prediction].dataType().equals(DataTypes.DoubleType)) {
      throw new IllegalArgumentException("the model has no column prediction of type DOUBLE");
    }
    Deque<InterpretedProjection> projections = new ArrayDeque<>();
    LogicalPlan plan = ReplaceExpressions.apply(scored.queryExecution().analyzed());
    while (!(plan instanceof LocalRelation)) {
      if (plan instanceof Project project) {
        List<NamedExpression> columns = asJava(project.projectList());
        columns.forEach(column -> check((Expression) column));
        @SuppressWarnings({"unchecked", "rawtypes"})
        scala.collection.immutable.Seq<Expression> expressions =
            (scala.collection.immutable.Seq) project.projectList();
        projections.addFirst(new InterpretedProjection(expressions, project.child().output()));
      } else if (!(plan instanceof SubqueryAlias || plan instanceof View)) {
        throw new IllegalArgumentException(
            "the model needs more than one row at a time, or leaves rows out: its plan has a "
                + plan.nodeName());
      }
      plan = asJava(plan.children()).get(0);
    }
    return new Steps(List.copyOf(projections), prediction);
  }

  /** What is evaluated must be a function of the row, and nothing else. */
  private static void check(Expression expression) {
    if (expression instanceof AttributeReference) {
      return;
    }
    // Spark ML marks functions of its own, such as VectorAssembler's, as not deterministic, so that
    // they are called once: that is no reason. rand() is, and so is a number of the row.
    if (expression instanceof Unevaluable || expression instanceof Nondeterministic) {
      throw new IllegalArgumentException(
          "the model has an expression that is not a function of the row: " + expression.sql());
    }
    asJava(expression.children()).forEach(RowScorer::check);
  }

  /**
   * The columns that a row has. Values are Spark's internal ones: {@code UTF8String} for a STRING,
   * microseconds since 1970 for a TIMESTAMP.
   */
  StructType inputs() {
    return inputs;
  }

  /** Of dates and times: the session's, which the pipeline takes months and hours by. */
  ZoneId zone() {
    return zone;
  }

  /** Of the MLflow that the model was written for. */
  String mlflowVersion() {
    return mlflowVersion;
  }

  /**
   * One prediction for each row, in their order.
   *
   * @param rows values in the order of {@link #inputs}
   * @throws RuntimeException what a stage says of a row that it does not take
   */
  double[] predict(List<Object[]> rows) throws InterruptedException {
    Steps steps = free.take();
    try {
      return rows.stream().mapToDouble(steps::apply).toArray();
    } finally {
      free.add(steps);
    }
  }
}
