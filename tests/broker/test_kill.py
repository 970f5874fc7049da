"""kill -9 at any point: what was answered is there afterwards, and no nonce is spent twice. `pytest -m kill`.

A client goes through nights of work, step by step, while its broker is killed again and again: at a counted point, or
after a time. It writes down what it was told; each time the broker is back, all of that must still hold. What it was
not told it asks again. At the end every run has a passport that verifies.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from ppml_airflow import canonical
from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker import store
from ppml_airflow.broker.service.log import StoredLog
from ppml_airflow.broker.store import Store
from ppml_airflow.errors import PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import Commit, LeaseAnswer, ReleaseRequest
from ppml_airflow.provenance.log import Checkpoint, verify_continues
from ppml_airflow.provenance.notes import verify_entry_proof, verify_head
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from ppml_airflow.units import Digest
from tests.support.broker_world import Guest, World
from tests.support.killable_broker import KillableBroker
from tests.support.rfc9162 import mth

pytestmark = [pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(900)]

KILLS = 50
"""For each of four seeds."""


@dataclass
class Told:
    """What the broker has answered, and must stand by."""

    runs: dict[str, str] = field(default_factory=dict)
    heads: dict[str, Digest] = field(default_factory=dict)
    grants: set[tuple[str, str]] = field(default_factory=set)
    leases: list[tuple[Guest, LeaseAnswer]] = field(default_factory=list)
    receipts: dict[tuple[str, str], Digest] = field(default_factory=dict)
    closed: dict[str, Digest] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None


class Nights:
    """A client that works while its broker dies. `advance` does the next step, or raises UnavailableError."""

    def __init__(self, world: World, *, url: str) -> None:
        self.world, self.url, self.told = world, url, Told()
        self.world.client = BrokerClient(url, token="airflow")
        self.night = 0
        self._todo: list[Callable[[], None]] = []
        self._run_id = ""
        self._guest: Guest
        self._published: Envelope
        self._commitment: Commit | None = None

    def advance(self) -> None:
        """One request, asked again until it is answered."""
        if not self._todo:
            self.night += 1
            self._todo = self._night()
        self._todo[0]()
        self._todo.pop(0)

    def _night(self) -> list[Callable[[], None]]:
        steps: list[Callable[[], None]] = [self._seal("plans"), self._publish] if self.night == 1 else []
        steps += [self._open, self._seal("visits"), self._publish]
        for step, role in (("aggregate", "preflight"), ("aggregate", "job"), ("summarise", "job")):
            steps += [self._start(step, role), self._attest, self._ask]
            steps += [self._commit] if role == "job" else []
        return [*steps, self._release, self._close, self._look]

    # ------------------------------------------------------------ the steps of a night

    def _open(self) -> None:
        name = f"night-{self.night}"
        self._run_id = self.world.open_run(name)
        assert self.told.runs.setdefault(name, self._run_id) == self._run_id

    def _seal(self, dataset: str) -> Callable[[], None]:
        def seal() -> None:
            run_id = self._run_id or None
            self._published = self.world.owners.producer.sign(self.world.manifest(dataset, run_id=run_id))

        return seal

    def _publish(self) -> None:
        published = self.world.client.publish(self._published)
        self.told.heads[published.dataset] = published.manifest

    def _start(self, step: str, role: str) -> Callable[[], None]:
        def start() -> None:
            self._guest = Guest(self.world, run_id=self._run_id, step=step, role=role)
            self._guest.client = BrokerClient(self.url)
            self._guest.auth()

        return start

    def _attest(self) -> None:
        guest = self._guest
        try:
            guest.client.attest(nonce=guest.nonce, tee_pubkey=public_jwk(guest.key.public), quote_bytes=guest.quote())
        except VerificationError as error:
            if error.code != "nonce_spent":  # it arrived, only the answer did not
                raise

    def _ask(self) -> None:
        guest = self._guest
        guest.answer = guest.client.lease(guest.request())
        if guest.answer.lease is None:
            self.told.grants.add((self._run_id, guest.job.step))
        else:
            self.told.leases.append((guest, guest.answer))

    def _commit(self) -> None:
        guest = self._guest
        if self._commitment is None:
            self._commitment = guest.commitment()
        assert guest.client.commit(self._commitment).state == "committed"
        self.told.receipts[(self._run_id, guest.job.step)] = self._commitment.receipt.digest
        manifests, self._commitment = self._commitment.manifests, None
        for manifest in manifests:
            dataset = canonical.decode(manifest.payload, into=Manifest).dataset
            self.told.heads[dataset] = manifest.digest

    def _release(self) -> None:
        serial = self.world.owners.recipient_certificate.serial
        request = ReleaseRequest(run_id=self._run_id, dataset="summary", recipient=serial)
        assert self.world.client.release(request).manifest.digest == self.told.heads["summary"]

    def _close(self) -> None:
        self.told.closed[self._run_id] = self.world.client.close_run(self._run_id).digest

    def _look(self) -> None:
        self.told.checkpoint = self._head()

    # ------------------------------------------------------------ what must still hold

    def require_kept(self) -> None:
        """Everything that was answered before is answered the same."""
        client, told = self.world.client, self.told
        for name, run_id in list(told.runs.items())[-2:]:
            found = client.find_run(pipeline="nightly", dag_id="nightly", airflow_run_id=name)
            assert found is not None
            assert found.run_id == run_id
        for dataset, digest in told.heads.items():
            head = client.head(dataset)
            assert head is not None
            # the step that was not answered may have moved it on
            assert digest == head.digest or canonical.decode(head.payload, into=Manifest).prev == digest
        for run_id, step in told.grants:
            assert run_id in told.closed or client.status(run_id, step).granted
        for guest, answer in told.leases[-2:]:
            assert guest.client.lease(guest.request()) == answer
            with pytest.raises(
                (VerificationError, PolicyDeniedError)
            ):  # its nonce is spent, its binding has had its lease
                _ask_anew(guest)
        for (run_id, step), digest in list(told.receipts.items())[-2:]:
            assert client.status(run_id, step).state == "committed"
            entry, _ = verify_entry_proof(client.log_proof(digest), keys=[self.world.owners.broker.public])
            assert (entry.kind, entry.run_id) == ("receipt", run_id)
        for run_id, digest in list(told.closed.items())[-2:]:
            assert client.close_run(run_id).digest == digest
        head = self._head()
        if told.checkpoint is not None:
            proof = client.log_consistency(told.checkpoint.log_size, head.log_size)
            verify_continues(proof, earlier=told.checkpoint, later=head)
        told.checkpoint = head

    def _head(self) -> Checkpoint:
        signed = verify_head(self.world.client.checkpoint(), keys=[self.world.owners.broker.public])
        assert signed.epoch == 0
        return signed.head


def _ask_anew(guest: Guest) -> None:
    """The same binding in another session."""
    other = BrokerClient(guest.client.url)
    nonce, _ = other.auth(tee="sgx", binding=canonical.digest(guest.binding))
    other.attest(nonce=nonce, tee_pubkey=public_jwk(guest.key.public), quote_bytes=guest.quote(nonce=nonce))
    before, guest.nonce = guest.nonce, nonce
    try:
        answer = other.lease(guest.request())
        if answer.receipt is None:
            return
        raise VerificationError("a committed step is answered by its receipt, which is no lease")
    finally:
        guest.nonce = before


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile, database: str) -> World:
    """Many runs for each slot: its clock stands still."""
    return World(folder=tmp_path, platform=platform, keystore=keystore, database=database, runs_per_slot=1000)


@pytest.mark.parametrize("seed", range(4))
def test_a_broker_that_is_killed_keeps_what_it_answered(
    world: World, database: str, database_kind: str, seed: int
) -> None:
    if (database_kind == "postgresql") != (seed == 3):
        pytest.skip("of two hundred kills fifty are with PostgreSQL, the others with SQLite")
    draw = random.Random(seed)
    world.broker.store.close()
    broker = KillableBroker(world, database=database)
    nights = Nights(world, url=broker.url)
    kills = 0
    while kills < KILLS:
        kind = draw.choice(("at its start", "at a point", "at a point", "after a time"))
        broker.start(points=draw.randint(1, 400) if kind == "at its start" else None)
        try:
            _when_up(broker, nights.require_kept)
            if kind == "at a point":
                broker.arm(points=draw.randint(1, 150))
            elif kind == "after a time":
                broker.arm(seconds=draw.uniform(0, 0.5))
            while True:
                nights.advance()
        except UnavailableError:
            assert broker.wait() == -signal.SIGKILL
        kills += 1
    broker.start()
    _when_up(broker, nights.require_kept)
    while nights._todo:
        nights.advance()
    nights.require_kept()
    passports = [world.client.passport(run_id) for run_id in nights.told.closed]
    broker.kill()
    broker.wait()
    assert nights.night >= 2
    _require_sound(world, database=database, passports=passports)


def _when_up(broker: KillableBroker, act: Callable[[], None]) -> None:
    """Act as soon as the broker listens; it may die on the way there."""
    broker.wait_until_it_listens()
    act()


def _require_sound(world: World, *, database: str, passports: list[bytes]) -> None:
    """Every passport verifies, no nonce stands in two of their evidences, and the log is one tree."""
    trust = make_trust_bundle(world.owners.domain, tee_roots=[world.platform.root])
    nonces = []
    for passport in passports:
        assert verify_passport(passport, trust=trust, now=world.now).outcome == "succeeded"
        nonces += [record.nonce for record in parse_passport(passport).contents.evidence]
    assert len(nonces) == len(set(nonces)) >= 3 * len(passports) > 0
    opened = Store.open(database)
    with opened.transaction() as connection:
        rows = list(connection.execute(sa.select(store.log).order_by(store.log.c.position)))
        bindings = list(
            connection.execute(sa.select(store.attempt.c.binding).where(store.attempt.c.role == "job")).scalars()
        )
    assert len(bindings) == len(set(bindings))
    with opened.transaction() as connection:
        head = StoredLog(connection).head()
    opened.close()
    assert head == Checkpoint(log_size=len(rows), log_root="sha256:" + mth([bytes(row.entry) for row in rows]).hex())
