"""The processes of one job, whatever the engine: private directory, start, end.

They are started through the supervisor, so that they die with the guest, with an environment in which nothing is
inherited. Their working directory is private (0700):

    code/     the approved code, put there by the guest
    conf/     what the job may ask for, and settings of its engine
    inputs/   links to the sealed parts of tables, `inputs/VIEW/part-00000`
    output/   encrypted results, `output/DATASET/`
    tmp/
    guest.sock
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.workloads import supervisor
from ppml_airflow.workloads.guest_socket import Connection, GuestSocket, input_links
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.vocabulary import Outcome, outcome_of

_EXIT_KILLED = 128 + 9
_STOP_S = 10.0


class JobProcess:
    """Starts, watches and ends the processes of one job.

    Args:
        job: what to run.
        environment: of the processes.
        private: an existing directory of the guest's own; what is in it is inside the enclave.
        log: file to which all text of the job's processes is appended; the guest seals it.
        name: what the program is called in errors: `java`, `python`.
    """

    def __init__(
        self, job: WorkloadJob, *, environment: Mapping[str, str], private: Path, log: Path, name: str
    ) -> None:
        self.job = job
        self.private = private.resolve()
        self._environment = environment
        self._log = log
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = float("inf")
        self._is_cancelled = threading.Event()
        self._lay_out()
        self.socket = self._listen()

    def start(
        self, command: Sequence[str], *, limits: Mapping[str, int] | None = None, has_network: bool = True
    ) -> None:
        """Start a command. The step's time runs from here.

        Args:
            command: program and arguments.
            limits: of each process, as setrlimit(2) has them, by names such as `DATA`.
            has_network: whether the host's network is there; else a loopback interface alone, where the kernel permits.

        Raises:
            ConfigurationError: called twice.
        """
        if self._process is not None:
            raise ConfigurationError("job process was started before")
        confined = [f"{name}={value}" for name, value in (limits or {}).items()]
        confined += [] if has_network else ["--no-network"]
        self._process = self._spawn([*confined, *command])
        self._deadline = time.monotonic() + self.job.limits.wall_s

    def arm(self, keys: JobKeys, *, on_progress: Callable[[int], None], speaks: bool = False) -> None:
        """Give out keys and contents from now on.

        Args:
            keys: what the lease released.
            on_progress: gets the per cent of input that has been opened.
            speaks: whether the program itself speaks to the members of its set; engines have ways of their own.
        """
        self.socket.arm(keys if speaks else replace(keys, cluster=None), on_progress=on_progress)

    def await_control(self, *, timeout_s: float) -> Connection:
        """Wait until the started program offers itself for control.

        Raises:
            ConfigurationError: it ended instead; says its last lines.
            UnavailableError: it did not in time.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                return self.socket.control.get(timeout=0.05)
            if not self.is_running():
                raise ConfigurationError(f"{self._name} ended while it started: {self.log_tail()}")
        raise UnavailableError(f"{self._name} did not start within {timeout_s:.0f} s")

    def remaining_s(self) -> float:
        """Seconds until the step's time is over."""
        return max(0.0, self._deadline - time.monotonic())

    @property
    def is_cancelled(self) -> bool:
        """Whether the job's end is `cancelled`."""
        return self._is_cancelled.is_set()

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> Outcome:
        """Wait for the process to end by itself; kill it when its time is over. Say why it ended."""
        if self._process is not None:
            try:
                self._process.wait(timeout=self.remaining_s())
            except subprocess.TimeoutExpired:
                self.kill()
                return "cancelled" if self._is_cancelled.is_set() else "limit_time"
        return self.end()

    def end(self) -> Outcome:
        """Why a process that ended, or is about to, did so."""
        code = self._stop(timeout_s=_STOP_S)
        if self._is_cancelled.is_set():
            return "cancelled"
        if code == _EXIT_KILLED or self._is_out_of_memory(code):
            return "out_of_memory"
        if code == 0 and self.socket.failure is None:
            return "ok"
        return outcome_of(self.socket.failure)

    def cancel(self) -> None:
        """Kill the process; its end is then `cancelled`."""
        self._is_cancelled.set()
        self.kill()

    def kill(self) -> None:
        """Kill the process and all its descendants, now."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._stop(timeout_s=_STOP_S)

    def close(self) -> None:
        """Kill what still runs, stop answering. May be called twice."""
        self.kill()
        self.socket.close()

    def answered(self, run: Callable[[], JobResult]) -> JobResult:
        """Run after the lease: whatever goes wrong, a word of the vocabulary leaves, and the text goes to the log."""
        try:
            return run()
        except Exception as error:  # an error of any class could quote the data
            with self._log.open("a") as log:
                log.writelines(traceback.format_exception(error))
            return JobResult(outcome=_word_of(error))

    def log_tail(self) -> str:
        """The last lines of the log. To be told only before the lease."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " | ".join(lines[-3:])

    def _listen(self) -> GuestSocket:
        return GuestSocket(self.private, job=self.job)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, *command],
                cwd=self.private,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        finally:
            os.close(log)

    def _stop(self, *, timeout_s: float) -> int | None:
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _is_out_of_memory(self, code: int | None) -> bool:
        """Whether an exit code of the engine says so."""
        return False

    def _lay_out(self) -> None:
        self.private.chmod(0o700)
        for name in ("conf", "inputs", "output", "tmp"):
            (self.private / name).mkdir(mode=0o700)
        for link, part in input_links(self.private, inputs=self.job.inputs).items():
            link.parent.mkdir(mode=0o700, exist_ok=True)
            link.symlink_to(part.resolve())


def write_private(file: Path, content: str | bytes) -> None:
    """Write a new file that its owner alone can read; a text as UTF-8."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)


def _word_of(error: Exception) -> Outcome:
    if isinstance(error, VerificationError):
        return "output_mismatch"
    return outcome_of(error.code) if isinstance(error, PpmlError) else "job_failed"
