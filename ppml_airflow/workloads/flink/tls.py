"""The key of a cluster's own TLS: made for one job, inside, and gone with it."""

from __future__ import annotations

import datetime
import secrets
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import NameOID

_LIFETIME = datetime.timedelta(days=30)
"""A job lives at most a day; a clock that the host has set wrong must not end it."""


def make_key_store() -> tuple[bytes, str]:
    """Make a key and its own certificate, which all ends have, trusting nothing else.

    Returns:
        A PKCS #12 file, and its password.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    password = secrets.token_hex(32)
    store = serialize_key_and_certificates(b"ppml", key, certificate, None, BestAvailableEncryption(password.encode()))
    return store, password
