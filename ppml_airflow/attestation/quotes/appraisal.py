"""A verified quote against a policy, outside any session: no image is named and no report data is expected.

Without a policy a conservative default stands in: production only, and for SGX and TDX a platform that is UpToDate with
no open advisory. AMD states no status: how new an SEV-SNP platform must be, only a policy can say.
"""

from __future__ import annotations

from datetime import datetime

from ppml_airflow.attestation.appraisal import judge_platform
from ppml_airflow.attestation.clauses import (
    Finding,
    judge_advisories,
    judge_collateral_time,
    judge_debug,
    judge_measurement,
    judge_tcb_status,
    judge_tee,
    judge_trust_root,
)
from ppml_airflow.attestation.policy import ImageReference, Policy, SnpConditions
from ppml_airflow.attestation.policy_files import NO_DOMAIN
from ppml_airflow.attestation.snp.clauses import (
    judge_guest_features,
    judge_minimum_svns,
    judge_privilege_level,
    judge_revocation_list,
)
from ppml_airflow.attestation.snp.verification import VerifiedSnp
from ppml_airflow.attestation.verification import VerifiedEvidence

_HINT = "if the image is yours, add its measurement to images of the policy"

_DEFAULT_SNP = SnpConditions(
    minimum_svns={"snp": 0}, guest_features=("smt",), maximum_privilege_level=3, revocation_list="optional"
)
_DEFAULT = Policy(
    domain_id=NO_DOMAIN,
    name="default",
    version=1,
    images={"none": ImageReference(measurements=("00" * 32,))},
    tees=("sgx", "tdx", "snp"),
    trust_roots=("00" * 48,),
    tcb_statuses=("UpToDate",),
    advisories=(),
    minimum_evaluation_number=0,
    platform_features=(),
    snp=_DEFAULT_SNP,
)
"""What the default says of the clauses that it judges; of the others it says nothing."""


def appraise_quote(
    verified: VerifiedEvidence | VerifiedSnp, *, policy: Policy | None, now: datetime
) -> tuple[Finding, ...]:
    """Judge every clause that can be judged of a quote; it is accepted if all are met."""
    if policy is None:
        return _judge_by_default(verified, now=now)
    references = tuple(policy.images.values())
    return (
        judge_trust_root(verified.root_key_id, policy=policy),
        judge_tee(verified.tee, policy=policy),
        judge_debug(is_debug=verified.is_debug),
        judge_measurement(verified, references=references, hint=_HINT),
        *_judge_rest(verified, policy=policy, now=now),
    )


def _judge_by_default(verified: VerifiedEvidence | VerifiedSnp, *, now: datetime) -> tuple[Finding, ...]:
    debug = judge_debug(is_debug=verified.is_debug)
    if isinstance(verified, VerifiedSnp):
        return debug, judge_guest_features(verified, conditions=_DEFAULT_SNP)
    return (
        debug,
        judge_tcb_status(verified, policy=_DEFAULT, now=now),
        judge_advisories(verified, policy=_DEFAULT),
        judge_collateral_time(verified, now=now),
    )


def _judge_rest(verified: VerifiedEvidence | VerifiedSnp, *, policy: Policy, now: datetime) -> tuple[Finding, ...]:
    if isinstance(verified, VerifiedEvidence):
        return judge_platform(verified, policy=policy, now=now)
    if policy.snp is None:
        return ()  # refused by `tee` already
    return (
        judge_minimum_svns(verified, conditions=policy.snp),
        judge_guest_features(verified, conditions=policy.snp),
        judge_privilege_level(verified, conditions=policy.snp),
        judge_revocation_list(verified, conditions=policy.snp),
    )
