"""Sealed streams and Flink jobs over them, with the real Flink.

The environment with Flink is not the one that runs the tests: `PPML_TEST_FLINK_PYTHON` names its interpreter, else the
Flink image that is set up under `PPML_HOME` is taken.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.sealing.frames import SegmentWriter, StreamOrder, open_segment, segment_aad, segment_key
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.records import decode_records
from ppml_airflow.sealing.tables import parquet_aad, read_sealed_parquet, write_sealed_parquet
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, TableOutput, TypedValue, WorkloadJob
from tests.support.commands import processes_in
from tests.support.spark_jobs import CHECKOUT, DOMAIN_ID, find_java_home

LIMITS = Limits(wall_s=240, memory_mib=1536, cores=2)

Record = Mapping[str, object]


def find_environment() -> Path:
    """The folder of a Python environment with Flink; skips the test if there is none."""
    home = Path(os.environ.get("PPML_HOME", CHECKOUT / ".ppml"))
    python = Path(os.environ.get("PPML_TEST_FLINK_PYTHON", home / "images" / "flink" / "engine" / "bin" / "python"))
    if not python.exists():
        pytest.skip(f"no Flink environment: {python} does not exist (PPML_TEST_FLINK_PYTHON names one)")
    return python.parent.parent


def build_installation(folder: Path) -> ImageInstallation:
    """The real Flink with a jar built from this checkout."""
    sys.path.insert(0, str(CHECKOUT / "jvm"))
    try:
        from build import build
    finally:
        sys.path.pop(0)
    environment, java_home = find_environment(), find_java_home()
    build(environment=environment, java_home=java_home, output=folder / "ppml-flink.jar", engine="flink")
    return ImageInstallation(environment=environment, java_home=java_home, jars=folder)


def task_manager(folder: Path) -> int:
    """The Java machine of the TaskManager that works in a folder."""
    return next(
        pid
        for pid in processes_in(folder)
        if b"TaskManagerRunner" in (command := Path(f"/proc/{pid}/cmdline").read_bytes())
        and b"supervisor" not in command
    )


@dataclass(kw_only=True)
class StreamWorld:
    """One job's folders, its sealed inputs, and the keys that a lease would bring."""

    folder: Path
    data_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    read: dict[Path, FileKey] = field(default_factory=dict)
    inputs: list[TableInput] = field(default_factory=list)
    output: TableOutput = field(default_factory=lambda: TableOutput(dataset="report", files=1))

    def seal(self, name: str, columns: Mapping[str, str], *partitions: Sequence[Sequence[Record]]) -> list[Path]:
        """Seal records as a stream and grant it: for each partition its segments, for each segment its records."""
        parts: list[Path] = []
        for partition, segments in enumerate(partitions):
            sequence = 0
            for number, records in enumerate(segments):
                part = self.folder / "storage" / name / f"part-{len(parts):05d}"
                aad = segment_aad(domain_id=DOMAIN_ID, dataset=name, version=1, path=part.name)
                key = segment_key(self.data_key, aad=aad)
                target = io.BytesIO()
                writer = SegmentWriter(target, key=key, partition=partition, sequence=sequence)
                writer.write_all(json.dumps(record).encode() for record in records)
                if number == len(segments) - 1:
                    writer.write([], is_last=True)
                sequence = writer.sequence
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(target.getvalue())
                self.read[part] = FileKey(data_key=self.data_key, aad=aad)
                parts.append(part)
        self.inputs.append(TableInput(view=name, columns=_columns(columns), parts=tuple(parts), is_stream=True))
        return parts

    def seal_table(self, name: str, table: pa.Table) -> None:
        """Seal a table and grant it."""
        part = self.folder / "storage" / name / "part-00000"
        part.parent.mkdir(parents=True, exist_ok=True)
        aad = parquet_aad(domain_id=DOMAIN_ID, dataset=name, version=1, path=part.name)
        write_sealed_parquet(table.to_batches(), part, schema=table.schema, data_key=self.data_key, aad=aad)
        self.read[part] = FileKey(data_key=self.data_key, aad=aad)
        columns = _columns({column.name: str(column.type) for column in table.schema})
        self.inputs.append(TableInput(view=name, columns=columns, parts=(part,)))

    def job(
        self,
        files: Mapping[str, str],
        *,
        params: Mapping[str, TypedValue] | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits = LIMITS,
    ) -> WorkloadJob:
        """A job of these code files, the first of which is the program."""
        code = self.private / "code"
        code.mkdir()
        for name, text in files.items():
            (code / name).write_text(text)
        return WorkloadJob(
            code=code,
            argv=(next(iter(files)),),
            params=params or {},
            environment=environment or {},
            inputs=tuple(self.inputs),
            outputs=(self.output,),
            limits=limits,
        )

    @property
    def private(self) -> Path:
        """The job's private directory."""
        folder = self.folder / "private"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def log(self) -> Path:
        """The job's log."""
        return self.folder / "log"

    def keys(self) -> JobKeys:
        """What a lease releases."""
        return JobKeys(read=self.read, write=self.write_key)

    def write_key(self, dataset: str, path: str) -> FileKey:
        """Key of a part of the output."""
        aad_of = segment_aad if self.output.is_stream else parquet_aad
        return FileKey(data_key=self.data_key, aad=aad_of(domain_id=DOMAIN_ID, dataset=dataset, version=1, path=path))

    def open(self, parts: Sequence[Path], *, columns: tuple[Column, ...]) -> list[dict[str, object]]:
        """The rows of an output."""
        order, rows = StreamOrder(), []
        for part in parts:
            key = self.write_key(self.output.dataset, part.name)
            if not self.output.is_stream:
                rows += read_sealed_parquet(part, data_key=key.data_key, aad=key.aad).to_pylist()
                continue
            for _, records in open_segment(part, key=segment_key(key.data_key, aad=key.aad), order=order):
                rows += decode_records(records, columns=columns, name="report").to_pylist()
        if self.output.is_stream:
            order.require_end()
        return rows


def _columns(columns: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=kind) for name, kind in columns.items())
