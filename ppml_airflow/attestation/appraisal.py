"""Appraisal: is verified evidence good enough for the owner's policy, this image, this session, this domain?

Pure. Every clause that is not met gives a reason that says what was got, what is wanted and what to do. Nothing is
accepted because something was absent: a policy lists, and what it does not list is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NoReturn

from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.report_data import REPORT_DATA_BYTES
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import Name, Trust, format_instant

Clause = Literal[
    "trust",
    "trust_root",
    "tee",
    "debug",
    "image",
    "measurement",
    "report_data",
    "tcb_status",
    "advisories",
    "evaluation_number",
    "platform_features",
    "collateral_time",
    "minimum_svns",
    "guest_features",
    "privilege_level",
    "revocation_list",
]


class Reason(Document, frozen=True, kw_only=True):
    """One clause that was not met."""

    clause: Clause
    got: str
    want: str
    hint: str

    def __str__(self) -> str:
        return f"{self.clause.replace('_', ' ')}: got {self.got}, wanted {self.want}"


class AttestationResult(Document, frozen=True, kw_only=True):
    """The verifier's answer. Ask for `verdict`, or call `require_accepted`; it has no truth value."""

    verdict: Literal["accepted", "refused"]
    trust: Trust
    reasons: tuple[Reason, ...]
    """Empty exactly when accepted."""

    def __post_init__(self) -> None:
        if (self.verdict == "accepted") == bool(self.reasons):
            raise ValueError(f"result is {self.verdict} with {len(self.reasons)} reasons")

    def __bool__(self) -> NoReturn:
        raise TypeError("an AttestationResult has no truth value: ask for its verdict")


def appraise(
    verified: VerifiedEvidence,
    *,
    policy: Policy,
    image: Name,
    expected_report_data: bytes,
    domain_trust: Trust,
    now: datetime,
) -> AttestationResult:
    """Judge verified evidence.

    Args:
        verified: what `verify_evidence` returned.
        policy: the version in force, whose signatures were verified.
        image: which image the step asks for.
        expected_report_data: 64 bytes, from the nonce and key of this session.
        domain_trust: hardware or simulated, for ever.
        now: aware; the verifier's own time.

    Raises:
        ConfigurationError: the expected report data is not 64 bytes, or a naive time.
    """
    if len(expected_report_data) != REPORT_DATA_BYTES:
        raise ConfigurationError(f"expected report data has {len(expected_report_data)} bytes, wanted 64")
    if now.tzinfo is None:
        raise ConfigurationError(f"time {now.isoformat()} has no time zone; wanted an aware one")
    reasons = (
        *_judge_root(verified, policy=policy, domain_trust=domain_trust),
        *_judge_enclave(verified, policy=policy, image=image, expected_report_data=expected_report_data),
        *judge_platform(verified, policy=policy),
        *judge_collateral(verified, policy=policy, now=now),
    )
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


def _judge_root(verified: VerifiedEvidence, *, policy: Policy, domain_trust: Trust) -> Iterator[Reason]:
    if verified.trust != domain_trust:
        yield Reason(
            clause="trust",
            got=verified.trust,
            want=domain_trust,
            hint=f"a {domain_trust} domain takes {domain_trust} evidence only, for ever; make another domain",
        )
    yield from judge_trust_root(verified.root_key_id, policy=policy)


def judge_trust_root(root_key_id: RootKeyId, *, policy: Policy) -> Iterator[Reason]:
    """Compare a root with those that the policy trusts."""
    if root_key_id not in policy.trust_roots:
        yield Reason(
            clause="trust_root",
            got=root_key_id,
            want=one_of(policy.trust_roots),
            hint="add this root to trust_roots of the policy only if you know whose it is",
        )


def _judge_enclave(
    verified: VerifiedEvidence, *, policy: Policy, image: Name, expected_report_data: bytes
) -> Iterator[Reason]:
    yield from judge_kind(verified.tee, is_debug=verified.is_debug, policy=policy)
    reference = policy.images.get(image)
    if reference is None:
        yield Reason(
            clause="image",
            got=image,
            want=one_of(tuple(policy.images)),
            hint=f"add {image} to images of policy {policy.name}, with its measurement",
        )
    elif not any(matches(verified.measurement, allowed=allowed) for allowed in reference.measurements):
        yield Reason(
            clause="measurement",
            got=verified.measurement,
            want=one_of(reference.measurements),
            hint=f"if the change of image {image} is yours: ppml image measure {image} --diff, then --accept",
        )
    if verified.report_data != expected_report_data:
        yield Reason(
            clause="report_data",
            got=verified.report_data.hex(),
            want=expected_report_data.hex(),
            hint="the quote was made for another nonce, key or job; attest again",
        )


def judge_kind(tee: JudgedTee, *, is_debug: bool, policy: Policy) -> Iterator[Reason]:
    """Compare the kind of TEE with the policy's; refuse debug under any."""
    if tee not in policy.tees:
        yield Reason(clause="tee", got=tee, want=one_of(policy.tees), hint="add it to tees of the policy")
    if is_debug:
        yield Reason(clause="debug", got="debug", want="production", hint="start the enclave without debug")


def judge_platform(verified: VerifiedEvidence, *, policy: Policy) -> Iterator[Reason]:
    """Judge a DCAP platform: TCB status, advisories, features."""
    if verified.tcb_status not in policy.tcb_statuses:
        yield Reason(
            clause="tcb_status",
            got=verified.tcb_status,
            want=one_of(policy.tcb_statuses),
            hint="update microcode and firmware of the machine, or accept the status in the policy",
        )
    open_advisories = [advisory for advisory in verified.advisory_ids if advisory not in policy.advisories]
    if open_advisories:
        yield Reason(
            clause="advisories",
            got=", ".join(open_advisories),
            want=one_of(policy.advisories) if policy.advisories else "none",
            hint="read them, then update the machine or accept them in advisories of the policy",
        )
    features = {
        "smt": verified.smt,
        "dynamic_platform": verified.dynamic_platform,
        "cached_keys": verified.cached_keys,
    }
    refused = [name for name, flag in features.items() if flag != "False" and name not in policy.platform_features]
    if refused:
        yield Reason(
            clause="platform_features",
            got=", ".join(f"{name} {features[name]}" for name in refused),
            want=one_of(policy.platform_features) if policy.platform_features else "none",
            hint="switch it off in the machine's firmware, or accept it in platform_features of the policy",
        )


def judge_collateral(verified: VerifiedEvidence, *, policy: Policy, now: datetime) -> Iterator[Reason]:
    """Judge what a DCAP platform was measured against: evaluation number and time."""
    if verified.tcb_evaluation_number < policy.minimum_evaluation_number:
        yield Reason(
            clause="evaluation_number",
            got=str(verified.tcb_evaluation_number),
            want=f"at least {policy.minimum_evaluation_number}",
            hint="fetch fresh collateral for this platform",
        )
    if not verified.collateral_issued <= now < verified.collateral_expires:
        yield Reason(
            clause="collateral_time",
            got=format_instant(now),
            want=f"{format_instant(verified.collateral_issued)} to {format_instant(verified.collateral_expires)}",
            hint="fetch fresh collateral for this platform",
        )


def matches(measurement: str, *, allowed: str) -> bool:
    """Compare register by register; `any` stands for a register that the owner chose not to judge."""
    got, want = measurement.split(":"), allowed.split(":")
    return len(got) == len(want) and all(w in ("any", g) for g, w in zip(got, want, strict=True))


def one_of(values: tuple[str, ...]) -> str:
    """Spell what would have been accepted."""
    return values[0] if len(values) == 1 else "one of " + ", ".join(values)
