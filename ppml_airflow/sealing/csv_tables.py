"""CSV files as tables: comma-separated, UTF-8, quotes as in RFC 4180, the first row names the columns.

The types are found by reading the whole file, so that a value late in it counts like an early one:

- A column is whole numbers, numbers, booleans, dates or timestamps (ISO 8601), the first of these that all values fit;
  else text. Whole numbers beyond 64 bits, and those that a double would round, are text: they are names, not amounts.
- A column where all but a few values (one, or up to 5 % and 100) fit one of these is refused: that is a mistake in the
  file far more often than a column of text, and a query would fail on it. To have it as text, declare it (`expected`).
- An empty value is null; in columns that are not text so are `NA`, `N/A`, `NULL`, `NaN` and the like.
- A file of a header alone is a table without rows.

Refuses ragged rows, other encodings, names that are empty, repeated, differ only by case, or look like a value: names
lie in the clear in the manifest, so a first row of data must never be taken for them. Errors name file, column and row
(the header is row 1, empty lines are not counted), and never a value.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.casts import Convert, first_misfit, misfits
from ppml_airflow.sealing.columns import require_names, simple_type
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.units import MIB

_BLOCK_BYTES = 8 * MIB
_ENDING_BYTES = 16
_CANDIDATES: dict[pa.DataType, str] = {
    pa.int64(): "a whole number",
    pa.float64(): "a number",
    pa.bool_(): "true or false",
    pa.date32(): "a date YYYY-MM-DD",
    pa.timestamp("us"): "a timestamp",
    pa.timestamp("us", "UTC"): "a timestamp with a zone",
}
_NULLS = pa.array(["", "#N/A", "#NA", "N/A", "n/a", "NA", "NULL", "null", "NaN", "nan", "-NaN", "-nan"])
_MISTAKES_ONE_IN = 20
_MISTAKES_AT_MOST = 100


@dataclass(slots=True, kw_only=True)
class _Observed:
    """What was seen of a column so far: how many values, and how many of them each type that is left does not fit."""

    values: int = 0
    misfits: dict[pa.DataType, int] = field(default_factory=lambda: dict.fromkeys(_CANDIDATES, 0))
    first_misfit: dict[pa.DataType, int] = field(default_factory=dict)

    @property
    def tolerated(self) -> int:
        return max(1, min(self.values // _MISTAKES_ONE_IN, _MISTAKES_AT_MOST))


def infer_schema(path: Path, *, expected: Sequence[Column] = ()) -> pa.Schema:
    """Read the whole file and find the types of its columns.

    Raises:
        ConfigurationError: the file, or a column or row of it, cannot be sealed.
    """
    known = {column.name: simple_type(column.type) for column in expected}
    names: list[str] = []
    observed: list[_Observed] = []
    for first_row, batch in _text_batches(path):
        if not names:
            names, observed = batch.schema.names, [_Observed() for _ in batch.schema]
        for name, column, seen in zip(names, batch.columns, observed, strict=True):
            if known.get(name) is None:
                _observe(seen, values=column, first_row=first_row)
            else:
                _converted(column, to=known[name], name=name, path=path, first_row=first_row)
    return pa.schema(
        [
            (name, known.get(name) or _decide(seen, name=name, path=path))
            for name, seen in zip(names, observed, strict=True)
        ]
    )


def read_batches(path: Path, *, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read the file in the types that `infer_schema` found.

    Raises:
        ConfigurationError: the file changed since.
    """
    for first_row, batch in _text_batches(path):
        if batch.schema.names != schema.names:
            raise ConfigurationError(f"file {path} changed while it was read: its columns are others")
        columns = [
            _converted(column, to=wanted.type, name=wanted.name, path=path, first_row=first_row)
            for wanted, column in zip(schema, batch.columns, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


# ---------------------------------------------------------------- types


def _observe(seen: _Observed, *, values: pa.Array, first_row: int) -> None:
    seen.values += len(values) - values.null_count
    for candidate in tuple(seen.misfits):
        for position in misfits(values, convert=partial(_convert, to=candidate)):
            seen.misfits[candidate] += 1
            seen.first_misfit.setdefault(candidate, first_row + position)
            if seen.misfits[candidate] > seen.tolerated:
                del seen.misfits[candidate]
                break


def _decide(seen: _Observed, *, name: str, path: Path) -> pa.DataType:
    if not seen.values or not seen.misfits:
        return pa.string()
    candidate = min(seen.misfits, key=seen.misfits.__getitem__)
    count = seen.misfits[candidate]
    if count == 0:
        return candidate
    if seen.values - count < 2:
        return pa.string()
    raise ConfigurationError(
        f"file {path}, column {name}, row {seen.first_misfit[candidate]}: a value is not {_CANDIDATES[candidate]}, "
        f"as the column's {seen.values - count} other values are",
        hint="correct the value, leave it empty if it is missing, or declare the column as text",
    )


def _convert(values: pa.Array, *, to: pa.DataType) -> pa.Array:
    """Convert text to a type. Raises `pa.ArrowInvalid`, which quotes a value and must not be shown."""
    if to == pa.string():
        return values
    trimmed = pc.utf8_trim_whitespace(values)
    present = pc.if_else(pc.is_in(trimmed, value_set=_NULLS), None, trimmed)
    if to == pa.int64() and _any(pc.match_substring(present, "x", ignore_case=True)):
        raise pa.ArrowInvalid("hexadecimal digits")
    if to == pa.float64() and _any(pc.match_substring_regex(present, r"^[+-]?\d{17,}$")):
        raise pa.ArrowInvalid("more digits than a double holds")
    return present.cast(to)


def _any(claims: pa.BooleanArray) -> bool:
    return bool(pc.any(claims).as_py())


def _converted(values: pa.Array, *, to: pa.DataType, name: str, path: Path, first_row: int) -> pa.Array:
    convert: Convert = partial(_convert, to=to)
    try:
        return convert(values)
    except pa.ArrowInvalid:
        row = first_row + first_misfit(values, convert=convert)
    raise ConfigurationError(f"file {path}, column {name}, row {row}: a value is not {_CANDIDATES.get(to, f'of {to}')}")


# ---------------------------------------------------------------- text


def _text_batches(path: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of text columns, each with the number of its first row."""
    names: list[str] = []
    row = 2
    for batch in _raw_batches(path):
        if not names:
            names, batch = _header(batch.slice(0, 1), path=path), batch.slice(1)
        columns = [
            _decoded(column, name=name, path=path, first_row=row)
            for name, column in zip(names, batch.columns, strict=True)
        ]
        yield row, pa.RecordBatch.from_arrays(columns, names=names)
        row += batch.num_rows


def _header(first_row: pa.RecordBatch, *, path: Path) -> list[str]:
    names = []
    for position, cell in enumerate(first_row.columns, start=1):
        name = pc.utf8_trim_whitespace(_decoded(cell, name=str(position), path=path, first_row=1))[0].as_py() or ""
        if any(c.isdigit() for c in name) and not any(c.isalpha() for c in name):
            raise ConfigurationError(
                f"file {path}, column {position}, row 1: looks like a value, not like the name of a column",
                hint="the first row must name the columns; give each a name with a letter in it",
            )
        names.append(name)
    if len(names) == 1 and re.search(r"[;\t|]", names[0]):
        raise ConfigurationError(f"file {path} is not separated by commas")
    require_names(names, path=path)
    return names


def _decoded(values: pa.Array, *, name: str, path: Path, first_row: int) -> pa.Array:
    def convert(raw: pa.Array) -> pa.Array:
        return raw.cast(pa.string())

    try:
        return convert(values)
    except pa.ArrowInvalid:
        row = first_row + first_misfit(values, convert=convert)
    raise ConfigurationError(f"file {path}, column {name}, row {row}: is not UTF-8")


def _raw_batches(path: Path) -> Iterator[pa.RecordBatch]:
    ragged: list[pyarrow.csv.InvalidRow] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    read = pyarrow.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=_BLOCK_BYTES)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse)
    convert = pyarrow.csv.ConvertOptions(
        default_column_type=pa.binary(), null_values=[""], strings_can_be_null=True, check_utf8=False
    )
    with _explaining(path, ragged=ragged), pa.input_stream(path) as stream:
        file = _Observing(stream, path=path)
        batch = None
        for batch in pyarrow.csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert):
            yield batch
        if batch is not None:
            _refuse_open_quote(batch, ending=file.ending, path=path)


@contextmanager
def _explaining(path: Path, *, ragged: list[pyarrow.csv.InvalidRow]) -> Iterator[None]:
    """Say what is wrong with a file without the library's words, which quote rows of it."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if ragged:
            raise ConfigurationError(f"file {path}, {_describe(ragged[0], path=path)}") from None
        if "mpty CSV" in str(error):
            raise ConfigurationError(f"file {path} is empty: it has no line that names the columns") from None
        raise ConfigurationError(
            f"file {path} is not CSV: a quote is not closed, or a row is longer than {_BLOCK_BYTES // MIB} MiB"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"file {path} cannot be read: {error.strerror or 'it is damaged'}") from None


def _describe(row: pyarrow.csv.InvalidRow, *, path: Path) -> str:
    """Where a row with too few or too many values goes wrong."""
    with pa.input_stream(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        names = next(csv.reader(text))
    place = "ends before" if row.actual_columns < row.expected_columns else "goes on after"
    column = names[min(row.actual_columns, row.expected_columns - 1)].strip()
    counts = f"{row.actual_columns} of {row.expected_columns} values"
    return f"row {row.number}: {place} column {column} ({counts})"


class _Observing:
    """A file as Arrow reads it, of which the beginning is checked and the end is kept."""

    closed = False

    def __init__(self, stream: pa.NativeFile, *, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.ending = b""

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        if not self.ending and data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigurationError(f"file {self._path} is not UTF-8 but UTF-16")
        self.ending = (self.ending + data[-_ENDING_BYTES:])[-_ENDING_BYTES:]
        return data

    def close(self) -> None:
        """The stream is closed by its owner."""


def _refuse_open_quote(last: pa.RecordBatch, *, ending: bytes, path: Path) -> None:
    """Refuse a quote that is not closed: Arrow takes all rows after it for one value of the last column."""
    cell = last.columns[-1][-1].as_py() if last.num_rows else None
    if cell and re.search(rb"[\r\n]", cell) and not ending.rstrip(b"\r\n").endswith(b'"'):
        raise ConfigurationError(f"file {path}: a quote in the last column is not closed")
