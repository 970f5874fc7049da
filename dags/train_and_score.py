"""A model that nobody sees: one enclave learns it, another scores with it, and the analyst opens the scores."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EnclaveInferenceOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)

MEASURED = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
COLUMNS = [
    *(f"mean_{name}" for name in MEASURED),
    *(f"{name}_error" for name in MEASURED),
    *(f"worst_{name}" for name in MEASURED),
]

with DAG(
    "train_and_score",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "iterations": Param(20, "Iterations, at most", type="integer", minimum=1, maximum=200),
        "held_out": Param(25, "Rows kept to measure by, in per cent", type="integer", minimum=5, maximum=50),
        "seed": Param(1, "The same seed keeps the same rows", type="integer", minimum=0, maximum=1_000_000),
        "minimum_risk": Param(0.5, "Leave out what is less likely", type="number", minimum=0, maximum=1),
    },
):
    train = TrustedSparkSubmitOperator(
        task_id="train",
        application="train_mllib/train.py",
        application_args=["--iterations", "{iterations}", "--held-out", "{held_out}", "--seed", "{seed}"],
        image="training",
        inputs=["tumours"],
        outputs={"model": []},
        folders=["model"],
        output_files=2,
        disclosed={"accuracy_percent": (0, 100)},
        driver_memory="2g",
    )
    score = EnclaveInferenceOperator(
        task_id="score",
        model="model",
        data="tumours",
        features={"features": COLUMNS},
        results={"risk": ("probability", "float")},
        keep=["mean_radius", "malignant"],
        at_least={"risk": "minimum_risk"},
        outputs={"risks": ["analyst"]},
    )
    EncryptOperator(dataset="tumours") >> AttestationSensor(before=train) >> train
    (
        train
        >> AttestationSensor(before=score)
        >> score
        >> AttestationSensor(after=score)
        >> DecryptOperator(dataset="risks")
        >> PassportOperator()
    )
