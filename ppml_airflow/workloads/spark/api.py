"""What the author of a Spark job in Python imports.

    from ppml_airflow.workloads.spark.api import inputs, params, write

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

    visits = inputs["visits"].where(f"day >= '{params['since']}'")
    write("report", visits.groupBy("plan").agg({"n": "sum"}).toDF("plan", "visits"))

Inputs are DataFrames over sealed tables; an output is written once, with the declared columns; `disclose` names a count
that the approval allows to leave. Works only inside a job that the guest started.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ppml_airflow.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_HOME = Path.cwd()
"""The private directory: the guest starts a job there."""


@cache
def session() -> SparkSession:
    """The Spark session of this job, configured by the guest."""
    from pyspark.sql import SparkSession

    return SparkSession.builder.getOrCreate()


def write(dataset: str, frame: DataFrame) -> None:
    """Write an output, once, into the number of parts that the approval fixes.

    Raises:
        ConfigurationError: not an output of this job, or other columns than declared.
    """
    outputs = _description()["outputs"]
    if dataset not in outputs:
        raise ConfigurationError(f"{dataset} is not an output of this job, which has {sorted(outputs)}")
    declared, found = outputs[dataset]["columns"], dict(frame.dtypes)
    if list(found.items()) != list(declared.items()) or len(frame.dtypes) != len(declared):
        _tell({"op": "failed", "code": "output_mismatch"})
        raise ConfigurationError(f"output {dataset} has columns {found}; declared are {declared}")
    writer = session()._jvm.ppml.spark.Output
    writer.write(frame._jdf, outputs[dataset]["folder"], outputs[dataset]["files"])


def disclose(name: str, value: int) -> None:
    """Offer a count for disclosure; it leaves only if the approval names it, within its bounds."""
    _tell({"op": "disclose", "name": name, "value": int(value)})


class _Inputs(Mapping[str, "DataFrame"]):
    """The granted tables by name, each a DataFrame."""

    def __getitem__(self, name: str) -> DataFrame:
        return _table(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_description()["inputs"])

    def __len__(self) -> int:
        return len(_description()["inputs"])


class _Params(Mapping[str, Any]):
    """The params of this run by name, each of its declared type."""

    def __getitem__(self, name: str) -> int | str | bool | Decimal | date:
        literal = _description()["params"][name]
        match literal["type"]:
            case "date":
                return date.fromisoformat(literal["value"])
            case "decimal":
                return Decimal(literal["value"])
        value: int | str | bool = literal["value"]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_description()["params"])

    def __len__(self) -> int:
        return len(_description()["params"])


inputs = _Inputs()
params = _Params()


@cache
def _table(name: str) -> DataFrame:
    """One DataFrame per table, so that columns of `inputs[name]` belong together."""
    from pyspark.sql.types import StructType

    table = _description()["inputs"][name]
    schema = StructType.fromJson(table["schema"])
    if not table["parts"]:
        return session().createDataFrame([], schema)
    return session().read.schema(schema).option("__globPaths__", "false").parquet(*table["parts"])


@cache
def _description() -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads((_HOME / "conf" / "job.json").read_text())
    except FileNotFoundError as error:
        raise ConfigurationError("this program runs only as a job of a guest") from error
    return described


def _tell(message: Mapping[str, object]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect("guest.sock")
        channel.sendall(json.dumps(message).encode() + b"\n")
        channel.makefile("rb").readline()


def _tell_failure(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say one word of how the job failed; the text goes to the log."""
    sys.__excepthook__(kind, error, trace)
    java_error = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java_error is not None:
        _tell({"op": "failed", "code": session()._jvm.ppml.spark.Failure.code(java_error)})


if (_HOME / "conf" / "job.json").exists():
    sys.excepthook = _tell_failure
