"""AMD's certificates above an SEV-SNP report: VCEK <- ASK <- ARK, or VLEK <- ASVK <- ARK, and the list of revoked ones.

The bundle is untrusted: the root counts by its key, the rest by the signatures below it.

Source: AMD Versioned Chip Endorsement Key Certificate and KDS Interface Specification, document 57230; RSA-PSS with
SHA-384 throughout.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ppml_airflow.attestation.roots import AMD_ROOT_KEY_IDS, RootKeyId, rsa_root_key_id
from ppml_airflow.attestation.snp.report import LAYOUTS, Product, Signer
from ppml_airflow.errors import MalformedInputError, VerificationError
from ppml_airflow.units import MIB, format_instant

MAX_BUNDLE_BYTES = MIB
_MAX_BLOCKS = 32
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_OID = "1.3.6.1.4.1.3704.1."
_SVN_OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_PRODUCT_OID, _CHIP_OID, _CSP_OID = "2", "4", "5"
_DER_INTEGER, _DER_OCTETS, _DER_IA5 = 0x02, 0x04, 0x16
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a PEM file holds, in its order."""

    certificates: tuple[x509.Certificate, ...]
    revocation_lists: tuple[x509.CertificateRevocationList, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsementKey:
    """A verified VCEK or VLEK."""

    key: ec.EllipticCurvePublicKey
    kind: Signer
    product: Product
    svns: dict[str, int]
    chip_id: bytes
    """Empty for a VLEK: it is its provider's, not a chip's."""
    root_key_id: RootKeyId
    is_revocation_checked: bool


def parse_bundle(data: bytes) -> Bundle:
    """Read a PEM bundle.

    Raises:
        MalformedInputError: too long, or a block that is neither a certificate nor a revocation list.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise MalformedInputError(f"collateral has {len(data)} bytes; at most {MAX_BUNDLE_BYTES} are read")
    blocks = [(match.group(1), match.group()) for match in _BLOCK.finditer(data)]
    if not 0 < len(blocks) <= _MAX_BLOCKS or {label for label, _ in blocks} - {b"CERTIFICATE", b"X509 CRL"}:
        raise MalformedInputError(
            f"collateral has {len(blocks)} PEM blocks; wanted VCEK or VLEK, ASK, ARK and perhaps their revocation list",
            code="collateral_malformed",
        )
    return Bundle(
        certificates=tuple(_load(text, x509.load_pem_x509_certificate) for kind, text in blocks if kind[0:1] == b"C"),
        revocation_lists=tuple(_load(text, x509.load_pem_x509_crl) for kind, text in blocks if kind[0:1] == b"X"),
    )


def verify_bundle(
    bundle: Bundle, *, kind: Signer, extra_roots: tuple[x509.Certificate, ...], now: datetime
) -> EndorsementKey:
    """Verify the chain above the endorsement key of this kind.

    Args:
        bundle: untrusted.
        kind: which key the report says has signed it.
        extra_roots: whose keys count; empty stands for AMD's own, by their key ids.
        now: aware.

    Raises:
        VerificationError: no such key, an unknown root, a signature, time, revocation or extension that is not good.

    1. Find leaf, intermediate and root by name.
    2. The root's key is one that counts, and signs itself.
    3. Each is signed by the next, with RSA-PSS, and is of its time.
    4. Neither is revoked, if there is a list; a list that is not good is refused.
    5. Read what the leaf certifies.
    """
    try:
        return _verify_bundle(bundle, kind=kind, extra_roots=extra_roots, now=now)
    except _UNREADABLE as error:
        # Names, keys and extensions are read as late as they are asked for.
        raise _bad_chain("a certificate or revocation list has a part that does not read") from error


def _verify_bundle(
    bundle: Bundle, *, kind: Signer, extra_roots: tuple[x509.Certificate, ...], now: datetime
) -> EndorsementKey:
    # 1
    leaf = _one([each for each in bundle.certificates if _common_name(each.subject) == f"SEV-{kind}"], what=kind)
    available = (*bundle.certificates, *extra_roots)
    intermediate = _issuer(leaf, available)
    root = _issuer(intermediate, available)
    # 2
    wanted = {rsa_root_key_id(each) for each in extra_roots} or set(AMD_ROOT_KEY_IDS.values())
    key_id = rsa_root_key_id(root)
    if key_id not in wanted:
        raise VerificationError(
            f"evidence leads to the root {key_id[:16]}..., wanted {' or '.join(each[:16] + '...' for each in wanted)}",
            code="untrusted_root",
            hint="evidence counts only where its root is named; name another with --trust-root",
        )
    # 3
    for certificate, issuer in ((root, root), (intermediate, root), (leaf, intermediate)):
        _check_signature(certificate.signature, certificate.tbs_certificate_bytes, issuer=issuer)
        _check_time(certificate, now=now)
    for authority in (root, intermediate):
        _check_authority(authority)
    # 4
    is_checked = _check_revocation(bundle.revocation_lists, root=root, chain=(leaf, intermediate), now=now)
    # 5
    return _read_leaf(leaf, kind=kind, root_key_id=key_id, is_revocation_checked=is_checked)


# ---------------------------------------------------------------- chain


T = TypeVar("T")


def _load(text: bytes, load: Callable[[bytes], T]) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AMD's certificates have the serial number 0
        try:
            return load(text)
        except (ValueError, x509.InvalidVersion) as error:
            raise MalformedInputError("collateral has a broken PEM block", code="collateral_malformed") from error


def _one(found: list[x509.Certificate], *, what: str) -> x509.Certificate:
    if len(found) != 1:
        raise VerificationError(
            f"collateral has {len(found)} certificates that could be the {what}, wanted one", code="certificate_chain"
        )
    return found[0]


def _common_name(name: x509.Name) -> str:
    return next((str(each.value) for each in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)), "")


def _issuer(certificate: x509.Certificate, available: tuple[x509.Certificate, ...]) -> x509.Certificate:
    # One key may have several certificates, as where a root is in the bundle and named beside it.
    found = {rsa_root_key_id(each): each for each in available if each.subject == certificate.issuer}
    return _one(list(found.values()), what=f"issuer {_common_name(certificate.issuer)}")


def _check_signature(signature: bytes, message: bytes, *, issuer: x509.Certificate) -> None:
    key = issuer.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise _bad_chain(f"{_common_name(issuer.subject)} does not have an RSA key")
    try:
        key.verify(signature, message, _PSS, hashes.SHA384())
    except InvalidSignature as error:
        raise _bad_chain(f"a signature is not that of {_common_name(issuer.subject)}") from error


def _check_time(certificate: x509.Certificate, *, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise VerificationError(
            f"certificate {_common_name(certificate.subject)} is valid {format_instant(begin)} to "
            f"{format_instant(end)}, not at {format_instant(now)}",
            code="collateral_expired" if now > end else "collateral_not_yet_valid",
        )


def _check_authority(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise _bad_chain(f"{_common_name(certificate.subject)} does not say that it is an authority") from error
    if not constraints.ca:
        raise _bad_chain(f"{_common_name(certificate.subject)} is not an authority")


def _check_revocation(
    lists: tuple[x509.CertificateRevocationList, ...],
    *,
    root: x509.Certificate,
    chain: tuple[x509.Certificate, ...],
    now: datetime,
) -> bool:
    for revoked in lists:
        if revoked.issuer != root.subject:
            raise _bad_chain(f"a revocation list is of {_common_name(revoked.issuer)}, not of the root")
        _check_signature(revoked.signature, revoked.tbs_certlist_bytes, issuer=root)
        if revoked.last_update_utc > now or revoked.next_update_utc is None or revoked.next_update_utc <= now:
            raise VerificationError(
                f"revocation list is not of {format_instant(now)}",
                code="collateral_expired",
                hint="fetch a fresh list from AMD",
            )
        for certificate in chain:
            # A serial number is unique below one issuer: AMD's leaves all have 0, and the root issues none of them.
            is_issued = certificate.issuer == root.subject
            if is_issued and revoked.get_revoked_certificate_by_serial_number(certificate.serial_number):
                raise VerificationError(
                    f"certificate {_common_name(certificate.subject)} is revoked",
                    code="platform_revoked",
                    hint="do not use this machine; ask its vendor why",
                )
    return bool(lists)


def _bad_chain(text: str) -> VerificationError:
    return VerificationError(f"evidence is refused: {text}", code="certificate_chain")


# ---------------------------------------------------------------- leaf


def _read_leaf(
    leaf: x509.Certificate, *, kind: Signer, root_key_id: RootKeyId, is_revocation_checked: bool
) -> EndorsementKey:
    try:
        key = leaf.public_key()
        values = {
            each.oid.dotted_string.removeprefix(_OID): each.value.value
            for each in leaf.extensions
            if isinstance(each.value, x509.UnrecognizedExtension) and each.oid.dotted_string.startswith(_OID)
        }
        product_name = _content(values[_PRODUCT_OID], tag=_DER_IA5).decode("ascii").partition("-")[0]
        product = next(each for each in LAYOUTS if each == product_name)
        svns = {
            name: int.from_bytes(_content(values[_SVN_OIDS[name]], tag=_DER_INTEGER), "big")
            for name in LAYOUTS[product]
        }
        chip_id = _octets(values[_CHIP_OID]) if kind == "VCEK" else b""
        if kind == "VLEK":
            _content(values[_CSP_OID], tag=_DER_IA5)
    except (KeyError, StopIteration, ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise _bad_chain(f"the {kind} does not say of which product and versions it is") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _bad_chain(f"the {kind} does not have a P-384 key")
    if AMD_ROOT_KEY_IDS.get(product) != root_key_id and root_key_id in AMD_ROOT_KEY_IDS.values():
        raise _bad_chain(f"the {kind} is of {product}, its root is another product's")
    return EndorsementKey(
        key=key,
        kind=kind,
        product=product,
        svns=svns,
        chip_id=chip_id,
        root_key_id=root_key_id,
        is_revocation_checked=is_revocation_checked,
    )


def _content(der: bytes, *, tag: int) -> bytes:
    """The content of a short DER value: nothing before it, nothing after it."""
    if len(der) < 2 or der[0] != tag or der[1] >= 0x80 or der[1] != len(der) - 2:
        raise ValueError("not the DER value that it should be")
    return der[2:]


def _octets(value: bytes) -> bytes:
    """A chip id: AMD writes it bare, some certificates wrap it."""
    wrapped = len(value) > 2 and value[0] == _DER_OCTETS and value[1] == len(value) - 2
    return value[2:] if wrapped else value
