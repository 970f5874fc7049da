"""The socket that a service listens on: a Unix socket that only its own user may open, or loopback or network TCP.

uvicorn would make a Unix socket that everybody may write to; so the socket is bound here and handed over.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ppml_airflow.errors import ConfigurationError

_MAX_SOCKET_PATH_BYTES = 107


@contextmanager
def listening_socket(address: str) -> Iterator[socket.socket]:
    """Bind `unix:/path` (mode 0600, its file removed at the end) `http://host:port` or `https://host:port`.

    The caller must know that no other living process serves the same path: a socket file found there is replaced.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    sock = _bind(address)
    try:
        yield sock
    finally:
        sock.close()
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _bind(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            return _bind_unix(Path(address.removeprefix("unix:")))
        return _bind_tcp(address)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"address {address} cannot be served: {reason}") from error


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"socket path {path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes", hint="use a shorter folder"
        )
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigurationError(f"{path} exists and is not a socket; it is not replaced")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _bind_tcp(address: str) -> socket.socket:
    parts = urlsplit(address)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((parts.hostname, parts.port))
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    return sock
