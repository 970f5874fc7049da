"""A statement from the run in the guest: the run's own text or nothing. The guest itself asks for the open right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Disclosure, IntegerParam, Lease, Run, Step
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.sealing.wrapping import SealingKey
from tests.support.adhoc import ASK, STATEMENT, ask, certify_reader, tell
from tests.support.broker_world import DATASETS, World
from tests.support.guest_world import GuestWorld

COUNT = Disclosure(name="rows", minimum=0, maximum=9)
MakeGuests = Callable[..., GuestWorld]


@pytest.fixture
def make_guests(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> MakeGuests:
    def make(step: Step = ASK) -> GuestWorld:
        world = World(folder=tmp_path, platform=platform, keystore=keystore, steps=(step,))
        certify_reader(world.owners, *DATASETS)
        tell(world)
        return GuestWorld(world=world, folder=tmp_path)

    return make


def gated(guests: GuestWorld, **params: object) -> str:
    guests.seal("plans", rows=2)
    run_id = guests.world.open_run(params={"statement": STATEMENT, **params})
    guests.seal("visits", run_id=run_id)
    assert guests.run(guests.request(run_id, role="preflight", code={})).state == "granted"
    return run_id


def refuse(guests: GuestWorld, run_id: str, **changes: object) -> PpmlError:
    with pytest.raises(PpmlError) as refused:
        guests.run(guests.request(run_id, code={}, **changes))
    return refused.value


def test_what_runs_is_the_statement_of_the_run(make_guests: MakeGuests) -> None:
    limit = IntegerParam(minimum=1, maximum=9, default=5)
    guests = make_guests(ask(params={**ASK.params, "limit": limit}))
    text = "SELECT 1 AS one\n-- \u00fc"
    run_id = gated(guests, statement=text, limit=3)
    assert guests.run(guests.request(run_id, code={})).state == "committed"
    assert guests.workload is not None
    job = guests.workload.job
    assert (job.code / job.argv[0]).read_text() == text
    assert (job.argv, dict(job.params)) == (("statement.sql",), {"limit": 3})


def test_the_answer_is_sealed_to_its_recipient_and_to_no_later_step(make_guests: MakeGuests) -> None:
    guests = make_guests()
    run_id = gated(guests)
    guests.run(guests.request(run_id, code={}))
    manifest = guests.world.client.head("report")
    assert manifest is not None
    assert b'"to":"recipient"' in manifest.payload
    assert b'"to":"dataset"' not in manifest.payload


@pytest.mark.parametrize("name", ["statement.sql", "query.sql"])
def test_a_statement_that_the_host_brings_is_refused(make_guests: MakeGuests, name: str) -> None:
    guests = make_guests()
    request = guests.request(gated(guests), code={name: b"SELECT * FROM visits"})
    with pytest.raises(VerificationError, match=f"code file {name} is not approved"):
        guests.run(request)


def test_a_run_with_another_statement_is_refused(make_guests: MakeGuests) -> None:
    guests = make_guests()
    request = guests.request(gated(guests), code={})
    run = canonical.decode(request.bundle.run.payload, into=Run)
    edited = msgspec.structs.replace(run, params={"statement": "SELECT * FROM visits"})
    envelope = msgspec.structs.replace(request.bundle.run, payload=canonical.encode(edited))
    with pytest.raises(VerificationError):
        guests.run(msgspec.structs.replace(request, bundle=msgspec.structs.replace(request.bundle, run=envelope)))


def test_the_run_of_another_statement_is_another_job_and_gets_no_key(make_guests: MakeGuests) -> None:
    """A broker's own Run of the same step, handed over with other pins."""
    guests = make_guests()
    run_id = gated(guests)
    other = guests.world.open_run("other", params={"statement": "SELECT 1"})
    guests.seal("visits", run_id=other)
    honest, stolen = guests.request(run_id, code={}), guests.request(other, code={})
    bundle = msgspec.structs.replace(honest.bundle, run=stolen.bundle.run)
    with pytest.raises(VerificationError) as refused:
        guests.run(msgspec.structs.replace(honest, bundle=bundle))
    assert refused.value.code == "other_pins"


def lease_to(serial: str) -> Callable[[Lease], Lease]:
    def change(lease: Lease) -> Lease:
        (output,) = lease.outputs
        return msgspec.structs.replace(
            lease, outputs=(msgspec.structs.replace(output, recipient_certificates=(serial,)),)
        )

    return change


def test_a_lease_to_a_recipient_without_the_open_right_is_refused(make_guests: MakeGuests) -> None:
    """By the guest itself: a broker that forgot to ask is not believed."""
    guests = make_guests()
    run_id = gated(guests)
    narrow = guests.world.owners.certify(
        "recipient",
        subject="analyst",
        key=SealingKey.generate().public,
        datasets=("report", "visits"),
        expires_in=timedelta(days=9),
    )
    tell(guests.world)
    guests.meddle(lease_to(narrow.serial))
    error = refuse(guests, run_id)
    assert (error.code, error.message) == ("not_certified", "lease seals report to analyst, not certified for plans")


def test_a_lease_whose_log_is_for_a_reader_without_the_open_right_is_refused(make_guests: MakeGuests) -> None:
    guests = make_guests()
    run_id = gated(guests)
    narrow = guests.world.owners.certify(
        "log", subject="owner", key=SealingKey.generate().public, expires_in=timedelta(days=9)
    )
    tell(guests.world)
    guests.meddle(lambda lease: msgspec.structs.replace(lease, log_certificates=(narrow.serial,)))
    error = refuse(guests, run_id)
    assert error.message == "lease seals the log to owner, not certified for plans, visits"


def test_a_lease_that_seals_the_answer_for_later_steps_is_refused(make_guests: MakeGuests) -> None:
    guests = make_guests()
    run_id = gated(guests)
    serial = guests.world.owners.dataset_certificates["report"].serial

    def change(lease: Lease) -> Lease:
        (output,) = lease.outputs
        return msgspec.structs.replace(lease, outputs=(msgspec.structs.replace(output, dataset_certificate=serial),))

    guests.meddle(change)
    assert refuse(guests, run_id).code == "other_recipients"


def test_an_approval_against_the_rules_runs_nothing(make_guests: MakeGuests) -> None:
    """Signed by the owners, taken by a broker that does not know the rules: the guest still refuses."""
    guests = make_guests()
    request = guests.request(gated(guests), code={})
    before = guests.quotes
    approval = guests.world.owners.root.sign(guests.world.approval(steps=(ask(disclosed=(COUNT,)),)))
    bundle = msgspec.structs.replace(request.bundle, approval=approval)
    with pytest.raises(PolicyDeniedError) as refused:
        guests.run(msgspec.structs.replace(request, bundle=bundle))
    assert refused.value.code == "adhoc_rules"
    assert guests.quotes == before


def test_counts_of_a_statement_stay_inside(make_guests: MakeGuests) -> None:
    guests = make_guests()
    run_id = gated(guests)
    guests.run(guests.request(run_id, code={}))
    (receipt,) = guests.receipts(run_id)
    assert receipt.disclosed == {}
