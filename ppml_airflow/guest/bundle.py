"""Message 4 of the trust protocol: what a host hands to a guest, believed only under the measured domain.

A genuine image pointed at another broker, with an approval, a run or pins that he signed himself, stops here: the
owners whose roots are measured with the image have certified neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Certificate, DatasetVersion, Domain, Job, Pins, Run, Step
from ppml_airflow.domain.jobs import build_job, require_step
from ppml_airflow.domain.trust import Certificates, verify_broker_document, verify_owner_document
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.protocol.messages import Bundle, LaunchRequest
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, verify_envelope
from ppml_airflow.units import Name


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle:
    """What the owners and a broker whom they certified want of this guest."""

    domain: Domain
    certificates: Certificates
    approval: Approval
    step: Step
    run: Run
    job: Job
    manifests: Mapping[Name, Manifest]
    """Of each input, by dataset."""


def verify_bundle(request: LaunchRequest, *, domain: Domain, image: Name, now: datetime) -> VerifiedBundle:
    """Verify the bundle and compute J.

    Args:
        request: untrusted.
        domain: measured with the image.
        image: the image's own name, measured too.
        now: the host's clock: good for an early word. The time that counts is the lease's.

    Raises:
        VerificationError: a document is not the owners', not a certified broker's, or of another run.
        PolicyDeniedError: the step is not approved, or not for this image.
    """
    bundle = request.bundle
    # 1 the owners' word: certificates and the approval
    certificates = Certificates.verify(bundle.certificates, domain=domain)
    approval = verify_owner_document(bundle.approval, into=Approval, domain=domain)
    step = require_step(approval, name=request.step)
    if step.image != image or request.image != image:
        raise PolicyDeniedError(f"step {step.name} is approved for image {step.image}, not {image}", code="other_image")
    # 2 the broker's word: run and pins
    run, pins = verify_broker_documents(bundle, certificates=certificates, now=now)
    # 3 J, which refuses what does not belong together
    job = build_job(
        approval=approval, approval_digest=bundle.approval.digest, run=run, pins=pins, step_name=request.step
    )
    # 4 the manifests: exactly those that are pinned
    manifests = _verify_manifests(bundle, pins=pins, domain=domain, certificates=certificates)
    return VerifiedBundle(
        domain=domain,
        certificates=certificates,
        approval=approval,
        step=step,
        run=run,
        job=job,
        manifests=manifests,
    )


def verify_broker_documents(bundle: Bundle, *, certificates: Certificates, now: datetime) -> tuple[Run, Pins]:
    """Verify what the broker signed, by keys that are certified at that time.

    Raises:
        VerificationError: not signed by such a key.
    """
    run = verify_broker_document(bundle.run, into=Run, certificates=certificates, now=now)
    return run, verify_broker_document(bundle.pins, into=Pins, certificates=certificates, now=now)


def _verify_manifests(
    bundle: Bundle, *, pins: Pins, domain: Domain, certificates: Certificates
) -> dict[Name, Manifest]:
    by_digest = {envelope.digest: envelope for envelope in bundle.manifests}
    stray = set(by_digest) - {pinned.manifest for pinned in pins.inputs}
    if stray:
        raise VerificationError(f"manifest {min(stray)} is not pinned for {pins.step}", code="other_manifest")
    found = {}
    for pinned in pins.inputs:
        envelope = by_digest.get(pinned.manifest)
        if envelope is None:
            raise VerificationError(
                f"manifest of {pinned.dataset} that is pinned for {pins.step} is missing", code="other_manifest"
            )
        found[pinned.dataset] = _verify_manifest(envelope, pinned=pinned, domain=domain, certificates=certificates)
    return found


def _verify_manifest(
    envelope: Envelope, *, pinned: DatasetVersion, domain: Domain, certificates: Certificates
) -> Manifest:
    manifest = canonical.decode(envelope.payload, into=Manifest)
    if (manifest.domain_id, manifest.dataset, manifest.version) != (domain.domain_id, pinned.dataset, pinned.version):
        raise VerificationError(f"manifest pinned for {pinned.dataset} is of another dataset", code="other_manifest")
    if manifest.producer is None:
        # An enclave made it. Its key K is known to the broker, who committed it and signed its digest into the pins.
        return manifest
    producer = certificates.by_serial.get(manifest.producer)
    if producer is None or not _may_produce(producer, dataset=pinned.dataset):
        raise VerificationError(
            f"manifest of {pinned.dataset} names producer {manifest.producer}, who is not certified for it",
            code="not_certified",
        )
    return verify_envelope(envelope, into=Manifest, keys=(producer.key,))


def _may_produce(certificate: Certificate, *, dataset: Name) -> bool:
    """Whether it may, or once might: that it could when it published is the broker's word, given by the pins."""
    return certificate.role == "producer" and dataset in certificate.datasets
