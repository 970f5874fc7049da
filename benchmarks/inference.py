"""Inference on sealed data against the same model on plaintext, one row at a time, one thread.

The model is magika's (3.2 MB, int32 [rows, 2048]). Two figures, each with its peer in the same round:

request   what an endpoint does once a channel key is agreed: open 8 KiB of AES-256-GCM, run, seal the scores; to a run
step      what a batch step does from sealed part to sealed part: open encrypted Parquet, run a row at a time with
          the step's own code, write encrypted Parquet; against the same from plain Parquet to plain Parquet

Requests alternate one by one, and a round's figure is the quotient of medians. Not in it: starting the guest,
attestation, lease, and loading the model, which a step pays once.

    python benchmarks/inference.py [--rounds 7] [--rows 200]
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import magika
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ppml_airflow.sealing.tables import read_sealed_parquet, write_sealed_parquet
from ppml_airflow.workloads.inference.child import Model

RESULTS = Path(__file__).parent / "results" / "inference.json"
TARGET = 1.05
PLAN: Mapping[str, Any] = {
    "features": {"bytes": ["features"]},
    "results": [{"column": "scores", "tensor": "target_label", "kind": "array<float>"}],
    "batch_rows": 1,
}
DATA_KEY, AAD = bytes(range(32)), b"benchmark"


def cpu_and_wall(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


Pair = tuple[Callable[[], object], Callable[[], object]]
"""The same work: sealed, and plain."""


def requests(model: Model, rows: list[bytes]) -> list[Pair]:
    """A pair for each request."""
    channel = AESGCM(secrets.token_bytes(32))

    def run(row: bytes) -> bytes:
        return model.run(pa.table({"features": pa.array([row], pa.binary())}))["target_label"].tobytes()

    def sealed(number: int, body: bytes) -> None:
        scores = run(channel.decrypt(number.to_bytes(12), body, AAD))
        channel.encrypt((1 << 95 | number).to_bytes(12), scores, AAD)

    return [
        (partial(sealed, number, channel.encrypt(number.to_bytes(12), row, AAD)), partial(run, row))
        for number, row in enumerate(rows)
    ]


def steps(model: Model, table: pa.Table, folder: Path) -> list[Pair]:
    """One pair, of a whole part."""
    sealed_part, plain_part = folder / "sealed", folder / "plain"
    write_sealed_parquet(table.to_batches(), sealed_part, schema=table.schema, data_key=DATA_KEY, aad=AAD)
    pq.write_table(table, plain_part)

    def run(data: pa.Table) -> pa.Table:
        scores = [model.run(data.slice(start, 1))["target_label"][0] for start in range(data.num_rows)]
        return pa.table({"scores": pa.array(scores)})

    def sealed() -> None:
        output = run(read_sealed_parquet(sealed_part, data_key=DATA_KEY, aad=AAD))
        write_sealed_parquet(output.to_batches(), folder / "out", schema=output.schema, data_key=DATA_KEY, aad=AAD)

    def plain() -> None:
        pq.write_table(run(pq.read_table(plain_part)), folder / "out")

    return [(sealed, plain)]


def measured(pairs: list[Pair], *, sealed_first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Median CPU and wall time of the pairs, one after the other: of the sealed, and of the plain ones."""
    times = [
        (cpu_and_wall(sealed), cpu_and_wall(plain))
        if sealed_first
        else (cpu_and_wall(plain), cpu_and_wall(sealed))[::-1]
        for sealed, plain in pairs
    ]
    sealed, plain = ([found[side] for found in times] for side in (0, 1))
    return _median(sealed), _median(plain)


def _median(times: list[tuple[float, float]]) -> tuple[float, float]:
    cpu, wall = zip(*times, strict=True)
    return statistics.median(cpu), statistics.median(wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    content = next(Path(magika.__file__).parent.rglob("model.onnx")).read_bytes()
    model = Model(PLAN, content=content, threads=1)
    random = np.random.default_rng(1)
    rows = [values.astype("<i4").tobytes() for values in random.integers(0, 257, size=(options.rows, 2048))]
    table = pa.table({"features": pa.array(rows, pa.binary())})
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"request": requests(model, rows), "step": steps(model, table, Path(folder))}
        for pairs in kinds.values():
            measured(pairs, sealed_first=True)
        ratios: dict[str, list[float]] = {}
        costs: dict[str, list[float]] = {}
        for number in range(options.rounds):
            for name, pairs in kinds.items():
                sealed, plain = measured(pairs, sealed_first=bool(number % 2))
                for index, unit in enumerate(("CPU", "wall")):
                    ratios.setdefault(f"{name}, sealed to plain, {unit}", []).append(sealed[index] / plain[index])
                a_row = plain[0] * 1000 * len(pairs) / options.rows
                costs.setdefault(f"{name}, plain, CPU ms a row", []).append(a_row)
    report(ratios, costs)


def report(ratios: Mapping[str, list[float]], costs: Mapping[str, list[float]]) -> None:
    """A table for people, a file for scripts."""
    results: list[dict[str, object]] = []
    print(f"{'figure':34} {'median':>7} {'min':>7} {'max':>7} {'target':>7}")
    for figure, values in ratios.items():
        median = round(statistics.median(values), 3)
        met = median <= TARGET
        results.append({"figure": figure, "value": median, "unit": "ratio", "target": TARGET, "met": met})
        print(
            f"{figure:34} {median:7.3f} {min(values):7.3f} {max(values):7.3f} {TARGET:7.2f}{'' if met else '  not met'}"
        )
    for figure, values in costs.items():
        median = round(statistics.median(values), 3)
        results.append({"figure": figure, "value": median, "unit": "ms", "target": None, "met": None})
        print(f"{figure:34} {median:7.3f} {min(values):7.3f} {max(values):7.3f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
