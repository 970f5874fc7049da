"""Receipts: an enclave says what it did; heads of outputs move, or the attempt has failed. And may a guest go on?"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import require_in_force
from ppml_airflow.broker.decisions.leases import lease_state
from ppml_airflow.broker.decisions.receipts import (
    require_leader,
    require_lease_current,
    require_output_manifest,
    require_receipt,
)
from ppml_airflow.broker.service.attempts import end_set, free_reservations
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.pinning import pin_committed
from ppml_airflow.broker.service.sets import members_of
from ppml_airflow.broker.service.status import status_of
from ppml_airflow.domain.documents import Lease, Receipt, Step
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.protocol.messages import (
    Commit,
    LeaseStatus,
    StepStatus,
)
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import PublicKey, verify_envelope


def commit_receipt(broker: Broker, *, request: Commit) -> StepStatus:
    """Accept a receipt: heads of outputs move, or the attempt has failed (idempotent).

    Raises:
        VerificationError: not signed by the lease's key K, or not of that lease.
        PolicyDeniedError: the lease is void.
    """
    with broker.decision() as ledger:
        receipt = canonical.decode(request.receipt.payload, into=Receipt)
        row = _attempt_of(ledger, receipt.lease_id)
        key = canonical.decode(row.signing_key, into=PublicKey)
        verify_envelope(request.receipt, into=Receipt, keys=(key,))
        run = ledger.run(row.run_id)
        approval = ledger.approval(run.approval)
        step = require_step(approval, name=row.step)
        if row.receipt == request.receipt.digest:
            return status_of(broker, ledger, approval=approval, run=run, step=step)
        if row.receipt is not None:
            raise PolicyDeniedError(f"attempt {row.attempt} of {row.step} has another receipt", code="receipt_differs")
        lease = ledger.lease(row.lease)
        require_in_force(
            approval,
            digest=run.approval,
            in_force=ledger.approval_in_force(run.pipeline),
            now=ledger.now,
        )
        require_lease_current(lease, **_lease_standing(ledger, row))
        require_leader(receipt, member=row.member)
        require_receipt(receipt, lease=lease, step=step, members=members_of(ledger, row.set_id))
        _commit_outputs(broker, ledger, request=request, receipt=receipt, lease=lease, step=step, key=key)
        free_reservations(ledger, lease_id=lease.lease_id)
        outcome = "committed" if receipt.outcome == "ok" else receipt.outcome
        ended = {"outcome": outcome, "receipt": request.receipt.digest}
        store.update(ledger.connection, store.attempt, where={"id": row.id}, **ended)
        if row.set_id is not None:
            end_set(ledger, set_id=row.set_id)
        ledger.put(request.receipt, kind="receipt", run_id=run.run_id)
        return status_of(broker, ledger, approval=approval, run=run, step=step)


def _commit_outputs(
    broker: Broker,
    ledger: Ledger,
    *,
    request: Commit,
    receipt: Receipt,
    lease: Lease,
    step: Step,
    key: PublicKey,
) -> None:
    if len(request.manifests) != len(receipt.outputs):
        raise VerificationError(
            f"receipt of {lease.step} names {len(receipt.outputs)} outputs, {len(request.manifests)} manifests came",
            code="other_outputs",
        )
    for envelope, named, reserved in zip(request.manifests, receipt.outputs, lease.outputs, strict=False):
        manifest = verify_envelope(envelope, into=Manifest, keys=(key,))
        require_output_manifest(
            envelope,
            manifest=manifest,
            named=named,
            reserved=reserved,
            lease=lease,
            step=step,
            domain_id=broker.domain.domain_id,
        )
        ledger.commit_manifest(envelope, manifest=manifest)
        pin_committed(broker, ledger, manifest=manifest, digest=envelope.digest, run_id=lease.run_id)


def check_lease(broker: Broker, *, lease_id: str) -> LeaseStatus:
    """Whether a guest may go on; that it asked shows that it lives."""
    with broker.decision() as ledger:
        row = _attempt_of(ledger, lease_id)
        store.update(ledger.connection, store.attempt, where={"id": row.id}, seen=ledger.time)
        state = lease_state(ledger.lease(row.lease), **_lease_standing(ledger, row))
        return LeaseStatus(state=state, members=members_of(ledger, row.set_id))


def _attempt_of(ledger: Ledger, lease_id: str) -> sa.Row[Any]:
    row = store.find(ledger.connection, store.attempt, lease_id=lease_id)
    if row is None:
        raise VerificationError("lease is not known here", code="lease_unknown")
    return row


def _lease_standing(ledger: Ledger, row: sa.Row[Any]) -> dict[str, Any]:
    """The arguments by which `lease_state` judges."""
    leased = [attempt for attempt in ledger.attempts(row.run_id, row.step) if attempt.lease_id is not None]
    run = ledger.run_row(row.run_id)
    return {
        "current_attempt": leased[-1].attempt,
        "outcome": row.outcome,
        "closed": run.closed is not None,
        "epoch": ledger.epoch,
        "now": ledger.now,
    }
