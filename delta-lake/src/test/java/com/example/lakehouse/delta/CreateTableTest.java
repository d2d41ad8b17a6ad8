package com.example.lakehouse.delta;

import static com.example.lakehouse.common.testing.DatasetAssert.assertThat;
import static com.example.lakehouse.common.testing.DatasetAssert.row;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.example.lakehouse.common.Sandbox;
import com.example.lakehouse.common.testing.SparkTest;
import java.math.BigDecimal;
import java.util.Map;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.TableAlreadyExistsException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@SparkTest
class CreateTableTest {
  private static final Row LAMP = row(1L, "Lamp", new BigDecimal("29.90"));
  private static final Row CHAIR = row(2L, "Chair", new BigDecimal("149.00"));

  private static Dataset<Row> products(SparkSession spark) {
    return spark.sql(
        """
        SELECT * FROM VALUES
          (1L, 'Lamp', CAST(29.90 AS DECIMAL(12,2))),
          (2L, 'Chair', CAST(149.00 AS DECIMAL(12,2)))
          AS v (product_id, name, price)
        """);
  }

  private static void create(String way, String table, SparkSession spark) throws Exception {
    switch (way) {
      case "data frame" -> CreateTable.byDataFrame(table, products(spark));
      case "builder" -> CreateTable.byBuilder(spark, table);
      case "sql" -> CreateTable.bySql(spark, table);
      default -> throw new IllegalArgumentException(way);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"data frame", "builder", "sql"})
  void everyWayGivesTheSameColumnsCommentsAndProperties(
      String way, SparkSession spark, Sandbox sandbox) throws Exception {
    create(way, "products", spark);

    assertThat(spark.sql("DESCRIBE TABLE products"))
        .hasRowsInOrder(
            row("product_id", "bigint", null),
            row("name", "string", null),
            row("price", "decimal(12,2)", "what the customer pays, in euros"));
    Row detail = spark.sql("DESCRIBE DETAIL products").head();
    assertThat(detail.<String>getAs("format")).isEqualTo("delta");
    assertThat(detail.<String>getAs("description")).isEqualTo("what the shop sells");
    assertThat(detail.getJavaMap(detail.fieldIndex("properties")))
        .isEqualTo(Map.of("delta.appendOnly", "true"));
    assertThat(TableState.version(spark, "products")).isZero();
  }

  @Test
  void theDataFramesRowsAreInTheTable(SparkSession spark, Sandbox sandbox) throws Exception {
    CreateTable.byDataFrame("products", products(spark));

    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @ParameterizedTest
  @ValueSource(strings = {"data frame", "builder", "sql"})
  void aTableThatExistsIsNotCreatedAgain(String way, SparkSession spark, Sandbox sandbox)
      throws Exception {
    CreateTable.byDataFrame("products", products(spark));

    assertThatThrownBy(() -> create(way, "products", spark))
        .isInstanceOfSatisfying(
            TableAlreadyExistsException.class,
            e -> assertThat(e.getCondition()).isEqualTo("TABLE_OR_VIEW_ALREADY_EXISTS"));

    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
    assertThat(TableState.version(spark, "products")).isZero();
  }

  @Test
  void theAppendOnlyPropertyIsInForce(SparkSession spark, Sandbox sandbox) throws Exception {
    CreateTable.byDataFrame("products", products(spark));

    assertThatThrownBy(() -> spark.sql("DELETE FROM products WHERE product_id = 1"))
        .hasMessageContaining("DELTA_CANNOT_MODIFY_APPEND_ONLY");
  }

  @Test
  void aTableFromAQueryHasItsColumnsAndRows(SparkSession spark, Sandbox sandbox) throws Exception {
    CreateTable.byDataFrame("products", products(spark));

    CreateTable.asSelect(spark, "expensive", "products", 100);

    assertThat(spark.table("expensive"))
        .hasSchema("product_id BIGINT, name STRING, price DECIMAL(12,2)")
        .hasRows(CHAIR);
    assertThat(spark.sql("DESCRIBE DETAIL expensive").head().<String>getAs("description"))
        .isEqualTo("products that cost more");
  }

  @Test
  void replacingATableKeepsTheVersionBefore(SparkSession spark, Sandbox sandbox) throws Exception {
    CreateTable.byDataFrame("products", products(spark));
    CreateTable.asSelect(spark, "expensive", "products", 100);

    CreateTable.replace("expensive", spark.sql("SELECT 'Desk' AS name"));

    assertThat(spark.table("expensive")).hasSchema("name STRING").hasRows(row("Desk"));
    assertThat(spark.sql("SELECT * FROM expensive VERSION AS OF 0")).hasRows(CHAIR);
    assertThat(TableState.version(spark, "expensive")).isEqualTo(1);
  }

  @Test
  void anAppendOnlyTableIsNotReplaced(SparkSession spark, Sandbox sandbox) throws Exception {
    CreateTable.byDataFrame("products", products(spark));

    assertThatThrownBy(() -> CreateTable.replace("products", spark.sql("SELECT 'Desk' AS name")))
        .hasMessageContaining("DELTA_CANNOT_MODIFY_APPEND_ONLY");
    assertThat(spark.table("products")).hasRows(LAMP, CHAIR);
  }

  @Test
  void replacingATableThatDoesNotExistCreatesIt(SparkSession spark, Sandbox sandbox) {
    CreateTable.replace("products", spark.sql("SELECT 'Desk' AS name"));

    assertThat(spark.table("products")).hasRows(row("Desk"));
    assertThat(TableState.version(spark, "products")).isZero();
  }
}
