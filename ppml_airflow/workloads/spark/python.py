"""Workload `spark-python`: an approved Python program on Spark, written against `spark.api`.

Before the lease nothing of it runs and nothing is imported: every code file is compiled, and the columns of the outputs
are read from the program's text, where they stand as a literal:

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

After the lease Spark runs the program with the image's Python. The program is trusted code by its approval; that it
reaches only what it was granted rests on the keys it can ask for, not on Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.guest_socket import input_links
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import write_private
from ppml_airflow.workloads.programs import DeclaredTable, judge_program, require_program
from ppml_airflow.workloads.spark.outputs import collect_output
from ppml_airflow.workloads.spark.process import SparkDriver
from ppml_airflow.workloads.spark.types import spark_schema

_HEAP_SHARE = 0.5


class SparkPython:
    """Runs one Python job; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        require_program(job, workload="spark-python", private=private)
        self._job = job
        self._process = SparkDriver(job, installation=installation, private=private, log=log, heap_share=_HEAP_SHARE)
        self._tables: dict[str, DeclaredTable] | None = None

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Compile every code file and read the declared outputs; nothing is imported, nothing runs.

        Raises:
            ConfigurationError: a syntax error (file, line, column); outputs missing, unknown or not literal.
        """
        self._tables = judge_program(self._job)
        self._write_description(self._tables)
        return {name: table.columns for name, table in self._tables.items()}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared program; see `job.Workload`."""
        return self._process.answered(lambda: self._run(keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        if self._tables is None:
            raise ConfigurationError("spark-python job was not prepared")
        self._process.arm(keys, on_progress=on_progress)
        with self._process.leading(keys):
            self._process.start_java(
                [
                    "org.apache.spark.deploy.SparkSubmit",
                    "--properties-file",
                    str(self._process.settings_file),
                    str(self._job.code / self._job.argv[0]),
                    *self._job.argv[1:],
                ]
            )
            outcome = self._process.wait()
        if outcome != "ok":
            return JobResult(outcome=outcome)
        parts = {
            output.dataset: collect_output(
                self._process.private / "output" / output.dataset,
                output=output,
                columns=self._tables[output.dataset].columns,
                keys=keys,
            )
            for output in self._job.outputs
        }
        files = self._process.socket.contents.written_files()
        on_progress(100)
        return JobResult(outcome="ok", outputs=parts, files=files, disclosed=dict(self._process.socket.disclosed))

    def _write_description(self, tables: Mapping[str, DeclaredTable]) -> None:
        """What `spark.api` tells the program: no secret, and no more than the approval says."""
        description = {
            "inputs": {
                table.view: {
                    "schema": spark_schema(table.columns, view=table.view),
                    "parts": [str(link) for link in input_links(self._process.private, inputs=(table,))],
                }
                for table in self._job.inputs
            },
            "outputs": {
                output.dataset: {
                    "files": output.files,
                    "columns": tables[output.dataset].written,
                    "folder": str(self._process.private / "output" / output.dataset),
                }
                for output in self._job.outputs
            },
            "params": typed_literals(self._job.params),
        }
        write_private(self._process.private / "conf" / "job.json", json.dumps(description))
