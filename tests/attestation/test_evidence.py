from __future__ import annotations

import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES, Evidence
from ppml_airflow.errors import MalformedInputError


def test_evidence_comes_back_as_it_was_sent() -> None:
    evidence = Evidence(tee="sgx", quote=b"quote")
    assert canonical.decode(canonical.encode(evidence), into=Evidence) == evidence


@pytest.mark.parametrize("tee", ["SGX", "sample", "snp", ""])
def test_evidence_of_an_unknown_tee_is_refused(tee: str) -> None:
    with pytest.raises(MalformedInputError):
        canonical.convert({"tee": tee, "quote": ""}, into=Evidence)


def test_quote_longer_than_the_bound_does_not_decode() -> None:
    evidence = Evidence(tee="sgx", quote=bytes(MAX_QUOTE_BYTES + 1))
    with pytest.raises(MalformedInputError, match="length"):
        canonical.decode(canonical.encode(evidence), into=Evidence)
