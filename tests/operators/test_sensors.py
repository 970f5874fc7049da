from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError
from ppml_airflow.operators import AttestationSensor
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem
from tests.support.fake_pipeline import committed
from tests.support.nightly import SQL, context

pytestmark = pytest.mark.usefixtures("connected")
BEFORE, AFTER = "gate_before_count", "gate_after_count"
INPUTS, GRANTED = {"woken": "settled", "until": "inputs"}, {"woken": "settled", "until": "granted"}


@pytest.fixture
def guest(broker, quoting):
    """A guest that is granted."""

    def grant(request):
        yield GuestEvent(state="attesting")
        broker.put("count", state="granted", waiting_for="lease", granted=True)
        yield committed(state="granted")

    quoting.guest = grant
    return quoting


def test_exactly_one_of_before_and_after_is_wanted():
    for arguments in ({}, {"before": "a", "after": "b"}):
        with pytest.raises(ConfigurationError, match="exactly one"):
            AttestationSensor(**arguments)


def test_a_task_or_its_id_is_taken(dag):
    assert AttestationSensor(before=dag.get_task("count")).step == "count"
    assert AttestationSensor(after="group.count").task_id == "gate_after_group_count"


def test_the_gate_waits_without_a_worker_until_inputs_are_complete(dag, quoting):
    with pytest.raises(TaskDeferred) as deferred:
        dag.get_task(BEFORE).execute(context(dag))
    assert deferred.value.trigger.until == "inputs"
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.timeout.total_seconds() > 0
    assert quoting.launched == []


def test_with_inputs_complete_the_guest_is_attested_and_the_gate_passed(dag, broker, guest):
    broker.put("count", waiting_for="grant")
    answer = dag.get_task(BEFORE).execute(context(dag))
    request = guest.launched[0]
    assert answer == {"run_id": "0" * 32, "step": "count", "state": "granted"}
    assert (request.role, request.step, request.image) == ("preflight", "count", "spark")
    assert request.code == {"query.sql": SQL.encode()}
    assert request.broker == broker.url


def test_woken_with_inputs_complete_the_guest_is_attested(dag, broker, guest):
    broker.put("count", waiting_for="grant")
    assert dag.get_task(BEFORE).execute_complete(context(dag), INPUTS)["state"] == "granted"


def test_a_gate_that_is_open_already_starts_nothing(dag, broker, quoting):
    broker.put("count", state="granted", granted=True)
    dag.get_task(BEFORE).execute(context(dag))
    broker.commit("count")
    dag.get_task(BEFORE).execute(context(dag))
    assert quoting.launched == []


def test_a_denial_fails_at_once_with_code_reason_and_hint(dag, broker, quoting):
    broker.put("count", waiting_for="grant")
    denial = PolicyDeniedError("measurement is 11..., wanted 22...", code="measurement", hint="ppml image measure")
    quoting.guest = lambda request: iter([GuestProblem.of(denial)])
    with pytest.raises(AirflowFailException, match="measurement is 11") as refused:
        dag.get_task(BEFORE).execute(context(dag))
    assert "[measurement]" in str(refused.value)
    assert "ppml image measure" in str(refused.value)


def test_an_earlier_denial_does_not_stand_in_the_way_of_a_new_try(dag, broker, guest):
    broker.put("count", state="denied", waiting_for="")
    assert dag.get_task(BEFORE).execute(context(dag))["state"] == "granted"


def test_an_undecided_gate_is_waited_for(dag, broker, quoting):
    broker.put("count", waiting_for="grant")
    quoting.guest = lambda request: iter([committed(state="granted")])
    with pytest.raises(TaskDeferred) as deferred:
        dag.get_task(BEFORE).execute(context(dag))
    assert deferred.value.trigger.until == "granted"


def test_a_gate_denied_while_it_waited_is_not_attested_again(dag, broker, quoting):
    broker.put("count", state="denied", waiting_for="", code="tcb", reason="platform is out of date")
    with pytest.raises(AirflowFailException, match="platform is out of date"):
        dag.get_task(BEFORE).execute_complete(context(dag), GRANTED)
    assert quoting.launched == []


def test_no_quoting_service_is_worth_another_try(dag, broker):
    broker.put("count", waiting_for="grant")
    with pytest.raises(UnavailableError, match="quoting service"):
        dag.get_task(BEFORE).execute(context(dag))


def test_after_waits_for_the_receipt_and_starts_nothing(dag, broker, quoting):
    broker.put("count", state="running", waiting_for="receipt")
    with pytest.raises(TaskDeferred) as deferred:
        dag.get_task(AFTER).execute(context(dag))
    assert deferred.value.trigger.until == "committed"
    broker.commit("count")
    event = {"woken": "settled", "until": "committed"}
    assert dag.get_task(AFTER).execute_complete(context(dag), event)["state"] == "committed"
    assert quoting.launched == []


@pytest.mark.parametrize("state", ["failed", "cancelled", "denied"])
def test_after_a_step_that_did_not_commit_fails(dag, broker, state):
    broker.put("count", state=state, waiting_for="", code="out_of_memory")
    with pytest.raises(AirflowFailException, match="out_of_memory"):
        dag.get_task(AFTER).execute(context(dag))


@pytest.mark.parametrize("state", ["waiting", "granted"])
def test_a_step_set_to_success_by_hand_is_not_waited_for(dag, broker, state):
    broker.put("count", state=state)
    with pytest.raises(AirflowFailException, match="the broker holds no receipt"):
        dag.get_task(AFTER).execute(context(dag, states={"count": "success"}))


def test_a_step_that_airflow_has_not_finished_is_waited_for(dag, broker):
    with pytest.raises(TaskDeferred):
        dag.get_task(AFTER).execute(context(dag, states={"count": "running"}))


def test_an_event_that_says_settled_opens_nothing_by_itself(dag, broker):
    broker.put("count", state="running", waiting_for="receipt")
    with pytest.raises(TaskDeferred):
        dag.get_task(AFTER).execute_complete(context(dag), {"woken": "settled", "until": "committed"})


def test_a_broker_that_stayed_away_may_be_tried_again(dag):
    event = {"woken": "unavailable", "kind": "UnavailableError", "reason": "down", "code": "unavailable", "hint": ""}
    with pytest.raises(UnavailableError, match="down"):
        dag.get_task(AFTER).execute_complete(context(dag), event)


def test_a_refusal_met_by_the_trigger_fails_the_sensor(dag):
    event = {"woken": "refused", "kind": "PolicyDeniedError", "reason": "no", "code": "token_unknown", "hint": ""}
    with pytest.raises(AirflowFailException, match=r"no \[token_unknown\]"):
        dag.get_task(AFTER).execute_complete(context(dag), event)


def test_a_task_that_is_no_step_cannot_be_attested(dag, broker):
    sensor = AttestationSensor(before="encrypt_visits", task_id="wrong", dag=dag)
    broker.steps["encrypt_visits"] = broker.steps["count"]
    broker.put("count", waiting_for="grant")
    broker.steps["encrypt_visits"] = broker.steps["count"]
    with pytest.raises(AirflowFailException, match="not a step"):
        sensor.execute(context(dag))


def test_a_gate_is_tried_again_when_airflow_loses_it_unless_the_dag_says_otherwise():
    assert AttestationSensor(before="count").retries == 2
    assert AttestationSensor(before="count", retries=0).retries == 0
