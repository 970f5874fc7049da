from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ppml_airflow.attestation.appraisal import AttestationResult, appraise
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import ImageReference, Policy
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import NOTHING_SEEN, VerifiedEvidence, verify_evidence

NOW = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
MEASUREMENT = bytes(range(32))
REPORT_DATA = bytes(range(64))


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("platform") / "tee", now=NOW)


@pytest.fixture(scope="session")
def other_platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("other") / "tee", now=NOW)


@pytest.fixture(scope="session")
def quote(platform: SimulatedPlatform) -> bytes:
    return platform.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA)


@pytest.fixture(scope="session")
def collateral(platform: SimulatedPlatform) -> bytes:
    return platform.collateral(NOW)


@pytest.fixture(scope="session")
def verify(platform: SimulatedPlatform, quote: bytes, collateral: bytes) -> Callable[..., VerifiedEvidence]:
    """Verify the good quote, or with one thing changed."""

    def verify_changed(**changed: Any) -> VerifiedEvidence:
        evidence = Evidence(tee=changed.pop("tee", "sgx"), quote=changed.pop("quote", quote))
        return verify_evidence(evidence, **{"collateral": collateral, "roots": (platform.root,), "now": NOW, **changed})

    return verify_changed


@pytest.fixture(scope="session")
def verified(verify: Callable[..., VerifiedEvidence]) -> VerifiedEvidence:
    return verify()


@pytest.fixture(scope="session")
def policy(platform: SimulatedPlatform) -> Policy:
    return Policy(
        domain_id="sha256:" + "0" * 64,
        name="nightly",
        version=1,
        images={"spark": ImageReference(measurements=(MEASUREMENT.hex(),))},
        tees=("sgx",),
        trust_roots=(platform.root.key_id,),
        tcb_statuses=("UpToDate",),
        advisories=(),
        minimum_evaluation_number=1,
        platform_features=(),
    )


Appraise = Callable[..., AttestationResult]


@pytest.fixture
def judge(verified: VerifiedEvidence, policy: Policy) -> Appraise:
    """Appraise good evidence under a good policy, or with one thing changed."""

    def judge_changed(
        *, evidence: dict[str, Any] | None = None, rules: dict[str, Any] | None = None, **changed: Any
    ) -> AttestationResult:
        arguments: dict[str, Any] = {
            "policy": msgspec.structs.replace(policy, **(rules or {})),
            "image": "spark",
            "expected_report_data": REPORT_DATA,
            "domain_trust": "simulated",
            "challenged_at": NOW,
            "seen": NOTHING_SEEN,
            "now": NOW,
            **changed,
        }
        return appraise(replace(verified, **(evidence or {})), **arguments)

    return judge_changed


def clauses_of(result: AttestationResult) -> list[str]:
    assert result.verdict == ("refused" if result.reasons else "accepted")
    for reason in result.reasons:
        assert reason.got, reason
        assert reason.want, reason
        assert reason.hint, reason
    return [reason.clause for reason in result.reasons]


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Recorded quotes of real machines."""
    folder = os.environ.get("PPML_CORPUS")
    if not folder:
        pytest.skip("PPML_CORPUS names no folder of recorded quotes")
    return Path(folder)
