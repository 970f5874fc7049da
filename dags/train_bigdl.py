"""Which digit is this? BigDL learns it on a Spark of its own, inside one enclave."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedPythonOperator,
)

with DAG(
    "train_bigdl",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "epochs": Param(8, "Passes over the data", type="integer", minimum=1, maximum=100),
        "filters": Param(8, "Filters of the convolution", type="integer", minimum=2, maximum=64),
        "held_out": Param(25, "Rows kept to measure by, in per cent", type="integer", minimum=5, maximum=50),
        "seed": Param(1, "The same seed keeps the same rows", type="integer", minimum=0, maximum=1_000_000),
    },
):
    train = TrustedPythonOperator(
        task_id="train",
        application="train_bigdl/train.py",
        application_args=[
            "--epochs",
            "{epochs}",
            "--filters",
            "{filters}",
            "--held-out",
            "{held_out}",
            "--seed",
            "{seed}",
        ],
        image="bigdl",
        inputs=["digits"],
        outputs={"model": ["analyst"]},
        folders=["model"],
        output_files=2,
        disclosed={"accuracy_percent": (0, 100)},
        memory="4g",
    )
    (
        EncryptOperator(dataset="digits")
        >> AttestationSensor(before=train)
        >> train
        >> AttestationSensor(after=train)
        >> DecryptOperator(dataset="model")
        >> PassportOperator()
    )
