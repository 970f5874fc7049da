"""A second, independent reading of SGX quotes (version 3) and their collateral: the oracle of these tests.

Shares no code with the package. It may be wrong about what it accepts only where dcap-qvl refuses: never an authority.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
SGX_EXTENSION_DER = bytes.fromhex("2a864886f84d010d01")


class RefusedByOracle(Exception):
    """The quote is not good."""


def expect(truth: bool, claim: str) -> None:
    if not truth:
        raise RefusedByOracle(claim)


@dataclass(frozen=True, kw_only=True)
class Body:
    """The 384 bytes of a report."""

    cpu_svn: bytes
    misc: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    product: int
    svn: int
    report_data: bytes

    @classmethod
    def read(cls, data: bytes) -> Body:
        return cls(
            cpu_svn=data[0:16],
            misc=data[16:20],
            attributes=data[48:64],
            mr_enclave=data[64:96],
            mr_signer=data[128:160],
            product=int.from_bytes(data[256:258], "little"),
            svn=int.from_bytes(data[258:260], "little"),
            report_data=data[320:384],
        )


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The parts of a quote."""

    signed: bytes
    body: Body
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_data: bytes
    chain: tuple[x509.Certificate, ...]


def read_quote(data: bytes) -> Quote:
    try:
        version, key_type, tee = struct.unpack_from("<HHI", data)
        expect((version, key_type, tee) == (3, 2, 0), "an SGX quote of version 3 with a P-256 key")
        (length,) = struct.unpack_from("<I", data, 432)
        rest = data[436 : 436 + length]
        expect(len(rest) == length, "as many bytes as it says")
        (qe_length,) = struct.unpack_from("<H", rest, 576)
        qe_data, tail = rest[578 : 578 + qe_length], rest[578 + qe_length :]
        kind, pem_length = struct.unpack_from("<HI", tail)
        expect(kind == 5 and len(tail) == 6 + pem_length, "a PEM chain to its end")
        chain = tuple(x509.load_pem_x509_certificates(tail[6:].rstrip(b"\0")))
    except (struct.error, ValueError, x509.InvalidVersion) as error:
        raise RefusedByOracle(str(error)) from error
    return Quote(
        signed=data[:432],
        body=Body.read(data[48:432]),
        signature=rest[:64],
        key=rest[64:128],
        qe_report=rest[128:512],
        qe_signature=rest[512:576],
        qe_data=qe_data,
        chain=chain,
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an authentic quote says."""

    body: Body
    root_key_id: str
    status: str
    advisories: tuple[str, ...]


def judge(data: bytes, *, collateral: bytes, root: bytes, now: datetime) -> Verdict:
    """Verify a quote, or raise RefusedByOracle."""
    try:
        return _judge(data, collateral=collateral, root=x509.load_der_x509_certificate(root), now=now)
    except RefusedByOracle:
        raise
    except Exception as error:  # whatever does not read is refused
        raise RefusedByOracle(f"{type(error).__name__}: {error}") from error


def _judge(data: bytes, *, collateral: bytes, root: x509.Certificate, now: datetime) -> Verdict:
    quote, offered = read_quote(data), json.loads(collateral)
    leaf = quote.chain[0]
    ca = next(each for each in quote.chain[1:] if each.subject == leaf.issuer)
    tcb = x509.load_pem_x509_certificates(offered["tcb_info_issuer_chain"].encode())[0]
    _check_chain([leaf, ca, root], now=now)
    _check_chain([tcb, root], now=now)
    root_list = _check_list(offered["root_ca_crl"], issuer=root, now=now)
    ca_list = _check_list(offered["pck_crl"], issuer=ca, now=now)
    for certificate, revoked in ((leaf, ca_list), (ca, root_list), (tcb, root_list), (root, root_list)):
        found = revoked.get_revoked_certificate_by_serial_number(certificate.serial_number)
        expect(found is None, "no certificate revoked")
    tcb_info = _check_signed(offered["tcb_info"], signature=offered["tcb_info_signature"], signer=tcb, now=now)
    identity = _check_signed(offered["qe_identity"], signature=offered["qe_identity_signature"], signer=tcb, now=now)

    _check_raw(quote.qe_signature, message=quote.qe_report, key=_public(leaf))
    quoting = Body.read(quote.qe_report)
    bound = hashlib.sha256(quote.key + quote.qe_data).digest()
    expect(quoting.report_data == bound + bytes(32), "attestation key bound by the quoting enclave")
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.key)
    _check_raw(quote.signature, message=quote.signed, key=point)
    expect(not quote.body.attributes[0] & 2, "no debug")

    qe_status = _quoting_enclave_status(quoting, identity=identity)
    status, advisories = _platform_status(leaf, tcb_info=tcb_info)
    expect("Revoked" not in (status, qe_status), "not revoked")
    key_bytes = _public(root).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return Verdict(
        body=quote.body,
        root_key_id=hashlib.sha384(key_bytes).hexdigest(),
        status=_worse(status, qe_status=qe_status),
        advisories=advisories,
    )


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _check_raw(signature: bytes, *, message: bytes, key: ec.EllipticCurvePublicKey) -> None:
    expect(len(signature) == 64, "a signature of 64 bytes")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def _check_chain(chain: list[x509.Certificate], *, now: datetime) -> None:
    for certificate, issuer in pairwise(chain):
        certificate.verify_directly_issued_by(issuer)
        expect(issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "issued by a CA")
    for certificate in chain:
        expect(certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc, "certificates of today")


def _check_list(text: str, *, issuer: x509.Certificate, now: datetime) -> x509.CertificateRevocationList:
    revoked = x509.load_der_x509_crl(bytes.fromhex(text))
    expect(revoked.issuer == issuer.subject and revoked.is_signature_valid(_public(issuer)), "a list of this issuer")
    expect(revoked.next_update_utc is not None and now < revoked.next_update_utc, "a list of today")
    return revoked


def _check_signed(text: str, *, signature: str, signer: x509.Certificate, now: datetime) -> dict:
    _check_raw(bytes.fromhex(signature), message=text.encode(), key=_public(signer))
    value = json.loads(text)
    issued, until = (datetime.fromisoformat(value[name]) for name in ("issueDate", "nextUpdate"))
    expect(issued <= now <= until, "collateral of today")
    return value


def _quoting_enclave_status(quoting: Body, *, identity: dict) -> str:
    expect(identity["id"] == "QE" and identity["version"] == 2, "identity of an SGX quoting enclave")
    expect(quoting.mr_signer.hex() == identity["mrsigner"].lower(), "quoting enclave of the vendor")
    expect(quoting.product == identity["isvprodid"], "the vendor's quoting enclave")
    for got, name in ((quoting.misc[::-1], "miscselect"), (quoting.attributes, "attributes")):
        want, mask = bytes.fromhex(identity[name]), bytes.fromhex(identity[name + "Mask"])
        masked = bytes(a & b for a, b in zip(got, mask, strict=True))
        expect(masked == bytes(a & b for a, b in zip(want, mask, strict=True)), name)
    level = next(level for level in identity["tcbLevels"] if level["tcb"]["isvsvn"] <= quoting.svn)
    return level["tcbStatus"]


def _platform_status(leaf: x509.Certificate, *, tcb_info: dict) -> tuple[str, tuple[str, ...]]:
    extension = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value.value
    fmspc = _value_of(extension, arcs=(4,))
    expect(tcb_info["id"] == "SGX" and bytes.fromhex(tcb_info["fmspc"]) == fmspc, "collateral of this platform")
    svns = [int.from_bytes(_value_of(extension, arcs=(2, index)), "big") for index in range(1, 17)]
    pce_svn = int.from_bytes(_value_of(extension, arcs=(2, 17)), "big")
    for level in tcb_info["tcbLevels"]:
        wanted = [component["svn"] for component in level["tcb"]["sgxtcbcomponents"]]
        if pce_svn >= level["tcb"]["pcesvn"] and all(got >= want for got, want in zip(svns, wanted, strict=True)):
            return level["tcbStatus"], tuple(level.get("advisoryIDs", ()))
    raise RefusedByOracle("some TCB level")


def _value_of(extension: bytes, *, arcs: tuple[int, ...]) -> bytes:
    """The value that follows an OID. The OIDs are distinct and long enough to be searched for."""
    oid = SGX_EXTENSION_DER + bytes(arcs)
    at = extension.index(bytes([6, len(oid)]) + oid) + 2 + len(oid)
    return extension[at + 2 : at + 2 + extension[at + 1]]


def _worse(status: str, *, qe_status: str) -> str:
    if qe_status != "OutOfDate":
        return status
    return "OutOfDateConfigurationNeeded" if "Configuration" in status else "OutOfDate"
