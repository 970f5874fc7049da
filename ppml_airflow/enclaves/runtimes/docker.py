"""The `docker` runtime: guests in containers that the quoting service of this machine starts by image id.

This side never speaks to the Docker daemon, which would make whoever holds it root. A guest is held by a connection,
as in the `process` runtime, or started with a watch that others renew: a trigger, while no worker waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from ppml_airflow import canonical
from ppml_airflow.canonical import MAX_DOCUMENT_BYTES
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime, connect, service_gone, unreachable
from ppml_airflow.errors import MalformedInputError
from ppml_airflow.protocol.launches import (
    GuestEvent,
    GuestProblem,
    GuestResult,
    LineSocket,
    ToRuntime,
    WatchAnswer,
    WatchRequest,
    WatchStarted,
)
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.units import HexId

_ANSWER_S = 10.0


class DockerRuntime:
    """Guests in containers, launched and measured by the quoting service behind this Unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._holding = ProcessRuntime(socket_path)

    def run(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        """Launch a guest and stay with it until it ends; as `ProcessRuntime.run`."""
        return self._holding.run(msgspec.structs.replace(request, runtime="docker"), on_event=on_event)

    def close(self) -> None:
        """Close the connection of `run`, which ends the guest."""
        self._holding.close()

    def start(self, request: LaunchRequest) -> HexId:
        """Launch a guest that lives while its watch is renewed. Returns the watch's id.

        Raises:
            UnavailableError: no quoting service.
            PpmlError: what the service refused.
        """
        with connect(self._socket_path) as connection:
            service = LineSocket(connection)
            service.send(msgspec.structs.replace(request, runtime="docker", is_watched=True))
            return _started(service)

    def end(self, watch_id: HexId) -> None:
        """End a watched guest, from a worker that still has it.

        Raises:
            PpmlError: no quoting service, or no such watch.
        """
        with connect(self._socket_path) as connection:
            connection.settimeout(_ANSWER_S)
            service = LineSocket(connection)
            service.send(WatchRequest(watch_id=watch_id, seen=0, end=True))
            require_watching(service.receive(ToRuntime))


async def ask_watch(socket_path: Path, request: WatchRequest) -> WatchAnswer:
    """Renew a watch, or end its guest, without blocking.

    Raises:
        UnavailableError: no quoting service, or no such watch.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path), limit=MAX_DOCUMENT_BYTES)
    except OSError as error:
        raise unreachable(socket_path, error) from error
    try:
        writer.write(canonical.encode(request) + b"\n")
        line = await asyncio.wait_for(reader.readline(), _ANSWER_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise service_gone() from error
    finally:
        writer.close()
    if not line.endswith(b"\n"):
        raise service_gone()
    return require_watching(canonical.decode(line[:-1], into=ToRuntime))  # type: ignore[arg-type]  # a union


def require_watching(message: object) -> WatchAnswer:
    """The answer to a `WatchRequest`.

    Raises:
        PpmlError: it is none.
    """
    match message:
        case WatchAnswer():
            return message
        case GuestProblem():
            raise message.error()
        case None:
            raise service_gone()
    raise MalformedInputError("the quoting service answered something else than was asked")


def _started(service: LineSocket) -> HexId:
    match service.receive(ToRuntime):
        case WatchStarted(watch_id=watch_id):
            return str(watch_id)
        case GuestProblem() as problem:
            raise problem.error()
        case None:
            raise service_gone()
    raise MalformedInputError("the quoting service answered something else than was asked")
