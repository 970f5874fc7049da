"""The parent of a job's processes: when the guest is gone, for whatever reason, none of them is left.

Run as a program, from nothing but the standard library:

    python -I -S supervisor.py [LIMIT=NUMBER ...] COMMAND ...

Its standard input is the guest's lifeline: at its end the supervisor kills every descendant. Orphans become its
children (PR_SET_CHILD_SUBREAPER), so none escapes by losing its parent; should the supervisor be killed itself, the
kernel kills the command (PR_SET_PDEATHSIG). Core files are off: they would hold plaintext. A LIMIT is one of
setrlimit(2) by its name, such as DATA, and holds for each process of the job.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import threading
from itertools import takewhile
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Run the command and return its exit code (128 + n for a signal n)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = list(takewhile(re.compile("[A-Z]+=[0-9]+").fullmatch, command))
    command = command[len(limits) :]
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        for name, _, number in (limit.partition("=") for limit in limits):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (int(number), int(number)))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(127)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execv(command[0], command)  # noqa: S606 (no shell is what is wanted)
    threading.Thread(target=_kill_at_end_of_input, args=(child,), daemon=True).start()
    status = _wait(child)
    _kill_the_rest()
    return status


def _kill_at_end_of_input(child: int) -> None:
    while os.read(0, 1):
        pass
    os.kill(child, signal.SIGKILL)


def _wait(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _kill_the_rest() -> None:
    """Kill children until there are none: grandchildren become children when their parent dies."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == os.getpid():
                children.append(int(entry.name))
    return children


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
