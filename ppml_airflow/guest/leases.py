"""Message 7 of the trust protocol: a lease is believed only from a certified broker and only for this very guest.

HPKE authenticates no sender, so everything that the guest obeys (inputs, versions, recipients, time) stands in the
signed lease, and the keys open only under its digest.
"""

from __future__ import annotations

from datetime import datetime

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import open_right
from ppml_airflow.domain.documents import Certificate, Lease, LeaseKeys, LeaseOutput, Output, Step
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.domain.trust import Certificates, verify_broker_document
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.guest.bundle import VerifiedBundle
from ppml_airflow.guest.identity import Identity
from ppml_airflow.sealing.wrapping import KEY_BYTES, hpke_open, lease_info
from ppml_airflow.signing import Envelope
from ppml_airflow.units import parse_instant


def verify_lease(envelope: Envelope, *, bundle: VerifiedBundle, identity: Identity) -> Lease:
    """Verify that a lease is for this guest and says nothing but what the owners approved.

    Raises:
        VerificationError: not by a broker certified at its time; of another binding, job, run or attempt; or it seals
            to somebody whom the approval does not name.
        PolicyDeniedError: the approval was not valid when it was issued.
    """
    # 1 the guest's time is `issued`; the broker must be certified then
    issued = parse_instant(canonical.decode(envelope.payload, into=Lease).issued)
    lease = verify_broker_document(envelope, into=Lease, certificates=bundle.certificates, now=issued)
    # 2 it answers this guest: H(B), H(J)
    if lease.binding != identity.digest:
        raise VerificationError(f"lease is for binding {lease.binding}, not for this guest", code="other_binding")
    if lease.job != identity.binding.job_digest:
        raise VerificationError(f"lease is for job {lease.job}, not for this one", code="other_job")
    # 3 it is of this run and step, and of its pinned inputs
    job = bundle.job
    if (lease.run_id, lease.step, lease.epoch) != (job.run_id, job.step, bundle.run.epoch):
        raise VerificationError("lease is of another run, step or epoch", code="other_run")
    if lease.inputs != job.inputs:
        raise VerificationError("lease names other inputs than the pins", code="other_inputs")
    if lease.attempt > bundle.step.attempts:
        raise VerificationError(f"lease is of attempt {lease.attempt} of {bundle.step.attempts}", code="other_attempt")
    # 4 the approval was valid, and the lease has a time to live
    _require_time(lease, bundle=bundle, issued=issued)
    # 5 outputs and log are sealed to certified keys of those whom the approval names
    _require_outputs(lease, bundle=bundle, identity=identity, now=issued)
    return lease


def open_lease_keys(sealed: bytes, *, envelope: Envelope, lease: Lease, identity: Identity) -> LeaseKeys:
    """Open the keys of a verified lease.

    Raises:
        VerificationError: sealed to another guest or for another lease, or not the keys that the lease names.
    """
    opened = hpke_open(sealed, key=identity.sealing_key, info=lease_info(envelope.digest))
    keys = canonical.decode(opened, into=LeaseKeys)
    wanted = {pinned.dataset for pinned in lease.inputs}, {output.dataset for output in lease.outputs}
    if (set(keys.data_keys), set(keys.release_keys)) != wanted:
        raise VerificationError("lease came with other keys than it names", code="other_keys")
    shared = () if keys.cluster_secret is None else (keys.cluster_secret,)
    if len(shared) != (identity.binding.role == "member"):
        raise VerificationError("lease came with a cluster secret for no set, or without one", code="other_keys")
    if any(len(key) != KEY_BYTES for key in (*keys.data_keys.values(), *keys.release_keys.values(), *shared)):
        raise VerificationError("lease came with a key of a wrong length", code="other_keys")
    return keys


def _require_time(lease: Lease, *, bundle: VerifiedBundle, issued: datetime) -> None:
    approval = bundle.approval
    if not parse_instant(approval.valid_from) <= issued < parse_instant(approval.valid_until):
        raise PolicyDeniedError(f"approval of {approval.pipeline} is not valid at {lease.issued}", code="not_valid")
    if parse_instant(lease.expires) <= issued:
        raise VerificationError(f"lease expires at {lease.expires}, issued at {lease.issued}", code="lease_expired")


def _require_outputs(lease: Lease, *, bundle: VerifiedBundle, identity: Identity, now: datetime) -> None:
    outputs = bundle.step.outputs if identity.binding.index == LEADER else ()
    if [output.dataset for output in lease.outputs] != [output.dataset for output in outputs]:
        raise VerificationError("lease names other outputs than the approval", code="other_outputs")
    for leased, approved in zip(lease.outputs, outputs, strict=True):
        _require_output(leased, approved=approved, bundle=bundle, now=now)
    readers = [bundle.certificates.serial(serial, role="log", now=now) for serial in lease.log_certificates]
    if [reader.subject for reader in readers] != list(bundle.step.log_recipients):
        raise VerificationError("lease seals the log to others than the approval", code="other_recipients")
    for reader in readers:
        _require_named(reader, datasets=open_right(bundle.step), subject="lease seals the log")


def _require_output(leased: LeaseOutput, *, approved: Output, bundle: VerifiedBundle, now: datetime) -> None:
    certificates = bundle.certificates
    subject = f"lease seals {leased.dataset}"
    if (leased.version == 1) != (leased.prev is None):
        raise VerificationError(f"{subject} as version {leased.version} after {leased.prev}", code="other_outputs")
    _require_dataset_key(leased, step=bundle.step, certificates=certificates, now=now)
    recipients = [certificates.serial(serial, role="recipient", now=now) for serial in leased.recipient_certificates]
    if [recipient.subject for recipient in recipients] != list(approved.recipients):
        raise VerificationError(f"{subject} to others than the approval names", code="other_recipients")
    for recipient in recipients:
        _require_named(recipient, datasets=open_right(bundle.step) | {leased.dataset}, subject=subject)


def _require_dataset_key(leased: LeaseOutput, *, step: Step, certificates: Certificates, now: datetime) -> None:
    """An output is sealed to its own dataset for later steps; the answer of an adhoc step to none (laundering)."""
    if (leased.dataset_certificate is None) != (step.kind == "adhoc"):
        what = "for later steps, though it answers an adhoc step" if leased.dataset_certificate else "for no later step"
        raise VerificationError(f"lease seals {leased.dataset} {what}", code="other_recipients")
    if leased.dataset_certificate is None:
        return
    dataset = certificates.serial(leased.dataset_certificate, role="dataset", now=now)
    if dataset.subject != leased.dataset:
        raise VerificationError(
            f"lease seals {leased.dataset} to the key of dataset {dataset.subject}", code="other_recipients"
        )


def _require_named(holder: Certificate, *, datasets: frozenset[str], subject: str) -> None:
    """A certificate names what is sealed to it, and all that an adhoc step reads: the open right."""
    missing = sorted(datasets - set(holder.datasets))
    if missing:
        raise VerificationError(
            f"{subject} to {holder.subject}, not certified for {', '.join(missing)}", code="not_certified"
        )
