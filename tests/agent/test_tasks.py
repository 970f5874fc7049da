from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ppml_airflow import canonical
from ppml_airflow.agent.tasks import MAX_REMEMBERED, MAX_RUNNING, Outcome, Perform, Progress, Tasks
from ppml_airflow.errors import PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.messages import AgentTask, AgentTaskView, Published

TASK = AgentTask(verb="seal", name="visits", run_id="0" * 32)
PUBLISHED = Published(dataset="visits", version=1, manifest="sha256:" + "a" * 64)
OUTCOME = Outcome(published=PUBLISHED, location="")
SECRET = "Jane Roe, 1984"


@pytest.fixture
def make() -> Iterator[Callable[[Perform], Tasks]]:
    made: list[Tasks] = []

    def _make(perform: Perform) -> Tasks:
        made.append(Tasks(perform))
        return made[-1]

    yield _make
    for tasks in made:
        tasks.close()


def wait(tasks: Tasks, task: AgentTask = TASK) -> AgentTaskView:
    for _ in range(5000):
        view = tasks.view(canonical.digest(task))
        if view.state != "running":
            return view
        time.sleep(0.001)
    raise AssertionError("task does not end")


def test_task_is_done_and_told(make: Callable[[Perform], Tasks]) -> None:
    tasks = make(lambda task, progress: Outcome(published=PUBLISHED, location="/sink.csv"))
    assert tasks.submit(TASK).task_id == canonical.digest(TASK)
    view = wait(tasks)
    assert (view.state, view.percent, view.published, view.location) == ("done", 100, PUBLISHED, "/sink.csv")


def test_task_asked_for_twice_at_once_runs_once(make: Callable[[Perform], Tasks]) -> None:
    runs: list[AgentTask] = []
    go = threading.Event()

    def perform(task: AgentTask, progress: Progress) -> Outcome:
        runs.append(task)
        go.wait(5)
        return OUTCOME

    tasks = make(perform)
    assert tasks.submit(TASK) == tasks.submit(TASK)
    go.set()
    assert wait(tasks).state == "done"
    assert len(runs) == 1


def test_failed_task_runs_again_when_asked_again(make: Callable[[Perform], Tasks]) -> None:
    failures = [PolicyDeniedError("no", code="not_in_map", hint="ask")]

    def perform(task: AgentTask, progress: Progress) -> Outcome:
        if failures:
            raise failures.pop()
        return OUTCOME

    tasks = make(perform)
    tasks.submit(TASK)
    view = wait(tasks)
    assert (view.state, view.kind, view.code, view.reason, view.hint) == (
        "failed",
        "PolicyDeniedError",
        "not_in_map",
        "no",
        "ask",
    )
    tasks.submit(TASK)
    assert wait(tasks).state == "done"


def test_library_error_that_quotes_the_data_leaves_neither_by_view_nor_by_log(
    make: Callable[[Perform], Tasks], caplog: pytest.LogCaptureFixture
) -> None:
    def perform(task: AgentTask, progress: Progress) -> Outcome:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"cannot cast {SECRET}") from error

    caplog.set_level(logging.DEBUG)
    tasks = make(perform)
    tasks.submit(TASK)
    view = wait(tasks)
    assert (view.state, view.code, view.reason) == ("failed", "internal", "task failed with ValueError")
    assert "Jane" not in caplog.text
    assert "test_tasks.py" in caplog.text


def test_error_of_the_operating_system_names_its_path(make: Callable[[Perform], Tasks]) -> None:
    def perform(task: AgentTask, progress: Progress) -> Outcome:
        raise OSError(28, "No space left on device", "/storage/visits")

    tasks = make(perform)
    tasks.submit(TASK)
    view = wait(tasks)
    assert (view.code, view.reason) == ("input_output", "/storage/visits: No space left on device")


def test_progress_is_seen_while_the_task_runs(make: Callable[[Perform], Tasks]) -> None:
    seen, go = threading.Event(), threading.Event()

    def perform(task: AgentTask, progress: Progress) -> Outcome:
        progress.report(1, total=4)
        seen.set()
        go.wait(5)
        return OUTCOME

    tasks = make(perform)
    tasks.submit(TASK)
    seen.wait(5)
    assert tasks.view(canonical.digest(TASK)).percent == 25
    go.set()
    wait(tasks)


def test_progress_never_falls_and_never_says_done() -> None:
    progress = Progress(threading.Event())
    for done, total in ((5, 10), (2, 10), (10, 10), (1, 0)):
        progress.report(done, total=total)
    assert progress.percent == 99


def test_unknown_task_is_worth_asking_for_again(make: Callable[[Perform], Tasks]) -> None:
    with pytest.raises(UnavailableError) as raised:
        make(lambda task, progress: OUTCOME).view("sha256:" + "0" * 64)
    assert raised.value.code == "unknown_task"


def test_stopping_agent_lets_a_task_clean_up(make: Callable[[Perform], Tasks]) -> None:
    started, cleaned = threading.Event(), threading.Event()

    def perform(task: AgentTask, progress: Progress) -> Outcome:
        started.set()
        try:
            while True:
                progress.report(0, total=1)
                time.sleep(0.005)
        finally:
            cleaned.set()

    tasks = make(perform)
    tasks.submit(TASK)
    started.wait(5)
    tasks.close()
    assert cleaned.is_set()
    assert tasks.view(canonical.digest(TASK)).code == "stopping"
    with pytest.raises(UnavailableError):
        tasks.submit(TASK)


def test_more_tasks_than_may_wait_are_refused(make: Callable[[Perform], Tasks]) -> None:
    go = threading.Event()

    def perform(task: AgentTask, progress: Progress) -> Outcome:
        go.wait(5)
        return OUTCOME

    tasks = make(perform)
    for number in range(MAX_RUNNING):
        tasks.submit(AgentTask(verb="seal", name="visits", run_id=f"{number:032x}"))
    with pytest.raises(UnavailableError) as raised:
        tasks.submit(AgentTask(verb="seal", name="visits", run_id="f" * 32))
    assert raised.value.code == "busy"
    go.set()


def test_oldest_finished_tasks_are_forgotten(make: Callable[[Perform], Tasks]) -> None:
    tasks = make(lambda task, progress: OUTCOME)
    asked = [AgentTask(verb="seal", name="visits", run_id=f"{number:032x}") for number in range(MAX_REMEMBERED + 1)]
    for task in asked:
        tasks.submit(task)
        wait(tasks, task)
    with pytest.raises(UnavailableError):
        tasks.view(canonical.digest(asked[0]))
    assert tasks.view(canonical.digest(asked[1])).state == "done"
