"""The log's newest signed head, kept in a file outside the database: a database that is rolled back is noticed.

The file is written after a decision is committed and before it is answered, so it never runs ahead of the database,
and whatever somebody was told is anchored. It is replaced whole. Whoever can roll back both file and database can roll
back the broker: keep the file on another disk, and pin checkpoints elsewhere.

Protocol: rule 14.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, UnavailableError, VerificationError
from ppml_airflow.provenance.notes import MAX_NOTE_BYTES, SignedHead, sign_head, verify_head
from ppml_airflow.signing import PublicKey, SigningKey

RECOVER_HINT = "stop every broker of this domain; ppml broker recover shows what is lost, and goes on without it"


class Anchor:
    """The file with the newest head. Threads may share it."""

    def __init__(self, path: Path, *, key: SigningKey) -> None:
        self._path = path
        self._key = key
        self._lock = threading.Lock()
        self._reached = (0, 0)

    def load(self, *, domain: Domain, keys: Iterable[PublicKey]) -> SignedHead | None:
        """The anchored head; None if there is no file.

        Raises:
            ConfigurationError: the file cannot be read, or is another domain's.
            MalformedInputError: it holds no checkpoint.
            VerificationError: it was not signed by one of these keys.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_NOTE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"anchor {self._path} cannot be read: {error.strerror}") from error
        signed = verify_head(data.decode(errors="replace"), keys=keys)
        if signed.domain_id != domain.domain_id:
            raise ConfigurationError(f"anchor {self._path} is of domain {signed.domain_id}", code="other_domain")
        self._reached = (signed.epoch, signed.head.log_size)
        return signed

    def require_reached(self, size: int) -> None:
        """Refuse a log that is behind what this process has anchored.

        Raises:
            VerificationError: it is.
        """
        if size < self._reached[1]:
            raise VerificationError(
                f"log in the store has {size} entries, the anchor {self._reached[1]}",
                code="store_behind",
                hint=RECOVER_HINT,
            )

    def advance(self, signed: SignedHead) -> None:
        """Anchor a head, unless a newer one is anchored.

        Raises:
            UnavailableError: the file cannot be written. The decision stands: asking again gets its answer.
        """
        with self._lock:
            if (signed.epoch, signed.head.log_size) > self._reached or not self._path.exists():
                self._write(signed)

    def replace(self, signed: SignedHead) -> None:
        """Anchor a head in place of any other: after a recovery.

        Raises:
            UnavailableError: the file cannot be written.
        """
        with self._lock:
            self._write(signed)

    def _write(self, signed: SignedHead) -> None:
        try:
            self._replace_file(sign_head(signed, key=self._key).encode())
        except OSError as error:
            raise UnavailableError(
                f"anchor {self._path} cannot be written: {error.strerror}", code="anchor_failed"
            ) from error
        self._reached = (signed.epoch, signed.head.log_size)

    def _replace_file(self, note: bytes) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
