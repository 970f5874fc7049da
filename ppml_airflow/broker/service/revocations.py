"""Revocations: what the owners take back ends what runs on it, and what was made with it is known from then on.

All that depends on a subject is found when its revocation comes: leases that are open end, gates close, and the
versions of datasets that were made with it are marked, so that none is an input or released again. What is asked for
later is refused where it is decided (`Ledger.require_not_revoked`, `Ledger.require_sound_manifest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.verification import reread_quote
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.revocations import Subject, refusal
from ppml_airflow.broker.service.attempts import end_open_attempts, record_denial
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Approval, Certificate, Lease, Revocation, Run
from ppml_airflow.domain.trust import verify_owner_document
from ppml_airflow.protocol.messages import Dependent, DependentOutput, Dependents, Published
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest

_ATTEMPTS = sa.select(store.attempt).order_by(store.attempt.c.id)
_SEALED = sa.select(store.manifest).where(store.manifest.c.lease_id.is_(None)).order_by(store.manifest.c.version)


def put_revocation(broker: Broker, *, envelope: Envelope) -> Digest:
    """Revoke, and end what stands on it (idempotent).

    Raises:
        VerificationError: the owners did not sign it.
    """
    revocation = verify_owner_document(envelope, into=Revocation, domain=broker.domain)
    with broker.decision() as ledger:
        if not ledger.put(envelope, kind="revocation"):
            return envelope.digest
        found = _find(ledger, subject=(revocation.kind, revocation.subject))
        error = refusal(revocation)
        for row in found.attempts:
            if row.outcome == "open":
                end_open_attempts(ledger, run_id=row.run_id, step=row.step, outcome="revoked")
                record_denial(ledger, where=(row.run_id, row.step), error=error)
        for row in found.grants:
            place = {"run_id": row.run_id, "step": row.step}
            if store.find(ledger.connection, store.granted, **place) is not None:
                store.delete(ledger.connection, store.granted, **place)
                record_denial(ledger, where=(row.run_id, row.step), error=error)
        for digest in found.manifests:
            if store.find(ledger.connection, store.revoked_manifest, manifest=digest) is None:
                store.insert(ledger.connection, store.revoked_manifest, manifest=digest, revocation=envelope.digest)
    return envelope.digest


def dependents(broker: Broker, *, subject: Subject, caller: Caller) -> Dependents:
    """What depends on a subject, revoked or not, as far as the caller may see it."""
    with broker.decision() as ledger:
        found = _find(ledger, subject=subject)
        shown = []
        for row in found.attempts:
            run = _run(ledger, row.run_id)
            if caller.may_run(run.pipeline):
                shown.append(_describe(ledger, row, run=run, through=found.through.get(row.id, "")))
        return Dependents(
            kind=subject[0],
            subject=subject[1],
            revoked=any((each.kind, each.subject) == subject for each in ledger.revocations),
            attempts=tuple(shown),
            sealed=tuple(found.sealed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    attempts: list[sa.Row[Any]] = field(default_factory=list)
    """Attempts with a lease, oldest first."""
    grants: list[sa.Row[Any]] = field(default_factory=list)
    """Preflights."""
    through: dict[int, str] = field(default_factory=dict)
    """Attempt -> the input that made it dependent, if it does not stand on the subject itself."""
    manifests: set[Digest] = field(default_factory=set)
    """Versions that were made with it: inputs no more, and not released."""
    sealed: list[Published] = field(default_factory=list)
    """Versions that a producer sealed."""


def _find(ledger: Ledger, *, subject: Subject) -> _Found:
    """All that stands on a subject, also through the inputs that earlier attempts made. Oldest first, in one pass."""
    found, certificates = _Found(), _all_certificates(ledger)
    for row in ledger.connection.execute(_SEALED):
        manifest = canonical.decode(ledger.envelope(row.digest).payload, into=Manifest)
        serials = {manifest.producer, *(wrap.serial for wrap in manifest.wraps)}
        if subject in _subjects_of_certificates(serials, certificates=certificates):
            found.manifests.add(row.digest)
            found.sealed.append(Published(dataset=row.dataset, version=row.version, manifest=row.digest))
    for row in ledger.connection.execute(_ATTEMPTS):
        lease = canonical.decode(ledger.envelope(row.lease).payload, into=Lease) if row.lease else None
        pinned = ledger.pinned(row.run_id, row.step).values()
        tainted = [item.dataset for item in pinned if item.manifest in found.manifests]
        is_made_with_it = subject in set(_subjects_of_attempt(ledger, row, lease=lease, certificates=certificates))
        if not is_made_with_it and not tainted and subject not in _readers(lease, certificates=certificates):
            continue
        if lease is None:
            found.grants.append(row)
            continue
        found.attempts.append(row)
        if tainted and not is_made_with_it:
            found.through[row.id] = tainted[0]
        if tainted or is_made_with_it:
            found.manifests.update(made.digest for made in _outputs(ledger, row))
    return found


def _subjects_of_attempt(
    ledger: Ledger, row: sa.Row[Any], *, lease: Lease | None, certificates: dict[str, Certificate]
) -> Iterator[Subject]:
    """What an attempt, and so all that it made, stands on."""
    measurement, platform = reread_quote(canonical.decode(row.evidence, into=EvidenceRecord).quote)
    yield from (("measurement", measurement), ("platform", platform))
    yield "approval", _run(ledger, row.run_id).approval
    if lease is not None:
        yield from (("key", signature.keyid) for signature in ledger.envelope(row.lease).signatures)
        serials = {output.dataset_certificate for output in lease.outputs}
        yield from _subjects_of_certificates(serials, certificates=certificates)


def _readers(lease: Lease | None, *, certificates: dict[str, Certificate]) -> set[Subject]:
    """Whom an attempt seals outputs and log to. What it made is no worse for it; only they get no key any more."""
    serials: set[str | None] = set(lease.log_certificates) if lease else set()
    for output in lease.outputs if lease else ():
        serials.update(output.recipient_certificates)
    return _subjects_of_certificates(serials, certificates=certificates)


def _subjects_of_certificates(serials: set[str | None], *, certificates: dict[str, Certificate]) -> set[Subject]:
    subjects: set[Subject] = set()
    for serial in serials:
        if serial in certificates:
            subjects.update((("certificate", str(serial)), ("key", certificates[serial].key.key_id)))
    return subjects


def _all_certificates(ledger: Ledger) -> dict[str, Certificate]:
    """Revoked ones among them: what they were used for is asked."""
    found = [canonical.decode(envelope.payload, into=Certificate) for envelope in ledger.envelopes("certificate")]
    return {certificate.serial: certificate for certificate in found}


def _run(ledger: Ledger, run_id: str) -> Run:
    """The run, also where the key of the broker that opened it is revoked."""
    return canonical.decode(ledger.envelope(ledger.run_row(run_id).digest).payload, into=Run)


def _outputs(ledger: Ledger, row: sa.Row[Any]) -> list[sa.Row[Any]]:
    """What an attempt made; of a set what its leader wrote, whichever member had a part in it."""
    members = store.find_all(ledger.connection, store.attempt, order="id", set_id=row.set_id) if row.set_id else [row]
    made = (
        store.find_all(ledger.connection, store.manifest, order="dataset", lease_id=one.lease_id) for one in members
    )
    return [output for outputs in made for output in outputs]


def _describe(ledger: Ledger, row: sa.Row[Any], *, run: Run, through: str) -> Dependent:
    approval = canonical.decode(ledger.envelope(run.approval).payload, into=Approval)
    step = approval.step(row.step)
    recipients = {output.dataset: output.recipients for output in step.outputs} if step else {}
    released = store.find_all(ledger.connection, store.release, order="id", run_id=row.run_id)
    return Dependent(
        run_id=row.run_id,
        pipeline=run.pipeline,
        slot=run.slot,
        step=row.step,
        attempt=row.attempt,
        outcome=row.outcome,
        through=through,
        outputs=tuple(
            DependentOutput(
                dataset=made.dataset,
                version=made.version,
                manifest=made.digest,
                recipients=recipients.get(made.dataset, ()),
                released=any(one.dataset == made.dataset for one in released),
            )
            for made in _outputs(ledger, row)
        ),
    )
