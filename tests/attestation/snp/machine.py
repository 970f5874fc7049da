"""A machine with SEV-SNP that exists in these tests only: its certificates and its reports, in AMD's form."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
MEASUREMENT = bytes(range(48))
REPORT_DATA = bytes(range(64))
LAYOUTS = {
    "Milan": ("bootloader", "tee", None, None, None, None, "snp", "microcode"),
    "Genoa": ("bootloader", "tee", None, None, None, None, "snp", "microcode"),
    "Turin": ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode"),
}
CPUS = {"Milan": (0x19, 0x01), "Genoa": (0x19, 0x11), "Turin": (0x1A, 0x02)}
SVNS = {"fmc": 1, "bootloader": 4, "tee": 0, "snp": 24, "microcode": 217}
_OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}


@lru_cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@lru_cache
def leaf_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True, kw_only=True)
class Machine:
    now: datetime
    product: str = "Milan"
    signer: str = "VCEK"
    vendor: str = "vendor"
    """Whose root key; two vendors may use the same names."""

    @property
    def chip_id(self) -> bytes:
        return bytes(range(1, 9)) if self.product == "Turin" else bytes(range(1, 65))

    @property
    def root(self) -> x509.Certificate:
        name = f"ARK-{self.product}"
        return self.certificate(name, issuer=name, key=rsa_key(self.vendor), by=self.vendor, serial=1)

    @property
    def intermediate(self) -> x509.Certificate:
        key = rsa_key(self.vendor + self.signer)
        return self.certificate(self._middle, issuer=f"ARK-{self.product}", key=key, by=self.vendor, serial=2)

    @property
    def _middle(self) -> str:
        return f"SEV-{self.product}" if self.signer == "VCEK" else f"SEV-VLEK-{self.product}"

    def leaf(self, *, chip_id: bytes | None = None, svns: dict[str, int] | None = None) -> x509.Certificate:
        values = {"2": b"\x16" + bytes([len(self.product)]) + self.product.encode()}
        for name in LAYOUTS[self.product]:
            if name:
                values[_OIDS[name]] = _integer((svns or SVNS)[name])
        if self.signer == "VCEK":
            values["4"] = chip_id or self.chip_id
        else:
            values["5"] = b"\x16\x08provider"
        return self.certificate(
            f"SEV-{self.signer}",
            issuer=self._middle,
            key=leaf_key(self.vendor),
            by=self.vendor + self.signer,
            serial=7,
            values=values,
        )

    def certificate(
        self,
        name: str,
        *,
        issuer: str,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        by: str,
        serial: int,
        values: dict[str, bytes] | None = None,
        is_authority: bool | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + timedelta(days=30))
        )
        if is_authority if is_authority is not None else values is None:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        for oid, value in (values or {}).items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{oid}"), value)
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(rsa_key(by), hashes.SHA384(), rsa_padding=PSS)

    def bundle(self, *more: bytes, leaf: x509.Certificate | None = None) -> bytes:
        chain = (leaf or self.leaf(), self.intermediate, self.root)
        return b"".join((*(each.public_bytes(Encoding.PEM) for each in chain), *more))

    def revocation_list(self, *serials: int, days: int = 10, by: str = "", of: str = "") -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(of or f"ARK-{self.product}"))
            .last_update(self.now - timedelta(days=20))
            .next_update(self.now + timedelta(days=days))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(rsa_key(by or self.vendor), hashes.SHA384(), rsa_padding=PSS)
        return signed.public_bytes(Encoding.PEM)

    def report(
        self,
        *,
        guest_policy: int = 0x30000,
        level: int = 0,
        version: int = 3,
        algorithm: int = 1,
        svns: dict[str, int] | None = None,
        chip_id: bytes | None = None,
        cpu: tuple[int, int] | None = None,
    ) -> bytes:
        data = bytearray(1184)
        struct.pack_into("<IIQ", data, 0, version, 0, guest_policy)
        struct.pack_into("<II", data, 0x30, level, algorithm)
        struct.pack_into("<I", data, 0x48, 4 if self.signer == "VLEK" else 0)
        data[0x50:0x90], data[0x90:0xC0] = REPORT_DATA, MEASUREMENT
        data[0x180:0x188] = bytes((svns or SVNS)[name] if name else 0 for name in LAYOUTS[self.product])
        data[0x188:0x18A] = bytes(cpu or CPUS[self.product]) if version >= 3 else bytes(2)
        shown = chip_id if chip_id is not None else self.chip_id if self.signer == "VCEK" else b""
        data[0x1A0:0x1E0] = shown.ljust(64, b"\0")
        r, s = decode_dss_signature(leaf_key(self.vendor).sign(bytes(data[:0x2A0]), ec.ECDSA(hashes.SHA384())))
        data[0x2A0:0x2E8], data[0x2E8:0x330] = r.to_bytes(72, "little"), s.to_bytes(72, "little")
        return bytes(data)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(content)]) + content
