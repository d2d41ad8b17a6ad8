package com.example.lakehouse.mlflow.support;

import static scala.jdk.javaapi.CollectionConverters.asJava;
import static scala.jdk.javaapi.CollectionConverters.asScala;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.dataformat.yaml.YAMLMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.time.ZoneId;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.param.ParamMap;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.Attribute;
import org.apache.spark.sql.catalyst.expressions.AttributeReference;
import org.apache.spark.sql.catalyst.expressions.ExprId;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.catalyst.expressions.InterpretedProjection;
import org.apache.spark.sql.catalyst.expressions.NamedExpression;
import org.apache.spark.sql.catalyst.expressions.ScalaUDF;
import org.apache.spark.sql.catalyst.expressions.Unevaluable;
import org.apache.spark.sql.catalyst.optimizer.ReplaceExpressions;
import org.apache.spark.sql.catalyst.optimizer.RewriteWithExpression;
import org.apache.spark.sql.catalyst.plans.logical.LocalRelation;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.plans.logical.Project;
import org.apache.spark.sql.catalyst.plans.logical.SubqueryAlias;
import org.apache.spark.sql.catalyst.plans.logical.View;
import org.apache.spark.sql.catalyst.trees.TreePattern;
import org.apache.spark.sql.catalyst.util.DateTimeUtils;
import org.apache.spark.sql.classic.Dataset;
import org.apache.spark.sql.types.DataType;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructField;
import org.apache.spark.sql.types.StructType;
import scala.collection.immutable.Seq;

/**
 * A Spark pipeline as a function of one row, evaluated in the calling thread: no job, no plan per
 * call.
 *
 * <p>What a pipeline does to a row is what its plan says. It is analysed once, over an empty table;
 * a plan of projections alone is then evaluated by Spark's own interpreter, as far as the
 * prediction needs it, so its value is the one that a job would have. A pipeline with anything else
 * in its plan, such as a filter or a join, is refused when it is loaded. {@code DATE'today'} is a
 * day like any other: the one on which it is loaded.
 */
public final class RowScorer {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final String PREDICTION = "prediction";

  /** The package of Spark's own stages. */
  private static final String SPARK_ML = "org.apache.spark.ml.";

  private final SparkSession spark;
  private final StructType inputs;
  private final ZoneId zone;
  private final String mlflowVersion;

  /** Expressions, and some models, keep state while they are evaluated: one thread has each. */
  private final BlockingQueue<Steps> free;

  /** One projection after another; the last one's row is the prediction. */
  private record Steps(List<InterpretedProjection> projections) {
    double apply(Object[] values) {
      InternalRow row = new GenericInternalRow(values);
      for (InterpretedProjection projection : projections) {
        row = projection.apply(row);
      }
      if (row.isNullAt(0)) {
        throw new IllegalArgumentException("it has no prediction");
      }
      return row.getDouble(0);
    }
  }

  private RowScorer(
      SparkSession spark,
      StructType inputs,
      ZoneId zone,
      String mlflowVersion,
      BlockingQueue<Steps> free) {
    this.spark = spark;
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
      JsonNode mlmodel = new YAMLMapper().readTree(folder.resolve("MLmodel").toFile());
      return of(
          spark,
          PipelineModel.load(folder.resolve("sparkml").toUri().toString()),
          signature(mlmodel),
          mlmodel.path("mlflow_version").asText("unknown"));
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
      // A copy for each: a network's layers are fields of its model.
      free.add(steps(spark, model.copy(ParamMap.empty()), inputs));
    }
    ZoneId zone = DateTimeUtils.getZoneId(spark.conf().get("spark.sql.session.timeZone"));
    return new RowScorer(spark, inputs, zone, mlflowVersion, free);
  }

  private static StructType signature(JsonNode mlmodel) throws IOException {
    // JSON in a text, within YAML.
    String inputs = mlmodel.at("/signature/inputs").asText("");
    if (inputs.isEmpty()) {
      throw new IllegalArgumentException("the model has no signature with inputs");
    }
    List<StructField> fields = new ArrayList<>();
    for (JsonNode column : JSON.readTree(inputs)) {
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
    List<StructField> outputs = List.of(scored.schema().fields());
    if (outputs.stream()
        .noneMatch(f -> f.name().equals(PREDICTION) && f.dataType().equals(DataTypes.DoubleType))) {
      throw new IllegalArgumentException("the model has no column prediction of type DOUBLE");
    }
    // What the optimizer does to expressions that cannot be evaluated as they are, such as nullif.
    LogicalPlan plan =
        RewriteWithExpression.apply(
            ReplaceExpressions.apply(scored.select(PREDICTION).queryExecution().analyzed()));
    Deque<List<NamedExpression>> levels = new ArrayDeque<>();
    Set<ExprId> needed = new HashSet<>(List.of(plan.output().head().exprId()));
    while (!(plan instanceof LocalRelation)) {
      if (plan instanceof Project project) {
        List<NamedExpression> columns =
            asJava(project.projectList()).stream()
                .filter(column -> needed.contains(column.exprId()))
                .toList();
        needed.clear();
        for (NamedExpression column : columns) {
          check((Expression) column);
          asJava(((Expression) column).references().toSeq())
              .forEach(attribute -> needed.add(attribute.exprId()));
        }
        levels.addFirst(columns);
      } else if (!(plan instanceof SubqueryAlias || plan instanceof View)) {
        throw new IllegalArgumentException(
            "the model needs more than one row at a time, or leaves rows out: its plan has a "
                + plan.nodeName());
      }
      plan = asJava(plan.children()).get(0);
    }
    List<InterpretedProjection> projections = new ArrayList<>();
    Seq<Attribute> row = plan.output();
    for (List<NamedExpression> columns : levels) {
      List<Expression> expressions = columns.stream().map(Expression.class::cast).toList();
      projections.add(new InterpretedProjection(asScala(expressions).toSeq(), row));
      row = asScala(columns.stream().map(NamedExpression::toAttribute).toList()).toSeq();
    }
    return new Steps(projections);
  }

  /** What is evaluated must be a function of the row, and nothing else. */
  private static void check(Expression expression) {
    if (expression instanceof AttributeReference) {
      return;
    }
    List<Expression> children = asJava(expression.children());
    if (expression instanceof Unevaluable
        // The time, the user, the catalog.
        || expression.containsPattern(TreePattern.CURRENT_LIKE())
        || isRandom(expression, children)) {
      throw new IllegalArgumentException(
          "the model has an expression that is not a function of the row: " + expression.sql());
    }
    children.forEach(RowScorer::check);
  }

  /** By itself, not for what is below it. */
  private static boolean isRandom(Expression expression, List<Expression> children) {
    if (expression instanceof ScalaUDF udf) {
      // Functions of Spark's own stages are marked as not deterministic so that they are called
      // once, such as VectorAssembler's: that is no reason.
      return !udf.udfDeterministic() && !udf.function().getClass().getName().startsWith(SPARK_ML);
    }
    return !expression.deterministic() && children.stream().allMatch(Expression::deterministic);
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
   * @throws IllegalArgumentException if a stage does not take a row, with what it says
   */
  double[] predict(List<Object[]> rows) throws InterruptedException {
    Steps steps = free.take();
    try {
      // Expressions ask the thread's session for its settings.
      return spark.withActive(() -> predict(steps, rows));
    } finally {
      free.add(steps);
    }
  }

  private static double[] predict(Steps steps, List<Object[]> rows) {
    double[] predictions = new double[rows.size()];
    for (int i = 0; i < predictions.length; i++) {
      try {
        predictions[i] = steps.apply(rows.get(i));
      } catch (Exception e) {
        // Also checked ones: Scala throws them undeclared.
        Throwable root = e;
        while (root.getCause() != null) {
          root = root.getCause();
        }
        String reason = root.getMessage() == null ? root.toString() : root.getMessage();
        throw new IllegalArgumentException(
            "The model does not take row %d: %s".formatted(i, reason), e);
      }
    }
    return predictions;
  }
}
