"""The first six examples' steps on the course's handful of rows: a session for each step, as the Python course has it.

Prints the seconds of each step, and from the first import to the end of the last session.
"""

import sys
import tempfile
import time

start = time.perf_counter()

from delta.tables import DeltaTable  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402


def session(name: str) -> SparkSession:
    return (
        SparkSession.builder.appName(name)
        .master("local[*]")
        .config("spark.jars", sys.argv[1])
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        # Not settings of the course: they keep the sockets on this machine and the log readable.
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def people(spark: SparkSession, *rows: tuple) -> DataFrame:
    return spark.createDataFrame(rows, ["id", "name", "age", "email"][: len(rows[0])])


def show(spark: SparkSession, path: str) -> None:
    spark.read.format("delta").load(path).orderBy("id").show()


def create(spark: SparkSession, path: str) -> None:
    rows = people(spark, (1, "Alice", 30), (2, "Bob", 25), (3, "Carol", 35))
    rows.write.format("delta").save(path)
    show(spark, path)


def change(spark: SparkSession, path: str) -> None:
    create(spark, path)
    people(spark, (4, "David", 28), (5, "Eve", 32)).write.format("delta").mode("append").save(path)
    show(spark, path)
    table = DeltaTable.forPath(spark, path)
    table.update("name = 'Bob'", {"age": "26"})
    show(spark, path)
    table.delete("age < 27")
    show(spark, path)


def travel(spark: SparkSession, path: str) -> None:
    create(spark, path)
    people(spark, (4, "David", 28), (5, "Eve", 32)).write.format("delta").mode("append").save(path)
    DeltaTable.forPath(spark, path).history().select("version", "timestamp", "operation").show()
    spark.read.format("delta").option("versionAsOf", 0).load(path).orderBy("id").show()


def evolve(spark: SparkSession, path: str) -> None:
    create(spark, path)
    rows = people(spark, (6, "Frank", 40, "frank@example.com"))
    rows.write.format("delta").mode("append").option("mergeSchema", "true").save(path)
    show(spark, path)


def merge(spark: SparkSession, path: str) -> None:
    create(spark, path)
    changes = people(spark, (1, "Alice", 31), (7, "Grace", 29))
    (
        DeltaTable.forPath(spark, path)
        .alias("t")
        .merge(changes.alias("c"), "t.id = c.id")
        .whenMatchedUpdateAll()
        .whenNotMatchedInsertAll()
        .execute()
    )
    show(spark, path)


def optimize(spark: SparkSession, path: str) -> None:
    create(spark, path)
    people(spark, (4, "David", 28), (5, "Eve", 32)).write.format("delta").mode("append").save(path)
    table = DeltaTable.forPath(spark, path)
    table.optimize().executeCompaction().show()
    table.optimize().executeZOrderBy("age").show()
    show(spark, path)
    table.vacuum(168)


for step in [create, change, travel, evolve, merge, optimize]:
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        spark = session(step.__name__)
        spark.sparkContext.setLogLevel("ERROR")
        step(spark, folder + "/people")
        spark.stop()
    print("%s %.2f s" % (step.__name__, time.perf_counter() - begin))

print("seconds %.2f" % (time.perf_counter() - start))
