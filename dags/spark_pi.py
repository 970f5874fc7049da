"""Pi by throwing darts: a Python job file, approved byte by byte. It reads no data; the analyst opens the answer."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

with DAG(
    "spark_pi",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "samples": Param(1_000_000, "Darts to throw", type="integer", minimum=10_000, maximum=100_000_000),
        "seed": Param(1, "The same seed gives the same estimate", type="integer", minimum=0, maximum=1_000_000),
    },
):
    estimate = TrustedSparkSubmitOperator(
        task_id="estimate",
        application="spark_pi/pi.py",
        application_args=["--samples", "{samples}", "--seed", "{seed}"],
        outputs={"pi": ["analyst"]},
    )
    (
        AttestationSensor(before=estimate)
        >> estimate
        >> AttestationSensor(after=estimate)
        >> DecryptOperator(dataset="pi")
        >> PassportOperator()
    )
