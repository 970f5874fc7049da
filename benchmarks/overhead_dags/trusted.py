"""The trusted pipeline: the shape of dags/nightly_analytics.py, with work of a chosen length."""

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
    "nightly_analytics",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={"rounds": Param(1000, "Digests", type="integer", minimum=1, maximum=10_000_000_000)},
):
    work = TrustedSparkSubmitOperator(
        task_id="work",
        application="nightly_analytics/trusted_work.py",
        py_files=["nightly_analytics/spin.py"],
        application_args=["{rounds}"],
        inputs=["visits", "plans"],
        outputs={"report": ["analyst"]},
    )
    (
        [EncryptOperator(dataset=table) for table in ("visits", "plans")]
        >> AttestationSensor(before=work)
        >> work
        >> AttestationSensor(after=work)
        >> DecryptOperator(dataset="report")
        >> PassportOperator()
    )
