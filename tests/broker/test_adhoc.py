"""A statement from the run at the broker: who may hear the answer, how often one may ask, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Input, Step
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.messages import ReleaseRequest
from tests.broker.test_attacks import refused
from tests.support.adhoc import ASK, STATEMENT, ask, certify_reader, certify_recipient, tell
from tests.support.broker_world import DATASETS, Guest, World
from tests.support.simulated_run import SUMMARISE

SUMMARY = SUMMARISE.outputs
MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> MakeWorld:
    def make(step: Step = ASK, *, runs_per_slot: int = 1, readable: tuple[str, ...] = DATASETS) -> World:
        world = World(folder=tmp_path, platform=platform, keystore=keystore, steps=(step,), runs_per_slot=runs_per_slot)
        certify_reader(world.owners, *readable)
        tell(world)
        return world

    return make


def gated(world: World, *, statement: str = STATEMENT, name: str = "manual") -> str:
    if world.client.head("plans") is None:
        world.publish("plans")
    run_id = world.open_run(name, params={"statement": statement})
    world.publish("visits", run_id=run_id)
    world.pass_gate(run_id)
    return run_id


def test_an_adhoc_step_is_leased_committed_and_released(make_world: MakeWorld) -> None:
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.ask()
    assert guest.job.params == {"statement": STATEMENT}
    assert guest.commit(disclosed={}).state == "committed"
    serial = world.owners.recipient_certificate.serial
    request = ReleaseRequest(run_id=guest.job.run_id, dataset="report", recipient=serial)
    assert world.client.release(request).sealed_release_key


def test_another_statement_than_the_runs_gets_no_key(make_world: MakeWorld) -> None:
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.change_job(params={"statement": STATEMENT + " WHERE true"})
    with refused(VerificationError, "other_job"):
        guest.ask()


def test_a_run_is_not_reopened_with_another_statement(make_world: MakeWorld) -> None:
    world = make_world()
    gated(world)
    with refused(PolicyDeniedError, "params_differ"):
        world.open_run(params={"statement": "SELECT 1"})


@pytest.mark.parametrize("statement", ["x" * 501, "", "SELECT 1 \x1b[2K"])
def test_a_statement_that_is_too_long_or_hides_something_opens_no_run(make_world: MakeWorld, statement: str) -> None:
    world = make_world()
    world.publish("plans")
    with refused(PolicyDeniedError, "param_out_of_bounds"):
        world.open_run(params={"statement": statement})


@pytest.mark.parametrize("lacking", ["visits", "plans"])
def test_a_recipient_without_the_open_right_for_one_input_gets_no_lease(make_world: MakeWorld, lacking: str) -> None:
    world = make_world()
    certify_recipient(world.owners, *(name for name in DATASETS if name != lacking))
    tell(world)
    run_id = gated(world)
    with pytest.raises(VerificationError, match=f"recipient analyst is not certified for {lacking}"):
        Guest(world, run_id=run_id).ask()
    status = world.status(run_id)
    assert (status.state, status.code) == ("denied", "not_certified")
    assert lacking in status.reason


def test_a_reader_of_the_log_without_the_open_right_gets_no_lease(make_world: MakeWorld) -> None:
    """A query chooses what its errors say, and the log keeps them."""
    world = make_world(readable=("visits",))
    with pytest.raises(VerificationError, match="log owner is not certified for plans"):
        Guest(world, run_id=gated(world)).ask()


def test_who_loses_the_open_right_gets_no_release_key(make_world: MakeWorld) -> None:
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.ask()
    guest.commit(disclosed={})
    certify_recipient(world.owners, "report")
    tell(world)
    serial = world.owners.recipient_certificate.serial
    with refused(VerificationError, "not_certified"):
        world.client.release(ReleaseRequest(run_id=guest.job.run_id, dataset="report", recipient=serial))


def test_one_more_question_than_a_slot_allows_is_refused(make_world: MakeWorld) -> None:
    """Differencing: everybody, then everybody but one."""
    world = make_world(runs_per_slot=2)
    for question in ("SELECT count(*) FROM visits", "SELECT count(*) FROM visits WHERE id <> 7"):
        guest = Guest(world, run_id=gated(world, statement=question, name=question))
        guest.ask()
        guest.commit(disclosed={})
    third = Guest(world, run_id=gated(world, statement="SELECT count(*) FROM visits WHERE id <> 8", name="third"))
    with refused(PolicyDeniedError, "runs_per_slot"):
        third.ask()


def test_a_question_that_was_never_leased_is_not_counted(make_world: MakeWorld) -> None:
    """A statement that the guest refuses ends before the lease: a typing error costs no run."""
    world = make_world()
    gated(world, statement="SELEKT 1", name="mistyped")
    Guest(world, run_id=gated(world, name="right")).ask()


def test_the_answer_has_no_key_for_a_later_step(make_world: MakeWorld) -> None:
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.ask()
    assert [output.dataset_certificate for output in guest.lease.outputs] == [None]
    dataset = world.owners.dataset_certificates["report"]
    (wrap,) = guest.output(0).wraps
    laundered = guest.manifests(wraps=(wrap, msgspec.structs.replace(wrap, to="dataset", serial=dataset.serial)))
    with refused(VerificationError, "other_recipients"):
        guest.hand_in(guest.receipt(laundered, disclosed={}), manifests=laundered)


def test_a_pipeline_approved_to_read_an_answer_gets_no_key_to_it(make_world: MakeWorld) -> None:
    """Laundering through another approval: the answer of an adhoc step has no key that the broker could open."""
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.ask()
    guest.commit(disclosed={})
    fixed = ask(kind="fixed", params={}, inputs=(Input(dataset="report", version="head"),), outputs=SUMMARY, gates=())
    approval = world.approval(steps=(fixed,), edges=(), replaces=world.approval_envelope.digest, runs_per_slot=9)
    world.client.put_approval(world.owners.root.sign(approval))
    with refused(VerificationError, "wrong_wrap"):
        Guest(world, run_id=world.open_run("launder")).ask()


def test_an_approval_against_the_rules_does_not_come_into_force(make_world: MakeWorld) -> None:
    world = make_world()
    steps = (ask(workload="spark-python"),)
    approval = world.approval(steps=steps, replaces=world.approval_envelope.digest)
    with refused(PolicyDeniedError, "adhoc_rules"):
        world.client.put_approval(world.owners.root.sign(approval))


def test_a_count_chosen_by_the_statement_is_not_let_out(make_world: MakeWorld) -> None:
    world = make_world()
    guest = Guest(world, run_id=gated(world))
    guest.ask()
    with refused(PolicyDeniedError, "not_disclosed"):
        guest.commit(disclosed={"rows": 7})
