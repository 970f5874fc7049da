"""What owners and their agents hand in: certificates, policies, approvals, manifests. Signatures are the authority."""

from __future__ import annotations

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.approvals import require_in_force, require_sound, require_successor
from ppml_airflow.broker.decisions.receipts import require_publishable
from ppml_airflow.broker.service.attempts import end_silent_holder
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.ledger import Ledger
from ppml_airflow.broker.service.pinning import pin_committed
from ppml_airflow.domain.documents import Approval, Certificate
from ppml_airflow.domain.trust import Certificates, verify_owner_document
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.protocol.messages import Published
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, verify_envelope
from ppml_airflow.units import Digest


def put_certificate(broker: Broker, *, envelope: Envelope) -> Digest:
    """Accept a certificate that the owners signed (idempotent)."""
    with broker.decision() as ledger:
        verify_owner_document(envelope, into=Certificate, domain=broker.domain)
        Certificates.verify([*ledger.envelopes("certificate"), envelope], domain=broker.domain)
        ledger.put(envelope, kind="certificate")
    return envelope.digest


def put_policy(broker: Broker, *, envelope: Envelope) -> Digest:
    """Put a policy version in force; versions only rise.

    Raises:
        PolicyDeniedError: not newer than the version in force.
    """
    policy = verify_owner_document(envelope, into=Policy, domain=broker.domain)
    with broker.decision() as ledger:
        connection, table = ledger.connection, store.policy_in_force
        row = store.find(connection, table, name=policy.name)
        if row is not None and row.digest == envelope.digest:
            return envelope.digest
        if row is not None and policy.version <= row.version:
            raise PolicyDeniedError(
                f"policy {policy.name} is version {policy.version}; version {row.version} is in force",
                code="policy_not_newer",
                hint="sign the next version",
            )
        ledger.put(envelope, kind="policy")
        store.delete(connection, table, name=policy.name)
        store.insert(connection, table, name=policy.name, version=policy.version, digest=envelope.digest)
    return envelope.digest


def put_approval(broker: Broker, *, envelope: Envelope) -> Digest:
    """Put an approval in force for its pipeline (idempotent).

    Raises:
        PolicyDeniedError: it does not replace the one in force, or its time has gone.
    """
    approval = verify_owner_document(envelope, into=Approval, domain=broker.domain)
    require_sound(approval)
    with broker.decision() as ledger:
        in_force = ledger.approval_in_force(approval.pipeline)
        require_successor(approval, digest=envelope.digest, in_force=in_force)
        require_in_force(approval, digest=envelope.digest, in_force=envelope.digest, now=ledger.now)
        ledger.require_not_revoked(("approval", envelope.digest))
        ledger.put(envelope, kind="approval")
        connection, table = ledger.connection, store.approval_in_force
        store.delete(connection, table, pipeline=approval.pipeline)
        store.insert(connection, table, pipeline=approval.pipeline, digest=envelope.digest)
    return envelope.digest


def publish(broker: Broker, *, envelope: Envelope) -> Published:
    """PUBLISH: move the head to a manifest that a certified producer signed (idempotent).

    Raises:
        VerificationError: not by a producer certified for the dataset, or sealed to an uncertified key.
        PolicyDeniedError: not the next version.
    """
    manifest = canonical.decode(envelope.payload, into=Manifest)
    published = Published(dataset=manifest.dataset, version=manifest.version, manifest=envelope.digest)
    with broker.decision() as ledger:
        certificates = ledger.certificates()
        _verify_producer(envelope, manifest=manifest, certificates=certificates, ledger=ledger)
        if store.find(ledger.connection, store.manifest, digest=envelope.digest) is not None:
            return published
        require_publishable(
            manifest,
            certificates=certificates,
            head=ledger.head(manifest.dataset),
            reserved=ledger.holder(manifest.dataset) is not None,
            now=ledger.now,
        )
        if manifest.run_id is not None:
            _require_awaited(ledger, manifest=manifest, run_id=manifest.run_id)
        end_silent_holder(ledger, dataset=manifest.dataset)
        ledger.commit_manifest(envelope, manifest=manifest)
        if manifest.run_id is not None:
            pin_committed(broker, ledger, manifest=manifest, digest=envelope.digest, run_id=manifest.run_id)
    return published


def _verify_producer(envelope: Envelope, *, manifest: Manifest, certificates: Certificates, ledger: Ledger) -> None:
    if manifest.producer is None:
        raise VerificationError(f"manifest of {manifest.dataset} has no producer", code="not_certified")
    producer = certificates.serial(manifest.producer, role="producer", now=ledger.now)
    verify_envelope(envelope, into=Manifest, keys=(producer.key,))
    if manifest.domain_id != ledger.domain.domain_id:
        raise VerificationError(f"manifest of {manifest.dataset} is of another domain", code="other_domain")


def _require_awaited(ledger: Ledger, *, manifest: Manifest, run_id: str) -> None:
    """A version sealed for a run: the run must be open and there is one version per run."""
    row = ledger.run_row(run_id)
    if row.closed is not None:
        raise PolicyDeniedError(f"run {run_id} is closed", code="run_closed")
    if store.find(ledger.connection, store.manifest, run_id=run_id, dataset=manifest.dataset) is not None:
        raise PolicyDeniedError(
            f"dataset {manifest.dataset} has been sealed for run {run_id} already", code="sealed_already"
        )


def find_policy(broker: Broker, *, name: str) -> Envelope | None:
    """The policy version in force, if any."""
    with broker.decision() as ledger:
        row = store.find(ledger.connection, store.policy_in_force, name=name)
        return ledger.envelope(row.digest) if row else None


def find_approval(broker: Broker, *, pipeline: str) -> Envelope | None:
    """The approval in force, if any."""
    with broker.decision() as ledger:
        digest = ledger.approval_in_force(pipeline)
        return ledger.envelope(digest) if digest else None


def find_manifest(broker: Broker, *, digest: Digest) -> Envelope:
    """A committed manifest.

    Raises:
        VerificationError: it is not committed.
    """
    with broker.decision() as ledger:
        return ledger.committed_manifest(digest)[0]


def find_head(broker: Broker, *, dataset: str) -> Envelope | None:
    """The manifest at a dataset's head, if any."""
    with broker.decision() as ledger:
        head = ledger.head(dataset)
        return ledger.envelope(head.manifest) if head else None
