"""Records of a stream: one JSON object a line, as Flink's JSON format reads and writes them, and their columns.

Timestamps and dates are ISO 8601, decimals are numbers. Refuses columns that JSON does not hold without loss (bytes,
lists, structs, maps) and numbers that are not finite. Errors name file, column and row, and never a value.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from pyarrow import types

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.columns import sealed_schema, simple_type
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.units import MIB

BATCH_RECORDS = 8192

_ZONED = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def require_columns_of_records(schema: pa.Schema, *, path: Path) -> None:
    """Refuse columns that a record cannot hold.

    Raises:
        ConfigurationError: names the column.
    """
    for column in schema:
        if types.is_nested(column.type) or types.is_binary(column.type):
            raise ConfigurationError(
                f"file {path}, column {column.name}: type {column.type} does not fit into a stream",
                hint="store the column as a number, text, date or timestamp",
            )


def infer_records_schema(path: Path) -> pa.Schema:
    """Read a file of records whole and find its columns. Text that is a timestamp in UTC everywhere is one.

    Raises:
        ConfigurationError: not a JSON object a line, or a column whose values are not of one type.
    """
    table = _read(path.read_bytes(), path=path, schema=None)
    schema = table.schema
    for index, column in enumerate(schema):
        if types.is_string(column.type) and _is_zoned(table.column(index)):
            schema = schema.set(index, column.with_type(pa.timestamp("us", "UTC")))
    schema = sealed_schema(schema, path=path)
    require_columns_of_records(schema, path=path)
    return schema


def read_records(path: Path, *, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read a file of records with these columns; one that is missing is null.

    Raises:
        ConfigurationError: a record has another column, or a value that is not of its column's type.
    """
    yield from _read(path.read_bytes(), path=path, schema=schema).to_batches(max_chunksize=BATCH_RECORDS)


def encode_records(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Write rows as records.

    Raises:
        ConfigurationError: a number is not finite.
    """
    for batch in batches:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if types.is_floating(column.type) and pc.all(pc.is_finite(column)).as_py() is False:
                raise ConfigurationError(f"column {name} holds a number that is not finite", code="not_finite")
        yield from map(_ENCODER.encode, batch.to_pylist())


def decode_records(records: Sequence[bytes], *, columns: Sequence[Column], name: str) -> pa.Table:
    """Read records as rows of these columns.

    Args:
        records: authentic.
        columns: as the manifest has them.
        name: of the stream, for errors.

    Raises:
        VerificationError: a column has a type that no stream has, or a record does not fit the columns.
    """
    schema = stream_schema(columns, name=name)
    if not records:
        return schema.empty_table()
    try:
        return _read(b"\n".join(records) + b"\n", path=Path(name), schema=schema)
    except ConfigurationError as error:
        raise VerificationError(f"stream {name} holds records that are not of its columns", code="other_columns") from (
            error
        )


def stream_schema(columns: Sequence[Column], *, name: str) -> pa.Schema:
    """The Arrow schema of a stream's columns.

    Raises:
        VerificationError: a column has a type that no stream has.
    """
    fields = []
    for column in columns:
        found = arrow_type(column.type)
        if found is None:
            raise VerificationError(f"column {column.name} of {name} is {column.type}, which no stream holds")
        fields.append(pa.field(column.name, found))
    return pa.schema(fields)


def arrow_type(text: str) -> pa.DataType | None:
    """The Arrow type that a manifest calls by this text, if a record can hold it."""
    if text.startswith("decimal128("):
        precision, scale = text.removeprefix("decimal128(").rstrip(")").split(", ")
        return pa.decimal128(int(precision), int(scale))
    found = simple_type(text)
    return None if found is None or types.is_binary(found) else found


def _read(data: bytes, *, path: Path, schema: pa.Schema | None) -> pa.Table:
    """Arrow's reader takes dates for numbers, so they are read as text and cast."""
    if not data.strip():
        if schema is None:
            raise ConfigurationError(f"file {path} holds no record")
        return schema.empty_table()
    as_text = None if schema is None else pa.schema([_dates_as_text(field) for field in schema])
    parse = pj.ParseOptions(explicit_schema=as_text, unexpected_field_behavior="infer" if schema is None else "error")
    block = pj.ReadOptions(block_size=max(MIB, len(data) if len(data) < 64 * MIB else 16 * MIB))
    try:
        table = pj.read_json(io.BytesIO(data), parse_options=parse, read_options=block)
        return table if schema is None else table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ConfigurationError(f"file {path}: {_reason(str(error))}") from None


def _dates_as_text(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if types.is_date(field.type) else field


def _reason(text: str) -> str:
    """What the reader says, if it cannot hold a value of the data: places and types only."""
    told = text.removeprefix("JSON parse error: ")
    return told if told != text and "couldn't" not in told else "a value does not fit the type of its column"


def _is_zoned(column: pa.ChunkedArray) -> bool:
    matches = pc.match_substring_regex(column.drop_null(), _ZONED)
    return len(matches) > 0 and bool(pc.all(matches).as_py())
