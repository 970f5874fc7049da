"""The heartbeat of a leased job: asks the broker whether to go on, and stops the job at any answer but yes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ppml_airflow.errors import PpmlError, UnavailableError


class Watch:
    """Watches while entered.

    Args:
        ask: the state of the lease, as the broker tells it.
        stop: called once, from another thread, when the job must end.
        lifetime_s: how long the lease lasts, from its receipt on by the guest's own steady clock.
        interval_s: between two questions.

    Attributes:
        reason: why the job was stopped, such as `lease_cancelled`; empty if it was not.
    """

    def __init__(
        self, *, ask: Callable[[], str], stop: Callable[[], None], lifetime_s: float, interval_s: float
    ) -> None:
        self.reason = ""
        self._ask = ask
        self._stop = stop
        self._deadline = time.monotonic() + lifetime_s
        self._interval_s = interval_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(min(self._interval_s, max(0.0, self._deadline - time.monotonic()))):
            state = "expired" if time.monotonic() >= self._deadline else self._state()
            if state != "current":
                self.reason = f"lease_{state}"
                self._stop()
                return

    def _state(self) -> str:
        """A broker that does not answer stops nothing: the lease ends by itself, and binds again at the commit."""
        try:
            return self._ask()
        except UnavailableError:
            return "current"
        except PpmlError:
            return "revoked"
