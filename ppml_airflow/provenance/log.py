"""The broker's append-only log: a hash chain over entries, its head signed wherever the broker signs it (RunClosed).

An entry holds digests only, so that a proof shows one run's entries and, of all others, nothing but their number.
A proof starts at the first entry of the log: any earlier head that somebody has pinned can be compared with it. It
grows with the log (32 bytes an entry); an RFC 9162 tree can take its place behind `prove`, `verify_log` and `root_at`.

Does not protect against a broker that keeps two logs, unless heads are pinned: `TrustBundle.checkpoints`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from ppml_airflow.canonical import Document, digest
from ppml_airflow.domain.documents import NonNegative
from ppml_airflow.errors import VerificationError
from ppml_airflow.units import Digest, HexId, Instant

LogKind = Literal[
    "certificate", "policy", "approval", "revocation", "manifest",
    "run", "pins", "evidence", "lease", "receipt", "denial", "release", "closed",
]  # fmt: skip
"""What an entry's body is the digest of. From `run` on, an entry names its run."""

_LABEL = b"ppml/v1/log\0"
_HASH_BYTES = 32


class LogEntry(Document, frozen=True, kw_only=True):
    """One line of the log. `index` counts from 0; `body` is the digest of the document that was accepted."""

    index: NonNegative
    time: Instant
    kind: LogKind
    run_id: HexId | None
    body: Digest


class Checkpoint(Document, frozen=True, kw_only=True):
    """The head of a log: how many entries, and the root over them."""

    log_size: NonNegative
    log_root: Digest


class LogProof(Document, frozen=True, kw_only=True):
    """The digests of all entries, 32 raw bytes each, from the first on."""

    leaves: bytes


def _digest_of(raw: bytes) -> Digest:
    return "sha256:" + raw.hex()


def _raw(value: Digest) -> bytes:
    return bytes.fromhex(value.removeprefix("sha256:"))


EMPTY_ROOT: Digest = _digest_of(hashlib.sha256(_LABEL).digest())
"""The root of a log without entries."""


def chain(root: Digest, *, entry: LogEntry) -> Digest:
    """The root after one more entry: SHA-256("ppml/v1/log" 0x00 || root, 32 bytes || H(entry), 32 bytes)."""
    return _digest_of(_link(_raw(root), _raw(digest(entry))))


def prove(leaves: Iterable[Digest]) -> LogProof:
    """A proof for any entry among these.

    Args:
        leaves: `H(entry)` of every entry of the log in order, from index 0 up to the size that is proved.
    """
    return LogProof(leaves=b"".join(map(_raw, leaves)))


def verify_log(proof: LogProof, *, head: Checkpoint, entries: Iterable[LogEntry]) -> None:
    """Verify that a log with this head holds these entries, each at its index.

    Raises:
        VerificationError: the proof has another size or root, or an entry is not in the log.
    """
    if len(proof.leaves) != head.log_size * _HASH_BYTES:
        raise VerificationError(
            f"log proof has {len(proof.leaves)} bytes, wanted {_HASH_BYTES} for each of {head.log_size} entries",
            code="log_broken",
        )
    if root_at(proof, size=head.log_size) != head.log_root:
        raise VerificationError(
            f"log of {head.log_size} entries does not have the root {head.log_root}", code="log_broken"
        )
    previous = -1
    for entry in entries:
        if entry.index <= previous:
            raise VerificationError(f"log entry {entry.index} is repeated or out of order", code="log_broken")
        previous = entry.index
        start = entry.index * _HASH_BYTES
        if proof.leaves[start : start + _HASH_BYTES] != _raw(digest(entry)):
            raise VerificationError(f"log entry {entry.index} ({entry.kind}) is not in the log", code="log_broken")


def root_at(proof: LogProof, *, size: int) -> Digest:
    """The root over the first `size` entries.

    Raises:
        VerificationError: the proof has fewer entries.
    """
    if size * _HASH_BYTES > len(proof.leaves):
        raise VerificationError(
            f"log proof has {len(proof.leaves) // _HASH_BYTES} entries, wanted at least {size}", code="log_broken"
        )
    root = _raw(EMPTY_ROOT)
    for start in range(0, size * _HASH_BYTES, _HASH_BYTES):
        root = _link(root, proof.leaves[start : start + _HASH_BYTES])
    return _digest_of(root)


def _link(root: bytes, leaf: bytes) -> bytes:
    return hashlib.sha256(_LABEL + root + leaf).digest()
