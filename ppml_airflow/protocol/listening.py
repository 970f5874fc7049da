"""The socket that a service listens on: a Unix socket for its own user and those named, or loopback or network TCP.

uvicorn would make a Unix socket that everybody may write to; so the socket is bound here and handed over. Who connects
to it is asked of the kernel as well: a stranger is hung up on before a byte of his is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.protocol.peers import is_served, user_of

_log = logging.getLogger(__name__)
_MAX_SOCKET_PATH_BYTES = 107


@contextmanager
def listening_socket(address: str, *, users: Sequence[range] = ()) -> Iterator[socket.socket]:
    """Bind `unix:/path` (its file removed at the end), `http://host:port` or `https://host:port`.

    A Unix socket has mode 0600, or 0666 if there are other users to be served, whom `serving_only` tells apart.

    The caller must know that no other living process serves the same path: a socket file found there is replaced.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    sock = _bind(address, mode=0o666 if users else 0o600)
    try:
        yield sock
    finally:
        sock.close()
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def serving_only(users: Sequence[range]) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which hangs up on users of the machine who are not served (`is_served`)."""

    class ServingOnly(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # one of two classes, by what is installed
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
                if connection.family == socket.AF_UNIX and not is_served(connection, users=users):
                    _log.warning("user %d is not served", user_of(connection))
                    transport.abort()

    return ServingOnly


def _bind(address: str, *, mode: int) -> socket.socket:
    try:
        if address.startswith("unix:"):
            return _bind_unix(Path(address.removeprefix("unix:")), mode=mode)
        return _bind_tcp(address)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"address {address} cannot be served: {reason}") from error


def _bind_unix(path: Path, *, mode: int) -> socket.socket:
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
        path.chmod(mode)
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
