"""What a hostile Airflow, host or network may try at the broker, and what it gets: no key."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk, report_data
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker import store
from ppml_airflow.broker.service.recovery import recover
from ppml_airflow.domain.documents import IntegerParam, Output
from ppml_airflow.domain.slots import slot_of
from ppml_airflow.errors import (
    ConfigurationError,
    MalformedInputError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.messages import Commit, OpenRun, ReleaseRequest
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import format_instant
from tests.support.broker_world import PIPELINE, Guest, World, one_step
from tests.support.simulated_run import AGGREGATE, SUMMARISE

STORES = ("sqlite", "postgresql, slow")


def refused(kind: type[PpmlError], code: str) -> pytest.RaisesExc[PpmlError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)


# ---------------------------------------------------------------- the gate


def test_a_sensor_set_to_success_by_hand_opens_no_gate(world: World) -> None:
    """Marking, deleting or skipping the sensor is one and the same here: no preflight was judged."""
    guest = Guest(world, run_id=world.ready_run())
    with refused(PolicyDeniedError, "gate_missing"):
        guest.ask()
    status = world.status(guest.job.run_id)
    assert (status.state, status.code) == ("denied", "gate_missing")


def test_the_gate_of_another_run_opens_nothing(world: World) -> None:
    world.pass_gate(world.ready_run("first"))
    with refused(PolicyDeniedError, "gate_missing"):
        Guest(world, run_id=world.ready_run("second")).ask()


def test_the_gate_of_another_step_opens_nothing(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    with world.broker.decision() as ledger:
        ledger.connection.execute(sa.update(store.granted).values(step="summarise"))
    with refused(PolicyDeniedError, "gate_missing"):
        Guest(world, run_id=run_id).ask()


def test_a_step_gets_no_lease_before_the_earlier_one_is_committed(
    tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile
) -> None:
    """Whatever Airflow runs first: the order is the approval's."""
    first, second = AGGREGATE, msgspec.structs.replace(SUMMARISE, inputs=AGGREGATE.inputs)
    world = World(folder=tmp_path, platform=platform, keystore=keystore, steps=(first, second))
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "too_early"):
        Guest(world, run_id=run_id, step="summarise").ask()


def test_an_expired_gate_opens_nothing(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    world.now += timedelta(hours=6, seconds=1)
    with refused(PolicyDeniedError, "gate_expired"):
        Guest(world, run_id=run_id).ask()


def test_a_grant_written_into_the_database_is_judged_like_any_other(world: World) -> None:
    """Even who can write the broker's rows needs accepted evidence: a grant is never sufficient."""
    run_id = world.ready_run()
    world.pass_gate(run_id)
    with refused(PolicyDeniedError, "attestation_measurement"):
        Guest(world, run_id=run_id, measurement=secrets.token_bytes(32)).ask()


# ---------------------------------------------------------------- the approval


def test_a_pipeline_that_nobody_approved_is_not_opened(world: World) -> None:
    world.callers = {key: msgspec.structs.replace(caller, pipelines=("*",)) for key, caller in world.callers.items()}
    with refused(PolicyDeniedError, "not_approved"):
        world.open_run(pipeline="payroll")


def test_a_param_out_of_bounds_opens_no_run(world: World) -> None:
    world.publish("plans")
    with refused(PolicyDeniedError, "param_out_of_bounds"):
        world.open_run(params={"limit": 101})


def test_a_param_of_another_type_opens_no_run(world: World) -> None:
    with refused(PolicyDeniedError, "param_out_of_bounds"):
        world.open_run(params={"limit": "10"})


def test_an_unknown_param_opens_no_run(world: World) -> None:
    with refused(PolicyDeniedError, "param_unknown"):
        world.open_run(params={"limits": 10})


def test_a_run_is_not_reopened_with_other_params(world: World) -> None:
    world.publish("plans")
    world.open_run("manual", params={"limit": 10})
    with refused(PolicyDeniedError, "params_differ"):
        world.open_run("manual", params={"limit": 11})


def test_tomorrows_run_is_not_opened_today(world: World) -> None:
    """Whoever opens it under its labels a day early would have it read the inputs of the day before."""
    world.publish("plans")
    slots = world.approval().slots
    today, tomorrow = (slot_of(world.now + timedelta(days=days), slots=slots) for days in (0, 1))
    early = world.open_run("scheduled")
    assert world.open_run("scheduled", slot=today) == early
    world.now += timedelta(days=1)
    with refused(PolicyDeniedError, "slot_differs"):
        world.open_run("scheduled", slot=tomorrow)


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ("--limit", "11")},
        {"code": {"query.sql": canonical.digest_bytes(b"select 2")}},
        {"params": {"limit": 11}},
        {"environment": {"SPARK_LOCAL_DIRS": "/host"}},
        {"image": "python"},
        {"outputs": ()},
        {"step": "summarise"},
        {"policy": "lax"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_evidence_for_another_job_than_the_approved_one_gets_no_key(world: World, changes: dict[str, object]) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.change_job(**changes)
    with refused(VerificationError, "other_job"):
        guest.ask()


def test_a_replaced_approval_gives_no_lease(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    newer = world.approval(replaces=world.approval_envelope.digest, runs_per_slot=2)
    world.client.put_approval(world.owners.root.sign(newer))
    with refused(PolicyDeniedError, "approval_replaced"):
        Guest(world, run_id=run_id).ask()


def test_a_replaced_approval_does_not_come_back(world: World) -> None:
    newer = world.approval(replaces=world.approval_envelope.digest, runs_per_slot=2)
    world.client.put_approval(world.owners.root.sign(newer))
    with refused(PolicyDeniedError, "approval_not_successor"):
        world.client.put_approval(world.approval_envelope)


def test_an_approval_replaced_during_the_job_voids_its_receipt(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    newer = world.approval(replaces=world.approval_envelope.digest, runs_per_slot=2)
    world.client.put_approval(world.owners.root.sign(newer))
    with refused(PolicyDeniedError, "approval_replaced"):
        guest.commit()


def test_an_approval_that_the_owners_did_not_sign_is_refused(world: World) -> None:
    with refused(VerificationError, "unknown_signer"):
        world.client.put_approval(SigningKey.generate().sign(world.approval(runs_per_slot=9)))


def test_an_approval_of_another_domain_is_refused(world: World) -> None:
    with refused(VerificationError, "other_domain"):
        world.client.put_approval(world.owners.root.sign(world.approval(domain_id="sha256:" + "1" * 64)))


def edit(world: World, digest: str, *, into: Envelope) -> None:
    """Lay another document where the store has this one."""
    with world.broker.decision() as ledger:
        table = store.document
        values = {"envelope": canonical.encode(into)}
        ledger.connection.execute(sa.update(table).where(table.c.digest == digest).values(values))


def test_an_approval_edited_in_the_database_gives_no_key(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    stranger, approval = SigningKey.generate(), world.approval_envelope.digest
    for edited, code in (
        (stranger.sign(world.approval(runs_per_slot=9)), "other_document"),
        (world.owners.root.sign(world.approval(runs_per_slot=9)), "other_document"),
        (stranger.sign(world.approval()), "unknown_signer"),
    ):
        edit(world, approval, into=edited)
        with refused(VerificationError, code):
            Guest(world, run_id=run_id).ask()


def test_an_old_policy_in_the_place_of_the_new_one_gives_no_key(world: World) -> None:
    old, new = (world.owners.root.sign(world.policy(version=version)) for version in (2, 3))
    for envelope in (old, new):
        world.client.put_policy(envelope)
    run_id = world.ready_run()
    edit(world, new.digest, into=old)
    with refused(VerificationError, "other_document"):
        world.pass_gate(run_id)


def test_an_expired_approval_gives_no_lease(world: World) -> None:
    soon = world.approval(
        replaces=world.approval_envelope.digest, valid_until=format_instant(world.now + timedelta(seconds=60))
    )
    world.client.put_approval(world.owners.root.sign(soon))
    run_id = world.ready_run()
    world.pass_gate(run_id)
    world.now += timedelta(seconds=60)
    with refused(PolicyDeniedError, "approval_expired"):
        Guest(world, run_id=run_id).ask()


def test_a_slot_ends_with_its_window(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    Guest(world, run_id=run_id).ask()
    world.now += timedelta(days=3)
    world.collateral = world.platform.collateral(world.now)
    with refused(PolicyDeniedError, "window_over"):
        world.pass_gate(run_id)


def test_the_rules_of_an_approval_may_not_contradict_each_other(world: World) -> None:
    steps = (*world.steps, *world.steps)
    with refused(ConfigurationError, "configuration"):
        world.client.put_approval(world.owners.root.sign(world.approval(steps=steps)))
    circle = world.approval(edges=(("aggregate", "summarise"), ("summarise", "aggregate")))
    with refused(ConfigurationError, "configuration"):
        world.client.put_approval(world.owners.root.sign(circle))
    with refused(ConfigurationError, "configuration"):
        world.client.put_approval(world.owners.root.sign(world.approval(edges=(("aggregate", "nowhere"),))))


def test_two_steps_that_bound_a_param_differently_are_refused(world: World) -> None:
    other = msgspec.structs.replace(world.steps[1], params={"limit": IntegerParam(minimum=1, maximum=9999, default=10)})
    envelope = world.owners.root.sign(world.approval(steps=(world.steps[0], other)))
    with refused(ConfigurationError, "configuration"):
        world.client.put_approval(envelope)


# ---------------------------------------------------------------- evidence


def test_a_nonce_is_spent_by_a_refusal_too(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run())
    guest.attest()
    with refused(PolicyDeniedError, "gate_missing"):
        guest.client.lease(guest.request())
    world.pass_gate(guest.job.run_id)
    with refused(VerificationError, "nonce_spent"):
        guest.client.lease(guest.request())


def test_a_nonce_is_spent_by_what_is_no_quote_and_the_denial_is_seen(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run())
    guest.attest(quote=b"no quote")
    with refused(MalformedInputError, "quote_malformed"):
        guest.client.lease(guest.request())
    status = world.status(guest.job.run_id)
    assert (status.state, status.code) == ("denied", "quote_malformed")
    with refused(VerificationError, "nonce_spent"):
        guest.client.lease(guest.request())


def test_evidence_is_handed_in_once_per_session(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run())
    guest.attest()
    with refused(VerificationError, "nonce_spent"):
        guest.client.attest(nonce=guest.nonce, tee_pubkey=public_jwk(guest.key.public), quote_bytes=guest.quote())


def test_a_session_ends_after_two_minutes(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.attest()
    world.now += timedelta(seconds=121)
    with refused(VerificationError, "nonce_expired"):
        guest.client.lease(guest.request())


def test_a_quote_replayed_from_another_session_is_refused(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    first, second = Guest(world, run_id=run_id), Guest(world, run_id=run_id)
    first.auth()
    with refused(PolicyDeniedError, "attestation_report_data"):
        second.attest(quote=first.quote())
        second.client.lease(second.request())


def test_a_lease_replayed_in_another_attempt_is_refused(world: World) -> None:
    """The first attempt's lease is fenced by the second's; its receipt comes too late."""
    run_id = world.ready_run()
    world.pass_gate(run_id)
    first, second = Guest(world, run_id=run_id), Guest(world, run_id=run_id)
    first.ask()
    second.ask()
    assert first.client.lease_status(first.lease.lease_id).state == "fenced"
    with refused(PolicyDeniedError, "lease_fenced"):
        first.commit()
    assert second.commit().state == "committed"


def test_a_binding_gets_one_lease(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    with refused(VerificationError, "binding_used"):
        guest.ask()


def test_a_key_that_was_not_attested_gets_no_lease(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest, thief = Guest(world, run_id=run_id), SigningKey.generate(scheme="p256")
    guest.auth()
    quote = guest.quote(jwk=public_jwk(thief.public))
    guest.client.attest(nonce=guest.nonce, tee_pubkey=public_jwk(thief.public), quote_bytes=quote)
    with refused(VerificationError, "other_key"):
        guest.client.lease(guest.request())


def test_a_request_that_k_did_not_sign_gets_no_lease(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run())
    guest.attest()
    with refused(VerificationError, "bad_signature"):
        guest.client.lease(guest.request(key=SigningKey.generate(scheme="p256")))


def test_another_sealing_key_than_the_attested_one_gets_no_lease(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.attest()
    guest.binding = msgspec.structs.replace(guest.binding, sealing_key=SealingKey.generate().public)
    with refused(VerificationError, "other_binding"):
        guest.client.lease(guest.request())


def test_a_session_of_somebody_else_is_unknown(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run())
    guest.attest()
    guest.client = world.connect()
    with refused(VerificationError, "session_unknown"):
        guest.client.lease(guest.request())


def test_an_image_that_the_policy_does_not_list_is_refused(world: World) -> None:
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "attestation_measurement"):
        Guest(world, run_id=run_id, role="preflight", measurement=b"\x07" * 32).ask()
    assert world.status(run_id).code == "attestation_measurement"


def test_a_debug_enclave_is_refused(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run(), role="preflight")
    guest.auth()
    covered = report_data(nonce=guest.nonce, tee_pubkey=public_jwk(guest.key.public))
    quote = world.platform.quote_sgx(measurement=guest.measurement, report_data=covered, is_debug=True)
    guest.client.attest(nonce=guest.nonce, tee_pubkey=public_jwk(guest.key.public), quote_bytes=quote)
    with refused(VerificationError, "debug_enclave"):
        guest.client.lease(guest.request())


def test_expired_collateral_is_denied(world: World) -> None:
    run_id = world.ready_run()
    world.collateral = world.platform.collateral(world.now - timedelta(days=60))
    with refused(VerificationError, "collateral_expired"):
        world.pass_gate(run_id)


def test_a_clock_that_was_turned_back_stops_the_broker(world: World) -> None:
    world.now -= timedelta(minutes=1)
    with refused(UnavailableError, "clock_back"):
        world.client.health()


def test_auth_without_a_binding_gets_no_session(world: World) -> None:
    body = {"version": "0.4.0", "tee": "sgx", "extra-params": ""}
    with refused(ConfigurationError, "binding_missing"):
        world.client.call("POST", "/kbs/v0/auth", body=body, into=dict)
    with refused(ConfigurationError, "kbs_version"):
        world.client.call("POST", "/kbs/v0/auth", body={**body, "version": "0.1.1"}, into=dict)


# ---------------------------------------------------------------- runs and budgets


def test_a_run_needs_labels_of_a_sane_length(world: World) -> None:
    with refused(ConfigurationError, "label_missing"):
        world.open_run(claimed={"dag_id": "nightly"})
    with refused(ConfigurationError, "label_long"):
        world.open_run(claimed={"dag_id": "nightly", "run_id": "x" * 251})


def test_a_slot_that_is_no_start_of_a_period_or_lies_ahead_is_refused(world: World) -> None:
    with refused(PolicyDeniedError, "slot_unknown"):
        world.open_run(slot=format_instant(world.now - timedelta(seconds=1)))
    ahead = slot_of(world.now + timedelta(days=2), slots=world.approval().slots)
    with refused(PolicyDeniedError, "slot_in_future"):
        world.open_run(slot=ahead)


def test_a_run_whose_standing_input_has_no_version_is_not_opened(world: World) -> None:
    with refused(PolicyDeniedError, "input_missing"):
        world.open_run()


def test_a_bundle_waits_for_its_inputs(world: World) -> None:
    world.publish("plans")
    run_id = world.open_run()
    with refused(PolicyDeniedError, "inputs_missing"):
        world.client.bundle(run_id, "aggregate")


def test_an_unknown_step_or_run_is_named(world: World) -> None:
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "step_not_approved"):
        world.status(run_id, "payroll")
    with refused(ConfigurationError, "run_unknown"):
        world.status("0" * 32)


def test_a_passport_exists_only_of_a_closed_run(world: World) -> None:
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "run_open"):
        world.client.passport(run_id)


def test_a_role_that_is_not_served_gets_nothing(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    with refused(PolicyDeniedError, "role_unknown"):
        Guest(world, run_id=run_id, role="session").ask()


def test_a_lost_dataset_key_is_not_a_denial(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    (world.folder / f"{world.owners.dataset_certificates['visits'].serial}.wrapped").unlink()
    with refused(UnavailableError, "dataset_key_missing"):
        Guest(world, run_id=run_id).ask()


def test_an_epoch_that_has_passed_voids_open_runs(world: World) -> None:
    run_id = world.ready_run()
    (world.folder / "anchor").unlink()
    recover(world.broker)
    with refused(PolicyDeniedError, "epoch_passed"):
        Guest(world, run_id=run_id, role="preflight").ask()


def test_without_a_policy_nothing_is_allowed(world: World) -> None:
    run_id = world.ready_run()
    with world.broker.decision() as ledger:
        ledger.connection.execute(sa.delete(store.policy_in_force))
    with refused(PolicyDeniedError, "policy_missing"):
        Guest(world, run_id=run_id, role="preflight").ask()


def test_a_slot_has_no_more_runs_than_approved_whatever_airflow_calls_them(world: World) -> None:
    for name, allowed in (("first", True), ("second", False)):
        run_id = world.ready_run(name)
        world.pass_gate(run_id)
        guest = Guest(world, run_id=run_id)
        if allowed:
            guest.ask()
            guest.commit()
        else:
            with refused(PolicyDeniedError, "runs_per_slot"):
                guest.ask()


def test_runs_are_counted_across_approvals(world: World) -> None:
    first = world.ready_run("first")
    world.pass_gate(first)
    guest = Guest(world, run_id=first)
    guest.ask()
    guest.commit()
    newer = world.approval(replaces=world.approval_envelope.digest, valid_until="2099-01-01T00:00:00Z")
    world.client.put_approval(world.owners.root.sign(newer))
    second = world.ready_run("second")
    world.pass_gate(second)
    with refused(PolicyDeniedError, "runs_per_slot"):
        Guest(world, run_id=second).ask()


def test_attempts_are_bounded(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    for _ in range(3):
        Guest(world, run_id=run_id).ask()
    with refused(PolicyDeniedError, "attempts_used_up"):
        Guest(world, run_id=run_id).ask()


def test_a_second_run_waits_while_the_output_is_being_written(world: World) -> None:
    holder, waiting = two_runs(world)
    with refused(UnavailableError, "output_busy"):
        waiting.ask()
    holder.commit()
    assert waiting.client.lease(waiting.request()).lease is not None


def two_runs(world: World) -> tuple[Guest, Guest]:
    """Two runs of one slot, both past their gate; the first has the lease."""
    world.client.put_approval(
        world.owners.root.sign(world.approval(replaces=world.approval_envelope.digest, runs_per_slot=5))
    )
    first, second = world.ready_run("first"), world.ready_run("second")
    world.pass_gate(first)
    world.pass_gate(second)
    holder = Guest(world, run_id=first)
    holder.ask()
    return holder, Guest(world, run_id=second)


def test_a_guest_that_is_heard_of_keeps_its_outputs(world: World) -> None:
    holder, waiting = two_runs(world)
    for _ in range(9):
        world.now += timedelta(seconds=10)
        assert holder.client.lease_status(holder.lease.lease_id).state == "current"
    with refused(UnavailableError, "output_busy"):
        waiting.ask()


def test_a_guest_that_died_keeps_nobody_from_its_outputs_and_cannot_commit_any_more(world: World) -> None:
    holder, waiting = two_runs(world)
    world.now += timedelta(seconds=45)
    assert waiting.ask().lease is not None
    assert waiting.lease.outputs == holder.lease.outputs
    with refused(PolicyDeniedError, "lease_fenced"):
        holder.commit()
    assert waiting.commit().state == "committed"


def test_a_guest_not_heard_of_cannot_commit_what_a_producer_has_published_since(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    world.now += timedelta(seconds=45)
    world.publish(guest.lease.outputs[0].dataset)
    with refused(PolicyDeniedError, "lease_fenced"):
        guest.commit()


def test_a_token_opens_only_its_pipelines(world: World) -> None:
    with refused(PolicyDeniedError, "out_of_scope"):
        world.open_run(pipeline="payroll")


def test_without_a_token_airflows_routes_are_closed(world: World) -> None:
    run_id = world.ready_run()
    stranger = world.connect(token="guessed")
    request = OpenRun(pipeline=PIPELINE, slot=None, params={}, claimed={"dag_id": "nightly", "run_id": "x"})
    for attempt in (
        lambda: stranger.open_run(request),
        lambda: stranger.status(run_id, "aggregate"),
        lambda: stranger.bundle(run_id, "aggregate"),
        lambda: stranger.cancel(run_id, "aggregate"),
        lambda: stranger.close_run(run_id),
        lambda: stranger.passport(run_id),
    ):
        with refused(PolicyDeniedError, "token_unknown"):
            attempt()


def test_a_run_that_nobody_used_for_a_day_lapses(world: World) -> None:
    """Else runs with yesterday's params could be kept in store, uncounted."""
    run_id = world.ready_run()
    world.now += timedelta(hours=24)
    world.collateral = world.platform.collateral(world.now)
    with refused(PolicyDeniedError, "run_lapsed"):
        world.pass_gate(run_id)


def test_a_closed_run_gets_no_lease(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    world.client.close_run(run_id)
    with refused(PolicyDeniedError, "run_closed"):
        Guest(world, run_id=run_id).ask()


def test_a_cancelled_attempt_does_not_commit(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    assert world.client.cancel(run_id, "aggregate").state == "cancelled"
    assert guest.client.lease_status(guest.lease.lease_id).state == "cancelled"
    with refused(PolicyDeniedError, "lease_cancelled"):
        guest.commit()


def test_an_expired_lease_does_not_commit(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    world.now += timedelta(hours=1)
    assert guest.client.lease_status(guest.lease.lease_id).state == "expired"
    with refused(PolicyDeniedError, "lease_expired"):
        guest.commit()


# ---------------------------------------------------------------- manifests


def test_a_forged_manifest_with_a_valid_public_key_is_not_published(world: World) -> None:
    """Anybody can seal to a public key; only a certified producer makes an input of it."""
    with refused(VerificationError, "unknown_signer"):
        world.client.publish(SigningKey.generate().sign(world.manifest("plans")))


def test_a_producer_publishes_only_the_datasets_he_is_certified_for(world: World) -> None:
    other = SigningKey.generate()
    certificate = world.owners.certify("producer", subject="lab", key=other.public, datasets=("visits",))
    world.client.put_certificate(world.owners.certificates[-1])
    with refused(VerificationError, "not_certified"):
        world.client.publish(other.sign(world.manifest("plans", producer=certificate.serial)))


def test_an_older_manifest_is_not_published(world: World) -> None:
    world.publish("plans")
    world.publish("plans")
    older = world.manifest("plans", version=1, prev=None)
    with refused(PolicyDeniedError, "not_next"):
        world.client.publish(world.owners.producer.sign(older))


def test_a_manifest_that_forks_history_is_not_published(world: World) -> None:
    world.publish("plans")
    with refused(PolicyDeniedError, "not_next"):
        world.client.publish(world.owners.producer.sign(world.manifest("plans", prev="sha256:" + "2" * 64)))


def test_a_dataset_sealed_to_a_key_that_no_owner_certified_is_not_published(world: World) -> None:
    manifest = world.manifest("plans")
    wraps = (msgspec.structs.replace(manifest.wraps[0], serial=secrets.token_hex(16)),)
    with refused(VerificationError, "not_certified"):
        world.client.publish(world.owners.producer.sign(msgspec.structs.replace(manifest, wraps=wraps)))


def test_a_wrapped_key_copied_from_another_dataset_is_refused(world: World) -> None:
    """The confused deputy: `plans` would be opened under the rules of `visits`."""
    manifest = world.manifest("plans")
    with refused(VerificationError, "not_certified"):
        world.client.publish(
            world.owners.producer.sign(msgspec.structs.replace(manifest, wraps=world.manifest("visits").wraps))
        )


def test_a_dataset_is_sealed_once_for_a_run(world: World) -> None:
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "sealed_already"):
        world.publish("visits", run_id=run_id)


def test_an_uncommitted_manifest_is_not_handed_out(world: World) -> None:
    with refused(VerificationError, "not_committed"):
        world.client.manifest("sha256:" + "3" * 64)


# ---------------------------------------------------------------- receipts and releases


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"attempt": 2}, "other_lease"),
        ({"job": "sha256:" + "4" * 64}, "other_lease"),
        ({"inputs": ()}, "other_lease"),
        ({"outputs": ()}, "other_outputs"),
    ],
)
def test_a_receipt_that_does_not_match_its_lease_is_refused(
    world: World, changes: dict[str, object], code: str
) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    with refused(VerificationError, code):
        guest.commit(**changes)


def test_a_receipt_by_another_key_is_refused(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    manifests = guest.manifests()
    forged = SigningKey.generate(scheme="p256").sign(guest.receipt(manifests))
    with refused(VerificationError, "unknown_signer"):
        guest.client.commit(Commit(receipt=forged, manifests=manifests))


@pytest.mark.parametrize("disclosed", [{"patients": 3}, {"rows": 1001}])
def test_a_count_that_the_approval_does_not_disclose_is_refused(world: World, disclosed: dict[str, int]) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    with refused(PolicyDeniedError, "not_disclosed"):
        guest.commit(disclosed=disclosed)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, "other_outputs"),
        ({"run_id": "0" * 32}, "other_outputs"),
        ({"parts": ()}, "output_speaks"),
        ({"body": "parquet"}, "output_speaks"),
        ({"wraps": ()}, "other_recipients"),
    ],
)
def test_an_output_other_than_the_leased_one_is_refused(world: World, changes: dict[str, object], code: str) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    manifests = guest.manifests(**changes)
    honest = guest.receipt(guest.manifests())
    outputs = tuple(
        msgspec.structs.replace(named, manifest=envelope.digest)
        for named, envelope in zip(honest.outputs, manifests, strict=True)
    )
    receipt = guest.key.sign(msgspec.structs.replace(honest, outputs=outputs))
    with refused(VerificationError, code):
        guest.client.commit(Commit(receipt=receipt, manifests=manifests))


def test_only_an_approved_recipient_gets_the_release_key(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    guest.commit()
    mallory = world.owners.certify(
        "recipient", subject="mallory", key=SealingKey.generate().public, datasets=("report",)
    )
    world.client.put_certificate(world.owners.certificates[-1])
    with refused(PolicyDeniedError, "not_a_recipient"):
        world.client.release(ReleaseRequest(run_id=run_id, dataset="report", recipient=mallory.serial))
    with refused(VerificationError, "not_certified"):
        world.client.release(ReleaseRequest(run_id=run_id, dataset="report", recipient="0" * 32))


def test_no_lease_is_written_for_a_recipient_whom_nobody_certified(
    tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile
) -> None:
    steps = one_step(outputs=(Output(dataset="report", body="table", recipients=("nobody",), files=1),))
    world = World(folder=tmp_path, platform=platform, keystore=keystore, steps=steps)
    run_id = world.ready_run()
    world.pass_gate(run_id)
    with refused(VerificationError, "not_certified"):
        Guest(world, run_id=run_id).ask()


def test_a_disabled_key_takes_effect_at_once(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    world.keystore.disable(world.owners.dataset_certificates["visits"].kek_id)
    with refused(PolicyDeniedError, "key_disabled"):
        Guest(world, run_id=run_id).ask()


# ---------------------------------------------------------------- policies and certificates


def test_a_policy_version_never_goes_down(world: World) -> None:
    world.client.put_policy(world.owners.root.sign(world.policy(version=3)))
    for version in (1, 2, 3):
        lax = world.policy(version=version, tcb_statuses=("UpToDate", "OutOfDate"))
        with refused(PolicyDeniedError, "policy_not_newer"):
            world.client.put_policy(world.owners.root.sign(lax))


def test_a_certificate_that_the_owners_did_not_sign_is_refused(world: World) -> None:
    world.owners.root = SigningKey.generate()
    world.owners.certify("producer", subject="eve", key=SigningKey.generate().public, datasets=("visits",))
    with refused(VerificationError, "unknown_signer"):
        world.client.put_certificate(world.owners.certificates[-1])


# ---------------------------------------------------------------- bad input


def test_a_body_with_an_unknown_field_a_float_or_a_duplicate_is_refused(world: World) -> None:
    body = canonical.encode(
        OpenRun(pipeline=PIPELINE, slot=None, params={}, claimed={"dag_id": "nightly", "run_id": "x"})
    )
    for bad in (
        body.replace(b'"slot"', b'"sloth"'),
        body.replace(b'"params":{}', b'"params":{"limit":1.5}'),
        body.replace(b'"slot":null', b'"slot":null,"slot":null'),
        body.replace(b",", b", "),
        body[:-1],
        b"\xff" + body,
        b"",
    ):
        response = world.client._http.post("/ppml/v1/runs", content=bad)
        assert response.status_code == 422
        assert b'"kind":"MalformedInputError"' in response.content


def test_an_oversized_body_is_refused_before_it_is_parsed(world: World) -> None:
    response = world.client._http.post("/kbs/v0/auth", content=b"x" * 5000)
    assert response.status_code == 413
    assert b"too_long" in response.content


def test_evidence_that_is_no_quote_is_refused(world: World) -> None:
    guest = Guest(world, run_id=world.ready_run(), role="preflight")
    guest.attest(quote=b"not a quote")
    with pytest.raises((VerificationError, MalformedInputError)):
        guest.client.lease(guest.request())
