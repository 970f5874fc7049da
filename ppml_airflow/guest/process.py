"""The guest's own process: dies with the service that measured it, inherits nothing.

Source: prctl(2), poll(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import threading
from collections.abc import Mapping

from ppml_airflow.errors import ConfigurationError, UnavailableError

_PR_SET_PDEATHSIG = 1
_REFUSED = re.compile(r"LD_.*|PYTHON.*|GLIBC_.*|(_JAVA|JAVA_TOOL|JDK_JAVA)_OPTIONS|CLASSPATH")


def die_with_parent(parent: int) -> None:
    """Die with the process that started this one and knows its measurement.

    Raises:
        UnavailableError: it is gone already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise UnavailableError("the service that started this guest is gone", code="service_gone")


def die_with_channel(channel: socket.socket) -> None:
    """End this process, the first of its container, and with it the container, when the service closes the channel."""

    def watch() -> None:
        poll = select.poll()
        poll.register(channel, select.POLLRDHUP)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="channel", daemon=True).start()


def require_clean_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables that change which code runs, though it was measured.

    Raises:
        ConfigurationError: names the variable.
    """
    for name in environment:
        if _REFUSED.fullmatch(name):
            raise ConfigurationError(f"environment variable {name} is refused: it could change which code runs")
