"""Where a trusted image runs: the seam. `process` is the embedded default, a simulated TEE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from ppml_airflow.protocol.messages import LaunchRequest


class EnclaveRuntime(Protocol):
    """Runs one guest at a time until it has been granted, has committed, or has failed."""

    def run(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        """Launch a guest and stay with it; leaving early ends it."""
        ...

    def close(self) -> None:
        """End the guest of a `run` that is under way, from a signal handler or another thread."""
        ...
