"""Where a delivery ends: a Parquet or CSV file, or a folder of files, which only its own user may read.

Each appears by a rename. A delivery that fails leaves what was there untouched and removes its own; what a killed
process left is swept at the next start.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ppml_airflow.errors import ConfigurationError

_UNFIT_FOR_CSV = (
    pa.types.is_nested,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_interval,
)


def write_table(batches: Iterable[pa.RecordBatch], sink: Path, *, schema: pa.Schema) -> None:
    """Write a table as the sink's suffix says, whole or not at all.

    Raises:
        ConfigurationError: a column does not fit into CSV, or the sink cannot be written.
    """
    if sink.suffix == ".csv":
        _require_fit_for_csv(schema, sink=sink)
    try:
        with _appearing(sink) as file, _writer(file, sink=sink, schema=schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
    except OSError as error:
        raise ConfigurationError(
            f"sink {sink} cannot be written: {error.strerror}", code="sink_not_writable"
        ) from error


def write_folder(sink: Path, *, write: Callable[[Path], object]) -> None:
    """Put a new folder in the place of the sink, whole or not at all.

    Args:
        sink: the folder.
        write: makes a folder of the path that it is given, which does not exist.

    Raises:
        ConfigurationError: the sink is a file, or cannot be written.
    """
    new, old = (sink.with_name(_temporary_prefix(sink) + secrets.token_hex(8)) for _ in range(2))
    try:
        sink.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sink.is_symlink() or sink.is_file():
            raise ConfigurationError(f"sink {sink} is a file; wanted a folder", code="sink_not_writable")
        write(new)
        if sink.exists():
            sink.rename(old)
        new.rename(sink)
    except OSError as error:
        raise ConfigurationError(
            f"sink {sink} cannot be written: {error.strerror}", code="sink_not_writable"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sweep(sink: Path) -> None:
    """Remove what killed deliveries into this sink left beside it."""
    if not sink.parent.is_dir():
        return
    for path in sink.parent.iterdir():
        if path.name.lstrip(".").startswith(_temporary_prefix(sink).lstrip(".")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _temporary_prefix(sink: Path) -> str:
    return f".{sink.name}.ppml-"


@contextmanager
def _appearing(sink: Path) -> Iterator[BinaryIO]:
    sink.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = sink.with_name(_temporary_prefix(sink) + secrets.token_hex(8))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(sink)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _writer(file: BinaryIO, *, sink: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter | pacsv.CSVWriter]:
    kind = pacsv.CSVWriter if sink.suffix == ".csv" else pq.ParquetWriter
    with kind(file, schema) as writer:
        yield writer


def _require_fit_for_csv(schema: pa.Schema, *, sink: Path) -> None:
    for column in schema:
        if any(is_unfit(column.type) for is_unfit in _UNFIT_FOR_CSV):
            raise ConfigurationError(
                f"column {column.name} is {column.type}, which CSV cannot hold",
                code="sink_unfit",
                hint=f"let the sink {sink.name} end in .parquet",
            )
