"""Signatures: DSSE envelopes over canonical documents, Ed25519 for people and services, P-256 for an enclave's key K.

Source: DSSE v1.0.2 through securesystemslib. Stricter than DSSE asks: the payload must be the canonical encoding of the
expected document type under its own payload type, and *every* signature of the envelope must be by a different,
expected key and verify, so that no byte of an envelope can be changed unnoticed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib import dsse
from securesystemslib import signer as sslib
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.exceptions import VerificationError as SslibVerificationError

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.units import Digest

Scheme = Literal["ed25519", "p256", "xwing"]

_KEY_BYTES = {"ed25519": 32, "p256": 65, "xwing": 1216}


class PublicKey(Document, frozen=True, kw_only=True):
    """A public key: Ed25519 (32 bytes), P-256 (65, uncompressed point) or X-Wing (1184 ML-KEM + 32 X25519)."""

    scheme: Scheme
    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != _KEY_BYTES[self.scheme]:
            raise ValueError(f"{self.scheme} key has {len(self.key)} bytes, wanted {_KEY_BYTES[self.scheme]}")

    @property
    def key_id(self) -> Digest:
        """The digest of the key's document."""
        return _key_id(self)


class SignedDocument(Document, frozen=True, kw_only=True):
    """A document that is only ever believed inside an envelope of its own payload type."""

    payload_type: ClassVar[str]


class Signature(Document, frozen=True, kw_only=True):
    """One signature; `keyid` is the `key_id` of the signer, `sig` is 64 bytes (Ed25519) or DER (P-256)."""

    keyid: Digest
    sig: bytes


class Envelope(Document, frozen=True, kw_only=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope. `signatures` are sorted by key id."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def digest(self) -> Digest:
        """The digest of the payload: what other documents call this one by, whoever signed it."""
        return canonical.digest_bytes(self.payload)


D = TypeVar("D", bound=SignedDocument)


class SigningKey:
    """A private signing key (Ed25519 or P-256), held in memory or in an 0600 PEM file."""

    def __init__(self, private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self.public = _public_key(private)
        self._signer = sslib.CryptoSigner(private, _sslib_key(self.public))

    @classmethod
    def generate(cls, *, scheme: Literal["ed25519", "p256"] = "ed25519") -> Self:
        """Make a new random key."""
        return cls(Ed25519PrivateKey.generate() if scheme == "ed25519" else ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PKCS #8 PEM file.

        Raises:
            ConfigurationError: no such file, or not an Ed25519 or P-256 private key.
        """
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigurationError(f"signing key {path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"signing key {path} is not an unencrypted PKCS #8 PEM file") from error
        if not isinstance(private, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"signing key {path} is neither Ed25519 nor P-256")
        return cls(private)

    def store(self, path: Path) -> None:
        """Write an 0600 PKCS #8 PEM file. Never overwrites.

        Raises:
            ConfigurationError: the file exists.
        """
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ConfigurationError(f"signing key {path} exists already; it is not overwritten") from error
        with os.fdopen(handle, "wb") as file:
            file.write(pem)

    def sign_bytes(self, payload: bytes) -> bytes:
        """Sign raw bytes: 64 bytes for Ed25519, ES256 as DER for P-256."""
        return bytes.fromhex(self._signer.sign(payload).signature)

    def sign(self, document: SignedDocument) -> Envelope:
        """Sign a document; the envelope carries this one signature."""
        return sign_payload(canonical.encode(document), payload_type=document.payload_type, keys=(self,))


def sign_payload(payload: bytes, *, payload_type: str, keys: tuple[SigningKey, ...]) -> Envelope:
    """Sign exactly these bytes with every key given."""
    pae = dsse.Envelope(payload, payload_type, {}).pae()
    signatures = sorted(
        (Signature(keyid=key.public.key_id, sig=key.sign_bytes(pae)) for key in keys), key=lambda s: s.keyid
    )
    return Envelope(payload=payload, payload_type=payload_type, signatures=tuple(signatures))


def verify_envelope(envelope: Envelope, *, into: type[D], keys: tuple[PublicKey, ...], threshold: int = 1) -> D:
    """Verify every signature and decode the payload.

    Args:
        envelope: untrusted.
        into: the document type; its payload type must be the envelope's.
        keys: the keys whose signatures count.
        threshold: how many different keys must have signed, at least 1.

    Raises:
        VerificationError: another payload type, an unknown, repeated or wrong signature, or too few of them.
        MalformedInputError: the payload is not the canonical encoding of such a document.
    """
    kind = into.__name__
    if threshold < 1:
        raise VerificationError(f"{kind} with a threshold of {threshold}; wanted at least 1")
    if envelope.payload_type != into.payload_type:
        raise VerificationError(f"{kind} has payload type {envelope.payload_type[:80]!r}, wanted {into.payload_type!r}")
    known = {key.key_id: key for key in keys}
    ids = [signature.keyid for signature in envelope.signatures]
    if ids != sorted(set(ids)):
        raise VerificationError(f"{kind} has repeated or unsorted signatures")
    if len(ids) < threshold:
        raise VerificationError(f"{kind} has {len(ids)} signatures, wanted at least {threshold}", code="threshold")
    pae = dsse.Envelope(envelope.payload, envelope.payload_type, {}).pae()
    for signature in envelope.signatures:
        if signature.keyid not in known:
            raise VerificationError(f"{kind} is signed by the unknown key {signature.keyid}", code="unknown_signer")
        verify_signature(signature.sig, payload=pae, key=known[signature.keyid], subject=kind)
    return canonical.decode(envelope.payload, into=into)


def verify_signature(signature: bytes, *, payload: bytes, key: PublicKey, subject: str) -> None:
    """Verify one raw signature, by an Ed25519 or P-256 key.

    Raises:
        VerificationError: the signature is not of this key over these bytes.
    """
    try:
        _sslib_key(key).verify_signature(sslib.Signature(key.key_id, signature.hex()), payload)
    except (UnverifiedSignatureError, SslibVerificationError, ValueError) as error:
        raise VerificationError(f"{subject} has a wrong signature by {key.key_id}", code="bad_signature") from error


@lru_cache(maxsize=1024)
def _key_id(key: PublicKey) -> Digest:
    return canonical.digest(key)


def _public_key(private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> PublicKey:
    if isinstance(private, Ed25519PrivateKey):
        return PublicKey(scheme="ed25519", key=private.public_key().public_bytes_raw())
    if not isinstance(private.curve, ec.SECP256R1):
        raise ConfigurationError(f"signing key is on curve {private.curve.name}, wanted P-256")
    point = private.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return PublicKey(scheme="p256", key=point)


@lru_cache(maxsize=1024)
def _sslib_key(key: PublicKey) -> sslib.SSlibKey:
    if key.scheme == "ed25519":
        return sslib.SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.key), key.key_id)
    if key.scheme == "p256":
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.key)
        return sslib.SSlibKey.from_crypto(point, key.key_id)
    raise MalformedInputError(f"{key.scheme} keys do not sign")
