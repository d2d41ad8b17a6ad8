package com.example.lakehouse.optimization;

import static org.apache.spark.sql.functions.col;
import static scala.jdk.javaapi.CollectionConverters.asJava;

import com.example.lakehouse.common.Chart;
import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.QueryProfile;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.optimization.support.Measured;
import com.example.lakehouse.optimization.support.Room;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.execution.ExplainMode;
import org.apache.spark.sql.execution.InputAdapter;
import org.apache.spark.sql.execution.QueryExecution;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.WholeStageCodegenExec;
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec;
import org.apache.spark.sql.execution.adaptive.QueryStageExec;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.util.QueryExecutionListener;

/**
 * Reading a plan: what one query was going to do, what it did in the end, and how many rows went
 * through each of its operators.
 *
 * <p>Run: {@code ./run ReadingPlans}, or Run in the IDE; no JVM flags, no setup; 200,000 orders of
 * 600,000 items, {@code --scale} for more.
 *
 * <p>See: the plan before and after the query has run, from the bottom up; where filters, joins and
 * exchanges stand; the metrics of each operator; which actions leave the plan as it was.
 *
 * <p>On Databricks: the same code on classic compute; {@code EXPLAIN FORMATTED} also on serverless
 * compute and SQL warehouses, where the query profile shows the metrics.
 *
 * @see <a href="https://spark.apache.org/docs/latest/sql-ref-syntax-qry-explain.html">Spark SQL:
 *     EXPLAIN</a>
 */
public final class ReadingPlans {
  private static final int FIELDS = 8;

  private ReadingPlans() {}

  /**
   * The query of the tour: what business customers spent from December on.
   *
   * @return {@code country STRING, orders BIGINT, revenue DECIMAL(22,2)}, the highest revenue
   *     first, of the tables or views {@code orders (customer_id, order_date, amount)} and {@code
   *     customers (customer_id, country, segment)}
   */
  public static Dataset<Row> revenueByCountry(SparkSession spark) {
    return spark.sql(
        """
        SELECT c.country, count(*) AS orders, sum(o.amount) AS revenue
        FROM orders AS o
        JOIN customers AS c ON c.customer_id = o.customer_id
        WHERE o.order_date >= DATE'2025-12-01' AND c.segment = 'business'
        GROUP BY c.country
        ORDER BY revenue DESC
        """);
  }

  /**
   * What {@code EXPLAIN FORMATTED} says: a tree of numbered operators, and a paragraph about each.
   * It runs nothing. After {@link Dataset#collectAsList} it has the final plan and the initial one;
   * {@code query.explain("formatted")} prints the same.
   */
  public static String formatted(Dataset<?> query) {
    return query.queryExecution().explainString(ExplainMode.fromString("formatted"));
  }

  /** The plan before the first task: what the optimizer made of estimates. */
  public static SparkPlan initialPlan(Dataset<?> query) {
    SparkPlan plan = query.queryExecution().executedPlan();
    return plan instanceof AdaptiveSparkPlanExec adaptive ? adaptive.initialPlan() : plan;
  }

  /**
   * The plan after the last task: what adaptive execution made of sizes that it measured. A query
   * without a shuffle, a broadcast or a subquery has one plan only.
   *
   * @throws IllegalStateException if it has not run to its end on this very Dataset, as {@code
   *     collectAsList} does; {@code count}, {@code show}, {@code take} and {@code write} run plans
   *     of their own
   */
  public static SparkPlan finalPlan(Dataset<?> query) {
    SparkPlan plan = query.queryExecution().executedPlan();
    if (plan instanceof AdaptiveSparkPlanExec adaptive) {
      if (!adaptive.isFinalPlan()) {
        throw new IllegalStateException("no final plan: call collectAsList() on this Dataset");
      }
      return adaptive.executedPlan();
    }
    return plan;
  }

  /**
   * The operators from the bottom up, in the order in which rows pass through them.
   *
   * @return {@code step INT, operator STRING, rows_out BIGINT}; the operator is indented by its
   *     depth; null rows where it does not count any, 0 before it has run
   */
  public static Dataset<Row> operators(SparkSession spark, SparkPlan plan) {
    List<Row> rows = new ArrayList<>();
    for (Node node : bottomUp(plan, 0)) {
      if (!(node.operator() instanceof WholeStageCodegenExec)) {
        // Without the numbers that tell columns of the same name apart.
        String line = node.operator().simpleString(FIELDS).replaceAll("#\\d+L?", "");
        Map<String, SQLMetric> metrics = asJava(node.operator().metrics());
        SQLMetric rowsOut =
            metrics.getOrDefault("numOutputRows", metrics.get("shuffleRecordsWritten"));
        rows.add(
            RowFactory.create(
                rows.size() + 1,
                "  ".repeat(node.depth()) + line,
                rowsOut == null ? null : rowsOut.value()));
      }
    }
    return spark.createDataFrame(
        rows, StructType.fromDDL("step INT, operator STRING, rows_out BIGINT"));
  }

  /**
   * All metrics of all operators, by the names that Spark's UI has for them.
   *
   * @return {@code step INT, operator STRING, metric STRING, value BIGINT, type STRING}; the step
   *     is that of {@link #operators}, the time of generated code being with the last operator in
   *     it; a type is {@code sum}, {@code size} in bytes, {@code timing} in milliseconds, {@code
   *     nsTiming} in nanoseconds, or {@code average}, ten times too high
   */
  public static Dataset<Row> metrics(SparkSession spark, SparkPlan plan) {
    List<Row> rows = new ArrayList<>();
    int step = 0;
    for (Node node : bottomUp(plan, 0)) {
      SparkPlan operator = node.operator();
      step += operator instanceof WholeStageCodegenExec ? 0 : 1;
      for (SQLMetric metric : asJava(operator.metrics()).values()) {
        rows.add(
            RowFactory.create(
                step,
                operator.nodeName(),
                metric.name().get(),
                metric.value(),
                metric.metricType()));
      }
    }
    return spark.createDataFrame(
        rows,
        StructType.fromDDL("step INT, operator STRING, metric STRING, value BIGINT, type STRING"));
  }

  /**
   * Hands on the plan of each action that has ended, such as {@code count} or a write, which no
   * Dataset keeps. Register it with {@code spark.listenerManager()}; it is called a little later,
   * on a thread of Spark's.
   *
   * @param plans takes the name of the action and its final plan; it must run no query, which would
   *     call it again and again
   */
  public static QueryExecutionListener plansOfActions(BiConsumer<String, SparkPlan> plans) {
    return new QueryExecutionListener() {
      @Override
      public void onSuccess(String action, QueryExecution execution, long nanos) {
        plans.accept(action, execution.executedPlan());
      }

      @Override
      public void onFailure(String action, QueryExecution execution, Exception error) {}
    };
  }

  private record Node(int depth, SparkPlan operator) {}

  /** Without the nodes that only hold others. */
  private static List<Node> bottomUp(SparkPlan plan, int depth) {
    if (plan instanceof AdaptiveSparkPlanExec adaptive) {
      return bottomUp(adaptive.executedPlan(), depth);
    } else if (plan instanceof QueryStageExec stage) {
      return bottomUp(stage.plan(), depth);
    } else if (plan instanceof InputAdapter) {
      return bottomUp(plan.children().head(), depth);
    }
    int below = plan instanceof WholeStageCodegenExec ? depth : depth + 1;
    List<Node> nodes = new ArrayList<>();
    asJava(plan.children()).forEach(child -> nodes.addAll(bottomUp(child, below)));
    asJava(plan.subqueries()).forEach(subquery -> nodes.addAll(bottomUp(subquery, below)));
    nodes.add(new Node(depth, plan));
    return nodes;
  }

  private static Dataset<Row> lines(SparkSession spark, String column, Stream<String> lines) {
    return spark.createDataFrame(
        lines.<Row>map(RowFactory::create).toList(), new StructType().add(column, "string"));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ReadingPlans.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Measured.generateCode(spark);
          SampleData data = Room.sampleData(notebook, 600_000, 40, 8);
          data.orders().write().format("delta").saveAsTable("orders");
          data.customers().write().format("delta").saveAsTable("customers");
          // As if the customers were too many to be broadcast by an estimate; what is measured at
          // run time may be.
          spark.conf().set("spark.sql.autoBroadcastJoinThreshold", "-1");
          spark.conf().set("spark.sql.adaptive.autoBroadcastJoinThreshold", "10MB");
          spark.conf().set("spark.sql.shuffle.partitions", "8");

          notebook.step("Before it runs: EXPLAIN FORMATTED");
          notebook.text(
              "%,d orders of %,d customers. The query adds up what business customers spent from"
                  + " December on, by country, the highest sum first. EXPLAIN runs nothing: this is"
                  + " what Spark intends.",
              data.orderCount(), data.customerCount());
          Dataset<Row> query = revenueByCountry(spark);
          String formatted = formatted(query);
          notebook.table(
              "the tree", lines(spark, "operator", formatted.lines().takeWhile(l -> !l.isBlank())));
          notebook.text(
              "Read it from the bottom. The leaves are the scans; each operator takes the rows of"
                  + " those below it, and an operator with two branches is a join. The numbers in"
                  + " brackets lead to a paragraph about each, here without the columns' ids.");
          notebook.table(
              "some of the paragraphs",
              lines(
                  spark,
                  "paragraph",
                  Arrays.stream(formatted.split("\n\n", -1))
                      .map(String::strip)
                      .filter(p -> p.matches("(?s)\\(\\d+\\) (Scan|Filter|Sort|Exchange).*"))
                      .map(p -> p.replaceAll("#\\d+L?|(?m)^Location.*\n|, \\[plan_id=\\d+]", ""))));
          notebook.text(
              "PushedFilters and ReadSchema: what the scan is told, so that it may leave out files,"
                  + " row groups and columns. Filter: applied to what the scan gives, again in"
                  + " full. Exchange: the rows go over the network to another task, by a hash of"
                  + " the key or in ranges; ENSURE_REQUIREMENTS says that Spark put it there. Sort:"
                  + " a sort-merge join needs one on each side.");

          notebook.step("After it has run: the final plan");
          notebook.table("its result", query);
          query.collectAsList();
          notebook.table("initial plan", operators(spark, initialPlan(query)).drop("rows_out"));
          // Without a step that is above every scan, so that the table shows the plan to its top.
          notebook.table(
              "final plan",
              operators(spark, finalPlan(query)).where("operator NOT LIKE '%ColumnarToRow%'"));
          notebook.text(
              "These tables begin at the bottom: step 1 is the first scan, the last step gives the"
                  + " result. Adaptive execution runs the plan up to the exchanges, measures what"
                  + " they wrote, and plans the rest again. The customers came in far below 10 MB,"
                  + " so that the join is a broadcast after all, without sorts. AQEShuffleRead says"
                  + " how an exchange is read: coalesced is several small partitions by one task,"
                  + " local is without going over the network.");

          notebook.step("Rows: where they become fewer");
          Chart rows = new Chart("rows that each operator gives, from the bottom up", "rows");
          for (Row step :
              operators(spark, finalPlan(query))
                  .where("rows_out IS NOT NULL AND operator NOT LIKE '%ColumnarToRow%'")
                  .collectAsList()) {
            String name = step.<String>getAs("operator").strip().split("[ (\\[]", 2)[0];
            rows.bar(step.getAs("step") + " " + name, step.<Long>getAs("rows_out"));
          }
          notebook.chart(rows);
          notebook.text(
              "The filters stand right above the scans: that is where they should be. The second"
                  + " HashAggregate gives twice the number of countries: to find the ranges of its"
                  + " sort, Spark runs what is below the last Exchange once for a sample, and once"
                  + " for good. A metric counts all that was done, also what was done twice.");

          notebook.step("All metrics");
          notebook.table(
              "of the scans and the exchanges, without times and zeros",
              metrics(spark, finalPlan(query))
                  .where("value > 0 AND type IN ('sum', 'size')")
                  .where("operator LIKE 'Scan%' OR operator LIKE '%Exchange'")
                  .where("metric NOT LIKE '%block%' AND metric <> 'number of partitions'")
                  .withColumn("operator", col("operator").substr(1, 18)));

          notebook.step("The same query by its initial plan");
          Map<String, QueryProfile> profiles = new LinkedHashMap<>();
          Map<String, Dataset<Row>> both = new LinkedHashMap<>();
          for (boolean adaptive : new boolean[] {false, true}) {
            String name = adaptive ? "final plan" : "initial plan";
            spark.conf().set("spark.sql.adaptive.enabled", adaptive);
            Dataset<Row> again = revenueByCountry(spark);
            both.put(name, spark.createDataFrame(again.collectAsList(), again.schema()));
            profiles.put(name, QueryProfile.of(again));
          }
          notebook.text("The same %d rows come out.", Measured.sameRows(both));
          notebook.profiles("without and with adaptive execution", profiles);

          notebook.step("Plans that do not tell");
          List<Row> told = new ArrayList<>();
          Map<String, Consumer<Dataset<Row>>> actions = new LinkedHashMap<>();
          actions.put("count()", Dataset::count);
          actions.put("takeAsList(5)", d -> d.takeAsList(5));
          actions.put("write", d -> d.write().format("noop").mode("overwrite").save());
          actions.put("collectAsList()", Dataset::collectAsList);
          actions.forEach(
              (name, action) -> {
                Dataset<Row> fresh = revenueByCountry(spark);
                action.accept(fresh);
                told.add(
                    RowFactory.create(
                        name, formatted(fresh).contains("isFinalPlan=true") ? "final" : "initial"));
              });
          notebook.table(
              "what explain shows on the Dataset after the action",
              spark.createDataFrame(told, StructType.fromDDL("action STRING, plan STRING")));
          notebook.text(
              "count, take and write make a query of their own around that of the Dataset, which"
                  + " still shows what was intended, with every metric at 0. The UI's SQL tab, or a"
                  + " QueryExecutionListener as in the snippet, shows the plan that ran.");

          notebook.step("When not to");
          notebook.text(
              "A plan says what is done, not whether that is much: look at rows and bytes first,"
                  + " then at the operator where they are many. Do not compare times of operators:"
                  + " they run at the same time, in several tasks, in one generated function (the"
                  + " asterisk). Do not parse the text in a program: the operators' classes and"
                  + " metrics are there, but they are Spark's own and change from version to"
                  + " version, so keep such code in tests.");
        });
  }
}
