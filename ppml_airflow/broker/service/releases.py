"""Releases: gate 2. The key that opens an output leaves only once its receipt is committed, to its recipient only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import recipient_certificate
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.issuing import RELEASE_KEK
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.domain.documents import Release, Run
from ppml_airflow.domain.jobs import require_step
from ppml_airflow.errors import PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.messages import (
    ReleaseAnswer,
    ReleaseRequest,
)
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.units import Digest


def release(broker: Broker, *, request: ReleaseRequest) -> ReleaseAnswer:
    """RELEASE: the release key of a committed output, sealed to its approved recipient. Logged.

    Raises:
        PolicyDeniedError: not committed, or not a recipient of it.
    """
    with broker.decision() as ledger:
        run = ledger.run(request.run_id)
        approval = ledger.approval(run.approval)
        row, manifest_digest = _committed_output(ledger, run=run, dataset=request.dataset)
        ledger.require_sound_manifest(manifest_digest, dataset=request.dataset)
        step = require_step(approval, name=row.step)
        certificates = ledger.certificates()
        recipient = certificates.serial(request.recipient, role="recipient", now=ledger.now)
        output = next(output for output in step.outputs if output.dataset == request.dataset)
        envelope, manifest = ledger.committed_manifest(manifest_digest)
        sealed_to = {wrap.serial for wrap in manifest.wraps if wrap.to == "recipient"}
        if recipient.subject not in output.recipients or request.recipient not in sealed_to:
            raise PolicyDeniedError(
                f"{recipient.subject} is not a recipient of {request.dataset}", code="not_a_recipient"
            )
        recipient_certificate(
            certificates, subject=recipient.subject, step=step, dataset=request.dataset, now=ledger.now
        )
        released = Release(dataset=request.dataset, recipient=request.recipient, time=ledger.time)
        _write_release(ledger, run_id=run.run_id, released=released)
        key = _release_key(broker, ledger, lease_id=row.lease_id, dataset=request.dataset)
        info = wrapping.release_info(run_id=run.run_id, dataset=request.dataset, serial=request.recipient)
        record = canonical.decode(row.evidence, into=EvidenceRecord)
        return ReleaseAnswer(
            sealed_release_key=wrapping.hpke_seal(key, to=recipient.key, info=info),
            manifest=envelope,
            lease=ledger.envelope(row.lease),
            binding=record.binding,
        )


def _committed_output(ledger: Ledger, *, run: Run, dataset: str) -> tuple[sa.Row[Any], Digest]:
    manifest, attempt = store.manifest, store.attempt
    query = sa.select(attempt, manifest.c.digest.label("manifest")).where(
        manifest.c.run_id == run.run_id,
        manifest.c.dataset == dataset,
        attempt.c.lease_id == manifest.c.lease_id,
        attempt.c.outcome == "committed",
    )
    row = store.one(ledger.connection, query)
    if row is None:
        raise PolicyDeniedError(
            f"output {dataset} of run {run.run_id} is not committed, so its key is not released",
            code="not_committed",
            hint="wait for the step that writes it",
        )
    return row, row.manifest


def _release_key(broker: Broker, ledger: Ledger, *, lease_id: str, dataset: str) -> bytes:
    row = store.find(ledger.connection, store.release_key, lease_id=lease_id, dataset=dataset)
    if row is None:
        raise UnavailableError(f"release key of {dataset} is missing from the store", code="store_damaged")
    context = wrapping.release_key_context(domain_id=broker.domain.domain_id, lease_id=lease_id, dataset=dataset)
    return broker.kms.unwrap(row.wrapped, key_id=RELEASE_KEK, context=context)


def _write_release(ledger: Ledger, *, run_id: str, released: Release) -> None:
    values = {"dataset": released.dataset, "recipient": released.recipient, "time": released.time}
    store.insert(ledger.connection, store.release, run_id=run_id, **values)
    ledger.append("release", body=canonical.digest(released), run_id=run_id)
