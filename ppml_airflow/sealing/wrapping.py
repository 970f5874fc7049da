"""Wrapping of data keys: HPKE to an X-Wing key, and for a recipient under a release key as well.

Every wrap is bound to what it is for by its HPKE `info`: the canonical JSON of a label and the names of domain,
dataset, version and key. So a wrapped key copied to another dataset, version, domain or lease does not open there
(attack: confused deputy). HPKE authenticates no sender; who sealed is told by the signature over the manifest or the
lease.

Source: RFC 9180 base mode, KEM 0x647A (X-Wing: ML-KEM-768 and X25519), HKDF-SHA256, AES-256-GCM, by `cryptography`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.sealing.manifest import Wrap
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import Digest, HexId, Name

KEY_BYTES = 32
"""Length of data keys and release keys."""

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32
_NONCE_BYTES = 12


class Recipient(Protocol):
    """A certified X-Wing key: what is read here of its holder's certificate (`domain.documents.Certificate`)."""

    @property
    def serial(self) -> HexId: ...

    @property
    def key(self) -> PublicKey: ...


class DatasetKey(Recipient, Protocol):
    """A dataset's certified X-Wing key, likewise."""

    @property
    def kek_id(self) -> str: ...


class _StoredKey(Document, frozen=True, kw_only=True):
    """The file of a sealing key: 64 bytes of ML-KEM-768 seed and 32 bytes of X25519 key."""

    scheme: Literal["xwing"]
    private: bytes

    def __repr__(self) -> str:
        return "a private X-Wing key"


class SealingKey:
    """A private X-Wing key, held in memory, in an 0600 JSON file, or wrapped by a KMS."""

    PRIVATE_BYTES: ClassVar[int] = _MLKEM_SEED_BYTES + _X25519_BYTES

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self.hpke_key = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = PublicKey(
            scheme="xwing", key=mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> Self:
        """Make a new random key."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, private: bytes) -> Self:
        """Read the 96 bytes that `private_bytes` gave.

        Raises:
            MalformedInputError: another length.
        """
        if len(private) != cls.PRIVATE_BYTES:
            raise MalformedInputError(f"sealing key has {len(private)} private bytes, wanted {cls.PRIVATE_BYTES}")
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(private[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(private[_MLKEM_SEED_BYTES:]),
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `store` wrote.

        Raises:
            ConfigurationError: no such file, or not a sealing key.
        """
        try:
            stored = canonical.decode(path.read_bytes(), into=_StoredKey)
            return cls.from_private_bytes(stored.private)
        except OSError as error:
            raise ConfigurationError(f"sealing key {path} cannot be read: {error.strerror}") from error
        except MalformedInputError:
            # The parser's message may quote the file, which is secret.
            raise ConfigurationError(f"sealing key {path} is not an X-Wing key file") from None

    def store(self, path: Path) -> None:
        """Write an 0600 JSON file. Never overwrites.

        Raises:
            ConfigurationError: the file exists.
        """
        stored = canonical.encode(_StoredKey(scheme="xwing", private=self.private_bytes()))
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ConfigurationError(f"sealing key {path} exists already; it is not overwritten") from error
        with os.fdopen(handle, "wb") as file:
            file.write(stored)

    def private_bytes(self) -> bytes:
        """The 96 secret bytes, for a KMS to wrap."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()


def new_key() -> bytes:
    """Make a random data key or release key."""
    return secrets.token_bytes(KEY_BYTES)


# ---------------------------------------------------------------- what a wrap is for


def data_key_info(*, domain_id: Digest, dataset: Name, version: int, kek_id: str) -> bytes:
    """HPKE info of a data key wrapped to its dataset's certified key."""
    return canonical.encode(
        {"label": "ppml/v1/data-key", "domain_id": domain_id, "dataset": dataset, "version": version, "kek_id": kek_id}
    )


def recipient_info(*, domain_id: Digest, dataset: Name, version: int, serial: HexId) -> bytes:
    """HPKE info, and AAD under the release key, of a data key wrapped to the recipient of an output."""
    return canonical.encode(
        {"label": "ppml/v1/recipient", "domain_id": domain_id, "dataset": dataset, "version": version, "serial": serial}
    )


def lease_info(lease: Digest) -> bytes:
    """HPKE info of a lease's keys, sealed to the enclave's key E: the digest of the lease that they belong to."""
    return canonical.encode({"label": "ppml/v1/lease", "lease": lease})


def release_info(*, run_id: HexId, dataset: Name, serial: HexId) -> bytes:
    """HPKE info of a release key that the broker hands to a recipient."""
    return canonical.encode({"label": "ppml/v1/release", "run_id": run_id, "dataset": dataset, "serial": serial})


def dataset_key_context(*, domain_id: Digest, dataset: Name, kek_id: str) -> Mapping[str, str]:
    """KMS context of the private half of a dataset's X-Wing key."""
    return {"label": "ppml/v1/dataset-key", "domain_id": domain_id, "dataset": dataset, "kek_id": kek_id}


def release_key_context(*, domain_id: Digest, lease_id: HexId, dataset: Name) -> Mapping[str, str]:
    """KMS context of a release key that lies at the broker."""
    return {"label": "ppml/v1/release-key", "domain_id": domain_id, "lease_id": lease_id, "dataset": dataset}


def token_key_context(*, domain_id: Digest, kid: str) -> Mapping[str, str]:
    """KMS context of a key that signs tokens, while it is the broker's."""
    return {"label": "ppml/v1/token-key", "domain_id": domain_id, "kid": kid}


def cluster_secret_context(*, domain_id: Digest, set_id: HexId) -> Mapping[str, str]:
    """KMS context of a set's cluster secret that lies at the broker while its attempt is open."""
    return {"label": "ppml/v1/cluster-secret", "domain_id": domain_id, "set_id": set_id}


# ---------------------------------------------------------------- HPKE


def hpke_seal(plaintext: bytes, *, to: PublicKey, info: bytes) -> bytes:
    """Seal bytes to an X-Wing key: 1120 bytes of encapsulated key, the ciphertext, 16 bytes of tag.

    Raises:
        MalformedInputError: not an X-Wing key, or not a valid one.
    """
    if to.scheme != "xwing":
        raise MalformedInputError(f"public key {to.key_id} is of scheme {to.scheme}, wanted xwing")
    try:
        public = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(to.key[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(to.key[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, public, info=info)
    except ValueError as error:
        raise MalformedInputError(f"public key {to.key_id} is not a valid X-Wing key") from error


def hpke_open(sealed: bytes, *, key: SealingKey, info: bytes) -> bytes:
    """Open what `hpke_seal` sealed.

    Raises:
        VerificationError: sealed to another key or for another purpose, or changed.
    """
    try:
        return _SUITE.decrypt(sealed, key.hpke_key, info=info)
    except (InvalidTag, ValueError) as error:
        raise VerificationError(
            "sealed bytes do not open: sealed to another key, for another purpose, or changed", code="wrong_wrap"
        ) from error


# ---------------------------------------------------------------- data keys


def wrap_for_dataset(
    data_key: bytes, *, dataset_key: DatasetKey, domain_id: Digest, dataset: Name, version: int
) -> Wrap:
    """Wrap a version's data key to its dataset's certified key."""
    info = data_key_info(domain_id=domain_id, dataset=dataset, version=version, kek_id=dataset_key.kek_id)
    return Wrap(
        to="dataset",
        serial=dataset_key.serial,
        wrapped=hpke_seal(_require_key(data_key), to=dataset_key.key, info=info),
    )


def unwrap_for_dataset(
    wrap: Wrap, *, key: SealingKey, domain_id: Digest, dataset: Name, version: int, kek_id: str
) -> bytes:
    """Unwrap a version's data key with the private half of its dataset's key.

    Raises:
        VerificationError: a wrap for somebody else, for another dataset, version or domain, or changed.
    """
    _require_wrap_to(wrap, to="dataset")
    info = data_key_info(domain_id=domain_id, dataset=dataset, version=version, kek_id=kek_id)
    return _require_key(hpke_open(wrap.wrapped, key=key, info=info))


def wrap_for_recipient(
    data_key: bytes, *, recipient: Recipient, release_key: bytes, domain_id: Digest, dataset: Name, version: int
) -> Wrap:
    """Wrap an output's data key so that only the recipient opens it, and only once he is given the release key."""
    info = recipient_info(domain_id=domain_id, dataset=dataset, version=version, serial=recipient.serial)
    sealed = hpke_seal(_require_key(data_key), to=recipient.key, info=info)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    wrapped = nonce + AESGCM(_require_key(release_key)).encrypt(nonce, sealed, info)
    return Wrap(to="recipient", serial=recipient.serial, wrapped=wrapped)


def unwrap_for_recipient(
    wrap: Wrap, *, key: SealingKey, release_key: bytes, domain_id: Digest, dataset: Name, version: int
) -> bytes:
    """Unwrap an output's data key with the recipient's private key and the release key.

    Raises:
        VerificationError: another release key, a wrap for somebody else, another dataset or version, or changed.
    """
    _require_wrap_to(wrap, to="recipient")
    info = recipient_info(domain_id=domain_id, dataset=dataset, version=version, serial=wrap.serial)
    try:
        sealed = AESGCM(_require_key(release_key)).decrypt(
            wrap.wrapped[:_NONCE_BYTES], wrap.wrapped[_NONCE_BYTES:], info
        )
    except (InvalidTag, ValueError) as error:
        raise VerificationError(
            f"data key of {dataset} for {wrap.serial} does not open with this release key", code="wrong_release_key"
        ) from error
    return _require_key(hpke_open(sealed, key=key, info=info))


def _require_wrap_to(wrap: Wrap, *, to: Literal["dataset", "recipient"]) -> None:
    if wrap.to != to:
        raise VerificationError(
            f"wrapped key {wrap.serial} is for a {wrap.to}, wanted one for a {to}", code="wrong_wrap"
        )


def _require_key(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise VerificationError(f"key has {len(key)} bytes, wanted {KEY_BYTES}", code="wrong_key_length")
    return key
