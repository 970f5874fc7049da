"""May this receipt be committed? Pure: stored state and time are arguments."""

from __future__ import annotations

from datetime import datetime

from ppml_airflow.broker.decisions.leases import lease_state
from ppml_airflow.domain.documents import DatasetVersion, Lease, LeaseOutput, Member, Receipt, Step
from ppml_airflow.domain.sets import LEADER, require_whole
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope

_STATES = {
    "fenced": "another attempt has taken its place",
    "cancelled": "it was cancelled",
    "expired": "its time is over",
    "closed": "the run is closed",
    "revoked": "what it stood on was revoked",
}


def require_lease_current(
    lease: Lease, *, current_attempt: int, outcome: str, closed: bool, epoch: int, now: datetime
) -> None:
    """Only the current attempt commits.

    Raises:
        PolicyDeniedError: fenced, cancelled, expired or closed.
    """
    state = lease_state(lease, current_attempt=current_attempt, outcome=outcome, closed=closed, epoch=epoch, now=now)
    if state != "current":
        raise PolicyDeniedError(f"lease of attempt {lease.attempt} is void: {_STATES[state]}", code=f"lease_{state}")


def require_leader(receipt: Receipt, *, member: int | None) -> None:
    """Of a set only the leader signs a receipt.

    Args:
        member: which member the lease is of; None without a set.

    Raises:
        VerificationError: it is another member.
    """
    if member not in (None, LEADER):
        raise VerificationError(
            f"receipt is of member {member}; the leader, {LEADER}, speaks for the set of {receipt.step}",
            code="not_leader",
        )


def require_receipt(receipt: Receipt, *, lease: Lease, step: Step, members: tuple[Member, ...]) -> None:
    """The receipt says nothing but what its lease and approval allow.

    Raises:
        VerificationError: it is of another lease, job, run, or names other inputs, outputs or members.
        PolicyDeniedError: it discloses a count that the approval does not.
    """
    same = (
        receipt.lease_id,
        receipt.attempt,
        receipt.binding,
        receipt.job,
        receipt.run_id,
        receipt.step,
        receipt.inputs,
    )
    if same != (lease.lease_id, lease.attempt, lease.binding, lease.job, lease.run_id, lease.step, lease.inputs):
        raise VerificationError(f"receipt does not match its lease {lease.lease_id}", code="other_lease")
    if receipt.members != members:
        raise VerificationError(
            f"receipt lists {len(receipt.members)} members; its attempt's {len(members)} leases are others",
            code="other_members",
        )
    require_whole(members, step=step)
    wanted = [(output.dataset, output.version) for output in lease.outputs] if receipt.outcome == "ok" else []
    if [(output.dataset, output.version) for output in receipt.outputs] != wanted:
        raise VerificationError(f"receipt of {lease.step} does not name the reserved outputs", code="other_outputs")
    bounds = {disclosure.name: disclosure for disclosure in step.disclosed}
    for name, count in receipt.disclosed.items():
        if name not in bounds or not bounds[name].minimum <= count <= bounds[name].maximum:
            raise PolicyDeniedError(f"receipt discloses {name}, which the approval does not", code="not_disclosed")


def require_output_manifest(
    envelope: Envelope,
    *,
    manifest: Manifest,
    named: DatasetVersion,
    reserved: LeaseOutput,
    lease: Lease,
    step: Step,
    domain_id: str,
) -> None:
    """A manifest made in the enclave is the reserved version, sealed to the leased certificates only.

    Raises:
        VerificationError: any of it differs.
    """
    subject = f"manifest of {reserved.dataset}"
    if envelope.digest != named.manifest:
        raise VerificationError(f"{subject} is not the one that the receipt names", code="other_outputs")
    found = (manifest.domain_id, manifest.dataset, manifest.version, manifest.prev, manifest.run_id, manifest.lease_id)
    wanted = (domain_id, reserved.dataset, reserved.version, reserved.prev, lease.run_id, lease.lease_id)
    if found != wanted or manifest.producer is not None:
        raise VerificationError(f"{subject} is not of the reserved version, run or lease", code="other_outputs")
    sealed = next(output.sealed for output in step.outputs if output.dataset == reserved.dataset)
    if (manifest.body, len(manifest.parts)) != sealed:
        raise VerificationError(f"{subject} must be {sealed[0]} of {sealed[1]} parts", code="output_speaks")
    sealed_to = [("recipient", serial) for serial in reserved.recipient_certificates]
    if reserved.dataset_certificate is not None:
        sealed_to.append(("dataset", reserved.dataset_certificate))
    if sorted((wrap.to, wrap.serial) for wrap in manifest.wraps) != sorted(sealed_to):
        raise VerificationError(f"{subject} is sealed to others than the lease names", code="other_recipients")


def require_publishable(
    manifest: Manifest, *, certificates: Certificates, head: DatasetVersion | None, reserved: bool, now: datetime
) -> None:
    """PUBLISH by an owner's agent: certified for the dataset, next version, sealed to the dataset's certified key.

    Raises:
        VerificationError: not certified, or sealed to a key that no owner certified.
        PolicyDeniedError: not the next version (`not_next`), or the version is reserved by a lease.
    """
    if manifest.lease_id is not None or manifest.producer is None:
        raise VerificationError(f"manifest of {manifest.dataset} has no producer", code="not_certified")
    producer = certificates.serial(manifest.producer, role="producer", now=now)
    if manifest.dataset not in producer.datasets:
        raise VerificationError(
            f"producer {producer.subject} is not certified for dataset {manifest.dataset}", code="not_certified"
        )
    _require_certified_wraps(manifest, certificates=certificates, now=now)
    version, prev = (head.version, head.manifest) if head else (0, None)
    if (manifest.version, manifest.prev) != (version + 1, prev):
        raise PolicyDeniedError(
            f"manifest of {manifest.dataset} is version {manifest.version}, wanted {version + 1} after {prev}",
            code="not_next",
            hint="seal again on top of the head",
        )
    if reserved:
        raise PolicyDeniedError(f"dataset {manifest.dataset} is being written by a run", code="output_busy")


def _require_certified_wraps(manifest: Manifest, *, certificates: Certificates, now: datetime) -> None:
    if not any(wrap.to == "dataset" for wrap in manifest.wraps):
        raise VerificationError(
            f"manifest of {manifest.dataset} is not sealed to its dataset key", code="not_certified"
        )
    for wrap in manifest.wraps:
        certificate = certificates.serial(wrap.serial, role=wrap.to, now=now)
        if manifest.dataset != certificate.subject and manifest.dataset not in certificate.datasets:
            raise VerificationError(
                f"manifest of {manifest.dataset} is sealed to {certificate.subject}, not certified for it",
                code="not_certified",
            )
