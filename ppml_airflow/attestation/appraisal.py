"""Appraisal: is verified evidence good enough for the owner's policy, this image, this session, this domain?

Pure. Which clauses are judged of which evidence stands here; how each is decided, in `clauses`. Every clause that is
not met is a reason that says what was got, what is wanted and what to do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NoReturn

from ppml_airflow.attestation.clauses import (
    Finding,
    judge_advisories,
    judge_collateral_age,
    judge_collateral_rollback,
    judge_collateral_time,
    judge_debug,
    judge_evaluation_number,
    judge_evidence_age,
    judge_image,
    judge_measurement,
    judge_platform_features,
    judge_report_data,
    judge_tcb_status,
    judge_td_attributes,
    judge_tee,
    judge_trust,
    judge_trust_root,
)
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import REPORT_DATA_BYTES
from ppml_airflow.attestation.verification import CollateralNumbers, VerifiedEvidence
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import Name, Trust


class AttestationResult(Document, frozen=True, kw_only=True):
    """The verifier's answer. Ask for `verdict`, or call `require_accepted`; it has no truth value."""

    verdict: Literal["accepted", "refused"]
    trust: Trust
    reasons: tuple[Finding, ...]
    """The clauses that were not met; empty exactly when accepted."""

    def __post_init__(self) -> None:
        if (self.verdict == "accepted") == bool(self.reasons):
            raise ValueError(f"result is {self.verdict} with {len(self.reasons)} reasons")
        if any(reason.is_met for reason in self.reasons):
            raise ValueError("result has a reason that is met")

    def __bool__(self) -> NoReturn:
        raise TypeError("an AttestationResult has no truth value: ask for its verdict")


def appraise(
    verified: VerifiedEvidence,
    *,
    policy: Policy,
    image: Name,
    expected_report_data: bytes,
    domain_trust: Trust,
    challenged_at: datetime,
    seen: CollateralNumbers,
    now: datetime,
) -> AttestationResult:
    """Judge verified evidence.

    Args:
        verified: what `verify_evidence` returned.
        policy: the version in force, whose signatures were verified.
        image: which image the step asks for.
        expected_report_data: 64 bytes, from the nonce and key of this session.
        domain_trust: hardware or simulated, for ever.
        challenged_at: aware; when the verifier gave the nonce that the report data covers.
        seen: the highest numbers of collateral for these platforms that the verifier ever accepted.
        now: aware; the verifier's own time.

    Raises:
        ConfigurationError: the expected report data is not 64 bytes, or a naive time.
    """
    if len(expected_report_data) != REPORT_DATA_BYTES:
        raise ConfigurationError(f"expected report data has {len(expected_report_data)} bytes, wanted 64")
    for moment in (now, challenged_at):
        if moment.tzinfo is None:
            raise ConfigurationError(f"time {moment.isoformat()} has no time zone; wanted an aware one")
    findings = (
        judge_trust(verified.trust, domain_trust=domain_trust),
        judge_trust_root(verified.root_key_id, policy=policy),
        judge_tee(verified.tee, policy=policy),
        judge_debug(is_debug=verified.is_debug),
        _judge_image(verified, policy=policy, image=image),
        judge_report_data(verified.report_data, expected=expected_report_data),
        judge_evidence_age(challenged_at, policy=policy, now=now),
        *judge_platform(verified, policy=policy, now=now),
        judge_collateral_rollback(verified.numbers, seen=seen),
    )
    reasons = tuple(finding for finding in findings if not finding.is_met)
    return AttestationResult(verdict="refused" if reasons else "accepted", trust=verified.trust, reasons=reasons)


def require_accepted(result: AttestationResult) -> None:
    """Pass only accepted evidence.

    Raises:
        PolicyDeniedError: every reason in the message; code and hint are those of the first.
    """
    if result.verdict == "accepted":
        return
    first = result.reasons[0]
    said = "; ".join(str(reason) for reason in result.reasons)
    raise PolicyDeniedError(f"evidence is refused: {said}", code=f"attestation_{first.clause}", hint=first.hint)


def judge_platform(verified: VerifiedEvidence, *, policy: Policy, now: datetime) -> tuple[Finding, ...]:
    """Judge what is judged of every SGX and TDX quote, in a session or not: the TD, the platform, the collateral."""
    td = (judge_td_attributes(verified.td_attributes, policy=policy),) if verified.tee == "tdx" else ()
    return (
        *td,
        judge_tcb_status(verified, policy=policy, now=now),
        judge_advisories(verified, policy=policy),
        judge_evaluation_number(verified, policy=policy),
        judge_platform_features(verified, policy=policy),
        judge_collateral_time(verified, now=now),
        judge_collateral_age(verified, policy=policy, now=now),
    )


def _judge_image(verified: VerifiedEvidence, *, policy: Policy, image: Name) -> Finding:
    reference = policy.images.get(image)
    if reference is None:
        return judge_image(image, policy=policy)
    hint = f"if the change of image {image} is yours: ppml image measure {image} --diff, then --accept"
    return judge_measurement(verified, references=(reference,), hint=hint)
