"""Sealing and opening against `openssl speed` in memory and against `cp` on files.

Interleaved rounds, medians with minimum and maximum, every peer in the same round. Prints ratios; writes
`benchmarks/results/seal.json`. Files lie on a tmpfs (`/dev/shm`) where there is one, with fresh targets.

    python benchmarks/seal.py [--rounds 5] [--mebibytes 512]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ppml_airflow.sealing.body import SealedBody, open_part, opened_batches, seal_part, sealed_batches
from ppml_airflow.sealing.manifest import Part
from ppml_airflow.units import MIB

RESULTS = Path(__file__).parent / "results" / "seal.json"
KEY = bytes(range(32))
CONTEXT = b"benchmark"
TARGETS = {
    "seal in memory, one core, to openssl speed": 1.4,
    "open in memory, one core, to openssl speed": 1.3,
    "seal in memory, two processes to one": 1.7,
    "open in memory, two processes to one": 1.7,
    "seal files, two parts on two cores, to cp": 0.95,
    "open files, two parts on two cores, to cp": 0.95,
}

# ---------------------------------------------------------------- in memory


def rate(work: Callable[[], int]) -> float:
    """MB per second of wall time."""
    start = time.perf_counter()
    return work() / (time.perf_counter() - start) / 1e6


def seal_in_memory(mebibytes: int) -> float:
    batch = memoryview(bytearray(secrets.token_bytes(MIB)))
    plain = (batch for _ in range(mebibytes))
    return rate(lambda: sum(map(len, sealed_batches(plain, key=KEY, context=CONTEXT))))


def open_in_memory(mebibytes: int) -> float:
    batch = memoryview(bytearray(secrets.token_bytes(MIB)))
    sealed = memoryview(
        b"".join(map(bytes, sealed_batches((batch for _ in range(mebibytes)), key=KEY, context=CONTEXT)))
    )
    batches = (sealed[start : start + MIB] for start in range(0, len(sealed), MIB))
    return rate(lambda: sum(map(len, opened_batches(batches, key=KEY, context=CONTEXT))))


def openssl_speed() -> float:
    command = ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", str(MIB), "-evp", "aes-256-gcm"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    last = re.findall(r"^\+F:.*:([\d.]+)$", said, flags=re.MULTILINE)[-1]
    return float(last) / 1e6


# ---------------------------------------------------------------- files, in two parts


def seal_file(job: tuple[Path, Path]) -> SealedBody:
    return seal_part(job[0], job[1], key=KEY, context=CONTEXT, padded=False)


def open_file(job: tuple[Path, Path, SealedBody]) -> None:
    part = Part(path="part-00000", size=job[2].size, digest=job[2].digest, sealed_version=1)
    open_part(job[0], job[1], part=part, key=KEY, context=CONTEXT, padded=False)


def files_round(pool: ProcessPoolExecutor, folder: Path, *, mebibytes: int) -> dict[str, float]:
    """Rates of cp (one process, as `cp` is), sealing and opening (a process for each of two parts)."""
    plain = [folder / "plain-0", folder / "plain-1"]
    total = mebibytes * MIB
    target = folder / "target"

    def fresh() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    def copy() -> int:
        subprocess.run(["cp", *map(str, plain), str(target)], check=True)
        return total

    sealed: list[SealedBody] = []

    def seal() -> int:
        sealed.extend(pool.map(seal_file, [(file, folder / f"sealed-{file.name}") for file in plain]))
        return total

    def open_() -> int:
        jobs = zip(plain, sealed, strict=True)
        list(pool.map(open_file, [(folder / f"sealed-{file.name}", target / file.name, body) for file, body in jobs]))
        return total

    rates = {}
    fresh()
    rates["cp"] = rate(copy)
    fresh()
    rates["seal"] = rate(seal)
    rates["open"] = rate(open_)
    assert all((target / file.name).stat().st_size == file.stat().st_size for file in plain)
    for file in plain:
        (folder / f"sealed-{file.name}").unlink()
    return rates


# ---------------------------------------------------------------- report


def rounds(count: int, *, mebibytes: int) -> Iterator[dict[str, float]]:
    """Ratios of one round after another."""
    shared_memory = Path("/dev/shm")  # noqa: S108  # a tmpfs, to measure no disk
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as name,
        ProcessPoolExecutor(2, mp_context=spawn) as pool,
    ):
        folder = Path(name)
        for index in range(2):
            (folder / f"plain-{index}").write_bytes(secrets.token_bytes(MIB) * (mebibytes // 2))
        list(pool.map(seal_in_memory, [8, 8]))  # start both processes
        for _ in range(count):
            peer, seal, open_ = openssl_speed(), seal_in_memory(mebibytes), open_in_memory(mebibytes)
            both_seal = sum(pool.map(seal_in_memory, [mebibytes] * 2))
            both_open = sum(pool.map(open_in_memory, [mebibytes] * 2))
            files = files_round(pool, folder, mebibytes=mebibytes)
            values = (
                seal / peer,
                open_ / peer,
                both_seal / seal,
                both_open / open_,
                files["seal"] / files["cp"],
                files["open"] / files["cp"],
            )
            yield dict(zip(TARGETS, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mebibytes", type=int, default=512)
    options = parser.parse_args()
    if shutil.which("openssl") is None:
        sys.exit("openssl is not installed: it is the peer of this benchmark")
    measured = list(rounds(options.rounds, mebibytes=options.mebibytes))
    results = []
    print(f"{'figure':44} {'median':>7} {'min':>6} {'max':>6} {'target':>7}")
    for figure, target in TARGETS.items():
        values = [ratios[figure] for ratios in measured]
        median = round(statistics.median(values), 2)
        results.append({"figure": figure, "value": median, "unit": "ratio", "target": target, "met": median >= target})
        met = "" if median >= target else "  not met"
        print(f"{figure:44} {median:7.2f} {min(values):6.2f} {max(values):6.2f} {target:7.2f}{met}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
