"""The end of a run: RunClosed and the passport, composed once and kept."""

from __future__ import annotations

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.service.attempts import end_open_attempts
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.sets import drop_waiting
from ppml_airflow.domain.documents import AttemptRecord, Denial, Release, Run, RunClosed
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.provenance.passport import EvidenceRecord, compose_contents, compose_passport
from ppml_airflow.signing import Envelope

EARLIER_HEADS = 64
"""A passport proves that its log continues the heads at which so many runs before it were closed."""


def close_run(broker: Broker, *, run_id: str) -> Envelope:
    """CLOSE: no lease after it; the passport is complete and final (idempotent)."""
    with broker.decision() as ledger:
        row = store.find(ledger.connection, store.passport, run_id=run_id)
        if row is not None:
            return canonical.decode(row.closed, into=Envelope)
        run = ledger.run(run_id)
        end_open_attempts(ledger, run_id=run_id, step=None, outcome="fenced")
        drop_waiting(ledger, run_id=run_id)
        closed, content = _compose(broker, ledger, run=run)
        store.insert(ledger.connection, store.passport, run_id=run_id, closed=canonical.encode(closed), content=content)
        store.update(ledger.connection, store.run, where={"run_id": run_id}, closed=ledger.time)
        ledger.put(closed, kind="closed", run_id=run_id)
        return closed


def passport(broker: Broker, *, run_id: str) -> bytes:
    """The passport of a closed run.

    Raises:
        PolicyDeniedError: the run is not closed.
    """
    with broker.decision() as ledger:
        ledger.run_row(run_id)
        row = store.find(ledger.connection, store.passport, run_id=run_id)
        if row is None:
            raise PolicyDeniedError(f"run {run_id} is not closed, so it has no passport yet", code="run_open")
        return bytes(row.content)


def _compose(broker: Broker, ledger: Ledger, *, run: Run) -> tuple[Envelope, bytes]:
    """RunClosed and the passport's bytes."""
    rows = ledger.attempts(run.run_id)
    evidence = [canonical.decode(row.evidence, into=EvidenceRecord) for row in rows]
    receipts = [row.receipt for row in rows if row.receipt]
    head, entries = ledger.log.head(), ledger.log.entries_of(run.run_id)
    earlier = ledger.log.positions_of("closed", newest=EARLIER_HEADS)
    contents = compose_contents(
        domain=broker.domain,
        certificates=ledger.envelopes("certificate"),
        policies=ledger.envelopes("policy"),
        approval=ledger.envelope(run.approval),
        run=ledger.envelope(ledger.run_row(run.run_id).digest),
        pins=[pins[0] for step in _steps_of(ledger, run) if (pins := ledger.pins(run.run_id, step)) is not None],
        manifests=_manifests_of(ledger, run=run),
        evidence=evidence,
        collateral=_collateral_of(ledger, evidence),
        leases=[ledger.envelope(row.lease) for row in rows if row.lease],
        receipts=[ledger.envelope(digest) for digest in receipts],
        log_entries=entries,
        log_proof=ledger.log.prove(entries, size=head.log_size, earlier=earlier),
    )
    closed = RunClosed(
        run=ledger.run_row(run.run_id).digest,
        run_id=run.run_id,
        closed=ledger.time,
        attempts=tuple(
            AttemptRecord(
                step=row.step,
                role=row.role,
                attempt=row.attempt,
                index=row.member or 0,
                time=row.time,
                evidence=canonical.digest(record),
                lease=row.lease,
                receipt=row.receipt,
                outcome=row.outcome,
            )
            for row, record in zip(rows, evidence, strict=True)
        ),
        denials=_denials_of(ledger, run),
        releases=_releases_of(ledger, run),
        contents=canonical.digest(contents),
        log_size=head.log_size,
        log_root=head.log_root,
    )
    envelope = broker.signing_key.sign(closed)
    return envelope, compose_passport(contents, closed=envelope)


def _steps_of(ledger: Ledger, run: Run) -> list[str]:
    return [step.name for step in ledger.approval(run.approval).steps]


def _manifests_of(ledger: Ledger, *, run: Run) -> list[Envelope]:
    table, pinned = store.manifest, store.pinned
    inputs = sa.select(pinned.c.manifest).where(pinned.c.run_id == run.run_id)
    outputs = sa.select(table.c.digest).where(table.c.run_id == run.run_id)
    digests = ledger.connection.execute(sa.union(inputs, outputs)).scalars()
    return [ledger.envelope(digest) for digest in digests]


def _collateral_of(ledger: Ledger, evidence: list[EvidenceRecord]) -> dict[str, str]:
    table = store.collateral
    digests = {record.collateral for record in evidence}
    rows = ledger.connection.execute(sa.select(table).where(table.c.digest.in_(digests)))
    found = {row.digest: row.content.decode() for row in rows}
    if found.keys() != digests:
        raise ConfigurationError("collateral of a run is missing from the store", code="store_damaged")
    return found


def _denials_of(ledger: Ledger, run: Run) -> tuple[Denial, ...]:
    rows = store.find_all(ledger.connection, store.denial, order="id", run_id=run.run_id)
    return tuple(Denial(step=row.step, time=row.time, code=row.code) for row in rows)


def _releases_of(ledger: Ledger, run: Run) -> tuple[Release, ...]:
    rows = store.find_all(ledger.connection, store.release, order="id", run_id=run.run_id)
    return tuple(Release(dataset=row.dataset, recipient=row.recipient, time=row.time) for row in rows)
