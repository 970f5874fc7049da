"""One guest: started from a measured image in a private directory, known by the socket handed over at its start."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ppml_airflow.enclaves.installation import Installation, load_installation
from ppml_airflow.enclaves.measurement import Measurement
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders, kill_session
from ppml_airflow.protocol.launches import LineSocket

_PATH = "/usr/local/bin:/usr/bin:/bin"
_SAID_BYTES = 2000


class Guest(Protocol):
    """A running guest, wherever it runs.

    Attributes:
        measurement: taken by the service just before the start; what quotes for this guest say.
        channel: the service's end of the socket, once `meet` has returned.
        has_quote: whether a quote was made, and so whether the guest may hold secrets.
    """

    measurement: Measurement
    channel: LineSocket
    has_quote: bool

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel killed the guest for want of memory; known once it has finished."""
        ...

    def meet(self) -> None:
        """Wait until the guest has taken its end of the socket."""
        ...

    def kill(self) -> None:
        """End the guest and everything that it started, at once. Safe from any thread, any number of times."""
        ...

    def finish(self, *, patience_s: float = 0) -> int:
        """Wait a little for the guest to end by itself, then end it and leave nothing. Returns its exit code."""
        ...

    def last_words(self) -> str:
        """The end of what the guest printed, if no quote was made for it: without a quote it was given no secret."""
        ...


class Confine(Protocol):
    """Makes a command one of another user, who finds in addition what `see` names."""

    def __call__(self, command: Sequence[str], *, user: int, see: Sequence[Path]) -> Sequence[str]:
        """The command to execute instead."""
        ...


class ProcessGuest:
    """A guest that is a process. It leads a session of its own, so that all it starts can be ended with it."""

    def __init__(
        self,
        folder: Path,
        *,
        measurement: Measurement,
        private_folders: PrivateFolders,
        confine: Confine | None = None,
    ) -> None:
        self.measurement = measurement
        self.has_quote = False
        self._exit_code: int | None = None
        self._ending = threading.Lock()
        self._confine = confine
        self._private_folders = private_folders
        self._private = private_folders.make()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = self._start(folder, channel=theirs.fileno())
            except BaseException:
                ours.close()
                private_folders.sweep(self._private)
                raise
        self.channel = LineSocket(ours)

    def _start(self, folder: Path, *, channel: int) -> subprocess.Popen[bytes]:
        temporary, user = self._private / "tmp", self._private.stat().st_uid
        temporary.mkdir(mode=0o700)
        os.chown(temporary, user, user)
        installation = load_installation(folder)
        java_home = installation.java_home
        environment = {"PATH": _PATH, "HOME": str(self._private), "TMPDIR": str(temporary), "LANG": "C.UTF-8"}
        if java_home is not None:
            environment["JAVA_HOME"] = java_home
        command = [str(folder / "env" / "bin" / "python"), "-I", "-B", "-X", f"pycache_prefix={folder / 'bytecode'}"]
        command += ["-m", "ppml_airflow.guest", "--channel", str(channel), "--parent", str(os.getpid())]
        if self._confine:
            command = list(self._confine(command, user=user, see=[self._private, *_hosts_part(installation)]))
        with (self._private / "guest.log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self._private,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(channel,),
                start_new_session=True,
            )

    def meet(self) -> None:
        """Nothing to wait for: it has inherited its end of the socket."""

    def kill(self) -> None:
        """End the guest and everything that it started, at once. Safe from any thread, any number of times."""
        with self._ending:
            if self._exit_code is None:
                kill_session(self._process.pid)

    def finish(self, *, patience_s: float = 0) -> int:
        """Wait a little for the guest to end by itself, then end it; sweep. Returns its exit code."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self.kill()
        self.channel.close()
        with self._ending:
            self._exit_code = self._process.wait()
        self._private_folders.sweep(self._private)
        return self._exit_code

    @property
    def is_out_of_memory(self) -> bool:
        """Never: a process has the memory of the whole machine, its job a limit of its own."""
        return False

    def last_words(self) -> str:
        """The end of what the guest printed, if no quote was made for it: without a quote it was given no secret."""
        if self.has_quote:
            return ""
        log = self._private / "guest.log"
        return log.read_bytes()[-_SAID_BYTES:].decode(errors="replace").strip() if log.is_file() else ""


def _hosts_part(installation: Installation) -> list[Path]:
    """What of the host a guest runs on: interpreters and Java."""
    interpreters = [Path(one.executable).parent.parent for one in installation.environments.values()]
    return interpreters + ([Path(installation.java_home)] if installation.java_home else [])
