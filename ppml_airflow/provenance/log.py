"""The broker's append-only log: an RFC 9162 Merkle tree over entries, its head signed wherever the broker signs it.

An entry holds digests only, so that a proof shows one run's entries and, of all others, nothing but hashes. Inclusion
proofs say that an entry stands in the log under a head; consistency proofs, that a later head continues an earlier one.

Does not protect against a broker that keeps two logs, unless heads are pinned: `TrustBundle.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ppml_airflow import canonical, merkle
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import NonNegative
from ppml_airflow.errors import VerificationError
from ppml_airflow.units import Digest, HexId, Instant

LogKind = Literal[
    "certificate", "policy", "approval", "revocation", "manifest", "recovery", "session",
    "run", "pins", "evidence", "lease", "receipt", "denial", "release", "closed",
]  # fmt: skip
"""What an entry's body is the digest of. From `run` on, an entry names its run."""


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


class Consistency(Document, frozen=True, kw_only=True):
    """A proof that the log of `second` entries begins with the log of `first`. `path`: 32-byte hashes in a row."""

    first: NonNegative
    second: NonNegative
    path: bytes


class LogProof(Document, frozen=True, kw_only=True):
    """That a run's entries stand in the log, and that the log continues earlier heads."""

    paths: tuple[bytes, ...]
    """The audit path of each entry, in their order: 32-byte hashes in a row, from the leaf upwards."""
    earlier: tuple[Consistency, ...]


EMPTY_ROOT: Digest = "sha256:" + merkle.EMPTY_ROOT.hex()
"""The root of a log without entries."""


def leaf_of(entry: LogEntry) -> bytes:
    """The leaf hash of an entry: SHA-256(0x00 || its canonical encoding)."""
    return merkle.leaf_hash(canonical.encode(entry))


def prove(entries: Iterable[LogEntry], *, size: int, earlier: Iterable[int], read: merkle.Reader) -> LogProof:
    """A proof for these entries in the log of `size` entries, and for these earlier sizes of it."""
    paths = merkle.prove_inclusions([entry.index for entry in entries], size=size, read=read)
    return LogProof(
        paths=paths, earlier=tuple(prove_consistency(first, second=size, read=read) for first in sorted(set(earlier)))
    )


def prove_consistency(first: int, *, second: int, read: merkle.Reader) -> Consistency:
    """A proof that the log of `second` entries begins with the log of `first`."""
    (path,) = merkle.prove_consistencies([first], size=second, read=read)
    return Consistency(first=first, second=second, path=path)


def verify_log(proof: LogProof, *, head: Checkpoint, entries: Iterable[LogEntry]) -> None:
    """Verify that a log with this head holds these entries, each at its index.

    Raises:
        VerificationError: an entry is not in the log, out of order, or has no path.
    """
    entries = tuple(entries)
    if len(proof.paths) != len(entries):
        raise VerificationError(f"log proof has {len(proof.paths)} paths for {len(entries)} entries", code="log_broken")
    root, previous = _raw(head.log_root), -1
    for entry, path in zip(entries, proof.paths, strict=True):
        if entry.index <= previous:
            raise VerificationError(f"log entry {entry.index} is repeated or out of order", code="log_broken")
        previous = entry.index
        try:
            merkle.verify_inclusion(path, leaf=leaf_of(entry), index=entry.index, size=head.log_size, root=root)
        except VerificationError as error:
            raise VerificationError(
                f"log entry {entry.index} ({entry.kind}) is not in the log of {head.log_size} entries with root "
                f"{head.log_root}",
                code="log_broken",
            ) from error


def verify_continues(proof: Consistency, *, earlier: Checkpoint, later: Checkpoint) -> None:
    """Verify that a log with the later head begins with the one of the earlier head.

    Raises:
        VerificationError: it does not.
    """
    if (proof.first, proof.second) != (earlier.log_size, later.log_size):
        raise VerificationError(
            f"log proof is for {proof.first} to {proof.second} entries, wanted {earlier.log_size} to {later.log_size}",
            code="log_broken",
        )
    merkle.verify_consistency(
        proof.path,
        first=earlier.log_size,
        first_root=_raw(earlier.log_root),
        size=later.log_size,
        root=_raw(later.log_root),
    )


def _raw(value: Digest) -> bytes:
    return bytes.fromhex(value.removeprefix("sha256:"))
