"""What trust costs a nightly pipeline: a trusted DAG against the same DAG without it, under a real Airflow.

The trusted one seals two tables, passes a gate, works for a while on Spark in a guest, passes a gate, has its report
opened and closes its passport. The peer has as many tasks: copies in place of sealing and opening, sensors that defer
once, a bare spark-submit of the same program with the same options, and a last task. Both run by turns in one
installation as `ppml up` starts it; wall time of a run is from its start to its end as Airflow has them. Protocol time
is read from the logs of the tasks: from a guest's evidence to its grant or lease, and from the end of its work to the
accepted receipt, which includes sealing the output. Prints medians with minimum and maximum; writes
`benchmarks/results/dag_overhead.json`.

    python benchmarks/dag_overhead.py [--rounds 3] [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' installations

from benchmarks.guest_start import spark_submit
from benchmarks.overhead_dags.spin import spin
from ppml_airflow.cli.agents import source_in_file
from ppml_airflow.cli.home import Home
from tests.support.commands import Commands
from tests.support.installation import Installation
from tests.support.ready_images import require_image, take_over_images

HERE = Path(__file__).parent / "overhead_dags"
RESULTS = Path(__file__).parent / "results" / "dag_overhead.json"
TRUSTED, PLAIN = "nightly_analytics", "plain"
"""The trusted DAG stands in for the shipped one, whose sources and sinks the agents know."""
TARGET_RATIO, TARGET_PROTOCOL_MS = 1.05, 300.0


def lay_trusted(home: Path) -> None:
    """Lay the trusted DAG in place of the shipped one; `ppml up` keeps what is there."""
    beside = home / "dags" / TRUSTED
    beside.mkdir(parents=True)
    for name in ("trusted_work.py", "spin.py"):
        shutil.copy(HERE / name, beside / name)
    shutil.copy(HERE / "trusted.py", home / "dags" / f"{TRUSTED}.py")


def lay_plain(home: Path) -> None:
    """Lay the peer beside it, with what it runs and reads."""
    beside, scratch = home / "dags" / PLAIN, home / "scratch"
    beside.mkdir(), scratch.mkdir()
    for name in ("plain_work.py", "spin.py"):
        shutil.copy(HERE / name, beside / name)
    submit, environment = spark_submit(home / "images" / "spark" / "env", home=scratch)
    settings = {
        "scratch": str(scratch),
        "tables": {name: str(source_in_file(Home(home), name)) for name in ("visits", "plans")},
        "submit": submit,
        "environment": environment,
    }
    (beside / "settings.json").write_text(json.dumps(settings))
    shutil.copy(HERE / "plain.py", home / "dags" / f"{PLAIN}.py")


def rounds_for(seconds: float) -> int:
    """How many digests take so long here."""
    count = 1_000_000
    began = time.perf_counter()
    spin(count)
    return max(1, int(count * seconds / (time.perf_counter() - began)))


def run(installation: Installation, dag_id: str, *, digests: int) -> tuple[str, float]:
    """Run a DAG; its run and how many seconds it took."""
    airflow = installation.airflow
    run_id = airflow.trigger(dag_id, {"rounds": digests})
    state = airflow.wait_for_run(dag_id, run_id, seconds=1200)
    if state != "success":
        states = airflow.task_states(dag_id, run_id)
        failed = next(task for task, state in states.items() if state == "failed")
        raise SystemExit(
            f"{dag_id}: {run_id} has failed at {failed}: {airflow.task_log(dag_id, run_id, failed)[-3000:]}"
        )
    found: dict[str, Any] = airflow.http.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json()
    return run_id, (_moment(found["end_date"]) - _moment(found["start_date"])).total_seconds()


def protocol_ms(installation: Installation, run_id: str) -> tuple[float, float, float]:
    """Milliseconds of a trusted run from evidence to grant, from evidence to lease, and from work to receipt."""
    gate, work = (_heard(installation, run_id, task) for task in ("gate_before_work", "work"))
    parts = (
        gate["granted"] - gate["attesting"],
        work["leased"] - work["attesting"],
        work["committed"] - work["sealing"],
    )
    return parts[0] * 1000, parts[1] * 1000, parts[2] * 1000


def _heard(installation: Installation, run_id: str, task: str) -> dict[str, float]:
    """When a task logged each state of its guest first, in seconds."""
    heard: dict[str, float] = {}
    for entry in json.loads(installation.airflow.task_log(TRUSTED, run_id, task))["content"]:
        said = str(entry.get("event", "")).removeprefix("step work: ").removesuffix(" 100 %")
        if entry.get("timestamp"):
            heard.setdefault(said, _moment(entry["timestamp"]).timestamp())
    return heard


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    require_image("spark")
    digests = rounds_for(options.seconds)
    with tempfile.TemporaryDirectory(prefix="ppml-") as name:
        home = Path(name)
        take_over_images(home, "spark")
        lay_trusted(home)
        commands = Commands(home)
        try:
            installation = Installation(commands)
            lay_plain(home)
            installation.approve(TRUSTED, "--runs-per-slot", "100")
            run(installation, TRUSTED, digests=1), run(installation, PLAIN, digests=1)
            pairs, protocol = [], []
            for _ in range(options.rounds):
                run_id, trusted = run(installation, TRUSTED, digests=digests)
                protocol.append(protocol_ms(installation, run_id))
                pairs.append((trusted, run(installation, PLAIN, digests=digests)[1]))
        finally:
            commands("down")
    figures = (
        (f"trusted run with {options.seconds:.0f} s of work", [trusted for trusted, _ in pairs], "s", None),
        ("the peer with the same work", [plain for _, plain in pairs], "s", None),
        ("trusted to plain, wall", [trusted / plain for trusted, plain in pairs], "", TARGET_RATIO),
        ("gate: evidence to grant", [gate for gate, _, _ in protocol], "ms", None),
        ("lease: evidence to lease", [lease for _, lease, _ in protocol], "ms", None),
        ("receipt: work to receipt, with sealing", [receipt for *_, receipt in protocol], "ms", None),
        ("gate, lease and receipt", [sum(parts) for parts in protocol], "ms", TARGET_PROTOCOL_MS),
    )
    print(f"nightly DAG, {options.rounds} rounds")
    rows = []
    for figure, values, unit, target in figures:
        value = statistics.median(values)
        met = None if target is None else value <= target
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "target": target, "met": met})
        print(f"  {figure:<42} {value:8.3f} {unit}  ({min(values):.3f} to {max(values):.3f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
