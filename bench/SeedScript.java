import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.SparkSessions;
import com.example.lakehouse.delta.AcidTransactions;
import com.example.lakehouse.delta.OptimizeTable;
import com.example.lakehouse.delta.SchemaEvolution;
import com.example.lakehouse.delta.TimeTravel;
import io.delta.tables.DeltaTable;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/** The steps of {@code seed_script.py}, one by one the same, in Java and in one session. */
public final class SeedScript {
  private static final String DAVID_AND_EVE = "(4L, 'David', 28L), (5L, 'Eve', 32L)";

  private SeedScript() {}

  public static void main(String[] args) {
    SparkSession spark = SparkSessions.open("seed-script");
    try {
      List<Consumer<SparkSession>> steps =
          List.of(
              SeedScript::create,
              SeedScript::change,
              SeedScript::travel,
              SeedScript::evolve,
              SeedScript::merge,
              SeedScript::optimize);
      for (Consumer<SparkSession> step : steps) {
        try (Sandbox sandbox = new Sandbox(spark, "seed_script", false)) {
          step.accept(spark);
        }
      }
    } finally {
      SparkSessions.close(spark);
    }
  }

  private static Dataset<Row> people(SparkSession spark, String rows, String columns) {
    return spark.sql("SELECT * FROM VALUES " + rows + " AS people (" + columns + ")");
  }

  private static void show(SparkSession spark) {
    spark.table("people").orderBy("id").show();
  }

  private static void create(SparkSession spark) {
    people(spark, "(1L, 'Alice', 30L), (2L, 'Bob', 25L), (3L, 'Carol', 35L)", "id, name, age")
        .write()
        .format("delta")
        .saveAsTable("people");
    show(spark);
  }

  private static void change(SparkSession spark) {
    create(spark);
    AcidTransactions.append("people", people(spark, DAVID_AND_EVE, "id, name, age"));
    show(spark);
    DeltaTable table = DeltaTable.forName(spark, "people");
    table.updateExpr("name = 'Bob'", Map.of("age", "26"));
    show(spark);
    table.delete("age < 27");
    show(spark);
  }

  private static void travel(SparkSession spark) {
    create(spark);
    AcidTransactions.append("people", people(spark, DAVID_AND_EVE, "id, name, age"));
    AcidTransactions.history(spark, "people").select("version", "timestamp", "operation").show();
    TimeTravel.atVersion(spark, "people", 0).orderBy("id").show();
  }

  private static void evolve(SparkSession spark) {
    create(spark);
    SchemaEvolution.appendWithNewColumns(
        "people", people(spark, "(6L, 'Frank', 40L, 'frank@example.com')", "id, name, age, email"));
    show(spark);
  }

  private static void merge(SparkSession spark) {
    create(spark);
    DeltaTable.forName(spark, "people")
        .as("t")
        .merge(
            people(spark, "(1L, 'Alice', 31L), (7L, 'Grace', 29L)", "id, name, age").as("c"),
            "t.id = c.id")
        .whenMatched()
        .updateAll()
        .whenNotMatched()
        .insertAll()
        .execute();
    show(spark);
  }

  private static void optimize(SparkSession spark) {
    create(spark);
    AcidTransactions.append("people", people(spark, DAVID_AND_EVE, "id, name, age"));
    OptimizeTable.compact(spark, "people").show();
    OptimizeTable.zOrder(spark, "people", "age").show();
    show(spark);
    OptimizeTable.vacuum(spark, "people", 168);
  }
}
