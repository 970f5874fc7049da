from __future__ import annotations

import base64

import pytest

from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES
from ppml_airflow.attestation.quotes.files import parse_quote_file
from ppml_airflow.errors import MalformedInputError

SGX = bytes.fromhex("0300020000000000") + bytes(range(56))
TDX = bytes.fromhex("0500020081000000") + bytes(range(57))
SNP = bytes.fromhex("0300000000000000") + bytes(range(58))


@pytest.mark.parametrize(("tee", "quote"), [("sgx", SGX), ("tdx", TDX), ("snp", SNP)])
def test_quote_is_read_raw_as_hex_and_as_base64(tee: str, quote: bytes) -> None:
    lines = base64.encodebytes(quote)
    for written in (
        quote,
        quote.hex().encode(),
        b"0x" + quote.hex().upper().encode() + b"\n",
        base64.b64encode(quote),
        base64.urlsafe_b64encode(quote).rstrip(b"="),
        lines,
    ):
        assert parse_quote_file(written) == (tee, quote)


def test_azure_blob_is_read_as_the_report_in_it() -> None:
    assert parse_quote_file(b"HCLA" + bytes(28) + SNP) == ("snp", SNP)


@pytest.mark.parametrize("data", [b"", b"\x03", b"hello", b"a", b"!!", bytes(2000), bytes.fromhex("0400020001000000")])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInputError) as caught:
        parse_quote_file(data)
    assert caught.value.code == "quote_malformed"


def test_quote_that_is_too_long_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="at most"):
        parse_quote_file(SGX.ljust(MAX_QUOTE_BYTES + 1, b"\0"))
