"""Collect what a job wrote: exactly the parts and columns that were fixed before the lease, all encrypted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.tables import read_sealed_schema, write_sealed_parquet
from ppml_airflow.workloads.guest_socket import part_name
from ppml_airflow.workloads.job import FileKey, JobKeys, TableOutput

_WRITTEN_NAME = re.compile(r"part-(\d{5})-.*")


def collect_output(
    folder: Path, *, output: TableOutput, columns: tuple[Column, ...], keys: JobKeys
) -> tuple[Path, ...]:
    """Give the parts of one output their final names and add empty ones up to the fixed number.

    Raises:
        VerificationError: nothing written, written twice, not encrypted, or other columns than declared.
    """
    found = _written_parts(folder, output=output)
    schema: pa.Schema | None = None
    parts = []
    for index in range(output.files):
        part = folder / part_name(index)
        key = keys.write(output.dataset, part.name)
        if index in found:
            found[index].rename(part)
            schema = _checked_schema(part, key=key, columns=columns, output=output)
        elif schema is not None:
            write_sealed_parquet([], part, schema=schema, data_key=key.data_key, aad=key.aad)
        parts.append(part)
    return tuple(parts)


def _written_parts(folder: Path, *, output: TableOutput) -> Mapping[int, Path]:
    """Spark writes part 0 always, and no file for another part without rows."""
    files = [file for file in folder.iterdir() if file.name != "_SUCCESS"] if folder.is_dir() else []
    named = {int(name[1]): file for file in files if (name := _WRITTEN_NAME.fullmatch(file.name))}
    if len(named) != len(files) or 0 not in named or max(named) >= output.files:
        raise VerificationError(f"output {output.dataset} has other files than its parts", code="output_mismatch")
    return named


def _checked_schema(part: Path, *, key: FileKey, columns: tuple[Column, ...], output: TableOutput) -> pa.Schema:
    schema = read_sealed_schema(part, data_key=key.data_key, aad=key.aad)
    if tuple(Column(name=field.name, type=str(field.type)) for field in schema) != columns:
        raise VerificationError(f"output {output.dataset} has other columns than declared", code="output_mismatch")
    return schema
