"""Ten thousand gates that wait in one triggerer's event loop, and how soon a verdict wakes those that it concerns.

One process holds the triggers as a triggerer does, another one a real broker on SQLite, over HTTP; ten gates wait for
the grant of one step in each run. After a while of waiting the evidence of some runs is judged, one after the other.
Prints what waiting costs, and the time from a verdict to the trigger's event; writes `benchmarks/results/gates.json`.

    python benchmarks/gates.py [--gates 10000] [--verdicts 50] [--waiting-s 30]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import uvicorn

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' harness of a broker with a simulated platform

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.operators.triggers import StepTrigger
from tests.support.broker_world import World, make_keystore
from tests.support.simulated_run import make_platform

RESULTS = Path(__file__).parent / "results" / "gates.json"
GATES_PER_RUN = 10
TARGET_MIB, TARGET_CORES, TARGET_S = 1024, 1.0, 2.0


def serve_broker(folder: Path, *, runs: int, verdicts: int, parent: Connection) -> None:
    """A broker with so many open runs: says where and which, then judges a run's evidence whenever it is told to."""
    platform: SimulatedPlatform = make_platform(folder / "platform")
    world = World(folder=folder, platform=platform, keystore=make_keystore(folder), runs_per_slot=runs)
    server = uvicorn.Server(uvicorn.Config(world.app, port=0, log_level="error", lifespan="off"))
    threading.Thread(target=server.run, daemon=True).start()
    world.publish("plans")
    opened = [
        world.ready_run(f"run-{number}") if number < verdicts else world.open_run(f"run-{number}")
        for number in range(runs)
    ]
    while not server.started:
        time.sleep(0.01)
    parent.send((server.servers[0].sockets[0].getsockname()[1], opened))
    while (run_id := parent.recv()) is not None:
        world.pass_gate(run_id)
        parent.send(time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured: seconds, bytes, shares of a core."""

    ready_s: float
    memory: int
    own_cores: float
    broker_cores: float
    latencies: list[float]


class Gate(StepTrigger):
    """Counts those that have said what they wait for, instead of logging it."""

    waiting = 0

    def _show(self, text: str, *, shown: str) -> str:
        Gate.waiting += not shown
        return text


async def woken(trigger: StepTrigger) -> float:
    """Wait for a trigger's event; when it came."""
    async for event in trigger.run():
        if event.payload["woken"] != "settled":
            raise RuntimeError(f"trigger ended with {event.payload}")
        break
    return time.monotonic()


async def watch(
    runs: list[str], *, verdicts: int, waiting_s: float, broker: Connection, process: psutil.Process
) -> Found:
    """Let gates wait, then have some of them judged."""
    own = psutil.Process()
    memory = own.memory_info().rss
    began = time.monotonic()
    gates = {run: [asyncio.create_task(woken(make_gate(run))) for _ in range(GATES_PER_RUN)] for run in runs}
    while Gate.waiting < len(runs) * GATES_PER_RUN:
        await asyncio.sleep(0.5)
    ready_s = time.monotonic() - began
    own_cpu, broker_cpu = cpu_of(own), cpu_of(process)
    await asyncio.sleep(waiting_s)
    own_cpu, broker_cpu = cpu_of(own) - own_cpu, cpu_of(process) - broker_cpu
    memory = own.memory_info().rss - memory
    latencies: list[float] = []
    for run in runs[:verdicts]:
        broker.send(run)
        judged = await asyncio.get_running_loop().run_in_executor(None, broker.recv)
        latencies += [moment - judged for moment in await asyncio.gather(*gates.pop(run))]
    for task in (task for tasks in gates.values() for task in tasks):
        task.cancel()
    return Found(
        ready_s=ready_s,
        memory=memory,
        own_cores=own_cpu / waiting_s,
        broker_cores=broker_cpu / waiting_s,
        latencies=sorted(latencies),
    )


def make_gate(run_id: str) -> Gate:
    """A gate that waits for the step's grant."""
    return Gate(ppml_conn_id="ppml_default", run_id=run_id, step="aggregate", until="granted")


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--verdicts", type=int, default=50)
    parser.add_argument("--waiting-s", type=float, default=30)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as name:
        keywords = {"runs": options.gates // GATES_PER_RUN, "verdicts": options.verdicts, "parent": there}
        process = context.Process(target=serve_broker, args=(Path(name),), kwargs=keywords)
        process.start()
        try:
            port, runs = here.recv()
            document = {"conn_type": "ppml", "host": f"http://127.0.0.1:{port}", "password": "airflow"}
            os.environ["AIRFLOW_CONN_PPML_DEFAULT"] = json.dumps(document)
            found = asyncio.run(
                watch(
                    runs,
                    verdicts=options.verdicts,
                    waiting_s=options.waiting_s,
                    broker=here,
                    process=psutil.Process(process.pid),
                )
            )
        finally:
            process.kill()
            process.join()
    _report(found, gates=len(runs) * GATES_PER_RUN)


def _report(found: Found, *, gates: int) -> None:
    latencies = found.latencies
    figures: tuple[tuple[str, float, str, float | None], ...] = (
        ("memory of the waiting gates", found.memory / 2**20, "MiB", TARGET_MIB),
        ("the triggerer, waiting", found.own_cores, "cores", TARGET_CORES),
        ("the broker, waiting", found.broker_cores, "cores", None),
        ("verdict to event, p50", statistics.median(latencies), "s", None),
        ("verdict to event, p99", latencies[int(len(latencies) * 0.99)], "s", TARGET_S),
        ("until all gates wait", found.ready_s, "s", None),
    )
    print(f"{gates} gates, {len(latencies)} woken")
    rows = []
    for figure, value, unit, target in figures:
        met = None if target is None else value <= target
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "target": target, "met": met})
        print(f"  {figure:<30} {value:8.3f} {unit}" + ("" if target is None else f"  (target {target})"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
