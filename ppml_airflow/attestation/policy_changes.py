"""What a new policy accepts that the old one did not, and what it refuses now: in words, for the owner who signs it.

Complete in this sense: if some evidence is accepted by the new policy and not by the old one, then at least one line
says that something is allowed now; the other way round likewise. A line may tell of more than evidence can show.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import get_args

from ppml_airflow.attestation.clauses import matches
from ppml_airflow.attestation.evidence import JudgedTee
from ppml_airflow.attestation.policy import ANY, ImageReference, Policy, SgxSigner, SvnName, TcbStatus

_FOR_EVER = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanges:
    """Lines of words. Both empty: whatever the one accepts, the other does."""

    allowed: tuple[str, ...]
    refused: tuple[str, ...]


def compare_policies(old: Policy, *, new: Policy) -> PolicyChanges:
    """Say what a new policy changes."""
    return PolicyChanges(allowed=tuple(_gains(old, new)), refused=tuple(_gains(new, old)))


def _gains(old: Policy, new: Policy) -> Iterator[str]:
    """What `new` accepts and `old` does not. Read backwards it is what is lost."""
    yield from _listed(_tees(old), _tees(new), "evidence of {}")
    yield from _listed(old.trust_roots, new.trust_roots, "evidence that leads to the root {}")
    for name, reference in new.images.items():
        known = old.images.get(name)
        yield from (f"image {name} by measurement {one}" for one in _new_measurements(known, reference))
        yield from (f"image {name} by {one}" for one in _new_signers(known, reference))
    yield from _statuses(old, new)
    yield from _advisories(old, new)
    if new.minimum_evaluation_number < old.minimum_evaluation_number:
        yield f"collateral of evaluation number {new.minimum_evaluation_number} to {old.minimum_evaluation_number - 1}"
    yield from _listed(old.platform_features, new.platform_features, "a platform with {}")
    yield from _longer(
        old.maximum_collateral_age_hours, new.maximum_collateral_age_hours, "collateral of {} to {} hours"
    )
    yield from _longer(
        old.maximum_evidence_age_seconds,
        new.maximum_evidence_age_seconds,
        "evidence {} to {} seconds after its challenge",
    )
    yield from _listed(old.tdx.attributes if old.tdx else (), new.tdx.attributes if new.tdx else (), "a TD with {}")
    yield from _snp(old, new)


def _tees(policy: Policy) -> list[JudgedTee]:
    stated = {"tdx": policy.tdx, "snp": policy.snp}
    return [tee for tee in policy.tees if tee not in stated or stated[tee] is not None]


def _listed(old: Collection[str], new: Collection[str], sentence: str) -> Iterator[str]:
    yield from (sentence.format(one) for one in new if one not in old)


def _longer(old: int, new: int, sentence: str) -> Iterator[str]:
    if new > old:
        yield sentence.format(old, new)


def _new_measurements(old: ImageReference | None, new: ImageReference) -> Iterator[str]:
    known = old.measurements if old else ()
    yield from (one for one in new.measurements if not any(matches(one, allowed=allowed) for allowed in known))


def _new_signers(old: ImageReference | None, new: ImageReference) -> Iterator[str]:
    for one in new.signers:
        known = old.signers if old else ()
        before = next((each for each in known if _is_same_product(each, one)), None)
        versions = f"svn {one.minimum_svn} and later" if before is None else ""
        if before is not None and one.minimum_svn < before.minimum_svn:
            versions = f"svn {one.minimum_svn} to {before.minimum_svn - 1}"
        if versions:
            yield f"signer {one.mr_signer} of product {one.product}, {versions}"


def _is_same_product(one: SgxSigner, other: SgxSigner) -> bool:
    return (one.mr_signer, one.product) == (other.mr_signer, other.product)


def _statuses(old: Policy, new: Policy) -> Iterator[str]:
    for status in get_args(TcbStatus):
        before, after = _grace(old, status), _grace(new, status)
        if after > before:
            since = f", from day {before} on" if before else ""
            until = "" if after == _FOR_EVER else f", until {after} days after the date of its TCB level"
            yield f"a platform whose status is {status}{since}{until}"


def _grace(policy: Policy, status: TcbStatus) -> int:
    return _FOR_EVER if status in policy.tcb_statuses else policy.tcb_grace_days.get(status, 0)


def _advisories(old: Policy, new: Policy) -> Iterator[str]:
    named = sorted({*old.advisories, *new.advisories, *old.denied_advisories, *new.denied_advisories} - {ANY})
    for advisory in named:
        if new.accepts_advisory(advisory) and not old.accepts_advisory(advisory):
            yield f"a platform that is subject to {advisory}"
    if ANY in new.advisories and ANY not in old.advisories:
        yield f"a platform that is subject to any other advisory than {', '.join(named) or 'none'}"


def _snp(old: Policy, new: Policy) -> Iterator[str]:
    if new.snp is None:
        return
    if old.snp is None:
        yield "SEV-SNP reports under the conditions in snp"
        return
    for name in get_args(SvnName):
        before, after = old.snp.minimum_svns.get(name), new.snp.minimum_svns.get(name)
        if after is not None and (before is None or after < before):
            until = "and later" if before is None else f"to {before - 1}"
            yield f"a platform whose {name} is of version {after} {until}"
    yield from _listed(old.snp.guest_features, new.snp.guest_features, "a guest that allows its host {}")
    yield from _longer(
        old.snp.maximum_privilege_level, new.snp.maximum_privilege_level, "a report of a level above VMPL {}, up to {}"
    )
    if (old.snp.revocation_list, new.snp.revocation_list) == ("required", "optional"):
        yield "a report without AMD's revocation list"
