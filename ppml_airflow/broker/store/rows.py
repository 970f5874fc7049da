"""Rows by the values of their columns.

Each statement is built once: SQLAlchemy takes four times longer to build and compile one than to run it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

_WANTED = "wanted_"
"""Before the names of the columns that choose rows: an update has values of the same names."""


def find(connection: Connection, table: sa.Table, **wanted: Any) -> Row[Any] | None:
    """The only row that has these values, or None."""
    return connection.execute(_select(table, tuple(wanted), None), _parameters(wanted)).one_or_none()


def find_all(connection: Connection, table: sa.Table, *, order: str, **wanted: Any) -> list[Row[Any]]:
    """The rows that have these values, in the order of a column."""
    return list(connection.execute(_select(table, tuple(wanted), order), _parameters(wanted)))


def insert(connection: Connection, table: sa.Table, **values: Any) -> None:
    """Add a row."""
    connection.execute(_insert(table), values)


def insert_new(connection: Connection, table: sa.Table, **values: Any) -> bool:
    """Add a row, unless there is one that it would be taken for; whether it was added."""
    return connection.execute(_insert_new(table, tuple(values)), values).rowcount == 1


def update(connection: Connection, table: sa.Table, *, where: dict[str, Any], **values: Any) -> int:
    """Change the rows that have the values of `where`; how many there were."""
    return connection.execute(_update(table, tuple(where)), values | _parameters(where)).rowcount


def delete(connection: Connection, table: sa.Table, **wanted: Any) -> None:
    """Remove the rows that have these values."""
    connection.execute(_delete(table, tuple(wanted)), _parameters(wanted))


def _parameters(wanted: dict[str, Any]) -> dict[str, Any]:
    return {_WANTED + name: value for name, value in wanted.items()}


def _conditions(table: sa.Table, wanted: tuple[str, ...]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == sa.bindparam(_WANTED + name) for name in wanted]


@cache
def _select(table: sa.Table, wanted: tuple[str, ...], order: str | None) -> sa.Select[Any]:
    query = sa.select(table).where(*_conditions(table, wanted))
    return query if order is None else query.order_by(table.c[order])


@cache
def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


@cache
def _insert_new(table: sa.Table, names: tuple[str, ...]) -> sa.TextClause:
    columns, parameters = ", ".join(names), ", ".join(f":{name}" for name in names)
    return sa.text(f"INSERT INTO {table.name} ({columns}) VALUES ({parameters}) ON CONFLICT DO NOTHING")  # noqa: S608


@cache
def _update(table: sa.Table, wanted: tuple[str, ...]) -> sa.Update:
    return sa.update(table).where(*_conditions(table, wanted))


@cache
def _delete(table: sa.Table, wanted: tuple[str, ...]) -> sa.Delete:
    return sa.delete(table).where(*_conditions(table, wanted))
