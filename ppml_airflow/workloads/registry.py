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


_EXECUTOR = "spark.executor:SparkExecutor"
SETS = {
    "inference": WORKLOADS["inference"],
    "python": WORKLOADS["python"],
    "spark-python": _EXECUTOR,
    "spark-sql": _EXECUTOR,
}
"""Those that run a job in several enclaves, and what a member does there that does not lead."""


class WorkloadClass(Protocol):
    """Makes a workload of one job; nothing of the job runs yet."""

    def __call__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> Workload:
        """Make it, in a private directory, with all text of the job's processes going to a log."""
        ...


def find_workload(name: str, *, members: int = 1, index: int = LEADER) -> WorkloadClass:
    """The class that runs a workload.

    Args:
        name: of the workload.
        members: in how many enclaves.
        index: which of them asks.

    Raises:
        ConfigurationError: there is no such workload, or none that runs in so many; lists those that are.
    """
    if name not in WORKLOADS:
        raise ConfigurationError(f"workload {name} is unknown", hint=f"known are: {', '.join(WORKLOADS)}")
    require_set_supported(name, members=members)
    module, _, found = (WORKLOADS if index == LEADER else SETS)[name].partition(":")
    return cast("WorkloadClass", getattr(import_module(f"ppml_airflow.workloads.{module}"), found))


def require_set_supported(name: str, *, members: int) -> None:
    """Refuse a set whose workload runs in one enclave: operators when a DAG is read, guests before the lease.

    Raises:
        ConfigurationError: code `set_unsupported`; lists the workloads that do.
    """
    if members > 1 and name not in SETS:
        raise ConfigurationError(
            f"workload {name} runs in one enclave, not in {members}",
            code="set_unsupported",
            hint=f"workloads that run in several: {', '.join(sorted(SETS))}",
        )
