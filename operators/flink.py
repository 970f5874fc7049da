"""Jobs on Flink in an enclave: one query, or an approved Python program, over sealed streams and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.enclaves import EnclaveOperator, read_code, require_no_template
from ppml_airflow.workloads.flink.settings import CHOSEN_BY_STEP, EVENT_TIME, MINIMUM_MEMORY_MIB

QUERY_FILE = "query.sql"


class TrustedFlinkOperator(EnclaveOperator):
    """Run a query or a program on a Flink cluster inside one enclave. Exactly one of `sql` and `application`.

    The job ends when its inputs have been read; then its last windows close. With `members=3` the cluster is three
    enclaves, a JobManager and two TaskManagers.

    Args:
        sql: one query; `:name` stands for the param of that name; inputs are tables by their names.
        application: path of a .py file, relative to the DAG file.
        py_files: more .py files that the application imports.
        application_args: arguments; an element `{name}` is replaced whole by the param of that name.
        event_time: input -> the column that is its event time.
        out_of_order_s: by so many seconds records may come late.
        streams: those of the outputs that are streams; the others are tables.
        conf: settings of Flink, of those that a step may choose.
        image: the trusted image.
        kwargs: as for `EnclaveOperator`.
    """

    ui_color = "#f9e0ea"
    minimum_memory_mib = MINIMUM_MEMORY_MIB

    def __init__(
        self,
        *,
        sql: str | None = None,
        application: str | None = None,
        py_files: Sequence[str] = (),
        application_args: Sequence[str] = (),
        event_time: Mapping[str, str] | None = None,
        out_of_order_s: int = 0,
        streams: Sequence[str] = (),
        conf: Mapping[str, str] | None = None,
        image: str = "flink",
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(conf or {}) - CHOSEN_BY_STEP)
        if unknown:
            allowed = ", ".join(sorted(CHOSEN_BY_STEP))
            raise ConfigurationError(f"conf {unknown[0]} is not allowed", hint=f"allowed: {allowed}")
        times = {
            f"{EVENT_TIME}{dataset}": f"{column} {out_of_order_s}" for dataset, column in (event_time or {}).items()
        }
        if kwargs.get("replacements"):
            raise ConfigurationError(
                "replacements= is refused: a TaskManager's state is lost with it, and no job is restarted",
                code="option_refused",
                hint="retries= does the whole step anew",
            )
        workload = "flink-python" if sql is None else "flink-sql"
        super().__init__(workload=workload, image=image, environment={**(conf or {}), **times}, **kwargs)
        _require_shape(sql=sql, application=application, py_files=py_files, arguments=application_args)
        self._require_datasets(event_time=event_time or {}, streams=streams, has_sql=sql is not None)
        self.sql = sql
        self.application = application
        self.py_files = tuple(py_files)
        self.application_args = tuple(application_args)
        self.streams = frozenset(streams)

    def code_files(self) -> dict[str, bytes]:
        """The query, or the program and what it imports; the first one is the program."""
        if self.sql is not None:
            return {QUERY_FILE: self.sql.encode()}
        return read_code((str(self.application), *self.py_files), operator=self)

    def argv(self) -> tuple[str, ...]:
        """The name of the query's or program's file, and the arguments."""
        return (next(iter(self.code_files())), *self.application_args)

    def body_of(self, dataset: str) -> Literal["table", "files", "stream"]:
        """What an output is."""
        return "stream" if dataset in self.streams else super().body_of(dataset)

    def _require_datasets(self, *, event_time: Mapping[str, str], streams: Sequence[str], has_sql: bool) -> None:
        if self.folders:
            raise ConfigurationError("a Flink step writes tables and streams; folders= is for other engines")
        if has_sql and len(self.outputs_to) != 1:
            raise ConfigurationError(f"sql= writes one output; outputs= has {len(self.outputs_to)}")
        strays = sorted(set(streams) - set(self.outputs_to))
        if strays:
            raise ConfigurationError(f"streams= names {strays[0]}, which is none of the outputs")
        strays = sorted(set(event_time) - set(self.inputs))
        if strays:
            raise ConfigurationError(f"event_time= names {strays[0]}, which is none of the inputs")


def _require_shape(
    *, sql: str | None, application: str | None, py_files: Sequence[str], arguments: Sequence[str]
) -> None:
    if (sql is None) == (application is None):
        raise ConfigurationError("TrustedFlinkOperator wants exactly one of sql= and application=")
    if sql is not None and (py_files or arguments):
        raise ConfigurationError("py_files= and application_args= go with application=, not with sql=")
    for name in (application, *py_files):
        if name is not None and not name.endswith(".py"):
            raise ConfigurationError(f"file {name} is not a .py file")
    require_no_template((sql or "", *arguments))
