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


class StoredLog:
    """The log as one transaction sees it. `size` is the number of entries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        last = self._last()
        self.size = last.position + 1 if last else 0
        self.last: LogEntry | None = canonical.decode(last.entry, into=LogEntry) if last else None
        self._peaks: list[bytes] | None = None

    def append(self, kind: LogKind, *, body: Digest, run_id: str | None, time: Instant) -> None:
        """Append an entry."""
        entry = LogEntry(index=self.size, time=time, kind=kind, run_id=run_id, body=body)
        peaks = self._read_peaks()
        completed = merkle.grow(peaks, size=self.size, leaf=log.leaf_of(entry))
        row = {"position": self.size, "run_id": run_id, "kind": kind, "body": body, "entry": canonical.encode(entry)}
        self._connection.execute(sa.insert(store.log), row)
        self._connection.execute(
            sa.insert(store.log_node), [{"id": node, "hash": value} for node, value in completed.items()]
        )
        self.size, self.last = self.size + 1, entry

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is written inside when an error leaves it, here as in the database."""
        before = self.size, self.last
        try:
            with self._connection.begin_nested():
                yield
        except BaseException:
            (self.size, self.last), self._peaks = before, None
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
        table = store.log
        query = sa.select(table.c.entry).where(table.c.run_id == run_id).order_by(table.c.position)
        return [canonical.decode(row.entry, into=LogEntry) for row in self._connection.execute(query)]

    def entry_about(self, body: Digest) -> LogEntry:
        """The first entry about a document.

        Raises:
            ConfigurationError: there is none.
        """
        table = store.log
        query = sa.select(table.c.entry).where(table.c.body == body).order_by(table.c.position).limit(1)
        row = self._connection.execute(query).first()
        if row is None:
            raise ConfigurationError(f"log has no entry about {body[:80]}", code="not_found")
        return canonical.decode(row.entry, into=LogEntry)

    def positions_of(self, kind: LogKind, *, newest: int) -> list[int]:
        """Where the newest entries of a kind stand."""
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
        table, wanted = store.log_node, sorted(nodes)
        found: dict[merkle.Node, bytes] = {}
        for start in range(0, len(wanted), _NODES_AT_ONCE):
            query = sa.select(table).where(table.c.id.in_(wanted[start : start + _NODES_AT_ONCE]))
            found.update((row.id, bytes(row.hash)) for row in self._connection.execute(query))
        if len(found) != len(set(wanted)):
            raise ConfigurationError(
                "log misses hashes of its tree", code="store_damaged", hint="restore the database from a backup"
            )
        return found

    def _last(self) -> sa.Row[Any] | None:
        return store.one(self._connection, sa.select(store.log).order_by(store.log.c.position.desc()).limit(1))


def _digest(raw: bytes) -> Digest:
    return "sha256:" + raw.hex()
