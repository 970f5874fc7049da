"""Jobs on Spark in an enclave: one query, or an approved Python program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.enclaves import EnclaveOperator, read_code, require_no_template
from ppml_airflow.workloads.spark.settings import CHOSEN_BY_STEP, MINIMUM_MEMORY_MIB

QUERY_FILE = "query.sql"


class TrustedSparkSubmitOperator(EnclaveOperator):
    """Run a query or a program on Spark. Exactly one of `sql` and `application`.

    Args:
        sql: one query; `:name` stands for the param of that name; inputs are views.
        application: path of a .py file, relative to the DAG file.
        py_files: more .py files that the application imports.
        application_args: arguments; an element `{name}` is replaced whole by the param of that name.
        driver_memory: at most this much memory, such as `2g` or `1500m`.
        conf: settings of Spark, of those that a step may choose.
        image: the trusted image.
        kwargs: as for `EnclaveOperator`.
    """

    minimum_memory_mib = MINIMUM_MEMORY_MIB

    def __init__(
        self,
        *,
        sql: str | None = None,
        application: str | None = None,
        py_files: Sequence[str] = (),
        application_args: Sequence[str] = (),
        driver_memory: str = "2g",
        conf: Mapping[str, str] | None = None,
        image: str = "spark",
        **kwargs: Any,
    ) -> None:
        super().__init__(image=image, memory=driver_memory, environment=conf, **kwargs)
        _require_shape(sql=sql, application=application, py_files=py_files, arguments=application_args)
        if sql is not None and (len(self.outputs_to) != 1 or self.folders):
            raise ConfigurationError(f"sql= writes one table; outputs= has {len(self.outputs_to)}")
        unknown = sorted(set(self.environment) - CHOSEN_BY_STEP)
        if unknown:
            allowed = ", ".join(sorted(CHOSEN_BY_STEP))
            raise ConfigurationError(f"conf {unknown[0]} is not allowed", hint=f"allowed: {allowed}")
        self.sql = sql
        self.application = application
        self.py_files = tuple(py_files)
        self.application_args = tuple(application_args)

    @property
    def workload(self) -> str:
        """`spark-sql` or `spark-python`."""
        return "spark-python" if self.sql is None else "spark-sql"

    def code_files(self) -> dict[str, bytes]:
        """The query, or the program and what it imports; the first one is the program."""
        if self.sql is not None:
            return {QUERY_FILE: self.sql.encode()}
        return read_code((str(self.application), *self.py_files), operator=self)

    def argv(self) -> tuple[str, ...]:
        """The name of the query's or program's file, and the arguments."""
        return (next(iter(self.code_files())), *self.application_args)


def _require_shape(
    *, sql: str | None, application: str | None, py_files: Sequence[str], arguments: Sequence[str]
) -> None:
    if (sql is None) == (application is None):
        raise ConfigurationError("TrustedSparkSubmitOperator wants exactly one of sql= and application=")
    if sql is not None and (py_files or arguments):
        raise ConfigurationError("py_files= and application_args= go with application=, not with sql=")
    for name in (application, *py_files):
        if name is not None and not name.endswith(".py"):
            raise ConfigurationError(f"file {name} is not a .py file")
    require_no_template((sql or "", *arguments))
