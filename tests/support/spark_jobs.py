"""Sealed tables and Spark jobs over them, with the real Spark.

The environment with pyspark is not the one that runs the tests: `PPML_TEST_SPARK_PYTHON` names its interpreter, else
the Spark image that is set up under `PPML_HOME` is taken.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.tables import parquet_aad, read_sealed_parquet, write_sealed_parquet
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FileKey, JobKeys, TableInput, TableOutput, TypedValue, WorkloadJob

CHECKOUT = Path(__file__).resolve().parents[2]
DOMAIN_ID = "sha256:" + "d0" * 32
VERSION = 7
LIMITS = Limits(wall_s=120, memory_mib=1536, cores=2)


def find_environment() -> Path:
    """The folder of a Python environment with pyspark; skips the test if there is none."""
    home = Path(os.environ.get("PPML_HOME", CHECKOUT / ".ppml"))
    python = Path(os.environ.get("PPML_TEST_SPARK_PYTHON", home / "images" / "spark" / "env" / "bin" / "python"))
    if not python.exists():
        pytest.skip(f"no Spark environment: {python} does not exist (PPML_TEST_SPARK_PYTHON names one)")
    return python.parent.parent


def find_java_home() -> Path:
    """A JDK; skips the test if there is none."""
    javac = shutil.which("javac")
    home = Path(os.environ["JAVA_HOME"]) if "JAVA_HOME" in os.environ else None
    if home is None and javac is None:
        pytest.skip("no JDK: neither JAVA_HOME nor a javac on the PATH")
    return home or Path(str(javac)).resolve().parent.parent


def build_installation(folder: Path) -> ImageInstallation:
    """The real Spark with a jar built from this checkout."""
    sys.path.insert(0, str(CHECKOUT / "jvm"))
    try:
        from build import build
    finally:
        sys.path.pop(0)
    environment, java_home = find_environment(), find_java_home()
    build(environment=environment, java_home=java_home, output=folder / "ppml-spark.jar")
    return ImageInstallation(environment=environment, java_home=java_home, jars=folder)


@dataclass(kw_only=True)
class JobWorld:
    """One job's folders, its sealed inputs, and the keys that a lease would bring."""

    folder: Path
    data_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    read: dict[Path, FileKey] = field(default_factory=dict)
    inputs: list[TableInput] = field(default_factory=list)

    def seal(self, name: str, *tables: pa.Table) -> TableInput:
        """Seal tables as the parts of one dataset and grant it."""
        parts = []
        for index, table in enumerate(tables):
            part = self.folder / "storage" / name / f"part-{index:05d}"
            part.parent.mkdir(parents=True, exist_ok=True)
            aad = parquet_aad(domain_id=DOMAIN_ID, dataset=name, version=1, path=part.name)
            write_sealed_parquet(table.to_batches(), part, schema=table.schema, data_key=self.data_key, aad=aad)
            self.read[part] = FileKey(data_key=self.data_key, aad=aad)
            parts.append(part)
        return self.grant(name, {column.name: str(column.type) for column in tables[0].schema}, parts=tuple(parts))

    def grant(self, name: str, columns: Mapping[str, str], *, parts: tuple[Path, ...] = ()) -> TableInput:
        """Grant a table with these columns."""
        table = TableInput(
            view=name, columns=tuple(Column(name=key, type=value) for key, value in columns.items()), parts=parts
        )
        self.inputs.append(table)
        return table

    def job(
        self,
        files: Mapping[str, str],
        *,
        argv: tuple[str, ...],
        params: Mapping[str, TypedValue] | None = None,
        parts: int = 1,
        limits: Limits = LIMITS,
        environment: Mapping[str, str] | None = None,
    ) -> WorkloadJob:
        """A job of these code files with the output `report`."""
        code = self.private / "code"
        code.mkdir()
        for name, text in files.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_text(text)
        return WorkloadJob(
            code=code,
            argv=argv,
            params=params or {},
            environment=environment or {},
            inputs=tuple(self.inputs),
            outputs=(TableOutput(dataset="report", files=parts),),
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
        """Key of a part of an output."""
        aad = parquet_aad(domain_id=DOMAIN_ID, dataset=dataset, version=VERSION, path=path)
        return FileKey(data_key=self.data_key, aad=aad)

    def open(self, part: Path, *, dataset: str = "report") -> pa.Table:
        """Open a part of an output under its final name."""
        key = self.write_key(dataset, part.name)
        return read_sealed_parquet(part, data_key=key.data_key, aad=key.aad)
