"""The sealed log of an attempt: what a job printed, for those whom the approval lets read it, and for nobody else.

`storage/logs/<run_id>/<step>-<attempt>/` holds `log` (a padded body under a key made here) and `log.json`, which says
for which attempt it is and wraps the key to each certified log key. The receipt names the digest of `log.json`, so that
neither can be replaced unnoticed. The end of a long log is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.errors import MalformedInputError, PolicyDeniedError, VerificationError
from ppml_airflow.sealing.body import open_part_bytes, seal_part
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.sealing.wrapping import Recipient, SealingKey, hpke_open, hpke_seal, new_key
from ppml_airflow.units import MIB, Digest, HexId, Name

MAX_LOG_BYTES = 32 * MIB
_BODY, _HEADER = "log", "log.json"


class LogWrap(Document, frozen=True, kw_only=True):
    """The key of a log, wrapped to a certified log key."""

    serial: HexId
    wrapped: bytes


class LogOrigin(Document, frozen=True, kw_only=True):
    """Which attempt a log is of."""

    domain_id: Digest
    run_id: HexId
    step: Name
    attempt: Annotated[int, Meta(ge=1)]
    lease_id: HexId


class SealedLog(Document, frozen=True, kw_only=True):
    """`log.json`."""

    origin: LogOrigin
    body: Part
    wraps: tuple[LogWrap, ...]


def log_folder(storage: Path, *, run_id: HexId, step: Name, attempt: int, member: int = 0) -> Path:
    """Where the sealed log of an attempt lies; of a set's members but the first beside it."""
    return storage / "logs" / run_id / (f"{step}-{attempt}.{member}" if member else f"{step}-{attempt}")


def seal_log(
    log: Path, *, storage: Path, origin: LogOrigin, recipients: Sequence[Recipient], member: int = 0
) -> Digest:
    """Seal the log of an attempt, or an empty one if there is none, and return what the receipt calls it by."""
    folder = log_folder(storage, run_id=origin.run_id, step=origin.step, attempt=origin.attempt, member=member)
    folder.mkdir(parents=True, exist_ok=True)
    key = new_key()
    sealed = seal_part(_end_of(log), folder / _BODY, key=key, context=_context(origin), padded=True)
    header = SealedLog(
        origin=origin,
        body=Part(path=_BODY, size=sealed.size, digest=sealed.digest, sealed_version=1),
        wraps=tuple(
            LogWrap(serial=to.serial, wrapped=hpke_seal(key, to=to.key, info=_info(origin, serial=to.serial)))
            for to in recipients
        ),
    )
    (folder / _HEADER).write_bytes(canonical.encode(header))
    for file in (folder / _BODY, folder / _HEADER):
        file.chmod(0o644)  # ciphertext
    return canonical.digest(header)


def open_log(folder: Path, *, key: SealingKey, serial: HexId, expected: Digest) -> bytes:
    """Open the sealed log of an attempt.

    Args:
        folder: `log_folder` of the attempt.
        key: the private log key.
        serial: of the certificate of that key.
        expected: `log` of the attempt's receipt.

    Raises:
        PolicyDeniedError: the log is not sealed to this key.
        VerificationError: missing, changed, or not the log that the receipt names.
    """
    try:
        data = (folder / _HEADER).read_bytes()
        header = canonical.decode(data, into=SealedLog)
    except (OSError, MalformedInputError) as error:
        raise VerificationError(f"sealed log {folder.name} is missing or malformed", code="log_missing") from error
    if canonical.digest_bytes(data) != expected:
        raise VerificationError(f"sealed log {folder.name} is not the one that the receipt names", code="log_changed")
    wrap = next((wrap for wrap in header.wraps if wrap.serial == serial), None)
    if wrap is None:
        raise PolicyDeniedError(f"sealed log {folder.name} is not sealed to {serial}", code="not_a_recipient")
    opened = hpke_open(wrap.wrapped, key=key, info=_info(header.origin, serial=serial))
    return open_part_bytes(folder / _BODY, part=header.body, key=opened, context=_context(header.origin), padded=True)


def _end_of(log: Path) -> bytes:
    if not log.is_file():
        return b""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_LOG_BYTES))
        return file.read()


def _context(origin: LogOrigin) -> bytes:
    return canonical.encode({"label": "ppml/v1/log-body", "origin": canonical.digest(origin)})


def _info(origin: LogOrigin, *, serial: HexId) -> bytes:
    return canonical.encode({"label": "ppml/v1/log", "origin": canonical.digest(origin), "serial": serial})
