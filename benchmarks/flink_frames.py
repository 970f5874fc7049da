"""CPU per record of sealed frames on Flink, against the same records in plain files read by Flink's own connector.

One real cluster, one query (a count by key) into the same sink (`blackhole`), rounds in turn after a warm-up of each;
counted is the CPU time of the TaskManager. Prints medians with minimum and maximum; writes
`benchmarks/results/flink_frames.json`. Needs the Flink image (`ppml image set-up flink`).

    python benchmarks/flink_frames.py [--rounds 5] [--records 1000000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' builder of sealed streams and jobs

from ppml_airflow.domain.documents import Limits
from ppml_airflow.workloads.flink.python import FlinkPython
from tests.support.flink_jobs import StreamWorld, build_installation

RESULTS = Path(__file__).parent / "results" / "flink_frames.json"
TARGET = 1.3
COLUMNS = {"page": "string", "visitor": "int64"}
PROGRAM = """
import os
from pathlib import Path
from ppml_airflow.workloads.flink.api import disclose, inputs, params, table_environment, write

OUTPUTS = {"report": {"n": "int"}}

tables = table_environment()
inputs["sealed"]
tables.execute_sql(
    "CREATE TEMPORARY TABLE plain (page STRING, visitor BIGINT) WITH ('connector' = 'filesystem', 'format' = 'json',"
    f" 'path' = '{Path.cwd() / 'plain'}')"
)
tables.execute_sql("CREATE TEMPORARY TABLE nothing (page STRING, n BIGINT) WITH ('connector' = 'blackhole')")


def cpu_ms():
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")) == Path.cwd():
                command = (entry / "cmdline").read_bytes()
                if b"TaskManagerRunner" in command and b"supervisor" not in command:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    raise RuntimeError("no TaskManager")


for turn in range(int(params["rounds"]) + 1):
    for table in ("plain", "sealed"):
        before = cpu_ms()
        tables.execute_sql(f"INSERT INTO nothing SELECT page, COUNT(*) FROM {table} GROUP BY page").wait()
        disclose(f"{table}_{turn}", cpu_ms() - before)
write("report", tables.sql_query("SELECT 1 AS n"))
"""


def measure(folder: Path, *, rounds: int, records: int) -> dict[str, list[float]]:
    """Microseconds of CPU per record, for each table and round after the warm-up."""
    world = StreamWorld(folder=folder)
    made = [{"page": f"/page/{number % 997}", "visitor": number * 7919 % 100_003} for number in range(records)]
    world.seal("sealed", COLUMNS, [made])
    (world.private / "plain").mkdir()
    (world.private / "plain" / "records").write_text("".join(json.dumps(record) + "\n" for record in made))
    limits = Limits(wall_s=3600, memory_mib=3072, cores=1)
    job = world.job({"bench.py": PROGRAM}, params={"rounds": rounds}, limits=limits)
    workload = FlinkPython(job, installation=build_installation(folder), private=world.private, log=world.log)
    try:
        workload.prepare()
        result = workload.run(keys=world.keys(), on_progress=lambda percent: None)
        if result.outcome != "ok":
            raise SystemExit(f"the job ended with {result.outcome}:\n{world.log.read_text()[-3000:]}")
    finally:
        workload.close()
    return {
        table: [result.disclosed[f"{table}_{turn}"] * 1000 / records for turn in range(1, rounds + 1)]
        for table in ("plain", "sealed")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), rounds=options.rounds, records=options.records)
    ratios = [sealed / plain for plain, sealed in zip(found["plain"], found["sealed"], strict=True)]
    figures = (
        ("sealed frames to plain records, CPU per record", ratios, "ratio", TARGET),
        ("plain records, CPU per record", found["plain"], "us", None),
        ("sealed frames, CPU per record", found["sealed"], "us", None),
    )
    print(f"{options.records} records, {options.rounds} rounds")
    rows = []
    for figure, values, unit, target in figures:
        value = statistics.median(values)
        met = None if target is None else value <= target
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "target": target, "met": met})
        print(f"  {figure:<48} {value:6.2f} {unit}  ({min(values):.2f} to {max(values):.2f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
