"""Attest and lease at a broker, over a durable store: CPU of the broker's processes, and latency at 50 a second.

A broker as `ppml broker serve` runs it, on a Unix socket, over SQLite and, where it is installed, over PostgreSQL, both
with every commit on disk. A guest of the simulated TEE asks: RCAR auth, attest, then the lease of a job with one input
and one output. First one after the other: CPU of the broker and its verifiers for each. Then at a fixed rate from
several guests at once, commits of receipts among them: latency of attest and lease from the moment they were due. The
peer, in the same rounds: one row committed durably to an SQLite file in the same folder. Writes
`benchmarks/results/broker_lease.json`.

    python benchmarks/broker_lease.py [--rounds 5] [--seconds 20] [--rate 50]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' owners and guests

from ppml_airflow.attestation.report_data import public_jwk
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.callers import Caller
from ppml_airflow.domain.documents import Input, Output
from ppml_airflow.protocol.client import BrokerClient, patiently
from tests.broker.test_process import wait_until_healthy, write_callers, write_home
from tests.support.broker_world import Guest, World, make_keystore
from tests.support.postgresql import SETTINGS, running_cluster, why_not
from tests.support.simulated_run import make_platform, make_step

RESULTS = Path(__file__).parent / "results" / "broker_lease.json"
LANES = tuple(f"lane{index:02}" for index in range(40))
"""Steps side by side: what one writes keeps no other waiting."""
THREADS = 20
TARGET_CPU_MS, TARGET_P99_MS = 4.0, 50.0


class Service:
    """A broker process, and owners and guests around it."""

    def __init__(self, folder: Path, *, platform: SimulatedPlatform, database: str) -> None:
        steps = tuple(
            make_step(
                name,
                inputs=(Input(dataset="plans", version="head"),),
                outputs=(Output(dataset=f"out-{name}", body="table", recipients=("analyst",), files=1),),
            )
            for name in LANES
        )
        self.world = World(
            folder=folder,
            platform=platform,
            keystore=make_keystore(folder),
            steps=steps,
            edges=(),
            runs_per_slot=100_000,
            datasets=("plans", *(f"out-{name}" for name in LANES)),
            database=database,
        )
        self.world.publish("plans")
        self.world.broker.store.close()
        home = folder / "home"
        home.mkdir()
        config = write_home(home, platform=platform, owners=self.world.owners)
        changes = {"database": database, "keystore": str(folder / "keystore.json"), "dataset_keys": str(folder)}
        shutil.copy(folder / "anchor", home / "anchor")
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | changes))
        write_callers(home / "tokens.json", Caller(name="airflow", pipelines=("nightly",)))
        self.url = f"unix:{home}/broker.sock"
        self.process = subprocess.Popen((sys.executable, "-m", "ppml_airflow.broker", "--config", str(config)))
        self.world.client = BrokerClient(self.url, token="airflow")  # noqa: S106 (the name of the tests' caller)
        wait_until_healthy(self.world.client)
        self._runs = 0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def cpu_s(self) -> float:
        """CPU seconds of the broker and the processes that it started."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(time.clock_gettime((~process.pid << 3) | 2) for process in family)

    def guests(self) -> list[Guest]:
        """A new run's guests, one for each lane, ready to ask."""
        self._runs += 1
        run_id = self.world.open_run(f"run-{self._runs}")
        guests = [Guest(self.world, run_id=run_id, step=name) for name in LANES]
        for guest in guests:
            guest.client = BrokerClient(self.url)
            guest.client.health()  # connected
        return guests


def attest(guest: Guest) -> None:
    """Auth and attest, the quote made between them."""
    guest.auth()
    guest.client.attest(nonce=guest.nonce, tee_pubkey=public_jwk(guest.key.public), quote_bytes=guest.quote())


def lease(guest: Guest) -> None:
    guest.answer = guest.client.lease(guest.request())
    assert guest.answer.lease is not None


def measure_cpu(service: Service, *, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU for each attest (with its auth) and each lease, one figure a round."""
    attests, leases = [], []
    for number in range(rounds + 1):
        guests = service.guests()
        start = service.cpu_s()
        for guest in guests:
            attest(guest)
        middle = service.cpu_s()
        for guest in guests:
            lease(guest)
        end = service.cpu_s()
        for guest in guests:
            guest.commit()
        if number:  # the first warms up
            attests.append((middle - start) * 1000 / len(guests))
            leases.append((end - middle) * 1000 / len(guests))
    return attests, leases


def measure_latency(service: Service, *, rate: int, seconds: int) -> list[float]:
    """Milliseconds from when each attest and lease was due to its answer, in an open loop."""
    batches = [service.guests() for _ in range(-(-rate * seconds // len(LANES)))]
    for guests in batches:
        for guest in guests:
            guest.auth()
            guest.made = guest.quote()  # type: ignore[attr-defined]  # the quote is the guest's time, not the broker's
    begin = time.perf_counter() + 0.2

    def one(number: int, guest: Guest) -> float:
        due = begin + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        jwk = public_jwk(guest.key.public)
        guest.client.attest(nonce=guest.nonce, tee_pubkey=jwk, quote_bytes=guest.made)  # type: ignore[attr-defined]
        patiently(lambda: lease(guest), seconds=60)  # a broker that lags has the lane's last output still open
        took = time.perf_counter() - due
        guest.commit()
        return took * 1000

    with ThreadPoolExecutor(THREADS) as pool:
        every = [guest for guests in batches for guest in guests]
        return list(pool.map(one, range(len(every)), every))


def measure_commits(folder: Path, *, count: int) -> float:
    """Milliseconds of wall time for a durable commit of one row."""
    with closing(sqlite3.connect(folder / "peer.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS row (content BLOB)")
        began = time.perf_counter()
        for _ in range(count):
            connection.execute("INSERT INTO row VALUES (?)", (bytes(200),))
        return (time.perf_counter() - began) * 1000 / count


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """The stores that there are here, by name."""
    found = {"SQLite": str(folder / "broker.db")}
    if reason := why_not():
        print(f"skipped: PostgreSQL: {reason}")
        yield found
        return
    durable = {name: value for name, value in SETTINGS.items() if name not in ("fsync", "full_page_writes")}
    with running_cluster(settings=durable) as cluster:
        yield found | {"PostgreSQL": cluster.create_database()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=int, default=50)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []

    def report(figure: str, values: list[float], *, value: float | None = None, target: float | None = None) -> None:
        shown = statistics.median(values) if value is None else value
        met = None if target is None else shown <= target
        print(f"  {figure:<58} {shown:7.2f} ms  ({min(values):.2f} to {max(values):.2f})")
        rows.append({"figure": figure, "value": round(shown, 2), "unit": "ms", "target": target, "met": met})

    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as stores:
        folder = Path(name)
        platform = make_platform(folder / "tee")
        commits = [measure_commits(folder, count=100) for _ in range(options.rounds)]
        report("peer: one durable commit of a row, SQLite, wall", commits)
        for store, database in stores.items():
            (folder / store).mkdir()
            service = Service(folder / store, platform=platform, database=database)
            try:
                attests, leases = measure_cpu(service, rounds=options.rounds)
                report(f"{store}: auth and attest, CPU", attests, target=TARGET_CPU_MS)
                report(f"{store}: lease, CPU", leases, target=TARGET_CPU_MS)
                took = sorted(measure_latency(service, rate=options.rate, seconds=options.seconds))
                report(f"{store}: attest and lease at {options.rate} a second, p50", took)
                p99 = took[int(len(took) * 0.99)]
                report(
                    f"{store}: attest and lease at {options.rate} a second, p99", took, value=p99, target=TARGET_P99_MS
                )
            finally:
                service.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
