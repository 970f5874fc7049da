"""How often is each word used? A Python job file on Flink, approved byte by byte, over a sealed stream of lines."""

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
    "flink_word_count",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "minimum": Param(5, "Leave out rarer words", type="integer", minimum=1, maximum=100_000),
        "letters": Param(4, "Leave out shorter words", type="integer", minimum=1, maximum=50),
    },
):
    count = TrustedFlinkOperator(
        task_id="count",
        application="flink_word_count/count.py",
        inputs=["lines"],
        outputs={"words": ["analyst"]},
    )
    (
        EncryptOperator(dataset="lines")
        >> AttestationSensor(before=count)
        >> count
        >> AttestationSensor(after=count)
        >> DecryptOperator(dataset="words")
        >> PassportOperator()
    )
