from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.listening import listening_socket


def test_only_its_own_user_may_open_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    with listening_socket(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with listening_socket(f"unix:{path}"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_file_that_is_not_a_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"), listening_socket(f"unix:{path}"):
        pass
    assert path.read_text() == "precious"


def test_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longer than"), listening_socket(f"unix:{tmp_path}/{'x' * 120}"):
        pass


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be served"), listening_socket(f"unix:{tmp_path}/file/x.sock"):
        pass


def test_tcp_address_is_served() -> None:
    with listening_socket("http://127.0.0.1:0") as sock, socket.create_connection(sock.getsockname()):
        pass


def test_port_in_use_is_refused() -> None:
    with listening_socket("http://127.0.0.1:0") as sock:
        address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="in use"), listening_socket(address):
            pass


def test_port_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigurationError), listening_socket("http://127.0.0.1:99999"):
        pass
