"""A running guest in a container; the same to the quoting service as one that is a process.

What a container prints goes to no log file: Docker would keep it on disk. Its last lines are told only if it ends
before a quote was made for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from ppml_airflow.enclaves.containers.daemon import docker_errors
from ppml_airflow.enclaves.measurement import Measurement
from ppml_airflow.enclaves.quoting.meeting import Meeting
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.errors import PpmlError, UnavailableError
from ppml_airflow.protocol.launches import LineSocket

if TYPE_CHECKING:
    from docker import APIClient

_log = logging.getLogger(__name__)
_START_S = 60.0
_SAID_CHUNKS = 50
_SAID_BYTES = 2000


class ContainerGuest:
    """A running guest in a container; the same to the service as one that is a process.

    Attributes:
        measurement: the id of its image, as the daemon said it just before the start.
        channel: the service's end of the one connection, once `meet` has returned.
        has_quote: whether a quote was made, and so whether the guest may hold secrets.
    """

    def __init__(
        self, client: APIClient, container: str, *, measurement: Measurement, meeting: Meeting, folders: PrivateFolders
    ) -> None:
        self.measurement = measurement
        self.has_quote = False
        self.channel: LineSocket
        self._client = client
        self._container = container
        self._meeting = meeting
        self._folders = folders
        self._said: deque[bytes] = deque(maxlen=_SAID_CHUNKS)
        self._exit: tuple[int, bool] | None = None
        try:
            with docker_errors():
                output = client.attach(container, stdout=True, stderr=True, stream=True)
                threading.Thread(target=self._listen, args=(output,), daemon=True).start()
                client.start(container)
        except BaseException:
            self.finish()
            raise

    def meet(self) -> None:
        """Wait for the guest's one connection.

        Raises:
            UnavailableError: it ended before that, or took too long.
        """
        until = time.monotonic() + _START_S
        while (connection := self._meeting.accept(timeout_s=0.2)) is None:
            if time.monotonic() > until or self._state() is not None:
                raise UnavailableError(f"the container did not start a guest{self._reason()}", code="guest_ended")
        self.channel = LineSocket(connection)

    def kill(self) -> None:
        """End the guest and everything that it started, at once. Safe from any thread, any number of times."""
        from docker.errors import APIError

        try:
            with docker_errors(), suppress(APIError):  # it has ended, or was removed
                self._client.kill(self._container)
        except PpmlError as error:
            _log.warning("container %s was not killed: %s", self._container[:12], error)

    def finish(self, *, patience_s: float = 0) -> int:
        """Wait a little for the guest to end by itself, then remove its container and folder. Returns its exit code."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until and self._state() is None:
            time.sleep(0.05)
        self._state()
        remove_container(self._client, self._container)
        if hasattr(self, "channel"):
            self.channel.close()
        self._meeting.close(self._folders)
        return self._exit[0] if self._exit else -9

    def last_words(self) -> str:
        """The end of what the guest printed, if no quote was made for it: without a quote it was given no secret."""
        if self.has_quote:
            return ""
        return b"".join(self._said)[-_SAID_BYTES:].decode(errors="replace").strip()

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel killed the guest for want of memory."""
        return self._exit is not None and self._exit[1]

    def _reason(self) -> str:
        words = self.last_words()
        return f", exit code {self._exit[0]}{f': {words}' if words else ''}" if self._exit else ""

    def _listen(self, output: Iterable[bytes]) -> None:
        with suppress(Exception):  # the container is removed while its output is read
            self._said.extend(output)

    def _state(self) -> tuple[int, bool] | None:
        """Exit code and whether memory ran out, once the container has ended."""
        if self._exit is None:
            with suppress(PpmlError), docker_errors():
                state = self._client.inspect_container(self._container)["State"]
                if state["Status"] in ("exited", "dead"):
                    self._exit = (int(state["ExitCode"]), bool(state["OOMKilled"]))
        return self._exit


def remove_container(client: APIClient, container: str) -> None:
    """Kill and remove a container; a failure is logged."""
    from docker.errors import APIError

    try:
        with docker_errors(), suppress(APIError):  # it is gone already
            client.remove_container(container, force=True, v=True)
    except PpmlError as error:
        _log.warning("container %s was not removed: %s", container[:12], error)
