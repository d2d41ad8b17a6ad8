"""The six Java examples of Delta Lake in PySpark: the same operations, a session for each example.

Prints the seconds of each, and from the first import to the end of the last session.
"""

import sys
import tempfile
import time

start = time.perf_counter()

from collections.abc import Callable  # noqa: E402
from datetime import datetime, timedelta, timezone  # noqa: E402

from delta.tables import DeltaTable  # noqa: E402
from py4j.protocol import Py4JJavaError  # noqa: E402
from pyspark.errors import (  # noqa: E402
    AnalysisException,
    IllegalArgumentException,
    UnsupportedOperationException,
)
from pyspark.sql import DataFrame, Row, SparkSession  # noqa: E402
from pyspark.sql.functions import col, expr, lit  # noqa: E402


def session(name: str, warehouse: str) -> SparkSession:
    return (
        SparkSession.builder.appName(name)
        .master("local[*]")
        .config("spark.jars", sys.argv[1])
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        # Without it Delta's SQL parser loses :name parameters.
        .config("spark.sql.legacy.parameterSubstitution.constantsOnly", "true")
        .config("spark.sql.warehouse.dir", warehouse)
        # Not a setting of the course: keeps the sockets on this machine and the log readable.
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def show(rows: DataFrame) -> None:
    rows.show(20, truncate=False)


def refused(error: type[Exception], condition: str, action: Callable[[], object]) -> None:
    try:
        action()
    except error as e:
        # Most of Spark's exceptions are one class in Python.
        if condition not in str(e):
            raise
        print("refused:", condition)
    else:
        raise AssertionError("expected " + condition)


def utc(moment: datetime) -> str:
    # Spark hands out local time without a zone.
    return moment.astimezone(timezone.utc).isoformat()


def history(spark: SparkSession, table: str) -> DataFrame:
    return DeltaTable.forName(spark, table).history()


def append(table: str, rows: DataFrame) -> None:
    rows.write.format("delta").mode("append").saveAsTable(table)


def pick(number: str, values: str) -> str:
    return f"element_at(split('{values}', ' '), cast(1 + pmod({number}, 10) AS INT))"


def unit(number: str) -> str:
    return f"(({number} & 1048575L) / 1048576D)"


def sample_orders(spark: SparkSession, rows: int) -> DataFrame:
    orders = rows // 3
    return (
        spark.range(orders)
        .withColumn("h", expr("xxhash64(id, 1L)"))
        .withColumn("day", expr(f"cast(id * 365 div {orders} AS INT)"))
        .selectExpr(
            "id AS order_id",
            f"cast({rows // 30} * pow({unit('h')}, 3) AS BIGINT) AS customer_id",
            "timestamp_seconds(unix_seconds(TIMESTAMP'2025-01-01T00:00:00Z') + day * 86400L"
            " + pmod(shiftright(h, 20), 86400)) AS order_time",
            "date_add(DATE'2025-01-01', day) AS order_date",
            pick(
                "shiftright(h, 4)",
                "delivered delivered delivered delivered delivered delivered"
                " shipped open returned cancelled",
            )
            + " AS status",
            "cast((100 + pmod(shiftright(h, 8), 100000)) * 0.01BD AS DECIMAL(12,2)) AS amount",
        )
    )


def sample_events(spark: SparkSession, rows: int, duplicates: int = 0) -> DataFrame:
    once = (
        spark.range(rows)
        .withColumn("h", expr("xxhash64(id, 2L)"))
        .withColumn("arrival", expr("unix_millis(TIMESTAMP'2025-12-01T00:00:00Z') + id * 100"))
        .selectExpr(
            "id AS event_id",
            f"cast({rows // 30} * pow({unit('h')}, 3) AS BIGINT) AS customer_id",
            f"cast({max(50, rows // 200)} * pow({unit('xxhash64(h)')}, 2) AS BIGINT) AS product_id",
            pick("shiftright(h, 50)", "view view view view view view view cart cart purchase")
            + " AS event_type",
            "timestamp_millis(arrival - pmod(h, 5000)) AS event_time",
            "timestamp_millis(arrival) AS arrival_time",
        )
    )
    # Also without duplicates, as in Java: the union doubles the partitions.
    return once.union(
        once.where(f"event_id * {duplicates} % {rows} < {duplicates}").withColumn(
            "arrival_time",
            expr(
                "timestamp_millis("
                "unix_millis(arrival_time) + 1000 + pmod(xxhash64(event_id), 29000))"
            ),
        )
    )


def create_table(spark: SparkSession) -> None:
    products = spark.sql(
        """
        SELECT * FROM VALUES
          (1L, 'Lamp',  CAST(29.90 AS DECIMAL(12,2))),
          (2L, 'Chair', CAST(149.00 AS DECIMAL(12,2))),
          (3L, 'Clock', CAST(19.50 AS DECIMAL(12,2))),
          (4L, 'Desk',  CAST(399.00 AS DECIMAL(12,2)))
          AS products (product_id, name, price)
        """
    )

    def by_data_frame() -> None:
        price = col("price").alias("price", metadata={"comment": "in euros"})
        (
            products.withColumn("price", price)
            .writeTo("by_data_frame")
            .using("delta")
            .tableProperty("comment", "the products")
            .tableProperty("delta.appendOnly", "true")
            .create()
        )

    by_data_frame()
    (
        DeltaTable.create(spark)
        .tableName("by_builder")
        .comment("the products")
        .property("delta.appendOnly", "true")
        .addColumn("product_id", "BIGINT")
        .addColumn("name", "STRING")
        .addColumn("price", "DECIMAL(12,2)", comment="in euros")
        .execute()
    )
    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table) (
          product_id BIGINT, name STRING, price DECIMAL(12,2) COMMENT 'in euros'
        )
        USING delta
        COMMENT 'the products'
        TBLPROPERTIES ('delta.appendOnly' = 'true')
        """,
        args={"table": "by_sql"},
    )
    for table in ["by_data_frame", "by_builder", "by_sql"]:
        show(spark.sql("DESCRIBE TABLE " + table))
    show(
        spark.sql("DESCRIBE DETAIL by_data_frame").select(
            "format",
            "description",
            "properties",
            "numFiles",
            "minReaderVersion",
            "minWriterVersion",
        )
    )

    refused(AnalysisException, "TABLE_OR_VIEW_ALREADY_EXISTS", by_data_frame)

    spark.sql(
        """
        CREATE TABLE IDENTIFIER(:table)
        USING delta
        COMMENT 'the dear products'
        AS SELECT product_id, name, price FROM IDENTIFIER(:products) WHERE price >= :minimum
        """,
        args={"table": "expensive", "products": "by_data_frame", "minimum": 100},
    )
    show(spark.table("expensive").orderBy("product_id"))

    other = spark.sql("SELECT 'Desk' AS name, 1 AS in_stock")
    other.writeTo("expensive").using("delta").createOrReplace()
    show(spark.table("expensive"))
    show(history(spark, "expensive").select("version", "operation"))
    show(spark.sql("SELECT * FROM expensive VERSION AS OF 0 ORDER BY product_id"))


def acid_transactions(spark: SparkSession) -> None:
    orders = sample_orders(spark, 30_000)
    append("orders", orders.where("order_date < '2025-07-01'"))
    append("orders", orders.where("order_date >= '2025-07-01'"))
    DeltaTable.forName(spark, "orders").update(
        (col("status") == "open") & (col("order_date") <= lit("2025-01-31").cast("date")),
        {"status": lit("shipped")},
    )
    DeltaTable.forName(spark, "orders").delete(col("status") == "cancelled")
    show(
        history(spark, "orders").selectExpr(
            "version",
            "operation",
            "operationMetrics.numOutputRows AS written",
            "operationMetrics.numUpdatedRows AS updated",
            "operationMetrics.numDeletedRows AS deleted",
            "operationMetrics.numAddedFiles AS files_added",
            "operationMetrics.numRemovedFiles AS files_removed",
        )
    )
    rows = spark.table("orders").count()
    version = history(spark, "orders").count() - 1
    print(rows, "rows at version", version)

    last = orders.count() - 1
    bad = orders.repartitionByRange(4, col("order_id")).withColumn(
        "amount", expr(f"IF(order_id = {last}, -1.00BD, amount)")
    )
    checked = bad.withColumn(
        "amount",
        expr(
            """
            CASE WHEN amount > 0 THEN amount
                 ELSE raise_error(concat('order ', order_id, ' has the amount ',
                                         coalesce(cast(amount AS STRING), 'NULL')))
            END
            """
        ),
    )
    # PySpark has no class of its own for a SparkException.
    refused(Py4JJavaError, "USER_RAISED_EXCEPTION", lambda: append("orders", checked))
    print(orders.count(), "rows not appended")
    rows = spark.table("orders").count()
    version = history(spark, "orders").count() - 1
    print(rows, "rows at version", version)


def time_travel(spark: SparkSession) -> None:
    def at_version(version: int) -> DataFrame:
        return spark.read.option("versionAsOf", version).table("stock")

    def at_time(moment: datetime) -> DataFrame:
        return spark.read.option("timestampAsOf", utc(moment)).table("stock")

    spark.sql("CREATE TABLE stock (product STRING, pieces INT) USING delta")
    spark.sql("INSERT INTO stock VALUES ('lamp', 10), ('chair', 4), ('clock', 7)")
    spark.sql("UPDATE stock SET pieces = 3 WHERE product = 'chair'")
    spark.sql("DELETE FROM stock WHERE product = 'clock'")
    spark.sql("INSERT INTO stock VALUES ('desk', 2)")

    commits = history(spark, "stock")
    show(commits.select("version", "timestamp", "operation"))
    show(spark.table("stock").orderBy("product"))

    show(at_version(1).orderBy("product"))
    show(spark.sql("SELECT * FROM stock VERSION AS OF 1 ORDER BY product"))

    moment = commits.where("version = 2").select("timestamp").head()[0]
    show(at_time(moment).orderBy("product"))
    show(spark.sql(f"SELECT * FROM stock TIMESTAMP AS OF '{utc(moment)}' ORDER BY product"))

    before = at_version(1)
    after = at_version(4)
    added = after.exceptAll(before).withColumn("change", lit("added"))
    removed = before.exceptAll(after).withColumn("change", lit("removed"))
    show(added.unionByName(removed).orderBy("product", "change"))

    refused(AnalysisException, "DELTA_VERSION_NOT_FOUND", lambda: at_version(99).show())
    refused(
        AnalysisException,
        "DELTA_TIMESTAMP_GREATER_THAN_COMMIT",
        lambda: at_time(moment + timedelta(days=1)).show(),
    )


def schema_evolution(spark: SparkSession) -> None:
    def customers() -> DataFrame:
        return spark.table("customers")

    def alter(change: str) -> None:
        spark.sql("ALTER TABLE IDENTIFIER(:table) " + change, args={"table": "customers"})

    def data_files() -> list[Row]:
        files = customers().select("_metadata.file_path").distinct()
        return files.orderBy("file_path").collect()

    spark.sql(
        """
        CREATE TABLE customers (customer_id INT, name STRING, address STRUCT<city: STRING>)
        USING delta
        """
    )
    spark.sql(
        """
        INSERT INTO customers VALUES
          (1, 'Ada',   named_struct('city', 'Berlin')),
          (2, 'Grace', named_struct('city', 'Paris'))
        """
    )
    with_email = spark.sql(
        """
        SELECT 3 AS customer_id, 'Radia' AS name,
               named_struct('city', 'Rome', 'zip', '00185') AS address,
               'radia@example.com' AS email
        """
    )

    refused(
        AnalysisException,
        "DELTA_METADATA_MISMATCH",
        lambda: append("customers", with_email),
    )
    (
        with_email.write.format("delta")
        .mode("append")
        .option("mergeSchema", "true")
        .saveAsTable("customers")
    )
    show(customers().orderBy("customer_id"))

    levels = spark.sql(
        "SELECT * FROM VALUES (2, 'gold'), (4, 'silver') AS changes (customer_id, level)"
    )
    (
        DeltaTable.forName(spark, "customers")
        .alias("t")
        .merge(levels.alias("c"), "t.customer_id = c.customer_id")
        .withSchemaEvolution()
        .whenMatchedUpdateAll()
        .whenNotMatchedInsertAll()
        .execute()
    )
    show(customers().orderBy("customer_id"))

    before = data_files()
    alter("SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    alter("ALTER COLUMN `customer_id` TYPE BIGINT")
    alter("SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')")
    alter("RENAME COLUMN `level` TO `tier`")
    alter("DROP COLUMN `email`")
    show(customers().orderBy("customer_id"))
    show(spark.sql("DESCRIBE TABLE customers"))
    print("the same files:", data_files() == before)

    (
        spark.sql("SELECT 'Ada' AS customer, 3 AS orders")
        .write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .saveAsTable("customers")
    )
    show(customers())
    version = history(spark, "customers").count() - 1
    old = spark.read.option("versionAsOf", version - 1).table("customers")
    show(old.orderBy("customer_id"))


def merge_upsert(spark: SparkSession) -> None:
    def show_customers() -> None:
        show(spark.table("customers").orderBy("customer_id"))

    def upsert(changes: DataFrame) -> None:
        (
            DeltaTable.forName(spark, "customers")
            .alias("t")
            .merge(changes.alias("c"), "t.customer_id = c.customer_id")
            .whenMatchedUpdateAll()
            .whenNotMatchedInsertAll()
            .execute()
        )

    def insert_new(batch: DataFrame) -> None:
        (
            DeltaTable.forName(spark, "events")
            .alias("t")
            .merge(batch.dropDuplicates(["event_id"]).alias("b"), "t.event_id = b.event_id")
            .whenNotMatchedInsertAll()
            .execute()
        )

    spark.sql(
        """
        CREATE TABLE customers (customer_id BIGINT, name STRING, city STRING, updated_at TIMESTAMP)
        USING delta
        """
    )
    spark.sql(
        """
        INSERT INTO customers VALUES
          (1, 'Ada',   'Berlin', TIMESTAMP'2025-03-01 08:00:00'),
          (2, 'Grace', 'Paris',  TIMESTAMP'2025-03-01 08:00:00'),
          (3, 'Radia', 'Rome',   TIMESTAMP'2025-03-01 08:00:00')
        """
    )
    changes = spark.sql(
        """
        SELECT * FROM VALUES
          (2L, 'Grace',  'Madrid', TIMESTAMP'2025-03-02 09:00:00'),
          (4L, 'Edsger', 'Vienna', TIMESTAMP'2025-03-02 09:30:00')
          AS changes (customer_id, name, city, updated_at)
        """
    )
    show_customers()
    show(changes)
    upsert(changes)
    show_customers()
    show(
        DeltaTable.forName(spark, "customers")
        .history(1)
        .selectExpr(
            "version",
            "operation",
            "operationMetrics.numTargetRowsUpdated AS updated",
            "operationMetrics.numTargetRowsInserted AS inserted",
        )
    )

    twice = spark.sql(
        """
        SELECT * FROM VALUES
          (1L, 'Ada', 'Hamburg', TIMESTAMP'2025-03-03 10:00:00'),
          (1L, 'Ada', 'Munich',  TIMESTAMP'2025-03-03 11:00:00')
          AS changes (customer_id, name, city, updated_at)
        """
    )
    refused(
        UnsupportedOperationException,
        "DELTA_MULTIPLE_SOURCE_ROW_MATCHING_TARGET_ROW_IN_MERGE",
        lambda: upsert(twice),
    )
    latest = twice.groupBy("customer_id").agg(expr("max_by(struct(*), updated_at) AS latest"))
    upsert(latest.select("latest.*"))
    show_customers()

    told = spark.sql(
        """
        SELECT * FROM VALUES
          (2L, 'Grace', 'Lisbon', TIMESTAMP'2025-03-01 12:00:00', 'upsert'),
          (3L, NULL,    NULL,     TIMESTAMP'2025-03-04 08:00:00', 'delete')
          AS changes (customer_id, name, city, updated_at, op)
        """
    )
    values = {name: "c." + name for name in ["customer_id", "name", "city", "updated_at"]}
    (
        DeltaTable.forName(spark, "customers")
        .alias("t")
        .merge(told.alias("c"), "t.customer_id = c.customer_id")
        .whenMatchedDelete("c.op = 'delete' AND c.updated_at > t.updated_at")
        .whenMatchedUpdate("c.op = 'upsert' AND c.updated_at > t.updated_at", values)
        .whenNotMatchedInsert("c.op = 'upsert'", values)
        .execute()
    )
    show_customers()

    source = spark.sql(
        """
        SELECT * FROM VALUES
          (1L, 'Ada',    'Munich', TIMESTAMP'2025-03-03 11:00:00'),
          (5L, 'Leslie', 'Oslo',   TIMESTAMP'2025-03-05 08:00:00')
          AS source (customer_id, name, city, updated_at)
        """
    )
    if source.isEmpty():
        raise ValueError("the source is empty")
    (
        DeltaTable.forName(spark, "customers")
        .alias("t")
        .merge(source.alias("s"), "t.customer_id = s.customer_id")
        .whenMatchedUpdateAll("t.updated_at <> s.updated_at")
        .whenNotMatchedInsertAll()
        .whenNotMatchedBySourceDelete()
        .execute()
    )
    show_customers()

    events = sample_events(spark, 1_000, duplicates=50)
    events.limit(0).write.format("delta").saveAsTable("events")
    insert_new(events)
    once = spark.table("events").count()
    insert_new(events)
    # Java counts the batch twice as well.
    rows = events.count()
    sent_twice = events.count() - once
    stored = spark.table("events").where(col("event_id").isNotNull()).count()
    print(rows, "rows,", sent_twice, "sent twice,", once, "stored, then", stored)


def optimize_table(spark: SparkSession) -> None:
    def enable(table: str, option: str) -> None:
        spark.sql(
            "ALTER TABLE IDENTIFIER(:table)"
            f" SET TBLPROPERTIES ('delta.autoOptimize.{option}' = 'true')",
            args={"table": table},
        )

    def read(where: str) -> None:
        spark.table("events").where(where).write.format("noop").mode("overwrite").save()

    events = sample_events(spark, 40_000)
    events.repartition(64).write.format("delta").saveAsTable("events")
    spark.conf.set("spark.databricks.delta.optimize.maxFileSize", "65536")
    begin = events.selectExpr("min(event_time)").head()[0] + timedelta(seconds=1_200)
    end = begin + timedelta(seconds=60)
    for layout in ["as written", "compacted", "Z-ordered"]:
        if layout == "compacted":
            DeltaTable.forName(spark, "events").optimize().executeCompaction()
        elif layout == "Z-ordered":
            DeltaTable.forName(spark, "events").optimize().executeZOrderBy(
                "event_time", "customer_id"
            )
        read(f"event_time BETWEEN '{utc(begin)}' AND '{utc(end)}'")
        read("customer_id = 500")
    show(
        history(spark, "events").selectExpr(
            "version",
            "operation",
            "operationParameters.zOrderBy AS z_order_by",
            "operationMetrics.numRemovedFiles AS files_removed",
            "operationMetrics.numAddedFiles AS files_added",
        )
    )

    tables = ["plain", "optimized_writes", "auto_compaction"]
    for table in tables:
        events.limit(0).write.format("delta").saveAsTable(table)
    enable("optimized_writes", "optimizeWrite")
    enable("auto_compaction", "autoCompact")
    for table in tables:
        append(table, events.repartition(60))
        print(table, spark.sql("DESCRIBE DETAIL " + table).head()["numFiles"], "files")

    refused(
        IllegalArgumentException,
        "DELTA_VACUUM_RETENTION_PERIOD_TOO_SHORT",
        lambda: DeltaTable.forName(spark, "events").vacuum(0),
    )
    old = spark.sql("VACUUM events DRY RUN").count()
    check = "spark.databricks.delta.retentionDurationCheck.enabled"
    spark.conf.set(check, "false")
    try:
        unneeded = spark.sql("VACUUM events RETAIN 0 HOURS DRY RUN").count()
    finally:
        spark.conf.unset(check)
    print(old, "files older than a week,", unneeded, "of any age")


seconds: dict[str, float] = {}
with tempfile.TemporaryDirectory() as folder:
    for example in [
        create_table,
        acid_transactions,
        time_travel,
        schema_evolution,
        merge_upsert,
        optimize_table,
    ]:
        name = example.__name__
        # A new session knows no tables, but would find the files of the last one's.
        spark = session(name, f"{folder}/{name}")
        spark.sparkContext.setLogLevel("ERROR")
        begin = time.perf_counter()
        example(spark)
        seconds[name] = time.perf_counter() - begin
        spark.stop()

for name, taken in seconds.items():
    print("%s %.2f s" % (name, taken))
print("seconds %.2f" % (time.perf_counter() - start))
