"""Become another user for good, in a view of the file system where that user finds what he needs, then run a command.

Run as a program by root, from nothing but the standard library, so that it starts in milliseconds:

    python -I -S confinement.py --user NUMBER [...] -- COMMAND ...

Checkout, interpreter and PPML_HOME may lie in folders that only root enters. They are not opened on the machine: in a
mount namespace of the command's own each such folder is replaced by an empty one, in which nothing but the paths to be
seen are mounted. So the command sees less than before, not more. It has no capability, and no program that it starts
gets any (no_new_privs). The kernel's promise to end it with its parent, if one was made, is kept.

Source: mount_namespaces(7), prctl(2), credentials(7).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x0002_0000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 0x1000, 0x4000, 0x80000
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 2, 38
_CAP_SYS_ADMIN = 21
_UMASK = 0o007
"""What is made in the storage is for its group; everything else lies in folders of mode 0700."""


def confined(
    command: Sequence[str],
    *,
    user: int,
    groups: Sequence[int] = (),
    passwd: Path | None = None,
    see: Sequence[Path] = (),
    see_listed: Path | None = None,
) -> tuple[str, ...]:
    """A command as another user.

    Args:
        command: a program by its full path, and its arguments.
        user: number of the user, and of the group, that it gets.
        groups: further groups.
        passwd: what it finds as /etc/passwd.
        see: files and folders that it needs, wherever they lie. The user's rights on them stay as they are.
        see_listed: a file that lists more of them, a line each, read when the command starts.
    """
    arguments = [sys.executable, "-I", "-S", __file__, "--user", str(user)]
    for option, values in (("--group", groups), ("--passwd", [passwd]), ("--see", see), ("--see-listed", [see_listed])):
        for value in values:
            arguments += [option, str(value)] if value is not None else []
    return (*arguments, "--", *command)


def can_confine() -> bool:
    """Whether this process may become anybody and make mounts: root, and not in a container without that right."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return os.geteuid() == 0 and bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def main() -> None:
    """Confine this process and execute the command."""
    parser = argparse.ArgumentParser(prog="confinement")
    parser.add_argument("--user", type=int, required=True)
    parser.add_argument("--group", dest="groups", type=int, action="append", default=[])
    parser.add_argument("--passwd", type=Path)
    parser.add_argument("--see", type=Path, action="append", default=[])
    parser.add_argument("--see-listed", type=Path)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    os.umask(0o022)
    try:
        _make_view(arguments.see + _listed(arguments.see_listed), passwd=arguments.passwd)
        _become(arguments.user, groups=arguments.groups)
    except OSError as error:
        sys.exit(
            f"user {arguments.user} cannot be confined: {error.strerror} ({error.filename or 'the kernel refuses'})"
        )
    os.execv(arguments.command[0], arguments.command)  # noqa: S606 (no shell is what is wanted)


def _listed(file: Path | None) -> list[Path]:
    return [Path(line) for line in file.read_text().splitlines()] if file and file.exists() else []


def _make_view(paths: Sequence[Path], *, passwd: Path | None) -> None:
    """Leave the machine's view for one of this process's own; what is mounted elsewhere later still appears."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace")
    _mount("none", Path("/"), flags=_MS_REC | _MS_SLAVE)
    found = {path: os.open(path, os.O_PATH) for given in paths for path in (given, given.resolve()) if path.exists()}
    if passwd is not None:
        _mount(str(passwd), Path("/etc/passwd"), flags=_MS_BIND)
    for path in sorted(found, key=lambda path: len(path.parts)):
        closed = next((above for above in reversed(path.parents) if _is_closed(above)), None)
        if closed is not None:
            _mount("tmpfs", closed, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV, options="mode=0711")
        if closed is not None or not path.exists():
            _lay(path, handle=found[path])


def _is_closed(folder: Path) -> bool:
    """Whether others may not pass through a folder."""
    try:
        return not folder.stat().st_mode & stat.S_IXOTH
    except FileNotFoundError:
        return False


def _lay(path: Path, *, handle: int) -> None:
    """Mount what an open handle stands for where it was before its folder was hidden."""
    for above in reversed(path.parents):
        if not above.exists():
            above.mkdir(mode=0o711)
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        path.mkdir(mode=0o711, exist_ok=True)
    else:
        path.touch()
    _mount(f"/proc/self/fd/{handle}", path, flags=_MS_BIND | _MS_REC)


def _mount(source: str, target: Path, *, kind: str | None = None, flags: int, options: str | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = [os.fsencode(text) if text is not None else None for text in (source, str(target), kind, options)]
    if libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _become(user: int, *, groups: Sequence[int]) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    death_signal, parent = ctypes.c_int(), os.getppid()
    prctl(_PR_GET_PDEATHSIG, ctypes.byref(death_signal), 0, 0, 0)
    os.umask(_UMASK)
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if Path.cwd().stat().st_uid != user:
        os.chdir("/")
    if death_signal.value:  # the kernel has forgotten it with the change of user
        prctl(_PR_SET_PDEATHSIG, death_signal.value, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    main()
