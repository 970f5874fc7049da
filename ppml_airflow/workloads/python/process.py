"""One Python process whose inputs and outputs pass through the guest, as files in memory.

Empty environment, private directory, no network but a loopback interface of its own, at most the step's memory in each
process and in each file; what it wrote is checked and encrypted by the guest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.columns import schema_of
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.units import MIB
from ppml_airflow.workloads.environment import process_environment
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob, require_tables
from ppml_airflow.workloads.outputs import collect_tables
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import JobProcess, write_private


class PythonProcess:
    """Describes a job to its process, runs it, collects what it wrote. Its methods are those of `job.Workload`.

    Args:
        job: what to run.
        installation: whose interpreter runs it.
        private: an existing directory of the guest's own.
        log: file to which all text of the process is appended.
    """

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        installation.require(installation.python)
        require_tables(job, engine="Python")
        self.job = job
        self._python = installation.python
        own = {"OMP_NUM_THREADS": str(job.limits.cores), "ARROW_DEFAULT_MEMORY_POOL": "system"}
        environment = process_environment(
            private.resolve(), installation=installation, code=job.code, approved=job.environment
        )
        self._process = JobProcess(job, environment=own | environment, private=private, log=log, name="python")
        self._columns: Mapping[str, tuple[Column, ...]] | None = None

    def describe(self, columns: Mapping[str, tuple[Column, ...]], **more: Any) -> None:
        """Fix the outputs' columns, and write what the process is told: no secret, no more than the approval says."""
        self._columns = columns
        schemas = {
            dataset: base64.b64encode(schema_of(found).serialize().to_pybytes()).decode()
            for dataset, found in columns.items()
        }
        job = self.job
        description = {
            "params": typed_literals(job.params),
            "inputs": {table.view: "table" for table in job.inputs}
            | {granted.dataset: "files" for granted in job.files},
            "outputs": [*(table.dataset for table in job.outputs), *(folder.dataset for folder in job.folders)],
            "schemas": schemas,
            "members": job.members,
            "index": job.index,
            **more,
        }
        write_private(self._process.private / "conf" / "job.json", json.dumps(description))

    def run(self, arguments: Sequence[str], *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the interpreter with these arguments once, after the lease."""
        return self._process.answered(lambda: self._run(arguments, keys=keys, on_progress=on_progress))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()

    def _run(self, arguments: Sequence[str], *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        if self._columns is None:
            raise ConfigurationError("job was not prepared")
        process, most = self._process, self.job.limits.memory_mib * MIB
        process.arm(keys, on_progress=on_progress, speaks=True)
        command = [str(self._python), "-s", *arguments]
        process.start(command, limits={"DATA": most, "FSIZE": most}, has_network=False)
        outcome = process.wait()
        if outcome != "ok":
            return JobResult(outcome=outcome)
        if self.job.index != LEADER:
            return JobResult(outcome="ok")
        files = process.socket.contents.written_files()
        outputs = collect_tables(process, columns=self._columns, keys=keys)
        on_progress(100)
        return JobResult(outcome="ok", outputs=outputs, files=files, disclosed=dict(process.socket.disclosed))
