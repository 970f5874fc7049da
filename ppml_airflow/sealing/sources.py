"""What an owner seals: tables (CSV, plain or gzip, and Parquet files), read in batches, and other files as they are.

A file that cannot be sealed as it is, is refused with one line that names file, column and row, and never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing import csv_tables
from ppml_airflow.sealing.casts import first_misfit
from ppml_airflow.sealing.columns import require_columns, sealed_schema
from ppml_airflow.sealing.manifest import Column

_CSV_SUFFIXES = (".csv", ".csv.gz")
_PARQUET_SUFFIXES = (".parquet",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSource:
    """A table to seal. `batches()` reads it from the start, in the schema given, with bounded memory."""

    path: Path
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesSource:
    """Files to seal as they are, by their names."""

    path: Path
    files: Mapping[str, Path]


def is_table(path: Path) -> bool:
    """Whether a source of this name is sealed as a table: `.csv`, `.csv.gz` or `.parquet`."""
    return path.name.lower().endswith(_CSV_SUFFIXES + _PARQUET_SUFFIXES) and not path.is_dir()


def open_files_source(path: Path) -> FilesSource:
    """A folder with all files below it, or one file.

    Raises:
        ConfigurationError: there is none, or it holds a link or something else that is no file.
    """
    if path.is_file():
        return FilesSource(path=path, files={path.name: path})
    if not path.is_dir():
        raise ConfigurationError(f"file {path} does not exist")
    found = sorted(below for below in path.rglob("*") if below.is_symlink() or not below.is_dir())
    for file in found:
        if file.is_symlink() or not file.is_file():
            raise ConfigurationError(f"{file} is not a file; a folder that is sealed holds nothing else")
    if not found:
        raise ConfigurationError(f"folder {path} has no files")
    return FilesSource(path=path, files={file.relative_to(path).as_posix(): file for file in found})


def open_source(path: Path, *, expected: Sequence[Column] = ()) -> TableSource:
    """Look at a file and say what will be sealed. A CSV file is read once, whole, to find the types of its columns.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file.
        expected: columns that the file must have: those of the dataset's previous version, or declared by the owner.
            A CSV column takes its expected type instead of an inferred one.

    Raises:
        ConfigurationError: not such a file, or a column or value in it that cannot be sealed.
    """
    name = path.name.lower()
    if not name.endswith(_CSV_SUFFIXES + _PARQUET_SUFFIXES):
        raise ConfigurationError(f"file {path} is of no known type; wanted .csv, .csv.gz or .parquet")
    if not path.exists():
        raise ConfigurationError(f"file {path} does not exist")
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file")
    source = _open_csv(path, expected=expected) if name.endswith(_CSV_SUFFIXES) else _open_parquet(path)
    require_columns(source.schema, expected=expected, path=path)
    return source


def _open_csv(path: Path, *, expected: Sequence[Column]) -> TableSource:
    schema = csv_tables.infer_schema(path, expected=expected)
    return TableSource(path=path, schema=schema, batches=lambda: csv_tables.read_batches(path, schema=schema))


def _open_parquet(path: Path) -> TableSource:
    try:
        found = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"file {path} cannot be read as Parquet") from error
    schema = sealed_schema(found, path=path)
    return TableSource(path=path, schema=schema, batches=lambda: _read_parquet(path, schema=schema))


def _read_parquet(path: Path, *, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    row = 1
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                columns = [
                    _cast(column, to=field, path=path, first_row=row)
                    for column, field in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
                row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"file {path} cannot be read as Parquet, from about row {row}") from error


def _cast(column: pa.Array, *, to: pa.Field, path: Path, first_row: int) -> pa.Array:
    def convert(values: pa.Array) -> pa.Array:
        return values.cast(to.type)

    try:
        return convert(column)
    except pa.ArrowInvalid:
        row = first_row + first_misfit(column, convert=convert)
        raise ConfigurationError(
            f"file {path}, column {to.name}, row {row}: a value of type {column.type} does not fit {to.type}"
        ) from None
    except pa.ArrowNotImplementedError:
        raise ConfigurationError(f"file {path}, column {to.name}: type {column.type} cannot be sealed") from None
