"""Verification of an SEV-SNP report: is it AMD's, of which chip or provider, and what does it say?

Says nothing about whether that is good enough. Root and time are always explicit; a debug guest verifies here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ppml_airflow.attestation.roots import RootKeyId, trust_of
from ppml_airflow.attestation.snp.certificates import EndorsementKey, parse_bundle, verify_bundle
from ppml_airflow.attestation.snp.report import Product, SnpReport
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.units import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedSnp:
    """What an authentic report says. Only `verify_snp` makes it."""

    tee: Literal["snp"]
    trust: Trust
    root_key_id: RootKeyId
    product: Product
    measurement: str
    """96 hex."""
    measurements: Mapping[str, str]
    svns: Mapping[str, int]
    is_debug: bool
    report_data: bytes
    """64 bytes."""
    guest_features: tuple[str, ...]
    privilege_level: int
    is_revocation_checked: bool


def verify_snp(
    report_bytes: bytes, *, collateral: bytes, roots: tuple[x509.Certificate, ...], now: datetime
) -> VerifiedSnp:
    """Verify a report.

    Args:
        report_bytes: untrusted.
        collateral: PEM bundle of VCEK or VLEK, ASK or ASVK, ARK, and perhaps the root's revocation list; untrusted.
        roots: roots that count instead of AMD's; empty for AMD's.
        now: aware; the verifier's own time.

    Raises:
        MalformedInputError: report or bundle do not parse.
        VerificationError: anything that is not authentic.
        ConfigurationError: a naive time.

    1. Verify the chain of the key that the report names.
    2. Verify the report's signature by it.
    3. Check that the key is of this product, security version and chip.
    """
    if now.tzinfo is None:
        raise ConfigurationError(f"time {now.isoformat()} has no time zone; wanted an aware one")
    report = SnpReport.parse(report_bytes)
    # 1
    endorsed = verify_bundle(parse_bundle(collateral), kind=report.signer, extra_roots=roots, now=now)
    # 2
    try:
        endorsed.key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise VerificationError(
            f"evidence is refused: report is not signed by this {report.signer}", code="quote_signature"
        ) from error
    # 3
    _check_binding(report, endorsed=endorsed)
    return VerifiedSnp(
        tee="snp",
        trust=trust_of(endorsed.root_key_id),
        root_key_id=endorsed.root_key_id,
        product=endorsed.product,
        measurement=report.measurement.hex(),
        measurements={"measurement": report.measurement.hex(), **report.registers},
        svns=report.svns(endorsed.product),
        is_debug=report.is_debug,
        report_data=report.report_data,
        guest_features=report.guest_features,
        privilege_level=report.privilege_level,
        is_revocation_checked=endorsed.is_revocation_checked,
    )


def _check_binding(report: SnpReport, *, endorsed: EndorsementKey) -> None:
    if report.product not in (None, endorsed.product):
        raise _mismatch(f"report is of {report.product}, its key of {endorsed.product}")
    svns = report.svns(endorsed.product)
    if svns != endorsed.svns:
        raise _mismatch(f"report states the versions {svns}, its key is for {endorsed.svns}")
    if endorsed.kind == "VLEK":
        return
    # A host may mask the chip id with zeros; what it may not do is show another chip's.
    # Turin's chip ids are shorter than the field.
    shown, certified = report.chip_id, endorsed.chip_id
    if any(shown) and (not certified or shown != certified.ljust(len(shown), b"\x00")):
        raise _mismatch(f"report is of chip {shown.hex()[:16]}..., its key of {certified.hex()[:16]}...")


def _mismatch(text: str) -> VerificationError:
    return VerificationError(
        f"evidence is refused: {text}",
        code="collateral_mismatch",
        hint="fetch the certificate for this chip and its reported TCB",
    )
