"""`python -m ppml_airflow.cli.supervisor FOLDER`: keep the services of one PPML_HOME alive, and end them all.

Reads FOLDER/services.json (a list of `Service`), starts them in that order, writes FOLDER/<name>.pid and
FOLDER/<name>.log, starts again what ends, and gives up when the same service ends three times within 30 s. SIGTERM
ends everything, in the opposite order: each service is asked first, and 20 s later whatever is left below this process
is killed. Services end, too, when this process is killed itself. FOLDER/supervisor.lock is held as long as it lives.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import time
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.cli.processes import adopt_orphans, descendants, send, start_process

SERVICES = "services.json"
LOCK = "supervisor.lock"
GRACE_S = 20.0
_RESTART_PAUSE_S = 0.5
_MOST_ENDS = 3
_WITHIN_S = 30.0
_WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("ppml.supervisor")


class Service(Document, frozen=True, kw_only=True):
    """One process to keep alive. `environment` is all that it gets."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    dies_at_once: bool
    """Killed with its supervisor; else asked to end, because it has children of its own to end."""


class _GivenUp(Exception):
    """A service that does not stay up."""


class Supervisor:
    """The services of one folder. Signals are blocked and taken one by one; there are no threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services = canonical.decode((folder / SERVICES).read_bytes(), into=tuple[Service, ...])
        self._running: dict[int, Service] = {}
        self._ends: dict[str, list[float]] = {service.name: [] for service in self._services}

    def run(self) -> int:
        """Start, watch, and end everything on SIGTERM. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        adopt_orphans()
        try:
            for service in self._services:
                self._start(service)
            while self._next_signal() not in (signal.SIGTERM, signal.SIGINT):
                for service in self._reap():
                    self._start_again(service)
        except _GivenUp as reason:
            _log.error("%s", reason)
            return 3
        finally:
            self._stop()
        return 0

    def _next_signal(self) -> int | None:
        taken = signal.sigtimedwait(_WATCHED, 1.0)
        return taken.si_signo if taken else None

    def _start(self, service: Service) -> None:
        process = start_process(
            service.arguments,
            environment=service.environment,
            log=self._folder / f"{service.name}.log",
            death_signal=signal.SIGKILL if service.dies_at_once else signal.SIGTERM,
        )
        process.returncode = 0  # reaped below by its id, together with adopted orphans
        self._running[process.pid] = service
        self._pid_file(service).write_text(f"{process.pid}\n")

    def _start_again(self, service: Service) -> None:
        now = time.monotonic()
        ends = self._ends[service.name]
        ends.append(now)
        if len([end for end in ends if end > now - _WITHIN_S]) >= _MOST_ENDS:
            raise _GivenUp(f"{service.name} ended {_MOST_ENDS} times within {_WITHIN_S:.0f} s; see {service.name}.log")
        time.sleep(_RESTART_PAUSE_S)
        self._start(service)

    def _reap(self) -> list[Service]:
        """The services that have ended; ended orphans are forgotten."""
        ended: list[Service] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            service = self._running.pop(pid, None)
            if service is not None:
                _log.warning("%s ended with %d", service.name, os.waitstatus_to_exitcode(status))
                self._pid_file(service).unlink(missing_ok=True)
                ended.append(service)

    def _stop(self) -> None:
        deadline = time.monotonic() + GRACE_S
        for pid in reversed(self._running):
            send(pid, signal.SIGTERM)
        while self._running and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        while left := descendants(os.getpid()):
            for pid in left:
                send(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.02)

    def _pid_file(self, service: Service) -> Path:
        return self._folder / f"{service.name}.pid"


def _locked(handle: int) -> bool:
    """Take the lock; somebody who only looks whether it is held holds it for a moment himself."""
    for _ in range(20):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def main() -> None:
    """Supervise the folder named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    folder = Path(sys.argv[1])
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(handle):
        sys.exit(f"another supervisor runs the services of {folder}")
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    sys.exit(Supervisor(folder).run())


if __name__ == "__main__":
    main()
