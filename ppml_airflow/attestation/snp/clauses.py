"""The clauses of a policy that only SEV-SNP reports know: which platform and which guest. One function each."""

from __future__ import annotations

from ppml_airflow.attestation.clauses import Finding, one_of
from ppml_airflow.attestation.policy import SnpConditions
from ppml_airflow.attestation.snp.verification import VerifiedSnp


def judge_minimum_svns(verified: VerifiedSnp, *, conditions: SnpConditions) -> Finding:
    """Every component is listed and new enough."""
    minimum: dict[str, int] = {str(name): svn for name, svn in conditions.minimum_svns.items()}
    low = {name: svn for name, svn in verified.svns.items() if name not in minimum or svn < minimum[name]}
    told = low or verified.svns
    return Finding(
        clause="minimum_svns",
        is_met=not low,
        got=", ".join(f"{name} {svn}" for name, svn in told.items()),
        want=", ".join(f"{name} {minimum[name]}" if name in minimum else f"{name} listed" for name in told),
        hint="update firmware and microcode of the machine, or lower minimum_svns in snp of the policy",
    )


def judge_guest_features(verified: VerifiedSnp, *, conditions: SnpConditions) -> Finding:
    """The guest's own policy allows its host nothing but what is listed."""
    allowed: tuple[str, ...] = conditions.guest_features
    refused = [name for name in verified.guest_features if name not in allowed]
    return Finding(
        clause="guest_features",
        is_met=not refused,
        got=", ".join(refused or verified.guest_features) or "none",
        want=one_of(allowed) if allowed else "none",
        hint="launch the guest with a stricter policy, or accept it in guest_features of snp",
    )


def judge_privilege_level(verified: VerifiedSnp, *, conditions: SnpConditions) -> Finding:
    """The report was asked for by code that is privileged enough."""
    return Finding(
        clause="privilege_level",
        is_met=verified.privilege_level <= conditions.maximum_privilege_level,
        got=f"VMPL {verified.privilege_level}",
        want=f"at most VMPL {conditions.maximum_privilege_level}",
        hint="ask for the report from a more privileged level, or raise maximum_privilege_level in snp",
    )


def judge_revocation_list(verified: VerifiedSnp, *, conditions: SnpConditions) -> Finding:
    """AMD's list came with the chain, where it is required."""
    is_optional = conditions.revocation_list == "optional"
    return Finding(
        clause="revocation_list",
        is_met=verified.is_revocation_checked or is_optional,
        got="AMD's list" if verified.is_revocation_checked else "none",
        want="AMD's list of this product" + (", or none" if is_optional else ""),
        hint="put the list, PEM, into the bundle of certificates",
    )
