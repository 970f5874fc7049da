"""Why dcap-qvl refused a quote, as codes.

dcap-qvl says so in free text only. The table below reads that text; a text that is not in it is a refusal all the same,
under `evidence_refused`. Nothing here can turn a refusal into acceptance: `explain` only finds the name of one.

Source: the messages of dcap-qvl 0.7.0. A test produces each code from real bytes where the simulated platform can.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, VerificationError
from ppml_airflow.units import format_instant

_REFRESH = "fetch fresh collateral for this platform"
_UPDATE = "update microcode and firmware of the machine, then fetch fresh collateral"

CHAIN = "certificate_chain"

# (a part of dcap-qvl's text, our code, what to do). The first match counts.
TABLE: tuple[tuple[str, str, str], ...] = (
    # the quote does not parse
    ("Failed to decode quote", "quote_malformed", ""),
    ("Failed to parse quote", "quote_malformed", ""),
    ("Unsupported DCAP quote version", "quote_unsupported", ""),
    ("TEE quote must have version", "quote_unsupported", ""),
    ("Unsupported DCAP attestation key type", "quote_unsupported", ""),
    ("Unsupported DCAP PCK cert format", "quote_unsupported", "have the quote carry its PCK certificate chain"),
    ("Invalid QE auth data length", "quote_unsupported", ""),
    ("Unknown QE vendor ID", "quote_unsupported", ""),
    # the quote is not what the platform signed
    ("ISV enclave report signature is invalid", "quote_signature", ""),
    ("Signature is invalid for qe_report", "quote_signature", ""),
    ("QE report hash mismatch", "quote_signature", ""),
    # the collateral does not parse, or is not what its vendor signed
    ("Signature is invalid for tcb_info", "collateral_signature", ""),
    ("Signature is invalid for qe_identity", "collateral_signature", ""),
    ("Failed to parse JSON", "collateral_malformed", ""),
    ("Failed to decode TcbInfo", "collateral_malformed", ""),
    ("Failed to decode QeIdentity", "collateral_malformed", ""),
    ("Failed to decode TCB FMSPC", "collateral_malformed", ""),
    ("Failed to parse TCB", "collateral_malformed", ""),
    ("Failed to parse QE", "collateral_malformed", ""),
    ("Failed to parse PCK CRL", "collateral_malformed", ""),
    ("Failed to parse CRL", "collateral_malformed", ""),
    ("Invalid key length", "collateral_malformed", ""),
    ("component count mismatch", "collateral_malformed", ""),
    ("Certificate chain is too short for", "collateral_malformed", ""),
    ("No TCB levels found", "collateral_malformed", ""),
    ("Unrecognized TCB status", "collateral_malformed", ""),
    # time
    ("CrlExpired", "collateral_expired", _REFRESH),
    ("TCBInfo expired", "collateral_expired", _REFRESH),
    ("QE Identity expired", "collateral_expired", _REFRESH),
    ("Collateral expired", "collateral_expired", _REFRESH),
    ("issue date is in the future", "collateral_not_yet_valid", "compare the clocks of this machine and of the vendor"),
    # the collateral is another platform's
    ("Fmspc mismatch", "collateral_mismatch", _REFRESH),
    ("with non-SGX TCB info", "collateral_mismatch", _REFRESH),
    ("with non-TDX TCB info", "collateral_mismatch", _REFRESH),
    ("Unsupported QE Identity id/version", "collateral_mismatch", _REFRESH),
    # the platform is not good enough to say anything
    ("TCB status is invalid: Revoked", "tcb_revoked", _UPDATE),
    ("No matching TCB level found", "tcb_level_unknown", _UPDATE),
    ("below minimum required from TDX module", "tcb_level_unknown", _UPDATE),
    ("TDX module", "tdx_module", _UPDATE),
    ("QE ISVPRODID mismatch", "quoting_enclave", ""),
    ("QE MRSIGNER mismatch", "quoting_enclave", ""),
    ("QE MISCSELECT mismatch", "quoting_enclave", ""),
    ("QE ATTRIBUTES mismatch", "quoting_enclave", ""),
    ("QE ISVSVN", "quoting_enclave", _UPDATE),
    # the enclave can be looked into
    ("Debug mode is enabled", "debug_enclave", "start the enclave without debug"),
    ("SEPT_VE_DISABLE is not enabled", "sept_ve_disable", "set SEPT_VE_DISABLE for the TD"),
    ("Reserved bits in TD attributes", "td_attributes", ""),
    ("service td", "service_td", "start the TD without a service TD"),
    # certificates and revocation lists; `explain` looks closer
    ("Failed to verify certificate chain", CHAIN, ""),
    ("Failed to parse root CA CRL", CHAIN, ""),
    ("Failed to parse certs", CHAIN, ""),
    ("Failed to extract PCK certificates", CHAIN, ""),
    ("Failed to parse PCK certificate", CHAIN, ""),
    ("Certificate chain is too short in quote", CHAIN, ""),
    ("CertRevoked", CHAIN, ""),
    ("UnknownIssuer", CHAIN, ""),
    ("UnknownRevocationStatus", CHAIN, ""),
    ("InvalidCrlSignature", CHAIN, ""),
    ("IssuerNotCrlSigner", CHAIN, ""),
)

AUTHENTIC = frozenset(
    {"tcb_revoked", "tcb_level_unknown", "debug_enclave", "sept_ve_disable", "service_td", "td_attributes"}
)
"""Refusals of a quote whose chain and signatures dcap-qvl 0.7.0 found good before: the platform did sign it."""

_MALFORMED = frozenset({"quote_malformed", "collateral_malformed"})


def refusal(text: str) -> PpmlError:
    """Turn dcap-qvl's text into one of our errors. Unknown text is a refusal too."""
    said = text.removeprefix("Verification failed: ")
    code, hint = next(((code, hint) for part, code, hint in TABLE if part in said), ("evidence_refused", ""))
    kind = MalformedInputError if code in _MALFORMED else VerificationError
    return kind(f"evidence is refused: {said[:300]}", code=code, hint=hint)


def explain(
    error: PpmlError, *, quote: bytes, collateral: bytes, roots: Iterable[TrustRoot], now: datetime
) -> PpmlError:
    """Look closer at a refused certificate chain, for people: another root, a revoked platform, an old list, or broken.

    Reads untrusted bytes, after the refusal, and never judges anything by them.
    """
    if error.code != CHAIN:
        return error
    try:
        chain = x509.load_pem_x509_certificates(dcap_qvl.parse_quote(quote).cert_chain_pem_bytes() or b"")
        found = TrustRoot(chain[-1].public_bytes(Encoding.DER))
        wanted = tuple(roots)
        if found.key_id not in {root.key_id for root in wanted}:
            return _untrusted_root(found, wanted=wanted)
        return _revocation(chain, lists=_revocation_lists(collateral), now=now) or error
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        x509.InvalidVersion,
        UnsupportedAlgorithm,
        ConfigurationError,
    ):
        return error  # nothing more can be read: what dcap-qvl said stands


def _untrusted_root(found: TrustRoot, *, wanted: tuple[TrustRoot, ...]) -> VerificationError:
    got, *known = (f"{root.key_id[:16]}... ({root.trust})" for root in (found, *wanted))
    return VerificationError(
        f"evidence leads to the root {got}, wanted {' or '.join(known)}",
        code="untrusted_root",
        hint="evidence counts only where its root is named; a simulated root never counts as hardware",
    )


def _revocation(
    chain: list[x509.Certificate], *, lists: list[x509.CertificateRevocationList], now: datetime
) -> VerificationError | None:
    for revoked in lists:
        if any(revoked.get_revoked_certificate_by_serial_number(each.serial_number) for each in chain):
            return VerificationError(
                f"evidence is refused: the certificate {chain[0].serial_number:x} of its platform is revoked",
                code="platform_revoked",
                hint="do not use this machine; ask its vendor why",
            )
        if revoked.next_update_utc is not None and revoked.next_update_utc <= now:
            expired = format_instant(revoked.next_update_utc)
            return VerificationError(
                f"evidence is refused: a revocation list expired at {expired}", code="collateral_expired", hint=_REFRESH
            )
    return None


def _revocation_lists(collateral: bytes) -> list[x509.CertificateRevocationList]:
    fields = json.loads(collateral)
    return [x509.load_der_x509_crl(bytes.fromhex(fields[name])) for name in ("pck_crl", "root_ca_crl")]
