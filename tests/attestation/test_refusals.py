from __future__ import annotations

import pytest

from ppml_airflow.attestation.refusals import CHAIN, TABLE, explain, refusal
from ppml_airflow.attestation.roots import INTEL_ROOT
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.errors import MalformedInputError, VerificationError
from tests.attestation.conftest import NOW


@pytest.mark.parametrize(("text", "code", "hint"), TABLE)
def test_each_text_of_the_table_has_its_code(text: str, code: str, hint: str) -> None:
    error = refusal(f"Verification failed: {text}: and more")
    assert (error.code, error.hint) == (code, hint)
    assert isinstance(error, MalformedInputError if code.endswith("malformed") else VerificationError)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Failed to parse TCB Info leaf certificate", "collateral_malformed"),
        ("Unknown QE vendor ID", "quote_unsupported"),
        ("CrlExpired { time: UnixTime(2), next_update: UnixTime(1) }", "collateral_expired"),
        ("CertRevoked", CHAIN),
        ("BadDer", "evidence_refused"),
        ("TDX module identity check failed", "tdx_module"),
        ("Invalid mr service td", "service_td"),
        ("QE ISVSVN 8 is below minimum required 9 from QE Identity", "quoting_enclave"),
    ],
)
def test_longer_texts_are_read_by_their_first_entry(text: str, code: str) -> None:
    assert refusal(text).code == code


def test_text_that_nobody_knows_is_a_refusal_all_the_same() -> None:
    error = refusal("all is well, really")
    assert isinstance(error, VerificationError)
    assert error.code == "evidence_refused"


def test_long_text_is_cut() -> None:
    assert len(str(refusal("x" * 10_000))) < 400


@pytest.mark.parametrize("quote", [b"", b"\x03\x00", bytes(5000)])
def test_explaining_a_quote_that_does_not_parse_changes_nothing(quote: bytes) -> None:
    error = refusal("CertRevoked")
    assert explain(error, quote=quote, collateral=b"{}", roots=(INTEL_ROOT,), now=NOW) is error


def test_explaining_with_collateral_that_does_not_parse_changes_nothing(
    quote: bytes, platform: SimulatedPlatform
) -> None:
    error = refusal("CertRevoked")
    assert explain(error, quote=quote, collateral=b"{}", roots=(platform.root,), now=NOW) is error
