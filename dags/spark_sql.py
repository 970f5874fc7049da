"""Spark as its users know it: a query from a file, then a program that imports another file and writes two tables."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

with DAG(
    "spark_sql",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "minimum_diseases": Param(0, "Chronic diseases, at least", type="integer", minimum=0, maximum=60),
        "smallest_group": Param(30, "Leave out smaller groups", type="integer", minimum=10, maximum=5000),
    },
):
    join = TrustedSparkSubmitOperator(
        task_id="join",
        sql="spark_sql/person_years.sql",
        inputs=["visits", "plans"],
        outputs={"person_years": []},
        conf={"spark.sql.shuffle.partitions": 4, "spark.sql.autoBroadcastJoinThreshold": "10m"},
    )
    measure = TrustedSparkSubmitOperator(
        task_id="measure",
        name="use of doctors",
        application="spark_sql/use.py",
        py_files=["spark_sql/health.py"],
        application_args=["{smallest_group}"],
        inputs=["person_years"],
        outputs={"use_by_plan": ["analyst"], "use_by_health": ["analyst"]},
        disclosed={"person_years": (0, 1_000_000)},
        driver_memory="1g",
        executor_memory="1g",
        executor_cores=2,
    )
    sealed = [EncryptOperator(dataset=table) for table in ("visits", "plans")]
    opened = [DecryptOperator(dataset=table) for table in ("use_by_plan", "use_by_health")]
    sealed >> AttestationSensor(before=join) >> join
    join >> AttestationSensor(before=measure) >> measure >> AttestationSensor(after=measure) >> opened
    opened >> PassportOperator()
