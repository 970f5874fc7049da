"""Workload `inference`: a sealed model over a sealed table, in a child process of the guest; no code of the author's.

The model reaches ONNX Runtime as bytes in memory, from a sealed file in memory, never as a file on a disk. A model that
does not take or give what the plan binds ends the job with `model_mismatch`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.inference.plan import PLAN_FILE, InferencePlan, output_columns
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.python.process import PythonProcess

_CHILD = "ppml_airflow.workloads.inference.child"


class Inference:
    """Runs one inference step; see `job.Workload`."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        if len(job.inputs) != 1 or len(job.files) != 1 or len(job.outputs) != 1 or job.folders:
            raise ConfigurationError(
                f"inference step has {len(job.inputs)} tables and {len(job.files)} folders as inputs; wanted one table,"
                " one folder with the model, and one table as output"
            )
        self._job = job
        self._process = PythonProcess(job, installation=installation, private=private, log=log)

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Check the plan against the data's columns.

        Raises:
            ConfigurationError: the plan is malformed, or names a column that is not there or does not fit.
        """
        plan = _load_plan(self._job)
        output = self._job.outputs[0].dataset
        columns = {output: output_columns(plan, data=self._job.inputs[0].columns)}
        self._process.describe(
            columns, plan=json.loads(canonical.encode(plan)), output=output, cores=self._job.limits.cores
        )
        return columns

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run the prepared step; see `job.Workload`."""
        return self._process.run(["-m", _CHILD], keys=keys, on_progress=on_progress)

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()


def _load_plan(job: WorkloadJob) -> InferencePlan:
    try:
        plan = canonical.decode((job.code / PLAN_FILE).read_bytes(), into=InferencePlan)
    except FileNotFoundError as error:
        raise ConfigurationError(f"inference step has no {PLAN_FILE} among its code files") from error
    except MalformedInputError as error:
        raise ConfigurationError(f"{PLAN_FILE} is refused: {error.message}", code="plan_malformed") from error
    unknown = sorted(set(plan.at_least.values()) - set(job.params))
    if unknown:
        raise ConfigurationError(f"{PLAN_FILE} compares with param {unknown[0]}; the run has {sorted(job.params)}")
    granted = (job.files[0].dataset, job.inputs[0].view)
    if (plan.model, plan.data) != granted:
        raise ConfigurationError(f"{PLAN_FILE} names model {plan.model} and data {plan.data}; granted are {granted}")
    return plan
