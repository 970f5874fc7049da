"""The workloads that a step may name. One more workload = one class and one line here."""

from __future__ import annotations

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.spark.python import SparkPython
from ppml_airflow.workloads.spark.sql import SparkSql

WORKLOADS: dict[str, type[SparkSql] | type[SparkPython]] = {
    "spark-sql": SparkSql,
    "spark-python": SparkPython,
}


def find_workload(name: str) -> type[SparkSql] | type[SparkPython]:
    """The class that runs a workload.

    Raises:
        ConfigurationError: there is no such workload; lists those that are.
    """
    if name not in WORKLOADS:
        raise ConfigurationError(f"workload {name} is unknown", hint=f"known are: {', '.join(WORKLOADS)}")
    return WORKLOADS[name]
