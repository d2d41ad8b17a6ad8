package com.example.lakehouse.mlflow;

import static org.apache.spark.sql.functions.array;
import static org.apache.spark.sql.functions.broadcast;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.explode;
import static org.apache.spark.sql.functions.expr;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.nanvl;
import static org.apache.spark.sql.functions.percentile;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.when;

import com.example.lakehouse.common.Notebook;
import com.example.lakehouse.common.Plot;
import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.stream.IntStream;
import org.apache.spark.ml.Pipeline;
import org.apache.spark.ml.PipelineModel;
import org.apache.spark.ml.PipelineStage;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.tracking.MlflowClient;

/**
 * Drift: the day on which a model's inputs and predictions stop looking like those it was trained
 * on, by the population stability index.
 *
 * <p>Run: {@code ./run DriftMonitoring}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the index of three inputs and of the prediction on each of 20 days; nothing on 14 of
 * them, an alert on the 15th, on which prices double, and a smaller one when a new category comes;
 * how an index of too few rows looks like drift.
 *
 * <p>On Databricks: the same code, as a daily job over the table of predictions.
 *
 * @see <a href="https://mlflow.org/docs/latest/ml/tracking/">MLflow: tracking</a>
 */
public final class DriftMonitoring {
  /** A convention of credit scoring, not a law: below it, nothing has changed. */
  public static final double WATCH = 0.1;

  /** The same: from here on the population is another one. */
  public static final double DRIFT = 0.25;

  /** The day of the first alert, and what has drifted on it. */
  public static final String ALERT_DAY = "drift.day";

  public static final String ALERT_FEATURES = "drift.features";

  /**
   * The bin of a number: how many edges are below it, so that what is larger than all of the
   * reference has a bin of its own, as has what is smaller. A category is a bin; what is missing,
   * or NaN, is one too. The first edge is the smallest value; a value that so many rows have that
   * it is two edges has a bin of its own.
   */
  private static final String BIN =
      """
      CASE WHEN number < edges[0] THEN 'below'
           WHEN number IS NOT NULL THEN concat(
             'bin ',
             coalesce(array_size(filter(slice(edges, 2, size(edges)), edge -> edge < number)), 0))
           WHEN category IS NOT NULL THEN concat('is ', category)
           ELSE 'missing' END
      """;

  /**
   * The sum of (p - q) · ln(p / q) over all bins, with p the day's share and q the reference's. An
   * empty bin would make it infinite: a share counts as 0.0001 at least. The bins are sorted, so
   * that the sum is always the same one.
   */
  private static final String PSI =
      """
      aggregate(
        transform(
          array_sort(array_union(map_keys(reference_counts), map_keys(counts))),
          bin -> struct(
            greatest(coalesce(try_element_at(counts, bin), 0) / rows, 0.0001D) AS p,
            greatest(coalesce(try_element_at(reference_counts, bin), 0) / reference_rows, 0.0001D) AS q)),
        0D,
        (total, share) -> total + (share.p - share.q) * ln(share.p / share.q))
      """;

  private DriftMonitoring() {}

  /**
   * The columns that are watched.
   *
   * @param numbers of any numeric type, put into bins
   * @param categories of type STRING, or cast to it
   */
  public record Features(List<String> numbers, List<String> categories) {}

  /**
   * How the values of each feature are spread over its bins. Keep it as a table, beside the model:
   * bins that are made anew from each day's values have equal shares and show no drift.
   *
   * @param reference what the model was trained on
   * @param bins of a number, each with about as many rows; fewer where many rows have one value in
   *     common
   * @return {@code feature STRING, edges ARRAY<DOUBLE>, rows BIGINT, counts MAP<STRING, BIGINT>}, a
   *     row for each feature; {@code edges} is NULL for a category
   */
  public static Dataset<Row> profile(Dataset<Row> reference, Features features, int bins) {
    Column quantiles =
        lit(IntStream.rangeClosed(0, bins).mapToDouble(i -> (double) i / bins).toArray());
    Dataset<Row> values = values(reference.withColumn("day", lit(null).cast("date")), features);
    Dataset<Row> edges =
        values.groupBy("feature").agg(percentile(col("number"), quantiles).as("edges"));
    return counts(values, edges)
        .join(edges, "feature")
        .select("feature", "edges", "rows", "counts");
  }

  /**
   * The population stability index of each feature on each day. Without any drift it is about (bins
   * - 1) / rows, for chance alone: 0.1 for 10 bins and 90 rows.
   *
   * @param profile what {@link #profile} made
   * @param rows with {@code day DATE} and the features
   * @return {@code day DATE, feature STRING, rows BIGINT, psi DOUBLE}; a day without rows has none
   */
  public static Dataset<Row> psi(Dataset<Row> profile, Dataset<Row> rows, Features features) {
    return counts(values(rows, features), profile.select("feature", "edges"))
        .join(
            broadcast(
                profile.selectExpr(
                    "feature", "rows AS reference_rows", "counts AS reference_counts")),
            "feature")
        .select(col("day"), col("feature"), col("rows"), expr(PSI).as("psi"));
  }

  /** A row for each value: {@code day, feature, number, category}. */
  private static Dataset<Row> values(Dataset<Row> rows, Features features) {
    Column noNumber = lit(null).cast("double");
    List<Column> values = new ArrayList<>();
    for (String name : features.numbers()) {
      Column number = nanvl(col("`" + name + "`").cast("double"), noNumber);
      values.add(value(name, number, lit(null).cast("string")));
    }
    for (String name : features.categories()) {
      values.add(value(name, noNumber, col("`" + name + "`").cast("string")));
    }
    return rows.select(col("day"), explode(array(values.toArray(Column[]::new))).as("value"))
        .select("day", "value.*");
  }

  private static Column value(String name, Column number, Column category) {
    return struct(lit(name).as("feature"), number.as("number"), category.as("category"));
  }

  private static Dataset<Row> counts(Dataset<Row> values, Dataset<Row> edges) {
    return values
        .join(broadcast(edges), "feature")
        .withColumn("bin", expr(BIN))
        .groupBy("day", "feature", "bin")
        .agg(count(lit(1)).as("n"))
        .groupBy("day", "feature")
        .agg(
            sum("n").as("rows"),
            expr("map_from_entries(collect_list(struct(bin, n)))").as("counts"));
  }

  /**
   * What each index means.
   *
   * @param minRows a day with fewer rows is not judged
   * @return {@code psi} and {@code verdict STRING}: {@code stable}, {@code watch}, {@code drift} or
   *     {@code too few rows}
   */
  public static Dataset<Row> verdicts(Dataset<Row> psi, long minRows) {
    return psi.withColumn(
        "verdict",
        when(col("rows").lt(minRows), "too few rows")
            .when(col("psi").geq(DRIFT), "drift")
            .when(col("psi").geq(WATCH), "watch")
            .otherwise("stable"));
  }

  /**
   * Logs each index as the metric {@code psi/FEATURE}, with the day as its step, in days since
   * 1970, and the first day with drift as tags. The same days may be logged again.
   *
   * <p>Needs the snippets of {@link TrackRun}.
   *
   * @param verdicts as {@link #verdicts} gives them, of some days
   */
  public static void log(MlflowClient client, String runId, Dataset<Row> verdicts) {
    List<Metric> metrics = new ArrayList<>();
    LocalDate alert = null;
    List<String> drifted = new ArrayList<>();
    for (Row row : verdicts.orderBy("day", "feature").collectAsList()) {
      LocalDate day = row.getAs("day");
      String feature = row.getAs("feature");
      metrics.add(
          Metric.newBuilder()
              .setKey("psi/" + feature)
              .setValue(row.<Double>getAs("psi"))
              .setStep(day.toEpochDay())
              .setTimestamp(day.atStartOfDay(ZoneOffset.UTC).toInstant().toEpochMilli())
              .build());
      if (row.getAs("verdict").equals("drift") && (alert == null || alert.equals(day))) {
        alert = day;
        drifted.add(feature);
      }
    }
    TrackRun.log(client, runId, List.of(), metrics, List.of());
    if (alert != null && isFirst(client, runId, alert)) {
      client.setTag(runId, ALERT_FEATURES, String.join(", ", drifted));
      client.setTag(runId, ALERT_DAY, alert.toString());
    }
  }

  private static boolean isFirst(MlflowClient client, String runId, LocalDate day) {
    return client.getRun(runId).getData().getTagsList().stream()
        .filter(tag -> tag.getKey().equals(ALERT_DAY))
        .map(RunTag::getValue)
        .noneMatch(before -> before.compareTo(day.toString()) < 0);
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        DriftMonitoring.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          Features features =
              new Features(List.of("unit_price", "quantity", "prediction"), List.of("category"));
          SampleData shop = notebook.sampleData(40_000);
          long perDay = shop.orderItemCount() / 40;
          LocalDate first = LocalDate.of(2025, 6, 1);
          // The first half is what the model is trained on, the second one is 20 days of June.
          Dataset<Row> items =
              shop.orderItems()
                  .join(broadcast(shop.products().drop("price")), "product_id")
                  .cache();
          Dataset<Row> past = items.where(col("order_item_id").lt(20 * perDay));
          Dataset<Row> june =
              items
                  .where(col("order_item_id").geq(20 * perDay))
                  .withColumn(
                      "day",
                      expr(
                          "date_add(DATE'%s', CAST(order_item_id DIV %d AS INT) - 20)"
                              .formatted(first, perDay)))
                  .where("day < DATE'2025-06-21'")
                  .withColumn(
                      "unit_price",
                      expr("IF(day >= DATE'2025-06-15', 2, 1) * CAST(unit_price AS DOUBLE)"))
                  .withColumn(
                      "category",
                      expr(
                          "IF(day >= DATE'2025-06-18' AND pmod(xxhash64(order_item_id), 100) < 4,"
                              + " 'toys', category)"));
          Path folder = notebook.sandbox().folder();
          try (MlflowServer mlflow = MlflowServer.open(folder.resolve("mlflow"))) {
            notebook.text("MLflow's pages: %s", mlflow.uri());
            MlflowClient client = mlflow.client();

            notebook.step("A model, and how the values it was trained on are spread");
            PipelineModel model =
                new Pipeline()
                    .setStages(
                        new PipelineStage[] {
                          new VectorAssembler()
                              .setInputCols(new String[] {"unit_price", "quantity"})
                              .setOutputCol("features"),
                          new DecisionTreeRegressor().setLabelCol("amount").setMaxDepth(5)
                        })
                    .fit(past.selectExpr("*", "CAST(quantity * unit_price AS DOUBLE) AS amount"));
            profile(model.transform(past), features, 10)
                .write()
                .format("delta")
                .saveAsTable("drift_profile");
            Dataset<Row> profile = spark.table("drift_profile");
            notebook.table(
                "ten bins of a number, where it has ten values; a bin for each category",
                profile
                    .selectExpr(
                        "feature",
                        "rows",
                        "transform(array_distinct(edges), e -> round(e, 2)) AS edges",
                        "size(counts) AS bins")
                    .orderBy("feature"));

            notebook.step("20 days: prices double on the 15th, a new category comes on the 18th");
            Dataset<Row> days =
                verdicts(psi(profile, model.transform(june), features), perDay / 2).cache();
            notebook.text("%,d rows each day.", perDay);
            Plot plot = Plot.curve("population stability index", "day of June 2025", "PSI");
            for (Row row : days.orderBy("day", "feature").collectAsList()) {
              plot.point(
                  row.getAs("feature"),
                  row.<LocalDate>getAs("day").getDayOfMonth(),
                  row.<Double>getAs("psi"));
            }
            notebook.chart(plot);
            notebook.table(
                "by the convention: below 0.1 stable, from 0.25 on drift",
                days.groupBy("feature", "verdict")
                    .agg(
                        expr("min(day) AS first"),
                        expr("max(day) AS last"),
                        expr("count(*) AS days"),
                        expr("round(min(psi), 3) AS smallest"),
                        expr("round(max(psi), 3) AS largest"))
                    .orderBy("feature", "first"));

            notebook.step("In MLflow: a curve for each feature, and the alert");
            String run =
                TrackRun.start(
                    client, client.createExperiment("drift-" + UUID.randomUUID()), "June 2025");
            log(client, run, days);
            client.setTerminated(run);
            notebook.text(
                "%d points of psi/unit_price; %s",
                TrackRun.history(client, run, "psi/unit_price").size(),
                client.getRun(run).getData().getTagsList().stream()
                    .filter(tag -> tag.getKey().startsWith("drift."))
                    .map(tag -> tag.getKey() + " = " + tag.getValue())
                    .sorted()
                    .toList());

            notebook.step("Too few rows look like drift");
            notebook.table(
                "the first day, on which nothing has changed, by fewer and fewer of its rows",
                spark
                    .sql("SELECT explode(array(1, 4, 16, 64)) AS part")
                    .crossJoin(model.transform(june).where("day = DATE'2025-06-01'"))
                    .where("order_item_id % part = 0")
                    // A day for each part.
                    .withColumn("day", expr("date_add(day, part)"))
                    .transform(rows -> psi(profile, rows, features))
                    .where("feature = 'unit_price'")
                    .select(
                        col("rows"),
                        expr("round(psi, 3)").as("psi"),
                        expr("round(9 / rows, 3)").as("by chance"))
                    .orderBy(col("rows").desc()));
          }
        });
  }
}
