package com.example.lakehouse.sql;

import static org.apache.spark.sql.functions.aggregate;
import static org.apache.spark.sql.functions.coalesce;
import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.filter;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.posexplode_outer;
import static org.apache.spark.sql.functions.struct;
import static org.apache.spark.sql.functions.transform;
import static org.apache.spark.sql.functions.transform_values;
import static org.apache.spark.sql.functions.upper;
import static org.apache.spark.sql.functions.zip_with;

import com.example.lakehouse.common.Notebook;
import java.math.BigDecimal;
import java.util.Map;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Arrays, maps and structs: computing inside a row with lambdas, without taking it apart and
 * grouping it again; and taking it apart where that is what is wanted.
 *
 * <p>Run: {@code ./run ComplexTypes}, or Run in the IDE; no JVM flags, no setup.
 *
 * <p>See: the totals and the undelivered items of orders whose items are an array, in SQL and with
 * columns; which rows an explode loses; what an index or a key that is not there gives.
 *
 * <p>On Databricks: the same code.
 *
 * @see <a href="https://spark.apache.org/docs/4.1.0/api/sql/#transform">Spark SQL: built-in
 *     functions</a>
 */
public final class ComplexTypes {
  private static final String MONEY = "decimal(12,2)";

  private ComplexTypes() {}

  /**
   * {@code order_id INT, amounts ARRAY<DECIMAL(12,2)>, total DECIMAL(12,2)}. The sum has to keep
   * the type that it starts with, so each step is cast to it; one item without a price makes the
   * total NULL.
   *
   * @param orders a table or view with {@code order_id INT, items ARRAY<STRUCT<name STRING,
   *     quantity INT, price DECIMAL(12,2)>>}
   */
  public static Dataset<Row> totals(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT order_id,
               transform(items, i -> CAST(i.quantity * i.price AS DECIMAL(12,2))) AS amounts,
               aggregate(
                 items,
                 CAST(0 AS DECIMAL(12,2)),
                 (total, i) -> CAST(total + i.quantity * i.price AS DECIMAL(12,2))) AS total
        FROM IDENTIFIER(:orders)
        """,
        Map.of("orders", orders));
  }

  /** {@link #totals} with columns: a lambda of Java builds the lambda of SQL. */
  public static Dataset<Row> totals(Dataset<Row> orders) {
    return orders.select(
        col("order_id"),
        transform(col("items"), i -> amount(i).cast(MONEY)).as("amounts"),
        aggregate(col("items"), lit(0).cast(MONEY), (total, i) -> total.plus(amount(i)).cast(MONEY))
            .as("total"));
  }

  private static Column amount(Column item) {
    return item.getField("quantity").multiply(item.getField("price"));
  }

  /**
   * {@code order_id INT, dear ARRAY<STRING>}: the names of the items that cost at least {@code
   * price} a piece. An item without a price is not among them.
   */
  public static Dataset<Row> dearItems(SparkSession spark, String orders, BigDecimal price) {
    return spark.sql(
        """
        SELECT order_id, filter(items, i -> i.price >= :price).name AS dear
        FROM IDENTIFIER(:orders)
        """,
        Map.of("orders", orders, "price", price));
  }

  /** {@link #dearItems} with columns. */
  public static Dataset<Row> dearItems(Dataset<Row> orders, BigDecimal price) {
    return orders.select(
        col("order_id"),
        filter(col("items"), i -> i.getField("price").geq(price)).getField("name").as("dear"));
  }

  /**
   * {@code order_id INT, missing ARRAY<STRUCT<name STRING, quantity INT>>}: what is still to be
   * delivered of each item. The shorter of two arrays goes on with NULLs.
   *
   * @param orders with {@code delivered ARRAY<INT>} too, in the order of the items
   */
  public static Dataset<Row> missing(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT order_id,
               filter(
                 zip_with(items, delivered,
                   (i, d) -> struct(i.name AS name, i.quantity - coalesce(d, 0) AS quantity)),
                 m -> m.quantity > 0) AS missing
        FROM IDENTIFIER(:orders)
        """,
        Map.of("orders", orders));
  }

  /** {@link #missing} with columns. */
  public static Dataset<Row> missing(Dataset<Row> orders) {
    Column left =
        zip_with(
            col("items"),
            col("delivered"),
            (i, d) ->
                struct(
                    i.getField("name").as("name"),
                    i.getField("quantity").minus(coalesce(d, lit(0))).as("quantity")));
    return orders.select(
        col("order_id"), filter(left, m -> m.getField("quantity").gt(0)).as("missing"));
  }

  /**
   * {@code order_id INT, position INT, name STRING}: a row for each item, from position 0 on.
   * {@code _outer} keeps an order without items, with NULLs; LEFT JOIN LATERAL does in Spark 4.1
   * only if it says ON TRUE.
   */
  public static Dataset<Row> itemRows(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT order_id, position, item.name
        FROM IDENTIFIER(:orders), LATERAL posexplode_outer(items) AS exploded (position, item)
        """,
        Map.of("orders", orders));
  }

  /** {@link #itemRows} with columns. */
  public static Dataset<Row> itemRows(Dataset<Row> orders) {
    return orders
        .select(
            col("order_id"), posexplode_outer(col("items")).as(new String[] {"position", "item"}))
        .select("order_id", "position", "item.name");
  }

  /**
   * {@code order_id INT, gift STRING, upper MAP<STRING, STRING>}: a value by its key, NULL if there
   * is none, and all values changed.
   *
   * @param orders with {@code notes MAP<STRING, STRING>}
   */
  public static Dataset<Row> notes(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT order_id, notes['gift'] AS gift, transform_values(notes, (k, v) -> upper(v)) AS upper
        FROM IDENTIFIER(:orders)
        """,
        Map.of("orders", orders));
  }

  /** {@link #notes} with columns. */
  public static Dataset<Row> notes(Dataset<Row> orders) {
    return orders.select(
        col("order_id"),
        col("notes").getItem("gift").as("gift"),
        transform_values(col("notes"), (k, v) -> upper(v)).as("upper"));
  }

  /**
   * The orders with another city, however deep it is and whatever else the structs hold. SQL has no
   * such function: it has to list all the fields.
   *
   * @param orders with {@code customer STRUCT<…, address: STRUCT<…, city: STRING>>}
   */
  public static Dataset<Row> withCity(Dataset<Row> orders, String city) {
    return orders.withColumn("customer", col("customer").withField("address.city", lit(city)));
  }

  /**
   * {@code order_id INT, items MAP<STRING, BIGINT>}: pieces by name. A name that comes twice would
   * be an error in {@code map_from_entries}, so pieces are added up first.
   */
  public static Dataset<Row> piecesByName(SparkSession spark, String orders) {
    return spark.sql(
        """
        SELECT order_id, map_from_entries(collect_list(struct(name, pieces))) AS items
        FROM (
          SELECT order_id, item.name, sum(item.quantity) AS pieces
          FROM IDENTIFIER(:orders), LATERAL explode(items) AS exploded (item)
          GROUP BY order_id, item.name)
        GROUP BY order_id
        """,
        Map.of("orders", orders));
  }

  public static void main(String[] args) throws Exception {
    Notebook.run(
        ComplexTypes.class,
        args,
        notebook -> {
          SparkSession spark = notebook.spark();
          spark
              .sql(
                  """
                  SELECT order_id,
                         from_json(items, 'ARRAY<STRUCT<name: STRING, quantity: INT, price: DECIMAL(12,2)>>') AS items,
                         delivered, notes, named_struct('name', name, 'address', named_struct('zip', zip, 'city', city)) AS customer
                  FROM VALUES
                    (1, '[{"name": "Lamp", "quantity": 2, "price": 29.90}, {"name": "Bulb", "quantity": 4, "price": 2.50}]',
                     array(2, 1), map('gift', 'yes', 'door', 'left'), 'Ada', '10115', 'Berlin'),
                    (2, '[{"name": "Desk", "quantity": 1, "price": 199.00}, {"name": "Lamp", "quantity": 1, "price": 29.90}, {"name": "Desk", "quantity": 1, "price": 189.00}]',
                     array(1), map('door', 'right'), 'Grace', '75001', 'Paris'),
                    (3, '[]', array(), map(), 'Radia', '00118', 'Rome'),
                    (4, NULL, NULL, NULL, 'Edsger', '1010', 'Vienna')
                    AS v (order_id, items, delivered, notes, name, zip, city)
                  """)
              .createOrReplaceTempView("orders");
          Dataset<Row> orders = spark.table("orders");
          notebook.step("Inside the row");
          notebook.table("orders", orders);
          notebook.table("transform, aggregate", totals(spark, "orders"));
          notebook.table("filter: 100 and more", dearItems(spark, "orders", new BigDecimal("100")));
          notebook.table("zip_with: not yet delivered", missing(spark, "orders"));
          notebook.table("a map", notes(spark, "orders"));
          notebook.table(
              "a field of a field changed: all have moved to Lisbon",
              withCity(orders, "Lisbon").select("order_id", "customer"));

          notebook.step("A row for each item");
          notebook.table("posexplode_outer", itemRows(spark, "orders"));
          notebook.text(
              "explode keeps %d orders, explode_outer %d: it loses those whose array is empty or"
                  + " NULL.",
              orders.selectExpr("order_id", "explode(items)").select("order_id").distinct().count(),
              itemRows(orders).select("order_id").distinct().count());
          notebook.table("and back, as a map", piecesByName(spark, "orders"));

          notebook.step("What is not there");
          notebook.table(
              "NULL",
              spark.sql(
                  """
                  SELECT get(array(1, 2), 2) AS get, try_element_at(array(1, 2), 3) AS try_element_at,
                         map('a', 1)['b'] AS map_key
                  """));
          notebook.refused(
              "An index, from 0 on",
              "INVALID_ARRAY_INDEX",
              () -> spark.sql("SELECT array(1, 2)[2]").collectAsList());
          notebook.refused(
              "element_at, from 1 on",
              "INVALID_ARRAY_INDEX_IN_ELEMENT_AT",
              () -> spark.sql("SELECT element_at(array(1, 2), 3)").collectAsList());
          notebook.refused(
              "A key twice",
              "DUPLICATED_MAP_KEY",
              () ->
                  spark
                      .sql(
                          "SELECT map_from_entries(transform(items, i -> struct(i.name,"
                              + " i.quantity))) FROM orders")
                      .collectAsList());
        });
  }
}
