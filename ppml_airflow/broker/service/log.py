"""The log in the store: entries, and the hashes of complete subtrees, from which roots and proofs are made.

An append writes one entry and on average two hashes; a root or a proof reads as many as the tree is high. Rows are
believed only as far as they hash to a head that was signed or anchored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ppml_airflow import canonical, merkle
from ppml_airflow.broker import store
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.provenance import log
from ppml_airflow.provenance.log import Checkpoint, Consistency, LogEntry, LogKind, LogProof
from ppml_airflow.units import Digest, Instant

_NODES_AT_ONCE = 1000
_LAST = sa.select(store.log).order_by(store.log.c.position.desc()).limit(1)
_NODES = sa.select(store.log_node).where(store.log_node.c.id.in_(sa.bindparam("nodes", expanding=True)))
_INSERT_ENTRIES, _INSERT_NODES = sa.insert(store.log), sa.insert(store.log_node)


class StoredLog:
    """The log as one transaction sees it. `size` is the number of entries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        last = connection.execute(_LAST).one_or_none()
        self.size = last.position + 1 if last else 0
        self.last: LogEntry | None = canonical.decode(last.entry, into=LogEntry) if last else None
        self._peaks: list[bytes] | None = None
        self._entries: list[dict[str, Any]] = []
        self._nodes: dict[merkle.Node, bytes] = {}

    def append(self, kind: LogKind, *, body: Digest, run_id: str | None, time: Instant) -> None:
        """Append an entry; it is written by `flush`."""
        entry = LogEntry(index=self.size, time=time, kind=kind, run_id=run_id, body=body)
        self._nodes |= merkle.grow(self._read_peaks(), size=self.size, leaf=log.leaf_of(entry))
        row = {"position": self.size, "run_id": run_id, "kind": kind, "body": body, "entry": canonical.encode(entry)}
        self._entries.append(row)
        self.size, self.last = self.size + 1, entry

    def flush(self) -> None:
        """Write the entries that were appended: at the end of a decision, and before the log is read."""
        if self._entries:
            self._connection.execute(_INSERT_ENTRIES, self._entries)
            nodes = [{"id": node, "hash": value} for node, value in self._nodes.items()]
            self._connection.execute(_INSERT_NODES, nodes)
            self._entries, self._nodes = [], {}

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is written inside when an error leaves it, here as in the database."""
        self.flush()
        before = self.size, self.last
        try:
            with self._connection.begin_nested():
                yield
        except BaseException:
            (self.size, self.last), self._peaks = before, None
            self._entries, self._nodes = [], {}
            raise

    def head(self) -> Checkpoint:
        """Size and root."""
        return Checkpoint(log_size=self.size, log_root=_digest(merkle.fold(self._read_peaks())))

    def head_at(self, size: int) -> Checkpoint:
        """Size and root when the log had so many entries.

        Raises:
            ConfigurationError: it has fewer.
        """
        self._require_size(size)
        return Checkpoint(log_size=size, log_root=_digest(merkle.prove_root(size, read=self._read)))

    def prove(self, entries: Collection[LogEntry], *, size: int, earlier: Iterable[int]) -> LogProof:
        """That these entries stand in the log of `size` entries, and that it continues earlier sizes."""
        return log.prove(entries, size=size, earlier=earlier, read=self._read)

    def prove_consistency(self, first: int, *, second: int) -> Consistency:
        """That the log of `second` entries begins with the log of `first`.

        Raises:
            ConfigurationError: it has fewer, or the sizes are the wrong way round.
        """
        self._require_size(second)
        if first > second:
            raise ConfigurationError(f"log of {second} entries does not begin with {first}", code="log_size")
        return log.prove_consistency(first, second=second, read=self._read)

    def entries_of(self, run_id: str) -> list[LogEntry]:
        """The entries of a run, oldest first."""
        self.flush()
        rows = store.find_all(self._connection, store.log, order="position", run_id=run_id)
        return [canonical.decode(row.entry, into=LogEntry) for row in rows]

    def entry_about(self, body: Digest) -> LogEntry:
        """The first entry about a document.

        Raises:
            ConfigurationError: there is none.
        """
        self.flush()
        rows = store.find_all(self._connection, store.log, order="position", body=body)
        if not rows:
            raise ConfigurationError(f"log has no entry about {body[:80]}", code="not_found")
        return canonical.decode(rows[0].entry, into=LogEntry)

    def positions_of(self, kind: LogKind, *, newest: int) -> list[int]:
        """Where the newest entries of a kind stand."""
        self.flush()
        table = store.log
        query = sa.select(table.c.position).where(table.c.kind == kind).order_by(table.c.position.desc()).limit(newest)
        return list(self._connection.execute(query).scalars())

    def _require_size(self, size: int) -> None:
        if size > self.size:
            raise ConfigurationError(f"log has {self.size} entries, asked for {size}", code="log_size")

    def _read_peaks(self) -> list[bytes]:
        if self._peaks is None:
            nodes = merkle.peaks(self.size)
            stored = self._read(nodes)
            self._peaks = [stored[node] for node in nodes]
        return self._peaks

    def _read(self, nodes: Collection[merkle.Node]) -> Mapping[merkle.Node, bytes]:
        self.flush()
        wanted = sorted(nodes)
        found: dict[merkle.Node, bytes] = {}
        for start in range(0, len(wanted), _NODES_AT_ONCE):
            rows = self._connection.execute(_NODES, {"nodes": wanted[start : start + _NODES_AT_ONCE]})
            found.update((row.id, bytes(row.hash)) for row in rows)
        if len(found) != len(set(wanted)):
            raise ConfigurationError(
                "log misses hashes of its tree", code="store_damaged", hint="restore the database from a backup"
            )
        return found


def _digest(raw: bytes) -> Digest:
    return "sha256:" + raw.hex()
