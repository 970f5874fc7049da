"""A process that holds keys hides its memory: from debuggers of its own user, too, and from core files.

The kernel then refuses ptrace, /proc/PID/mem and /proc/PID/environ to everybody but root. It holds for the process that
asks, not for programs that it starts.

Source: prctl(2), ptrace(2), proc(5).
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Hide memory from debuggers, leave no core file.

    Raises:
        OSError: the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
