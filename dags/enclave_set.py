"""Three enclaves do one job on sealed data: each looks at its share of the people, and one adds up."""

import pendulum
from airflow.sdk import DAG, Param, task

from ppml_airflow.operators import AttestationSensor, DecryptOperator, EncryptOperator, PassportOperator


@task.enclave(
    outputs={"groups": ["analyst"]},
    columns={"groups": {"diseases": "bigint", "people": "bigint", "visits": "bigint"}},
    needs={"visits": {"mdvis": "number", "disea": "number"}},
    members=3,
    replacements=1,
)
def group_together(visits, minimum_people):
    """Groups of people by number of chronic diseases: how many people, how many visits."""
    import io

    import pandas as pd

    from ppml_airflow.workloads.job_api import gather, member, members

    mine = visits.iloc[member() :: members()]
    diseases = pd.cut(mine["disea"], bins=range(0, 64, 4), right=False, labels=range(0, 60, 4)).astype("int64")
    grouped = mine.assign(diseases=diseases).groupby("diseases")
    found = pd.DataFrame({"people": grouped.size(), "visits": grouped["mdvis"].sum()})
    parts = gather(found.to_csv().encode())
    if not parts:
        return None
    whole = pd.concat(pd.read_csv(io.BytesIO(part)) for part in parts).groupby("diseases").sum()
    return whole[whole["people"] >= minimum_people].astype("int64").reset_index()


with DAG(
    "enclave_set",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
    catchup=False,
    max_active_runs=1,
    params={"minimum_people": Param(30, "Leave out smaller groups", type="integer", minimum=10, maximum=1000)},
):
    groups = group_together()
    (
        EncryptOperator(dataset="visits")
        >> AttestationSensor(before=groups)
        >> groups
        >> AttestationSensor(after=groups)
        >> DecryptOperator(dataset="groups")
        >> PassportOperator()
    )
