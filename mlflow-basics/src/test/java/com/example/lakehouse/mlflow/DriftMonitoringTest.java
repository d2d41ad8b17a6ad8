package com.example.lakehouse.mlflow;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.apache.spark.sql.functions.expr;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.example.lakehouse.common.SampleData;
import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import com.example.lakehouse.mlflow.DriftMonitoring.Features;
import com.example.lakehouse.mlflow.support.MlflowServer;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.UUID;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.spark.ml.feature.VectorAssembler;
import org.apache.spark.ml.regression.DecisionTreeRegressionModel;
import org.apache.spark.ml.regression.DecisionTreeRegressor;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.Test;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.tracking.MlflowClient;

@SparkTest
@MlflowTest
class DriftMonitoringTest {
  private static final LocalDate DAY = LocalDate.of(2025, 6, 1);
  private static final Features NUMBER = new Features(List.of("x"), List.of());
  private static final Features CATEGORY = new Features(List.of(), List.of("c"));

  /** One of the sums' terms. */
  private static double term(double p, double q) {
    return (p - q) * Math.log(p / q);
  }

  private static Dataset<Row> numbers(SparkSession spark, Stream<Double> values) {
    return spark.createDataFrame(
        values.map(value -> row(DAY, value)).toList(), StructType.fromDDL("day DATE, x DOUBLE"));
  }

  private static Dataset<Row> categories(SparkSession spark, String letters) {
    return spark.createDataFrame(
        letters
            .chars()
            .mapToObj(c -> row(DAY, c == '-' ? null : String.valueOf((char) c)))
            .toList(),
        StructType.fromDDL("day DATE, c STRING"));
  }

  /** 1 to 100: 25 in each of four bins. */
  private static Dataset<Row> hundred(SparkSession spark) {
    return numbers(spark, IntStream.rangeClosed(1, 100).mapToObj(i -> (double) i));
  }

  private static double only(Dataset<Row> psi) {
    assertThat(psi).hasRowCount(1);
    return psi.head().<Double>getAs("psi");
  }

  @Test
  void theIndexIsThatOfTheSharesOfTheReferencesBins(SparkSession spark) {
    Dataset<Row> profile = DriftMonitoring.profile(hundred(spark), NUMBER, 4);
    assertThat(profile.selectExpr("feature", "edges", "rows"))
        .hasSchema("feature STRING, edges ARRAY<DOUBLE>, rows BIGINT");
    assertThat(profile.selectExpr("feature", "rows", "array_join(edges, ' ')"))
        .hasRows(row("x", 100L, "1.0 25.75 50.5 75.25 100.0"));
    assertThat(profile.selectExpr("explode(counts)"))
        .hasRows(row("bin 0", 25L), row("bin 1", 25L), row("bin 2", 25L), row("bin 3", 25L));

    // 4, 3, 2 and 1 of 10.
    Dataset<Row> day =
        numbers(spark, Stream.of(1.0, 2.0, 25.0, 25.75, 26.0, 27.0, 50.5, 51.0, 75.25, 100.0));
    double expected = term(0.4, 0.25) + term(0.3, 0.25) + term(0.2, 0.25) + term(0.1, 0.25);
    assertThat(expected).isCloseTo(0.2282, within(0.0001));

    Dataset<Row> psi = DriftMonitoring.psi(profile, day, NUMBER);
    assertThat(psi).hasSchema("day DATE, feature STRING, rows BIGINT, psi DOUBLE");
    assertThat(psi.drop("psi")).hasRows(row(DAY, "x", 10L));
    assertThat(only(psi)).isCloseTo(expected, within(1e-12));
    assertThat(only(DriftMonitoring.psi(profile, hundred(spark), NUMBER))).isZero();
  }

  @Test
  void anEmptyBinIsNotInfiniteAndWhatIsOutsideHasItsOwnBin(SparkSession spark) {
    Dataset<Row> profile = DriftMonitoring.profile(hundred(spark), NUMBER, 4);

    // All in the first bin.
    assertThat(only(DriftMonitoring.psi(profile, numbers(spark, Stream.of(3.0, 4.0)), NUMBER)))
        .isCloseTo(term(1, 0.25) + 3 * term(0.0001, 0.25), within(1e-12));
    // Below 1 and above 100 the reference has nothing.
    assertThat(only(DriftMonitoring.psi(profile, numbers(spark, Stream.of(0.5, 101.0)), NUMBER)))
        .isCloseTo(2 * term(0.5, 0.0001) + 4 * term(0.0001, 0.25), within(1e-12));
  }

  @Test
  void whatIsMissingIsABin(SparkSession spark) {
    Dataset<Row> profile = DriftMonitoring.profile(hundred(spark), NUMBER, 4);
    Dataset<Row> day =
        numbers(spark, Stream.of(1.0, 30.0, 60.0, 90.0, null, Double.NaN, 2.0, 31.0, 61.0, 91.0));

    // A fifth is missing, and NaN is missing too; the reference has all.
    assertThat(only(DriftMonitoring.psi(profile, day, NUMBER)))
        .isCloseTo(4 * term(0.2, 0.25) + term(0.2, 0.0001), within(1e-12));
    // If the reference lacks as much, nothing has changed.
    Dataset<Row> holes = DriftMonitoring.profile(day, NUMBER, 4);
    assertThat(only(DriftMonitoring.psi(holes, day, NUMBER))).isZero();
    assertThat(holes.selectExpr("counts['missing']")).hasRows(row(2L));
    // A column without any value, in the reference or on the day.
    Dataset<Row> empty = numbers(spark, Stream.of(null, null));
    assertThat(only(DriftMonitoring.psi(profile, empty, NUMBER)))
        .isCloseTo(4 * term(0.0001, 0.25) + term(1, 0.0001), within(1e-12));
    Dataset<Row> nothing = DriftMonitoring.profile(empty, NUMBER, 4);
    assertThat(only(DriftMonitoring.psi(nothing, empty, NUMBER))).isZero();
    assertThat(only(DriftMonitoring.psi(nothing, numbers(spark, Stream.of(1.0)), NUMBER)))
        .isGreaterThan(9);
  }

  @Test
  void aNewCategoryIsABinAndSoIsAMissingOne(SparkSession spark) {
    Dataset<Row> profile = DriftMonitoring.profile(categories(spark, "aaaaabbbcc"), CATEGORY, 4);

    assertThat(only(DriftMonitoring.psi(profile, categories(spark, "abcabcabca"), CATEGORY)))
        .isCloseTo(term(0.4, 0.5) + term(0.3, 0.3) + term(0.3, 0.2), within(1e-12));
    assertThat(only(DriftMonitoring.psi(profile, categories(spark, "aaaabbbcx-"), CATEGORY)))
        .isCloseTo(
            term(0.4, 0.5) + term(0.3, 0.3) + term(0.1, 0.2) + 2 * term(0.1, 0.0001),
            within(1e-12));
  }

  @Test
  void aFeatureWithOneValueHasOneBinAndItsNeighbours(SparkSession spark) {
    Dataset<Row> profile =
        DriftMonitoring.profile(numbers(spark, Stream.of(5.0, 5.0, 5.0)), NUMBER, 10);

    assertThat(profile.selectExpr("array_distinct(edges)[0]", "size(array_distinct(edges))"))
        .hasRows(row(5.0, 1));
    assertThat(only(DriftMonitoring.psi(profile, numbers(spark, Stream.of(5.0)), NUMBER))).isZero();
    for (double other : new double[] {4, 6}) {
      assertThat(only(DriftMonitoring.psi(profile, numbers(spark, Stream.of(other)), NUMBER)))
          .isCloseTo(2 * term(1, 0.0001), within(1e-12));
    }
  }

  @Test
  void aValueThatIsCommonHasABinOfItsOwn(SparkSession spark) {
    Dataset<Row> profile = DriftMonitoring.profile(ones(spark, 70, 20, 10), NUMBER, 4);

    assertThat(profile.selectExpr("array_join(edges, ' ')")).hasRows(row("1.0 1.0 1.0 2.0 3.0"));
    assertThat(only(DriftMonitoring.psi(profile, ones(spark, 20, 70, 10), NUMBER)))
        .isCloseTo(term(0.2, 0.7) + term(0.7, 0.2), within(1e-12));
  }

  /** So many ones, twos and threes. */
  private static Dataset<Row> ones(SparkSession spark, int... counts) {
    return numbers(
        spark,
        IntStream.rangeClosed(1, counts.length)
            .boxed()
            .flatMap(i -> Stream.generate(() -> (double) i).limit(counts[i - 1])));
  }

  @Test
  void binsThatAreMadeAnewEachDayShowNoDrift(SparkSession spark) {
    Dataset<Row> day = numbers(spark, IntStream.rangeClosed(1, 100).mapToObj(i -> 1_000.0 * i));

    assertThat(only(DriftMonitoring.psi(DriftMonitoring.profile(day, NUMBER, 4), day, NUMBER)))
        .isZero();
    assertThat(
            only(
                DriftMonitoring.psi(
                    DriftMonitoring.profile(hundred(spark), NUMBER, 4), day, NUMBER)))
        .isGreaterThan(9);
  }

  @Test
  void theVerdictFollowsTheConvention(SparkSession spark) {
    Dataset<Row> psi =
        spark.sql(
            """
            SELECT DATE'2025-06-01' AS day, 'x' AS feature, rows, psi FROM VALUES
              (100L, 0.0D), (100L, 0.0999D), (100L, 0.1D), (100L, 0.2499D), (100L, 0.25D), (99L, 9D) AS t (rows, psi)
            """);

    assertThat(DriftMonitoring.verdicts(psi, 100).select("rows", "psi", "verdict"))
        .hasRows(
            row(100L, 0.0, "stable"),
            row(100L, 0.0999, "stable"),
            row(100L, 0.1, "watch"),
            row(100L, 0.2499, "watch"),
            row(100L, 0.25, "drift"),
            row(99L, 9.0, "too few rows"));
  }

  /** Ten days of 600 items; prices double on the 8th, and a new category comes on the 10th. */
  private static Dataset<Row> june(Dataset<Row> items) {
    return items
        .withColumn(
            "day", expr("date_add(DATE'2025-06-01', CAST(order_item_id DIV 600 AS INT) - 5)"))
        .where("day >= DATE'2025-06-01'")
        .withColumn(
            "unit_price", expr("IF(day >= DATE'2025-06-08', 2, 1) * CAST(unit_price AS DOUBLE)"))
        .withColumn(
            "category",
            expr("IF(day = DATE'2025-06-10' AND order_item_id % 20 = 0, 'toys', category)"));
  }

  @Test
  void theAlertComesOnTheDayOfTheDriftAndNotBefore(
      SparkSession spark, Sandbox sandbox, MlflowServer mlflow) {
    SampleData shop = SampleData.of(spark).rows(9_000);
    Dataset<Row> items = shop.orderItems().join(shop.products().drop("price"), "product_id");
    VectorAssembler inputs =
        new VectorAssembler()
            .setInputCols(new String[] {"unit_price", "quantity"})
            .setOutputCol("features");
    // The first 3,000 items.
    Dataset<Row> past =
        inputs.transform(
            items
                .where("order_item_id < 3000")
                .selectExpr("*", "CAST(quantity * unit_price AS DOUBLE) AS amount"));
    DecisionTreeRegressionModel model =
        new DecisionTreeRegressor().setLabelCol("amount").setMaxDepth(4).fit(past);
    Features features =
        new Features(List.of("unit_price", "quantity", "prediction"), List.of("category"));
    Dataset<Row> reference = model.transform(past).drop("features").cache();
    Dataset<Row> scored = model.transform(inputs.transform(june(items))).drop("features").cache();

    Dataset<Row> profile = DriftMonitoring.profile(reference, features, 10);
    List<Row> verdicts =
        DriftMonitoring.verdicts(DriftMonitoring.psi(profile, scored, features), 300)
            .orderBy("day", "feature")
            .collectAsList();

    // Each index is the one that plain Java computes from the rows.
    Map<LocalDate, List<Row>> days =
        scored.collectAsList().stream()
            .collect(
                Collectors.groupingBy(
                    r -> r.<LocalDate>getAs("day"), TreeMap::new, Collectors.toList()));
    List<Row> past3000 = reference.collectAsList();
    assertThat(past3000).hasSize(3_000);
    assertThat(days).hasSize(10);
    assertThat(verdicts).hasSize(40);
    for (Row verdict : verdicts) {
      String feature = verdict.getAs("feature");
      Function<Row, String> bin =
          feature.equals("category")
              ? r -> r.getAs("category")
              : bins(past3000, r -> number(r, feature), 10);
      assertThat(verdict.<Double>getAs("psi"))
          .as("%s", verdict)
          .isCloseTo(psi(past3000, days.get(verdict.<LocalDate>getAs("day")), bin), within(1e-9));
      assertThat(verdict.<Long>getAs("rows")).isEqualTo(600);
    }
    // Prices and predictions from the 8th on, never before, and no other feature.
    assertThat(
            verdicts.stream()
                .filter(v -> !v.getAs("verdict").equals("stable"))
                .map(
                    v ->
                        v.<LocalDate>getAs("day").getDayOfMonth()
                            + " "
                            + v.getAs("feature")
                            + " "
                            + v.getAs("verdict")))
        .containsExactly(
            "8 prediction drift",
            "8 unit_price drift",
            "9 prediction drift",
            "9 unit_price drift",
            "10 category drift",
            "10 prediction drift",
            "10 unit_price drift");

    // And in MLflow, day by day as a job would do it, the 8th twice.
    MlflowClient client = mlflow.client();
    String run =
        TrackRun.start(client, client.createExperiment("drift-" + UUID.randomUUID()), "June");
    for (int day : new int[] {1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10}) {
      DriftMonitoring.log(
          client,
          run,
          DriftMonitoring.verdicts(
              DriftMonitoring.psi(
                  profile, scored.where("day(day) = " + day).repartition(day), features),
              300));
      assertThat(tags(client, run))
          .as("after day %d", day)
          .isEqualTo(
              day < 8
                  ? Map.of()
                  : Map.of("drift.day", "2025-06-08", "drift.features", "prediction, unit_price"));
    }
    for (String feature : List.of("category", "prediction", "quantity", "unit_price")) {
      List<Row> expected =
          verdicts.stream().filter(v -> v.getAs("feature").equals(feature)).toList();
      List<Metric> logged = TrackRun.history(client, run, "psi/" + feature);
      assertThat(logged.stream().map(Metric::getStep))
          .containsExactlyElementsOf(
              expected.stream().map(v -> v.<LocalDate>getAs("day").toEpochDay()).toList());
      assertThat(logged.stream().map(Metric::getTimestamp))
          .containsExactlyElementsOf(
              expected.stream()
                  .map(v -> v.<LocalDate>getAs("day").toEpochDay() * 86_400_000)
                  .toList());
      assertThat(logged.stream().map(Metric::getValue))
          .containsExactlyElementsOf(expected.stream().map(v -> v.<Double>getAs("psi")).toList());
    }
    reference.unpersist();
    scored.unpersist();
  }

  private static double number(Row row, String column) {
    return row.<Number>getAs(column).doubleValue();
  }

  /** Bins by the quantiles of a sorted list, interpolated as Spark's {@code percentile} does. */
  private static Function<Row, String> bins(
      List<Row> reference, Function<Row, Double> value, int bins) {
    List<Double> sorted = reference.stream().map(value).sorted().toList();
    List<Double> edges = new ArrayList<>();
    for (int i = 0; i <= bins; i++) {
      double place = (sorted.size() - 1) * (i / (double) bins);
      int below = (int) Math.floor(place);
      int above = (int) Math.ceil(place);
      edges.add(
          below == above
              ? sorted.get(below)
              : (above - place) * sorted.get(below) + (place - below) * sorted.get(above));
    }
    return r -> {
      double number = value.apply(r);
      return number < edges.get(0)
          ? "below"
          : number > edges.get(bins)
              ? "above"
              : String.valueOf(edges.stream().skip(1).filter(edge -> edge < number).count());
    };
  }

  private static double psi(List<Row> reference, List<Row> day, Function<Row, String> bin) {
    Map<String, Long> q =
        reference.stream().collect(Collectors.groupingBy(bin, Collectors.counting()));
    Map<String, Long> p = day.stream().collect(Collectors.groupingBy(bin, Collectors.counting()));
    TreeSet<String> all = new TreeSet<>(q.keySet());
    all.addAll(p.keySet());
    return all.stream()
        .mapToDouble(
            b ->
                term(
                    Math.max(p.getOrDefault(b, 0L) / (double) day.size(), 0.0001),
                    Math.max(q.getOrDefault(b, 0L) / (double) reference.size(), 0.0001)))
        .sum();
  }

  private static Map<String, String> tags(MlflowClient client, String run) {
    return client.getRun(run).getData().getTagsList().stream()
        .filter(tag -> tag.getKey().startsWith("drift."))
        .collect(Collectors.toMap(RunTag::getKey, RunTag::getValue));
  }

  @Test
  void anAlertOfAnEarlierDayTakesItsPlaceAndALaterOneDoesNot(
      SparkSession spark, MlflowServer mlflow) {
    MlflowClient client = mlflow.client();
    String run =
        TrackRun.start(client, client.createExperiment("drift-" + UUID.randomUUID()), "late");
    List<String> alerts = new ArrayList<>();
    for (int day : new int[] {8, 9, 3}) {
      DriftMonitoring.log(
          client,
          run,
          spark.sql(
              """
              SELECT make_date(2025, 6, %1$d) AS day, 'f%1$d' AS feature, 100L AS rows, 0.3D AS psi, 'drift' AS verdict
              UNION ALL SELECT make_date(2025, 6, %1$d - 1), 'y', 9L, 5D, 'too few rows'
              """
                  .formatted(day)));
      alerts.add(
          tags(client, run).get("drift.day") + " " + tags(client, run).get("drift.features"));
    }

    assertThat(alerts).containsExactly("2025-06-08 f8", "2025-06-08 f8", "2025-06-03 f3");
  }

  @Test
  void byChanceAloneAFewRowsLookLikeDrift(SparkSession spark) {
    // Uniform numbers, the same on all days.
    Dataset<Row> rows =
        spark
            .range(64_000)
            .selectExpr("id", "pmod(xxhash64(id), 100003) / 100003D AS x")
            .selectExpr("x", "IF(id < 32000, DATE'2025-06-01', NULL) AS day", "id");
    Dataset<Row> profile =
        DriftMonitoring.profile(rows.where("id >= 32000").drop("day"), NUMBER, 10);

    // 640 days of 50 rows, 16 of 2,000.
    for (int size : new int[] {50, 2_000}) {
      Row result =
          DriftMonitoring.psi(
                  profile,
                  rows.where("id < 32000")
                      .withColumn(
                          "day",
                          expr(
                              "date_add(DATE'2025-06-01', CAST(id DIV %d AS INT))"
                                  .formatted(size))),
                  NUMBER)
              .selectExpr("avg(psi)", "max(psi)", "avg(CAST(psi >= 0.1 AS INT))")
              .head();
      double expected = 9.0 / size;
      if (size == 50) {
        assertThat(result.getDouble(0)).isBetween(expected, 2 * expected);
        assertThat(result.getDouble(2)).isGreaterThan(0.8);
      } else {
        assertThat(result.getDouble(0)).isBetween(0.5 * expected, 2 * expected);
        assertThat(result.getDouble(1)).isLessThan(0.02);
      }
    }
  }
}
