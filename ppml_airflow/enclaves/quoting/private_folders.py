"""Private directories of guests: a tmpfs of its own where one can be mounted, else a folder; of mode 0700.

Such a directory counts as inside the enclave: it holds code, keys in use and plaintext. It is swept when its guest
ends; what a crash of the service left is swept at its next start, together with any process that still works there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections import deque
from pathlib import Path
from typing import Self

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.users import Users

_log = logging.getLogger(__name__)
_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_TMPFS_OPTIONS = b"mode=0700,size=50%"
_libc = ctypes.CDLL(None, use_errno=True)


class PrivateFolders:
    """The private directories of one installation, all in one folder that nobody else lists.

    The path is short and in the machine's folder for temporary files, because Unix sockets allow 107 bytes.

    Args:
        root: the folder.
        users: whose guests get a directory and a user of their own; none: all belong to this process's user.
    """

    def __init__(self, root: Path, *, users: Users | None = None) -> None:
        self.root = root
        self._free = deque(users.guests if users else ())
        self._taken: dict[Path, int] = {}
        self._has_users = users is not None
        mode = 0o711 if users else 0o700
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o170066 != 0o040000:
            raise ConfigurationError(f"{root} is not a folder of ours with mode {mode:04o}", hint=f"remove {root}")
        root.chmod(mode)

    @classmethod
    def of_home(cls, home: Path, *, users: Users | None = None) -> Self:
        """The private directories of an installation, named after its PPML_HOME."""
        name = canonical.digest_bytes(os.fsencode(home.resolve()))[7:15]
        return cls(Path(tempfile.gettempdir()) / f"ppml-guests-{name}", users=users)

    def make(self, *, in_memory: bool = True) -> Path:
        """Make an empty private directory, in memory where it can be. It belongs to the user that its guest will have.

        Raises:
            UnavailableError: as many guests run as there are users for them.
        """
        folder = self.root / secrets.token_hex(4)
        user = self._take_user(folder)
        folder.mkdir(mode=0o700)
        if in_memory:
            settings = b"%s,uid=%d,gid=%d" % (_TMPFS_OPTIONS, user, user)
            if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_NOSUID | _MS_NODEV, settings) != 0:
                _log.debug("no tmpfs for %s: %s", folder, os.strerror(ctypes.get_errno()))
        os.chown(folder, user, user)
        return folder

    def _take_user(self, folder: Path) -> int:
        if not self._has_users:
            return os.getuid()
        try:
            self._taken[folder] = self._free.popleft()
        except IndexError:
            raise UnavailableError("more guests than there are users for", code="too_many_guests") from None
        return self._taken[folder]

    def sweep(self, folder: Path) -> None:
        """Kill what still works in a private directory and remove it."""
        for process in _working_in(folder):
            _kill(process)
        if folder.is_mount():
            _libc.umount2(os.fsencode(folder), _MNT_DETACH)
        shutil.rmtree(folder, ignore_errors=True)
        if folder in self._taken:
            self._free.append(self._taken.pop(folder))

    def remove(self) -> None:
        """Remove the folder of all private directories, if it is empty."""
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def sweep_all(self) -> None:
        """Remove every private directory: at the start of the service, when none can be in use."""
        for folder in self.root.iterdir():
            _log.info("sweeping %s, left by a crash", folder)
            self.sweep(folder)


def kill_session(leader: int) -> None:
    """Kill all processes of a session, whatever groups they made for themselves (pyspark's daemon makes one)."""
    while processes := [process for process in _processes() if _session_of(process) == leader]:
        for process in processes:
            _kill(process)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session_of(process: int) -> int | None:
    """The session of a process; None for one that has ended or is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[3])


def _working_in(folder: Path) -> list[int]:
    found = []
    for process in _processes():
        try:
            working = Path(f"/proc/{process}/cwd").readlink()
        except OSError:
            continue
        if working == folder or folder in working.parents:
            found.append(process)
    return found


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        _log.debug("process %d has ended already", process)
