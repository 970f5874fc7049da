"""Who keeps a guest alive: a connection that stays open, or a watch that somebody renews. Without it the guest ends.

A connection is a worker's, which waits for the guest. A watch is for those who wait without a worker: a trigger renews
it every few seconds, from whatever process it runs in; `WATCH_S` without a renewal end the guest.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Protocol

from ppml_airflow.errors import MalformedInputError, UnavailableError
from ppml_airflow.protocol.launches import (
    GuestEvent,
    GuestProblem,
    GuestResult,
    LineSocket,
    WatchAnswer,
    WatchRequest,
)
from ppml_airflow.units import HexId

WATCH_S = 55.0
"""So that a guest whose triggerer has died is gone within a minute."""
_EVENTS_KEPT = 1000


class Holder(Protocol):
    """Whoever wants a guest to live, and is told what it says."""

    def tell(self, event: GuestEvent) -> None:
        """Pass an event on."""
        ...

    def next_launch(self) -> bytes | None:
        """Block until there is one more launch for the guest. None: nobody wants it any more, or `release`."""
        ...

    def release(self) -> None:
        """End `next_launch`: the guest has ended."""
        ...

    def finish(self, last: GuestResult | GuestProblem) -> None:
        """Tell how it ended."""
        ...


class Connection:
    """Holds a guest while its client does not close it.

    Args:
        client: the connection.
        is_session: whether what the client says more is a launch for the guest; else it ends the guest, too.
    """

    def __init__(self, client: LineSocket, *, is_session: bool) -> None:
        self._client = client
        self._is_session = is_session

    def tell(self, event: GuestEvent) -> None:
        """Send an event to the client."""
        self._client.send(event)

    def next_launch(self) -> bytes | None:
        """What the client says next; None if it closes the connection, or has nothing to say."""
        if self._is_session:
            with suppress(MalformedInputError):
                return self._client.receive_line()
        with suppress(OSError):
            self._client.connection.recv(1)
        return None

    def release(self) -> None:
        """Wake who waits."""
        with suppress(OSError):
            self._client.connection.shutdown(socket.SHUT_RD)

    def finish(self, last: GuestResult | GuestProblem) -> None:
        """Send the last line."""
        with suppress(UnavailableError):
            self._client.send(last)


class Watch:
    """Holds a guest while it is renewed."""

    def __init__(self, *, lasts_s: float) -> None:
        self._lasts_s = lasts_s
        self._events: list[GuestEvent] = []
        self._last: GuestResult | GuestProblem | None = None
        self._until = time.monotonic() + lasts_s
        self._is_over = threading.Event()

    @property
    def is_stale(self) -> bool:
        """Whether nobody has asked for so long that nobody will."""
        return self._last is not None and time.monotonic() > self._until

    def tell(self, event: GuestEvent) -> None:
        """Keep an event for who renews."""
        if len(self._events) < _EVENTS_KEPT:
            self._events.append(event)

    def next_launch(self) -> None:
        """Block until the watch has lapsed or was ended."""
        while not self._is_over.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until:
                return

    def release(self) -> None:
        """Let the guest go."""
        self._is_over.set()

    def finish(self, last: GuestResult | GuestProblem) -> None:
        """Keep the end for who renews."""
        self._last = last
        self._until = time.monotonic() + self._lasts_s

    def renew(self, *, seen: int) -> WatchAnswer:
        """Keep the guest alive, and say what it has said since."""
        self._until = time.monotonic() + self._lasts_s
        last = self._last
        return WatchAnswer(events=tuple(self._events[seen:]), last=last)


class Watches:
    """The watches of one service."""

    def __init__(self, *, lasts_s: float = WATCH_S) -> None:
        self._lasts_s = lasts_s
        self._watches: dict[HexId, Watch] = {}
        self._changing = threading.Lock()

    def add(self) -> tuple[HexId, Watch]:
        """A new watch, and its id, which nobody can guess."""
        watch_id, watch = secrets.token_hex(16), Watch(lasts_s=self._lasts_s)
        with self._changing:
            self._watches = {known: found for known, found in self._watches.items() if not found.is_stale}
            self._watches[watch_id] = watch
        return watch_id, watch

    def answer(self, request: WatchRequest) -> WatchAnswer:
        """Renew a watch, or end its guest.

        Raises:
            UnavailableError: there is none of that id, most often because it lapsed; the task may be tried again.
        """
        with self._changing:
            watch = self._watches.get(request.watch_id)
        if watch is None:
            raise UnavailableError(
                "the enclave is gone: its watch was not renewed in time, or the quoting service was restarted",
                code="watch_lapsed",
            )
        if request.end:
            watch.release()
        return watch.renew(seen=request.seen)

    def end_all(self) -> None:
        """End every watched guest."""
        with self._changing:
            for watch in self._watches.values():
                watch.release()
