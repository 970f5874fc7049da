"""All that a decision about a lease request looks at, fetched from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import Grant, Head, StepState
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Approval, Job, Run, Step
from ppml_airflow.domain.jobs import build_job, require_step
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import VerificationError
from ppml_airflow.protocol.messages import Attest
from ppml_airflow.units import Digest, parse_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One session's request, and what the broker knows of its run and step."""

    ledger: Ledger
    session: sa.Row[Any]
    request: Attest
    run: Run
    approval: Approval
    step: Step
    job: Job
    policy: Policy
    policy_digest: Digest
    certificates: Certificates
    attempts: tuple[sa.Row[Any], ...]
    """The attempts and preflights of the step before this one, oldest first."""
    state: StepState


def find_job(ledger: Ledger, job_digest: Digest) -> tuple[str, str]:
    """The run and the step whose job this is.

    Raises:
        VerificationError: no run has such a job.
    """
    row = store.find(ledger.connection, store.pins, job_digest=job_digest)
    if row is None:
        raise VerificationError(
            "evidence covers a job that no open run has", code="other_job", hint="was code, argv or a param changed?"
        )
    return row.run_id, row.step


def load_case(ledger: Ledger, *, session: sa.Row[Any], request: Attest, where: tuple[str, str]) -> Case:
    """Fetch and verify what belongs to a request; the job is computed here, never taken from it.

    Raises:
        VerificationError: a document is not authentic, or the step's inputs are not pinned.
    """
    run_id, step_name = where
    row = ledger.run_row(run_id)
    run = ledger.run_of(row)
    approval = ledger.approval(run.approval)
    step = require_step(approval, name=step_name)
    pins = ledger.pins(run_id, step_name)
    if pins is None:
        raise VerificationError(f"inputs of {step_name} are not pinned", code="inputs_missing")
    policy, policy_digest = ledger.policy_in_force(step.policy)
    attempts = tuple(ledger.attempts(run_id, step_name))
    return Case(
        ledger=ledger,
        session=session,
        request=request,
        run=run,
        approval=approval,
        step=step,
        job=build_job(approval=approval, approval_digest=run.approval, run=run, pins=pins[1], step_name=step_name),
        policy=policy,
        policy_digest=policy_digest,
        certificates=ledger.certificates(),
        attempts=attempts,
        state=_state(ledger, row=row, run=run, step=step, attempts=attempts, policy=policy_digest),
    )


def require_unused(case: Case) -> None:
    """One lease per binding: a second session with the same keys gets none.

    Raises:
        VerificationError: the binding has had its lease.
    """
    digest = canonical.digest(case.request.binding)  # it names the job, so no other step has an attempt of it
    if any(row.binding == digest and row.lease_id is not None for row in case.attempts):
        raise VerificationError("binding has had its lease already", code="binding_used", hint="start a new guest")


def committed_receipt(case: Case) -> Digest | None:
    """The receipt of the step, if it is committed already."""
    return next((row.receipt for row in case.attempts if row.outcome == "committed"), None)


def _state(
    ledger: Ledger,
    *,
    row: sa.Row[Any],
    run: Run,
    step: Step,
    attempts: tuple[sa.Row[Any], ...],
    policy: Digest,
) -> StepState:
    leased = [attempt for attempt in attempts if attempt.lease_id is not None]
    own = {attempt.lease_id for attempt in leased}
    heads = {}
    for output in step.outputs:
        head, holder = ledger.head(output.dataset), ledger.holder(output.dataset)
        heads[output.dataset] = Head(
            version=head.version if head else 0,
            manifest=head.manifest if head else None,
            reserved_by_other=holder is not None and holder not in own,
        )
    return StepState(
        run_closed=row.closed is not None,
        run_counted=row.counted,
        epoch=ledger.epoch,
        grant=_current_grant(ledger, run=run, step=step),
        policy_in_force=policy,
        committed_steps=ledger.committed_steps(run.run_id),
        attempts=max((attempt.attempt for attempt in leased), default=0),
        runs_in_slot=ledger.other_runs_in_slot(run),
        heads=heads,
    )


def _current_grant(ledger: Ledger, *, run: Run, step: Step) -> Grant | None:
    row = store.find(ledger.connection, store.granted, run_id=run.run_id, step=step.name)
    if row is None:
        return None
    return Grant(policy=row.policy, approval=row.approval, epoch=row.epoch, expires=parse_instant(row.expires))
