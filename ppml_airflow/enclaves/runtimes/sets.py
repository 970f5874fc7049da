"""A set of guests, started and ended as one: the leader's result is the set's.

A member that died is started once more, as often as its step allows; the broker decides whether it takes that place.
Whatever else goes wrong with one ends all of them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from ppml_airflow.domain.sets import LEADER
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.errors import UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from ppml_airflow.protocol.messages import LaunchRequest
from ppml_airflow.workloads.cluster import messages_folder

_PAUSE_S = 0.2
_END_S = 10.0
"""How long members may take to end after their leader has committed."""


class SetOfGuests:
    """The members of one set.

    Args:
        runtime: makes what one guest is launched by.
        replacements: how many members may be started again.
    """

    def __init__(self, runtime: Callable[[], ProcessRuntime], *, replacements: int) -> None:
        self._runtime = runtime
        self._left = replacements
        self._running: list[ProcessRuntime] = []
        self._is_over = threading.Event()

    def run(self, requests: Sequence[LaunchRequest], *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        """Launch all members and stay with them until the leader ends.

        Args:
            requests: one for each member.
            on_event: called for each of the leader's events.

        Raises:
            PpmlError: what the leader, or the first other member to fail for good, ended with.
        """
        workers = ThreadPoolExecutor(max_workers=len(requests) + self._left)
        guests = {workers.submit(self._run_one, request, on_event=on_event): request for request in requests}
        try:
            return self._stay(guests, workers=workers, on_event=on_event)
        finally:
            self._is_over.set()
            while wait(guests, timeout=_PAUSE_S).not_done:  # one may be just about to connect
                self.close()
            workers.shutdown()
            first = requests[LEADER]
            shutil.rmtree(messages_folder(Path(first.storage), set_id=first.set_id), ignore_errors=True)

    def close(self) -> None:
        """End every guest; `run` then raises UnavailableError."""
        self._is_over.set()
        for runtime in tuple(self._running):
            runtime.close()

    def _stay(
        self,
        guests: dict[Future[GuestResult], LaunchRequest],
        *,
        workers: ThreadPoolExecutor,
        on_event: Callable[[GuestEvent], None],
    ) -> GuestResult:
        while True:
            ended, _ = wait(guests, return_when=FIRST_COMPLETED)
            for future in sorted(ended, key=lambda one: guests[one].index):
                request = guests.pop(future)
                if request.index == LEADER:
                    result = future.result()
                    wait(guests, timeout=_END_S)
                    return result
                error = future.exception()
                if error is None:
                    continue
                if not (self._left and _has_died(error)):
                    raise error
                self._left -= 1
                guests[workers.submit(self._run_one, request, on_event=on_event)] = request

    def _run_one(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        if self._is_over.is_set():
            raise UnavailableError("the set has ended", code="service_gone")
        runtime = self._runtime()
        self._running.append(runtime)
        tell = on_event if request.index == LEADER else _say_nothing
        return runtime.run(request, on_event=tell)


def _has_died(error: BaseException) -> bool:
    """Whether a guest ended without a word: it was killed, or its machine was. What it says itself is no such end."""
    return isinstance(error, UnavailableError) and error.code == "guest_ended"


def _say_nothing(event: GuestEvent) -> None:
    """The leader's events are the set's."""
