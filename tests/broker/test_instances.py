"""Two instances of a broker on one PostgreSQL: one log, each nonce spent once, whoever asks whom."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest
import sqlalchemy as sa
import yaml
from starlette.testclient import TestClient

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from ppml_airflow.broker import store
from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.api import create_app
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.broker.service.recovery import require_anchored
from ppml_airflow.broker.store import Store
from ppml_airflow.errors import PolicyDeniedError, PpmlError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.protocol.messages import LeaseAnswer, OpenRun
from ppml_airflow.provenance.notes import verify_head
from tests.broker.test_process import wait_until_healthy, write_callers, write_home
from tests.support.broker_world import Guest, LocalClient, World
from tests.support.rfc9162 import mth

STORES = ("postgresql",)

T = TypeVar("T")


@pytest.fixture
def second(world: World) -> Iterator[Broker]:
    """Another instance: connections and anchor of its own, the same database."""
    other = dataclasses.replace(
        world.broker,
        store=Store.open(world.database),
        anchor=Anchor(world.folder / "second-anchor", key=world.owners.broker),
    )
    with other.transaction() as ledger:
        head = other.head_of(ledger)
    other.anchor.replace(head)
    require_anchored(other)
    yield other
    other.store.close()


def connect(world: World, broker: Broker) -> BrokerClient:
    return LocalClient(TestClient(create_app(broker, callers=lambda: world.callers), base_url="https://local"))


def at_once(calls: list[Callable[[], T]]) -> list[T | PpmlError]:
    """Every call in a thread of its own, all starting together."""
    barrier = Barrier(len(calls))

    def one(call: Callable[[], T]) -> T | PpmlError:
        barrier.wait()
        try:
            return call()
        except PpmlError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def require_one_log(world: World) -> int:
    """The log in the database is one tree without gaps, under the head that is signed. Returns its size."""
    head = verify_head(world.client.checkpoint(), keys=[world.owners.broker.public]).head
    with world.broker.store.transaction() as connection:
        rows = list(connection.execute(sa.select(store.log).order_by(store.log.c.position)))
    assert [row.position for row in rows] == list(range(head.log_size))
    assert "sha256:" + mth([bytes(row.entry) for row in rows]).hex() == head.log_root
    return head.log_size


def test_one_session_asked_at_both_instances_gets_one_lease(world: World, second: Broker) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.attest()
    session = guest.client._http.cookies["kbs-session-id"]
    clients = [connect(world, broker) for broker in (world.broker, second) * 4]
    for client in clients:
        client._http.cookies.set("kbs-session-id", session, domain="local.local")
    answers = at_once([lambda client=client: client.lease(guest.request()) for client in clients])
    assert {canonical.digest(answer) for answer in answers if isinstance(answer, LeaseAnswer)} == {
        canonical.digest(answers[0])
    }
    assert len(answers) == 8
    with world.broker.store.transaction() as connection:
        attempt = store.attempt
        query = sa.select(sa.func.count()).where(attempt.c.role == "job")
        assert connection.execute(query).scalar_one() == 1
    require_one_log(world)


def test_guests_that_race_at_both_instances_fence_each_other_one_by_one(world: World, second: Broker) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guests = [Guest(world, run_id=run_id) for _ in range(3)]
    for guest, broker in zip(guests, (world.broker, second, world.broker), strict=True):
        guest.client = connect(world, broker)
        guest.attest()
    answers = at_once([lambda guest=guest: guest.client.lease(guest.request()) for guest in guests])
    leased = [answer for answer in answers if isinstance(answer, LeaseAnswer)]
    assert len(leased) == 3
    with world.broker.store.transaction() as connection:
        query = sa.select(store.attempt).where(store.attempt.c.role == "job").order_by(store.attempt.c.id)
        rows = list(connection.execute(query))
    assert [row.attempt for row in rows] == [1, 2, 3]
    assert [row.outcome for row in rows] == ["fenced", "fenced", "open"]
    require_one_log(world)


def test_one_binding_gets_one_lease_whatever_sessions_it_has(world: World, second: Broker) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    sessions = []
    for broker in (world.broker, second) * 2:
        guest.client = connect(world, broker)
        guest.attest()
        sessions.append((guest.client, guest.request()))
    answers = at_once([lambda client=client, request=request: client.lease(request) for client, request in sessions])
    found = Counter(answer.code if isinstance(answer, PpmlError) else "leased" for answer in answers)
    assert found == {"leased": 1, "binding_used": 3}
    require_one_log(world)


def test_one_airflow_run_is_opened_once(world: World, second: Broker) -> None:
    world.publish("plans")
    clients = []
    for broker in (world.broker, second) * 3:
        client = connect(world, broker)
        client._http.headers["Authorization"] = "Bearer airflow"
        clients.append(client)

    def open_run(client: BrokerClient) -> str:
        request = OpenRun(pipeline="nightly", slot=None, params={}, claimed={"dag_id": "nightly", "run_id": "a"})
        return client.open_run(request).run_id

    assert len(set(at_once([lambda client=client: open_run(client) for client in clients]))) == 1
    require_one_log(world)


def test_decisions_at_both_instances_make_one_log(world: World, second: Broker) -> None:
    before = require_one_log(world)
    calls = [
        lambda index=index, broker=broker: _deny(world, broker, index)
        for index, broker in enumerate((world.broker, second) * 4)
    ]
    assert at_once(calls) == [None] * 8
    assert require_one_log(world) == before + 8
    for name in ("anchor", "second-anchor"):
        signed = verify_head((world.folder / name).read_text(), keys=[world.owners.broker.public])
        assert before < signed.head.log_size <= before + 8


def test_collateral_that_one_instance_saw_is_not_undercut_at_the_other(world: World, second: Broker) -> None:
    run_id = world.ready_run()
    world.collateral = world.platform.collateral(world.now, conditions=Conditions(evaluation_number=2))
    world.pass_gate(run_id)
    world.collateral = world.platform.collateral(world.now)
    gate = Guest(world, run_id=run_id, role="preflight")
    gate.client = connect(world, second)
    with pytest.raises(PolicyDeniedError, match="collateral rollback"):
        gate.ask()


def _deny(world: World, broker: Broker, index: int) -> None:
    """A session whose evidence covers a job of nobody: a denial is logged."""
    with broker.decision() as ledger:
        ledger.append("denial", body=canonical.digest([index]), run_id=None)


@pytest.mark.slow
def test_two_processes_serve_one_night(world: World, tmp_path: Path, keystore_file: Path) -> None:
    """A run that begins at one process and ends at the other."""
    clients, processes = [], []
    for name in ("one", "two"):
        home = tmp_path / name
        home.mkdir()
        config = write_home(home, platform=world.platform, owners=world.owners)
        settings = yaml.safe_load(config.read_text())
        settings |= {"database": world.database, "keystore": str(keystore_file), "dataset_keys": str(world.folder)}
        shutil.copy(world.folder / "anchor", home / "anchor")
        config.write_text(yaml.safe_dump(settings))
        write_callers(home / "tokens.json", Caller(name="airflow", pipelines=("nightly",)))
        processes.append(subprocess.Popen([sys.executable, "-m", "ppml_airflow.broker", "--config", config]))
        clients.append(f"unix:{home}/broker.sock")
    try:
        one, two = (BrokerClient(url, token="airflow") for url in clients)
        for client in (one, two):
            wait_until_healthy(client)
        world.client = one
        run_id = world.ready_run()
        gate = Guest(world, run_id=run_id, role="preflight")
        gate.client = BrokerClient(clients[1])
        gate.ask()
        world.client = two
        guest = Guest(world, run_id=run_id)
        guest.client = BrokerClient(clients[0])
        guest.ask()
        guest.client = BrokerClient(clients[1])
        assert guest.commit().state == "committed"
        assert one.status(run_id, "aggregate").state == "committed"
        require_one_log(world)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
