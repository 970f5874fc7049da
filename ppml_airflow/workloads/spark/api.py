"""What the author of a Spark job in Python imports.

    from ppml_airflow.workloads.spark.api import inputs, params, write

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

    visits = inputs["visits"].where(f"day >= '{params['since']}'")
    write("report", visits.groupBy("plan").agg({"n": "sum"}).toDF("plan", "visits"))

Inputs are DataFrames over sealed tables, and views of the session by the same names; an output is written once, with
the declared columns. Everything else is as in `workloads.job_api`: files in and out, counts to disclose. Works only
inside a job that the guest started.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING

from ppml_airflow.workloads import job_api
from ppml_airflow.workloads.job_api import RefusedError, description, disclose, files, params, read_file, save_file

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["disclose", "files", "inputs", "params", "read_file", "save_file", "session", "write"]


@cache
def session() -> SparkSession:
    """The Spark session of this job, configured by the guest; each input is a view of its name."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    for name in inputs:
        _table(name, spark=spark).createOrReplaceTempView(name)
    return spark


def write(dataset: str, frame: DataFrame) -> None:
    """Write an output, once, into the number of parts that the approval fixes.

    Raises:
        RefusedError: not a table that this job writes, or other columns than declared.
    """
    outputs = description()["outputs"]
    if dataset not in outputs:
        raise RefusedError(f"{dataset} is not a table that this job writes: {sorted(outputs)}", code="not_granted")
    declared, found = outputs[dataset]["columns"], dict(frame.dtypes)
    if list(found.items()) != list(declared.items()) or len(frame.dtypes) != len(declared):
        raise RefusedError(f"output {dataset} has columns {found}; declared are {declared}", code="output_mismatch")
    writer = session()._jvm.ppml.spark.Output
    writer.write(frame._jdf, outputs[dataset]["folder"], outputs[dataset]["files"])


class _Inputs(Mapping[str, "DataFrame"]):
    """The granted tables by name, each a DataFrame."""

    def __getitem__(self, name: str) -> DataFrame:
        return _table(name, spark=session())

    def __iter__(self) -> Iterator[str]:
        return iter(description()["inputs"])

    def __len__(self) -> int:
        return len(description()["inputs"])


inputs = _Inputs()


@cache
def _table(name: str, *, spark: SparkSession) -> DataFrame:
    """One DataFrame per table, so that columns of `inputs[name]` belong together."""
    from pyspark.sql.types import StructType

    table = description()["inputs"][name]
    schema = StructType.fromJson(table["schema"])
    if not table["parts"]:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("__globPaths__", "false").parquet(*table["parts"])


def _tell_last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As in every job; of an error in Java, Java says the word."""
    job_api.tell_last_words(kind, error, trace)
    java_error = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java_error is not None:
        job_api.tell_failure(session()._jvm.ppml.spark.Failure.code(java_error))


if sys.excepthook is job_api.tell_last_words:
    sys.excepthook = _tell_last_words
