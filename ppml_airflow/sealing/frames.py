"""Sealed record frames: how a stream lies in storage, segment by segment, so that no record can be moved unnoticed.

A segment is a file of frames, one after the other. A frame holds some records of one partition, encrypted together:

     0   4  magic `PPF1`
     4  16  place: the first bytes of SHA-256 over the segment's AAD; tells which key opens the frame
    20   4  partition
    24   8  sequence: 0, 1, 2, ... within the partition, going on from segment to segment
    32   4  records
    36   4  flags: 1 in the last frame of a partition, which may hold no record
    40   4  bytes of ciphertext, tag included
    44  12  nonce, random
    56      AES-256-GCM of the records (one line each, joined by newlines); AAD: the segment's AAD, then bytes 0 to 43

Integers are big endian. The segment's AAD names domain, dataset, version and path, and its key is derived from the data
key with it. So a frame that was dropped, repeated, swapped, cut, flipped or taken from elsewhere is refused, and the
error names its segment, partition and sequence. `jvm/` reads and writes the same frames; vectors: `jvm/vectors`.

Source: NIST SP 800-38D (AES-GCM, random nonces of 96 bits); RFC 5869 (HKDF).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppml_airflow import canonical
from ppml_airflow.errors import VerificationError
from ppml_airflow.sealing.tables import file_key
from ppml_airflow.units import MIB, Digest, Name, RelativePath

FRAME_RECORDS: Final = 256
"""So many records share a nonce, a tag and a header: measured, 0.1 us a record instead of 2."""

MAGIC: Final = b"PPF1"
HEADER_BYTES: Final = 44
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_FRAME_BYTES: Final = 64 * MIB

_HEADER = struct.Struct(">4s16sIQIII")
_LAST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentKey:
    """What opens or writes one segment: its own key (32 bytes) and its AAD."""

    key: bytes = field(repr=False)
    aad: bytes

    @property
    def place(self) -> bytes:
        """How frames of this segment say where they belong (16 bytes)."""
        return hashlib.sha256(self.aad).digest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The header of a frame. It is authentic only once the frame has been opened."""

    place: bytes
    partition: int
    sequence: int
    records: int
    is_last: bool
    ciphertext_bytes: int

    def encode(self) -> bytes:
        """The 44 bytes."""
        flags = _LAST if self.is_last else 0
        return _HEADER.pack(
            MAGIC, self.place, self.partition, self.sequence, self.records, flags, self.ciphertext_bytes
        )


def segment_aad(*, domain_id: Digest, dataset: Name, version: int, path: RelativePath) -> bytes:
    """The AAD of a segment; `version` is the one under which it was sealed."""
    return canonical.encode(
        {"label": "ppml/v1/frames", "domain_id": domain_id, "dataset": dataset, "version": version, "path": path}
    )


def segment_key(data_key: bytes, *, aad: bytes) -> SegmentKey:
    """Derive a segment's key from the data key of its dataset."""
    return SegmentKey(key=file_key(data_key, aad=aad), aad=aad)


class SegmentWriter:
    """Writes the frames of one partition into one segment. `sequence` is the number of the next frame."""

    def __init__(self, target: BinaryIO, *, key: SegmentKey, partition: int, sequence: int = 0) -> None:
        self.sequence = sequence
        self._target = target
        self._key = key
        self._cipher = AESGCM(key.key)
        self._partition = partition

    def write(self, records: Sequence[bytes], *, is_last: bool = False) -> None:
        """Seal one frame. No record may hold a newline."""
        plain = b"\n".join(records)
        header = Frame(
            place=self._key.place,
            partition=self._partition,
            sequence=self.sequence,
            records=len(records),
            is_last=is_last,
            ciphertext_bytes=len(plain) + TAG_BYTES,
        ).encode()
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._target.write(header + nonce + self._cipher.encrypt(nonce, plain, self._key.aad + header))
        self.sequence += 1

    def write_all(self, records: Iterable[bytes]) -> None:
        """Seal records in frames of `FRAME_RECORDS`."""
        remaining = iter(records)
        while frame := list(islice(remaining, FRAME_RECORDS)):
            self.write(frame)


class StreamOrder:
    """Follows the partitions of one stream, and says which frame is missing, repeated or out of place.

    Segments are read in the order of the manifest; those of one partition follow each other.
    """

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._ended: set[int] = set()

    def follow(self, frame: Frame, *, segment: str) -> None:
        """Require that a frame is the next of its partition.

        Raises:
            VerificationError: one was dropped, repeated, swapped or added; names segment, partition and sequence.
        """
        wanted = self._next.get(frame.partition, 0)
        if frame.partition in self._ended:
            raise _broken("frame_repeated", segment, frame, "comes after the last frame of its partition")
        if frame.sequence > wanted:
            raise VerificationError(
                f"segment {segment}, partition {frame.partition}: frame {wanted} is missing, {frame.sequence} stands"
                " in its place",
                code="frame_missing",
            )
        if frame.sequence < wanted:
            raise _broken("frame_repeated", segment, frame, f"stands where frame {wanted} belongs")
        self._next[frame.partition] = wanted + 1
        if frame.is_last:
            self._ended.add(frame.partition)

    def require_end(self) -> None:
        """Require that every partition has come to its last frame.

        Raises:
            VerificationError: the end of a partition was cut off.
        """
        for partition, sequence in sorted(self._next.items()):
            if partition not in self._ended:
                raise VerificationError(
                    f"partition {partition}: frame {sequence} is missing, with all that follow", code="frame_missing"
                )


def read_headers(source: Path) -> Iterator[Frame]:
    """Read the headers of a segment, which need no key and are not authentic.

    Raises:
        VerificationError: it is missing or not made of whole frames; names the place.
    """
    with _reading(source) as reader:
        while (frame := _next_header(reader, segment=source.name)) is not None:
            _rest(reader, frame=frame, segment=source.name)
            yield frame


def require_place(frame: Frame, *, place: bytes, segment: str) -> None:
    """Require that a frame says to belong to this segment.

    Raises:
        VerificationError: it was sealed for another segment, version, stream or domain.
    """
    if not hmac.compare_digest(frame.place, place):
        raise _broken("frame_misplaced", segment, frame, "was sealed for another segment, version or stream")


def open_segment(source: Path, *, key: SegmentKey, order: StreamOrder) -> Iterator[tuple[Frame, list[bytes]]]:
    """Open a segment frame by frame. What was got is authentic and in order; the end of the stream is `require_end`'s.

    Raises:
        VerificationError: a frame is not whole, not in its place or not authentic; names segment, partition, sequence.
    """
    cipher, name = AESGCM(key.key), source.name
    with _reading(source) as reader:
        while (frame := _next_header(reader, segment=name)) is not None:
            require_place(frame, place=key.place, segment=name)
            order.follow(frame, segment=name)
            nonce, ciphertext = _rest(reader, frame=frame, segment=name)
            try:
                plain = cipher.decrypt(nonce, ciphertext, key.aad + frame.encode())
            except InvalidTag as error:
                raise _broken("frame_changed", name, frame, "was changed, or sealed under another key") from error
            records = plain.split(b"\n") if frame.records else []
            if len(records) != frame.records:
                raise _broken("frame_changed", name, frame, "holds another number of records than it says")
            yield frame, records


def _reading(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except FileNotFoundError as error:
        raise VerificationError(f"segment {source.name} is missing", code="part_missing") from error


def _next_header(reader: BinaryIO, *, segment: str) -> Frame | None:
    at = reader.tell()
    header = reader.read(HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise VerificationError(f"segment {segment} is cut off within the frame at byte {at}", code="frame_cut")
    magic, place, partition, sequence, records, flags, size = _HEADER.unpack(header)
    if magic != MAGIC or flags not in (0, _LAST) or not TAG_BYTES <= size <= MAX_FRAME_BYTES:
        raise VerificationError(f"segment {segment} holds no frame at byte {at}", code="frame_changed")
    return Frame(
        place=place,
        partition=partition,
        sequence=sequence,
        records=records,
        is_last=flags == _LAST,
        ciphertext_bytes=size,
    )


def _rest(reader: BinaryIO, *, frame: Frame, segment: str) -> tuple[bytes, bytes]:
    nonce, ciphertext = reader.read(NONCE_BYTES), reader.read(frame.ciphertext_bytes)
    if len(nonce) != NONCE_BYTES or len(ciphertext) != frame.ciphertext_bytes:
        raise _broken("frame_cut", segment, frame, "is cut off")
    return nonce, ciphertext


def _broken(code: str, segment: str, frame: Frame, why: str) -> VerificationError:
    return VerificationError(f"segment {segment}, partition {frame.partition}: frame {frame.sequence} {why}", code=code)
