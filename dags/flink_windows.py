"""Clicks and visitors of each page in every window of event time: a query on Flink, a sealed stream in and one out."""

from pathlib import Path

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedFlinkOperator,
)

with DAG(
    "flink_windows",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "window_s": Param(600, "Length of a window in seconds", type="integer", minimum=1, maximum=86_400),
        "minimum_visitors": Param(3, "Leave out pages with fewer", type="integer", minimum=1, maximum=1_000),
    },
):
    windows = TrustedFlinkOperator(
        task_id="windows",
        sql=(Path(__file__).with_suffix("") / "windows.sql").read_text(),
        inputs=["clicks"],
        event_time={"clicks": "at"},
        out_of_order_s=30,
        outputs={"page_windows": ["analyst"]},
        streams=["page_windows"],
    )
    (
        EncryptOperator(dataset="clicks")
        >> AttestationSensor(before=windows)
        >> windows
        >> AttestationSensor(after=windows)
        >> DecryptOperator(dataset="page_windows")
        >> PassportOperator()
    )
