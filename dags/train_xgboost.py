"""Who sees a doctor at all in a year? XGBoost learns it on Spark, two workers over sealed data."""

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
    "train_xgboost",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "trees": Param(50, "Trees", type="integer", minimum=1, maximum=500),
        "depth": Param(4, "Their depth, at most", type="integer", minimum=1, maximum=10),
        "held_out": Param(25, "Rows kept to measure by, in per cent", type="integer", minimum=5, maximum=50),
        "seed": Param(1, "The same seed keeps the same rows", type="integer", minimum=0, maximum=1_000_000),
    },
):
    train = TrustedSparkSubmitOperator(
        task_id="train",
        application="train_xgboost/train.py",
        application_args=["--trees", "{trees}", "--depth", "{depth}", "--held-out", "{held_out}", "--seed", "{seed}"],
        image="training",
        inputs=["visits"],
        outputs={"model": ["analyst"]},
        folders=["model"],
        output_files=2,
        disclosed={"accuracy_percent": (0, 100)},
        driver_memory="3g",
    )
    (
        EncryptOperator(dataset="visits")
        >> AttestationSensor(before=train)
        >> train
        >> AttestationSensor(after=train)
        >> DecryptOperator(dataset="model")
        >> PassportOperator()
    )
