"""The Merkle tree of RFC 9162: roots, inclusion and consistency proofs, made from few stored hashes, and verified.

Makers ask a `Reader` for the hashes of complete subtrees; how those are stored is not known here. Verifiers believe
nothing: a path of another length, a hash of another size or an index outside the tree is refused.

Does not know what leaves mean; a path is raw 32-byte hashes, one after the other, from the leaf upwards.

Source: RFC 9162, sections 2.1.1 to 2.1.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ppml_airflow.errors import VerificationError

HASH_BYTES = 32
MAX_PATH_BYTES = 128 * HASH_BYTES
"""A consistency path over 2**64 leaves has at most 65 hashes."""

EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = int
"""A complete subtree, numbered in order: at a level (of leaves: 0) and index it is ((2 index + 1) << level) - 1."""

Reader = Callable[[Collection[Node]], Mapping[Node, bytes]]
"""Fetches the hashes of complete subtrees."""

Span = tuple[int, int]
"""Leaves from (inclusive) and to (exclusive): complete, or reaching to the end of the tree."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# ---------------------------------------------------------------- to make


def node(level: int, index: int) -> Node:
    """The number of a complete subtree."""
    return ((2 * index + 1) << level) - 1


def peaks(size: int) -> tuple[Node, ...]:
    """The complete subtrees that a tree of so many leaves consists of, largest first."""
    return cover((0, size))


def cover(span: Span) -> tuple[Node, ...]:
    """The complete subtrees that make up a span, left to right."""
    start, end = span
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append(node(level, start >> level))
        start += 1 << level
    return tuple(found)


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, given left to right, each smaller than the one before."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def grow(hashes: list[bytes], *, size: int, leaf: bytes) -> dict[Node, bytes]:
    """Append a leaf's hash to a tree of `size` leaves; `hashes` are those of its peaks and are brought up to date.

    Returns:
        The complete subtrees that are new.
    """
    completed, index, level = {node(0, size): leaf}, size, 0
    root = leaf
    while index & 1:
        root = node_hash(hashes.pop(), root)
        index, level = index >> 1, level + 1
        completed[node(level, index)] = root
    hashes.append(root)
    return completed


def prove_root(size: int, *, read: Reader) -> bytes:
    """The root of the tree when it had so many leaves."""
    return _hashes([(0, size)], read=read)[(0, size)]


def prove_inclusions(indices: Iterable[int], *, size: int, read: Reader) -> tuple[bytes, ...]:
    """The audit path of each leaf in a tree of `size` leaves."""
    wanted = [_inclusion_spans(index, span=(0, size)) for index in indices]
    hashes = _hashes([span for spans in wanted for span in spans], read=read)
    return tuple(b"".join(hashes[span] for span in spans) for spans in wanted)


def prove_consistencies(firsts: Iterable[int], *, size: int, read: Reader) -> tuple[bytes, ...]:
    """For each earlier size, the proof that the tree of `size` leaves continues it."""
    wanted = [_consistency_spans(first, span=(0, size), whole=True) if first else [] for first in firsts]
    hashes = _hashes([span for spans in wanted for span in spans], read=read)
    return tuple(b"".join(hashes[span] for span in spans) for spans in wanted)


def _split(span: Span) -> int:
    """Where RFC 9162 divides a span: after the largest power of two that is smaller than it."""
    start, end = span
    return start + (1 << (end - start - 1).bit_length() - 1)


def _inclusion_spans(index: int, *, span: Span) -> list[Span]:
    start, end = span
    if end - start == 1:
        return []
    middle = _split(span)
    if index < middle:
        return [*_inclusion_spans(index, span=(start, middle)), (middle, end)]
    return [*_inclusion_spans(index, span=(middle, end)), (start, middle)]


def _consistency_spans(first: int, *, span: Span, whole: bool) -> list[Span]:
    """SUBPROOF(first, span, whole): `whole` while the earlier tree is the one that the verifier holds the root of."""
    start, end = span
    if first == end:
        return [] if whole else [span]
    middle = _split(span)
    if first <= middle:
        return [*_consistency_spans(first, span=(start, middle), whole=whole), (middle, end)]
    return [*_consistency_spans(first, span=(middle, end), whole=False), (start, middle)]


def _hashes(spans: Collection[Span], *, read: Reader) -> dict[Span, bytes]:
    covers = {span: cover(span) for span in spans}
    stored = read({node for nodes in covers.values() for node in nodes})
    return {span: fold([stored[node] for node in nodes]) for span, nodes in covers.items()}


# ---------------------------------------------------------------- to verify


def verify_inclusion(path: bytes, *, leaf: bytes, index: int, size: int, root: bytes) -> None:
    """Verify that a leaf's hash stands at an index of the tree with this size and root.

    Raises:
        VerificationError: it does not.
    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise VerificationError(f"leaf {index} is outside a tree of {size} leaves", code="log_broken")
    current, position, last = leaf, index, size - 1
    for sibling in _split_path(path):
        if last == 0:
            raise VerificationError(f"audit path of leaf {index} is too long", code="log_broken")
        if position & 1 or position == last:
            current = node_hash(sibling, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    if last or current != root:
        raise VerificationError(f"leaf {index} is not in the tree of {size} leaves with this root", code="log_broken")


def verify_consistency(path: bytes, *, first: int, first_root: bytes, size: int, root: bytes) -> None:
    """Verify that the tree with this size and root begins with the earlier tree.

    Raises:
        VerificationError: it does not.
    Source: RFC 9162, section 2.1.4.2; trees of equal size and the empty tree, which it leaves out, need no path.
    """
    broken = VerificationError(f"tree of {size} leaves does not continue the one of {first}", code="log_broken")
    if not 0 <= first <= size:
        raise broken
    hashes = _split_path(path)
    if first in (0, size):
        if hashes or first_root != (root if first == size else EMPTY_ROOT):
            raise broken
        return
    if first & (first - 1) == 0:
        hashes = [first_root, *hashes]
    if not hashes:
        raise broken
    position, last = first - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise broken
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    if last or old != first_root or new != root:
        raise broken


def _split_path(path: bytes) -> list[bytes]:
    if len(path) % HASH_BYTES or len(path) > MAX_PATH_BYTES:
        raise VerificationError(f"path has {len(path)} bytes, wanted a multiple of {HASH_BYTES}", code="log_broken")
    return [path[start : start + HASH_BYTES] for start in range(0, len(path), HASH_BYTES)]
