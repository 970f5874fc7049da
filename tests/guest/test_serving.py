"""A long-lived guest runs one job after another, each with fresh evidence, and ends when its session does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.decisions.enclave_sessions import ENCLAVE_SESSION_LIFETIME
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.guest.serving import serve_session
from ppml_airflow.guest.session import Surroundings
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, GuestResult
from ppml_airflow.protocol.messages import LaunchRequest
from tests.support.broker_world import World
from tests.support.guest_world import GuestWorld


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> World:
    return World(folder=tmp_path, platform=platform, keystore=keystore, runs_per_slot=2)


Said = list[GuestResult | GuestProblem]


def serve(
    guests: GuestWorld,
    request: LaunchRequest,
    *launches: LaunchRequest | Callable[[], LaunchRequest],
    end: Callable[[], None] = lambda: None,
    around: Surroundings | None = None,
) -> Said:
    """Serve a session for these launches, each made or taken when the one before was answered."""
    said: Said = []

    def send(message: GuestEvent | GuestResult | GuestProblem) -> None:
        if not isinstance(message, GuestEvent):
            said.append(message)

    waiting: Iterator[LaunchRequest | Callable[[], LaunchRequest]] = iter(launches)

    def next_launch() -> LaunchRequest | None:
        launch = next(waiting, None)
        return launch() if callable(launch) else launch

    around = around or guests.surroundings()
    serve_session(request, around=around, next_launch=next_launch, send=send, end=end)
    return said


def test_jobs_of_two_runs_are_done_in_one_session_each_with_a_quote_of_its_own(guests: GuestWorld) -> None:
    first, second = guests.ready_run("first"), guests.ready_run("second")
    guests.pass_gate(first)
    guests.pass_gate(second)
    before = guests.quotes
    said = serve(guests, guests.request(first, role="session"), guests.request(first), lambda: guests.request(second))
    assert [message.state for message in said if isinstance(message, GuestResult)] == [
        "serving", "committed", "committed",
    ]  # fmt: skip
    assert guests.quotes - before == 3


def test_nothing_of_a_job_is_left_for_the_next_one(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    around = guests.surroundings()
    serve(guests, guests.request(run_id, role="session"), guests.request(run_id), around=around)
    assert list(around.private.iterdir()) == []


def test_a_gate_is_passed_in_the_guest_that_does_the_job(guests: GuestWorld) -> None:
    run_id = guests.ready_run()
    said = serve(
        guests,
        guests.request(run_id, role="session"),
        guests.request(run_id, role="preflight"),
        guests.request(run_id),
    )
    assert [getattr(message, "state", "") for message in said] == ["serving", "granted", "committed"]


def test_a_launch_that_is_refused_ends_itself_and_not_the_session(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    changed = guests.request(run_id, code={"query.sql": b"select 2"})
    _, problem, result = serve(guests, guests.request(run_id, role="session"), changed, guests.request(run_id))
    assert isinstance(problem, GuestProblem)
    assert isinstance(result, GuestResult)
    assert result.state == "committed"


def test_a_job_of_another_step_is_not_done_in_this_session(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    assert guests.run(guests.request(run_id)).state == "committed"
    _, problem = serve(guests, guests.request(run_id, role="session"), lambda: guests.request(run_id, step="summarise"))
    assert isinstance(problem, GuestProblem)
    assert problem.code == "other_enclave_session"


def test_a_session_within_a_session_is_refused_by_name(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    session = guests.request(run_id, role="session")
    _, problem, result = serve(guests, session, session, guests.request(run_id))
    assert isinstance(problem, GuestProblem)
    assert problem.code == "session_open"
    assert isinstance(result, GuestResult)


def test_a_job_after_a_missed_renewal_gets_no_key(guests: GuestWorld) -> None:
    """Whatever the guest does: the broker counts, too."""
    run_id = guests.gated_run()

    def late() -> LaunchRequest:
        guests.world.now += ENCLAVE_SESSION_LIFETIME + timedelta(seconds=1)
        return guests.request(run_id)

    _, problem = serve(guests, guests.request(run_id, role="session"), late)
    assert isinstance(problem, GuestProblem)
    assert problem.code == "enclave_session_over"


def test_a_session_that_is_refused_takes_no_launch(guests: GuestWorld) -> None:
    run_id = guests.gated_run()
    taken: list[int] = []

    def launch() -> LaunchRequest:
        taken.append(1)
        return guests.request(run_id)

    other = replace(guests.surroundings(), quoter=lambda report_data: guests._quote(bytes(64)))
    with pytest.raises(PolicyDeniedError, match="made for another nonce, key or job"):
        serve(guests, guests.request(run_id, role="session"), launch, around=other)
    assert taken == []
