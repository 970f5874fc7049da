"""Collect what a job wrote through the guest: tables, checked, then encrypted into the fixed parts.

No plaintext touches a disk: a table comes as a file in memory and leaves as encrypted Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.tables import write_sealed_parquet
from ppml_airflow.workloads.guest_socket import part_name
from ppml_airflow.workloads.job import JobKeys, TableOutput
from ppml_airflow.workloads.process import JobProcess


def collect_tables(
    process: JobProcess, *, columns: Mapping[str, tuple[Column, ...]], keys: JobKeys
) -> dict[str, tuple[Path, ...]]:
    """Encrypt every output that is a table, once the job's processes are gone.

    Raises:
        VerificationError: one was not written, is no Arrow stream, or has other columns than declared.
    """
    return {
        output.dataset: _encrypt(
            process.socket.contents.written_table(output.dataset),
            folder=process.private / "output" / output.dataset,
            output=output,
            columns=columns[output.dataset],
            keys=keys,
        )
        for output in process.job.outputs
    }


def _encrypt(
    descriptor: int, *, folder: Path, output: TableOutput, columns: tuple[Column, ...], keys: JobKeys
) -> tuple[Path, ...]:
    table = _read(descriptor, output=output)
    if columns_of(table.schema) != columns:
        raise VerificationError(f"output {output.dataset} has other columns than declared", code="output_mismatch")
    folder.mkdir(mode=0o700)
    parts = []
    for index in range(output.files):
        part = folder / part_name(index)
        key = keys.write(output.dataset, part.name)
        start, end = (table.num_rows * position // output.files for position in (index, index + 1))
        rows = table.slice(start, end - start).to_batches()
        write_sealed_parquet(rows, part, schema=table.schema, data_key=key.data_key, aad=key.aad)
        parts.append(part)
    return tuple(parts)


def _read(descriptor: int, *, output: TableOutput) -> pa.Table:
    try:
        with pa.ipc.open_stream(pa.memory_map(f"/proc/self/fd/{descriptor}", "r")) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise VerificationError(f"output {output.dataset} is no table", code="output_mismatch") from error
    return table
