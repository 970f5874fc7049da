"""A PostgreSQL server of the tests' own: Debian's programs, a temporary folder, a Unix socket and no port."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
}
"""Durable enough for a server that is thrown away: no test cuts its power."""


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, of the newest version that is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    on_path = shutil.which("initdb")
    newest = sorted(found, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    return newest[-1] if newest else Path(on_path).parent if on_path else None


def why_not() -> str:
    """Why there is no server to be had here; empty if there is."""
    if find_programs() is None:
        return "PostgreSQL is not installed; on Debian: apt-get install postgresql"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


class Cluster:
    """A running server."""

    def __init__(self, folder: Path, *, user: str) -> None:
        self.folder = folder
        self.user = user

    def create_database(self, name: str = "", *, template: str = "template1") -> str:
        """Make an empty database, or a copy of a template that nobody uses.

        Returns:
            Its address, as `broker.yaml` names it.
        """
        name = name or "broker_" + secrets.token_hex(6)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        with psycopg.connect(host=str(self.folder), user=self.user, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)
        return f"postgresql://{self.user}@/{name}?host={self.folder}"


@contextmanager
def running_cluster(*, settings: Mapping[str, str] = SETTINGS) -> Iterator[Cluster]:
    """Start a server; it is stopped and its folder removed at the end."""
    programs, user = find_programs(), _user()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="ppml-pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user=user)
    name = user or pwd.getpwuid(os.getuid()).pw_name
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", name, "-A", "trust", "-E", "UTF8", "--no-sync",
             "--no-locale", "--no-instructions"],
            user=user, env={"PATH": os.defpath}, cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-k", folder, *options],
                user=user, env={"PATH": os.defpath}, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            _wait(folder, server=server, user=name)
            yield Cluster(folder, user=name)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


def _wait(folder: Path, *, server: subprocess.Popen[bytes], user: str) -> None:
    for _ in range(300):
        assert server.poll() is None, (folder / "log").read_text()
        try:
            psycopg.connect(host=str(folder), user=user, dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("PostgreSQL did not start: " + (folder / "log").read_text())


def _user() -> str | None:
    """Whom the server runs as: nobody else than who tests, but never root."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None
