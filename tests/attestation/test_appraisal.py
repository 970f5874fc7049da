from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import pytest

from ppml_airflow.attestation.appraisal import AttestationResult, appraise, require_accepted
from ppml_airflow.attestation.clauses import Finding
from ppml_airflow.attestation.policy import ImageReference, Policy, TdxConditions
from ppml_airflow.attestation.report_data import nonce_for, public_jwk, report_data
from ppml_airflow.attestation.roots import INTEL_ROOT_KEY_ID
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from ppml_airflow.attestation.verification import NOTHING_SEEN, VerifiedEvidence
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.signing import SigningKey
from tests.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA, Appraise, clauses_of


def test_good_evidence_is_accepted(judge: Appraise) -> None:
    result = judge()
    assert (result.verdict, result.reasons) == ("accepted", ())
    assert result.trust == "simulated"
    require_accepted(result)


# ---------------------------------------------------------------- S8: simulation never passes for hardware


def test_simulated_evidence_under_a_hardware_domain_is_refused(judge: Appraise) -> None:
    assert clauses_of(judge(domain_trust="hardware")) == ["trust"]


def test_simulated_evidence_under_a_policy_for_intels_root_is_refused(judge: Appraise) -> None:
    result = judge(domain_trust="hardware", rules={"trust_roots": (INTEL_ROOT_KEY_ID,)})
    assert clauses_of(result) == ["trust", "trust_root"]
    assert result.trust == "simulated"


def test_hardware_evidence_under_a_simulated_domain_is_refused(judge: Appraise) -> None:
    changed = {"trust": "hardware", "root_key_id": INTEL_ROOT_KEY_ID}
    assert clauses_of(judge(evidence=changed, rules={"trust_roots": (INTEL_ROOT_KEY_ID,)})) == ["trust"]


def test_another_installations_root_is_refused(judge: Appraise, other_platform: SimulatedPlatform) -> None:
    assert clauses_of(judge(evidence={"root_key_id": other_platform.root.key_id})) == ["trust_root"]


# ---------------------------------------------------------------- which enclave


def test_measurement_that_is_not_in_the_policy_is_refused(
    verify: Callable[..., VerifiedEvidence], platform: SimulatedPlatform, policy: Policy
) -> None:
    changed_image = bytes([MEASUREMENT[0] ^ 1]) + MEASUREMENT[1:]
    verified = verify(quote=platform.quote_sgx(measurement=changed_image, report_data=REPORT_DATA))
    result = appraise(
        verified,
        policy=policy,
        image="spark",
        expected_report_data=REPORT_DATA,
        domain_trust="simulated",
        challenged_at=NOW,
        seen=NOTHING_SEEN,
        now=NOW,
    )
    assert clauses_of(result) == ["measurement"]
    assert result.reasons[0].got == changed_image.hex()
    assert result.reasons[0].want == MEASUREMENT.hex()


def test_measurement_of_another_image_of_the_policy_is_refused(judge: Appraise, policy: Policy) -> None:
    images = {**policy.images, "inference": ImageReference(measurements=("ee" * 32,))}
    assert clauses_of(judge(rules={"images": images})) == []
    assert clauses_of(judge(rules={"images": images}, image="inference")) == ["measurement"]


def test_image_that_the_policy_does_not_name_is_refused(judge: Appraise) -> None:
    assert clauses_of(judge(image="flink")) == ["image"]


def test_second_measurement_of_an_image_is_accepted_too(judge: Appraise) -> None:
    images = {"spark": ImageReference(measurements=("ee" * 32, MEASUREMENT.hex()))}
    assert clauses_of(judge(rules={"images": images})) == []


def test_tee_that_the_policy_does_not_list_is_refused(judge: Appraise) -> None:
    assert clauses_of(judge(rules={"tees": ("tdx",)})) == ["tee"]


def test_debug_enclave_is_refused_whatever_the_policy_says(judge: Appraise) -> None:
    assert clauses_of(judge(evidence={"is_debug": True})) == ["debug"]


@pytest.mark.parametrize(
    ("allowed", "clauses"),
    [
        ("aa:bb:cc:dd:ee", []),
        ("aa:bb:any:dd:any", []),
        ("aa:bb:cc:dd:ef", ["measurement"]),
        ("ab:any:any:any:any", ["measurement"]),
        ("aa", ["measurement"]),
    ],
)
def test_td_is_compared_register_by_register(judge: Appraise, allowed: str, clauses: list[str]) -> None:
    images = {"spark": ImageReference(measurements=(_registers(allowed),))}
    evidence = {
        "tee": "tdx",
        "measurement": _registers("aa:bb:cc:dd:ee"),
        "td_attributes": bytes.fromhex("0000001000000000"),
    }
    rules = {"images": images, "tees": ("tdx",), "tdx": TdxConditions(attributes=())}
    assert clauses_of(judge(evidence=evidence, rules=rules)) == clauses


def _registers(short: str) -> str:
    return ":".join(part if part == "any" else part * 48 for part in short.split(":"))


# ---------------------------------------------------------------- S3: fresh, and for this job


def test_report_data_of_another_nonce_is_refused(
    verify: Callable[..., VerifiedEvidence], platform: SimulatedPlatform, policy: Policy
) -> None:
    jwk = public_jwk(SigningKey.generate(scheme="p256").public)
    binding = "sha256:" + "ab" * 32
    ours, theirs = (
        report_data(nonce=nonce_for(salt=salt, binding_digest=binding), tee_pubkey=jwk)
        for salt in (bytes(32), bytes(31) + b"\1")
    )
    verified = verify(quote=platform.quote_sgx(measurement=MEASUREMENT, report_data=ours))
    for expected, clauses in ((ours, []), (theirs, ["report_data"])):
        result = appraise(
            verified,
            policy=policy,
            image="spark",
            expected_report_data=expected,
            domain_trust="simulated",
            challenged_at=NOW,
            seen=NOTHING_SEEN,
            now=NOW,
        )
        assert clauses_of(result) == clauses


@pytest.mark.parametrize("expected", [b"", REPORT_DATA[:48], REPORT_DATA + b"\0"])
def test_expected_report_data_of_another_length_is_refused_not_padded(judge: Appraise, expected: bytes) -> None:
    with pytest.raises(ConfigurationError, match="wanted 64"):
        judge(expected_report_data=expected)


# ---------------------------------------------------------------- which platform


def test_platform_that_is_out_of_date_is_refused(
    verify: Callable[..., VerifiedEvidence], platform: SimulatedPlatform, policy: Policy
) -> None:
    conditions = Conditions(tcb_status="OutOfDate", advisories=("INTEL-SA-00615", "INTEL-SA-00001"))
    verified = verify(collateral=platform.collateral(NOW, conditions=conditions))
    accepting = msgspec.structs.replace(
        policy, tcb_statuses=("UpToDate", "OutOfDate"), advisories=("INTEL-SA-00001", "INTEL-SA-00615")
    )
    for rules, clauses in ((policy, ["tcb_status", "advisories"]), (accepting, [])):
        result = appraise(
            verified,
            policy=rules,
            image="spark",
            expected_report_data=REPORT_DATA,
            domain_trust="simulated",
            challenged_at=NOW,
            seen=NOTHING_SEEN,
            now=NOW,
        )
        assert clauses_of(result) == clauses


def test_status_that_nobody_knows_is_refused(judge: Appraise) -> None:
    assert clauses_of(judge(evidence={"tcb_status": "Splendid"})) == ["tcb_status"]


def test_only_the_advisories_that_are_not_accepted_are_named(judge: Appraise) -> None:
    evidence = {"advisory_ids": ("INTEL-SA-00001", "INTEL-SA-00615")}
    result = judge(evidence=evidence, rules={"advisories": ("INTEL-SA-00615",)})
    assert clauses_of(result) == ["advisories"]
    assert result.reasons[0].got == "INTEL-SA-00001"


@pytest.mark.parametrize("feature", ["smt", "dynamic_platform", "cached_keys"])
@pytest.mark.parametrize("flag", ["True", "Undefined"])
def test_feature_that_is_on_or_undefined_is_refused_unless_listed(judge: Appraise, feature: str, flag: str) -> None:
    assert clauses_of(judge(evidence={feature: flag})) == ["platform_features"]
    assert clauses_of(judge(evidence={feature: flag}, rules={"platform_features": (feature,)})) == []


def test_collateral_older_than_the_policy_asks_for_is_refused(judge: Appraise) -> None:
    assert clauses_of(judge(rules={"minimum_evaluation_number": 2})) == ["evaluation_number"]


@pytest.mark.parametrize("later", [timedelta(seconds=-1), timedelta(days=30)])
def test_evidence_verified_at_another_time_than_appraised_is_refused(judge: Appraise, later: timedelta) -> None:
    result = judge(now=NOW + later, challenged_at=NOW + later)
    assert clauses_of(result)[0] == "collateral_time"


def test_naive_time_is_refused(judge: Appraise) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        judge(now=datetime(2026, 11, 23))  # noqa: DTZ001  # the point of the test


# ---------------------------------------------------------------- the result


def test_every_clause_that_fails_is_told_at_once(judge: Appraise) -> None:
    result = judge(
        domain_trust="hardware",
        image="flink",
        expected_report_data=bytes(64),
        evidence={"is_debug": True, "tcb_status": "OutOfDate"},
    )
    assert clauses_of(result) == ["trust", "debug", "image", "report_data", "tcb_status"]
    with pytest.raises(PolicyDeniedError) as caught:
        require_accepted(result)
    assert caught.value.code == "attestation_trust"
    assert caught.value.hint == result.reasons[0].hint
    assert "tcb status: got OutOfDate, wanted UpToDate" in caught.value.message


def test_result_has_no_truth_value(judge: Appraise) -> None:
    with pytest.raises(TypeError, match="no truth value"):
        bool(judge())


def test_result_cannot_contradict_its_reasons() -> None:
    reason = Finding(clause="tee", is_met=False, got="a", want="b", hint="c")
    with pytest.raises(ValueError, match="accepted with 1 reasons"):
        AttestationResult(verdict="accepted", trust="simulated", reasons=(reason,))
    with pytest.raises(ValueError, match="refused with 0 reasons"):
        AttestationResult(verdict="refused", trust="simulated", reasons=())
