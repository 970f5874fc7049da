"""Inputs and outputs of a job as files in memory: what the guest opens for its processes, and what they write for it.

Before the lease nothing is granted. An input is opened once, when it is first asked for; all that is opened together
is at most as large as the step's memory. An output, or a file of one, is written once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from ppml_airflow import canonical
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, VerificationError
from ppml_airflow.sealing.columns import columns_of
from ppml_airflow.sealing.manifest import Directory
from ppml_airflow.sealing.tables import read_sealed_batches, read_sealed_schema
from ppml_airflow.units import MIB
from ppml_airflow.workloads.job import JobKeys, TableInput, WorkloadJob
from ppml_airflow.workloads.memory_files import read_memory, seal_written, sealed_memory, writable_memory

TABLE = ""
"""The name under which an output that is a table is written."""


class Contents:
    """What is open of one job. The descriptors that it gives out are copies, which the caller closes."""

    def __init__(self, job: WorkloadJob) -> None:
        self._tables = {table.view: table for table in job.inputs if not table.is_stream}
        self._folders = {granted.dataset for granted in job.files}
        writes = job.index == LEADER
        self._outputs = {table.dataset: 1 for table in job.outputs if writes}
        self._output_folders = {folder.dataset: folder.files for folder in job.folders if writes}
        self._limit = self._left = job.limits.memory_mib * MIB
        self._keys: JobKeys | None = None
        self._opened: dict[str, dict[str, int]] = {}
        self._written: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def arm(self, keys: JobKeys) -> None:
        """Open inputs from now on."""
        with self._lock:
            self._keys = keys

    def close(self) -> None:
        """Forget the keys and everything that is in memory."""
        with self._lock:
            self._keys = None
            for files in (*self._opened.values(), *self._written.values()):
                _close(files)
            self._opened, self._written = {}, {}

    # ---------------------------------------------------------------- what a job's process asks for

    def file_names(self, dataset: str) -> list[str]:
        """Names of the files of a granted folder.

        Raises:
            PolicyDeniedError: not granted.
            VerificationError: a part is not what was sealed.
            ConfigurationError: more than the step's memory.
        """
        with self._lock:
            return list(self._files(dataset))

    def open_file(self, dataset: str, *, name: str) -> int:
        """Descriptor of one file of a granted folder.

        Raises:
            PolicyDeniedError: not granted, or there is no such file.
            VerificationError: a part is not what was sealed.
            ConfigurationError: more than the step's memory.
        """
        with self._lock:
            files = self._files(dataset)
            self._require_granted(name in files, name=name)
            return os.dup(files[name])

    def open_table(self, dataset: str) -> int:
        """Descriptor of a granted table as an Arrow IPC stream.

        Raises:
            PolicyDeniedError: not granted.
            VerificationError: a part is not what was sealed.
            ConfigurationError: more than the step's memory.
        """
        with self._lock:
            keys = self._require_granted(dataset in self._tables, name=dataset)
            table = self._tables[dataset]
            if dataset not in self._opened:
                self._opened[dataset] = {TABLE: self._fill(partial(_write_stream, table=table, keys=keys))}
            return os.dup(self._opened[dataset][TABLE])

    def create(self, dataset: str, *, name: str) -> int:
        """Descriptor of a new file of an output, or of an output that is a table (`TABLE`, an Arrow IPC stream).

        Raises:
            PolicyDeniedError: not an output, written before, one more than its number, or a bad name.
        """
        with self._lock:
            allowed = self._outputs if name == TABLE else self._output_folders
            self._require_granted(dataset in allowed and (name == TABLE or _is_name(name)), name=dataset)
            written = self._written.setdefault(dataset, {})
            self._require_granted(name not in written and len(written) < allowed[dataset], name=dataset)
            written[name] = writable_memory()
            return os.dup(written[name])

    # ---------------------------------------------------------------- what the guest collects, when they are gone

    def written_files(self) -> dict[str, dict[str, bytes]]:
        """Name and content of the files of each output that is a folder.

        Raises:
            VerificationError: another number of files than was fixed.
            ConfigurationError: one is larger than the step's memory.
        """
        collected = {}
        for dataset, count in self._output_folders.items():
            written = self._written.get(dataset, {})
            if len(written) != count:
                raise VerificationError(
                    f"output {dataset} has {len(written)} files; fixed are {count}", code="output_mismatch"
                )
            for descriptor in written.values():
                seal_written(descriptor, limit=self._limit)
            collected[dataset] = {name: read_memory(descriptor) for name, descriptor in written.items()}
        return collected

    def written_table(self, dataset: str) -> int:
        """Descriptor of what was written for an output that is a table.

        Raises:
            VerificationError: nothing was.
            ConfigurationError: it is larger than the step's memory.
        """
        if dataset not in self._written:
            raise VerificationError(f"output {dataset} was not written", code="output_mismatch")
        descriptor = self._written[dataset][TABLE]
        seal_written(descriptor, limit=self._limit)
        return descriptor

    # ---------------------------------------------------------------- inside

    def _files(self, dataset: str) -> Mapping[str, int]:
        keys = self._require_granted(dataset in self._folders, name=dataset)
        if dataset not in self._opened:
            files: dict[str, int] = {}
            try:
                for name, content in keys.open_files(dataset):
                    files[name] = self._fill(partial(_write, content=content))
            except BaseException:
                _close(files)
                raise
            self._opened[dataset] = files
        return self._opened[dataset]

    def _require_granted(self, granted: bool, *, name: str) -> JobKeys:
        if not granted or self._keys is None:
            raise PolicyDeniedError(f"{name} is not granted", code="not_granted")
        return self._keys

    def _fill(self, fill: Callable[[BinaryIO], None]) -> int:
        descriptor = sealed_memory(fill, limit=self._left)
        self._left -= os.fstat(descriptor).st_size
        return descriptor


def _close(files: Mapping[str, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)


def _write(file: BinaryIO, *, content: bytes) -> None:
    file.write(content)


def _write_stream(file: BinaryIO, *, table: TableInput, keys: JobKeys) -> None:
    schema = _schema(table, keys=keys)
    with pa.ipc.new_stream(file, schema) as stream:
        for part in table.parts:
            for batch in read_sealed_batches(part, data_key=keys.read[part].data_key, aad=keys.read[part].aad):
                stream.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _schema(table: TableInput, *, keys: JobKeys) -> pa.Schema:
    key = keys.read[table.parts[0]]
    schema = read_sealed_schema(table.parts[0], data_key=key.data_key, aad=key.aad)
    if columns_of(schema) != table.columns:
        raise VerificationError(f"input {table.view} has other columns than its manifest says", code="part_changed")
    return schema.remove_metadata()


def _is_name(name: str) -> bool:
    try:
        canonical.convert({"files": [name]}, into=Directory)
    except MalformedInputError:
        return False
    return True
