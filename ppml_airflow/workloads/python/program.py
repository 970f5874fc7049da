"""Workload `python`: an approved Python program in the image's own interpreter, written against `workloads.job_api`.

Before the lease nothing of it runs and nothing is imported (`workloads.programs`). After it one process runs the
program. That it reaches only what it was granted rests on what the guest hands out, not on Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.programs import judge_program, require_program
from ppml_airflow.workloads.python.process import PythonProcess


class PythonProgram:
    """Runs one program; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        require_program(job, workload="python", private=private)
        self._job = job
        self._process = PythonProcess(job, installation=installation, private=private, log=log)

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Compile every code file and read the declared outputs; nothing is imported, nothing runs.

        Raises:
            ConfigurationError: a syntax error (file, line, column); outputs missing, unknown or not literal.
        """
        columns = {name: table.columns for name, table in judge_program(self._job).items()}
        self._process.describe(columns)
        return columns

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared program; see `job.Workload`."""
        program, *arguments = self._job.argv
        return self._process.run([str(self._job.code / program), *arguments], keys=keys, on_progress=on_progress)

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()
