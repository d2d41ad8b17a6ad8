"""Makes TPC-H with DuckDB: the tables, the queries and what they must return.

The first argument is the scale, the second a new folder for tables/NAME.parquet,
expected/NUMBER.parquet and queries.json.
"""

import json
import re
import sys
from pathlib import Path

import duckdb
import duckdb_ext


def literal(path: Path) -> str:
    return "'%s'" % str(path).replace("'", "''")


def order_and_limit(sql: str) -> tuple[str, list[str], int | None]:
    """The query without its LIMIT, the columns that its result is ordered by, and the limit.

    No query orders anything but its result, so the last ORDER BY is that of the result.
    """
    limit = re.search(r"\sLIMIT\s+(\d+)$", sql)
    unlimited = sql[: limit.start()] if limit else sql
    if unlimited.count("ORDER BY") > 1:
        raise ValueError("More than one ORDER BY: " + sql)
    _, _, order = unlimited.partition("ORDER BY")
    columns = [re.sub(r"\s+(ASC|DESC)$", "", item.strip()) for item in order.split(",") if order]
    return unlimited, columns, int(limit[1]) if limit else None


def main() -> None:
    folder = Path(sys.argv[2])
    with duckdb.connect() as connection:
        # The extension is a file of a PyPI package; DuckDB itself would download it.
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        extensions = Path(next(iter(duckdb_ext.__path__)))
        connection.load_extension(str(next(extensions.rglob("tpch.duckdb_extension"))))
        connection.execute("CALL dbgen(sf = %s)" % float(sys.argv[1]))

        tables = folder / "tables"
        tables.mkdir(parents=True)
        for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            connection.execute(f"COPY {table} TO {literal(tables / f'{table}.parquet')} (FORMAT parquet)")

        expected = folder / "expected"
        expected.mkdir()
        queries = []
        for number, text in connection.execute("FROM tpch_queries()").fetchall():
            sql = text.strip().removesuffix(";").rstrip()
            # All rows, since a limit may cut rows that are equal in what they are ordered by, and
            # then it does not say which of them stay.
            unlimited, order_by, limit = order_and_limit(sql)
            rows = connection.sql(unlimited)
            # Parquet has no HUGEINT, and DuckDB would write a double.
            exact = [
                f'CAST("{name}" AS DECIMAL(38,0)) AS "{name}"' if t == "HUGEINT" else f'"{name}"'
                for name, t in zip(rows.columns, rows.types)
            ]
            rows.project(", ".join(exact)).write_parquet(str(expected / f"{number}.parquet"))
            queries.append({"number": number, "sql": sql, "orderBy": order_by, "limit": limit})
    (folder / "queries.json").write_text(json.dumps(queries))


main()
