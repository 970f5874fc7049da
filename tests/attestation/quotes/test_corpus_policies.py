"""Policies by signer, TD attributes and grace, on quotes of real machines. Read through PPML_CORPUS."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ppml_airflow.attestation.evidence import Evidence, Tee
from ppml_airflow.attestation.policy import ImageReference, Policy, SgxSigner, TdxConditions
from ppml_airflow.attestation.policy_files import NO_DOMAIN, format_policy_file, parse_policy_file
from ppml_airflow.attestation.quotes.appraisal import appraise_quote
from ppml_airflow.attestation.roots import INTEL_ROOT, INTEL_ROOT_KEY_ID
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence

MR_SIGNER = "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"
STATUS = "ConfigurationAndSWHardeningNeeded"
EVERY_FEATURE = ("smt", "dynamic_platform", "cached_keys")

Verified = tuple[VerifiedEvidence, datetime]


@pytest.fixture(scope="module")
def recorded(corpus: Path) -> Callable[[str, str, Tee], Verified]:
    def verify(stem: str, day: str, tee: Tee) -> Verified:
        with (corpus / "index.csv").open() as lines:
            row = next(row for row in csv.DictReader(lines) if stem in row["file"] and day in row["collateral"])
        now = datetime.fromisoformat(row["valid_at"])
        evidence = Evidence(tee=tee, quote=(corpus / row["file"]).read_bytes())
        collateral = (corpus / row["collateral"]).read_bytes()
        return verify_evidence(evidence, collateral=collateral, roots=(INTEL_ROOT,), now=now), now

    return verify


@pytest.fixture(scope="module")
def sgx(recorded: Callable[[str, str, Tee], Verified]) -> Verified:
    return recorded("quote_f8b81014b6", "2025-06-19", "sgx")


@pytest.fixture(scope="module")
def td(recorded: Callable[[str, str, Tee], Verified]) -> Verified:
    return recorded("quote_c42f916432", "2026-03-01", "tdx")


def _policy(**fields: Any) -> Policy:
    policy = Policy(
        domain_id=NO_DOMAIN,
        name="real",
        version=1,
        images={"hello": ImageReference(signers=(SgxSigner(mr_signer=MR_SIGNER, product=0, minimum_svn=0),))},
        tees=("sgx", "tdx"),
        trust_roots=(INTEL_ROOT_KEY_ID,),
        tcb_statuses=("UpToDate",),
        advisories=(),
        minimum_evaluation_number=17,
        platform_features=EVERY_FEATURE,
    )
    changed = msgspec.structs.replace(policy, **fields)
    return parse_policy_file(format_policy_file(changed), domain_id=NO_DOMAIN)


def _refused(verified: Verified, policy: Policy) -> dict[str, str]:
    evidence, now = verified
    findings = appraise_quote(evidence, policy=policy, now=now)
    return {one.clause: one.got for one in findings if not one.is_met}


def _lenient(**fields: Any) -> Policy:
    return _policy(tcb_statuses=("UpToDate", STATUS), advisories=("INTEL-SA-00289", "INTEL-SA-00615"), **fields)


def _by_signer(**fields: Any) -> dict[str, ImageReference]:
    signer = SgxSigner(mr_signer=MR_SIGNER, product=0, minimum_svn=0)
    return {"hello": ImageReference(signers=(msgspec.structs.replace(signer, **fields),))}


# ---------------------------------------------------------------- SGX by signer


def test_real_enclave_is_accepted_by_its_signer(sgx: Verified) -> None:
    assert _refused(sgx, _lenient()) == {}


@pytest.mark.parametrize(
    ("changed", "clause"),
    [({"minimum_svn": 1}, "image_svn"), ({"product": 1}, "measurement"), ({"mr_signer": "00" * 32}, "measurement")],
)
def test_real_enclave_of_another_signer_product_or_version_is_refused(
    sgx: Verified, changed: dict[str, Any], clause: str
) -> None:
    assert list(_refused(sgx, _lenient(images=_by_signer(**changed)))) == [clause]


def test_real_enclave_is_accepted_while_two_builds_are_rolled_out(sgx: Verified) -> None:
    measurement = sgx[0].measurement
    images = {"hello": ImageReference(measurements=("00" * 32, measurement))}
    assert _refused(sgx, _lenient(images=images)) == {}


def test_real_enclave_is_refused_by_every_clause_that_it_does_not_meet(sgx: Verified) -> None:
    strict = _policy(platform_features=(), minimum_evaluation_number=18, maximum_collateral_age_hours=1)
    assert list(_refused(sgx, strict)) == [
        "tcb_status",
        "advisories",
        "evaluation_number",
        "platform_features",
        "collateral_age",
    ]


def test_any_advisory_but_the_denied_ones_is_accepted_of_a_real_platform(sgx: Verified) -> None:
    statuses = ("UpToDate", STATUS)
    assert _refused(sgx, _policy(tcb_statuses=statuses, advisories=("any",))) == {}
    denied = _policy(tcb_statuses=statuses, advisories=("any",), denied_advisories=("INTEL-SA-00289",))
    assert _refused(sgx, denied) == {"advisories": "INTEL-SA-00289"}


# ---------------------------------------------------------------- TDX


def _td_policy(td: Verified, **fields: Any) -> Policy:
    images = {"vm": ImageReference(measurements=(td[0].measurement,))}
    return _policy(**{"images": images, "tdx": TdxConditions(attributes=()), **fields})


def test_real_td_is_accepted_by_its_registers_and_attributes(td: Verified) -> None:
    assert _refused(td, _td_policy(td)) == {}


def test_real_td_is_accepted_with_registers_that_are_not_judged(td: Verified) -> None:
    mr_td, *registers = td[0].measurement.split(":")
    images = {"vm": ImageReference(measurements=(":".join([mr_td, registers[0], "any", "any", registers[3]]),))}
    assert _refused(td, _td_policy(td, images=images)) == {}


@pytest.mark.parametrize("register", range(5))
def test_real_td_with_another_register_is_refused(td: Verified, register: int) -> None:
    registers = td[0].measurement.split(":")
    registers[register] = "00" * 48 if register < 4 else "01" * 48
    images = {"vm": ImageReference(measurements=(":".join(registers),))}
    assert list(_refused(td, _td_policy(td, images=images))) == ["measurement"]


def test_real_td_is_refused_by_a_policy_that_states_nothing_of_tds(td: Verified) -> None:
    assert "tee" in _refused(td, _td_policy(td, tdx=None))


def test_real_td_out_of_date_is_accepted_within_its_grace_only(recorded: Callable[[str, str, Tee], Verified]) -> None:
    old = recorded("quote_c42f916432", "2026-08-13", "tdx")
    evidence, now = old
    assert evidence.tcb_status == "OutOfDate"
    age = (now - evidence.tcb_date) // timedelta(days=1)
    for days, clauses in ((age, ["tcb_status"]), (age + 1, [])):
        policy = _td_policy(old, advisories=("any",), tcb_grace_days={"OutOfDate": days})
        assert list(_refused(old, policy)) == clauses
