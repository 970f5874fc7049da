"""Issuing: a lease that was decided on is signed, written down and sealed, with its keys, to the enclave that asked."""

from __future__ import annotations

import secrets

import msgspec

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.decisions.leases import draw_up_lease
from ppml_airflow.broker.service.attempts import end_silent_holder, write_attempt
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.cases import Case
from ppml_airflow.domain.documents import Lease, LeaseKeys
from ppml_airflow.errors import VerificationError
from ppml_airflow.protocol.messages import LeaseAnswer
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.datasets import dataset_wrap, open_data_key
from ppml_airflow.units import Digest

RELEASE_KEK = "release-keys"
"""The key at the KMS under which release keys, cluster secrets and token keys are wrapped, in contexts of their own."""


def new_lease(case: Case) -> Lease:
    """The lease of the next attempt, drawn up for the binding that asks."""
    return draw_up_lease(
        lease_id=secrets.token_hex(16),
        binding=case.request.binding,
        job=case.job,
        step=case.step,
        approval=case.approval,
        run=case.run,
        state=case.state,
        certificates=case.certificates,
        now=case.ledger.now,
    )


def issue(
    broker: Broker, case: Case, record: EvidenceRecord, *, lease: Lease, cluster_secret: bytes | None = None
) -> LeaseAnswer:
    """Sign a lease, reserve its outputs, write the attempt down, and seal the keys to the enclave."""
    ledger = case.ledger
    keys = LeaseKeys(
        data_keys={pinned.dataset: _data_key(broker, case, pinned.manifest) for pinned in lease.inputs},
        release_keys={output.dataset: wrapping.new_key() for output in lease.outputs},
        cluster_secret=cluster_secret,
    )
    envelope = broker.signing_key.sign(lease)
    _reserve(broker, case, lease=lease, release_keys=dict(keys.release_keys))
    if not case.state.run_counted:
        store.update(ledger.connection, store.run, where={"run_id": case.run.run_id}, counted=True)
    ledger.put(envelope, kind="lease", run_id=case.run.run_id)
    record = msgspec.structs.replace(record, attempt=lease.attempt)
    write_attempt(ledger, record, run_id=case.run.run_id, outcome="open", lease=lease, lease_digest=envelope.digest)
    sealed = wrapping.hpke_seal(
        canonical.encode(keys), to=case.request.binding.sealing_key, info=wrapping.lease_info(envelope.digest)
    )
    return LeaseAnswer(granted_until=None, lease=envelope, sealed_keys=sealed, receipt=None)


def _data_key(broker: Broker, case: Case, digest: Digest) -> bytes:
    """Unwrap an input's data key: from its committed manifest only, under that dataset's own key (confused deputy)."""
    _, manifest = case.ledger.committed_manifest(digest)
    serial = dataset_wrap(manifest).serial
    certificate = case.certificates.by_serial.get(serial)
    if certificate is None or certificate.role != "dataset" or certificate.subject != manifest.dataset:
        raise VerificationError(f"data key of {manifest.dataset} is wrapped to another dataset", code="wrong_wrap")
    context = wrapping.dataset_key_context(
        domain_id=broker.domain.domain_id, dataset=manifest.dataset, kek_id=certificate.kek_id
    )
    private = broker.kms.unwrap(broker.wrapped_dataset_key(serial), key_id=certificate.kek_id, context=context)
    return open_data_key(manifest, key=wrapping.SealingKey.from_private_bytes(private), kek_id=certificate.kek_id)


def _reserve(broker: Broker, case: Case, *, lease: Lease, release_keys: dict[str, bytes]) -> None:
    connection = case.ledger.connection
    for output in lease.outputs:
        end_silent_holder(case.ledger, dataset=output.dataset)
        reserved = {"dataset": output.dataset, "version": output.version, "lease_id": lease.lease_id}
        store.insert(connection, store.reservation, **reserved)
        context = wrapping.release_key_context(
            domain_id=broker.domain.domain_id, lease_id=lease.lease_id, dataset=output.dataset
        )
        wrapped = broker.kms.wrap(release_keys[output.dataset], key_id=RELEASE_KEK, context=context)
        kept = {"lease_id": lease.lease_id, "dataset": output.dataset, "wrapped": wrapped}
        store.insert(connection, store.release_key, **kept)
