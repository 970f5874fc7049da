"""The broker's passports hold before a verifier who shares none of its decisions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.errors import PpmlError
from ppml_airflow.protocol.messages import ReleaseRequest
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from tests.support.broker_world import Guest, World


def verify(world: World, platform: SimulatedPlatform, run_id: str) -> PassportReport:
    """Close the run and verify what anybody can download."""
    world.client.close_run(run_id)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root])
    return verify_passport(world.client.passport(run_id), trust=trust, now=world.now)


def run_step(world: World, run_id: str, step: str) -> None:
    guest = Guest(world, run_id=run_id, step=step)
    guest.ask()
    guest.commit()


def test_the_passport_of_a_whole_run_is_verified(world: World, platform: SimulatedPlatform) -> None:
    run_id = world.ready_run()
    with pytest.raises(PpmlError):
        Guest(world, run_id=run_id).ask()  # the gate has not been passed
    world.pass_gate(run_id)
    world.now += timedelta(seconds=5)
    run_step(world, run_id, "aggregate")
    world.now += timedelta(seconds=5)
    run_step(world, run_id, "summarise")
    serial = world.owners.recipient_certificate.serial
    world.client.release(ReleaseRequest(run_id=run_id, dataset="summary", recipient=serial))
    report = verify(world, platform, run_id)
    assert report.outcome == "succeeded"
    assert [one.code for one in report.denials] == ["gate_missing"]
    assert [one.dataset for one in report.releases] == ["summary"]


def test_the_passport_of_a_run_with_a_fenced_attempt_is_verified(world: World, platform: SimulatedPlatform) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    Guest(world, run_id=run_id).ask()
    run_step(world, run_id, "aggregate")
    run_step(world, run_id, "summarise")
    attempts = verify(world, platform, run_id).steps[0].attempts
    assert [one.outcome for one in attempts] == ["granted", "fenced", "committed"]


def test_the_passport_of_a_run_that_never_got_its_inputs_is_verified(world: World, platform: SimulatedPlatform) -> None:
    run_id = world.open_run() if world.publish("plans") else ""
    assert verify(world, platform, run_id).outcome == "failed"


def test_a_dataset_sealed_for_the_run_that_no_step_reads_does_no_harm(
    world: World, platform: SimulatedPlatform
) -> None:
    run_id = world.ready_run()
    world.publish("plans", run_id=run_id)
    world.pass_gate(run_id)
    run_step(world, run_id, "aggregate")
    run_step(world, run_id, "summarise")
    assert verify(world, platform, run_id).outcome == "succeeded"


def test_the_passport_of_a_second_run_continues_the_log_of_the_first(world: World, platform: SimulatedPlatform) -> None:
    world.publish("plans")
    pinned = verify(world, platform, world.open_run("first"))
    second = world.ready_run("second")
    world.pass_gate(second)
    run_step(world, second, "aggregate")
    run_step(world, second, "summarise")
    world.client.close_run(second)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root], checkpoints=[pinned.log])
    report = verify_passport(world.client.passport(second), trust=trust, now=world.now)
    assert report.checkpoints_compared == 1
