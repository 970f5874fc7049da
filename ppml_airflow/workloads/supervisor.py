"""The parent of a job's processes: when the guest is gone, for whatever reason, none of them is left.

Run as a program, from nothing but the standard library:

    python -I -S supervisor.py [LIMIT=NUMBER ...] [--no-network] COMMAND ...

Its standard input is the guest's lifeline: at its end the supervisor kills every descendant. Orphans become its
children (PR_SET_CHILD_SUBREAPER), so none escapes by losing its parent; should the supervisor be killed itself, the
kernel kills the command (PR_SET_PDEATHSIG). Core files are off: they would hold plaintext. A LIMIT is one of
setrlimit(2) by its name, such as DATA, and holds for each process of the job. Without network the job has a loopback
interface of its own and no other, where the kernel lets this process make one; a socket with a path is still reached.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import struct
import sys
import threading
from itertools import takewhile
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def main(command: list[str]) -> int:
    """Run the command and return its exit code (128 + n for a signal n)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = list(takewhile(re.compile("[A-Z]+=[0-9]+").fullmatch, command))
    command = command[len(limits) :]
    has_network = command[0] != "--no-network"
    command = command[not has_network :]
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        if not has_network:
            _leave_network()
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


def _leave_network() -> None:
    """Move this process into a network of its own, if the kernel lets it: as root, else in a user namespace."""
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    user, group = os.getuid(), os.getgid()
    if unshare(CLONE_NEWNET) != 0:
        if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", file).write_text(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


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
