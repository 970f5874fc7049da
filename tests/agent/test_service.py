"""The agent over HTTP: who it is, and what it does not read."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ppml_airflow.agent.service import MAX_BODY_BYTES, build_app
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.agent.tasks import Outcome, Progress, Tasks
from ppml_airflow.protocol.messages import AgentTask
from tests.support.agent_home import SEAL_VISITS, write_agent
from tests.support.owners import Owners


def never(task: AgentTask, progress: Progress) -> Outcome:
    raise AssertionError("no task was asked for")


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    config = write_agent(tmp_path, owners=Owners("visits"), broker="http://127.0.0.1:1", seals=SEAL_VISITS)
    return TestClient(build_app(Tasks(never), settings=load_settings(config)))


def test_health_names_the_names_that_it_knows(client: TestClient) -> None:
    health = client.get("/v1/health").json()
    assert (health["status"], health["seals"], health["delivers"]) == ("ok", ["visits"], [])


def test_a_long_request_is_refused_before_it_is_parsed(client: TestClient) -> None:
    answer = client.post("/v1/tasks", content=b"x" * (MAX_BODY_BYTES + 1))
    assert (answer.status_code // 100, answer.json()["code"]) == (4, "too_large")
