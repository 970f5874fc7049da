"""The database: an SQLite file, or PostgreSQL for several instances of one broker.

One transaction per decision, and one decision at a time, over all threads and instances: what a decision has read is
still so when it writes. SQLite locks its file for that, PostgreSQL a number. A commit is on disk when it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ppml_airflow.broker.store.upgrade import upgrade
from ppml_airflow.errors import ConfigurationError, UnavailableError

WAIT_S = 30
"""Seconds that a decision waits for those before it."""

_LOCK = int.from_bytes(b"ppml/log")
"""The number of the advisory lock under which PostgreSQL's decisions queue."""


class Store:
    """The database. Everything happens inside `transaction()`, which is exclusive.

    Raises:
        ConfigurationError: the database is of a release that this one cannot continue.
        UnavailableError: it cannot be reached.
    """

    def __init__(self, url: URL, *, wait_s: int = WAIT_S) -> None:
        make_engine = _sqlite_engine if url.get_backend_name() == "sqlite" else _postgresql_engine
        self._engine = make_engine(url, wait_s=wait_s)
        with self.transaction() as connection:
            upgrade(connection)

    @classmethod
    def open(cls, database: str, *, wait_s: int = WAIT_S) -> Store:
        """Open or create a database: the path of an SQLite file, or `postgresql://user@host/name`.

        Raises:
            ConfigurationError: another kind of database, or a password in its address.
        """
        if "://" not in database:
            return cls.file(Path(database), wait_s=wait_s)
        try:
            url = sa.make_url(database)
        except exc.ArgumentError as error:
            raise ConfigurationError("database is no address; wanted postgresql://user@host/name") from error
        if url.drivername != "postgresql":
            raise ConfigurationError(f"database is {url.drivername}, wanted an SQLite file's path or postgresql://")
        if url.password is not None:
            raise ConfigurationError(
                "database has a password in its address", hint="name a file of passwords: ?passfile=/path/to/pgpass"
            )
        return cls(url.set(drivername="postgresql+psycopg"), wait_s=wait_s)

    @classmethod
    def file(cls, path: Path, *, wait_s: int = WAIT_S) -> Store:
        """Open or create an SQLite file, readable by its owner only."""
        try:
            path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"database {path} cannot be opened: {error.strerror}") from error
        return cls(URL.create("sqlite", database=str(path)), wait_s=wait_s)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One decision: committed whole, or not at all.

        Raises:
            UnavailableError: the database cannot be reached, is full, or others kept it too long.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, exc.TimeoutError) as error:
            raise UnavailableError(f"store does not answer: {_reason(error)}", code="store_unavailable") from error

    def back_up(self, target: Path) -> None:
        """Copy an SQLite file while it is in use, to a new file that is its owner's alone.

        Raises:
            ConfigurationError: the database is PostgreSQL, or the file exists or cannot be written.
        """
        if self._engine.dialect.name != "sqlite":
            raise ConfigurationError(
                "database is PostgreSQL, which has its own way", hint="pg_dump --format=custom, or continuous archiving"
            )
        try:
            target.touch(mode=0o600, exist_ok=False)
        except OSError as error:
            raise ConfigurationError(f"backup {target} cannot be written: {error.strerror}") from error
        with closing(self._engine.raw_connection()) as source, closing(sqlite3.connect(target)) as copy:
            cast(sqlite3.Connection, source.driver_connection).backup(copy)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def one(connection: Connection, query: sa.Select[Any]) -> sa.Row[Any] | None:
    """The only row of a query, or None."""
    return connection.execute(query).one_or_none()


def _reason(error: Exception) -> str:
    """The driver's first line; never the statement, whose parameters are no one's business."""
    said = str(error.orig) if isinstance(error, DBAPIError) else "too many decisions wait"
    return said.strip().partition("\n")[0]


def _sqlite_engine(url: URL, *, wait_s: int) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": wait_s, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's own BEGIN below, instead of the driver's lazy one
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: URL, *, wait_s: int) -> Engine:
    # Each statement sees what was committed before it: under another level, a decision would see the store as it was
    # before it had waited for the others.
    engine = sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=wait_s,
        connect_args={"options": f"-c synchronous_commit=on -c lock_timeout={wait_s}s", "connect_timeout": 10},
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    return engine
