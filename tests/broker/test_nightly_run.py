"""One run as it should go, message by message."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Receipt, RunClosed
from ppml_airflow.domain.slots import slot_of
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.messages import Commit, ReleaseRequest
from ppml_airflow.sealing import wrapping
from tests.support.broker_world import Guest, World


def test_a_run_goes_from_open_to_passport(world: World) -> None:
    run_id = world.open_run() if world.publish("plans") else ""
    assert world.status(run_id).waiting_for == "inputs: visits"
    world.publish("visits", run_id=run_id)
    assert world.status(run_id).waiting_for == "grant"
    world.pass_gate(run_id)
    assert world.status(run_id).state == "granted"

    guest = Guest(world, run_id=run_id)
    guest.ask()
    assert guest.keys.data_keys == {"visits": b"k" * 32, "plans": b"k" * 32}
    assert world.status(run_id).state == "running"
    assert guest.client.lease_status(guest.lease.lease_id).state == "current"

    status = guest.commit()
    assert status.state == "committed"
    assert [output.dataset for output in status.outputs] == ["report"]
    assert world.status(run_id, "summarise").waiting_for == "lease"

    closed = canonical.decode(world.client.close_run(run_id).payload, into=RunClosed)
    assert [(record.step, record.role, record.outcome) for record in closed.attempts] == [
        ("aggregate", "preflight", "granted"),
        ("aggregate", "job", "committed"),
    ]
    assert world.client.passport(run_id).startswith(b'{"closed"')


def test_the_release_key_opens_what_the_enclave_sealed(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    serial = world.owners.recipient_certificate.serial
    request = ReleaseRequest(run_id=run_id, dataset="report", recipient=serial)
    with pytest.raises(PolicyDeniedError) as refused:
        world.client.release(request)
    assert refused.value.code == "not_committed"
    guest.commit()
    answer = world.client.release(request)
    info = wrapping.release_info(run_id=run_id, dataset="report", serial=serial)
    key = wrapping.hpke_open(answer.sealed_release_key, key=world.owners.recipient, info=info)
    assert key == guest.keys.release_keys["report"]


def test_opening_a_run_twice_gives_the_same_run(world: World) -> None:
    world.publish("plans")
    assert world.open_run("manual") == world.open_run("manual")
    assert world.open_run("manual") != world.open_run("other")


def test_publishing_and_committing_twice_changes_nothing(world: World) -> None:
    run_id = world.ready_run()
    envelope = world.client.sealed_for_run(run_id, "visits")
    assert envelope is not None
    assert world.client.publish(envelope).version == 1
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    manifests = guest.manifests()
    commit = Commit(receipt=guest.key.sign(guest.receipt(manifests)), manifests=manifests)
    assert guest.client.commit(commit) == guest.client.commit(commit)
    with pytest.raises(PolicyDeniedError) as refused:
        guest.commit(disclosed={"rows": 8})
    assert refused.value.code == "receipt_differs"


def test_the_same_session_asked_again_gets_the_same_bytes(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    assert guest.ask() == guest.client.lease(guest.request())
    assert world.status(run_id).attempt == 1


def test_a_committed_step_is_not_leased_again_but_shows_its_receipt(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    guest.commit()
    again = Guest(world, run_id=run_id)
    answer = again.ask()
    assert answer.lease is None
    assert answer.receipt is not None
    assert canonical.decode(answer.receipt.payload, into=Receipt).lease_id == guest.lease.lease_id


def test_a_failed_attempt_frees_the_output_and_the_next_one_commits(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    first = Guest(world, run_id=run_id)
    first.ask()
    failed = first.key.sign(first.receipt((), outcome="job_failed", disclosed={}))
    status = first.client.commit(Commit(receipt=failed, manifests=()))
    assert (status.state, status.code) == ("failed", "job_failed")
    second = Guest(world, run_id=run_id)
    second.ask()
    assert second.lease.attempt == 2
    assert second.commit().state == "committed"


def test_outputs_of_a_step_are_the_inputs_of_the_next(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    first = Guest(world, run_id=run_id)
    first.ask()
    first.commit()
    second = Guest(world, run_id=run_id, step="summarise")
    second.ask()
    assert second.keys.data_keys == {"report": b"o" * 32}
    assert second.commit().state == "committed"


def test_closing_is_final_and_idempotent(world: World) -> None:
    run_id = world.ready_run()
    closed = world.client.close_run(run_id)
    world.now += timedelta(minutes=1)
    assert world.client.close_run(run_id) == closed


def test_the_grant_of_a_changed_policy_is_void_until_the_gate_is_passed_again(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    world.client.put_policy(world.owners.root.sign(world.policy(version=2)))
    guest = Guest(world, run_id=run_id)
    with pytest.raises(PolicyDeniedError) as refused:
        guest.ask()
    assert refused.value.code == "gate_void"
    world.pass_gate(run_id)
    assert Guest(world, run_id=run_id).ask().lease is not None


def test_a_run_for_yesterdays_slot_is_opened_as_far_as_backfill_says(world: World) -> None:
    world.publish("plans")
    slots = world.approval().slots
    yesterday = slot_of(world.now - timedelta(days=1), slots=slots)
    run_id = world.open_run("late", slot=yesterday)
    assert world.client.run(run_id).slot == yesterday
    before = slot_of(world.now - timedelta(days=2), slots=slots)
    with pytest.raises(PolicyDeniedError) as refused:
        world.open_run("older", slot=before)
    assert refused.value.code == "slot_too_old"


def test_params_have_their_defaults_and_the_job_its_argv(world: World) -> None:
    run_id = world.ready_run()
    assert Guest(world, run_id=run_id).job.argv == ("--limit", "10")
    assert msgspec.structs.asdict(Guest(world, run_id=run_id).job)["params"] == {"limit": 10}
