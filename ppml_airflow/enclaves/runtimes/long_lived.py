"""A guest that lives for several jobs of one approved step, in the process runtime.

It attests as a session, which brings no key, and afresh for each job. It ends with the connection that started it, and
by itself once it has missed a renewal.

Protocol: rule 12.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ppml_airflow.enclaves.runtimes.process import connect, follow
from ppml_airflow.protocol.launches import GuestEvent, GuestResult, LineSocket
from ppml_airflow.protocol.messages import LaunchRequest


class LongLivedGuest:
    """A guest while entered. It runs one job at a time.

    Args:
        socket_path: the quoting service's.
        request: any launch of the step, of a run that is open; its session is opened, and the job is not run.
        on_event: called for each event until the session is open.
    """

    def __init__(self, socket_path: Path, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> None:
        self._socket_path = socket_path
        self._request = msgspec.structs.replace(request, role="session")
        self._on_event = on_event

    def __enter__(self) -> Self:
        """Start the guest and have it open its session.

        Raises:
            UnavailableError: no quoting service, or it or the guest went away.
            PpmlError: what the guest, the service or the broker refused.
        """
        self._service = LineSocket(connect(self._socket_path))
        try:
            follow(self._service, request=self._request, on_event=self._on_event)
        except BaseException:
            self._service.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service.close()

    def run(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        """Have the guest pass a gate or do a job. After a refusal or a failure it still lives.

        Raises:
            UnavailableError: the guest ended: its session was not renewed, or somebody killed it.
            PpmlError: what the guest or the broker refused.
        """
        return follow(self._service, request=request, on_event=on_event)
