"""Which digit is this? PyTorch learns it on Spark, two processes over sealed pictures."""

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
    "train_torch",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "epochs": Param(15, "Passes over the data", type="integer", minimum=1, maximum=200),
        "hidden": Param(32, "Neurons in between", type="integer", minimum=4, maximum=512),
        "held_out": Param(25, "Rows kept to measure by, in per cent", type="integer", minimum=5, maximum=50),
        "seed": Param(1, "The same seed keeps the same rows", type="integer", minimum=0, maximum=1_000_000),
    },
):
    train = TrustedSparkSubmitOperator(
        task_id="train",
        application="train_torch/train.py",
        application_args=[
            "--epochs",
            "{epochs}",
            "--hidden",
            "{hidden}",
            "--held-out",
            "{held_out}",
            "--seed",
            "{seed}",
        ],
        image="training",
        inputs=["digits"],
        outputs={"model": ["analyst"]},
        folders=["model"],
        output_files=3,
        disclosed={"accuracy_percent": (0, 100)},
        driver_memory="4g",
    )
    (
        EncryptOperator(dataset="digits")
        >> AttestationSensor(before=train)
        >> train
        >> AttestationSensor(after=train)
        >> DecryptOperator(dataset="model")
        >> PassportOperator()
    )
