"""A verified quote against a policy, outside any session: no image is named and no report data is expected.

Without a policy a conservative default stands in: production only, and for SGX and TDX a platform that is UpToDate with
no open advisory. AMD states no status: how new an SEV-SNP platform must be, only a policy can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ppml_airflow.attestation.appraisal import (
    Reason,
    judge_collateral,
    judge_kind,
    judge_platform,
    judge_trust_root,
    matches,
    one_of,
)
from ppml_airflow.attestation.policy import Policy, SnpConditions
from ppml_airflow.attestation.snp.verification import VerifiedSnp
from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.units import format_instant


def appraise_quote(
    verified: VerifiedEvidence | VerifiedSnp, *, policy: Policy | None, now: datetime
) -> tuple[Reason, ...]:
    """Say why a quote is refused; nothing means that it is accepted."""
    if policy is None:
        return tuple(_judge_by_default(verified, now=now))
    return (
        *judge_trust_root(verified.root_key_id, policy=policy),
        *judge_kind(verified.tee, is_debug=verified.is_debug, policy=policy),
        *_judge_measurement(verified.measurement, policy=policy),
        *_judge_rest(verified, policy=policy, now=now),
    )


def _judge_by_default(verified: VerifiedEvidence | VerifiedSnp, *, now: datetime) -> Iterator[Reason]:
    if verified.is_debug:
        yield Reason(clause="debug", got="debug", want="production", hint="start the enclave without debug")
    if isinstance(verified, VerifiedSnp):
        yield from _judge_guest_features(verified, allowed=("smt",))
        return
    if verified.tcb_status != "UpToDate":
        yield Reason(
            clause="tcb_status",
            got=verified.tcb_status,
            want="UpToDate",
            hint="update microcode and firmware of the machine, or judge by a policy that accepts the status",
        )
    if verified.advisory_ids:
        yield Reason(
            clause="advisories",
            got=", ".join(verified.advisory_ids),
            want="none",
            hint="read them, then update the machine or judge by a policy that accepts them",
        )
    if not verified.collateral_issued <= now < verified.collateral_expires:
        yield Reason(
            clause="collateral_time",
            got=format_instant(now),
            want=f"{format_instant(verified.collateral_issued)} to {format_instant(verified.collateral_expires)}",
            hint="fetch fresh collateral for this platform",
        )


def _judge_measurement(measurement: str, *, policy: Policy) -> Iterator[Reason]:
    listed = tuple(one for image in policy.images.values() for one in image.measurements)
    if not any(matches(measurement, allowed=allowed) for allowed in listed):
        yield Reason(
            clause="measurement",
            got=measurement,
            want=one_of(listed),
            hint="if the image is yours, add its measurement to images of the policy",
        )


def _judge_rest(verified: VerifiedEvidence | VerifiedSnp, *, policy: Policy, now: datetime) -> Iterator[Reason]:
    if isinstance(verified, VerifiedEvidence):
        yield from judge_platform(verified, policy=policy)
        yield from judge_collateral(verified, policy=policy, now=now)
    elif policy.snp is None:
        yield Reason(
            clause="minimum_svns",
            got="no conditions on SEV-SNP",
            want="snp in the policy",
            hint="state snp in the policy: the versions, guest features and privilege levels that you accept",
        )
    else:
        yield from _judge_snp(verified, conditions=policy.snp)


def _judge_snp(verified: VerifiedSnp, *, conditions: SnpConditions) -> Iterator[Reason]:
    minimum: dict[str, int] = {str(name): svn for name, svn in conditions.minimum_svns.items()}
    low = {name: svn for name, svn in verified.svns.items() if name not in minimum or svn < minimum[name]}
    if low:
        yield Reason(
            clause="minimum_svns",
            got=", ".join(f"{name} {svn}" for name, svn in low.items()),
            want=", ".join(f"{name} {minimum[name]}" if name in minimum else f"{name} listed" for name in low),
            hint="update firmware and microcode of the machine, or lower minimum_svns in snp of the policy",
        )
    yield from _judge_guest_features(verified, allowed=conditions.guest_features)
    if verified.privilege_level > conditions.maximum_privilege_level:
        yield Reason(
            clause="privilege_level",
            got=f"VMPL {verified.privilege_level}",
            want=f"at most VMPL {conditions.maximum_privilege_level}",
            hint="ask for the report from a more privileged level, or raise maximum_privilege_level in snp",
        )
    if conditions.revocation_list == "required" and not verified.is_revocation_checked:
        yield Reason(
            clause="revocation_list",
            got="none",
            want="AMD's list of this product",
            hint="put the list, PEM, into the bundle of certificates",
        )


def _judge_guest_features(verified: VerifiedSnp, *, allowed: tuple[str, ...]) -> Iterator[Reason]:
    refused = [name for name in verified.guest_features if name not in allowed]
    if refused:
        yield Reason(
            clause="guest_features",
            got=", ".join(refused),
            want=one_of(allowed) if allowed else "none",
            hint="launch the guest with a stricter policy, or accept it in guest_features of snp",
        )
