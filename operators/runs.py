"""Every operator opens the run: same DAG run, same Run at the broker. There is no task for it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval
from ppml_airflow.domain.slots import slot_of
from ppml_airflow.operators.params import run_params
from ppml_airflow.protocol.client import BrokerClient, patiently
from ppml_airflow.protocol.messages import OpenRun, RunView
from ppml_airflow.units import Instant, format_instant

if TYPE_CHECKING:
    from airflow.sdk import Context


def open_run(broker: BrokerClient, *, context: Context, pipeline: str | None, patience_s: float) -> RunView:
    """OPEN-RUN for the DAG run of a task. Idempotent: the key is (pipeline, dag_id, Airflow's run_id).

    Args:
        broker: a client; a broker that does not answer is waited for.
        context: of the task.
        pipeline: the approved pipeline; the dag_id if None.
        patience_s: how long a broker that does not answer is waited for.

    Raises:
        UnavailableError: no answer in that time.
        PolicyDeniedError: no approval, or params or slot outside it.
    """
    dag = context["dag"]
    name = pipeline or dag.dag_id
    moment = scheduled_moment(context)
    request = OpenRun(
        pipeline=name,
        slot=patiently(lambda: _slot(broker, pipeline=name, moment=moment), seconds=patience_s),
        params=run_params(context["params"], dag=dag),
        claimed=_labels(context),
    )
    return patiently(lambda: broker.open_run(request), seconds=patience_s)


def scheduled_moment(context: Context) -> datetime | None:
    """The moment for which a DAG run was due: the end of its data interval if it was scheduled, else its logical date.

    None for a run without either: the broker then takes its own time.
    """
    run = context["dag_run"]
    if run.run_type == "manual":
        return run.logical_date
    return run.data_interval_end or run.logical_date


def _slot(broker: BrokerClient, *, pipeline: str, moment: datetime | None) -> Instant | None:
    """The slot of that moment. Without an approval there is none, and the broker says so when the run is opened."""
    envelope = broker.approval(pipeline) if moment else None
    if moment is None or envelope is None:
        return None
    return slot_of(moment, slots=canonical.decode(envelope.payload, into=Approval).slots)


def _labels(context: Context) -> dict[str, str]:
    run = context["dag_run"]
    labels = {
        "dag_id": context["dag"].dag_id,
        "run_id": run.run_id,
        "try_number": str(context["ti"].try_number),
    }
    if run.logical_date is not None:
        labels["logical_date"] = format_instant(run.logical_date)
    return labels
