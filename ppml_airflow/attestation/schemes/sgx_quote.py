"""The bytes of an SGX quote, version 3, as a quoting enclave writes them.

Writing only: nothing here reads a quote. Reading is dcap-qvl's, and in tests an independent reading of its own.

Source: Intel SGX ECDSA Quote Library Reference, "Version 3". Integers are little endian.

    header 48 | enclave report 384 | u32 length | signature 64 | attestation key 64 | QE report 384 | QE signature 64
    | u16 length, QE authentication data | u16 5, u32 length, PEM chain of the PCK certificate
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

QE_AUTHENTICATION_DATA = bytes(range(32))
"""32 bytes, as Intel's own quoting enclave writes it; dcap-qvl accepts no other length."""

_INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ATTESTATION_KEY_P256 = 2
_TEE_SGX = 0
_PCK_CHAIN_PEM = 5

_FLAG_INITIALIZED = 0x01
_FLAG_DEBUG = 0x02
_FLAG_64_BIT = 0x04
_XFRM = 0xE7


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """What the CPU says of an enclave. Lengths in bytes: cpu_svn 16, mr_enclave and mr_signer 32, report_data 64."""

    cpu_svn: bytes
    mr_enclave: bytes
    mr_signer: bytes
    report_data: bytes
    product: int = 0
    svn: int = 0
    is_debug: bool = False

    def encode(self) -> bytes:
        """Write the 384 bytes of a report body."""
        flags = _FLAG_INITIALIZED | _FLAG_64_BIT | (_FLAG_DEBUG if self.is_debug else 0)
        return struct.pack(
            "<16s4x28xQQ32s32x32s96xHH60x64s",
            self.cpu_svn,
            flags,
            _XFRM,
            self.mr_enclave,
            self.mr_signer,
            self.product,
            self.svn,
            self.report_data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteSigner:
    """A quoting enclave's certified attestation key: everything in a quote that does not change from quote to quote."""

    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False)
    qe_svn: int
    pce_svn: int
    certification: bytes
    """Everything after the quote's signature: attestation key, QE report and its signature, certificate chain."""

    def quote(self, report: EnclaveReport) -> bytes:
        """Sign a quote over a report."""
        header = struct.pack(
            "<HHIHH16s20x", 3, _ATTESTATION_KEY_P256, _TEE_SGX, self.qe_svn, self.pce_svn, _INTEL_QE_VENDOR
        )
        signed = header + report.encode()
        authentication = sign_raw(signed, key=self.attestation_key) + self.certification
        return signed + struct.pack("<I", len(authentication)) + authentication


def certify_attestation_key(
    attestation_key: ec.EllipticCurvePrivateKey,
    *,
    quoting_enclave: EnclaveReport,
    pck: ec.EllipticCurvePrivateKey,
    chain: bytes,
) -> bytes:
    """Bind an attestation key to a quoting enclave, by the platform's PCK key.

    Args:
        attestation_key: the key that will sign quotes.
        quoting_enclave: its report; its report_data is replaced by the hash of the attestation key.
        pck: the platform's certified key.
        chain: PEM of the PCK certificate, its CA and the root, in this order.
    """
    point = raw_point(attestation_key)
    bound = hashlib.sha256(point + QE_AUTHENTICATION_DATA).digest()
    report = EnclaveReport(
        cpu_svn=quoting_enclave.cpu_svn,
        mr_enclave=quoting_enclave.mr_enclave,
        mr_signer=quoting_enclave.mr_signer,
        product=quoting_enclave.product,
        svn=quoting_enclave.svn,
        report_data=bound.ljust(64, b"\x00"),
    ).encode()
    authentication_data = struct.pack("<H", len(QE_AUTHENTICATION_DATA)) + QE_AUTHENTICATION_DATA
    certification_data = struct.pack("<HI", _PCK_CHAIN_PEM, len(chain)) + chain
    return point + report + sign_raw(report, key=pck) + authentication_data + certification_data


def sign_raw(message: bytes, *, key: ec.EllipticCurvePrivateKey) -> bytes:
    """ECDSA P-256 with SHA-256 as r || s, 64 bytes, big endian: the form that quotes and collateral use."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A P-256 public key as x || y, 64 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
