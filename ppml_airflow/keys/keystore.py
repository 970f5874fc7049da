"""A key management service in one file, for the embedded default: key-encryption keys under a passphrase.

The file is canonical JSON: a random salt, and the table of keys sealed by AES-256-GCM under Argon2id(passphrase, salt).
So neither a key nor its state (enabled or disabled) can be changed without the passphrase; an old copy of the whole
file can be put back. Every call reads the file again, so that a key disabled by another process is disabled here.
Refuses a file that others can read, a wrong passphrase, an empty context.

Source: RFC 9106 (Argon2id, t = 3, 64 MiB, p = 4), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError, VerificationError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_SALT_BYTES = 16
_TABLE_LABEL = b"ppml/v1/keystore"
_WRAP_LABEL = "ppml/v1/keystore-wrap"


class _StoredFile(Document, frozen=True, kw_only=True):
    v: Literal[1]
    salt: Annotated[bytes, msgspec.Meta(min_length=_SALT_BYTES, max_length=_SALT_BYTES)]
    sealed: bytes
    """Nonce, then the sealed `_KeyTable`."""


class _StoredKey(Document, frozen=True, kw_only=True):
    key: bytes
    is_enabled: bool

    def __repr__(self) -> str:
        return "a key"


class _KeyTable(Document, frozen=True, kw_only=True):
    keys: Mapping[str, _StoredKey]


class KeystoreFile:
    """A `KeyManagementService` in an 0600 file. Its passphrase is asked for once; its keys are read at every use."""

    def __init__(self, path: Path, *, salt: bytes, table_key: bytes) -> None:
        self._path = path
        self._salt = salt
        self._table_key = AESGCM(table_key)

    @classmethod
    def create(cls, path: Path, *, passphrase: bytes) -> Self:
        """Make an empty keystore.

        Raises:
            ConfigurationError: the file exists, or the passphrase is empty.
        """
        if path.exists():
            raise ConfigurationError(f"keystore {path} exists already; it is not overwritten")
        salt = secrets.token_bytes(_SALT_BYTES)
        keystore = cls(path, salt=salt, table_key=_derive(passphrase, salt=salt))
        with keystore._locked():
            keystore._store(_KeyTable(keys={}))
        return keystore

    @classmethod
    def load(cls, path: Path, *, passphrase: bytes) -> Self:
        """Open a keystore.

        Raises:
            ConfigurationError: no such file, others may read it, not a keystore, or a wrong passphrase.
        """
        salt = _read_file(path).salt
        keystore = cls(path, salt=salt, table_key=_derive(passphrase, salt=salt))
        keystore._load()
        return keystore

    def create_key(self, key_id: str) -> None:
        """Make a key-encryption key. Raises ConfigurationError if it exists."""
        with self._locked():
            keys = self._load()
            if key_id in keys:
                raise ConfigurationError(f"key {key_id} exists already in keystore {self._path}", code="key_exists")
            self._store(
                _KeyTable(keys={**keys, key_id: _StoredKey(key=secrets.token_bytes(_KEY_BYTES), is_enabled=True)})
            )

    def disable(self, key_id: str) -> None:
        """Refuse to use a key from now on, until it is enabled."""
        self._switch(key_id, is_enabled=False)

    def enable(self, key_id: str) -> None:
        """Use a disabled key again."""
        self._switch(key_id, is_enabled=True)

    def wrap(self, secret: bytes, *, key_id: str, context: Mapping[str, str]) -> bytes:
        """Encrypt a secret under a key, for this context: 12 bytes of nonce, ciphertext, 16 bytes of tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._usable(key_id).encrypt(nonce, secret, _associated(key_id, context=context))

    def unwrap(self, wrapped: bytes, *, key_id: str, context: Mapping[str, str]) -> bytes:
        """Decrypt what `wrap` gave for the same key and context."""
        key, associated = self._usable(key_id), _associated(key_id, context=context)
        try:
            return key.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], associated)
        except (InvalidTag, ValueError) as error:
            raise VerificationError(
                f"wrapped secret does not open under key {key_id}: made for another context or key, or changed",
                code="wrong_context",
            ) from error

    def _usable(self, key_id: str) -> AESGCM:
        stored = self._known(self._load(), key_id=key_id)
        if not stored.is_enabled:
            raise PolicyDeniedError(f"key {key_id} is disabled", code="key_disabled", hint="its owner can enable it")
        return AESGCM(stored.key)

    def _switch(self, key_id: str, *, is_enabled: bool) -> None:
        with self._locked():
            keys = self._load()
            changed = msgspec.structs.replace(self._known(keys, key_id=key_id), is_enabled=is_enabled)
            self._store(_KeyTable(keys={**keys, key_id: changed}))

    def _known(self, keys: Mapping[str, _StoredKey], *, key_id: str) -> _StoredKey:
        if key_id not in keys:
            raise ConfigurationError(f"keystore {self._path} has no key {key_id}", code="unknown_key")
        return keys[key_id]

    def _load(self) -> Mapping[str, _StoredKey]:
        stored = _read_file(self._path)
        try:
            nonce, sealed = stored.sealed[:_NONCE_BYTES], stored.sealed[_NONCE_BYTES:]
            table = self._table_key.decrypt(nonce, sealed, _TABLE_LABEL + stored.salt)
        except (InvalidTag, ValueError) as error:
            raise ConfigurationError(
                f"keystore {self._path} does not open: wrong passphrase, or the file was changed",
                code="wrong_passphrase",
            ) from error
        return canonical.decode(table, into=_KeyTable).keys

    def _store(self, table: _KeyTable) -> None:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._table_key.encrypt(nonce, canonical.encode(table), _TABLE_LABEL + self._salt)
        unfinished = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(canonical.encode(_StoredFile(v=1, salt=self._salt, sealed=sealed)))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the keystore's lock file: two processes never overwrite each other's change."""
        handle = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def load_passphrase(path: Path) -> bytes:
    """Read a passphrase from an 0600 file: its first line.

    Raises:
        ConfigurationError: no such file, others may read it, or it is empty.
    """
    lines = _read_private(path, subject="passphrase file").splitlines()
    if not lines or not lines[0]:
        raise ConfigurationError(f"passphrase file {path} is empty")
    return lines[0]


def _derive(passphrase: bytes, *, salt: bytes) -> bytes:
    if not passphrase:
        raise ConfigurationError("passphrase of a keystore is empty")
    return Argon2id(salt=salt, length=_KEY_BYTES, iterations=3, lanes=4, memory_cost=64 * 1024).derive(passphrase)


def _associated(key_id: str, *, context: Mapping[str, str]) -> bytes:
    if not context:
        raise ConfigurationError(f"context of a secret under key {key_id} is empty")
    return canonical.encode({"label": _WRAP_LABEL, "key_id": key_id, "context": dict(context)})


def _read_file(path: Path) -> _StoredFile:
    try:
        return canonical.decode(_read_private(path, subject="keystore"), into=_StoredFile)
    except MalformedInputError as error:
        raise ConfigurationError(f"{path} is not a keystore") from error


def _read_private(path: Path, *, subject: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise ConfigurationError(
                    f"{subject} {path} has mode {mode:04o}; wanted 0600", hint=f"run: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{subject} {path} cannot be read: {error.strerror}") from error
