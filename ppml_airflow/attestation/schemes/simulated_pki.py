"""The certificates of a simulated platform: root -> PCK CA -> PCK certificate, and root -> TCB signing.

The shape is Intel's, so that dcap-qvl walks it as it walks the real one; the names say what it is. Every key is made
for one installation and never leaves it.

Source: Intel SGX PCK Certificate and CRL Profile Specification (extension 1.2.840.113741.1.13.1).
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ppml_airflow.errors import ConfigurationError

ROOT_NAME = "SIMULATED development root, NOT Intel"
FMSPC = bytes.fromhex("ffff53494d55")
"""Platform family: a value that Intel does not use."""
COMPONENT_SVN = 2
PCE_SVN = 13
PCE_ID = bytes(2)

_LIFETIME = timedelta(days=20 * 365)
_CLOCK_SLACK = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def store(self, folder: Path, *, name: str) -> None:
        """Write `<name>.pem` and, with mode 0600, `<name>.key`."""
        (folder / f"{name}.pem").write_bytes(self.pem)
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(folder / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)

    @classmethod
    def load(cls, folder: Path, *, name: str) -> Self:
        """Read what `store` wrote.

        Raises:
            ConfigurationError: a file is missing or broken, or key and certificate do not belong together.
        """
        try:
            key = load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"simulated platform {folder} is incomplete: {name}: {error.strerror}",
                hint="remove the folder and set up again; quotes made before will no longer be accepted",
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"simulated platform {folder} has a broken file: {name}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(f"simulated platform {folder} has a key that is not its certificate's: {name}")
        return cls(key=key, certificate=certificate)


def make_root(*, now: datetime) -> CertifiedKey:
    """Make the self-signed root of one installation."""
    key = ec.generate_private_key(ec.SECP256R1())
    return CertifiedKey(key=key, certificate=_sign(key, name=ROOT_NAME, issuer=None, issuer_key=key, now=now, path=1))


def make_authority(name: str, *, issuer: CertifiedKey, now: datetime) -> CertifiedKey:
    """Make a CA for end certificates under the root."""
    return _issue(name, issuer=issuer, now=now, path=0)


def make_leaf(
    name: str, *, issuer: CertifiedKey, now: datetime, extension: x509.UnrecognizedExtension | None = None
) -> CertifiedKey:
    """Make an end certificate."""
    return _issue(name, issuer=issuer, now=now, path=None, extension=extension)


def make_revocation_list(
    issuer: CertifiedKey, *, revoked: tuple[int, ...], now: datetime, lifetime: timedelta, number: int = 1
) -> bytes:
    """Sign a list of revoked serial numbers, DER. CRLNumber and AuthorityKeyIdentifier are what verifiers insist on."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key(issuer.key), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def platform_extension() -> x509.UnrecognizedExtension:
    """The SGX extension of a PCK certificate: which platform, at which security version, configured how."""
    cpu_svn = bytes([COMPONENT_SVN] * 16)
    components = [_entry((2, index), _integer(svn)) for index, svn in enumerate(cpu_svn, start=1)]
    tcb = [*components, _entry((2, 17), _integer(PCE_SVN)), _entry((2, 18), _octets(cpu_svn))]
    configuration = [_entry((7, index), _boolean(False)) for index in (1, 2, 3)]  # dynamic platform, cached keys, SMT
    entries = [
        _entry((1,), _octets(secrets.token_bytes(16))),  # PPID
        _entry((2,), _sequence(tcb)),
        _entry((3,), _octets(PCE_ID)),
        _entry((4,), _octets(FMSPC)),
        _entry((5,), _der(0x0A, b"\x01")),  # SGX type: scalable
        _entry((6,), _octets(secrets.token_bytes(16))),  # platform instance
        _entry((7,), _sequence(configuration)),
    ]
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), _sequence(entries))


# ---------------------------------------------------------------- certificates


def _issue(
    name: str,
    *,
    issuer: CertifiedKey,
    now: datetime,
    path: int | None,
    extension: x509.UnrecognizedExtension | None = None,
) -> CertifiedKey:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(
        key,
        name=name,
        issuer=issuer.certificate.subject,
        issuer_key=issuer.key,
        now=now,
        path=path,
        extension=extension,
    )
    return CertifiedKey(key=key, certificate=certificate)


def _sign(
    key: ec.EllipticCurvePrivateKey,
    *,
    name: str,
    issuer: x509.Name | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    path: int | None,
    extension: x509.UnrecognizedExtension | None = None,
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ppml_airflow simulated TEE"),
        ]
    )
    is_authority = path is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=path), critical=True)
        .add_extension(_key_usage(is_authority=is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key(issuer_key), critical=False)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=not is_authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# ---------------------------------------------------------------- DER, as much as the extension needs

_SGX_OID = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1


def _der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _entry(arcs: tuple[int, ...], value: bytes) -> bytes:
    return _sequence([_der(0x06, _SGX_OID + bytes(arcs)), value])


def _sequence(items: list[bytes]) -> bytes:
    return _der(0x30, b"".join(items))


def _octets(value: bytes) -> bytes:
    return _der(0x04, value)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _boolean(value: bool) -> bytes:
    return _der(0x01, b"\xff" if value else b"\x00")
