"""Work, then count visits: in an enclave, over sealed tables."""

from __future__ import annotations

import sys

from spin import spin

from ppml_airflow.workloads.spark.api import inputs, write

INPUTS = {"visits": {"*": "number"}, "plans": {"plan": "string", "*": "number"}}
OUTPUTS = {"report": {"disea": "double", "visits": "bigint"}}

spin(int(sys.argv[1]))
write(
    "report",
    inputs["visits"].selectExpr("CAST(disea AS double) AS disea").groupBy("disea").count().toDF("disea", "visits"),
)
