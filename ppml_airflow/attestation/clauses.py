"""The clauses of a policy, one function each: the only place where a clause is decided. SEV-SNP's own are in
`snp.clauses`.

Every function answers with a `Finding`: what was got, what is wanted, whether that is met, and what to do if not.
Nothing is met because something was absent.

Source of the bits of TD attributes: Intel TDX Module ABI specification, "ATTRIBUTES".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal

from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.policy import ANY, ImageReference, Policy, SgxSigner, TdAttribute
from ppml_airflow.attestation.roots import RootKeyId
from ppml_airflow.attestation.snp.verification import VerifiedSnp
from ppml_airflow.attestation.verification import CollateralNumbers, VerifiedEvidence
from ppml_airflow.canonical import Document
from ppml_airflow.units import Name, Trust, format_instant

Clause = Literal[
    "trust",
    "trust_root",
    "tee",
    "debug",
    "image",
    "measurement",
    "image_svn",
    "report_data",
    "evidence_age",
    "td_attributes",
    "tcb_status",
    "advisories",
    "evaluation_number",
    "platform_features",
    "collateral_time",
    "collateral_age",
    "collateral_rollback",
    "minimum_svns",
    "guest_features",
    "privilege_level",
    "revocation_list",
]

TD_ATTRIBUTES: Mapping[int, TdAttribute] = {
    4: "hgs_plus_prof",
    5: "perf_prof",
    6: "pmt_prof",
    16: "icssd",
    27: "lass",
    29: "migratable",
    30: "pks",
    31: "key_locker",
    62: "tpa",
    63: "perfmon",
}
_TD_DEBUG, _TD_SEPT_VE_DISABLE = 0, 28


class Finding(Document, frozen=True, kw_only=True):
    """One clause, judged."""

    clause: Clause
    is_met: bool
    got: str
    want: str
    hint: str
    """What to do where it is not met."""

    def __str__(self) -> str:
        return f"{self.clause.replace('_', ' ')}: got {self.got}, wanted {self.want}"


# ---------------------------------------------------------------- whose evidence, of what


def judge_trust(trust: Trust, *, domain_trust: Trust) -> Finding:
    """Hardware for hardware, simulated for simulated."""
    return Finding(
        clause="trust",
        is_met=trust == domain_trust,
        got=trust,
        want=domain_trust,
        hint=f"a {domain_trust} domain takes {domain_trust} evidence only, for ever; make another domain",
    )


def judge_trust_root(root_key_id: RootKeyId, *, policy: Policy) -> Finding:
    """The root is one that the policy trusts."""
    return Finding(
        clause="trust_root",
        is_met=root_key_id in policy.trust_roots,
        got=root_key_id,
        want=one_of(policy.trust_roots),
        hint="add this root to trust_roots of the policy only if you know whose it is",
    )


def judge_tee(tee: JudgedTee, *, policy: Policy) -> Finding:
    """The kind of TEE is listed, and the conditions that its kind needs are stated."""
    needed = {"tdx": policy.tdx, "snp": policy.snp}
    unstated = tee in needed and needed[tee] is None
    return Finding(
        clause="tee",
        is_met=tee in policy.tees and not unstated,
        got=f"{tee}, for which the policy states no conditions" if unstated else tee,
        want=f"the part {tee} in the policy" if unstated and tee in policy.tees else one_of(policy.tees),
        hint=f"add {tee} to tees of the policy, and its part {tee}" if unstated else "add it to tees of the policy",
    )


def judge_debug(*, is_debug: bool) -> Finding:
    """No policy accepts debug."""
    got = "debug" if is_debug else "production"
    hint = "start it without debug: nothing is secret in an enclave that its host may look into"
    return Finding(clause="debug", is_met=not is_debug, got=got, want="production", hint=hint)


def judge_image(image: Name, *, policy: Policy) -> Finding:
    """The policy knows the image that the step asks for."""
    return Finding(
        clause="image",
        is_met=image in policy.images,
        got=image,
        want=one_of(tuple(policy.images)),
        hint=f"add {image} to images of policy {policy.name}, with its measurement",
    )


def judge_measurement(
    verified: VerifiedEvidence | VerifiedSnp, *, references: Iterable[ImageReference], hint: str
) -> Finding:
    """The measurement is one of the reference values, or its signer's name, product and version are."""
    listed = tuple(references)
    measurements = tuple(one for reference in listed for one in reference.measurements)
    signers = tuple(one for reference in listed for one in reference.signers)
    is_met = any(matches(verified.measurement, allowed=allowed) for allowed in measurements)
    got, want = verified.measurement, [*measurements, *map(_spell_signer, signers)]
    if isinstance(verified, VerifiedEvidence) and verified.tee == "sgx" and signers:
        got += f", signed by {verified.signer} as product {verified.product} svn {verified.svn}"
        own = [one for one in signers if (one.mr_signer, one.product) == (verified.signer, verified.product)]
        is_met = is_met or any(verified.svn >= one.minimum_svn for one in own)
        if own and not is_met:
            return Finding(
                clause="image_svn",
                is_met=False,
                got=f"svn {verified.svn} of product {verified.product}",
                want=f"at least svn {min(one.minimum_svn for one in own)}",
                hint="deploy a newer build of the image; lower minimum_svn only if you know what was wrong before",
            )
    return Finding(clause="measurement", is_met=is_met, got=got, want=one_of(want), hint=hint)


def judge_report_data(report_data: bytes, *, expected: bytes) -> Finding:
    """It covers the nonce, key and job of this session."""
    return Finding(
        clause="report_data",
        is_met=report_data == expected,
        got=report_data.hex(),
        want=expected.hex(),
        hint="the quote was made for another nonce, key or job; attest again",
    )


def judge_evidence_age(challenged_at: datetime, *, policy: Policy, now: datetime) -> Finding:
    """It was asked for just now, and not after now."""
    age, bound = now - challenged_at, policy.maximum_evidence_age_seconds
    return Finding(
        clause="evidence_age",
        is_met=timedelta(0) <= age <= timedelta(seconds=bound),
        got=f"{age.total_seconds():.0f} s since its challenge",
        want=f"0 to {bound} s",
        hint="attest again, or raise maximum_evidence_age_seconds of the policy",
    )


def judge_td_attributes(attributes: bytes, *, policy: Policy) -> Finding:
    """A TD has on what is listed, has SEPT_VE_DISABLE, and no bit that nobody knows."""
    allowed = policy.tdx.attributes if policy.tdx else ()
    bits = int.from_bytes(attributes, "little")
    on = [index for index in range(8 * len(attributes)) if bits >> index & 1]
    extra = [TD_ATTRIBUTES.get(index, f"bit {index}") for index in on if index not in (_TD_DEBUG, _TD_SEPT_VE_DISABLE)]
    has_exceptions = _TD_SEPT_VE_DISABLE not in on
    refused = [name for name in extra if name not in allowed] + ["no sept_ve_disable"] * has_exceptions
    return Finding(
        clause="td_attributes",
        is_met=not refused and bool(attributes),
        got=", ".join(refused or extra) or ("none beside sept_ve_disable" if attributes else "none told"),
        want=f"sept_ve_disable, and at most {', '.join(allowed) or 'nothing'} beside it",
        hint="start the TD without it, or accept it in tdx.attributes of the policy",
    )


# ---------------------------------------------------------------- which DCAP platform, by what collateral


def judge_tcb_status(verified: VerifiedEvidence, *, policy: Policy, now: datetime) -> Finding:
    """The status is accepted, or within the grace that it has."""
    ends = {str(status): verified.tcb_date + timedelta(days=days) for status, days in policy.tcb_grace_days.items()}
    accepted = [*policy.tcb_statuses, *(f"{status} before {format_instant(end)}" for status, end in ends.items())]
    is_in_grace = verified.tcb_status in ends and now < ends[verified.tcb_status]
    return Finding(
        clause="tcb_status",
        is_met=verified.tcb_status in policy.tcb_statuses or is_in_grace,
        got=verified.tcb_status,
        want=one_of(accepted),
        hint="update microcode and firmware of the machine, or accept the status in the policy",
    )


def judge_advisories(verified: VerifiedEvidence, *, policy: Policy) -> Finding:
    """Every open advisory is accepted."""
    refused = [advisory for advisory in verified.advisory_ids if not policy.accepts_advisory(advisory)]
    want = one_of(policy.advisories) if policy.advisories else "none"
    if policy.advisories == (ANY,):
        want = f"any but {', '.join(policy.denied_advisories)}" if policy.denied_advisories else ANY
    return Finding(
        clause="advisories",
        is_met=not refused,
        got=", ".join(refused or verified.advisory_ids) or "none",
        want=want,
        hint="read them, then update the machine or accept them in advisories of the policy",
    )


def judge_evaluation_number(verified: VerifiedEvidence, *, policy: Policy) -> Finding:
    """The collateral is of a round of updates that the policy asks for."""
    return Finding(
        clause="evaluation_number",
        is_met=verified.numbers.evaluation >= policy.minimum_evaluation_number,
        got=str(verified.numbers.evaluation),
        want=f"at least {policy.minimum_evaluation_number}",
        hint="fetch fresh collateral for this platform",
    )


def judge_platform_features(verified: VerifiedEvidence, *, policy: Policy) -> Finding:
    """Nothing is on, or undefined, but what is listed."""
    features = {
        "smt": verified.smt,
        "dynamic_platform": verified.dynamic_platform,
        "cached_keys": verified.cached_keys,
    }
    on = [name for name, flag in features.items() if flag != "False"]
    refused = [name for name in on if name not in policy.platform_features]
    return Finding(
        clause="platform_features",
        is_met=not refused,
        got=", ".join(f"{name} {features[name]}" for name in refused or on) or "none",
        want=one_of(policy.platform_features) if policy.platform_features else "none",
        hint="switch it off in the machine's firmware, or accept it in platform_features of the policy",
    )


def judge_collateral_time(verified: VerifiedEvidence, *, now: datetime) -> Finding:
    """The collateral is of this time."""
    return Finding(
        clause="collateral_time",
        is_met=verified.collateral_issued <= now < verified.collateral_expires,
        got=format_instant(now),
        want=f"{format_instant(verified.collateral_issued)} to {format_instant(verified.collateral_expires)}",
        hint="fetch fresh collateral for this platform",
    )


def judge_collateral_age(verified: VerifiedEvidence, *, policy: Policy, now: datetime) -> Finding:
    """The vendor said it not long ago."""
    age, bound = now - verified.collateral_stated, policy.maximum_collateral_age_hours
    return Finding(
        clause="collateral_age",
        is_met=timedelta(0) <= age <= timedelta(hours=bound),
        got=f"{age.total_seconds() / 3600:.0f} hours, of {format_instant(verified.collateral_stated)}",
        want=f"at most {bound} hours",
        hint="fetch fresh collateral for this platform, or raise maximum_collateral_age_hours of the policy",
    )


def judge_collateral_rollback(numbers: CollateralNumbers, *, seen: CollateralNumbers) -> Finding:
    """No number is lower than one that was seen: who brings collateral may not choose last month's."""
    return Finding(
        clause="collateral_rollback",
        is_met=not numbers.is_below(seen),
        got=str(numbers),
        want=f"at least {seen}, which were seen",
        hint="fetch fresh collateral for this platform",
    )


# ---------------------------------------------------------------- words


def matches(measurement: str, *, allowed: str) -> bool:
    """Compare register by register; `any` stands for a register that the owner chose not to judge."""
    got, want = measurement.split(":"), allowed.split(":")
    return len(got) == len(want) and all(w in (ANY, g) for g, w in zip(got, want, strict=True))


def one_of(values: Iterable[str]) -> str:
    """Spell what would have been accepted."""
    listed = list(values)
    return listed[0] if len(listed) == 1 else "one of " + ", ".join(listed)


def _spell_signer(signer: SgxSigner) -> str:
    return f"any signed by {signer.mr_signer} as product {signer.product} from svn {signer.minimum_svn}"
