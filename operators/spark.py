"""Jobs on Spark in an enclave: an approved query or Python program, or a query from the run's form.

Refuses what would escape the approval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.enclaves import EnclaveOperator, read_code, require_no_template
from ppml_airflow.operators.spark_options import (
    names_of,
    require_alike,
    require_known,
    spelled,
    total_cores,
    total_memory_mib,
)
from ppml_airflow.workloads.spark.choices import require_choices
from ppml_airflow.workloads.spark.settings import MINIMUM_MEMORY_MIB

QUERY_FILE = "query.sql"


class TrustedSparkSubmitOperator(EnclaveOperator):
    """Run a query or a program on Spark. Exactly one of `sql`, `sql_param` and `application`.

    Driver and executors are threads of one process in the enclave: what spark-submit says of each is added up. With
    `members=3` they are three enclaves, a driver and two executors, each with `driver_memory` and `cores`.

    Args:
        sql: one query, or the path of a .sql file relative to the DAG file; `:name` stands for the param of that name,
            inputs are views.
        sql_param: a param of the DAG, free text, that is the query: an adhoc step. Whoever hears its answer must be
            certified for all of `inputs`; who starts the run asks, and everybody who sees Airflow reads the question.
        application: path of a .py file, relative to the DAG file.
        py_files: more .py files that the application imports; they lie beside it, whatever their folder was.
        files: other files that lie beside the application, such as queries; approved like code.
        application_args: arguments; an element `{name}` is replaced whole by the param of that name.
        driver_memory: memory such as `2g` or `1500m`; of the whole enclave if there is no executor_memory.
        executor_memory: memory of each executor, added to the driver's.
        executor_cores: tasks that run at once in an executor.
        num_executors: how many executors there would be.
        total_executor_cores: tasks that run at once, all together; the same as `cores`.
        cores: at most so many cores.
        conf: settings of Spark, of those that a step may choose (`workloads.spark.choices`).
        env_vars: variables of the job's processes.
        name: what Spark calls the job in the sealed log.
        verbose: whether Spark tells more in the sealed log.
        image: the trusted image.
        kwargs: as for `EnclaveOperator`; parameters of spark-submit that make no sense here are refused by name.
    """

    minimum_memory_mib = MINIMUM_MEMORY_MIB

    def __init__(
        self,
        *,
        sql: str | None = None,
        sql_param: str | None = None,
        application: str | None = None,
        py_files: str | Sequence[str] = (),
        files: str | Sequence[str] = (),
        application_args: Sequence[str] = (),
        driver_memory: str = "2g",
        executor_memory: str | None = None,
        executor_cores: int | None = None,
        num_executors: int | None = None,
        total_executor_cores: int | None = None,
        cores: int | None = None,
        conf: Mapping[str, Any] | None = None,
        env_vars: Mapping[str, str] | None = None,
        name: str | None = None,
        verbose: bool = False,
        image: str = "spark",
        **kwargs: Any,
    ) -> None:
        require_known(kwargs)
        require_alike(
            kwargs.get("members", 1),
            executor_memory=executor_memory,
            executor_cores=executor_cores,
            num_executors=num_executors,
            total_executor_cores=total_executor_cores,
        )
        memory_mib = total_memory_mib(
            driver_memory, executor=executor_memory, executors=num_executors, at_least=self.minimum_memory_mib
        )
        chosen = _settings(conf, name=name, is_verbose=verbose)
        super().__init__(
            workload="spark-sql" if application is None else "spark-python",
            image=image,
            memory=f"{memory_mib}m",
            cores=total_cores(cores, executor=executor_cores, executors=num_executors, total=total_executor_cores),
            environment={**chosen, **_variables(env_vars)},
            **kwargs,
        )
        self.sql = sql
        self.statement_param = sql_param
        self.application = application
        self.py_files = names_of(py_files)
        self.files = names_of(files)
        self.application_args = tuple(application_args)
        self._require_shape()

    def code_files(self) -> dict[str, bytes]:
        """The query, or the program and what lies beside it; the first one is the program. Nothing if the run asks."""
        if self.statement_param is not None:
            return {}
        if self.sql is None:
            return read_code((str(self.application), *self.py_files, *self.files), operator=self)
        if _is_file(self.sql):
            found = read_code((self.sql,), operator=self)
            require_no_template(text.decode(errors="replace") for text in found.values())
            return found
        return {QUERY_FILE: self.sql.encode()}

    def argv(self) -> tuple[str, ...]:
        """The name of the query's or program's file, and the arguments."""
        return (*list(self.code_files())[:1], *self.application_args)

    def _require_shape(self) -> None:
        if sum(given is not None for given in (self.sql, self.statement_param, self.application)) != 1:
            raise ConfigurationError(
                "TrustedSparkSubmitOperator wants exactly one of sql=, sql_param= and application="
            )
        if self.application is None:
            if self.py_files or self.files or self.application_args:
                raise ConfigurationError("py_files=, files= and application_args= go with application=, not with SQL")
            if len(self.outputs_to) != 1 or self.folders:
                raise ConfigurationError(f"a query writes one table; outputs= has {len(self.outputs_to)}")
        for file in (self.application, *self.py_files):
            if file is not None and not file.endswith(".py"):
                raise ConfigurationError(
                    f"file {file} is not a .py file", hint="name each .py file; an archive cannot be read by its owner"
                )
        require_no_template((self.sql or "", *self.application_args))


def _is_file(sql: str) -> bool:
    return sql.endswith(".sql") and not any(character.isspace() for character in sql)


def _settings(conf: Mapping[str, Any] | None, *, name: str | None, is_verbose: bool) -> dict[str, str]:
    named = {} if name is None else {"spark.app.name": name}
    told = {"spark.log.level": "INFO"} if is_verbose else {}
    chosen = {**told, **named, **spelled(conf)}
    require_choices(chosen)
    return chosen


def _variables(env_vars: Mapping[str, str] | None) -> dict[str, str]:
    variables = dict(env_vars or {})
    for name in variables:
        if name.startswith("spark."):
            raise ConfigurationError(f"env_vars has the setting {name}", hint="write it in conf=")
    return variables
