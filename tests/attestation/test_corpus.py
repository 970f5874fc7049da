"""Recorded quotes of real machines, at the time of their collateral, under Intel's root. Read through PPML_CORPUS."""

from __future__ import annotations

import csv
import random
from datetime import datetime
from pathlib import Path

import pytest

from ppml_airflow.attestation.appraisal import appraise
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import ImageReference, Policy
from ppml_airflow.attestation.roots import INTEL_ROOT, INTEL_ROOT_KEY_ID
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import NOTHING_SEEN, VerifiedEvidence, verify_evidence
from ppml_airflow.errors import VerificationError
from tests.attestation.conftest import NOW
from tests.attestation.mutations import Good, judge_mutations
from tests.attestation.reading import judge

SGX = "Phala-Network+dcap-qvl/quote_f8b81014b6.bin"

GOOD = [
    (SGX, "2025-06-19", "ConfigurationAndSWHardeningNeeded", "INTEL-SA-00289 INTEL-SA-00615"),
    ("Phala-Network+dcap-qvl/quote_c42f916432.bin", "2025-06-19", "UpToDate", ""),
    ("Phala-Network+dcap-qvl/quote_c42f916432.bin", "2026-03-01", "UpToDate", ""),
    (
        "Phala-Network+dcap-qvl/quote_c42f916432.bin",
        "2026-08-13",
        "OutOfDate",
        "INTEL-SA-01192 INTEL-SA-01245 INTEL-SA-01312 INTEL-SA-01313",
    ),
    ("google+go-tdx-guest/quote_54334c81b4.bin", "2025-02-13", "UpToDate", ""),
    ("google+go-tdx-guest/quote_cf77a6e91e.bin", "2026-02-18", "UpToDate", ""),
    ("confidential-containers+trustee/quote_62657e5976.bin", "2025-10-27", "OutOfDate", ""),
]
BAD = [
    ("confidential-containers+trustee/quote_77bcbdfa9c.bin", "2025-08-15", "debug_enclave"),
    ("confidential-containers+trustee/quote_12b401a88a.bin", "2023-06-18", "debug_enclave"),
    ("confidential-containers+trustee/quote_a2c43c6937.bin", "2025-02-13", "sept_ve_disable"),
    ("Phala-Network+dcap-qvl/quote_219cafdecd.bin", "2025-06-19", "tcb_level_unknown"),
]


def _recorded(corpus: Path, file: str, day: str) -> tuple[Evidence, bytes, datetime]:
    with (corpus / "index.csv").open() as lines:
        row = next(row for row in csv.DictReader(lines) if row["file"] == file and day in row["collateral"])
    tee = "sgx" if row["kind"].startswith("SGX") else "tdx"
    evidence = Evidence(tee=tee, quote=(corpus / file).read_bytes())
    return evidence, (corpus / row["collateral"]).read_bytes(), datetime.fromisoformat(row["valid_at"])


def _verify(corpus: Path, file: str, day: str) -> VerifiedEvidence:
    evidence, collateral, now = _recorded(corpus, file, day)
    return verify_evidence(evidence, collateral=collateral, roots=(INTEL_ROOT,), now=now)


@pytest.mark.parametrize(("file", "day", "status", "advisories"), GOOD)
def test_real_quote_verifies_as_hardware(corpus: Path, file: str, day: str, status: str, advisories: str) -> None:
    verified = _verify(corpus, file, day)
    assert (verified.trust, verified.root_key_id) == ("hardware", INTEL_ROOT_KEY_ID)
    assert (verified.tcb_status, verified.advisory_ids) == (status, tuple(advisories.split()))
    assert len(verified.measurement) == (64 if verified.tee == "sgx" else 5 * 96 + 4)


@pytest.mark.parametrize(("file", "day", "code"), BAD)
def test_real_quote_that_is_not_good_is_refused(corpus: Path, file: str, day: str, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        _verify(corpus, file, day)
    assert caught.value.code == code


def test_both_readings_agree_on_a_real_sgx_quote(corpus: Path) -> None:
    evidence, collateral, now = _recorded(corpus, SGX, "2025-06-19")
    verdict = judge(evidence.quote, collateral=collateral, root=INTEL_ROOT.certificate, now=now)
    verified = verify_evidence(evidence, collateral=collateral, roots=(INTEL_ROOT,), now=now)
    assert verdict.body.mr_enclave.hex() == verified.measurement
    assert verdict.body.mr_signer.hex() == verified.signer
    assert verdict.body.report_data == verified.report_data
    assert (verdict.status, verdict.advisories) == (verified.tcb_status, verified.advisory_ids)
    assert verdict.root_key_id == verified.root_key_id


def test_real_quote_today_is_refused_because_its_collateral_expired(corpus: Path) -> None:
    evidence, collateral, _ = _recorded(corpus, SGX, "2025-06-19")
    with pytest.raises(VerificationError) as caught:
        verify_evidence(evidence, collateral=collateral, roots=(INTEL_ROOT,), now=NOW)
    assert caught.value.code == "collateral_expired"


def test_real_quote_under_a_simulated_root_is_refused(corpus: Path, platform: SimulatedPlatform) -> None:
    evidence, collateral, now = _recorded(corpus, SGX, "2025-06-19")
    with pytest.raises(VerificationError) as caught:
        verify_evidence(evidence, collateral=collateral, roots=(platform.root,), now=now)
    assert caught.value.code == "untrusted_root"


def test_real_evidence_is_appraised_by_the_same_clauses(corpus: Path) -> None:
    verified = _verify(corpus, SGX, "2025-06-19")
    policy = Policy(
        domain_id="sha256:" + "0" * 64,
        name="real",
        version=1,
        images={"hello": ImageReference(measurements=(verified.measurement,))},
        tees=("sgx",),
        trust_roots=(INTEL_ROOT_KEY_ID,),
        tcb_statuses=("UpToDate",),
        advisories=("INTEL-SA-00615",),
        minimum_evaluation_number=17,
        platform_features=(),
    )
    result = appraise(
        verified,
        policy=policy,
        image="hello",
        expected_report_data=b"Hello, world!".ljust(64, b"\0"),
        domain_trust="hardware",
        challenged_at=verified.collateral_issued,
        seen=NOTHING_SEEN,
        now=verified.collateral_issued,
    )
    assert result.trust == "hardware"
    assert [reason.clause for reason in result.reasons] == ["tcb_status", "advisories", "platform_features"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 25))])
@pytest.mark.parametrize(("file", "day", "status", "advisories"), GOOD[:2] + GOOD[5:6])
def test_no_mutated_real_quote_is_accepted_with_other_claims(
    corpus: Path, file: str, day: str, status: str, advisories: str, seed: int
) -> None:
    evidence, collateral, now = _recorded(corpus, file, day)
    good = Good(tee=evidence.tee, quote=evidence.quote, collateral=collateral, root=INTEL_ROOT, now=now)
    assert judge_mutations(good, count=100, chance=random.Random(seed)) > 70
