"""Sets: all members get their leases, or none does. What a host may try with members, and what it gets: no key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker import store
from ppml_airflow.domain.documents import Member, Revocation, RunClosed
from ppml_airflow.domain.sets import require_whole
from ppml_airflow.errors import PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.messages import LeaseAnswer, ReleaseRequest
from ppml_airflow.provenance.completeness import Attempt, match_attempts
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.provenance.report import PassportReport
from ppml_airflow.provenance.sets import require_sets
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.sealing import wrapping
from ppml_airflow.units import format_instant
from tests.support.broker_world import Guest, World, one_step
from tests.support.policies import MEASUREMENT

STORES = ("sqlite", "postgresql, slow")
MEMBERS = 3


def refused(kind: type[PpmlError], code: str) -> pytest.RaisesExc[PpmlError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile, database: str) -> Iterator[World]:
    """One step, done by three, of whom one may be replaced."""
    steps = one_step(members=MEMBERS, replacements=1, attempts=2)
    world = World(
        folder=tmp_path, platform=platform, keystore=keystore, database=database, steps=steps, runs_per_slot=2
    )
    yield world
    world.broker.store.close()


@pytest.fixture
def run_id(world: World) -> str:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    return run_id


def member(world: World, run_id: str, index: int, *, set_id: str, **changes: object) -> Guest:
    return Guest(world, run_id=run_id, role="member", set_id=set_id, index=index, **changes)  # type: ignore[arg-type]


def open_members(world: World, run_id: str) -> list[Guest]:
    set_id = world.client.open_set(run_id, "aggregate").set_id
    return [member(world, run_id, index, set_id=set_id) for index in range(MEMBERS)]


def ask(guest: Guest) -> LeaseAnswer:
    """Ask once more in the same session."""
    guest.answer = guest.client.lease(guest.request())
    return guest.answer


def wait(*guests: Guest) -> None:
    """Attest, and be told that others are missing."""
    for guest in guests:
        with refused(UnavailableError, "set_incomplete"):
            guest.ask()


def whole_set(world: World, run_id: str) -> list[Guest]:
    """Three members with their leases."""
    members = open_members(world, run_id)
    wait(*members[1:])
    members[0].ask()
    for guest in members[1:]:
        ask(guest)
    return members


def listed(world: World, leader: Guest) -> tuple[Member, ...]:
    return world.client.lease_status(leader.lease.lease_id).members


def commit(world: World, leader: Guest, **changes: object) -> str:
    return leader.commit(**{"members": listed(world, leader)} | changes).state


def silence(world: World) -> None:
    """Nobody has asked for its lease for so long that a member may be taken for dead."""
    world.now += timedelta(seconds=46)


# ---------------------------------------------------------------- all or none


def test_all_members_get_their_leases_together_with_one_secret(world: World, run_id: str) -> None:
    members = whole_set(world, run_id)
    leases = [guest.lease for guest in members]
    assert {lease.attempt for lease in leases} == {1}
    assert len({lease.issued for lease in leases}) == 1
    assert len({guest.keys.cluster_secret for guest in members}) == 1
    assert len(members[0].keys.cluster_secret or b"") == 32
    assert all(guest.keys.data_keys.keys() == {"visits", "plans"} for guest in members)


def test_only_the_leader_has_outputs_and_their_release_keys(world: World, run_id: str) -> None:
    leader, *others = whole_set(world, run_id)
    assert [output.dataset for output in leader.lease.outputs] == ["report"]
    assert all(guest.lease.outputs == () and not guest.keys.release_keys for guest in others)


def test_a_part_of_a_set_reserves_nothing_and_gets_nothing(world: World, run_id: str) -> None:
    members = open_members(world, run_id)
    wait(*members[:2])
    with world.broker.decision() as ledger:
        assert [row.role for row in ledger.attempts(run_id)] == ["preflight"]
        assert not ledger.connection.execute(sa.select(store.reservation)).all()
    wait_again = members[0]
    with refused(UnavailableError, "set_incomplete"):
        ask(wait_again)


def test_the_status_tells_how_many_have_attested(world: World, run_id: str) -> None:
    members = open_members(world, run_id)
    assert world.status(run_id).waiting_for == "lease"
    wait(*members[:2])
    status = world.status(run_id)
    assert (status.state, status.waiting_for) == ("granted", "members: 2 of 3 have attested")


def test_the_same_member_asking_again_gets_the_same_bytes(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    assert leader.answer == ask(leader)


def test_members_that_stopped_asking_do_not_count(world: World, run_id: str) -> None:
    members = open_members(world, run_id)
    wait(*members[:2])
    world.now += timedelta(seconds=11)
    wait(members[2])
    assert world.status(run_id).waiting_for == "members: 1 of 3 have attested"
    with refused(UnavailableError, "set_incomplete"):
        ask(members[0])
    ask(members[1])


def test_a_set_is_one_attempt_and_a_new_one_fences_it(world: World, run_id: str) -> None:
    first, second = whole_set(world, run_id), whole_set(world, run_id)
    assert {guest.lease.attempt for guest in second} == {2}
    states = [world.client.lease_status(guest.lease.lease_id).state for guest in (*first, *second)]
    assert states == ["fenced"] * 3 + ["current"] * 3
    assert first[0].keys.cluster_secret != second[0].keys.cluster_secret
    with refused(PolicyDeniedError, "lease_fenced"):
        commit(world, first[0])
    third = open_members(world, run_id)
    with refused(PolicyDeniedError, "attempts_used_up"):
        third[0].ask()


def test_those_who_wait_are_judged_again_when_their_set_is_whole(world: World, run_id: str) -> None:
    """What was found when they came counts for nothing in the transaction that issues."""
    members = open_members(world, run_id)
    wait(*members[1:])
    with world.broker.decision() as ledger:
        ledger.connection.execute(sa.update(store.session).values(quote=b"edited"))
    with refused(UnavailableError, "set_incomplete"):
        members[0].ask()
    with pytest.raises(PpmlError):
        ask(members[1])


def test_a_set_whose_gate_was_not_passed_does_not_even_wait(world: World) -> None:
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "gate_missing"):
        open_members(world, run_id)[0].ask()


def test_the_secret_lies_at_the_broker_wrapped_and_only_while_the_attempt_is_open(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    secret, query = leader.keys.cluster_secret, sa.select(store.member_set.c.secret)
    with world.broker.decision() as ledger:
        stored = ledger.connection.execute(query).scalar_one()
    assert secret is not None
    assert secret not in stored
    commit(world, leader)
    with world.broker.decision() as ledger:
        assert ledger.connection.execute(query).scalar_one() is None


# ---------------------------------------------------------------- who is no member


def test_a_set_of_one_less_and_a_replayed_binding_is_not_whole(world: World, run_id: str) -> None:
    """Attack: two real members, and a third seat filled with what another member sent before."""
    members = open_members(world, run_id)
    wait(*members[:2])
    replayed = member(world, run_id, 2, set_id=members[0].binding.set_id)
    replayed.binding = members[1].binding
    replayed.key = members[1].key
    replayed.attest()
    with refused(UnavailableError, "set_incomplete"):
        ask(replayed)
    assert world.status(run_id).waiting_for == "members: 2 of 3 have attested"


def test_one_enclave_is_not_two_members(world: World, run_id: str) -> None:
    members = open_members(world, run_id)
    members[2].key = members[1].key
    members[2].binding = msgspec.structs.replace(members[2].binding, signing_key=members[1].key.public)
    wait(members[0], members[1])
    with refused(VerificationError, "index_taken"):
        members[2].ask()


def test_of_two_members_with_one_index_only_the_first_gets_a_lease(world: World, run_id: str) -> None:
    members = open_members(world, run_id)
    wait(*members[1:])
    second = member(world, run_id, 1, set_id=members[1].binding.set_id)
    with refused(UnavailableError, "member_lives"):
        second.ask()
    members[0].ask()
    assert ask(members[1]).lease is not None
    with refused(UnavailableError, "member_lives"):
        ask(second)


def test_a_member_that_died_while_it_waited_leaves_its_place_to_another(world: World, run_id: str) -> None:
    leader, dead, other = open_members(world, run_id)
    wait(dead, other)
    new = member(world, run_id, 1, set_id=dead.binding.set_id)
    with refused(UnavailableError, "member_lives"):
        new.ask()
    world.now += timedelta(seconds=11)
    with refused(UnavailableError, "set_incomplete"):
        ask(new)
    wait(leader)
    ask(other)
    assert ask(new).lease is not None
    assert [one.is_replacement for one in listed(world, other)] == [False] * 3


def test_a_member_too_many_is_refused(world: World, run_id: str) -> None:
    set_id = world.client.open_set(run_id, "aggregate").set_id
    with refused(VerificationError, "other_index"):
        member(world, run_id, MEMBERS, set_id=set_id).ask()


def test_a_set_that_the_broker_never_opened_is_refused(world: World, run_id: str) -> None:
    with refused(VerificationError, "set_unknown"):
        member(world, run_id, 0, set_id="0" * 32).ask()


def test_a_newer_set_ends_one_that_waits(world: World, run_id: str) -> None:
    old = open_members(world, run_id)
    wait(*old[:2])
    new = open_members(world, run_id)
    with refused(VerificationError, "set_unknown"):
        ask(old[0])
    wait(new[0])


def test_a_member_of_another_runs_set_is_refused(world: World, run_id: str) -> None:
    other = world.ready_run("other")
    world.pass_gate(other)
    with refused(VerificationError, "other_set"):
        member(world, other, 0, set_id=world.client.open_set(run_id, "aggregate").set_id).ask()


def test_a_member_with_another_job_is_refused(world: World, run_id: str) -> None:
    guest = open_members(world, run_id)[0]
    guest.change_job(argv=("--limit", "11"))
    with refused(VerificationError, "other_job"):
        guest.ask()


def test_a_member_of_another_image_is_refused(world: World, run_id: str) -> None:
    set_id = world.client.open_set(run_id, "aggregate").set_id
    with refused(PolicyDeniedError, "attestation_measurement"):
        member(world, run_id, 0, set_id=set_id, measurement=b"\1" * 32).ask()


def test_one_job_alone_does_not_do_a_sets_step(world: World, run_id: str) -> None:
    with refused(PolicyDeniedError, "set_wanted"):
        Guest(world, run_id=run_id).ask()


def test_a_step_of_one_enclave_has_no_members(
    tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile
) -> None:
    world = World(folder=tmp_path, platform=platform, keystore=keystore)
    run_id = world.ready_run()
    with refused(PolicyDeniedError, "no_set"):
        world.client.open_set(run_id, "aggregate")
    world.pass_gate(run_id)
    with refused(PolicyDeniedError, "no_set"):
        member(world, run_id, 0, set_id="0" * 32).ask()


def test_no_set_is_opened_in_a_closed_run(world: World, run_id: str) -> None:
    world.client.close_run(run_id)
    with refused(PolicyDeniedError, "run_closed"):
        world.client.open_set(run_id, "aggregate")


# ---------------------------------------------------------------- replacements


def test_a_member_that_died_is_replaced_under_the_same_secret(world: World, run_id: str) -> None:
    leader, dead, _ = whole_set(world, run_id)
    silence(world)
    new = member(world, run_id, 1, set_id=dead.binding.set_id)
    new.ask()
    assert new.keys.cluster_secret == leader.keys.cluster_secret
    assert (new.lease.attempt, new.lease.expires, new.lease.outputs) == (1, leader.lease.expires, ())
    assert world.client.lease_status(dead.lease.lease_id).state == "fenced"
    assert [(one.index, one.is_replacement) for one in listed(world, leader)] == [
        (0, False), (1, False), (2, False), (1, True),
    ]  # fmt: skip
    assert commit(world, leader) == "committed"


def test_a_member_that_lives_is_not_replaced(world: World, run_id: str) -> None:
    leader, alive, _ = whole_set(world, run_id)
    silence(world)
    world.client.lease_status(alive.lease.lease_id)
    new = member(world, run_id, 1, set_id=leader.binding.set_id)
    with refused(UnavailableError, "member_lives"):
        new.ask()
    silence(world)
    ask(new)


def test_one_replacement_more_than_approved_is_denied(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    silence(world)
    member(world, run_id, 1, set_id=leader.binding.set_id).ask()
    silence(world)
    with refused(PolicyDeniedError, "replacements_used"):
        member(world, run_id, 2, set_id=leader.binding.set_id).ask()
    assert world.status(run_id).code == "replacements_used"


def test_the_leader_is_never_replaced(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    silence(world)
    with refused(PolicyDeniedError, "leader_lost"):
        member(world, run_id, 0, set_id=leader.binding.set_id).ask()


def test_nobody_is_replaced_in_an_attempt_that_was_fenced(world: World, run_id: str) -> None:
    first = whole_set(world, run_id)
    whole_set(world, run_id)
    silence(world)
    with refused(PolicyDeniedError, "set_over"):
        member(world, run_id, 1, set_id=first[0].binding.set_id).ask()


def test_a_member_replaced_by_another_member_of_its_set_is_refused(world: World, run_id: str) -> None:
    _, first, second = whole_set(world, run_id)
    silence(world)
    new = member(world, run_id, 1, set_id=first.binding.set_id)
    new.key = second.key
    new.binding = msgspec.structs.replace(new.binding, signing_key=second.key.public)
    with refused(VerificationError, "index_taken"):
        new.ask()


def test_a_binding_that_had_its_lease_gets_no_other(world: World, run_id: str) -> None:
    _, again, _ = whole_set(world, run_id)
    silence(world)
    with refused(VerificationError, "binding_used"):
        again.ask()


def test_a_member_after_the_commit_gets_the_receipt_and_no_key(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    commit(world, leader)
    silence(world)
    answer = member(world, run_id, 1, set_id=leader.binding.set_id).ask()
    assert answer.lease is None
    assert answer.sealed_keys is None
    assert answer.receipt is not None


# ---------------------------------------------------------------- receipts


def test_the_leaders_receipt_ends_the_set(world: World, run_id: str) -> None:
    leader, *others = whole_set(world, run_id)
    assert commit(world, leader) == "committed"
    with world.broker.decision() as ledger:
        assert [row.outcome for row in ledger.attempts(run_id)] == ["granted", "committed", "ended", "ended"]
    assert {world.client.lease_status(guest.lease.lease_id).state for guest in others} == {"current"}


def test_a_receipt_that_omits_a_member_is_refused(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    with refused(VerificationError, "other_members"):
        commit(world, leader, members=listed(world, leader)[:-1])
    assert commit(world, leader) == "committed"


def test_a_receipt_that_adds_a_member_is_refused(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    found = listed(world, leader)
    stranger = msgspec.structs.replace(found[1], lease_id="f" * 32, is_replacement=True)
    with refused(VerificationError, "other_members"):
        commit(world, leader, members=(*found, stranger))


def test_a_receipt_that_hides_a_replacement_is_refused(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    silence(world)
    before = listed(world, leader)
    member(world, run_id, 1, set_id=leader.binding.set_id).ask()
    with refused(VerificationError, "other_members"):
        commit(world, leader, members=before)


def test_a_receipt_by_another_member_than_the_leader_is_refused(world: World, run_id: str) -> None:
    leader, other, _ = whole_set(world, run_id)
    receipt = other.receipt((), members=listed(world, leader), disclosed={})
    with refused(VerificationError, "not_leader"):
        other.hand_in(receipt, manifests=())


def test_a_receipt_of_one_enclave_lists_no_members(
    tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile
) -> None:
    world = World(folder=tmp_path, platform=platform, keystore=keystore)
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    lone = Member(index=0, binding=guest.lease.binding, lease_id=guest.lease.lease_id, is_replacement=False)
    with refused(VerificationError, "other_members"):
        guest.commit(members=(lone,))


def test_a_silent_leader_loses_its_outputs_and_its_set_with_them(world: World, run_id: str) -> None:
    members = whole_set(world, run_id)
    silence(world)
    other = world.ready_run("other")
    world.pass_gate(other)
    whole_set(world, other)
    assert {world.client.lease_status(guest.lease.lease_id).state for guest in members} == {"fenced"}


# ---------------------------------------------------------------- revocations

OTHER = bytes(31) + b"\7"
"""Another image that the owners accept."""


def set_with_another_image(world: World, run_id: str) -> list[Guest]:
    """The last member runs what is going to be revoked."""
    accepted = ImageReference(measurements=(MEASUREMENT.hex(), OTHER.hex()))
    world.client.put_policy(world.owners.root.sign(world.policy(version=2, images={"spark": accepted})))
    world.pass_gate(run_id)
    leader, other, last = open_members(world, run_id)
    last.measurement = OTHER
    wait(other, last)
    leader.ask()
    return [leader, ask_all(other), ask_all(last)]


def ask_all(guest: Guest) -> Guest:
    ask(guest)
    return guest


def revoke_other(world: World) -> None:
    revocation = Revocation(
        domain_id=world.owners.domain.domain_id,
        kind="measurement",
        subject=OTHER.hex(),
        reason="it leaks",
        time=format_instant(world.now),
    )
    world.client.put_revocation(world.owners.root.sign(revocation))


def test_revoking_what_one_member_runs_ends_the_whole_set(world: World, run_id: str) -> None:
    leader, *others = set_with_another_image(world, run_id)
    revoke_other(world)
    states = {world.client.lease_status(guest.lease.lease_id).state for guest in (leader, *others)}
    assert states == {"revoked"}
    with refused(PolicyDeniedError, "lease_revoked"):
        commit(world, leader)


def test_what_a_revoked_member_had_a_part_in_is_not_released(world: World, run_id: str) -> None:
    leader, *_ = set_with_another_image(world, run_id)
    commit(world, leader)
    found = world.client.dependents("measurement", OTHER.hex())
    assert [output.dataset for one in found.attempts for output in one.outputs] == ["report"]
    revoke_other(world)
    serial = world.owners.recipient_certificate.serial
    with refused(PolicyDeniedError, "revoked"):
        world.client.release(ReleaseRequest(run_id=run_id, dataset="report", recipient=serial))


# ---------------------------------------------------------------- passports


def verify(world: World, platform: SimulatedPlatform, run_id: str) -> PassportReport:
    world.client.close_run(run_id)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root])
    return verify_passport(world.client.passport(run_id), trust=trust, now=world.now)


def test_the_passport_of_a_set_judges_every_member(world: World, platform: SimulatedPlatform, run_id: str) -> None:
    whole_set(world, run_id)
    leader, *_ = whole_set(world, run_id)
    silence(world)
    member(world, run_id, 2, set_id=leader.binding.set_id).ask()
    commit(world, leader)
    report = verify(world, platform, run_id)
    assert report.outcome == "succeeded"
    assert [(one.role, one.attempt, one.index, one.outcome) for one in report.steps[0].attempts] == [
        ("preflight", 0, 0, "granted"),
        ("member", 1, 0, "fenced"),
        ("member", 1, 1, "fenced"),
        ("member", 1, 2, "fenced"),
        ("member", 2, 0, "committed"),
        ("member", 2, 1, "ended"),
        ("member", 2, 2, "replaced"),
        ("member", 2, 2, "ended"),
    ]


def test_the_passport_of_a_run_whose_set_was_never_whole_is_verified(
    world: World, platform: SimulatedPlatform, run_id: str
) -> None:
    members = open_members(world, run_id)
    wait(*members[:2])
    with refused(VerificationError, "set_unknown"):
        member(world, run_id, 0, set_id="0" * 32).ask()
    assert verify(world, platform, run_id).outcome == "failed"
    with world.broker.decision() as ledger:
        assert not ledger.connection.execute(sa.select(store.waiting_member)).all()


@pytest.fixture
def attempts(world: World, run_id: str) -> tuple[Attempt, ...]:
    """What a passport says of a set of three, one of whom was replaced."""
    leader, *_ = whole_set(world, run_id)
    silence(world)
    member(world, run_id, 2, set_id=leader.binding.set_id).ask()
    commit(world, leader)
    world.client.close_run(run_id)
    passport = parse_passport(world.client.passport(run_id))
    return match_attempts(passport.contents, closed=canonical.decode(passport.closed.payload, into=RunClosed))


def set_code(world: World, attempts: tuple[Attempt, ...]) -> str:
    with pytest.raises(VerificationError) as caught:
        require_sets(attempts, approval=world.approval())
    return caught.value.code


def recorded(attempt: Attempt, **changes: object) -> Attempt:
    return replace(attempt, record=msgspec.structs.replace(attempt.record, **changes))


def bound(attempt: Attempt, **changes: object) -> Attempt:
    binding = msgspec.structs.replace(attempt.evidence.binding, **changes)
    return replace(attempt, evidence=msgspec.structs.replace(attempt.evidence, binding=binding))


def test_a_passport_that_lacks_a_member_is_refused(world: World, attempts: tuple[Attempt, ...]) -> None:
    _, leader, first, second, _ = attempts
    assert set_code(world, (leader, first)) == "set_incomplete"
    assert set_code(world, (leader, second, first)) == "set_incomplete"


def test_a_passport_with_a_replacement_too_many_is_refused(world: World, attempts: tuple[Attempt, ...]) -> None:
    assert set_code(world, (*attempts, attempts[-1])) == "other_members"
    approval = world.approval(steps=one_step(members=MEMBERS, replacements=0))
    with refused(VerificationError, "replacements_used"):
        require_sets(attempts, approval=approval)


def test_a_passport_with_members_of_two_sets_is_refused(world: World, attempts: tuple[Attempt, ...]) -> None:
    assert set_code(world, (*attempts[:-1], bound(attempts[-1], set_id="f" * 32))) == "other_set"


def test_a_passport_with_members_leased_one_by_one_is_refused(world: World, attempts: tuple[Attempt, ...]) -> None:
    apart = recorded(attempts[2], time="2020-01-01T00:00:00Z")
    assert set_code(world, (*attempts[:2], apart, *attempts[3:])) == "set_incomplete"


def test_a_passport_in_which_a_member_speaks_for_the_leader_is_refused(
    world: World, attempts: tuple[Attempt, ...]
) -> None:
    speaks = replace(attempts[2], receipt=attempts[1].receipt)
    assert set_code(world, (*attempts[:2], speaks, *attempts[3:])) == "not_leader"


def test_a_passport_in_which_one_job_did_a_sets_step_is_refused(world: World, attempts: tuple[Attempt, ...]) -> None:
    assert set_code(world, (recorded(attempts[1], role="job"),)) == "other_members"


def test_a_leader_is_no_replacement(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    found = listed(world, leader)
    with refused(VerificationError, "other_members"):
        require_whole((*found, msgspec.structs.replace(found[0], is_replacement=True)), step=world.steps[0])


def test_one_enclave_twice_is_no_set(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    found = listed(world, leader)
    twice = msgspec.structs.replace(found[1], index=2)
    with refused(VerificationError, "other_members"):
        require_whole((found[0], found[1], twice), step=world.steps[0])


def test_a_secret_wrapped_for_one_set_opens_under_no_other(world: World, run_id: str) -> None:
    leader, *_ = whole_set(world, run_id)
    with world.broker.decision() as ledger:
        stored = ledger.connection.execute(sa.select(store.member_set.c.secret)).scalar_one()
    context = wrapping.cluster_secret_context(domain_id=world.owners.domain.domain_id, set_id="f" * 32)
    with pytest.raises(PpmlError):
        world.keystore.unwrap(stored, key_id="release-keys", context=context)
    assert leader.keys.cluster_secret is not None
