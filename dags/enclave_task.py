"""A Python function on sealed data: which people are expected to need a doctor often? Only the analyst reads it."""

import pendulum
from airflow.sdk import DAG, Param, task

from ppml_airflow.operators import AttestationSensor, DecryptOperator, EncryptOperator, PassportOperator


@task.enclave(
    outputs={"groups": ["analyst"]},
    columns={"groups": {"diseases": "bigint", "people": "bigint", "median_visits": "double", "share": "double"}},
    needs={"visits": {"mdvis": "number", "disea": "number"}},
    disclosed={"groups": (0, 100)},
)
def group_by_diseases(visits, minimum_people, often):
    """Groups of people by number of chronic diseases: median of visits, share of people with many of them."""
    import pandas as pd

    from ppml_airflow.workloads.job_api import disclose

    diseases = pd.cut(visits["disea"], bins=range(0, 64, 4), right=False, labels=range(0, 60, 4)).astype("int64")
    grouped = visits.assign(diseases=diseases, often=visits["mdvis"] >= often).groupby("diseases")
    groups = pd.DataFrame(
        {"people": grouped.size(), "median_visits": grouped["mdvis"].median(), "share": grouped["often"].mean()}
    )
    groups = groups[groups["people"] >= minimum_people].reset_index()
    disclose("groups", len(groups))
    return groups


with DAG(
    "enclave_task",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={
        "minimum_people": Param(30, "Leave out smaller groups", type="integer", minimum=10, maximum=1000),
        "often": Param(6, "Visits a year that count as often", type="integer", minimum=1, maximum=50),
    },
):
    groups = group_by_diseases()
    (
        EncryptOperator(dataset="visits")
        >> AttestationSensor(before=groups)
        >> groups
        >> AttestationSensor(after=groups)
        >> DecryptOperator(dataset="groups")
        >> PassportOperator()
    )
