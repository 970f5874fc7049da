"""Asking an agent, over real HTTP: what it says is believed only if it says all of it."""

from __future__ import annotations

import msgspec
import pytest

from ppml_airflow.errors import PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.agents import run_agent_task
from ppml_airflow.protocol.client import JsonClient
from ppml_airflow.protocol.messages import AgentTask, AgentTaskView, Published
from tests.support.fake_pipeline import FakeAgent

RUN = "a" * 32


class ForgetfulAgent(FakeAgent):
    """Says that it is done, and not with what."""

    def _view(self, task: AgentTask) -> AgentTaskView:
        return msgspec.structs.replace(super()._view(task), published=None)


class RestartedAgent(FakeAgent):
    """Starts anew between the first answer and the second, and remembers no task."""

    is_back = False

    def answer(self, method: str, parts: list[str], body: bytes, headers: dict[str, str]) -> object:
        if method == "GET" and not self.is_back:
            self.is_back = True
            raise UnavailableError("task is not known here", code="unknown_task")
        return super().answer(method, parts, body, headers)


def seal(agent: FakeAgent, *, patience_s: float = 0) -> tuple[Published, list[str]]:
    said: list[str] = []
    with agent, JsonClient(agent.url) as client:
        published = run_agent_task(
            client,
            verb="seal",
            name="visits",
            run_id=RUN,
            progress=lambda text, *values: said.append(text % values),
            patience_s=patience_s,
        )
    return published, said


def test_progress_is_told_once_and_the_version_at_the_end() -> None:
    agent = FakeAgent()
    agent.running = 2
    published, said = seal(agent)
    assert published.dataset == "visits"
    assert said == ["seal visits: 40 %", "seal visits: 80 %", f"seal visits: version 1, {published.manifest}"]


def test_a_failure_keeps_its_class_and_code() -> None:
    agent = FakeAgent()
    agent.failure = PolicyDeniedError("not for this pipeline", code="not_in_map")
    with pytest.raises(PolicyDeniedError, match="not for this pipeline") as refused:
        seal(agent)
    assert refused.value.code == "not_in_map"


def test_an_agent_that_is_done_without_a_version_is_asked_again_later() -> None:
    with pytest.raises(UnavailableError, match="names no version"):
        seal(ForgetfulAgent())


def test_an_agent_that_was_started_anew_is_asked_anew_within_the_patience() -> None:
    agent = RestartedAgent()
    published, _ = seal(agent, patience_s=30)
    assert published.dataset == "visits"
    assert [task.name for task in agent.tasks] == ["visits", "visits"]


def test_without_patience_an_agent_that_was_started_anew_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="not known here"):
        seal(RestartedAgent())
