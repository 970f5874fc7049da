"""A Unix socket in a container's folder that leads to the broker, and nowhere else: the container has no network.

Bytes are passed on as they come. The address is the service's own setting, never a request's: job code can reach this
socket, and must not choose where it leads.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ppml_airflow.errors import ConfigurationError

_CHUNK_BYTES = 1 << 16


class Relay:
    """Serves one socket until closed.

    Args:
        listener: bound and listening.
        address: `unix:/path` or `http://host:port`.

    Raises:
        ConfigurationError: the address is of another kind.
    """

    def __init__(self, listener: socket.socket, *, address: str) -> None:
        if not address.startswith(("unix:/", "http://")):
            raise ConfigurationError(f"broker {address} cannot be reached from a container", hint="unix: or http:")
        self._listener = listener
        self._address = address
        self._open: set[socket.socket] = set()
        self._is_closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._is_closed = True
        for connection in (self._listener, *list(self._open)):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(inner,), daemon=True).start()

    def _join(self, inner: socket.socket) -> None:
        try:
            outer = _connect(self._address)
        except OSError:
            inner.close()  # as a broker that is down would
            return
        with inner, outer:
            self._open |= {inner, outer}
            if self._is_closed:
                return
            back = threading.Thread(target=_pass_on, args=(outer, inner), daemon=True)
            back.start()
            _pass_on(inner, outer)
            back.join()
            self._open -= {inner, outer}


def _connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(Path(address.removeprefix("unix:"))))
        except OSError:
            connection.close()
            raise
        return connection
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 80))


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)
