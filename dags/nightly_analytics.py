"""Every night: how often do people see a doctor under each insurance plan? Nobody but the analyst reads the answer."""

from pathlib import Path

import pendulum
import yaml
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

question = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())

with DAG(
    "nightly_analytics",
    schedule="0 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "minimum_people": Param(30, "Leave out smaller groups", type="integer", minimum=10, maximum=1000),
        "minimum_diseases": Param(0, "Chronic diseases, at least", type="integer", minimum=0, maximum=60),
    },
):
    aggregate = TrustedSparkSubmitOperator(
        task_id="aggregate", sql=question["sql"], inputs=question["tables"], outputs={"report": ["analyst"]}, retries=1
    )
    (
        [EncryptOperator(dataset=table) for table in question["tables"]]
        >> AttestationSensor(before=aggregate)
        >> aggregate
        >> AttestationSensor(after=aggregate)
        >> DecryptOperator(dataset="report")
        >> PassportOperator()
    )
