"""A second, independent reading of SGX and TDX quotes, versions 3 to 5, and their collateral: these tests' oracle.

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

    @property
    def is_debug(self) -> bool:
        return bool(self.attributes[0] & 2)

    @property
    def registers(self) -> tuple[bytes, ...]:
        return self.mr_enclave, self.mr_signer


@dataclass(frozen=True, kw_only=True)
class TdBody:
    """The 584 bytes of a TD's report; version 1.5 has 64 more."""

    tee_tcb_svn: bytes
    mr_signer_seam: bytes
    attributes: bytes
    registers: tuple[bytes, ...]
    report_data: bytes

    @classmethod
    def read(cls, data: bytes) -> TdBody:
        starts = (16, 64, 136, 184, 232, 280, 328, 376, 424, 472)
        return cls(
            tee_tcb_svn=data[0:16],
            mr_signer_seam=data[64:112],
            attributes=data[120:128],
            registers=tuple(data[at : at + 48] for at in starts),
            report_data=data[520:584],
        )

    @property
    def is_debug(self) -> bool:
        return bool(self.attributes[0] & 1)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The parts of a quote."""

    signed: bytes
    body: Body | TdBody
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_data: bytes
    chain: tuple[x509.Certificate, ...]


def read_quote(data: bytes) -> Quote:
    try:
        version, key_type, tee = struct.unpack_from("<HHI", data)
        expect((version, tee) in ((3, 0), (4, 0x81), (5, 0x81)) and key_type == 2, "a known quote with a P-256 key")
        start, end = _body_span(data, version=version)
        (length,) = struct.unpack_from("<I", data, end)
        rest = data[end + 4 : end + 4 + length]
        expect(len(rest) == length, "as many bytes as it says")
        signature, rest = rest[:128], rest[128:]
        if version >= 4:
            kind, wrapped = struct.unpack_from("<HI", rest)
            expect(kind == 6 and wrapped == len(rest) - 6, "a quoting enclave's report to the end")
            rest = rest[6:]
        (qe_length,) = struct.unpack_from("<H", rest, 448)
        qe_data, tail = rest[450 : 450 + qe_length], rest[450 + qe_length :]
        kind, pem_length = struct.unpack_from("<HI", tail)
        expect(kind == 5 and len(tail) == 6 + pem_length, "a PEM chain to its end")
        chain = tuple(x509.load_pem_x509_certificates(tail[6:].rstrip(b"\0")))
    except (struct.error, ValueError, x509.InvalidVersion) as error:
        raise RefusedByOracle(str(error)) from error
    return Quote(
        signed=data[:end],
        body=Body.read(data[start:end]) if tee == 0 else TdBody.read(data[start:end]),
        signature=signature[:64],
        key=signature[64:],
        qe_report=rest[:384],
        qe_signature=rest[384:448],
        qe_data=qe_data,
        chain=chain,
    )


def _body_span(data: bytes, *, version: int) -> tuple[int, int]:
    if version < 5:
        return 48, 48 + (384 if version == 3 else 584)
    kind, size = struct.unpack_from("<HI", data, 48)
    expect((kind, size) in ((2, 584), (3, 648)), "a TD report of a known size")
    return 54, 54 + size


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an authentic quote says."""

    body: Body | TdBody
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
    expect(not quote.body.is_debug, "no debug")

    td = quote.body if isinstance(quote.body, TdBody) else None
    expect(identity["id"] == ("TD_QE" if td else "QE"), "identity of the quoting enclave of this TEE")
    qe_status = _quoting_enclave_status(quoting, identity=identity)
    status, advisories = _platform_status(leaf, tcb_info=tcb_info, td=td)
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
    expect(identity["version"] == 2, "a known identity")
    expect(quoting.mr_signer.hex() == identity["mrsigner"].lower(), "quoting enclave of the vendor")
    expect(quoting.product == identity["isvprodid"], "the vendor's quoting enclave")
    for got, name in ((quoting.misc[::-1], "miscselect"), (quoting.attributes, "attributes")):
        want, mask = bytes.fromhex(identity[name]), bytes.fromhex(identity[name + "Mask"])
        masked = bytes(a & b for a, b in zip(got, mask, strict=True))
        expect(masked == bytes(a & b for a, b in zip(want, mask, strict=True)), name)
    level = next(level for level in identity["tcbLevels"] if level["tcb"]["isvsvn"] <= quoting.svn)
    return level["tcbStatus"]


def _platform_status(leaf: x509.Certificate, *, tcb_info: dict, td: TdBody | None) -> tuple[str, tuple[str, ...]]:
    extension = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value.value
    fmspc = _value_of(extension, arcs=(4,))
    expect(tcb_info["id"] == ("TDX" if td else "SGX"), "collateral of this TEE")
    expect(bytes.fromhex(tcb_info["fmspc"]) == fmspc, "collateral of this platform")
    svns = [int.from_bytes(_value_of(extension, arcs=(2, index)), "big") for index in range(1, 17)]
    pce_svn = int.from_bytes(_value_of(extension, arcs=(2, 17)), "big")
    for level in tcb_info["tcbLevels"]:
        wanted = [component["svn"] for component in level["tcb"]["sgxtcbcomponents"]]
        if pce_svn < level["tcb"]["pcesvn"] or any(got < want for got, want in zip(svns, wanted, strict=True)):
            continue
        found = level["tcbStatus"], tuple(level.get("advisoryIDs", ()))
        if td is None:
            return found
        # With a module of its own version, the first two components are judged by the module's identity.
        first = 2 if td.tee_tcb_svn[1] else 0
        wanted = [component["svn"] for component in level["tcb"]["tdxtcbcomponents"]][first:]
        if all(got >= want for got, want in zip(td.tee_tcb_svn[first:], wanted, strict=True)):
            return _with_module(found, tcb_info=tcb_info, td=td)
    raise RefusedByOracle("some TCB level")


def _with_module(platform: tuple[str, tuple[str, ...]], *, tcb_info: dict, td: TdBody) -> tuple[str, tuple[str, ...]]:
    """Bring in the status of the TDX module; a module of version 0 is judged with the platform."""
    minor, version = td.tee_tcb_svn[:2]
    status, advisories = platform
    if not version:
        expect(td.mr_signer_seam == bytes.fromhex(tcb_info["tdxModule"]["mrsigner"]), "module of the vendor")
        return platform
    identity = next(each for each in tcb_info["tdxModuleIdentities"] if each["id"] == f"TDX_{version:02}")
    expect(td.mr_signer_seam == bytes.fromhex(identity["mrsigner"]), "module of the vendor")
    level = next(each for each in identity["tcbLevels"] if each["tcb"]["isvsvn"] <= minor)
    expect(level["tcbStatus"] != "Revoked", "module not revoked")
    return _worse(status, qe_status=level["tcbStatus"]), (*advisories, *level.get("advisoryIDs", ()))


def _value_of(extension: bytes, *, arcs: tuple[int, ...]) -> bytes:
    """The value that follows an OID. The OIDs are distinct and long enough to be searched for."""
    oid = SGX_EXTENSION_DER + bytes(arcs)
    at = extension.index(bytes([6, len(oid)]) + oid) + 2 + len(oid)
    return extension[at + 2 : at + 2 + extension[at + 1]]


def _worse(status: str, *, qe_status: str) -> str:
    if qe_status != "OutOfDate":
        return status
    return "OutOfDateConfigurationNeeded" if "Configuration" in status else "OutOfDate"
