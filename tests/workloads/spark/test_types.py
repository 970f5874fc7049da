from __future__ import annotations

import pyarrow as pa
import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.spark.types import arrow_columns, spark_schema

TYPES = [
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", tz="UTC"),
    pa.decimal128(38, 10),
    pa.list_(pa.field("element", pa.list_(pa.field("element", pa.string())))),
    pa.struct([("a", pa.decimal128(9, 2)), ("b", pa.struct([("c", pa.timestamp("us", tz="UTC")), ("d", pa.int64())]))]),
]


@pytest.mark.parametrize("arrow", TYPES, ids=str)
def test_types_are_the_same_on_the_way_back(arrow: pa.DataType) -> None:
    columns = (Column(name="x", type=str(arrow)),)
    schema = spark_schema(columns, view="v")
    assert arrow_columns(schema["fields"], dataset="d") == columns


@pytest.mark.parametrize("arrow", ["uint64", "null", "time64[us]", "dictionary<values=string>", "list<x>"])
def test_a_type_that_spark_does_not_read_is_refused_by_column(arrow: str) -> None:
    with pytest.raises(ConfigurationError, match=r"column odd of visits has type"):
        spark_schema((Column(name="odd", type=arrow),), view="visits")


def test_unsigned_numbers_are_read_as_the_next_larger() -> None:
    columns = tuple(Column(name=name, type=name) for name in ("uint8", "uint16", "uint32"))
    assert [field["type"] for field in spark_schema(columns, view="v")["fields"]] == ["short", "integer", "long"]
