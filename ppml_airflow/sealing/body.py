"""The sealed body of a part: one Cobblestone-256 message per file, padded to a size class where size could speak.

The context names domain, dataset, version, path and position, so that a part opens only in its place: swapped within
a dataset or between datasets, versions or domains it is refused, and so is one that was flipped, cut or extended. A
padded body is 8 bytes of length (big endian), the data, and zeros up to a class: 1 MiB, 2 MiB, 4 MiB and so on.

Refuses to leave anything behind on failure: a target appears by one rename, and buffers are wiped, because a failed
decryption leaves unauthenticated plaintext in them.

Source: c2sp.org/chunked-encryption, by `cryptography.cobblestone`.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.units import KIB, MIB, Digest, Name, RelativePath

LENGTH_BYTES = 8
SMALLEST_CLASS_BYTES = MIB

_BATCH_BYTES = MIB
_HEADER_BYTES = 56
_CHUNK_BYTES = 16 * KIB
_SEALED_CHUNK_BYTES = _CHUNK_BYTES + 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBody:
    """What a manifest says of a sealed file: its size in bytes and its SHA-256."""

    size: int
    digest: Digest


def part_context(
    *, domain_id: Digest, dataset: Name, version: int, path: RelativePath, index: int, count: int
) -> bytes:
    """The context of one part: the version under which it was sealed, and its position (from 0) among that many."""
    return canonical.encode(
        {
            "label": "ppml/v1/part",
            "domain_id": domain_id,
            "dataset": dataset,
            "version": version,
            "path": path,
            "index": index,
            "count": count,
        }
    )


def padded_bytes(length: int) -> int:
    """The class of a padded body that holds `length` bytes of data: a power of two, at least 1 MiB."""
    return max(SMALLEST_CLASS_BYTES, 1 << (LENGTH_BYTES + length - 1).bit_length())


def seal_part(source: Path | bytes, target: Path, *, key: bytes, context: bytes, padded: bool) -> SealedBody:
    """Seal a file, or bytes, into a new file.

    Raises:
        ConfigurationError: the source cannot be read, or changed while it was read.
    """
    with _reading(source) as reader, appearing(target, mode=0o644) as writer:  # whoever may enter the storage may read
        digest = hashlib.sha256()
        size = 0
        plain = _padded(reader) if padded else _read(reader)
        for batch in _digested(sealed_batches(plain, key=key, context=context), digest=digest):
            size += writer.write(batch)
    return SealedBody(size=size, digest="sha256:" + digest.hexdigest())


def open_part(source: Path, target: Path, *, part: Part, key: bytes, context: bytes, padded: bool) -> None:
    """Open a sealed file into a new file, which appears only when all of it is authentic.

    Raises:
        VerificationError: missing, not of the manifest's size and digest, or not sealed with this key for this place.
    """
    with appearing(target) as writer:
        open_into(writer, source=source, part=part, key=key, context=context, padded=padded)


def open_part_bytes(source: Path, *, part: Part, key: bytes, context: bytes, padded: bool) -> bytes:
    """Open a sealed file into memory. Raises as `open_part` does."""
    writer = io.BytesIO()
    open_into(writer, source=source, part=part, key=key, context=context, padded=padded)
    return writer.getvalue()


def open_into(writer: BinaryIO, *, source: Path, part: Part, key: bytes, context: bytes, padded: bool) -> None:
    """Open a sealed file into a writer. What was written is to be believed only once this has returned.

    Raises:
        VerificationError: missing, not of the manifest's size and digest, or not sealed with this key for this place.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with source.open("rb", buffering=0) as reader:
            batches = opened_batches(_digested(_read(reader), digest=digest), key=key, context=context)
            for batch in _unpadded(batches, part=part) if padded else batches:
                writer.write(batch)
            size = reader.tell()
    except FileNotFoundError as error:
        raise VerificationError(f"part {part.path} is missing", code="part_missing") from error
    except InvalidTag as error:
        raise VerificationError(
            f"part {part.path} is not whole, not in its place, or sealed under another key", code="part_changed"
        ) from error
    if size != part.size or not hmac.compare_digest("sha256:" + digest.hexdigest(), part.digest):
        raise VerificationError(f"part {part.path} is not the one that the manifest names", code="part_changed")


@contextmanager
def appearing(target: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Write a new file under a temporary name; it gets its own name if all went well and is gone if not."""
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as writer:
            yield writer
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- batches, in buffers that are reused and wiped


def sealed_batches(batches: Iterable[memoryview], *, key: bytes, context: bytes) -> Iterator[memoryview]:
    """Seal a stream. A batch given has at most 1 MiB; one got is valid until the next is asked for."""
    encryptor = Cobblestone256Encryptor(key, context)
    sealed = memoryview(
        bytearray(_HEADER_BYTES + _BATCH_BYTES // _CHUNK_BYTES * _SEALED_CHUNK_BYTES + _SEALED_CHUNK_BYTES)
    )
    for batch in batches:
        yield sealed[: encryptor.update_into(batch, sealed)]
    yield memoryview(encryptor.finalize())


def opened_batches(batches: Iterable[memoryview], *, key: bytes, context: bytes) -> Iterator[memoryview]:
    """Open a stream. A batch given has at most 1 MiB; one got is valid until the next is asked for.

    What was got is authentic but for the end of the stream, which may be missing until the last batch has come.

    Raises:
        InvalidTag: not sealed with this key for this context, or changed.
    """
    decryptor = Cobblestone256Decryptor(key, context)
    with _wiped(_BATCH_BYTES + _SEALED_CHUNK_BYTES) as opened:
        for batch in batches:
            yield opened[: decryptor.update_into(batch, opened)]
        yield memoryview(decryptor.finalize())


def _reading(source: Path | bytes) -> io.FileIO | io.BytesIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb", buffering=0)
    except OSError as error:
        raise ConfigurationError(f"file {source} cannot be read: {error.strerror}") from error


def _read(reader: io.FileIO | io.BytesIO) -> Iterator[memoryview]:
    with _wiped(_BATCH_BYTES) as buffer:
        while count := reader.readinto(buffer):
            yield buffer[:count]


def _digested(batches: Iterable[memoryview], *, digest: hashlib._Hash) -> Iterator[memoryview]:
    for batch in batches:
        digest.update(batch)
        yield batch


def _padded(reader: io.FileIO | io.BytesIO) -> Iterator[memoryview]:
    length = reader.seek(0, os.SEEK_END)
    reader.seek(0)
    yield memoryview(length.to_bytes(LENGTH_BYTES, "big"))
    yield from _read(reader)
    if reader.tell() != length:
        raise ConfigurationError(f"a file of {length} bytes changed its length while it was sealed")
    missing = padded_bytes(length) - LENGTH_BYTES - length
    zeros = memoryview(bytes(min(missing, _BATCH_BYTES)))
    while missing:
        yield zeros[:missing]
        missing -= len(zeros[:missing])


def _unpadded(batches: Iterator[memoryview], *, part: Part) -> Iterator[memoryview]:
    malformed = VerificationError(f"part {part.path} has a malformed padding", code="part_changed")
    first = next(batches)
    if len(first) < LENGTH_BYTES:
        raise malformed
    length = int.from_bytes(first[:LENGTH_BYTES], "big")
    total = LENGTH_BYTES
    for batch in itertools.chain([first[LENGTH_BYTES:]], batches):
        data = batch[: max(0, LENGTH_BYTES + length - total)]
        if batch[len(data) :].tobytes().strip(b"\0"):
            raise malformed
        total += len(batch)
        yield data
    if total != padded_bytes(length):
        raise malformed


@contextmanager
def _wiped(size: int) -> Iterator[memoryview]:
    """A buffer of plaintext, zero again when done: a failed decryption leaves unauthenticated plaintext in it."""
    buffer = bytearray(size)
    try:
        yield memoryview(buffer)
    finally:
        buffer[:] = bytes(size)
