"""Counts words on Flink: a function of Python cuts lines into words, inside the Java machine that holds the keys."""

import re
from collections.abc import Iterator

from pyflink.table import DataTypes
from pyflink.table.expressions import col
from pyflink.table.udf import udtf

from ppml_airflow.workloads.flink.api import inputs, params, write

INPUTS = {"lines": {"line": "string"}}
OUTPUTS = {"words": {"word": "string", "n": "bigint"}}

LETTERS = int(params["letters"])


@udtf(result_types=[DataTypes.STRING()])
def words(line: str) -> Iterator[str]:
    """Words in lower case that are long enough."""
    for word in re.findall(r"[a-z]+", (line or "").lower()):
        if len(word) >= LETTERS:
            yield word


counted = (
    inputs["lines"]
    .join_lateral(words(col("line")).alias("word"))
    .group_by(col("word"))
    .select(col("word"), col("line").count.alias("n"))
)
write("words", counted.where(col("n") >= int(params["minimum"])))
