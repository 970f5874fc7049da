from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow.protocol.peers import is_served, parse_users, user_of

NOBODY = 65534
CONNECT = (
    "import os, socket, sys; os.setuid(int(sys.argv[2])); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"
)


@pytest.fixture
def address() -> Iterator[Path]:
    """Of a socket that everybody may reach, as no service makes it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "open.sock"


def connection_by(user: int, address: Path) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        address.chmod(0o666)
        listener.listen()
        subprocess.run([sys.executable, "-c", CONNECT, str(address), str(user)], check=True)
        return listener.accept()[0]


def test_a_process_of_the_same_user_is_known(address: Path) -> None:
    with connection_by(os.getuid(), address) as connection:
        assert user_of(connection) == os.getuid()
        assert is_served(connection)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may connect as somebody else")
def test_another_user_is_told_apart_though_the_socket_is_open_to_everybody(address: Path) -> None:
    with connection_by(NOBODY, address) as connection:
        assert user_of(connection) == NOBODY
        assert not is_served(connection)
        assert not is_served(connection, users=parse_users(["1000-1999"]))
        assert is_served(connection, users=parse_users(["1000-1999", str(NOBODY)]))
