"""The `process` runtime: asks the quoting service of this machine to launch a guest, and holds the connection.

When the connection closes, for whatever reason, the guest and all that it started are killed and swept.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from ppml_airflow.errors import MalformedInputError, UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, GuestResult, LineSocket, ToRuntime
from ppml_airflow.protocol.messages import LaunchRequest


class ProcessRuntime:
    """Guests as processes, launched and measured by the quoting service behind this Unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._service: LineSocket | None = None

    def run(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        """Launch a guest and stay with it until it ends.

        Args:
            request: untrusted material for the guest to verify.
            on_event: called for each event, in order, by this thread.

        Raises:
            UnavailableError: no quoting service, or it or the guest went away.
            PpmlError: what the guest or the service refused, by the class it had there.
        """
        with connect(self._socket_path) as connection:
            self._service = LineSocket(connection)
            return follow(self._service, request=request, on_event=on_event)

    def close(self) -> None:
        """Close the connection, which ends the guest; `run` then raises UnavailableError."""
        if self._service is not None:
            self._service.close()


def connect(socket_path: Path) -> socket.socket:
    """A connection to the quoting service; close it after use.

    Raises:
        UnavailableError: it does not answer.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(socket_path))
    except OSError as error:
        connection.close()
        raise unreachable(socket_path, error) from error
    return connection


def unreachable(socket_path: Path, error: OSError) -> UnavailableError:
    """That the quoting service does not answer."""
    return UnavailableError(
        f"the quoting service at {socket_path} does not answer: {error.strerror or error}",
        hint="is it running? ppml up starts it",
    )


def service_gone() -> UnavailableError:
    """That the quoting service went away before it had answered."""
    return UnavailableError("the quoting service went away", code="service_gone")


def follow(service: LineSocket, *, request: LaunchRequest, on_event: Callable[[GuestEvent], None]) -> GuestResult:
    """Send a launch and stay with it until it is answered; as `ProcessRuntime.run`."""
    service.send(request)
    while True:
        message: ToRuntime | None = service.receive(ToRuntime)
        match message:
            case None:
                raise service_gone()
            case GuestEvent():
                on_event(message)
            case GuestResult():
                return message
            case GuestProblem():
                raise message.error()
            case _:
                raise MalformedInputError("the quoting service answered something else than was asked")
