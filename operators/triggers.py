"""Waiting for the broker without a worker. The trigger only wakes its sensor; the sensor asks the broker again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ppml_airflow.errors import BY_KIND, PpmlError, UnavailableError
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.watch import POLL_S, Watch, wait_for_bell
from ppml_airflow.protocol.messages import StepStatus

Until = Literal["inputs", "granted", "committed"]
REFUSED = ("denied", "failed", "cancelled")


class StepTrigger(BaseTrigger):
    """Wakes when a step's inputs are complete, its gate is decided, or its receipt is there.

    Serialized it holds names only: the token stays in the connection.

    Args:
        ppml_conn_id: the connection.
        run_id: the broker's.
        step: name of the step.
        until: what to wait for.
    """

    def __init__(self, *, ppml_conn_id: str, run_id: str, step: str, until: Until) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow leaves it untyped
        self.ppml_conn_id = ppml_conn_id
        self.run_id = run_id
        self.step = step
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as the database keeps them."""
        arguments = {name: getattr(self, name) for name in ("ppml_conn_id", "run_id", "step", "until")}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask until settled; yield one event: `settled`, `unavailable` or `refused` with code, reason and hint."""
        hook = PpmlHook(self.ppml_conn_id)
        hook.connection = await PpmlHook.aget_connection(self.ppml_conn_id)
        try:
            async with Watch.joined(hook) as watch:
                await self._wait(watch, patience_s=hook.patience_s)
            event = {"woken": "settled"}
        except PpmlError as error:
            event = problem_event(error)
        yield TriggerEvent({**event, "until": self.until})  # type: ignore[no-untyped-call]  # Airflow leaves it untyped

    async def _wait(self, watch: Watch, *, patience_s: float) -> None:
        answered, shown = time.monotonic(), ""
        with watch.bell(self.run_id) as bell:
            while True:
                try:
                    status = await watch.status(run_id=self.run_id, step=self.step)
                except UnavailableError as error:
                    if time.monotonic() - answered > patience_s:
                        raise
                    shown = self._show(f"waits for the broker: {error.message}", shown=shown)
                    await wait_for_bell(bell, at_most_s=POLL_S)
                    continue
                if is_settled(status, until=self.until):
                    return
                shown = self._show(f"waits for {status.waiting_for or self.until}", shown=shown)
                await wait_for_bell(bell)
                answered = time.monotonic()

    def _show(self, text: str, *, shown: str) -> str:
        if text != shown:
            self.log.info("step %s %s", self.step, text)
        return text


def problem_event(error: PpmlError) -> dict[str, str]:
    """An error as the payload of an event."""
    woken = "unavailable" if isinstance(error, UnavailableError) else "refused"
    return {
        "woken": woken,
        "kind": type(error).__name__,
        "code": error.code,
        "reason": error.message,
        "hint": error.hint,
    }


def require_no_problem(event: Mapping[str, str]) -> None:
    """Raise the error that an event carries.

    Raises:
        PpmlError: of the class that it had in the trigger.
    """
    if event["woken"] != "settled":
        raise BY_KIND.get(event["kind"], PpmlError)(event["reason"], code=event["code"], hint=event["hint"])


def is_settled(status: StepStatus, *, until: Until) -> bool:
    """Whether there is nothing more to wait for, well or ill."""
    if status.state == "committed":
        return True
    if until == "inputs":
        return not status.waiting_for.startswith("inputs")
    return status.state in REFUSED or (until == "granted" and status.granted)
