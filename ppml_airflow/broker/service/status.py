"""The state of runs and steps, from their rows: what people, sensors and operators see. No evidence, no key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.runs import missing_inputs
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sets import count_waiting
from ppml_airflow.domain.documents import Approval, Receipt, Run, Step
from ppml_airflow.domain.jobs import earlier_steps
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.protocol.messages import Published, RunView, StepState, StepStatus
from ppml_airflow.units import parse_instant

_LAST_DENIAL = (
    sa.select(store.denial)
    .where(
        store.denial.c.run_id == sa.bindparam("run_id"),
        store.denial.c.step == sa.bindparam("step"),
        store.denial.c.after_attempt == sa.bindparam("after_attempt"),
    )
    .order_by(store.denial.c.id.desc())
    .limit(1)
)


def view_of(broker: Broker, ledger: Ledger, *, run: Run) -> RunView:
    """A run as people and operators see it."""
    row = ledger.run_row(run.run_id)
    approval = ledger.approval(run.approval)
    return RunView(
        run=ledger.envelope(row.digest),
        run_id=run.run_id,
        pipeline=run.pipeline,
        slot=run.slot,
        state="closed" if row.closed else "open",
        trust=broker.domain.trust,
        steps=tuple(status_of(broker, ledger, approval=approval, run=run, step=step) for step in approval.steps),
    )


def status_of(broker: Broker, ledger: Ledger, *, approval: Approval, run: Run, step: Step) -> StepStatus:
    """The state of a step, from its rows."""
    attempts = ledger.attempts(run.run_id, step.name)
    jobs = [row for row in attempts if row.lease_id is not None and row.member in (None, LEADER)]
    last = jobs[-1] if jobs else None
    denial = _last_denial(ledger, run_id=run.run_id, step=step.name, after=attempts[-1].id if attempts else 0)
    granted = _is_granted(ledger, run=run, step=step)
    state: StepState = "waiting"
    waiting_for = code = reason = hint = ""
    if last is not None and last.outcome == "committed":
        state = "committed"
    elif denial is not None:
        state, code, reason, hint = "denied", denial.code, denial.reason, denial.hint
    elif last is not None and last.outcome == "open":
        expired = parse_instant(last.expires) <= ledger.now
        state, waiting_for, code = ("failed", "", "lease_expired") if expired else ("running", "receipt", "")
    elif last is not None:
        state, code = ("cancelled", "cancelled") if last.outcome == "cancelled" else ("failed", last.outcome)
    else:
        state = "granted" if granted else "waiting"
        waiting_for = _waiting_for(ledger, approval=approval, run=run, step=step, granted=granted)
    committed = last if last is not None and state == "committed" else None
    return StepStatus(
        run_id=run.run_id,
        step=step.name,
        state=state,
        waiting_for=waiting_for,
        code=code,
        reason=reason,
        hint=hint,
        attempt=last.attempt if last else 0,
        granted=granted,
        outputs=_outputs(ledger, lease_id=committed.lease_id) if committed else (),
        disclosed=_disclosed(ledger, receipt=committed.receipt) if committed else {},
        trust=broker.domain.trust,
    )


def _waiting_for(ledger: Ledger, *, approval: Approval, run: Run, step: Step, granted: bool) -> str:
    attested = count_waiting(ledger, run_id=run.run_id, step=step.name) if step.members > 1 else 0
    if attested:
        return f"members: {attested} of {step.members} have attested"
    if granted:
        return "lease"
    missing = missing_inputs(step, pinned=ledger.pinned(run.run_id, step.name))
    if missing:
        return "inputs: " + ", ".join(missing)
    committed = ledger.committed_steps(run.run_id)
    earlier = [name for name in earlier_steps(approval, name=step.name) if name not in committed]
    if earlier:
        return "steps: " + ", ".join(earlier)
    return "grant" if "before" in step.gates else "lease"


def _is_granted(ledger: Ledger, *, run: Run, step: Step) -> bool:
    row = store.find(ledger.connection, store.granted, run_id=run.run_id, step=step.name)
    if row is None or parse_instant(row.expires) <= ledger.now:
        return False
    _, policy = ledger.policy_in_force(step.policy)
    return bool(row.policy == policy and row.approval == ledger.approval_in_force(run.pipeline) == run.approval)


def _last_denial(ledger: Ledger, *, run_id: str, step: str, after: int) -> sa.Row[Any] | None:
    place = {"run_id": run_id, "step": step, "after_attempt": after}
    return ledger.connection.execute(_LAST_DENIAL, place).one_or_none()


def _disclosed(ledger: Ledger, *, receipt: str) -> Mapping[str, int]:
    return canonical.decode(ledger.envelope(receipt).payload, into=Receipt).disclosed


def _outputs(ledger: Ledger, *, lease_id: str) -> tuple[Published, ...]:
    rows = store.find_all(ledger.connection, store.manifest, order="dataset", lease_id=lease_id)
    return tuple(Published(dataset=row.dataset, version=row.version, manifest=row.digest) for row in rows)
