"""What a program wants of its inputs, compared before the lease with what their manifests say.

It stands in the program as a literal, columns as Spark SQL writes types, or by family; `*` is every other column:

    INPUTS = {"visits": {"mdvis": "whole number", "*": "number"}, "model": "files"}

A program without it takes its inputs as they come. Refuses what the step does not grant, and columns that are missing
or of another type, so that they end in a full text and not in one word from inside the enclave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.job import TableInput, WorkloadJob
from ppml_airflow.workloads.spark.types import spark_schema

FILES = "files"
REST = "*"
_WHOLE = r"byte|short|integer|long"
_FAMILIES = {"whole number": _WHOLE, "number": rf"{_WHOLE}|float|double|decimal\(\d+,\d+\)"}
SPARK_OF_SQL = {
    "boolean": "boolean",
    "tinyint": "byte",
    "smallint": "short",
    "int": "integer",
    "bigint": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "date": "date",
    "timestamp": "timestamp",
    "timestamp_ntz": "timestamp_ntz",
}


def require_declared_inputs(declared: object, *, job: WorkloadJob, program: str) -> None:
    """Refuse a job whose inputs are not what its program declares.

    Raises:
        ConfigurationError: names the input, the column, what it is and what was wanted; code `input_mismatch`.
    """
    if not isinstance(declared, dict) or not all(found == FILES or _is_columns(found) for found in declared.values()):
        raise ConfigurationError(
            f"{program} does not say properly what its inputs are",
            hint='write at the top, as a literal: INPUTS = {"visits": {"mdvis": "bigint", "*": "number"}}; known are'
            f" {', '.join((*SPARK_OF_SQL, *_FAMILIES))}, decimal(p,s)",
        )
    tables = {table.view: table for table in job.inputs}
    folders = {granted.dataset for granted in job.files}
    for dataset, columns in declared.items():
        if dataset not in (folders if columns == FILES else tables):
            shape = "a folder of files" if columns == FILES else "a table"
            granted = ", ".join(sorted({*tables, *folders})) or "none"
            raise _mismatch(f"{program} reads {dataset} as {shape}; the step's inputs are: {granted}")
        if columns != FILES:
            _require_columns(tables[dataset], wanted=columns)


def _require_columns(table: TableInput, *, wanted: Mapping[str, str]) -> None:
    found = {column.name: column for column in table.columns}
    for name in wanted:
        if name != REST and name not in found:
            raise _mismatch(f"input {table.view} has no column {name}; it has: {', '.join(found)}")
    for name, column in found.items():
        kind = wanted.get(name, wanted.get(REST))
        if kind is not None and not re.fullmatch(_pattern(kind), _spark_type(column, view=table.view)):
            raise _mismatch(f"column {name} of input {table.view} has type {column.type}; wanted is {kind}")


def _spark_type(column: Column, *, view: str) -> str:
    return str(spark_schema((column,), view=view)["fields"][0]["type"])


def _pattern(kind: str) -> str:
    return _FAMILIES.get(kind) or re.escape(SPARK_OF_SQL.get(kind, kind))


def _is_columns(found: object) -> bool:
    return isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(kind, str) and _is_kind(kind) for name, kind in found.items()
    )


def _is_kind(kind: str) -> bool:
    return kind in SPARK_OF_SQL or kind in _FAMILIES or re.fullmatch(r"decimal\(\d{1,2},\d{1,2}\)", kind) is not None


def _mismatch(message: str) -> ConfigurationError:
    return ConfigurationError(
        message, code="input_mismatch", hint="seal a table that has it, or change the program and have it approved"
    )
