"""What an owner should know of a valid policy before signing it: where it trusts much, or can never be met."""

from __future__ import annotations

from collections.abc import Iterator

from ppml_airflow.attestation.policy import ANY, Policy
from ppml_airflow.attestation.roots import trust_of

_HEX_DIGITS = {"sgx": 64, "snp": 96}


def review_policy(policy: Policy) -> tuple[str, ...]:
    """Say what stands out."""
    return (*_unused(policy), *_trusting(policy))


def _unused(policy: Policy) -> Iterator[str]:
    for tee, part in (("tdx", policy.tdx), ("snp", policy.snp)):
        if tee in policy.tees and part is None:
            yield f"tees lists {tee} and the part {tee} is missing: all evidence of {tee} is refused"
        if tee not in policy.tees and part is not None:
            yield f"the part {tee} is stated and tees does not list {tee}: all evidence of {tee} is refused"
    for name, image in policy.images.items():
        if image.signers and "sgx" not in policy.tees:
            yield f"image {name} is named by its signer and tees does not list sgx: that is never met"
        for one in image.measurements:
            kinds = [tee for tee in policy.tees if _is_of_kind(one, tee=tee)]
            if not kinds:
                yield f"image {name} has the measurement {one[:16]}... of a kind that is not in tees: it is never met"


def _is_of_kind(measurement: str, *, tee: str) -> bool:
    return (":" in measurement) == (tee == "tdx") and (tee == "tdx" or len(measurement) == _HEX_DIGITS[tee])


def _trusting(policy: Policy) -> Iterator[str]:
    for root in policy.trust_roots:
        if trust_of(root) == "simulated":
            yield f"trust root {root[:16]}... is no hardware vendor's: evidence under it is SIMULATED"
    for name, image in policy.images.items():
        for signer in image.signers:
            yield f"image {name} is whatever {signer.mr_signer[:16]}... signs as {signer.product}, of any domain"
        if any(ANY in one.split(":") for one in image.measurements):
            yield f"image {name} has run-time registers that are not judged: anything may be in them"
    stale = [status for status in (*policy.tcb_statuses, *policy.tcb_grace_days) if status.startswith("OutOfDate")]
    if stale:
        yield f"platforms with known holes are accepted: {', '.join(stale)}"
    if ANY in policy.advisories:
        yield "every advisory is accepted that is not denied, those to come included"
    if policy.minimum_evaluation_number == 0:
        yield "minimum_evaluation_number is 0: collateral of any round of updates is accepted until it is too old"
