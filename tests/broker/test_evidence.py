"""Evidence at the broker: verified ahead on all cores, by collateral that is fetched and never rolled back."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import uvicorn
import yaml

from ppml_airflow.attestation.collateral.cache import CollateralCache
from ppml_airflow.attestation.collateral.memory import SeenFile
from ppml_airflow.attestation.collateral.service import CollateralService
from ppml_airflow.attestation.collateral.source import CachedCollateral
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_collateral import Conditions
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.attestation.verifiers import VerifierPool
from ppml_airflow.broker.service.assembly import build_broker
from ppml_airflow.broker.settings import load_settings
from ppml_airflow.broker.store import Store
from ppml_airflow.cli.stack import free_port
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from tests.broker.test_process import wait_until_healthy, write_home
from tests.support.broker_world import Guest, World
from tests.support.owners import Owners
from tests.support.pccs import Pccs, serving


def _preflight(world: World, run_id: str, *, client: BrokerClient | None = None) -> Guest:
    """A guest that has handed in its evidence and not asked yet."""
    guest = Guest(world, run_id=run_id, role="preflight")
    guest.client = client or guest.client
    guest.attest()
    return guest


# ---------------------------------------------------------------- rollback


def test_collateral_older_than_what_the_broker_accepted_is_denied(world: World) -> None:
    run_id = world.ready_run()
    for number, code in ((2, ""), (3, ""), (2, "attestation_collateral_rollback")):
        world.collateral = world.platform.collateral(world.now, conditions=Conditions(evaluation_number=number))
        if not code:
            world.pass_gate(run_id)
            continue
        with pytest.raises(PolicyDeniedError) as caught:
            world.pass_gate(run_id)
        assert caught.value.code == code
        assert "got evaluation 2" in caught.value.message


def test_older_revocation_list_is_denied(world: World) -> None:
    run_id = world.ready_run()
    world.collateral = world.platform.collateral(world.now, conditions=Conditions(list_number=7))
    world.pass_gate(run_id)
    world.collateral = world.platform.collateral(world.now, conditions=Conditions(list_number=6))
    with pytest.raises(PolicyDeniedError, match="at least evaluation 1, lists 7 and 7, which were seen"):
        world.pass_gate(run_id)


def test_host_whose_platform_is_refused_cannot_go_back_to_what_accepts_it(world: World) -> None:
    run_id = world.ready_run()
    newest = Conditions(evaluation_number=9, tcb_status="OutOfDate")
    world.collateral = world.platform.collateral(world.now, conditions=newest)
    with pytest.raises(PolicyDeniedError, match="tcb status"):
        world.pass_gate(run_id)
    world.collateral = world.platform.collateral(world.now)
    with pytest.raises(PolicyDeniedError, match="collateral rollback: got evaluation 1"):
        world.pass_gate(run_id)


def test_restarted_broker_still_knows_what_it_saw(world: World) -> None:
    run_id = world.ready_run()
    world.collateral = world.platform.collateral(world.now, conditions=Conditions(evaluation_number=2))
    world.pass_gate(run_id)
    world.collateral = world.platform.collateral(world.now)
    world.use(dataclasses.replace(world.broker, store=Store.open(world.database or str(world.folder / "broker.db"))))
    with pytest.raises(PolicyDeniedError, match="collateral rollback"):
        world.pass_gate(run_id)


# ---------------------------------------------------------------- from a service


@pytest.fixture
def pccs(world: World, tmp_path: Path) -> Iterator[Pccs]:
    with serving(tmp_path / "pccs", collateral=lambda: world.collateral) as service:
        cache = CollateralCache(
            folder=tmp_path / "cache", roots=world.broker.roots, seen=SeenFile(tmp_path / "cache.seen")
        )
        source = CachedCollateral(
            cache=cache,
            service=CollateralService(url=service.url, ca_file=service.ca_file),
            refresh_after=timedelta(hours=24),
        )
        world.use(dataclasses.replace(world.broker, collateral=source))
        yield service


def test_collateral_is_fetched_when_evidence_comes_in_and_the_gate_passes(world: World, pccs: Pccs) -> None:
    run_id = world.ready_run()
    guest = _preflight(world, run_id)
    asked = len(pccs.paths)
    assert asked == 4
    assert guest.client.lease(guest.request()).granted_until
    assert len(pccs.paths) == asked


def test_service_that_is_down_makes_the_guest_wait_and_spends_no_nonce(world: World, pccs: Pccs) -> None:
    run_id = world.ready_run()
    pccs.status = 503
    guest = _preflight(world, run_id)
    with pytest.raises(UnavailableError) as caught:
        guest.client.lease(guest.request())
    assert caught.value.code == "no_collateral"
    pccs.status = 200
    world.broker.collateral.prepare(guest.quote(), now=world.now)
    assert guest.client.lease(guest.request()).granted_until


def test_collateral_that_expired_because_nothing_newer_came_is_denied(world: World, pccs: Pccs) -> None:
    short = Conditions(lifetime=timedelta(hours=12))
    world.collateral = world.platform.collateral(world.now, conditions=short)
    world.pass_gate(world.ready_run())
    world.now += timedelta(days=1)
    run_id = world.ready_run("tomorrow")
    pccs.status = 503
    with pytest.raises(VerificationError) as caught:
        world.pass_gate(run_id)
    assert caught.value.code == "collateral_expired"


def test_file_of_the_broker_names_a_service_and_a_folder(tmp_path: Path, platform: SimulatedPlatform) -> None:
    config = write_home(tmp_path, platform=platform, owners=Owners("visits"))
    fields = yaml.safe_load(config.read_text())
    fields["collateral"] = "cache"
    fields["collateral_service"] = {"url": "https://pccs.example:8081", "ca_file": "ca.pem", "refresh_hours": 12}
    config.write_text(yaml.safe_dump(fields))
    source = build_broker(load_settings(config)).collateral
    assert isinstance(source, CachedCollateral)
    assert source.service == CollateralService(url="https://pccs.example:8081", ca_file=tmp_path / "ca.pem")
    assert (source.cache.folder, source.refresh_after) == (tmp_path / "cache", timedelta(hours=12))
    fields["collateral_service"] = {"url": "http://pccs.example"}
    config.write_text(yaml.safe_dump(fields))
    with pytest.raises(ConfigurationError, match="no plain https address"):
        build_broker(load_settings(config))


# ---------------------------------------------------------------- on all cores, and in nobody's way


@contextmanager
def _served(world: World) -> Iterator[str]:
    """The broker over HTTP, as its process serves it."""
    port = free_port()
    config = uvicorn.Config(world.app, port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    with BrokerClient(url) as client:
        wait_until_healthy(client)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(20)


def test_status_is_answered_while_more_quotes_are_being_verified_than_there_are_threads(world: World) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(evidence: Evidence, **arguments: object) -> VerifiedEvidence:
        begun.release()
        assert go_on.wait(60)
        return verify_evidence(evidence, **arguments)  # type: ignore[arg-type]

    run_id = world.ready_run()
    world.use(dataclasses.replace(world.broker, verify=slow))
    waiting = 48
    with _served(world) as url, BrokerClient(url, token="airflow") as airflow:
        clients = [BrokerClient(url) for _ in range(waiting)]
        guests = [_preflight(world, run_id, client=client) for client in clients]
        with ThreadPoolExecutor(waiting) as threads:
            answers = [threads.submit(guest.client.lease, guest.request()) for guest in guests]
            for _ in range(30):
                assert begun.acquire(timeout=60)
            for _ in range(20):
                assert airflow.status(run_id, "aggregate").state == "waiting"
                assert airflow.health()["status"] == "ok"
            assert not any(answer.done() for answer in answers)
            go_on.set()
            assert all(answer.result(timeout=120).granted_until for answer in answers)
        for client in clients:
            client.close()


def test_status_is_answered_while_a_pool_verifies_many_quotes(world: World) -> None:
    run_id = world.ready_run()
    pool = VerifierPool(processes=2)
    world.use(dataclasses.replace(world.broker, verify=pool))
    quote = _preflight(world, run_id).quote()
    evidence = Evidence(tee="sgx", quote=quote)
    arguments = {"collateral": world.collateral, "roots": world.broker.roots, "now": world.now}
    stop, verified = threading.Event(), itertools.count()

    def keep_verifying() -> None:
        while not stop.is_set():
            pool(evidence, **arguments)
            next(verified)

    try:
        with _served(world) as url, BrokerClient(url, token="airflow") as airflow, ThreadPoolExecutor(4) as threads:
            busy = [threads.submit(keep_verifying) for _ in range(4)]
            while not all(_busy_s(one) > 0.2 for one in _children()) or len(_children()) < 2:
                time.sleep(0.05)
            slowest = 0.0
            asked, before = 0, next(verified)
            while asked < 30 or next(verified) - before < 100:
                asked += 1
                start = time.perf_counter()
                assert airflow.status(run_id, "aggregate").state == "waiting"
                slowest = max(slowest, time.perf_counter() - start)
            stop.set()
            for each in busy:
                each.result(timeout=60)
        assert slowest < 5
    finally:
        stop.set()
        pool.close()


def _children() -> list[psutil.Process]:
    """The processes of this one that verify."""
    return [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]


def _busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_pool_answers_as_verification_in_this_process_does(world: World) -> None:
    guest = _preflight(world, world.ready_run())
    arguments = {"collateral": world.collateral, "roots": world.broker.roots, "now": world.now}
    pool = VerifierPool(processes=1)
    try:
        evidence = Evidence(tee="sgx", quote=guest.quote())
        assert pool(evidence, **arguments) == verify_evidence(evidence, **arguments)
        changed = Evidence(tee="sgx", quote=evidence.quote[:120] + b"?" + evidence.quote[121:])
        with pytest.raises(VerificationError) as caught:
            pool(changed, **arguments)
        assert caught.value.code == "quote_signature"
    finally:
        pool.close()


def test_verifier_that_is_killed_is_replaced(world: World) -> None:
    guest = _preflight(world, world.ready_run())
    evidence = Evidence(tee="sgx", quote=guest.quote())
    arguments = {"collateral": world.collateral, "roots": world.broker.roots, "now": world.now}
    pool = VerifierPool(processes=1)
    try:
        pool(evidence, **arguments)
        for child in _children():
            child.kill()
        with pytest.raises(UnavailableError) as caught:
            pool(evidence, **arguments)
        assert caught.value.code == "verifier_lost"
        assert pool(evidence, **arguments).tee == "sgx"
    finally:
        pool.close()


ORPHAN = """
import os, sys
from concurrent.futures import Future
from ppml_airflow.attestation.verifiers import VerifierPool

if __name__ == "__main__":
    pool = VerifierPool(processes=1)
    print(pool._pool.submit(os.getpid).result(), flush=True)
    sys.stdin.read()
"""


def test_verifiers_end_with_a_broker_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "holder.py"
    script.write_text(ORPHAN)
    holder = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None
    verifier = int(holder.stdout.readline())
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(20)
    for _ in range(200):
        if not psutil.pid_exists(verifier) or psutil.Process(verifier).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("the verifier outlived its broker")
