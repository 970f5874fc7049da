"""Is a tumour malignant? Spark MLlib learns it from sealed measures; only the analyst opens the model."""

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
    "train_mllib",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "iterations": Param(20, "Iterations, at most", type="integer", minimum=1, maximum=200),
        "held_out": Param(25, "Rows kept to measure by, in per cent", type="integer", minimum=5, maximum=50),
        "seed": Param(1, "The same seed keeps the same rows", type="integer", minimum=0, maximum=1_000_000),
    },
):
    train = TrustedSparkSubmitOperator(
        task_id="train",
        application="train_mllib/train.py",
        application_args=["--iterations", "{iterations}", "--held-out", "{held_out}", "--seed", "{seed}"],
        image="training",
        inputs=["tumours"],
        outputs={"model": ["analyst"]},
        folders=["model"],
        output_files=2,
        disclosed={"accuracy_percent": (0, 100)},
        driver_memory="2g",
    )
    (
        EncryptOperator(dataset="tumours")
        >> AttestationSensor(before=train)
        >> train
        >> AttestationSensor(after=train)
        >> DecryptOperator(dataset="model")
        >> PassportOperator()
    )
