"""Where a container and the quoting service meet: a folder with two sockets, which its container alone sees.

`guest.sock` takes one connection, of the guest's own user, and is then removed, before any job code is there.
`broker.sock` leads to the broker.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.quoting.relay import Relay
from ppml_airflow.errors import UnavailableError
from ppml_airflow.protocol.peers import user_of


class Meeting:
    """The folder in which one container finds its sockets."""

    def __init__(self, folder: Path, *, user: tuple[int, int], broker: str) -> None:
        self.folder = folder
        self._user = user
        folder.chmod(0o755)
        self._listener = self._listen("guest.sock", backlog=1)
        self._relay = Relay(self._listen("broker.sock", backlog=16), address=broker)

    def accept(self, *, timeout_s: float) -> socket.socket | None:
        """The guest's connection, the only one there will ever be: the socket is removed with it."""
        self._listener.settimeout(timeout_s)
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            return None
        except OSError as error:
            raise UnavailableError("the guest was ended before it began", code="guest_ended") from error
        connection.settimeout(None)
        (self.folder / "guest.sock").unlink(missing_ok=True)
        self._listener.close()
        if user_of(connection) != self._user[0]:
            connection.close()
            raise UnavailableError("somebody else than the guest took its socket", code="guest_ended")
        return connection

    def close(self, folders: PrivateFolders) -> None:
        """End both sockets and remove the folder."""
        self._listener.close()
        self._relay.close()
        folders.sweep(self.folder)

    def _listen(self, name: str, *, backlog: int) -> socket.socket:
        path = self.folder / name
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        os.chown(path, *self._user)
        listener.listen(backlog)
        return listener
