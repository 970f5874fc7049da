"""Offline verification of a passport, with nothing but the trust bundle of the person who asks.

Refuses whatever is not exactly what owners, certified broker and attested enclaves signed: another domain, simulated
evidence where its root was not named, a missing end, a dropped, added, moved, repeated or edited attempt, evidence of
another run, a policy that was not the one judged under, a log that does not fit. It reads no network and no clock, and
shares no code with the broker's decisions.

It cannot know what the broker never wrote down, nor that there is no second log; for that, pin checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.domain.documents import Approval, DatasetVersion, Input, Job, Pins, Run, RunClosed
from ppml_airflow.domain.jobs import JobBuilder, earlier_steps
from ppml_airflow.domain.slots import choose_slot
from ppml_airflow.domain.trust import Certificates, verify_broker_document, verify_owner_document
from ppml_airflow.errors import VerificationError
from ppml_airflow.provenance.attempts import JudgedAttempt, RunDocuments, judge_attempt
from ppml_airflow.provenance.completeness import (
    Attempt,
    match_attempts,
    naming,
    require_log,
    require_pinned,
    require_sequence,
    step_outcomes,
)
from ppml_airflow.provenance.diagnosis import first_disagreement
from ppml_airflow.provenance.inputs import verify_input
from ppml_airflow.provenance.log import Checkpoint, Consistency, LogEntry
from ppml_airflow.provenance.passport import PassportContents, parse_passport
from ppml_airflow.provenance.report import PassportReport, make_report
from ppml_airflow.provenance.revocations import find_revoked, verify_revocations
from ppml_airflow.provenance.sets import require_sets
from ppml_airflow.provenance.trust_bundle import TrustBundle
from ppml_airflow.signing import Envelope, PublicKey, SignedDocument
from ppml_airflow.units import Digest, Instant, format_instant, parse_instant

D = TypeVar("D", bound=SignedDocument)
_EVER = datetime.min.replace(tzinfo=UTC)


def verify_passport(
    data: bytes, *, trust: TrustBundle, now: datetime, log_proofs: tuple[Consistency, ...] = ()
) -> PassportReport:
    """Verify a passport.

    Args:
        data: untrusted bytes.
        trust: what the person who asks trusts; never taken from the passport.
        now: aware; only to refuse a passport from the future.
        log_proofs: untrusted; for pinned checkpoints to which the passport encloses no proof.

    Raises:
        MalformedInputError: not a passport in canonical form.
        VerificationError: something is not authentic, not whole, or does not belong together.
        PolicyDeniedError: evidence that its policy should have refused.

    1. Read the bytes: canonical, nothing unknown.
    2. The domain is the one asked about.
    3. Its owners signed certificates, policies and approval.
    4. A broker whom they certified signed Run, Pins and RunClosed, and they belong together.
    5. RunClosed lists exactly the attempts enclosed, each by as many enclaves as approved, and no step is missing.
    6. The log under RunClosed's root holds the run; pinned checkpoints fit.
    7. Each attempt: job, binding, nonce, quote, policy; then lease, receipt and outputs.
    8. Attempts came in the order that edges and gates ask for.
    9. Each input was signed by a certified producer or an attested key.
    10. RunClosed covers every byte that was enclosed.
    11. What of it stands on something that the trust bundle says is revoked is reported; it stays authentic.
    """
    # 1
    passport = parse_passport(data)
    contents = passport.contents
    # 2
    _require_domain(contents, trust=trust)
    # 3, 4
    try:
        documents = _verify_signers(contents)
        closed = _verify_closed(passport.closed, run=documents.run, certificates=documents.certificates, now=now)
    except VerificationError as error:
        found = first_disagreement(passport)
        message = f"{error.message}; {found}" if found else error.message
        raise VerificationError(message, code=error.code, hint=error.hint) from error
    # 5
    attempts = match_attempts(contents, closed=closed)
    require_sequence(attempts, approval=documents.approval)
    sets = require_sets(attempts, approval=documents.approval)
    outcomes = step_outcomes(documents.approval, closed=closed, pins=documents.pins)
    # 6
    logged = require_log(contents, closed=closed)
    head = Checkpoint(log_size=closed.log_size, log_root=closed.log_root)
    compared = require_pinned(head, pinned=trust.checkpoints, proofs=(*contents.log_proof.earlier, *log_proofs))
    # 7
    jobs = _build_jobs(attempts, documents=documents, approval_digest=contents.approval.digest)
    judged = tuple(
        judge_attempt(
            attempt,
            job=jobs[attempt.record.step],
            documents=documents,
            roots=trust.roots,
            members=sets.get((attempt.record.step, attempt.record.attempt), ()),
        )
        for attempt in attempts
    )
    # 8
    _require_order(judged, documents=documents, logged=logged)
    # 9
    earlier = _verify_inputs(judged, documents=documents, contents=contents)
    # 10
    if canonical.digest(contents) != closed.contents:
        raise VerificationError("passport encloses something else than RunClosed says", code="contents")
    # 11
    revoked = verify_revocations(trust.revocations, domain=trust.domain)
    return make_report(
        judged,
        documents=documents,
        closed=closed,
        outcomes=outcomes,
        earlier=earlier,
        compared=compared,
        revocations_known=len(revoked),
        revoked=find_revoked(judged, documents=documents, passport=passport, revoked=revoked),
    )


def _require_domain(contents: PassportContents, *, trust: TrustBundle) -> None:
    domain = trust.domain
    if contents.domain != domain:
        raise VerificationError(
            f"passport is of domain {contents.domain.name} ({contents.domain.domain_id}), "
            f"the trust bundle of {domain.name} ({domain.domain_id})",
            code="other_domain",
        )
    if not any(root.trust == domain.trust for root in trust.roots):
        raise VerificationError(
            f"domain {domain.name} is {domain.trust}, and the trust bundle names no {domain.trust} root",
            code="untrusted_root",
            hint="simulated evidence counts only for who names its development root: ppml trust export",
        )


def _verify_signers(contents: PassportContents) -> RunDocuments:
    # 3
    domain = contents.domain
    with naming("certificates"):
        certificates = Certificates.verify(contents.certificates, domain=domain)
    with naming("policies"):
        policies = {
            envelope.digest: verify_owner_document(envelope, into=Policy, domain=domain)
            for envelope in contents.policies
        }
    with naming("approval"):
        approval = verify_owner_document(contents.approval, into=Approval, domain=domain)
    # 4
    with naming("run"):
        run = _verify_dated(contents.run, into=Run, certificates=certificates, date_of=lambda run: run.opened)
        _require_under_approval(run, approval=approval, approval_digest=contents.approval.digest)
    with naming("pins"):
        pins = _verify_pins(contents.pins, run=run, certificates=certificates)
    return RunDocuments(
        domain=domain,
        certificates=certificates,
        policies=policies,
        approval=approval,
        run=run,
        pins=pins,
        manifests={envelope.digest: envelope for envelope in contents.manifests},
        collateral=contents.collateral,
    )


def _verify_dated(
    envelope: Envelope, *, into: type[D], certificates: Certificates, date_of: Callable[[D], Instant]
) -> D:
    """Verify under any broker key first, then under those that were certified at the time that the document states."""
    document = verify_broker_document(envelope, into=into, certificates=certificates, now=_EVER)
    stated = parse_instant(date_of(document))
    return verify_broker_document(envelope, into=into, certificates=certificates, now=stated)


def _require_under_approval(run: Run, *, approval: Approval, approval_digest: Digest) -> None:
    if (run.domain_id, run.pipeline, run.approval) != (approval.domain_id, approval.pipeline, approval_digest):
        raise VerificationError(f"run {run.run_id} was opened under another approval", code="other_run")
    if not approval.valid_from <= run.opened < approval.valid_until:
        raise VerificationError(f"run was opened at {run.opened}, outside its approval", code="approval_expired")
    choose_slot(run.slot, slots=approval.slots, now=parse_instant(run.opened))


def _verify_pins(envelopes: Iterable[Envelope], *, run: Run, certificates: Certificates) -> dict[str, Pins]:
    opened = parse_instant(run.opened)
    found: dict[str, Pins] = {}
    for envelope in envelopes:
        pins = verify_broker_document(envelope, into=Pins, certificates=certificates, now=opened)
        if pins.run_id != run.run_id or pins.step in found:
            raise VerificationError(f"step {pins.step}: pins are of another run, or repeated", code="other_pins")
        found[pins.step] = pins
    return found


def _verify_closed(envelope: Envelope, *, run: Run, certificates: Certificates, now: datetime) -> RunClosed:
    with naming("end of the run"):
        closed = _verify_dated(
            envelope, into=RunClosed, certificates=certificates, date_of=lambda document: document.closed
        )
        if (closed.run_id, closed.run) != (run.run_id, canonical.digest(run)):
            raise VerificationError(f"RunClosed ends run {closed.run_id}, wanted {run.run_id}", code="other_run")
        if closed.closed > format_instant(now) or closed.closed < run.opened:
            raise VerificationError(
                f"run was closed at {closed.closed}, in the future or before it opened", code="time"
            )
    return closed


def _build_jobs(attempts: Iterable[Attempt], *, documents: RunDocuments, approval_digest: Digest) -> dict[str, Job]:
    """The job of every step that has pins; an attempt without pins is refused."""
    jobs: dict[str, Job] = {}
    with naming("run"):
        builder = JobBuilder(approval=documents.approval, approval_digest=approval_digest, run=documents.run)
    for name, pins in documents.pins.items():
        with naming(f"step {name}"):
            jobs[name] = builder.build(pins, step_name=name)
    for attempt in attempts:
        if attempt.record.step not in jobs:
            raise VerificationError(f"{attempt.label}: pins are missing", code="incomplete")
    return jobs


def _require_order(judged: Iterable[JudgedAttempt], *, documents: RunDocuments, logged: dict[Digest, LogEntry]) -> None:
    last = -1
    committed: set[str] = set()
    granted: set[tuple[str, Digest]] = set()
    for one in judged:
        record = one.attempt.record
        step = documents.step(record.step)
        with naming(one.attempt.label):
            position = logged[record.evidence].index
            if position <= last or logged[record.evidence].time != record.time:
                raise VerificationError("it stands elsewhere in the log", code="log_broken")
            last = position
            early = [name for name in earlier_steps(documents.approval, name=step.name) if name not in committed]
            if early:
                raise VerificationError(f"step {early[0]} was not committed before", code="too_early")
            if record.role == "preflight":
                granted.add((step.name, one.attempt.evidence.policy))
            elif "before" in step.gates and (step.name, one.attempt.evidence.policy) not in granted:
                raise VerificationError("its gate had not been passed", code="gate_missing")
            if record.outcome == "committed":
                committed.add(step.name)


def _verify_inputs(
    judged: Iterable[JudgedAttempt], *, documents: RunDocuments, contents: PassportContents
) -> tuple[DatasetVersion, ...]:
    made_here: dict[Digest, PublicKey] = {}
    for one in judged:
        for made in one.receipt.outputs if one.receipt else ():
            made_here[made.manifest] = one.attempt.evidence.binding.signing_key
    verified: set[tuple[DatasetVersion, Input]] = set()
    for step in documents.approval.steps:
        pins = documents.pins.get(step.name)
        for pinned, wanted in zip(pins.inputs, step.inputs, strict=True) if pins else ():
            if (pinned, wanted) in verified:
                continue
            with naming(f"step {step.name}"):
                verify_input(
                    pinned,
                    wanted=wanted,
                    run=documents.run,
                    manifests=documents.manifests,
                    earlier=contents.earlier_manifests,
                    made_here=made_here,
                    certificates=documents.certificates,
                )
            verified.add((pinned, wanted))
    return tuple(
        DatasetVersion(dataset=one.dataset, version=one.version, manifest=canonical.digest(one))
        for one in contents.earlier_manifests
    )
