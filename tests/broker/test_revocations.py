"""What the owners revoke: running leases die, nothing new stands on it, and what was made with it is listed."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.broker.service.revocations import put_revocation
from ppml_airflow.domain.documents import Domain, Revocation, RevocationKind
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.protocol.messages import Dependents, ReleaseRequest
from ppml_airflow.provenance.log import LogEntry
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import Envelope, SigningKey
from ppml_airflow.units import format_instant
from tests.support.broker_world import Guest, World
from tests.support.simulated_run import MEASUREMENT

STORES = ("sqlite",)
SUBJECTS: dict[str, tuple[RevocationKind, Callable[[World], str]]] = {
    "measurement": ("measurement", lambda world: MEASUREMENT.hex()),
    "platform": ("platform", lambda world: platform_of(world)),
    "approval": ("approval", lambda world: world.approval_envelope.digest),
    "recipient": ("certificate", lambda world: world.owners.recipient_certificate.serial),
    "recipient's key": ("key", lambda world: world.owners.recipient_certificate.key.key_id),
    "producer": ("certificate", lambda world: world.owners.producer_certificate.serial),
    "producer's key": ("key", lambda world: world.owners.producer.public.key_id),
    "dataset": ("certificate", lambda world: world.owners.dataset_certificates["visits"].serial),
    "broker's key": ("key", lambda world: world.owners.broker.public.key_id),
}
each_subject = pytest.mark.parametrize("name", SUBJECTS)


def platform_of(world: World) -> str:
    """The PPID in a quote of the tests' machine."""
    import dcap_qvl

    quote = world.platform.quote_sgx(measurement=MEASUREMENT, report_data=bytes(64))
    return bytes(dcap_qvl.parse_quote(quote).pck_extension().ppid).hex()


def signed(world: World, kind: RevocationKind, subject: str, **changes: object) -> Revocation:
    revocation = Revocation(
        domain_id=world.owners.domain.domain_id,
        kind=kind,
        subject=subject,
        reason="it was stolen",
        time=format_instant(world.now),
    )
    return msgspec.structs.replace(revocation, **changes)


def revoke(world: World, name: str) -> Envelope:
    kind, subject = SUBJECTS[name]
    envelope = world.owners.root.sign(signed(world, kind, subject(world)))
    assert world.client.put_revocation(envelope) == envelope.digest
    return envelope


def ask_dependents(world: World, name: str) -> Dependents:
    kind, subject = SUBJECTS[name]
    return world.client.dependents(kind, subject(world))


def leased(world: World) -> Guest:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    return guest


@each_subject
def test_a_running_lease_dies_at_commit_and_its_guest_hears_of_it(world: World, name: str) -> None:
    guest = leased(world)
    assert guest.client.lease_status(guest.lease.lease_id).state == "current"
    revoke(world, name)
    if name != "broker's key":  # what it signed is not believed any more: no answer about its leases either
        assert guest.client.lease_status(guest.lease.lease_id).state == "revoked"
    with pytest.raises(PpmlError) as refused:
        guest.commit()
    assert refused.value.code == ("unknown_signer" if name == "broker's key" else "lease_revoked")
    head = world.client.head("report")
    assert head is None


@pytest.mark.parametrize("name", ["measurement", "platform", "approval", "producer", "producer's key", "dataset"])
def test_nobody_gets_a_grant_or_a_lease_any_more(world: World, name: str) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    assert world.status(run_id).granted
    revoke(world, name)
    for role in ("preflight", "job"):
        with pytest.raises(PpmlError) as refused:
            Guest(world, run_id=run_id, role=role).ask()
        assert refused.value.code == "revoked"
        assert "it was stolen" in refused.value.message
    status = world.status(run_id)
    assert (status.state, status.code, status.granted) == ("denied", "revoked", False)


@pytest.mark.parametrize("name", ["measurement", "platform", "approval"])
def test_an_open_gate_closes_with_the_reason(world: World, name: str) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    revoke(world, name)
    status = world.status(run_id)
    assert (status.state, status.code, status.granted) == ("denied", "revoked", False)
    assert "it was stolen" in status.reason
    assert status.hint


@each_subject
def test_the_key_of_an_output_that_was_made_with_it_is_not_released(world: World, name: str) -> None:
    guest = leased(world)
    guest.commit()
    revoke(world, name)
    recipient = world.owners.recipient_certificate.serial
    with pytest.raises(PpmlError) as refused:
        world.client.release(ReleaseRequest(run_id=guest.job.run_id, dataset="report", recipient=recipient))
    assert refused.value.code == ("unknown_signer" if name == "broker's key" else "revoked")


def test_a_revoked_approval_opens_no_run_and_is_not_put_in_force_again(world: World) -> None:
    world.publish("plans")
    revoke(world, "approval")
    with pytest.raises(PolicyDeniedError, match="revoked since"):
        world.open_run()
    with pytest.raises(PolicyDeniedError, match="revoked since"):
        world.client.put_approval(world.approval_envelope)
    successor = world.approval(replaces=world.approval_envelope.digest)
    world.client.put_approval(world.owners.root.sign(successor))
    assert world.open_run()


@pytest.mark.parametrize("name", ["producer", "producer's key"])
def test_a_revoked_producer_publishes_nothing(world: World, name: str) -> None:
    revoke(world, name)
    with pytest.raises(VerificationError) as refused:
        world.publish("plans")
    assert refused.value.code == "revoked"


def test_a_version_of_a_revoked_producer_is_pinned_in_no_run(world: World) -> None:
    world.publish("plans")
    revoke(world, "producer")
    with pytest.raises(PolicyDeniedError, match="this version of plans depends on certificate"):
        world.open_run()


@pytest.mark.parametrize("name", ["producer", "recipient", "dataset"])
def test_agents_and_guests_are_not_told_of_a_revoked_certificate(world: World, name: str) -> None:
    run_id = world.ready_run()
    before = world.client.domain().certificates
    revoke(world, name)
    after = world.client.domain().certificates
    assert len(after) == len(before) - 1
    assert world.client.bundle(run_id, "aggregate").certificates == after


def test_dependents_are_listed_before_and_after_also_through_inputs(world: World) -> None:
    first = leased(world)
    first.commit()
    second = Guest(world, run_id=first.job.run_id, step="summarise")
    second.ask()
    for revoked in (False, True):
        if revoked:
            revoke(world, "producer")
        found = ask_dependents(world, "producer")
        assert found.revoked == revoked
        assert {one.dataset for one in found.sealed} == {"plans", "visits"}
        told = [(one.step, one.outcome, one.through != "") for one in found.attempts]
        assert told == [("aggregate", "committed", True), ("summarise", "revoked" if revoked else "open", True)]
        (made,) = found.attempts[0].outputs
        assert (made.dataset, made.released) == ("report", False)


@pytest.mark.parametrize("name", ["recipient", "log"])
def test_what_was_sealed_to_a_revoked_reader_stays_good_for_all_others(world: World, name: str) -> None:
    first = leased(world)
    first.commit()
    serials = {"recipient": world.owners.recipient_certificate.serial, "log": first.lease.log_certificates[0]}
    world.client.put_revocation(world.owners.root.sign(signed(world, "certificate", serials[name])))
    with pytest.raises(PpmlError, match="has no unexpired certificate"):
        Guest(world, run_id=first.job.run_id, step="summarise").ask()
    key = SealingKey.generate().public
    if name == "log":
        world.owners.certify("log", subject="owner", key=key)
    else:
        world.owners.certify("recipient", subject="analyst", key=key, datasets=world.datasets)
    world.client.put_certificate(world.owners.certificates[-1])
    second = Guest(world, run_id=first.job.run_id, step="summarise")
    second.ask()
    assert [pinned.dataset for pinned in second.lease.inputs] == ["report"]


@each_subject
def test_a_guest_that_asks_again_after_the_revocation_gets_no_keys(world: World, name: str) -> None:
    guest = leased(world)
    assert guest.client.lease(guest.request()) == guest.answer
    revoke(world, name)
    with pytest.raises(PpmlError) as refused:
        guest.client.lease(guest.request())
    assert refused.value.code == "lease_revoked"


def test_old_evidence_that_no_longer_verifies_stops_no_revocation_and_hides_nothing(world: World) -> None:
    leased(world).commit()
    with world.broker.store.transaction() as connection:
        connection.execute(store.collateral.delete())
    world.use(dataclasses.replace(world.broker, roots=()))
    assert [one.step for one in ask_dependents(world, "measurement").attempts] == ["aggregate"]
    revoke(world, "recipient")


def test_a_released_output_is_listed_as_released(world: World) -> None:
    guest = leased(world)
    guest.commit()
    recipient = world.owners.recipient_certificate.serial
    world.client.release(ReleaseRequest(run_id=guest.job.run_id, dataset="report", recipient=recipient))
    (attempt,) = ask_dependents(world, "measurement").attempts
    assert [(made.released, made.recipients) for made in attempt.outputs] == [(True, ("analyst",))]


def test_what_does_not_depend_on_it_goes_on(world: World) -> None:
    guest = leased(world)
    envelope = world.owners.root.sign(signed(world, "measurement", "ab" * 32))
    world.client.put_revocation(envelope)
    assert world.client.dependents("measurement", "ab" * 32).attempts == ()
    assert guest.commit().state == "committed"


def test_dependents_of_another_pipeline_are_not_told(world: World) -> None:
    leased(world)
    world.callers[hash_token("second")] = Caller(name="second", pipelines=("payroll",))
    found = world.connect(token="second").dependents("measurement", MEASUREMENT.hex())
    assert found.attempts == ()


def test_revoking_twice_is_revoking_once(world: World) -> None:
    guest = leased(world)
    envelope = revoke(world, "measurement")
    size = world.client.dependents("measurement", MEASUREMENT.hex())
    assert world.client.put_revocation(envelope) == envelope.digest
    assert world.client.dependents("measurement", MEASUREMENT.hex()) == size
    assert guest.client.lease_status(guest.lease.lease_id).state == "revoked"


def test_a_revocation_by_somebody_else_ends_nothing(world: World) -> None:
    guest = leased(world)
    revocation = signed(world, "measurement", MEASUREMENT.hex())
    for envelope, code in (
        (SigningKey.generate().sign(revocation), "unknown_signer"),
        (world.owners.broker.sign(revocation), "unknown_signer"),
        (world.owners.producer.sign(revocation), "unknown_signer"),
        (world.owners.root.sign(msgspec.structs.replace(revocation, domain_id="sha256:" + "0" * 64)), "other_domain"),
    ):
        with pytest.raises(VerificationError) as refused:
            world.client.put_revocation(envelope)
        assert refused.value.code == code
    assert guest.commit().state == "committed"


def test_in_a_joint_domain_as_many_owners_revoke_as_its_threshold_says(world: World) -> None:
    owners = [SigningKey.generate() for _ in range(3)]
    domain = Domain(name="joint", roots=tuple(owner.public for owner in owners), threshold=2, trust="simulated")
    joint = dataclasses.replace(world.broker, domain=domain)
    revocation = signed(world, "measurement", MEASUREMENT.hex(), domain_id=domain.domain_id)
    first, second = (owner.sign(revocation) for owner in owners[:2])
    with pytest.raises(VerificationError) as refused:
        put_revocation(joint, envelope=first)
    assert refused.value.code == "threshold"
    with joint.decision() as ledger:
        assert ledger.revocations == ()
    together = tuple(sorted((*first.signatures, *second.signatures), key=lambda each: each.keyid))
    put_revocation(joint, envelope=msgspec.structs.replace(first, signatures=together))
    with joint.decision() as ledger:
        assert ledger.revocations == (revocation,)


def test_a_revocation_stands_in_the_log(world: World) -> None:
    envelope = revoke(world, "platform")
    extra = world.client.log_proof(envelope.digest).splitlines()[1].removeprefix("extra ")
    entry = canonical.decode(base64.b64decode(extra), into=LogEntry)
    assert (entry.kind, entry.body) == ("revocation", envelope.digest)
