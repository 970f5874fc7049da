"""The guest's own process: dies with the service that measured it, hides its memory, inherits nothing.

Source: prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
from collections.abc import Mapping

from ppml_airflow.errors import ConfigurationError, UnavailableError

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_REFUSED = re.compile(r"LD_.*|PYTHON.*|GLIBC_.*|(_JAVA|JAVA_TOOL|JDK_JAVA)_OPTIONS|CLASSPATH")


def harden(*, parent: int) -> None:
    """Die with the parent, hide memory from debuggers, leave no core file.

    Args:
        parent: the process that started this one and knows its measurement.

    Raises:
        UnavailableError: the parent is gone already.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.getppid() != parent:
        raise UnavailableError("the service that started this guest is gone", code="service_gone")


def require_clean_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables that change which code runs, though it was measured.

    Raises:
        ConfigurationError: names the variable.
    """
    for name in environment:
        if _REFUSED.fullmatch(name):
            raise ConfigurationError(f"environment variable {name} is refused: it could change which code runs")
