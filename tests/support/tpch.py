"""TPC-H answered by DuckDB, on the same Parquet files: what the sealed answers are compared with."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import duckdb

DAG_FOLDER = Path(__file__).resolve().parents[2] / "dags" / "tpch"
QUERIES = tuple(f"q{number:02}" for number in range(1, 23))
TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
Rows = list[tuple[object, ...]]


def database(tables: Path) -> duckdb.DuckDBPyConnection:
    """The tables of a folder as views."""
    connection = duckdb.connect()
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{tables / table}.parquet')")  # noqa: S608
    return connection


def query_text(query: str) -> str:
    """The text of a query as it is shipped."""
    return (DAG_FOLDER / f"{query}.sql").read_text()


def opened_answer(file: Path) -> Rows:
    """What the recipient's agent wrote."""
    return duckdb.sql(f"SELECT * FROM read_csv('{file}', header = true, all_varchar = true)").fetchall()  # noqa: S608


def differences(found: Rows, wanted: Rows) -> list[str]:
    """The first differences: rows in their order, numbers as equal as the scale of Spark's decimals lets them be."""
    if len(found) != len(wanted):
        return [f"{len(found)} rows, wanted {len(wanted)}"]
    return [
        f"row {number}: {row}, wanted {other}"
        for number, (row, other) in enumerate(zip(found, wanted, strict=True))
        if len(row) != len(other) or not all(map(_is_same, row, other))
    ][:3]


def _is_same(found: object, wanted: object) -> bool:
    if isinstance(wanted, int | float | Decimal):
        return math.isclose(float(str(found)), float(wanted), rel_tol=1e-6, abs_tol=1e-6)
    return str(found) == str(wanted)
