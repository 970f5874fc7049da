from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import (
    ImageReference,
    Policy,
    SnpConditions,
)
from ppml_airflow.attestation.policy_files import format_policy_file, parse_policy_file
from ppml_airflow.attestation.quotes.appraisal import appraise_quote
from ppml_airflow.attestation.roots import rsa_root_key_id
from ppml_airflow.attestation.snp.verification import VerifiedSnp, verify_snp
from ppml_airflow.attestation.verification import CollateralNumbers, VerifiedEvidence
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from tests.attestation.conftest import NOW
from tests.attestation.snp.machine import MEASUREMENT, SVNS, Machine

MACHINE = Machine(now=NOW)
CONDITIONS = SnpConditions(
    minimum_svns={"bootloader": 4, "tee": 0, "snp": 24, "microcode": 217},
    guest_features=("smt",),
    maximum_privilege_level=0,
    revocation_list="optional",
)


@pytest.fixture(scope="module")
def report() -> VerifiedSnp:
    return verify_snp(MACHINE.report(), collateral=MACHINE.bundle(), roots=(MACHINE.root,), now=NOW)


@pytest.fixture(scope="module")
def snp_policy(policy: Policy) -> Policy:
    return msgspec.structs.replace(
        policy,
        tees=("snp",),
        trust_roots=(rsa_root_key_id(MACHINE.root),),
        images={"vm": ImageReference(measurements=(MEASUREMENT.hex(),))},
        snp=CONDITIONS,
    )


def clauses(verified: VerifiedEvidence | VerifiedSnp, policy: Policy | None) -> list[str]:
    return [one.clause for one in appraise_quote(verified, policy=policy, now=NOW) if not one.is_met]


# ---------------------------------------------------------------- SGX and TDX


def test_good_quote_is_accepted_by_policy_and_by_default(verified: VerifiedEvidence, policy: Policy) -> None:
    assert clauses(verified, policy) == []
    assert clauses(verified, None) == []


@pytest.mark.parametrize(
    ("changed", "by_policy", "by_default"),
    [
        ({"tcb_status": "OutOfDate"}, ["tcb_status"], ["tcb_status"]),
        ({"advisory_ids": ("INTEL-SA-00001",)}, ["advisories"], ["advisories"]),
        ({"is_debug": True}, ["debug"], ["debug"]),
        ({"measurement": "00" * 32}, ["measurement"], []),
        ({"root_key_id": "00" * 48}, ["trust_root"], []),
        ({"tee": "tdx"}, ["tee", "td_attributes"], []),
        ({"smt": "Undefined"}, ["platform_features"], []),
        ({"numbers": CollateralNumbers(evaluation=0, pck_crl=1, root_crl=1)}, ["evaluation_number"], []),
        ({"collateral_expires": NOW}, ["collateral_time"], ["collateral_time"]),
        ({"collateral_issued": NOW + timedelta(days=1)}, ["collateral_time"], ["collateral_time"]),
    ],
)
def test_each_clause_refuses(
    verified: VerifiedEvidence, policy: Policy, changed: dict[str, Any], by_policy: list[str], by_default: list[str]
) -> None:
    other = replace(verified, **changed)
    assert clauses(other, policy) == by_policy
    assert clauses(other, None) == by_default


# ---------------------------------------------------------------- SEV-SNP


def test_good_report_is_accepted_by_policy_and_by_default(report: VerifiedSnp, snp_policy: Policy) -> None:
    assert clauses(report, snp_policy) == []
    assert clauses(report, None) == []


@pytest.mark.parametrize(
    ("changed", "by_policy", "by_default"),
    [
        ({"svns": {**SVNS, "microcode": 216}}, ["minimum_svns"], []),
        ({"svns": SVNS}, ["minimum_svns"], []),
        ({"is_debug": True}, ["debug"], ["debug"]),
        ({"guest_features": ("smt", "migration_agent")}, ["guest_features"], ["guest_features"]),
        ({"privilege_level": 1}, ["privilege_level"], []),
        ({"measurement": "00" * 48}, ["measurement"], []),
        ({"root_key_id": "00" * 48}, ["trust_root"], []),
    ],
)
def test_each_clause_refuses_a_report(
    report: VerifiedSnp, snp_policy: Policy, changed: dict[str, Any], by_policy: list[str], by_default: list[str]
) -> None:
    other = replace(report, svns={name: svn for name, svn in SVNS.items() if name != "fmc"})
    other = replace(other, **changed)
    assert clauses(other, snp_policy) == by_policy
    assert clauses(other, None) == by_default


def test_component_that_is_not_listed_is_refused(report: VerifiedSnp, snp_policy: Policy) -> None:
    one = msgspec.structs.replace(CONDITIONS, minimum_svns={"snp": 1})
    assert clauses(report, msgspec.structs.replace(snp_policy, snp=one)) == ["minimum_svns"]


def test_required_list_that_is_missing_is_refused(report: VerifiedSnp, snp_policy: Policy) -> None:
    strict = msgspec.structs.replace(
        snp_policy, snp=msgspec.structs.replace(CONDITIONS, revocation_list="required", guest_features=())
    )
    assert clauses(report, strict) == ["guest_features", "revocation_list"]


def test_policy_without_snp_refuses_every_report(report: VerifiedSnp, snp_policy: Policy, policy: Policy) -> None:
    assert clauses(report, msgspec.structs.replace(snp_policy, snp=None)) == ["tee"]
    assert clauses(report, policy) == ["trust_root", "tee", "measurement"]


# ---------------------------------------------------------------- the document


def test_policy_without_snp_has_the_encoding_that_it_always_had(policy: Policy) -> None:
    assert b'"snp"' not in canonical.encode(policy)
    assert canonical.decode(canonical.encode(policy), into=Policy) == policy


def test_null_is_no_second_encoding_of_absence(policy: Policy) -> None:
    fields = {**msgspec.to_builtins(policy), "snp": None}
    with pytest.raises(MalformedInputError) as caught:
        canonical.decode(canonical.encode(fields), into=Policy)
    assert caught.value.code == "not_canonical"


def test_policy_file_with_snp_reads_as_the_same_policy(snp_policy: Policy) -> None:
    assert parse_policy_file(format_policy_file(snp_policy), domain_id=snp_policy.domain_id) == snp_policy


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("revocation_list: optional", "revocation_list: none"),
        lambda text: text.replace("  maximum_privilege_level: 0\n", ""),
        lambda text: text.replace("microcode: 217", "microcode: 256"),
        lambda text: text.replace("microcode: 217", "firmware: 1"),
    ],
)
def test_snp_that_is_not_whole_is_refused(snp_policy: Policy, change: Callable[[str], str]) -> None:
    text = change(format_policy_file(snp_policy))
    assert text != format_policy_file(snp_policy)
    with pytest.raises(ConfigurationError, match="snp"):
        parse_policy_file(text, domain_id=snp_policy.domain_id)


def test_conditions_that_list_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no minimum_svns"):
        msgspec.structs.replace(CONDITIONS, minimum_svns={})
    with pytest.raises(ValueError, match="twice in guest_features"):
        msgspec.structs.replace(CONDITIONS, guest_features=("smt", "smt"))
