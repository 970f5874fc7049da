"""The one place where our errors become Airflow's.

`UnavailableError` propagates: Airflow tries again as often as the task's `retries` say. Everything else fails the task
at once, however many retries are left, so that a forged quote is never retried into acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow.sdk.exceptions import AirflowFailException

from ppml_airflow.errors import PpmlError, UnavailableError

CURED_BY_APPROVAL = frozenset(
    {
        "approval_expired",
        "attempts_used_up",
        "code_changed",
        "gate_missing",
        "gate_void",
        "not_approved",
        "other_job",
        "param_out_of_bounds",
        "param_unknown",
        "runs_per_slot",
        "slot_too_old",
        "slot_unknown",
        "step_changed",
        "step_not_approved",
    }
)
"""Refusals that the owner can lift by approving what the DAG says now."""


@contextmanager
def airflow_errors(dag_file: str) -> Iterator[None]:
    """Map what the block raises; `dag_file` is named in the commands that would approve it.

    Raises:
        UnavailableError: worth another try.
        AirflowFailException: anything else that this project refuses to do.
    """
    try:
        yield
    except UnavailableError:
        raise
    except PpmlError as error:
        raise AirflowFailException(explain(error, dag_file=dag_file)) from error


def explain(error: PpmlError, *, dag_file: str) -> str:
    """What was refused, by which clause, and what to do, in at most four lines."""
    lines = [f"{error.message} [{error.code}]"]
    if error.hint and "ppml compile" not in error.hint:
        lines.append(f"what to do: {error.hint}")
    if error.code in CURED_BY_APPROVAL:
        document = f"{Path(dag_file).stem}.approval.json"
        lines.append(f"to approve what the DAG says now: ppml compile {dag_file} --out {document}")
        lines.append(f"and then, as the data owner:      ppml approve {document}")
    return "\n".join(lines)
