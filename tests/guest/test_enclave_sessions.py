"""A long-lived enclave renews its session by fresh evidence, or ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import EnclaveSession
from ppml_airflow.domain.jobs import session_scope
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.errors import PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.guest.bundle import verify_bundle
from ppml_airflow.guest.enclave_sessions import Renewal, attest_session
from ppml_airflow.guest.identity import Identity, Within, attest, make_identity, make_session_identity
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import AskSession
from ppml_airflow.signing import Envelope, SigningKey
from tests.support.broker_world import PIPELINE
from tests.support.guest_world import GuestWorld

SHORT = EnclaveSession(
    session_id="a" * 32,
    binding="sha256:" + "1" * 64,
    scope="sha256:" + "2" * 64,
    epoch=0,
    issued="2026-01-01T00:00:00Z",
    expires="2026-01-01T00:00:01Z",
)
"""Lives one second."""


class Enclave:
    """A long-lived enclave at a real broker."""

    def __init__(self, guests: GuestWorld) -> None:
        world = guests.world
        self.guests = guests
        self.certificates = Certificates.verify(world.owners.certificates, domain=world.owners.domain)
        self.scope = session_scope(
            approval=world.approval(), approval_digest=world.approval_envelope.digest, step_name="aggregate"
        )
        self.identity: Identity = make_session_identity(self.scope)

    def attest(self, broker: BrokerClient | None = None) -> EnclaveSession:
        return attest_session(
            self.identity,
            scope=self.scope,
            pipeline=PIPELINE,
            broker=broker or self.guests.world.connect(),
            quoter=self.guests._quote,
            certificates=self.certificates,
        )


@pytest.fixture
def enclave(guests: GuestWorld) -> Enclave:
    return Enclave(guests)


def test_every_renewal_shows_a_new_quote(enclave: Enclave) -> None:
    first, second = enclave.attest(), enclave.attest()
    assert first.session_id == second.session_id
    assert enclave.guests.quotes == 2


def test_a_job_within_a_session_attests_with_keys_of_its_own(enclave: Enclave) -> None:
    guests, session = enclave.guests, enclave.attest()
    run_id = guests.gated_run()
    domain, now = guests.world.owners.domain, guests.world.now
    bundle = verify_bundle(guests.request(run_id), domain=domain, image="spark", now=now)
    identity = make_identity(bundle.job, role="job", set_id=session.session_id)
    within = Within(identity=enclave.identity, session_id=session.session_id)
    answer = attest(identity, broker=guests.world.connect(), quoter=guests._quote, within=within)
    assert answer.lease is not None
    assert identity.binding.signing_key != enclave.identity.binding.signing_key


def answered(enclave: Enclave, change: Callable[[EnclaveSession], EnclaveSession], *, key: SigningKey) -> BrokerClient:
    """A broker's client that answers with another session."""
    client = enclave.guests.world.connect()
    ask = client.enclave_session

    def changed(request: AskSession) -> Envelope:
        return key.sign(change(canonical.decode(ask(request).payload, into=EnclaveSession)))

    client.enclave_session = changed  # type: ignore[method-assign]
    return client


def test_a_session_by_an_uncertified_broker_is_refused(enclave: Enclave) -> None:
    with pytest.raises(VerificationError):
        enclave.attest(answered(enclave, lambda session: session, key=SigningKey.generate()))


@pytest.mark.parametrize("field", ["binding", "scope"])
def test_a_session_of_another_enclave_or_step_is_refused(enclave: Enclave, field: str) -> None:
    broker = enclave.guests.world.owners.broker
    change = {field: "sha256:" + "3" * 64}
    with pytest.raises(VerificationError) as caught:
        enclave.attest(answered(enclave, lambda one: msgspec.structs.replace(one, **change), key=broker))
    assert caught.value.code == "other_enclave_session"


def test_an_enclave_renews_before_its_session_ends() -> None:
    renewed = threading.Event()
    asked = []

    def renew() -> EnclaveSession:
        asked.append(1)
        if len(asked) == 4:
            renewed.set()
        return SHORT

    ended = threading.Event()
    with Renewal(renew, end=ended.set, share=0.1):
        assert renewed.wait(5)
    assert not ended.is_set()


def test_an_enclave_whose_renewal_is_refused_ends_at_once() -> None:
    answers = iter([SHORT])
    ended = threading.Event()

    def renew() -> EnclaveSession:
        try:
            return next(answers)
        except StopIteration:
            raise PolicyDeniedError("session was not renewed in time", code="enclave_session_over") from None

    with Renewal(renew, end=ended.set, share=0.1):
        assert ended.wait(0.9)


def test_an_enclave_that_misses_its_renewal_ends() -> None:
    """A broker that cannot be reached is asked again, but not for longer than the session lasts."""
    asked: list[int] = []
    ended = threading.Event()

    def renew() -> EnclaveSession:
        asked.append(1)
        if len(asked) == 1:
            return SHORT
        raise UnavailableError("broker does not answer")

    with Renewal(renew, end=ended.set, share=0.2):
        assert not ended.wait(0.7)
        assert ended.wait(2)
    assert len(asked) > 2


def test_an_enclave_without_a_session_does_not_begin() -> None:
    def renew() -> EnclaveSession:
        raise PolicyDeniedError("refused", code="attestation_measurement")

    with pytest.raises(PolicyDeniedError), Renewal(renew, end=lambda: None):
        pass
