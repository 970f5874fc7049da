from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ppml_airflow.enclaves.quoting.relay import Relay
from ppml_airflow.errors import ConfigurationError


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


@contextmanager
def relaying(folder: Path, *, address: str) -> Iterator[Path]:
    relay = Relay(listen(folder / "inner"), address=address)
    try:
        yield folder / "inner"
    finally:
        relay.close()


@pytest.mark.parametrize("kind", ["unix", "http"])
def test_bytes_go_both_ways_and_the_end_of_one_side_is_passed_on(tmp_path: Path, kind: str) -> None:
    broker = listen(tmp_path / "outer") if kind == "unix" else socket.create_server(("127.0.0.1", 0))
    address = f"unix:{tmp_path}/outer" if kind == "unix" else f"http://127.0.0.1:{broker.getsockname()[1]}"
    with broker, relaying(tmp_path, address=address) as path, dial(path) as guest:
        guest.sendall(b"question")
        guest.shutdown(socket.SHUT_WR)
        accepted, _ = broker.accept()
        with accepted:
            assert accepted.recv(100) == b"question"
            assert accepted.recv(100) == b""
            accepted.sendall(b"answer")
        assert guest.recv(100) == b"answer"
        assert guest.recv(100) == b""


def test_a_broker_that_is_down_looks_down_from_inside_and_may_come_back(tmp_path: Path) -> None:
    with relaying(tmp_path, address=f"unix:{tmp_path}/outer") as path:
        with dial(path) as guest:
            assert guest.recv(1) == b""
        with listen(tmp_path / "outer") as broker, dial(path) as guest:
            guest.sendall(b"x")
            accepted, _ = broker.accept()
            with accepted:
                assert accepted.recv(1) == b"x"


def test_closing_ends_what_is_open(tmp_path: Path) -> None:
    with listen(tmp_path / "outer") as broker:
        relay = Relay(listen(tmp_path / "inner"), address=f"unix:{tmp_path}/outer")
        guest = dial(tmp_path / "inner")
        accepted, _ = broker.accept()
        relay.close()
        assert guest.recv(1) == b""
        guest.close()
        accepted.close()


def test_an_address_that_cannot_be_led_to_is_refused(tmp_path: Path) -> None:
    with listen(tmp_path / "inner") as listener, pytest.raises(ConfigurationError, match="cannot be reached"):
        Relay(listener, address="https://broker")
