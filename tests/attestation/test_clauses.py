"""Each clause of a policy by itself: what it accepts, and what a refusal says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

import pytest

from ppml_airflow.attestation.clauses import TD_ATTRIBUTES, Finding
from ppml_airflow.attestation.policy import ImageReference, SgxSigner, TdAttribute, TdxConditions
from tests.attestation.conftest import MEASUREMENT, NOW, Appraise, clauses_of

SIGNER = "5e" * 32
OTHER_SIGNER = "07" * 32
SIGNED = {"signer": SIGNER, "product": 3, "svn": 7}


def _signed(*, mr_signer: str = SIGNER, product: int = 3, minimum_svn: int = 7) -> SgxSigner:
    return SgxSigner(mr_signer=mr_signer, product=product, minimum_svn=minimum_svn)


def _images(*signers: SgxSigner, measurements: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"images": {"spark": ImageReference(measurements=measurements, signers=signers)}}


# ---------------------------------------------------------------- by signer


@pytest.mark.parametrize(
    ("signer", "clauses"),
    [
        (_signed(), []),
        (_signed(minimum_svn=6), []),
        (_signed(minimum_svn=8), ["image_svn"]),
        (_signed(product=4), ["measurement"]),
        (_signed(mr_signer=OTHER_SIGNER), ["measurement"]),
    ],
)
def test_enclave_is_accepted_by_its_signer_product_and_minimum_svn(
    judge: Appraise, signer: SgxSigner, clauses: list[str]
) -> None:
    assert clauses_of(judge(evidence=SIGNED, rules=_images(signer))) == clauses


def test_version_that_is_too_low_is_told_as_such(judge: Appraise) -> None:
    (reason,) = judge(evidence=SIGNED, rules=_images(_signed(minimum_svn=9))).reasons
    assert (reason.got, reason.want) == ("svn 7 of product 3", "at least svn 9")


def test_measurement_of_a_signed_image_is_accepted_beside_its_signer(judge: Appraise) -> None:
    rules = _images(_signed(minimum_svn=9), measurements=(MEASUREMENT.hex(),))
    assert clauses_of(judge(evidence=SIGNED, rules=rules)) == []


def test_measurement_alone_accepts_no_other_enclave_of_its_signer(judge: Appraise) -> None:
    rules = _images(measurements=("ee" * 32,))
    assert clauses_of(judge(evidence=SIGNED, rules=rules)) == ["measurement"]


def test_td_is_never_accepted_by_an_sgx_signer(judge: Appraise) -> None:
    evidence = {"tee": "tdx", "signer": "", "product": 0, "svn": 0, "td_attributes": TD}
    rules = {**_images(_signed(product=0, minimum_svn=0)), "tees": ("tdx",), "tdx": TdxConditions(attributes=())}
    assert clauses_of(judge(evidence=evidence, rules=rules)) == ["measurement"]


# ---------------------------------------------------------------- TD attributes

TD = bytes.fromhex("0000001000000000")


def _bits(*bits: int) -> bytes:
    return sum(1 << bit for bit in bits).to_bytes(8, "little")


def _judge_td(judge: Appraise, attributes: bytes, *allowed: TdAttribute) -> list[str]:
    measurement = ":".join(["ab" * 48] * 5)
    evidence = {"tee": "tdx", "measurement": measurement, "td_attributes": attributes}
    rules = {
        "images": {"spark": ImageReference(measurements=(measurement,))},
        "tees": ("tdx",),
        "tdx": TdxConditions(attributes=allowed),
    }
    return clauses_of(judge(evidence=evidence, rules=rules))


@pytest.mark.parametrize(("bit", "name"), TD_ATTRIBUTES.items())
def test_td_attribute_is_refused_unless_listed(judge: Appraise, bit: int, name: TdAttribute) -> None:
    assert _judge_td(judge, _bits(28, bit)) == ["td_attributes"]
    assert _judge_td(judge, _bits(28, bit), name) == []


def test_listed_td_attribute_need_not_be_on(judge: Appraise) -> None:
    assert _judge_td(judge, TD, "migratable", "perfmon") == []


@pytest.mark.parametrize("attributes", [_bits(), _bits(30), b""])
def test_td_without_sept_ve_disable_is_refused_whatever_is_listed(judge: Appraise, attributes: bytes) -> None:
    assert _judge_td(judge, attributes, *TD_ATTRIBUTES.values()) == ["td_attributes"]


@pytest.mark.parametrize("bit", [1, 7, 40, 61])
def test_td_attribute_that_nobody_knows_is_refused_whatever_is_listed(judge: Appraise, bit: int) -> None:
    assert _judge_td(judge, _bits(28, bit), *TD_ATTRIBUTES.values()) == ["td_attributes"]


def test_policy_without_tdx_refuses_every_td(judge: Appraise) -> None:
    result = judge(evidence={"tee": "tdx", "td_attributes": TD}, rules={"tees": ("sgx", "tdx")})
    assert clauses_of(result) == ["tee"]
    assert result.reasons[0].want == "the part tdx in the policy"


def test_every_td_attribute_of_the_policy_has_a_bit() -> None:
    assert set(TD_ATTRIBUTES.values()) == set(get_args(TdAttribute))


# ---------------------------------------------------------------- status, with grace


@pytest.mark.parametrize(
    ("status", "days", "clauses"),
    [
        ("OutOfDate", 31, []),
        ("OutOfDate", 30, ["tcb_status"]),
        ("ConfigurationNeeded", 1000, ["tcb_status"]),
        ("Revoked", 1000, ["tcb_status"]),
    ],
)
def test_status_is_accepted_within_its_grace_only(judge: Appraise, status: str, days: int, clauses: list[str]) -> None:
    evidence = {"tcb_status": status, "tcb_date": NOW - timedelta(days=30)}
    result = judge(evidence=evidence, rules={"tcb_grace_days": {"OutOfDate": days}})
    assert clauses_of(result) == clauses


def test_grace_that_is_over_says_when_it_ended(judge: Appraise) -> None:
    evidence = {"tcb_status": "OutOfDate", "tcb_date": NOW - timedelta(days=30)}
    (reason,) = judge(evidence=evidence, rules={"tcb_grace_days": {"OutOfDate": 10}}).reasons
    assert reason.want == "one of UpToDate, OutOfDate before 2026-11-03T01:02:03Z"


def test_level_dated_in_the_future_gives_no_grace_to_what_has_none(judge: Appraise) -> None:
    evidence = {"tcb_status": "OutOfDate", "tcb_date": NOW + timedelta(days=30)}
    assert clauses_of(judge(evidence=evidence)) == ["tcb_status"]


# ---------------------------------------------------------------- advisories


@pytest.mark.parametrize(
    ("rules", "clauses"),
    [
        ({"advisories": ("any",)}, []),
        ({"advisories": ("any",), "denied_advisories": ("INTEL-SA-00002",)}, []),
        ({"advisories": ("any",), "denied_advisories": ("INTEL-SA-00001",)}, ["advisories"]),
        ({"advisories": ("INTEL-SA-00002",)}, ["advisories"]),
    ],
)
def test_advisory_is_accepted_if_listed_or_not_denied(
    judge: Appraise, rules: dict[str, Any], clauses: list[str]
) -> None:
    assert clauses_of(judge(evidence={"advisory_ids": ("INTEL-SA-00001",)}, rules=rules)) == clauses


# ---------------------------------------------------------------- age


@pytest.mark.parametrize(
    ("seconds", "bound", "clauses"),
    [(0, 60, []), (60, 60, []), (61, 60, ["evidence_age"]), (-1, 60, ["evidence_age"]), (121, None, ["evidence_age"])],
)
def test_evidence_older_than_the_policy_allows_is_refused(
    judge: Appraise, seconds: int, bound: int | None, clauses: list[str]
) -> None:
    rules = {} if bound is None else {"maximum_evidence_age_seconds": bound}
    assert clauses_of(judge(challenged_at=NOW - timedelta(seconds=seconds), rules=rules)) == clauses


@pytest.mark.parametrize(
    ("hours", "bound", "clauses"),
    [
        (0, 24, []),
        (24, 24, []),
        (25, 24, ["collateral_age"]),
        (-1, 24, ["collateral_age"]),
        (721, None, ["collateral_age"]),
    ],
)
def test_collateral_older_than_the_policy_allows_is_refused(
    judge: Appraise, hours: int, bound: int | None, clauses: list[str]
) -> None:
    rules = {} if bound is None else {"maximum_collateral_age_hours": bound}
    assert clauses_of(judge(evidence={"collateral_stated": NOW - timedelta(hours=hours)}, rules=rules)) == clauses


# ---------------------------------------------------------------- refusals


def test_refusal_says_what_was_got_and_wanted() -> None:
    finding = Finding(clause="tcb_status", is_met=False, got="a", want="b", hint="c")
    assert str(finding) == "tcb status: got a, wanted b"
