"""A quote or report as people hand it over: raw, hex or base64, with or without bytes after its end.

Says which kind of TEE the bytes claim to come from, and nothing about whether that is so.
"""

from __future__ import annotations

import base64
import binascii
import re

from ppml_airflow.attestation.evidence import MAX_QUOTE_BYTES, JudgedTee
from ppml_airflow.errors import MalformedInputError

MAX_TEXT_BYTES = 4 * MAX_QUOTE_BYTES
"""Of a file: hex needs two characters a byte, and line ends."""

_DCAP_TEES: dict[int, JudgedTee] = {0: "sgx", 0x81: "tdx"}
_DCAP_VERSIONS = range(3, 6)
_SNP_VERSIONS = range(2, 6)
_AZURE_MAGIC = b"HCLA"
_AZURE_HEADER_BYTES = 32


def parse_quote_file(data: bytes) -> tuple[JudgedTee, bytes]:
    """Decode a file into a quote and the kind of TEE that it claims.

    An Azure HCL blob is read as the SEV-SNP report in it.

    Raises:
        MalformedInputError: too long, or no known kind of quote.
    """
    quote = _decode(data)
    if len(quote) > MAX_QUOTE_BYTES:
        raise MalformedInputError(f"quote has {len(quote)} bytes; at most {MAX_QUOTE_BYTES} are read")
    if quote.startswith(_AZURE_MAGIC):
        quote = quote[_AZURE_HEADER_BYTES:]
    version, rest = int.from_bytes(quote[:2], "little"), int.from_bytes(quote[2:4], "little")
    if len(quote) >= 8 and rest == 0 and version in _SNP_VERSIONS:
        return "snp", quote
    tee = _DCAP_TEES.get(int.from_bytes(quote[4:8], "little"))
    if len(quote) >= 8 and version in _DCAP_VERSIONS and tee is not None:
        return tee, quote
    raise MalformedInputError(
        f"quote starts with {quote[:8].hex() or 'nothing'}, which no SGX, TDX or SEV-SNP quote does",
        code="quote_malformed",
        hint="give a quote of SGX v3, TDX v4 or v5, or an SEV-SNP report: raw, hex or base64",
    )


def _decode(data: bytes) -> bytes:
    text = re.sub(rb"\s+", b"", data)
    hexadecimal = text[2:] if text[:2] in (b"0x", b"0X") else text
    if re.fullmatch(rb"([0-9a-fA-F]{2})+", hexadecimal):
        return bytes.fromhex(hexadecimal.decode())
    if re.fullmatch(rb"[A-Za-z0-9+/_-]+={0,2}", text):
        unpadded = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)
        except binascii.Error as error:
            raise MalformedInputError(f"quote is not base64: {error}", code="quote_malformed") from error
    return data
