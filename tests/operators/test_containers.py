"""A step whose enclave is a container: started by a worker, watched by a trigger, ended by whoever acts on the task."""

from __future__ import annotations

import asyncio
import json

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from ppml_airflow.canonical import digest_bytes
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError
from ppml_airflow.operators.guest_trigger import GuestTrigger
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem
from tests.support.fake_pipeline import TOKEN, committed, connect
from tests.support.nightly import context, nightly

pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture
def dag():
    return nightly(runtime="docker")


@pytest.fixture
def guest(broker, quoting):
    """A guest that commits."""

    def work(request):
        yield GuestEvent(state="running", percent=40)
        broker.commit("count", attempt=2)
        yield committed()

    quoting.guest = work
    return quoting


def deferred(dag):
    with pytest.raises(TaskDeferred) as raised:
        dag.get_task("count").execute(context(dag))
    return raised.value


def first_event(trigger):
    async def first():
        async for event in trigger.run():
            return event.payload

    return asyncio.run(asyncio.wait_for(first(), 10))


def quick(trigger):
    return GuestTrigger(**trigger.serialize()[1] | {"poll_s": 0.02})


def resume(dag, event):
    return dag.get_task("count").execute_complete(context(dag), event)


def test_the_worker_starts_the_container_and_leaves(dag, guest):
    waiting = deferred(dag)
    assert waiting.method_name == "execute_complete"
    request = guest.launched[0]
    assert (request.runtime, request.is_watched, request.role) == ("docker", True, "job")


def test_what_the_database_keeps_of_the_trigger_holds_no_secret(dag, guest):
    path, arguments = deferred(dag).trigger.serialize()
    assert path == "ppml_airflow.operators.guest_trigger.GuestTrigger"
    assert TOKEN not in json.dumps(arguments)
    assert GuestTrigger(**arguments).serialize() == (path, arguments)


def test_a_container_that_committed_gives_the_reference(dag, guest):
    event = first_event(quick(deferred(dag).trigger))
    assert event == {"woken": "settled"}
    reference = resume(dag, event)
    assert reference["attempt"] == 2
    assert reference["outputs"] == {"report": digest_bytes(b"report")}


def test_an_event_that_says_settled_is_not_believed_without_a_receipt(dag, guest, broker):
    deferred(dag)
    broker.put("count", waiting_for="grant")
    with pytest.raises(AirflowFailException, match="no receipt"):
        resume(dag, {"woken": "settled"})


def test_what_the_guest_refused_fails_the_task_at_once(dag, quoting):
    quoting.guest = lambda request: iter([GuestProblem.of(PolicyDeniedError("no", code="gate_missing"))])
    event = first_event(quick(deferred(dag).trigger))
    with pytest.raises(AirflowFailException, match="gate_missing"):
        resume(dag, event)


def test_a_container_that_was_killed_is_worth_another_try(dag, quoting):
    quoting.guest = lambda request: iter([GuestProblem.of(UnavailableError("gone", code="guest_ended"))])
    event = first_event(quick(deferred(dag).trigger))
    with pytest.raises(UnavailableError, match="gone"):
        resume(dag, event)


def test_out_of_memory_is_not_tried_again(dag, quoting):
    quoting.guest = lambda request: iter([GuestProblem.of(ConfigurationError("more", code="out_of_memory"))])
    event = first_event(quick(deferred(dag).trigger))
    with pytest.raises(AirflowFailException, match="out_of_memory"):
        resume(dag, event)


def test_a_watch_that_lapsed_is_worth_another_try(dag, guest):
    waiting = deferred(dag).trigger
    lapsed = GuestTrigger(**waiting.serialize()[1] | {"watch_id": "f" * 32})
    with pytest.raises(UnavailableError, match="gone"):
        resume(dag, first_event(lapsed))


def test_a_user_who_acts_on_the_task_ends_the_container_and_fences_the_attempt(dag, broker, quoting):
    quoting.guest = lambda request: iter([GuestEvent(state="running")])
    trigger = deferred(dag).trigger
    asyncio.run(trigger.on_kill())
    assert quoting.ended.wait(5)
    assert broker.cancelled == ["count"]


def test_a_triggerer_that_stops_in_good_order_ends_nothing(dag, broker, quoting):
    quoting.guest = lambda request: iter([GuestEvent(state="running")])
    trigger = quick(deferred(dag).trigger)

    async def stop():
        waiting = asyncio.create_task(anext(aiter(trigger.run())))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await trigger.cleanup()

    asyncio.run(stop())
    assert not quoting.ended.is_set()
    assert broker.cancelled == []


def test_killing_the_worker_between_start_and_leaving_ends_the_container(dag, broker, quoting):
    quoting.guest = lambda request: iter([GuestEvent(state="running")])
    deferred(dag)
    dag.get_task("count").on_kill()
    assert quoting.ended.wait(5)
    assert broker.cancelled == ["count"]


def test_a_step_that_does_not_say_where_runs_where_the_connection_says(broker, agent, guest, tmp_path, monkeypatch):
    connect(monkeypatch, broker=broker.url, agent=agent.url, folder=tmp_path, runtime="docker")
    deferred(nightly())
    assert guest.launched[0].runtime == "docker"


def test_a_gate_of_a_container_attests_in_a_container(dag, broker, guest):
    broker.put("count", waiting_for="grant")

    def work(request):
        broker.put("count", granted=True, state="granted", waiting_for="")
        yield committed(state="granted")

    guest.guest = work
    assert dag.get_task("gate_before_count").execute(context(dag))["state"] == "granted"
    assert (guest.launched[0].runtime, guest.launched[0].is_watched) == ("docker", False)
