"""Columns of a table as they are sealed: which names and Arrow types, so that Spark and pyarrow read the same.

Refuses names that are empty, repeated, or differ only by case (Spark does not tell them apart), and types that Spark
cannot read. Other types are turned into the nearest one that holds every value; a value that it cannot hold is an
error, never a silent loss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import types

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column

_MAX_DECIMAL_PRECISION = 38
_WIDER: dict[pa.DataType, pa.DataType] = {
    pa.null(): pa.string(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
_SIMPLE: tuple[pa.DataType, ...] = (
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
)


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """The columns as a manifest names them."""
    return tuple(Column(name=field.name, type=str(field.type)) for field in schema)


def simple_type(text: str) -> pa.DataType | None:
    """The Arrow type that a manifest calls by this text, if it is a simple one."""
    return next((simple for simple in _SIMPLE if str(simple) == text), None)


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """The schema of a table with these columns: simple types, decimals, and lists of them.

    Raises:
        ConfigurationError: a column has another type.
    """
    fields = []
    for column in columns:
        found = _parsed(column.type)
        if found is None:
            raise ConfigurationError(f"column {column.name} has type {column.type}, which cannot be written here")
        fields.append(pa.field(column.name, found))
    return pa.schema(fields)


def _parsed(text: str) -> pa.DataType | None:
    if decimal := re.fullmatch(r"decimal128\((\d+), (\d+)\)", text):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if nested := re.fullmatch(r"list<element: (.*)>", text):
        inner = _parsed(nested[1])
        return None if inner is None else pa.list_(pa.field("element", inner))
    return simple_type(text)


def sealed_schema(schema: pa.Schema, *, path: Path) -> pa.Schema:
    """The schema under which a table of this schema is sealed.

    Raises:
        ConfigurationError: a name or type that is refused; `path` and the column are named.
    """
    require_names(schema.names, path=path)
    fields = []
    for field in schema:
        sealed = _sealed_type(field.type)
        if sealed is None:
            raise ConfigurationError(
                f"file {path}, column {field.name}: type {field.type} cannot be sealed",
                hint="store the column as a number, text, date or timestamp",
            )
        fields.append(pa.field(field.name, sealed))
    return pa.schema(fields)


def require_names(names: Sequence[str], *, path: Path) -> None:
    """Require at least one column, and names that Spark tells apart.

    Raises:
        ConfigurationError: no columns, or an empty, unprintable or repeated name.
    """
    if not names:
        raise ConfigurationError(f"file {path} has no columns")
    first_use: dict[str, str] = {}
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise ConfigurationError(f"file {path}, column {position}: its name is empty")
        if not name.isprintable():
            raise ConfigurationError(f"file {path}, column {position}: its name holds unprintable characters")
        earlier = first_use.setdefault(name.casefold(), name)
        if earlier != name:
            raise ConfigurationError(f"file {path}, column {name}: its name differs from {earlier} only by case")
        if names.index(name) != position - 1:
            raise ConfigurationError(f"file {path}, column {name}: its name is used twice")


def require_columns(schema: pa.Schema, *, expected: Sequence[Column], path: Path) -> None:
    """Require that a table has the expected columns, with their types. Other columns may be there too.

    Raises:
        ConfigurationError: a column is missing, or has another type.
    """
    found = {column.name: column.type for column in columns_of(schema)}
    for column in expected:
        if column.name not in found:
            raise ConfigurationError(f"file {path}, column {column.name}: it is missing")
        if found[column.name] != column.type:
            raise ConfigurationError(
                f"file {path}, column {column.name}: its type is {found[column.name]}, wanted {column.type}"
            )


def _sealed_type(found: pa.DataType) -> pa.DataType | None:
    found = _WIDER.get(found, found)
    if found in _SIMPLE:
        return found
    if types.is_timestamp(found):
        return pa.timestamp("us", "UTC") if found.tz else pa.timestamp("us")
    if types.is_decimal(found):
        holds = found.precision <= _MAX_DECIMAL_PRECISION and 0 <= found.scale <= found.precision
        return pa.decimal128(found.precision, found.scale) if holds else None
    if types.is_fixed_size_binary(found):
        return pa.binary()
    if types.is_dictionary(found):
        return _sealed_type(found.value_type)
    return _sealed_nested(found)


def _sealed_nested(found: pa.DataType) -> pa.DataType | None:
    if types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found):
        item = _sealed_type(found.value_type)
        return pa.list_(item) if item is not None else None
    if types.is_map(found):
        key, item = _sealed_type(found.key_type), _sealed_type(found.item_type)
        return pa.map_(key, item) if key is not None and item is not None else None
    if types.is_struct(found) and found.num_fields:
        fields = [(field.name, _sealed_type(field.type)) for field in found]
        return pa.struct(fields) if all(item is not None for _, item in fields) else None
    return None
