"""Workload `flink-python`: an approved Python program on Flink, written against `flink.api`.

Before the lease nothing of it runs and nothing is imported (`workloads.programs`). After it the JobManager runs the
program with the Python of Flink's own environment. The program is trusted code by its approval; that it reaches only
what it was granted rests on the keys it can ask for, not on Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.flink.cluster import FlinkCluster
from ppml_airflow.workloads.flink.settings import event_times
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import write_private
from ppml_airflow.workloads.programs import DeclaredTable, judge_program, require_program

_PYTHON_DRIVER = "org.apache.flink.client.python.PythonDriver"


class FlinkPython:
    """Runs one Python job; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        require_program(job, workload="flink-python", private=private)
        self._job = job
        self._times = event_times(job.environment, views=tuple(table.view for table in job.inputs))
        self._cluster = FlinkCluster(job, installation=installation, private=private, log=log)
        self._tables: dict[str, DeclaredTable] | None = None

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Compile every code file and read the declared outputs; nothing is imported, nothing runs.

        Raises:
            ConfigurationError: a syntax error (file, line, column); outputs missing, unknown or not literal; an input
                that no stream can hold, or without the column that is its event time.
        """
        self._tables = judge_program(self._job)
        self._write_description(self._tables)
        return {name: table.columns for name, table in self._tables.items()}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared program; see `job.Workload`."""
        return self._cluster.answered(lambda: self._run(keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._cluster.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._cluster.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        if self._tables is None:
            raise ConfigurationError("flink-python job was not prepared")
        streams = self._cluster.streams
        self._cluster.arm(keys, on_progress=on_progress)
        self._cluster.lead(keys)
        program = str(self._job.code / self._job.argv[0])
        self._cluster.start_cluster(_PYTHON_DRIVER, ["-py", program, *self._job.argv[1:]])
        outcome = self._cluster.finish(self._cluster.wait(), keys=keys)
        if outcome != "ok":
            return JobResult(outcome=outcome)
        parts = {
            output.dataset: streams.collect(output, columns=self._tables[output.dataset].columns, keys=keys)
            for output in self._job.outputs
        }
        files = self._cluster.socket.contents.written_files()
        on_progress(100)
        return JobResult(outcome="ok", outputs=parts, files=files, disclosed=dict(self._cluster.socket.disclosed))

    def _write_description(self, tables: Mapping[str, DeclaredTable]) -> None:
        """What `flink.api` tells the program: no secret, and no more than the approval says."""
        description = {
            "views": self._cluster.streams.views(times=self._times),
            "outputs": {
                output.dataset: {
                    "columns": [
                        {"name": column.name, "type": column.type} for column in tables[output.dataset].columns
                    ],
                    "folder": self._cluster.streams.folder(output),
                }
                for output in self._job.outputs
            },
            "params": typed_literals(self._job.params),
        }
        write_private(self._cluster.private / "conf" / "job.json", json.dumps(description))
