"""The tasks of an agent: asked for over HTTP, done by worker threads, watched by their id.

Asking again while a task runs joins it; asking again later does it again, which is harmless, because sealing and
delivering are idempotent. What a task tells its caller is an error of our own tree, or the name of another error's
class: exception texts of libraries may quote the data, so they reach neither the caller nor the log.

Threads are enough: reading, encrypting and writing Parquet happen in C++ without the interpreter's lock, and nothing
else of weight runs in this process.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError
from ppml_airflow.protocol.messages import AgentTask, AgentTaskView, Published
from ppml_airflow.units import Digest

WORKERS = 2
MAX_RUNNING = 100
MAX_REMEMBERED = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task has achieved. `location` is the sink of a delivery, else empty."""

    published: Published
    location: str


class Progress:
    """How far a task is, in per cent; the place where a task that is to stop finds out."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self.percent = 0

    def report(self, done: int, *, total: int) -> None:
        """Tell how much is done. 100 is kept for the end.

        Raises:
            UnavailableError: the agent is stopping; the task cleans up and ends.
        """
        if self._stopping.is_set():
            raise UnavailableError("agent is stopping", code="stopping", hint="ask again once it is back")
        self.percent = min(99, max(self.percent, done * 100 // max(total, 1)))


Perform = Callable[[AgentTask, Progress], Outcome]


class Tasks:
    """The tasks of one agent's life. Nothing is kept over a restart: whoever waits asks again.

    Args:
        perform: does one task, and raises what went wrong; runs in a worker thread.
    """

    def __init__(self, perform: Perform) -> None:
        self._perform = perform
        self._lock = threading.Lock()
        self._views: dict[Digest, AgentTaskView] = {}
        self._progress: dict[Digest, Progress] = {}
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="task")

    def submit(self, task: AgentTask) -> AgentTaskView:
        """Start a task unless it runs already.

        Raises:
            UnavailableError: the agent is stopping, or too many tasks wait.
        """
        task_id = canonical.digest(task)
        with self._lock:
            if task_id in self._progress:
                return self._view(task_id)
            if self._stopping.is_set() or len(self._progress) >= MAX_RUNNING:
                raise UnavailableError(
                    f"agent has {len(self._progress)} tasks and takes no more", code="busy", hint="ask again later"
                )
            progress = self._progress[task_id] = Progress(self._stopping)
            self._remember(_running(task_id))
            self._workers.submit(self._run, task, task_id=task_id, progress=progress)
            return self._view(task_id)

    def view(self, task_id: Digest) -> AgentTaskView:
        """How far a task is.

        Raises:
            UnavailableError: it is not known: never asked for, or forgotten by a restart (`unknown_task`).
        """
        with self._lock:
            if task_id not in self._views:
                raise UnavailableError(
                    f"task {task_id[:80]} is not known here", code="unknown_task", hint="ask for it again"
                )
            return self._view(task_id)

    def close(self) -> None:
        """Tell running tasks to stop, and wait until they have cleaned up."""
        self._stopping.set()
        self._workers.shutdown(cancel_futures=True)

    def _view(self, task_id: Digest) -> AgentTaskView:
        view, progress = self._views[task_id], self._progress.get(task_id)
        return view if progress is None else msgspec.structs.replace(view, percent=progress.percent)

    def _remember(self, view: AgentTaskView) -> None:
        self._views.pop(view.task_id, None)
        self._views[view.task_id] = view
        forgotten = [task_id for task_id in self._views if task_id not in self._progress]
        for task_id in forgotten[: max(0, len(self._views) - MAX_REMEMBERED)]:
            del self._views[task_id]

    def _run(self, task: AgentTask, *, task_id: Digest, progress: Progress) -> None:
        try:
            outcome = self._perform(task, progress)
            view = _done(task_id, outcome=outcome)
        except BaseException as error:
            view = _failed(task_id, error=_spoken(error))
        _log.info("%s %s for run %s: %s %s", task.verb, task.name, task.run_id, view.state, view.code)
        with self._lock:
            del self._progress[task_id]
            self._remember(view)


def _spoken(error: BaseException) -> PpmlError:
    """The error that may leave: ours as it is, the operating system's without more than its path, others by class."""
    if isinstance(error, PpmlError):
        return error
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("task failed with %s at\n%s", type(error).__name__, frames)
    if isinstance(error, OSError) and error.strerror:
        return ConfigurationError(f"{error.filename or 'a file'}: {error.strerror}", code="input_output")
    return ConfigurationError(
        f"task failed with {type(error).__name__}", code="internal", hint="the agent's own log has the place"
    )


def _running(task_id: Digest) -> AgentTaskView:
    return AgentTaskView(
        task_id=task_id,
        state="running",
        percent=0,
        kind="",
        code="",
        reason="",
        hint="",
        published=None,
        location="",
    )


def _done(task_id: Digest, *, outcome: Outcome) -> AgentTaskView:
    return msgspec.structs.replace(
        _running(task_id), state="done", percent=100, published=outcome.published, location=outcome.location
    )


def _failed(task_id: Digest, *, error: PpmlError) -> AgentTaskView:
    return msgspec.structs.replace(
        _running(task_id),
        state="failed",
        kind=type(error).__name__,
        code=error.code,
        reason=error.message,
        hint=error.hint,
    )
