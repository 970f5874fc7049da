"""One attempt of a passport, judged again: evidence, lease, receipt, manifests.

An independent reading: nothing here is shared with the code by which the broker decided. Each function takes documents
whose owners' and broker's signatures were verified, and raises at the first thing that does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ppml_airflow import canonical
from ppml_airflow.attestation.appraisal import appraise, require_accepted
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.attestation.verification import NOTHING_SEEN, VerifiedEvidence, verify_evidence
from ppml_airflow.domain.documents import (
    Approval,
    Certificate,
    DatasetVersion,
    Domain,
    Job,
    Lease,
    LeaseOutput,
    Member,
    Pins,
    Receipt,
    Role,
    Run,
    Step,
)
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.domain.slots import window_end
from ppml_airflow.domain.trust import Certificates, verify_broker_document
from ppml_airflow.errors import VerificationError
from ppml_airflow.provenance.completeness import Attempt, naming
from ppml_airflow.provenance.passport import EvidenceRecord
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, PublicKey, verify_envelope
from ppml_airflow.units import Digest, Instant, parse_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDocuments:
    """What has been verified of a run before its attempts are judged."""

    domain: Domain
    certificates: Certificates
    policies: Mapping[Digest, Policy]
    approval: Approval
    run: Run
    pins: Mapping[str, Pins]
    """By step."""
    manifests: Mapping[Digest, Envelope]
    collateral: Mapping[Digest, str]

    def step(self, name: str) -> Step:
        """The approved step.

        Raises:
            VerificationError: the approval has no such step.
        """
        step = self.approval.step(name)
        if step is None:
            raise VerificationError(f"the approval has no step {name}", code="step_not_approved")
        return step


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAttempt:
    """An attempt that held."""

    attempt: Attempt
    evidence: VerifiedEvidence
    receipt: Receipt | None


def judge_attempt(
    attempt: Attempt,
    *,
    job: Job,
    documents: RunDocuments,
    roots: tuple[TrustRoot, ...],
    members: tuple[Member, ...],
) -> JudgedAttempt:
    """Judge an attempt: binding, evidence, and for a job or a member its lease, receipt and outputs.

    Args:
        members: of the set that it is of, as RunClosed lists their leases; none without a set.

    Raises:
        VerificationError: something is not authentic or does not belong together; the attempt is named.
        PolicyDeniedError: evidence that its policy refuses.
    """
    with naming(attempt.label):
        require_binding(attempt.evidence, job=job)
        evidence = judge_evidence(attempt.evidence, documents=documents, roots=roots)
        if attempt.record.role == "preflight":
            return JudgedAttempt(attempt=attempt, evidence=evidence, receipt=None)
        lease = verify_lease(attempt, job=job, documents=documents)
        if attempt.receipt is None:
            if attempt.record.outcome == "committed":
                raise VerificationError("it is said to be committed and has no receipt", code="incomplete")
            return JudgedAttempt(attempt=attempt, evidence=evidence, receipt=None)
        receipt = verify_receipt(attempt, lease=lease, step=documents.step(job.step), members=members)
        key = attempt.evidence.binding.signing_key
        for made, reserved in zip(receipt.outputs, lease.outputs, strict=bool(receipt.outputs)):
            verify_output(made, reserved=reserved, lease=lease, key=key, documents=documents)
        return JudgedAttempt(attempt=attempt, evidence=evidence, receipt=receipt)


def require_binding(record: EvidenceRecord, *, job: Job) -> None:
    """The binding names this job, and the nonce opens to the binding.

    Raises:
        VerificationError: the evidence is for another job, domain, role or session.
    """
    binding = record.binding
    if binding.domain_id != job.domain_id:
        raise VerificationError(f"evidence is for domain {binding.domain_id}", code="other_domain")
    if binding.role != record.role:
        raise VerificationError(f"evidence is for a {binding.role}, wanted a {record.role}", code="other_job")
    if binding.job_digest != canonical.digest(job):
        raise VerificationError("evidence covers another job than approval, run and pins spell out", code="other_job")
    if nonce_for(salt=record.salt, binding_digest=canonical.digest(binding)) != record.nonce:
        raise VerificationError("nonce does not open to the binding", code="other_binding")


def judge_evidence(
    record: EvidenceRecord, *, documents: RunDocuments, roots: tuple[TrustRoot, ...]
) -> VerifiedEvidence:
    """Judge a quote as the broker had to: at the logged time, with its collateral, under its policy version.

    Raises:
        VerificationError: not authentic, or not under a trusted root.
        PolicyDeniedError: the policy refuses it.
    """
    step, policy = documents.step(record.step), documents.policies.get(record.policy)
    if policy is None or policy.name != step.policy:
        raise VerificationError(f"evidence was not judged under policy {step.policy}", code="other_policy")
    text = documents.collateral.get(record.collateral)
    if text is None or canonical.digest_bytes(text.encode()) != record.collateral:
        raise VerificationError("collateral is missing or changed", code="incomplete")
    judged_at = parse_instant(record.time)
    verified = verify_evidence(
        Evidence(tee=record.tee, quote=record.quote), collateral=text.encode(), roots=roots, now=judged_at
    )
    jwk = public_jwk(record.binding.signing_key)
    result = appraise(
        verified,
        policy=policy,
        image=step.image,
        expected_report_data=report_data(nonce=record.nonce, tee_pubkey=jwk),
        domain_trust=documents.domain.trust,
        challenged_at=parse_instant(record.challenged),
        seen=NOTHING_SEEN,
        now=judged_at,
    )
    require_accepted(result)
    return verified


def verify_lease(attempt: Attempt, *, job: Job, documents: RunDocuments) -> Lease:
    """Verify that the broker leased exactly this job, to exactly this binding, for certified keys only.

    Raises:
        VerificationError: signed by nobody certified, or anything in it differs.
    """
    record, run, approval = attempt.record, documents.run, documents.approval
    if attempt.lease is None:
        raise VerificationError("attempt has no lease", code="incomplete")
    issued = parse_instant(record.time)
    lease = verify_broker_document(attempt.lease, into=Lease, certificates=documents.certificates, now=issued)
    _require_equal(
        "lease", "attempt", (lease.run_id, lease.step, lease.attempt), (run.run_id, record.step, record.attempt)
    )
    _require_equal("lease", "time", lease.issued, record.time)
    _require_equal("lease", "epoch", lease.epoch, run.epoch)
    _require_equal("lease", "binding", lease.binding, canonical.digest(attempt.evidence.binding))
    _require_equal("lease", "job", lease.job, canonical.digest(job))
    _require_equal("lease", "inputs", lease.inputs, job.inputs)
    writes = record.role == "job" or record.index == LEADER
    wanted = [output.dataset for output in job.outputs] if writes else []
    _require_equal("lease", "outputs", [output.dataset for output in lease.outputs], wanted)
    if not lease.issued < lease.expires or issued >= window_end(run.slot, slots=approval.slots):
        raise VerificationError(f"lease was issued at {lease.issued}, outside its window", code="window_over")
    if not approval.valid_from <= lease.issued < approval.valid_until:
        raise VerificationError(f"lease was issued at {lease.issued}, outside its approval", code="approval_expired")
    _require_certified(lease, step=documents.step(record.step), certificates=documents.certificates)
    return lease


def _require_certified(lease: Lease, *, step: Step, certificates: Certificates) -> None:
    when = lease.issued
    # the open right: whoever hears the answer to a question of its asker's own may open all that it reads
    asked = {wanted.dataset for wanted in step.inputs} if step.kind == "adhoc" else set()
    for reserved, approved in zip(lease.outputs, step.outputs, strict=bool(lease.outputs)):
        keyed = reserved.dataset_certificate
        holder = _certified(certificates, keyed, role="dataset", when=when).subject if keyed else None
        # the answer to an adhoc question has no key for later steps, which might tell it to others
        wanted_holder = None if step.kind == "adhoc" else reserved.dataset
        _require_equal("lease", f"dataset key of {reserved.dataset}", holder, wanted_holder)
        recipients = [
            _certified(certificates, serial, role="recipient", when=when) for serial in reserved.recipient_certificates
        ]
        _require_equal("lease", "recipients", [one.subject for one in recipients], list(approved.recipients))
        for recipient in recipients:
            _require_opens(recipient, datasets=asked | {reserved.dataset})
    logs = [_certified(certificates, serial, role="log", when=when) for serial in lease.log_certificates]
    _require_equal("lease", "log recipients", [one.subject for one in logs], list(step.log_recipients))
    for reader in logs:
        _require_opens(reader, datasets=asked)


def _require_opens(holder: Certificate, *, datasets: set[str]) -> None:
    missing = sorted(datasets - set(holder.datasets))
    if missing:
        raise VerificationError(
            f"{holder.role} {holder.subject} is not certified for {', '.join(missing)}", code="not_certified"
        )


def _certified(certificates: Certificates, serial: str, *, role: Role, when: Instant) -> Certificate:
    return certificates.serial(serial, role=role, now=parse_instant(when))


def verify_receipt(attempt: Attempt, *, lease: Lease, step: Step, members: tuple[Member, ...]) -> Receipt:
    """Verify that the attested key K signed what was done, and that it says what the lease allowed.

    Raises:
        VerificationError: signed by another key than the attested one, or anything in it differs.
    """
    if attempt.receipt is None:
        raise VerificationError("attempt has no receipt", code="incomplete")
    key = attempt.evidence.binding.signing_key
    receipt = verify_envelope(attempt.receipt, into=Receipt, keys=(key,))
    for field in ("lease_id", "attempt", "binding", "job", "run_id", "step", "inputs"):
        _require_equal("receipt", field, getattr(receipt, field), getattr(lease, field))
    _require_equal("receipt", "members", receipt.members, members)
    reserved = [(output.dataset, output.version) for output in lease.outputs] if receipt.outcome == "ok" else []
    _require_equal("receipt", "outputs", [(out.dataset, out.version) for out in receipt.outputs], reserved)
    bounds = {disclosure.name: disclosure for disclosure in step.disclosed}
    for name, count in receipt.disclosed.items():
        if name not in bounds or not bounds[name].minimum <= count <= bounds[name].maximum:
            raise VerificationError(f"receipt discloses {name}, which the approval does not", code="not_disclosed")
    wanted = "committed" if receipt.outcome == "ok" else receipt.outcome
    _require_equal("receipt", "outcome", attempt.record.outcome, wanted)
    return receipt


def verify_output(
    made: DatasetVersion, *, reserved: LeaseOutput, lease: Lease, key: PublicKey, documents: RunDocuments
) -> Manifest:
    """Verify that K signed the manifest of an output, and that it is sealed to the leased certificates only.

    Raises:
        VerificationError: not enclosed, signed by another key, or anything in it differs.
    """
    what = f"manifest of {made.dataset}"
    envelope = documents.manifests.get(made.manifest)
    if envelope is None:
        raise VerificationError(f"{what} is missing or changed", code="incomplete")
    manifest = verify_envelope(envelope, into=Manifest, keys=(key,))
    _require_equal(what, "domain", manifest.domain_id, documents.domain.domain_id)
    _require_equal(what, "version", (manifest.dataset, manifest.version), (reserved.dataset, reserved.version))
    _require_equal(what, "prev", manifest.prev, reserved.prev)
    _require_equal(
        what, "origin", (manifest.producer, manifest.run_id, manifest.lease_id), (None, lease.run_id, lease.lease_id)
    )
    step = documents.step(lease.step)
    sealed = next(output.sealed for output in step.outputs if output.dataset == made.dataset)
    if (manifest.body, len(manifest.parts)) != sealed:
        raise VerificationError(f"{what} must be {sealed[0]} of {sealed[1]} parts", code="output_speaks")
    wanted = {("dataset", reserved.dataset_certificate)} if reserved.dataset_certificate else set()
    wanted |= {("recipient", serial) for serial in reserved.recipient_certificates}
    _require_equal(what, "wraps", sorted((wrap.to, wrap.serial) for wrap in manifest.wraps), sorted(wanted))
    return manifest


def _require_equal(subject: str, what: str, got: object, want: object) -> None:
    if got != want:
        raise VerificationError(f"{subject} names another {what}: got {got}, wanted {want}", code="other_lease")
