"""Verifying the passport of a large run offline, against dcap-qvl alone on the same quotes.

Builds one signed run of so many steps in memory (simulated platform, real keys), then verifies its passport in
interleaved rounds with the peer: dcap-qvl over the same quotes, which no verifier can do without. Prints medians with
minimum and maximum; writes `benchmarks/results/passport.json`.

    python benchmarks/passport.py [--rounds 5] [--steps 1000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dcap_qvl

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' builder of signed runs

from ppml_airflow.domain.documents import Input, Output
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.units import parse_instant
from tests.support.owners import Owners
from tests.support.simulated_run import SimulatedRun, make_platform, make_step

RESULTS = Path(__file__).parent / "results" / "passport.json"
TARGET_S = 4.0


def build(folder: Path, *, steps: int) -> SimulatedRun:
    """A run of that many steps, side by side, each committed at its first attempt."""
    names = [f"step{index:04}" for index in range(steps)]
    approved = tuple(
        make_step(
            name,
            inputs=(Input(dataset="plans", version="head"),),
            outputs=(Output(dataset=f"out-{name}", body="table", recipients=("analyst",), files=1),),
        )
        for name in names
    )
    owners = Owners("plans", *(f"out-{name}" for name in names))
    opened_at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
    platform = make_platform(folder / "tee")
    run = SimulatedRun(platform=platform, owners=owners, steps=approved, edges=(), opened_at=opened_at)
    run.publish(run.make_manifest("plans"))
    for name in names:
        run.run_step(name)
    return run


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def verify_quotes(run: SimulatedRun) -> None:
    """What the peer does: the same quotes, the same collateral, nothing else."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(run.collateral[run.collateral_digest])
    verifier = dcap_qvl.QuoteVerifier(run.platform.root_der)
    for attempt in run.attempts:
        now_s = int(parse_instant(attempt.evidence.time).timestamp())
        policy = dcap_qvl.QuotePolicy.claims_only(now_s)
        verifier.verify_with_policy(attempt.evidence.quote, collateral, now_s, policy).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = build(Path(name), steps=options.steps)
    data, trust = run.passport(), run.trust()
    ours, peer = [], []
    for _ in range(options.rounds):
        ours.append(timed(lambda: verify_passport(data, trust=trust, now=datetime.now(UTC))))
        peer.append(timed(lambda: verify_quotes(run)))
    print(f"passport of {options.steps} steps, {len(data) / 1e6:.1f} MB, {options.rounds} rounds")
    figures = (
        (f"passport of {options.steps} steps verified offline, wall", [wall for wall, _ in ours], TARGET_S),
        (f"passport of {options.steps} steps verified offline, CPU", [cpu for _, cpu in ours], None),
        ("dcap-qvl alone over the same quotes, CPU", [cpu for _, cpu in peer], None),
    )
    rows = []
    for figure, values, target in figures:
        value = statistics.median(values)
        met = None if target is None else value <= target
        rows.append({"figure": figure, "value": round(value, 3), "unit": "s", "target": target, "met": met})
        print(f"  {figure:<48} {value:6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
