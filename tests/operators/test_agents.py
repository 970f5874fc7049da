from __future__ import annotations

import pytest

from ppml_airflow.errors import PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.agents import run_agent_task
from ppml_airflow.protocol.client import JsonClient

RUN = "b" * 32


def ask(agent, verb="seal", name="visits"):
    lines: list[str] = []
    with JsonClient(agent.url) as client:
        done = run_agent_task(
            client, verb=verb, name=name, run_id=RUN, progress=lambda text, *values: lines.append(text % values)
        )
    return done, lines


def test_a_task_is_watched_until_it_is_done(agent):
    done, lines = ask(agent)
    assert (done.dataset, done.version) == ("visits", 1)
    assert [(task.verb, task.name, task.run_id) for task in agent.tasks] == [("seal", "visits", RUN)]
    assert lines[0] == "seal visits: 40 %"
    assert lines[-1].startswith("seal visits: version 1, sha256:")


def test_where_a_delivery_went_is_logged(agent):
    _, lines = ask(agent, verb="deliver", name="report")
    assert lines[-1] == "deliver report: opened at opened/report.csv"


def test_what_an_agent_refuses_is_raised_as_the_class_it_was_there(agent):
    agent.failure = PolicyDeniedError("visits may not be sealed for nightly", code="not_in_map", hint="ask the owner")
    with pytest.raises(PolicyDeniedError, match="may not be sealed") as refused:
        ask(agent)
    assert (refused.value.code, refused.value.hint) == ("not_in_map", "ask the owner")


def test_an_agent_that_is_away_is_unavailable(agent):
    agent.is_down = True
    with pytest.raises(UnavailableError):
        ask(agent)
