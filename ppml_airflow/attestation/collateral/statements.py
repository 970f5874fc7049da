"""Collateral by itself, without a quote: whose is it, of which platforms, how new, and is it what its vendor signed?

For caches and bundles, which take collateral from untrusted services and media: what is not signed, not of now, or of
another platform never replaces what is there. It accepts no evidence: `attestation.verification` verifies the same
collateral again, with the quote, whenever one is judged.

Source: Intel PCS API version 4; `QuoteCollateralV3` of dcap-qvl for the envelope (signatures and lists as hex).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal

import dcap_qvl
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from ppml_airflow.attestation.evidence import Tee
from ppml_airflow.attestation.roots import RootKeyId, TrustRoot
from ppml_airflow.attestation.verification import MAX_COLLATERAL_BYTES, CollateralNumbers
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.units import format_instant


class PlatformFamily(Document, frozen=True, kw_only=True):
    """The platforms that one collateral is of."""

    tee: Tee
    fmspc: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}$(?!\n)")]
    ca: Literal["platform", "processor"]
    """Which of the vendor's CAs certified them."""

    def __str__(self) -> str:
        return f"{self.tee}-{self.fmspc}-{self.ca}"


@lru_cache(maxsize=256)
def family_of(quote: bytes) -> PlatformFamily:
    """Read from a quote which collateral it needs. Untrusted: a lie finds collateral that will not verify it.

    Raises:
        MalformedInputError: not a quote that carries its certificate.
    """
    try:
        parsed = dcap_qvl.parse_quote(quote)
        fields = {"tee": "tdx" if parsed.is_tdx() else "sgx", "fmspc": parsed.fmspc().lower(), "ca": parsed.ca()}
        return msgspec.convert(fields, type=PlatformFamily)
    except (ValueError, msgspec.ValidationError) as error:
        raise MalformedInputError(
            f"quote does not say of which platform it is: {str(error)[:200]}", code="quote_malformed"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCollateral:
    """Collateral that its vendor signed. Only `verify_collateral` makes it."""

    root_key_id: RootKeyId
    numbers: CollateralNumbers
    stated: datetime
    """When the vendor said it: the older of both statements."""
    expires: datetime
    """The earliest end of a part; it is good before that second."""


class _Envelope(msgspec.Struct, frozen=True):
    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    issue_date: Annotated[datetime, Meta(tz=True)]
    next_update: Annotated[datetime, Meta(tz=True)]
    tcb_evaluation_data_number: int
    fmspc: str = ""


_IDS = {"sgx": ("SGX", "QE"), "tdx": ("TDX", "TD_QE")}


def verify_collateral(
    collateral: bytes, *, family: PlatformFamily, roots: tuple[TrustRoot, ...], now: datetime
) -> VerifiedCollateral:
    """Verify collateral.

    Args:
        collateral: `QuoteCollateralV3` as JSON, untrusted.
        family: the platforms that it must be of.
        roots: the roots that count.
        now: aware.

    Raises:
        MalformedInputError: it does not parse or is too long.
        VerificationError: a signature, a chain, a date, a revoked certificate, or another family.
        ConfigurationError: a naive time.

    1. Bound the size, and read it.
    2. Follow each chain to the same root, one that counts.
    3. Verify both revocation lists; no certificate of a chain is on one.
    4. Verify both statements; they are of this family.
    """
    if now.tzinfo is None:
        raise ConfigurationError(f"time {now.isoformat()} has no time zone; wanted an aware one")
    # 1
    parts = _read(collateral)
    # 2
    root = _common_root(parts.chains, roots=roots)
    for chain in parts.chains:
        _verify_chain(chain, now=now)
    # 3
    for revoked, issuer in ((parts.root_list, root), (parts.pck_list, parts.chains[0][0])):
        _verify_list(revoked, issuer=issuer, now=now)
    for certificate in (chain[0] for chain in parts.chains):
        if parts.root_list.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise _refused("a certificate of its issuers is revoked", code="certificate_chain")
    # 4
    for (text, signature, statement), chain in zip(parts.statements, parts.chains[1:], strict=True):
        _verify_raw(text.encode(), signature=signature, signer=chain[0])
        _require_current(statement.issue_date, statement.next_update, now=now)
    tcb_info, identity = (statement for _, _, statement in parts.statements)
    if (tcb_info.id, identity.id) != _IDS[family.tee] or tcb_info.fmspc.lower() != family.fmspc:
        raise _refused(f"it is of {tcb_info.id} {tcb_info.fmspc}, wanted {family}", code="collateral_mismatch")
    lists = (parts.root_list, parts.pck_list)
    ends = [tcb_info.next_update, identity.next_update, *(one.next_update_utc for one in lists if one.next_update_utc)]
    return VerifiedCollateral(
        root_key_id=TrustRoot(root.public_bytes(Encoding.DER)).key_id,
        numbers=CollateralNumbers(
            evaluation=min(tcb_info.tcb_evaluation_data_number, identity.tcb_evaluation_data_number),
            pck_crl=_number(parts.pck_list),
            root_crl=_number(parts.root_list),
        ),
        stated=min(tcb_info.issue_date, identity.issue_date),
        expires=min(ends),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What stands in collateral. Chains: of the platforms' list, the TCB info and the identity."""

    chains: tuple[list[x509.Certificate], ...]
    root_list: x509.CertificateRevocationList
    pck_list: x509.CertificateRevocationList
    statements: tuple[tuple[str, bytes, _Statement], ...]


def _read(collateral: bytes) -> _Parts:
    if len(collateral) > MAX_COLLATERAL_BYTES:
        raise MalformedInputError(f"collateral has {len(collateral)} bytes; at most {MAX_COLLATERAL_BYTES} are read")
    try:
        envelope = msgspec.json.decode(collateral, type=_Envelope)
        chains = (envelope.pck_crl_issuer_chain, envelope.tcb_info_issuer_chain, envelope.qe_identity_issuer_chain)
        signed = (
            (envelope.tcb_info, envelope.tcb_info_signature),
            (envelope.qe_identity, envelope.qe_identity_signature),
        )
        parts = _Parts(
            chains=tuple(x509.load_pem_x509_certificates(text.encode()) for text in chains),
            root_list=x509.load_der_x509_crl(bytes.fromhex(envelope.root_ca_crl)),
            pck_list=x509.load_der_x509_crl(bytes.fromhex(envelope.pck_crl)),
            statements=tuple(
                (text, bytes.fromhex(signature), msgspec.json.decode(text, type=_Statement))
                for text, signature in signed
            ),
        )
        _ = _number(parts.root_list), _number(parts.pck_list)
    except (ValueError, RecursionError, x509.InvalidVersion, x509.ExtensionNotFound) as error:
        raise MalformedInputError(
            f"collateral does not parse: {str(error)[:200]}", code="collateral_malformed"
        ) from error
    return parts


def _number(revoked: x509.CertificateRevocationList) -> int:
    return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _common_root(chains: tuple[list[x509.Certificate], ...], *, roots: tuple[TrustRoot, ...]) -> x509.Certificate:
    known = {root.key_id for root in roots}
    for chain in chains:
        if len(chain) < 2 or _key_id(chain[-1]) not in known:
            raise _refused("it leads to no root that counts", code="untrusted_root")
    root = chains[0][-1]
    if any(chain[-1].public_key() != root.public_key() for chain in chains):
        raise _refused("its parts lead to different roots", code="untrusted_root")
    return root


def _key_id(root: x509.Certificate) -> RootKeyId | None:
    try:
        return TrustRoot(root.public_bytes(Encoding.DER)).key_id
    except ConfigurationError:
        return None  # not of the kind that roots have


def _verify_chain(chain: list[x509.Certificate], *, now: datetime) -> None:
    try:
        for certificate, issuer in pairwise(chain):
            certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise _refused("a chain of certificates is broken", code="certificate_chain") from error
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _refused("a certificate is not of this time", code="collateral_expired")


def _verify_list(revoked: x509.CertificateRevocationList, *, issuer: x509.Certificate, now: datetime) -> None:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(key):
        raise _refused("a revocation list is not signed by its issuer", code="collateral_signature")
    _require_current(revoked.last_update_utc, revoked.next_update_utc, now=now)


def _verify_raw(message: bytes, *, signature: bytes, signer: x509.Certificate) -> None:
    key = signer.public_key()
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _refused("a statement is not signed by its signer", code="collateral_signature") from error


def _require_current(begins: datetime, ends: datetime | None, *, now: datetime) -> None:
    if ends is None or not begins <= now < ends:
        said = f"{format_instant(begins)} to {format_instant(ends) if ends else 'no end'}"
        code = "collateral_not_yet_valid" if now < begins else "collateral_expired"
        raise _refused(f"a part is good from {said}, now is {format_instant(now)}", code=code)


def _refused(text: str, *, code: str) -> VerificationError:
    return VerificationError(f"collateral is refused: {text}", code=code, hint="fetch it from its vendor's service")
