"""One question a second to a broker, for all gates of a triggerer that wait for it.

A gate asks for its step's state when it begins to wait, then only when the broker says that something of its run
changed. So ten thousand gates cost a broker one short request a second, and a verdict reaches its gate in about one.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ppml_airflow.errors import PpmlError
from ppml_airflow.operators.async_broker import ask_changes, ask_status, async_broker

if TYPE_CHECKING:
    from ppml_airflow.operators.hook import PpmlHook
    from ppml_airflow.protocol.messages import StepStatus

POLL_S = 1.0
"""Pause between two questions to one broker."""
RECHECK_S = 300.0
"""After this a gate asks although nobody said that anything changed: a lease ends by time alone."""


class Watch:
    """What one broker says to one caller, for everybody who waits. Use it through `joined`."""

    def __init__(self, hook: PpmlHook) -> None:
        self.members = 0
        self._client = async_broker(hook)
        self._bells: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._problem: PpmlError | None = None
        self._ready = asyncio.Event()
        self._asking = asyncio.create_task(self._ask())

    @classmethod
    @asynccontextmanager
    async def joined(cls, hook: PpmlHook) -> AsyncIterator[Watch]:
        """The watch that this event loop has of the hook's broker: the first to join makes it, the last ends it."""
        watches = _watches.setdefault(asyncio.get_running_loop(), {})
        key = (hook.broker_url, hook.token)
        if key not in watches:
            watches[key] = cls(hook)
        watch = watches[key]
        watch.members += 1
        try:
            yield watch
        finally:
            watch.members -= 1
            if not watch.members:
                del watches[key]
                await watch._close()

    @contextmanager
    def bell(self, run_id: str) -> Iterator[asyncio.Event]:
        """What rings when steps of a run may stand elsewhere, or when the broker goes away or comes back."""
        bell = asyncio.Event()
        self._bells[run_id].add(bell)
        try:
            yield bell
        finally:
            self._bells[run_id].discard(bell)
            if not self._bells[run_id]:
                del self._bells[run_id]

    async def status(self, *, run_id: str, step: str) -> StepStatus:
        """The state of one step. A bell taken before rings for whatever changes after.

        Raises:
            UnavailableError: the broker does not answer.
            PpmlError: what the broker answered with.
        """
        await self._ready.wait()
        if self._problem is not None:
            raise type(self._problem)(self._problem.message, code=self._problem.code, hint=self._problem.hint)
        return await ask_status(self._client, run_id=run_id, step=step)

    # ---------------------------------------------------------------- inside

    async def _ask(self) -> None:
        number = 0
        while True:
            was_away, everybody = self._problem is not None, tuple(self._bells)
            try:
                changes = await ask_changes(self._client, since=number)
            except PpmlError as error:
                self._problem = error
                self._ring(() if was_away else everybody)
            else:
                self._problem, number = None, changes.number
                if self._ready.is_set():  # nobody has asked for a status before the first answer
                    self._ring(everybody if was_away or changes.everything else changes.runs)
            self._ready.set()
            await asyncio.sleep(POLL_S)

    def _ring(self, runs: tuple[str, ...]) -> None:
        for run_id in runs:
            for bell in self._bells.get(run_id, ()):
                bell.set()

    async def _close(self) -> None:
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        await self._client.aclose()


async def wait_for_bell(bell: asyncio.Event, *, at_most_s: float = RECHECK_S) -> None:
    """Wait until a bell rings, or about so long: not all gates ask at the same moment."""
    with suppress(TimeoutError):
        await asyncio.wait_for(bell.wait(), at_most_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load only
    bell.clear()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], Watch]] = WeakKeyDictionary()
