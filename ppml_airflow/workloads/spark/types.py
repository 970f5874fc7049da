"""Column types: Arrow's, which manifests write as `str(pyarrow.DataType)`, and Spark's, as its JSON schema has them.

Refuses types that Parquet and Spark do not hold alike, naming the column.
"""

from __future__ import annotations

import re
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column

_SPARK_OF_ARROW = {
    "bool": "boolean",
    "int8": "byte",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "uint8": "short",
    "uint16": "integer",
    "uint32": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "large_string": "string",
    "binary": "binary",
    "large_binary": "binary",
    "date32[day]": "date",
    "timestamp[ms]": "timestamp_ntz",
    "timestamp[us]": "timestamp_ntz",
    "timestamp[ms, tz=UTC]": "timestamp",
    "timestamp[us, tz=UTC]": "timestamp",
}
_ARROW_OF_SPARK = {
    "boolean": "bool",
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "date": "date32[day]",
    "timestamp_ntz": "timestamp[us]",
    "timestamp": "timestamp[us, tz=UTC]",
}
_DECIMAL = re.compile(r"decimal128\((\d+), (\d+)\)")
_SPARK_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")


def spark_schema(columns: tuple[Column, ...], *, view: str) -> dict[str, Any]:
    """Return the columns as Spark's JSON schema.

    Raises:
        ConfigurationError: a column has a type that Spark does not read.
    """
    return {"type": "struct", "fields": [_field(column.name, _spark_type(column, view)) for column in columns]}


def arrow_columns(fields: list[dict[str, Any]], *, dataset: str) -> tuple[Column, ...]:
    """Return Spark's fields (name, JSON type) as the columns of a manifest.

    Raises:
        ConfigurationError: two columns differ by case alone, or one has a type that a sealed table cannot hold.
    """
    seen: set[str] = set()
    for field in fields:
        if field["name"].lower() in seen:
            raise ConfigurationError(
                f"output {dataset} has column {field['name']} twice", code="sql_invalid", hint="rename one with AS"
            )
        seen.add(field["name"].lower())
    return tuple(Column(name=field["name"], type=_arrow_type(field["type"], field["name"])) for field in fields)


def _field(name: str, spark_type: Any) -> dict[str, Any]:
    return {"name": name, "type": spark_type, "nullable": True, "metadata": {}}


def _spark_type(column: Column, view: str) -> Any:
    try:
        found = _parse(column.type.replace(" not null", ""))
    except ValueError as error:
        raise ConfigurationError(
            f"column {column.name} of {view} has type {column.type}, which Spark does not read"
        ) from error
    return found


def _parse(arrow: str) -> Any:
    if arrow in _SPARK_OF_ARROW:
        return _SPARK_OF_ARROW[arrow]
    if decimal := _DECIMAL.fullmatch(arrow):
        return f"decimal({decimal[1]},{decimal[2]})"
    if nested := re.fullmatch(r"(?:large_)?list<[^:]*: (.*)>", arrow):
        return {"type": "array", "elementType": _parse(nested[1]), "containsNull": True}
    if nested := re.fullmatch(r"struct<(.*)>", arrow):
        members = (member.partition(": ") for member in _split(nested[1]))
        return {"type": "struct", "fields": [_field(name, _parse(inner)) for name, _, inner in members]}
    raise ValueError(arrow)


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
    depth, start, parts = 0, 0, []
    for index, character in enumerate(text):
        depth += (character in "<([") - (character in ">)]")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 2
    return [*parts, text[start:]]


def _arrow_type(spark: Any, column: str) -> str:
    if isinstance(spark, str):
        if spark in _ARROW_OF_SPARK:
            return _ARROW_OF_SPARK[spark]
        if decimal := _SPARK_DECIMAL.fullmatch(spark):
            return f"decimal128({decimal[1]}, {decimal[2]})"
    elif spark["type"] == "array":
        return f"list<element: {_arrow_type(spark['elementType'], column)}>"
    elif spark["type"] == "struct":
        members = (f"{member['name']}: {_arrow_type(member['type'], column)}" for member in spark["fields"])
        return f"struct<{', '.join(members)}>"
    name = spark if isinstance(spark, str) else spark["type"]
    raise ConfigurationError(
        f"output column {column} has type {name}, which a sealed table cannot hold",
        code="sql_invalid",
        hint="cast it to a number, string, date, timestamp, list or struct",
    )
