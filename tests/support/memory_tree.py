"""A log's tree in memory, for runs that no broker logged."""

from __future__ import annotations

from collections.abc import Iterable

from ppml_airflow import merkle
from ppml_airflow.provenance.log import LogEntry, leaf_of


def reader_of(entries: Iterable[LogEntry]) -> merkle.Reader:
    """What reads the hashes of the complete subtrees over these entries."""
    return reader_of_leaves(map(leaf_of, entries))


def reader_of_leaves(leaves: Iterable[bytes]) -> merkle.Reader:
    """The same over leaf hashes."""
    nodes: dict[merkle.Node, bytes] = {}
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        nodes |= merkle.grow(peaks, size=size, leaf=leaf)
    return lambda wanted: {node: nodes[node] for node in wanted}
