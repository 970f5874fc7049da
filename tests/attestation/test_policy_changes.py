"""What changes between two policies, in words; and that no change of what is accepted goes unsaid."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from ppml_airflow.attestation.policy import ImageReference, Policy, SgxSigner, SnpConditions, TdxConditions
from ppml_airflow.attestation.policy_changes import compare_policies
from ppml_airflow.attestation.policy_review import review_policy
from ppml_airflow.attestation.quotes.appraisal import appraise_quote
from ppml_airflow.attestation.roots import INTEL_ROOT_KEY_ID
from ppml_airflow.attestation.snp.verification import VerifiedSnp, verify_snp
from ppml_airflow.attestation.verification import CollateralNumbers, VerifiedEvidence
from tests.attestation.conftest import NOW
from tests.attestation.snp.machine import Machine

A, B, C = "aa" * 32, "bb" * 32, "cc" * 48
SNP = SnpConditions(
    minimum_svns={"bootloader": 4, "tee": 0, "snp": 8, "microcode": 100},
    guest_features=(),
    maximum_privilege_level=0,
    revocation_list="required",
)


def _signers(*signers: tuple[str, int, int]) -> tuple[SgxSigner, ...]:
    return tuple(SgxSigner(mr_signer=key, product=product, minimum_svn=svn) for key, product, svn in signers)


def _td(*registers: str) -> str:
    return ":".join(one if one == "any" else one * 48 for one in registers)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"tees": ("sgx", "tdx"), "tdx": TdxConditions(attributes=())}, "evidence of tdx"),
        ({}, {"trust_roots": (C, "dd" * 48)}, f"evidence that leads to the root {'dd' * 48}"),
        ({}, {"images": {"spark": ImageReference(measurements=(A, B))}}, f"image spark by measurement {B}"),
        (
            {},
            {"images": {"spark": ImageReference(measurements=(A,), signers=_signers((B, 1, 3)))}},
            f"image spark by signer {B} of product 1, svn 3 and later",
        ),
        (
            {"images": {"spark": ImageReference(signers=_signers((B, 1, 5)))}},
            {"images": {"spark": ImageReference(signers=_signers((B, 1, 3)))}},
            f"image spark by signer {B} of product 1, svn 3 to 4",
        ),
        ({}, {"tcb_statuses": ("UpToDate", "OutOfDate")}, "a platform whose status is OutOfDate"),
        (
            {},
            {"tcb_grace_days": {"OutOfDate": 30}},
            "a platform whose status is OutOfDate, until 30 days after the date of its TCB level",
        ),
        (
            {"tcb_grace_days": {"OutOfDate": 30}},
            {"tcb_grace_days": {"OutOfDate": 60}},
            "a platform whose status is OutOfDate, from day 30 on, until 60 days after the date of its TCB level",
        ),
        ({}, {"advisories": ("INTEL-SA-1",)}, "a platform that is subject to INTEL-SA-1"),
        ({}, {"advisories": ("any",)}, "a platform that is subject to any other advisory than none"),
        (
            {"advisories": ("any",), "denied_advisories": ("INTEL-SA-1",)},
            {"advisories": ("any",)},
            "a platform that is subject to INTEL-SA-1",
        ),
        ({}, {"minimum_evaluation_number": 14}, "collateral of evaluation number 14 to 16"),
        ({}, {"platform_features": ("smt",)}, "a platform with smt"),
        ({}, {"maximum_collateral_age_hours": 800}, "collateral of 720 to 800 hours"),
        ({}, {"maximum_evidence_age_seconds": 300}, "evidence 120 to 300 seconds after its challenge"),
        (
            {"tdx": TdxConditions(attributes=()), "tees": ("tdx",)},
            {"tdx": TdxConditions(attributes=("pks",)), "tees": ("tdx",)},
            "a TD with pks",
        ),
    ],
)
def test_change_is_said_forwards_as_allowed_and_backwards_as_refused(
    policy: Policy, before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    base = msgspec.structs.replace(
        policy,
        images={"spark": ImageReference(measurements=(A,))},
        trust_roots=(C,),
        minimum_evaluation_number=17,
    )
    old, new = (msgspec.structs.replace(base, **fields) for fields in (before, after))
    forwards, backwards = compare_policies(old, new=new), compare_policies(new, new=old)
    assert words in forwards.allowed
    assert (backwards.allowed, backwards.refused) == (forwards.refused, forwards.allowed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"minimum_svns": {**SNP.minimum_svns, "snp": 6}}, "a platform whose snp is of version 6 to 7"),
        ({"minimum_svns": {**SNP.minimum_svns, "fmc": 1}}, "a platform whose fmc is of version 1 and later"),
        ({"guest_features": ("smt",)}, "a guest that allows its host smt"),
        ({"maximum_privilege_level": 2}, "a report of a level above VMPL 0, up to 2"),
        ({"revocation_list": "optional"}, "a report without AMD's revocation list"),
    ],
)
def test_change_of_snp_is_said(policy: Policy, changed: dict[str, Any], words: str) -> None:
    old = msgspec.structs.replace(policy, tees=("snp",), snp=SNP)
    new = msgspec.structs.replace(old, snp=msgspec.structs.replace(SNP, **changed))
    assert compare_policies(old, new=new).allowed == (words,)
    assert compare_policies(new, new=old).refused == (words,)


def test_register_that_is_judged_now_is_a_refusal_and_nothing_new(policy: Policy) -> None:
    wide = ImageReference(measurements=(_td("aa", "bb", "any", "any", "any"),))
    narrow = ImageReference(measurements=(_td("aa", "bb", "cc", "any", "any"),))
    old, new = (msgspec.structs.replace(policy, images={"vm": one}) for one in (wide, narrow))
    changes = compare_policies(old, new=new)
    assert changes.allowed == ()
    assert changes.refused == (f"image vm by measurement {wide.measurements[0]}",)


def test_same_conditions_of_another_version_change_nothing(policy: Policy) -> None:
    changes = compare_policies(policy, new=msgspec.structs.replace(policy, version=9, name="other"))
    assert (changes.allowed, changes.refused) == ((), ())


# ---------------------------------------------------------------- no change goes unsaid


def _random_policy(chance: random.Random, policy: Policy, roots: tuple[str, ...]) -> Policy:
    def some(*values: Any, least: int = 0) -> tuple[Any, ...]:
        return tuple(chance.sample(values, chance.randint(least, len(values))))

    statuses = some("UpToDate", "OutOfDate", "SWHardeningNeeded", least=1)
    advisories = chance.choice([("any",), some("INTEL-SA-1", "INTEL-SA-2")])
    measurements = some(A, B, C, _td("aa", "bb", "any", "cc", "any"), _td("aa", "bb", "cc", "cc", "cc"), least=1)
    signers = _signers(*((key, 1, chance.randint(1, 3)) for key in some(A, B)))
    snp = msgspec.structs.replace(
        SNP,
        minimum_svns={**SNP.minimum_svns, "snp": chance.randint(20, 26)},
        guest_features=some("smt", "migration_agent"),
        maximum_privilege_level=chance.randint(0, 3),
        revocation_list=chance.choice(["required", "optional"]),
    )
    return msgspec.structs.replace(
        policy,
        images={name: ImageReference(measurements=measurements, signers=signers) for name in some("x", "y", least=1)},
        tees=some("sgx", "tdx", "snp", least=1),
        trust_roots=some(*roots, least=1),
        tcb_statuses=statuses,
        tcb_grace_days={
            one: chance.randint(1, 90) for one in some("ConfigurationNeeded", "OutOfDate") if one not in statuses
        },
        advisories=advisories,
        denied_advisories=some("INTEL-SA-1", "INTEL-SA-3") if advisories == ("any",) else (),
        minimum_evaluation_number=chance.randint(15, 19),
        platform_features=some("smt", "dynamic_platform", "cached_keys"),
        maximum_collateral_age_hours=chance.choice([24, 48, 720]),
        tdx=chance.choice([None, TdxConditions(attributes=some("pks", "perfmon"))]),
        snp=chance.choice([None, snp]),
    )


def _random_evidence(
    chance: random.Random, verified: VerifiedEvidence, report: VerifiedSnp, roots: tuple[str, ...]
) -> VerifiedEvidence | VerifiedSnp:
    if chance.random() < 0.3:
        return replace(
            report,
            root_key_id=chance.choice(roots),
            measurement=C,
            svns={**report.svns, "snp": chance.randint(20, 26)},
            guest_features=chance.choice([(), ("smt",), ("migration_agent",)]),
            privilege_level=chance.randint(0, 3),
            is_revocation_checked=chance.random() < 0.5,
        )
    is_td = chance.random() < 0.5
    return replace(
        verified,
        tee="tdx" if is_td else "sgx",
        root_key_id=chance.choice(roots),
        measurement=_td("aa", "bb", chance.choice(["cc", "dd"]), "cc", "cc") if is_td else chance.choice([A, B]),
        signer="" if is_td else chance.choice([A, B]),
        product=1,
        svn=chance.randint(0, 3),
        td_attributes=(1 << 28 | chance.choice([0, 1 << 30, 1 << 63])).to_bytes(8, "little") if is_td else b"",
        tcb_status=chance.choice(["UpToDate", "OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"]),
        tcb_date=NOW - timedelta(days=chance.randint(0, 91)),
        advisory_ids=tuple(chance.sample(["INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3"], chance.randint(0, 1))),
        numbers=CollateralNumbers(evaluation=chance.randint(15, 19), pck_crl=1, root_crl=1),
        smt=chance.choice(["True", "False", "Undefined"]),
        collateral_stated=NOW - timedelta(hours=chance.choice([1, 30, 100])),
    )


def _accepts(policy: Policy, evidence: VerifiedEvidence | VerifiedSnp) -> bool:
    return all(finding.is_met for finding in appraise_quote(evidence, policy=policy, now=NOW))


@pytest.mark.parametrize("seed", range(4))
def test_no_evidence_is_accepted_anew_or_no_more_without_a_word(
    seed: int, policy: Policy, verified: VerifiedEvidence
) -> None:
    chance, machine, roots = random.Random(seed), Machine(now=NOW), ("aa" * 48, "bb" * 48)
    report = verify_snp(machine.report(), collateral=machine.bundle(), roots=(machine.root,), now=NOW)
    policies = [_random_policy(chance, policy, roots) for _ in range(30)]
    evidence = [_random_evidence(chance, verified, report, roots) for _ in range(150)]
    accepted = [[_accepts(one, each) for each in evidence] for one in policies]
    differing = 0
    for old, before in zip(policies, accepted, strict=True):
        for new, after in zip(policies, accepted, strict=True):
            changes = compare_policies(old, new=new)
            if any(now and not then for then, now in zip(before, after, strict=True)):
                assert changes.allowed
                differing += 1
            if any(then and not now for then, now in zip(before, after, strict=True)):
                assert changes.refused
    assert differing > 50


# ---------------------------------------------------------------- review


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"tees": ("sgx", "tdx")}, "tees lists tdx and the part tdx is missing"),
        ({"snp": SNP}, "the part snp is stated and tees does not list snp"),
        ({"images": {"vm": ImageReference(measurements=(C,))}}, "of a kind that is not in tees"),
        ({"images": {"x": ImageReference(signers=_signers((A, 1, 2)))}}, "signs as 1, of any domain"),
        ({"images": {"x": ImageReference(measurements=(_td("aa", "any", "any", "any", "any"),))}}, "not judged"),
        ({"tcb_grace_days": {"OutOfDate": 3}}, "platforms with known holes are accepted: OutOfDate"),
        ({"advisories": ("any",)}, "every advisory is accepted"),
        ({"minimum_evaluation_number": 0}, "minimum_evaluation_number is 0"),
        ({}, "is no hardware vendor's: evidence under it is SIMULATED"),
    ],
)
def test_what_an_owner_should_know_is_noted(policy: Policy, fields: dict[str, Any], note: str) -> None:
    assert any(note in one for one in review_policy(msgspec.structs.replace(policy, **fields)))


def test_strict_policy_has_no_note(policy: Policy) -> None:
    assert review_policy(msgspec.structs.replace(policy, trust_roots=(INTEL_ROOT_KEY_ID,))) == ()
