"""One owner's model over another's data: of which type are these files? Neither owner sees what is the other's."""

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EnclaveInferenceOperator,
    EncryptOperator,
    PassportOperator,
)

with DAG(
    "batch_inference",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={"minimum_score": Param(0.5, "Leave out what is less certain", type="number", minimum=0, maximum=1)},
):
    classify = EnclaveInferenceOperator(
        task_id="classify",
        model="detector",
        labels_file="labels.txt",
        data="samples",
        features={"bytes": ["features"]},
        results={"kind": ("target_label", "label"), "score": ("target_label", "max")},
        keep=["sample"],
        at_least={"score": "minimum_score"},
        outputs={"kinds": ["analyst"]},
    )
    (
        [EncryptOperator(dataset="detector", agent="model_owner"), EncryptOperator(dataset="samples")]
        >> AttestationSensor(before=classify)
        >> classify
        >> AttestationSensor(after=classify)
        >> DecryptOperator(dataset="kinds")
        >> PassportOperator()
    )
