"""TPC-H on sealed tables: 22 queries in one enclave. Only the analyst reads the answers, the times and their chart."""

import pendulum
from airflow.sdk import DAG, Param, TaskGroup

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]
QUERIES = [f"q{number:02}" for number in range(1, 23)]
OUTPUTS = [*(f"tpch_{query}" for query in QUERIES), "tpch_timings", "tpch_report"]

with DAG(
    "tpch",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "scale_factor": Param(
            "0.01", "At 1 the tables have 8.7 million rows", type="string", enum=["0.01", "0.1", "1"]
        ),
        "query": Param("all", "One query, or all of them", type="string", enum=["all", *QUERIES]),
        "passes": Param(1, "How often each query runs", type="integer", minimum=1, maximum=10),
    },
):
    run_queries = TrustedSparkSubmitOperator(
        task_id="run_queries",
        application="tpch/queries.py",
        py_files=["tpch/report.py"],
        files=[f"tpch/{query}.sql" for query in QUERIES],
        inputs=TABLES,
        outputs={output: ["analyst"] for output in OUTPUTS},
        folders=["tpch_report"],
        driver_memory="4g",
    )
    passport = PassportOperator()
    with TaskGroup("tables", prefix_group_id=False):
        sealed = [EncryptOperator(dataset=table) for table in TABLES]
    with TaskGroup("answers", prefix_group_id=False):
        opened = [DecryptOperator(dataset=output) for output in OUTPUTS]
    sealed >> AttestationSensor(before=run_queries) >> run_queries >> AttestationSensor(after=run_queries) >> opened
    opened >> passport
