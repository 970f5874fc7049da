"""One question for all gates: whatever moves a step names its run, to callers who may see it."""

from __future__ import annotations

import pytest

from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.broker.service.changes import MOST_RUNS
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.messages import Changes
from tests.support.broker_world import Guest, World

TOKEN = "airflow"


def changes(world: World, *, since: int = 0, token: str = TOKEN) -> Changes:
    return world.connect(token=token).call("GET", f"/ppml/v1/changes/{since}", into=Changes)


def test_whatever_moves_a_step_names_its_run_and_no_other(world: World) -> None:
    world.publish("plans")
    run_id, other = world.open_run("one"), world.open_run("two")
    moves = (
        lambda: world.publish("visits", run_id=run_id),
        lambda: world.pass_gate(run_id),
        lambda: Guest(world, run_id=run_id).ask(),
        lambda: world.client.cancel(run_id, "aggregate"),
        lambda: world.client.close_run(run_id),
    )
    for move in moves:
        number, before = changes(world).number, world.status(run_id)
        move()
        answer = changes(world, since=number)
        assert (answer.runs, answer.everything) == ((run_id,), False)
        assert answer.number > number
        assert (world.status(run_id) != before) == (move is not moves[-1])
    assert changes(world, since=answer.number) == Changes(number=answer.number, runs=(), everything=False)
    assert other not in answer.runs


def test_a_denial_names_its_run(world: World) -> None:
    run_id = world.ready_run()
    guest = Guest(world, run_id=run_id)
    number = changes(world).number
    with pytest.raises(PolicyDeniedError):
        guest.ask()  # without a grant
    assert changes(world, since=number).runs == (run_id,)


def test_a_policy_or_an_approval_may_move_everything(world: World) -> None:
    world.ready_run()
    for put in (
        lambda: world.client.put_policy(world.owners.root.sign(world.policy(version=2))),
        lambda: world.client.put_approval(
            world.owners.root.sign(world.approval(replaces=world.approval_envelope.digest))
        ),
    ):
        number = changes(world).number
        put()
        assert changes(world, since=number).everything


def test_a_number_from_a_store_that_was_rolled_back_moves_everything(world: World) -> None:
    assert changes(world, since=10**6).everything


def test_a_caller_hears_of_its_own_pipelines_only(world: World) -> None:
    world.callers[hash_token("other")] = Caller(name="other", pipelines=("payroll",))
    world.publish("plans")
    number = changes(world).number
    run_id = world.open_run()
    assert changes(world, since=number).runs == (run_id,)
    assert changes(world, since=number, token="other").runs == ()
    with pytest.raises(PolicyDeniedError) as refused:
        changes(world, token="guessed")
    assert refused.value.code == "token_unknown"


def test_more_runs_than_an_answer_holds_are_everything(world: World) -> None:
    number = changes(world).number
    for count in range(MOST_RUNS + 1):
        with world.broker.decision() as ledger:
            ledger.changed(f"{count:032x}")
    assert changes(world, since=number).everything
