"""Attempts and denials as the store keeps them: how they are written down, and how open ones end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Denial, Lease
from ppml_airflow.errors import PolicyDeniedError, PpmlError
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.units import Digest


def end_open_attempts(ledger: Ledger, *, run_id: str, step: str | None, outcome: str) -> None:
    """End what is open of a run, or of one of its steps; see `end_attempts`."""
    end_attempts(ledger, ledger.attempts(run_id, step), outcome=outcome)


def end_attempts(ledger: Ledger, rows: Iterable[sa.Row[Any]], *, outcome: str) -> None:
    """End those that are open: their leases are void, the versions that they had reserved are free again."""
    for row in rows:
        if row.outcome == "open":
            _forget_secret(ledger, row)
            store.update(ledger.connection, store.attempt, where={"id": row.id}, outcome=outcome)
            free_reservations(ledger, lease_id=row.lease_id)
            ledger.changed(row.run_id)


def require_lease_not_revoked(ledger: Ledger, *, lease: Digest) -> None:
    """Keys of a lease are not handed out again once what it stood on is revoked.

    Raises:
        PolicyDeniedError: it is.
    """
    row = store.find(ledger.connection, store.attempt, lease=lease)
    if row is None or row.outcome == "revoked":
        raise PolicyDeniedError("lease is void: what it stood on was revoked", code="lease_revoked")


def end_set(ledger: Ledger, *, set_id: str) -> None:
    """End a set with its leader's receipt: what its other members do from now on counts for nothing."""
    for row in store.find_all(ledger.connection, store.attempt, order="id", set_id=set_id):
        if row.outcome == "open":
            _forget_secret(ledger, row)
            store.update(ledger.connection, store.attempt, where={"id": row.id}, outcome="ended")


def _forget_secret(ledger: Ledger, row: sa.Row[Any]) -> None:
    """No member of this attempt is replaced any more."""
    if row.set_id is not None:
        store.update(ledger.connection, store.member_set, where={"set_id": row.set_id}, secret=None)


def free_reservations(ledger: Ledger, *, lease_id: str) -> None:
    """Free the output versions that a lease had reserved."""
    store.delete(ledger.connection, store.reservation, lease_id=lease_id)


def write_attempt(
    ledger: Ledger,
    record: EvidenceRecord,
    *,
    run_id: str,
    outcome: str,
    lease: Lease | None = None,
    lease_digest: Digest | None = None,
) -> None:
    """Write down an attempt whose evidence was accepted, with its lease if it has one."""
    store.insert(
        ledger.connection,
        store.attempt,
        run_id=run_id,
        step=record.step,
        role=record.role,
        attempt=record.attempt,
        time=record.time,
        evidence=canonical.encode(record),
        outcome=outcome,
        seen=record.time,
        binding=canonical.digest(record.binding),
        lease_id=lease.lease_id if lease else None,
        lease=lease_digest,
        expires=lease.expires if lease else None,
        signing_key=canonical.encode(record.binding.signing_key),
        set_id=record.binding.set_id if record.role == "member" else None,
        member=record.binding.index if record.role == "member" else None,
    )
    ledger.append("evidence", body=canonical.digest(record), run_id=run_id)


def record_denial(ledger: Ledger, *, where: tuple[str, str] | None, error: PpmlError) -> None:
    """Write down what was refused, and why: the UI shows it, the passport lists it."""
    run_id, step = where if where else (None, None)
    attempts = ledger.attempts(run_id, step) if run_id else []
    row = {
        "run_id": run_id,
        "step": step,
        "time": ledger.time,
        "code": error.code,
        "reason": error.message,
        "hint": error.hint,
        "after_attempt": attempts[-1].id if attempts else 0,
    }
    store.insert(ledger.connection, store.denial, **row)
    body = Denial(step=step or "unknown", time=ledger.time, code=error.code)
    ledger.append("denial", body=canonical.digest(body), run_id=run_id)


def end_silent_holder(ledger: Ledger, *, dataset: str) -> None:
    """Take over a dataset from a lease whose guest is no longer heard of: it is fenced, and cannot commit any more."""
    row = store.find(ledger.connection, store.reservation, dataset=dataset)
    if row is not None:
        holder = store.find(ledger.connection, store.attempt, lease_id=row.lease_id)
        if holder is not None and holder.outcome == "open":
            end_open_attempts(ledger, run_id=holder.run_id, step=holder.step, outcome="fenced")
        free_reservations(ledger, lease_id=row.lease_id)
