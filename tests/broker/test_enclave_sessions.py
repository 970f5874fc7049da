"""Sessions of long-lived enclaves: no key, renewed in time or over; every job within attests for itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.recovery import recover
from ppml_airflow.domain.documents import EnclaveSession
from ppml_airflow.domain.jobs import session_scope
from ppml_airflow.errors import PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.messages import AskSession
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import SigningKey
from tests.support.broker_world import PIPELINE, Guest, World, one_step

STORES = ("sqlite", "postgresql, slow")


def refused(kind: type[PpmlError], code: str) -> pytest.RaisesExc[PpmlError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile, database: str) -> Iterator[World]:
    world = World(folder=tmp_path, platform=platform, keystore=keystore, database=database, steps=one_step(attempts=5))
    yield world
    world.broker.store.close()


class Enclave(Guest):
    """A long-lived one: the same keys for every renewal."""

    def __init__(self, world: World, *, run_id: str, step: str = "aggregate") -> None:
        super().__init__(world, run_id=run_id, role="session")
        scope = session_scope(
            approval=world.approval(), approval_digest=world.approval_envelope.digest, step_name="aggregate"
        )
        self.step = step
        self.binding = msgspec.structs.replace(self.binding, job_digest=canonical.digest(scope))

    def renew(self) -> EnclaveSession:
        """Show fresh evidence, and have the session opened or renewed."""
        self.attest()
        return self.ask_again()

    def ask_again(self) -> EnclaveSession:
        request = self.request()
        envelope = self.client.enclave_session(
            AskSession(binding=request.binding, signature=request.signature, pipeline=PIPELINE, step=self.step)
        )
        return canonical.decode(envelope.payload, into=EnclaveSession)


@pytest.fixture
def run_id(world: World) -> str:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    return run_id


@pytest.fixture
def enclave(world: World, run_id: str) -> Enclave:
    return Enclave(world, run_id=run_id)


def job(world: World, run_id: str, *, session_id: str, enclave: Guest | None) -> Guest:
    """A job within a session: an identity of its own, which the enclave vouches for."""
    return Guest(world, run_id=run_id, set_id=session_id, session=enclave)


def test_an_enclave_that_attests_has_a_session_that_ends(enclave: Enclave, world: World) -> None:
    session = enclave.renew()
    assert session.binding == canonical.digest(enclave.binding)
    assert session.expires > session.issued
    with world.broker.decision() as ledger:
        assert ledger.log.last is not None
        assert ledger.log.last.kind == "session"


def test_a_session_is_renewed_by_fresh_evidence(enclave: Enclave, world: World) -> None:
    first = enclave.renew()
    world.now += timedelta(minutes=6)
    second = enclave.renew()
    assert second.session_id == first.session_id
    assert second.expires > first.expires
    world.now += timedelta(minutes=6)
    assert enclave.renew().session_id == first.session_id


def test_a_session_is_not_renewed_by_the_same_evidence_again(enclave: Enclave) -> None:
    enclave.renew()
    with refused(VerificationError, "nonce_spent"):
        enclave.ask_again()


def test_a_missed_renewal_ends_a_session_for_ever(enclave: Enclave, world: World) -> None:
    enclave.renew()
    world.now += timedelta(minutes=10)
    for _ in range(2):
        with refused(PolicyDeniedError, "enclave_session_over"):
            enclave.renew()


def test_a_job_within_a_session_attests_and_gets_a_lease_as_any_other(
    enclave: Enclave, world: World, run_id: str
) -> None:
    session = enclave.renew()
    guest = job(world, run_id, session_id=session.session_id, enclave=enclave)
    guest.ask()
    assert guest.keys.data_keys
    assert guest.commit().state == "committed"


def test_the_passport_of_a_run_names_the_session_of_its_job_and_is_verified(
    enclave: Enclave, world: World, platform: SimulatedPlatform, run_id: str
) -> None:
    session = enclave.renew()
    guest = job(world, run_id, session_id=session.session_id, enclave=enclave)
    guest.ask()
    guest.commit()
    world.client.close_run(run_id)
    passport = world.client.passport(run_id)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root])
    assert verify_passport(passport, trust=trust, now=world.now).outcome == "succeeded"
    bindings = [record.binding for record in parse_passport(passport).contents.evidence]
    assert [(one.role, one.set_id) for one in bindings] == [("preflight", ""), ("job", session.session_id)]


def test_no_job_is_leased_within_a_session_that_is_over(enclave: Enclave, world: World, run_id: str) -> None:
    session = enclave.renew()
    world.now += timedelta(minutes=10)
    with refused(PolicyDeniedError, "enclave_session_over"):
        job(world, run_id, session_id=session.session_id, enclave=enclave).ask()


def test_no_job_is_leased_within_a_session_that_the_broker_does_not_know(
    enclave: Enclave, world: World, run_id: str
) -> None:
    with refused(VerificationError, "enclave_session_unknown"):
        job(world, run_id, session_id="0" * 32, enclave=enclave).ask()


def test_another_enclaves_job_is_not_within_a_session(enclave: Enclave, world: World, run_id: str) -> None:
    session = enclave.renew()
    with refused(VerificationError, "other_enclave_session"):
        job(world, run_id, session_id=session.session_id, enclave=None).ask()
    stranger = Guest(world, run_id=run_id)
    with pytest.raises(VerificationError):
        job(world, run_id, session_id=session.session_id, enclave=stranger).ask()


def test_evidence_of_a_job_in_a_session_is_judged_all_the_same(enclave: Enclave, world: World, run_id: str) -> None:
    session = enclave.renew()
    guest = Guest(world, run_id=run_id, set_id=session.session_id, session=enclave, measurement=b"\2" * 32)
    with refused(PolicyDeniedError, "attestation_measurement"):
        guest.ask()


def test_a_session_yields_no_lease(enclave: Enclave) -> None:
    enclave.attest()
    with pytest.raises(VerificationError):
        enclave.client.lease(enclave.request())


def test_evidence_of_a_job_opens_no_session(world: World, run_id: str, enclave: Enclave) -> None:
    enclave.binding = msgspec.structs.replace(enclave.binding, role="job")
    with refused(VerificationError, "other_job"):
        enclave.renew()


def test_evidence_for_another_step_opens_no_session(enclave: Enclave) -> None:
    enclave.binding = msgspec.structs.replace(enclave.binding, job_digest=canonical.digest(enclave.job))
    with refused(VerificationError, "other_job"):
        enclave.renew()


def test_a_step_that_nobody_approved_has_no_session(enclave: Enclave) -> None:
    enclave.step = "payroll"
    with refused(PolicyDeniedError, "step_not_approved"):
        enclave.renew()


def test_an_image_that_the_policy_does_not_accept_has_no_session(enclave: Enclave) -> None:
    enclave.measurement = b"\1" * 32
    with refused(PolicyDeniedError, "attestation_measurement"):
        enclave.renew()


def test_a_session_that_another_key_asks_for_is_not_renewed(enclave: Enclave) -> None:
    enclave.renew()
    enclave.key = SigningKey.generate(scheme="p256")
    with pytest.raises(VerificationError):
        enclave.renew()


def test_a_new_approval_ends_the_sessions_of_the_old_one(enclave: Enclave, world: World) -> None:
    enclave.renew()
    changed = world.approval(replaces=world.approval_envelope.digest, runs_per_slot=7)
    world.client.put_approval(world.owners.root.sign(changed))
    with refused(VerificationError, "other_job"):
        enclave.renew()


def test_a_recovered_broker_knows_no_session_any_more(enclave: Enclave, world: World) -> None:
    enclave.renew()
    (world.folder / "anchor").unlink()
    recover(world.broker)
    with refused(PolicyDeniedError, "enclave_session_over"):
        enclave.renew()
