from __future__ import annotations

import asyncio
import json
import threading
import time

import httpx
import pytest

from ppml_airflow.errors import UnavailableError
from ppml_airflow.operators.async_broker import ask_status
from ppml_airflow.operators.triggers import StepTrigger, is_settled
from tests.support.fake_pipeline import TOKEN, connect

pytestmark = pytest.mark.usefixtures("connected")


def trigger(broker, until="committed"):
    broker.runs["nightly", "manual__1"] = "d" * 32
    return StepTrigger(ppml_conn_id="ppml_default", run_id="d" * 32, step="count", until=until)


def woken(waiting):
    async def first():
        async for event in waiting.run():
            return event.payload

    return asyncio.run(asyncio.wait_for(first(), 10))


def test_what_the_database_keeps_of_it_holds_no_secret(broker):
    path, arguments = trigger(broker).serialize()
    assert path == "ppml_airflow.operators.triggers.StepTrigger"
    assert TOKEN not in json.dumps(arguments)
    assert StepTrigger(**arguments).serialize() == (path, arguments)


@pytest.mark.parametrize(
    ("until", "change"),
    [
        ("inputs", {"waiting_for": "grant"}),
        ("granted", {"granted": True}),
        ("granted", {"state": "denied"}),
        ("committed", {"state": "committed"}),
        ("committed", {"state": "failed"}),
        ("committed", {"state": "cancelled"}),
    ],
)
def test_it_wakes_when_the_step_is_settled(broker, until, change):
    threading.Timer(0.1, lambda: broker.put("count", **change)).start()
    assert woken(trigger(broker, until)) == {"woken": "settled", "until": until}


def test_a_short_absence_of_the_broker_is_waited_out(broker, monkeypatch, tmp_path):
    connect(monkeypatch, broker=broker.url, agent="http://127.0.0.1:1", folder=tmp_path, patience_s=30)
    broker.is_down = True

    def come_back():
        broker.commit("count")
        broker.is_down = False

    threading.Timer(0.1, come_back).start()
    assert woken(trigger(broker))["woken"] == "settled"


def test_a_long_absence_of_the_broker_ends_the_wait(broker):
    broker.is_down = True
    assert woken(trigger(broker))["woken"] == "unavailable"


def test_a_broker_where_nothing_listens_is_one_to_be_asked_again():
    async def ask():
        async with httpx.AsyncClient(base_url="http://127.0.0.1:1", trust_env=False) as client:
            await ask_status(client, run_id="d" * 32, step="count")

    with pytest.raises(UnavailableError, match="does not answer"):
        asyncio.run(ask())


def test_a_refusal_of_the_broker_ends_the_wait_with_its_code(broker):
    waiting = trigger(broker)
    broker.runs.clear()
    event = woken(waiting)
    assert (event["woken"], event["kind"], event["code"]) == ("refused", "ConfigurationError", "run_unknown")


def test_what_is_waited_for_is_logged_once(broker, capfd):
    def move_on():
        for change in (
            lambda: broker.put("count", waiting_for="receipt"),
            lambda: broker.put("count", waiting_for="receipt"),
            lambda: broker.commit("count"),
        ):
            asked = broker.asked
            while broker.asked == asked:
                time.sleep(0.01)
            change()

    threading.Thread(target=move_on, daemon=True).start()
    woken(trigger(broker))
    logged = "".join(capfd.readouterr())
    assert logged.count("step count waits for inputs: visits") == 1
    assert logged.count("step count waits for receipt") == 1


def test_gates_of_one_broker_share_one_question_and_wake_when_their_run_changes(broker):
    waiting = trigger(broker)

    async def everybody():
        gates = [asyncio.ensure_future(anext(waiting.run())) for _ in range(300)]
        while broker.asked < 300:
            await asyncio.sleep(0.1)
        before = broker.questions
        await asyncio.sleep(2.5)
        questions, asked = broker.questions - before, broker.asked
        broker.commit("count")
        events = await asyncio.wait_for(asyncio.gather(*gates), 20)
        return events, asked, questions

    events, asked, questions = asyncio.run(everybody())
    assert {event.payload["woken"] for event in events} == {"settled"}
    assert asked == 300
    assert 1 <= questions <= 3
    assert broker.asked == 600


def test_a_gate_is_not_settled_by_a_denial_while_inputs_are_awaited(broker):
    broker.put("count", state="denied", waiting_for="inputs: visits")
    assert not is_settled(broker.steps["count"], until="inputs")
