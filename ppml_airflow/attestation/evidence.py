"""Evidence: what an enclave shows of itself. Untrusted bytes until `verification` has judged them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ppml_airflow.canonical import Document
from ppml_airflow.units import KIB

Tee = Literal["sgx", "tdx"]
"""What an enclave may attest as at the broker."""

JudgedTee = Literal["sgx", "tdx", "snp"]
"""What a policy may name, and `ppml quote verify` judges."""

MAX_QUOTE_BYTES = 64 * KIB
"""Real quotes have 4 to 12 KiB; certificate chains inside make the length vary."""


class Evidence(Document, frozen=True, kw_only=True):
    """A DCAP quote and the kind of TEE that it claims to come from."""

    tee: Tee
    quote: Annotated[bytes, Meta(max_length=MAX_QUOTE_BYTES)]
