"""Staying with an enclave without a worker: renews the watch of a container, tells its progress, wakes its task.

Renewing is what keeps the container alive: should this triggerer die and no other take over, the container ends within
a minute. A triggerer that stops in good order ends nothing, because another one goes on. When a user fails, clears or
marks the task, the container is ended at once and the attempt fenced at the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ppml_airflow.enclaves.runtimes.docker import ask_watch
from ppml_airflow.errors import PpmlError, UnavailableError
from ppml_airflow.operators.async_broker import async_broker, cancel_step
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.launches import describe_event
from ppml_airflow.operators.triggers import problem_event
from ppml_airflow.protocol.launches import GuestProblem, GuestResult, WatchRequest

_PATIENCE_S = 60.0
"""A quoting service that is away for longer has ended its guests."""


class GuestTrigger(BaseTrigger):
    """Wakes when a watched guest has ended. Serialized it holds names and ids only.

    Args:
        ppml_conn_id: the connection.
        run_id: the broker's.
        step: name of the step.
        watch_id: of the guest.
        poll_s: pause between two renewals.
    """

    def __init__(self, *, ppml_conn_id: str, run_id: str, step: str, watch_id: str, poll_s: float = 2.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow leaves it untyped
        self.ppml_conn_id = ppml_conn_id
        self.run_id = run_id
        self.step = step
        self.watch_id = watch_id
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the database keeps them."""
        arguments = {name: getattr(self, name) for name in ("ppml_conn_id", "run_id", "step", "watch_id", "poll_s")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Renew until the guest has ended; yield one event: `settled`, `unavailable` or `refused`."""
        try:
            last = await self._stay()
            event = {"woken": "settled"} if isinstance(last, GuestResult) else problem_event(last.error())
        except PpmlError as error:
            event = problem_event(error)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow leaves it untyped

    async def on_kill(self) -> None:
        """End the container and fence the attempt: a user has acted on the task."""
        hook = await self._hook()
        try:
            await ask_watch(Path(hook.quoting), WatchRequest(watch_id=self.watch_id, seen=0, end=True))
        except PpmlError as error:
            self.log.warning("step %s: its enclave was not ended: %s", self.step, error)
        try:
            async with async_broker(hook) as client:
                await cancel_step(client, run_id=self.run_id, step=self.step)
        except PpmlError as error:
            self.log.warning("step %s is not cancelled at the broker: %s", self.step, error)

    async def _stay(self) -> GuestResult | GuestProblem:
        hook, seen, answered = await self._hook(), 0, time.monotonic()
        while True:
            try:
                answer = await ask_watch(Path(hook.quoting), WatchRequest(watch_id=self.watch_id, seen=seen))
            except UnavailableError as error:
                if error.code == "watch_lapsed" or time.monotonic() - answered > _PATIENCE_S:
                    raise
                self.log.info("step %s: %s", self.step, error.message)
            else:
                answered = time.monotonic()
                seen += len(answer.events)
                for event in answer.events:
                    self.log.info("step %s: %s", self.step, describe_event(event))
                if answer.last is not None:
                    return answer.last
            await asyncio.sleep(self.poll_s)

    async def _hook(self) -> PpmlHook:
        hook = PpmlHook(self.ppml_conn_id)
        hook.connection = await PpmlHook.aget_connection(self.ppml_conn_id)
        return hook
