"""A query from sealed frames to sealed frames on a real cluster: what it counts, says and leaves behind."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ppml_airflow.workloads.flink.sql import FlinkSql
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobResult, TableOutput
from tests.support.commands import processes_in
from tests.support.flink_jobs import StreamWorld, task_manager

CLICKS = {"at": "timestamp[us, tz=UTC]", "page": "string", "cost": "decimal128(8, 2)"}
START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOWS = """
SELECT window_start, page, COUNT(*) AS n, SUM(cost) AS cost
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(`at`), INTERVAL '1' SECOND * :length))
GROUP BY window_start, window_end, page
"""
SLOW = "SELECT a.page, COUNT(*) AS n FROM clicks a JOIN clicks b ON a.cost <= b.cost GROUP BY a.page"
CANARY = "canary-9c1f"


def click(second: float, page: str) -> dict[str, object]:
    at = START + timedelta(seconds=second)
    return {"at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "page": page, "cost": 0.25}


@contextmanager
def prepared(world: StreamWorld, sql: str, *, flink: ImageInstallation, **job: dict[str, str]) -> Iterator[FlinkSql]:
    made = world.job({"query.sql": sql}, **job)  # type: ignore[arg-type]  # passed on
    workload = FlinkSql(made, installation=flink, private=world.private, log=world.log)
    try:
        workload.prepare()
        yield workload
    finally:
        workload.close()


def ended(workload: FlinkSql, world: StreamWorld) -> JobResult:
    return workload.run(keys=world.keys(), on_progress=lambda percent: None)


def test_three_segments_that_arrive_together_are_counted_in_full(world: StreamWorld, flink: ImageInstallation) -> None:
    """The trap: read in any order, the watermark runs ahead and the first window is dropped without a word."""
    partitions = [
        [[click(part * 100 + number / 10, f"p{number % 3}") for number in range(1000)] for part in range(3)],
        [[click(2 * number, "slow") for number in range(150)]],
    ]
    world.output = TableOutput(dataset="report", files=2, is_stream=True)
    world.seal("clicks", CLICKS, *partitions)
    environment = {"event_time.clicks": "at 0", "execution.checkpointing.interval": "200 ms"}
    with prepared(world, WINDOWS, flink=flink, params={"length": 100}, environment=environment) as workload:
        columns = workload.prepare()["report"]
        result = ended(workload, world)
        assert result.outcome == "ok", world.log.read_text()[-3000:]
        rows = world.open(result.outputs["report"], columns=columns)
        state = list((world.private / "checkpoints").rglob("*"))
    found = {(row["window_start"], row["page"]): row["n"] for row in rows}
    wanted: Counter[tuple[datetime, str]] = Counter()
    for record in (record for partition in partitions for segment in partition for record in segment):
        second = (datetime.fromisoformat(str(record["at"])) - START).total_seconds()
        window = START.replace(tzinfo=None) + timedelta(seconds=second // 100 * 100)
        wanted[window, str(record["page"])] += 1
    assert found == dict(wanted)
    assert sum(float(str(row["cost"])) for row in rows) == pytest.approx(0.25 * 3150)
    assert [part.name for part in result.outputs["report"]] == ["part-00000", "part-00001"]
    assert state, "checkpoints lie in the private directory"
    assert not processes_in(world.private)


def test_a_count_that_goes_up_is_written_once_and_tables_are_read_as_streams(
    world: StreamWorld, flink: ImageInstallation
) -> None:
    table = pa.table({"page": ["a", "b", "a", None, "a"], "day": pa.array([1, 2, 3, 4, 5], pa.date32())})
    world.seal_table("pages", table)
    sql = "SELECT COALESCE(page, '-') AS page, COUNT(*) AS n, MAX(`day`) AS latest FROM pages GROUP BY page"
    with prepared(world, sql, flink=flink) as workload:
        columns = workload.prepare()["report"]
        result = ended(workload, world)
        assert result.outcome == "ok", world.log.read_text()[-3000:]
        rows = world.open(result.outputs["report"], columns=columns)
    assert [(column.name, column.type) for column in columns] == [
        ("page", "string"),
        ("n", "int64"),
        ("latest", "date32[day]"),
    ]
    assert sorted((row["page"], row["n"], str(row["latest"])) for row in rows) == [
        ("-", 1, "1970-01-05"),
        ("a", 3, "1970-01-06"),
        ("b", 1, "1970-01-03"),
    ]


@pytest.mark.slow
def test_a_frame_that_changes_after_the_lease_is_named_in_the_log_alone(
    world: StreamWorld, flink: ImageInstallation
) -> None:
    parts = world.seal("clicks", CLICKS, [[click(number, CANARY) for number in range(600)]])
    with prepared(world, "SELECT page, cost FROM clicks", flink=flink) as workload:
        segment = bytearray(parts[0].read_bytes())
        segment[56 + int.from_bytes(segment[40:44], "big") + 100] ^= 1
        parts[0].write_bytes(segment)
        result = ended(workload, world)
    assert (result.outcome, result.outputs) == ("input_corrupt", {})
    log = world.log.read_text()
    assert "segment part-00000, partition 0: frame 1 was changed" in log
    assert CANARY not in log


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_task_manager_ends_the_job_with_a_word_and_no_output(
    world: StreamWorld, flink: ImageInstallation
) -> None:
    world.seal("clicks", CLICKS, [[click(number, "p") for number in range(60_000)]])
    with prepared(world, SLOW, flink=flink) as workload:
        pid = task_manager(world.private)
        threading.Timer(6, os.kill, args=(pid, 9)).start()
        result = ended(workload, world)
        assert (result.outcome, result.outputs) == ("out_of_memory", {})
        _require_gone(world.private)


@pytest.mark.slow
def test_a_cancelled_job_leaves_no_process(world: StreamWorld, flink: ImageInstallation) -> None:
    world.seal("clicks", CLICKS, [[click(number, "p") for number in range(60_000)]])
    with prepared(world, SLOW, flink=flink) as workload:
        assert processes_in(world.private)
        threading.Timer(6, workload.cancel).start()
        result = ended(workload, world)
        assert (result.outcome, result.outputs) == ("cancelled", {})
        _require_gone(world.private)


def _require_gone(folder: Path) -> None:
    until = time.monotonic() + 10
    while processes_in(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert not processes_in(folder)
