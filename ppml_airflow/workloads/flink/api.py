"""What the author of a Flink job in Python imports.

    from ppml_airflow.workloads.flink.api import inputs, params, write

    OUTPUTS = {"counts": {"page": "string", "n": "bigint"}}

    clicks = inputs["clicks"]
    write("counts", clicks.group_by(clicks.page).select(clicks.page, clicks.page.count.alias("n")))

Inputs are PyFlink tables over sealed streams and tables; an output is written once, with the declared columns, and
holds what stands when the input has ended. Everything else is as in `workloads.job_api`: files in and out, counts to
disclose. Works only inside a job that the guest started.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ppml_airflow.workloads import job_api
from ppml_airflow.workloads.job_api import RefusedError, description, disclose, files, params, read_file, save_file

if TYPE_CHECKING:
    from pyflink.table import StreamTableEnvironment, Table

__all__ = ["disclose", "files", "inputs", "params", "read_file", "save_file", "table_environment", "write"]


@cache
def table_environment() -> StreamTableEnvironment:
    """The table environment of this job, in which the inputs are tables by their names."""
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    tables = StreamTableEnvironment.create(StreamExecutionEnvironment.get_execution_environment())
    for view in description()["views"]:
        _java().Streams.grant(tables._j_tenv, json.dumps(view))
    return tables


def write(dataset: str, table: Table) -> None:
    """Write an output, once, and wait until all input has been read.

    Raises:
        RefusedError: not a table that this job writes, or other columns than declared.
    """
    outputs = description()["outputs"]
    if dataset not in outputs:
        raise RefusedError(f"{dataset} is not a table that this job writes: {sorted(outputs)}", code="not_granted")
    found, declared = json.loads(_java().Streams.columns(table._j_table)), outputs[dataset]["columns"]
    if found != declared:
        raise RefusedError(f"output {dataset} has columns {found}; declared are {declared}", code="output_mismatch")
    _java().Streams.write(table._j_table, outputs[dataset]["folder"])


class _Inputs(Mapping[str, "Table"]):
    """The granted streams and tables by name, each a table of Flink."""

    def __getitem__(self, name: str) -> Table:
        if name not in set(self):
            raise KeyError(name)
        return table_environment().from_path(f"`{name}`")

    def __iter__(self) -> Iterator[str]:
        return (view["name"] for view in description()["views"])

    def __len__(self) -> int:
        return len(description()["views"])


inputs = _Inputs()


def _java() -> Any:
    """Our classes in the JobManager, which runs this program."""
    from pyflink.java_gateway import get_gateway

    return get_gateway().jvm.ppml.flink


def _tell_last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As in every job; of an error in Java, Java says the word."""
    job_api.tell_last_words(kind, error, trace)
    java_error = getattr(error, "java_exception", None)
    if java_error is not None:
        job_api.tell_failure(_java().Failure.code(java_error))


if sys.excepthook is job_api.tell_last_words:
    sys.excepthook = _tell_last_words
