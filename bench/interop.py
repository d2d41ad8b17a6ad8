"""Reads Delta tables with delta-rs and with DuckDB, and compares them with what Spark read.

The first argument is a file of lines "name, tab, file that Interop.java wrote, tab, folder of the
table". Compares the columns' names and types and all rows, in any order; not whether a column may
be null, which DuckDB does not tell.
"""

import datetime
import json
import struct
import sys
from collections import Counter
from pathlib import Path

import deltalake
import duckdb
import duckdb_ext
import pyarrow as pa

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def read_with_delta_rs(table: str) -> pa.Table:
    query = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(table))
    return pa.table(query.execute("SELECT * FROM t").read_all())


def read_with_duckdb(table: str) -> pa.Table:
    with duckdb.connect() as connection:
        # The extension is a file of a PyPI package; DuckDB itself would download it.
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        folder = Path(next(iter(duckdb_ext.__path__)))
        connection.load_extension(str(next(folder.rglob("delta.duckdb_extension"))))
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute("SELECT * FROM delta_scan(?)", [table]).fetch_arrow_table()


ENGINES = {"deltalake": read_with_delta_rs, "duckdb": read_with_duckdb}

SIMPLE_TYPES = {
    pa.bool_(): "boolean",
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.string(): "string",
    pa.large_string(): "string",
    pa.string_view(): "string",
    pa.binary(): "binary",
    pa.large_binary(): "binary",
    pa.binary_view(): "binary",
    pa.null(): "void",
}


def spark_type(t: pa.DataType) -> str:
    """An Arrow type as Spark calls it; one that Spark does not have, as Arrow calls it."""
    if t in SIMPLE_TYPES:
        return SIMPLE_TYPES[t]
    if pa.types.is_dictionary(t):
        return spark_type(t.value_type)
    if pa.types.is_decimal(t):
        return f"decimal({t.precision},{t.scale})"
    if pa.types.is_timestamp(t) and t.unit == "us":
        return "timestamp" if t.tz else "timestamp_ntz"
    # Before lists: Arrow's map is a list of entries.
    if pa.types.is_map(t):
        return f"map<{spark_type(t.key_type)},{spark_type(t.item_type)}>"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_list_view(t):
        return f"array<{spark_type(t.value_type)}>"
    if pa.types.is_struct(t):
        return "struct<%s>" % ",".join(f"{f.name}:{spark_type(f.type)}" for f in t)
    return str(t)


def text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def canonical(value: object, t: pa.DataType) -> object:
    """The same as the method of that name in Interop.java."""
    if value is None:
        return None
    if pa.types.is_dictionary(t):
        return canonical(value, t.value_type)
    if pa.types.is_struct(t):
        return [canonical(value[f.name], f.type) for f in t]
    if pa.types.is_map(t):
        entries = [[canonical(k, t.key_type), canonical(v, t.item_type)] for k, v in value]
        return sorted(entries, key=text)
    if isinstance(value, list):
        return [canonical(element, t.value_type) for element in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return struct.pack(">d", value).hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.datetime):
        utc = value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)
        return str((utc - EPOCH) // MICROSECOND)
    if pa.types.is_decimal(t):
        return format(value, "f")
    # Whole numbers, strings and dates say it themselves.
    return str(value)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shortened(lines[0].strip()) if lines else type(error).__name__


def shortened(words: str) -> str:
    return words if len(words) <= 160 else words[:159] + "…"


def first_difference(expected: Counter, actual: Counter) -> str:
    missing = list((expected - actual).elements())
    added = list((actual - expected).elements())
    examples = [f"Spark has {row}" for row in missing[:1]] + [f"not {row}" for row in added[:1]]
    return f"{len(missing)} rows missing, {len(added)} too many: " + ", ".join(
        shortened(example) for example in examples
    )


def compare(read, table: str, schema: list | str, rows: Counter) -> str:
    try:
        result = read(table)
    except Exception as e:
        return "refused: " + first_line(e)
    # In place of a schema: why Spark refuses the table.
    if isinstance(schema, str):
        return f"DIFFERENT: {result.num_rows} rows of a table that Spark refuses"
    actual_schema = [[f.name, spark_type(f.type)] for f in result.schema]
    if actual_schema != schema:
        wrong = [pair for pair in zip(schema, actual_schema) if pair[0] != pair[1]]
        return "DIFFERENT schema: " + text(wrong or [schema, actual_schema])
    types = [f.type for f in result.schema]
    # By position, not by name: as Interop.java does.
    columns = [result.column(i).to_pylist() for i in range(result.num_columns)]
    actual = Counter(
        text([canonical(v, t) for v, t in zip(row, types)]) for row in zip(*columns)
    )
    return "equal" if actual == rows else "DIFFERENT: " + first_difference(rows, actual)


def main() -> int:
    totals = {engine: Counter() for engine in ENGINES}
    print("table | rows | " + " | ".join(ENGINES))
    for line in Path(sys.argv[1]).read_text().splitlines():
        name, expected, table = line.split("\t")
        with open(expected, encoding="utf-8") as lines:
            schema = json.loads(next(lines))
            rows = Counter(text(json.loads(row)) for row in lines)
        outcomes = []
        for engine, read in ENGINES.items():
            outcome = compare(read, table, schema, rows)
            totals[engine][outcome.split(":")[0].split(" ")[0]] += 1
            outcomes.append(outcome)
        spark = f"Spark refuses: {schema}" if isinstance(schema, str) else str(rows.total())
        print(" | ".join([name, spark] + outcomes), flush=True)
    print(
        "; ".join(
            f"{engine} {t['equal']} equal, {t['refused']} refused, {t['DIFFERENT']} different"
            for engine, t in totals.items()
        )
    )
    return 1 if any(t["DIFFERENT"] for t in totals.values()) else 0


sys.exit(main())
