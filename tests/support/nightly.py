"""A small trusted DAG, its approval, and the context that Airflow would give a task of it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pendulum
from airflow.sdk import DAG, Param

from ppml_airflow.canonical import digest_bytes
from ppml_airflow.domain.documents import Approval
from ppml_airflow.operators import (
    AttestationSensor,
    DecryptOperator,
    EncryptOperator,
    PassportOperator,
    TrustedSparkSubmitOperator,
)
from ppml_airflow.operators.approvals import Terms, compile_approval

SQL = "SELECT count(*) AS n FROM visits WHERE age >= :age"
TERMS = Terms(domain_id=digest_bytes(b"domain"), replaces=None, valid_from=datetime(2026, 1, 1, tzinfo=UTC))


def nightly(*, schedule: str | None = "0 2 * * *", **changes: Any) -> DAG:
    """encrypt_visits >> gate_before_count >> count >> gate_after_count >> decrypt_report >> passport."""
    step = {"sql": SQL, "inputs": ["visits"], "outputs": {"report": ["analyst"]}, "retries": 1} | changes
    with DAG(
        "nightly",
        schedule=schedule,
        start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin"),
        catchup=False,
        params={"age": Param(18, type="integer", minimum=0, maximum=120)},
    ) as dag:
        count = TrustedSparkSubmitOperator(task_id="count", **step)
        (
            EncryptOperator(dataset="visits")
            >> AttestationSensor(before=count)
            >> count
            >> AttestationSensor(after=count)
            >> DecryptOperator(dataset="report")
            >> PassportOperator()
        )
    return dag


def approval(dag: DAG) -> Approval:
    """What its owners would sign."""
    return compile_approval(dag, terms=TERMS)


def context(dag: DAG, **changes: Any) -> Any:
    """The context of a task of a manual run."""
    run = {
        "run_id": "manual__1",
        "run_type": "manual",
        "logical_date": datetime(2026, 5, 4, 0, 30, tzinfo=UTC),
        "data_interval_end": None,
    } | changes.pop("dag_run", {})
    states = changes.pop("states", {})
    ti = SimpleNamespace(try_number=1, get_task_states=lambda **_: {run["run_id"]: states})
    return {"dag": dag, "dag_run": SimpleNamespace(**run), "ti": ti, "params": {"age": 18}} | changes
