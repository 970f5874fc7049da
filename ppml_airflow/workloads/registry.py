"""The workloads that a step may name. One more workload = one module and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from ppml_airflow.workloads.installation import ImageInstallation
    from ppml_airflow.workloads.job import Workload, WorkloadJob

WORKLOADS = {
    "flink-python": "flink.python:FlinkPython",
    "flink-sql": "flink.sql:FlinkSql",
    "spark-sql": "spark.sql:SparkSql",
    "spark-python": "spark.python:SparkPython",
    "python": "python.program:PythonProgram",
    "inference": "inference.model:Inference",
}
"""Where each lies, below `ppml_airflow.workloads`; loaded when used, for an image has only what its engine needs."""

MEMBERS = {
    "flink-python": "flink.task_manager:TaskManager",
    "flink-sql": "flink.task_manager:TaskManager",
    "spark-sql": "spark.executor:SparkExecutor",
    "spark-python": "spark.executor:SparkExecutor",
}
"""What a member of a set does that does not lead, where that is something else."""


class WorkloadClass(Protocol):
    """Makes a workload of one job; nothing of the job runs yet."""

    def __call__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> Workload:
        """Make it, in a private directory, with all text of the job's processes going to a log."""
        ...


def find_workload(name: str, *, index: int = LEADER) -> WorkloadClass:
    """The class that runs a workload.

    Args:
        name: of the workload.
        index: which member of a set asks; without a set the leader.

    Raises:
        ConfigurationError: there is no such workload; lists those that are.
    """
    if name not in WORKLOADS:
        raise ConfigurationError(f"workload {name} is unknown", hint=f"known are: {', '.join(WORKLOADS)}")
    found = WORKLOADS[name] if index == LEADER else MEMBERS.get(name, WORKLOADS[name])
    module, _, kind = found.partition(":")
    return cast("WorkloadClass", getattr(import_module(f"ppml_airflow.workloads.{module}"), kind))
