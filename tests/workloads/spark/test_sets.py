"""Spark in a set: a driver in the leader, an executor in each other member, each with its own private directory."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

import ppml_airflow
from ppml_airflow import canonical
from ppml_airflow.workloads.cluster import START
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobResult, Workload, WorkloadJob
from ppml_airflow.workloads.spark.sets import Driver
from tests.support.commands import processes_in
from tests.support.set_world import SetWorld
from tests.support.small_images import wait_until
from tests.support.spark_jobs import JobWorld

MEMBERS = 3
ROWS = 1000
SQL = """SELECT v.plan, count(*) AS visits, sum(v.n) AS n FROM visits v JOIN visits w ON v.n = w.n
WHERE v.n >= :since GROUP BY v.plan ORDER BY v.plan"""
PROGRAM = """
import os

from ppml_airflow.workloads.spark.api import inputs, params, session, write
from helpers import shout

OUTPUTS = {"report": {"place": "string", "plan": "string", "visits": "bigint"}}


def placed(row):
    return os.getcwd(), shout(row["plan"]), int(row["n"] >= params["since"])


rows = inputs["visits"].repartition(8).rdd.map(placed).toDF(["place", "plan", "visits"])
write("report", rows.groupBy("place", "plan").sum("visits").toDF("place", "plan", "visits"))
"""
SLOWLY = PROGRAM.replace("def placed(row):", "def placed(row):\n    import time\n\n    time.sleep(0.02)")
HELPERS = "def shout(text):\n    return text.upper()\n"
PACKAGE = Path(ppml_airflow.__file__).parent
IN_IMAGES = ("__init__.py", "workloads/__init__.py", "workloads/job_api.py", "workloads/spark/__init__.py")
IN_IMAGES += ("workloads/spark/api.py",)


@pytest.fixture
def worlds(tmp_path: Path) -> SetWorld[JobWorld]:
    (tmp_path / "0").mkdir()
    first = JobWorld(folder=tmp_path / "0")
    parts = (range(0, ROWS, 2), range(1, ROWS, 2))
    first.seal("visits", *(pa.table({"plan": ["a" if n % 2 else "b" for n in part], "n": part}) for part in parts))
    return SetWorld(first, members=MEMBERS)


def make_job(world: JobWorld, code: Mapping[str, str]) -> WorkloadJob:
    job = world.job(code, argv=(next(iter(code)),), params={"since": 500}, parts=2)
    for file in IN_IMAGES:
        (job.code / "ppml_airflow" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / file, job.code / "ppml_airflow" / file)
    return job


def members_of(
    worlds: SetWorld[JobWorld], name: str, code: Mapping[str, str], *, installation: ImageInstallation
) -> AbstractContextManager[list[Workload]]:
    """A workload for each member, prepared."""
    jobs = [make_job(world, code) for world in worlds.members]
    return worlds.prepared(jobs, name=name, installation=installation)


def outcomes(worlds: SetWorld[JobWorld], workloads: list[Workload]) -> list[str]:
    return [result.outcome for result in worlds.run(workloads)]


def rows_of(worlds: SetWorld[JobWorld], result: JobResult) -> list[dict[str, object]]:
    """What the leader wrote."""
    return [row for part in result.outputs["report"] for row in worlds.members[0].open(part).to_pylist()]


def driver_of(worlds: SetWorld[JobWorld]) -> Driver:
    """What the leader tells the other members."""
    said = worlds.cluster(1).hear(turn=START, sender=0, limit=2**20, is_over=lambda: False)
    return canonical.decode(said, into=Driver)


def test_a_query_over_two_executors_finds_what_one_process_finds(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    with members_of(worlds, "spark-sql", {"query.sql": SQL}, installation=installation) as workloads:
        results = worlds.run(workloads)
        assert [result.outcome for result in results] == ["ok", "ok", "ok"], worlds.said()
    late = range(500, ROWS)
    assert rows_of(worlds, results[0]) == [
        {"plan": plan, "visits": 250, "n": sum(n for n in late if n % 2 == rest)} for plan, rest in (("a", 1), ("b", 0))
    ]


@pytest.mark.slow
def test_functions_of_a_program_run_in_both_executors(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    code = {"main.py": PROGRAM, "helpers.py": HELPERS}
    with members_of(worlds, "spark-python", code, installation=installation) as workloads:
        results = worlds.run(workloads)
        assert [result.outcome for result in results] == ["ok", "ok", "ok"], worlds.said()
    rows = rows_of(worlds, results[0])
    assert {row["place"] for row in rows} == {str(world.private) for world in worlds.members[1:]}
    assert sum(int(str(row["visits"])) for row in rows) == 500


@pytest.mark.slow
def test_an_executor_that_is_lost_is_replaced_and_no_row_is_counted_twice(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    code = {"main.py": SLOWLY, "helpers.py": HELPERS}
    with members_of(worlds, "spark-python", code, installation=installation) as workloads:
        leader, lost, other = (worlds.start(workload, index=index) for index, workload in enumerate(workloads))
        wait_until(lambda: processes_in(worlds.members[1].private, named=b"pyspark.daemon"), timeout_s=100)
        workloads[1].close()
        lost.result(timeout=30)
        worlds.members[1] = worlds.new_member(worlds.members[1], named="replacement")
        job = make_job(worlds.members[1], code)
        with worlds.prepared([job], name="spark-python", first=1, installation=installation) as (executor,):
            replacement = worlds.start(executor, index=1)
            found = [result.result(timeout=150) for result in (leader, replacement, other)]
        assert [result.outcome for result in found] == ["ok", "ok", "ok"], worlds.said()
    assert sum(int(str(row["visits"])) for row in rows_of(worlds, found[0])) == 500


@pytest.mark.slow
def test_what_fails_in_an_executor_is_said_by_the_leader(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    code = {"query.sql": "SELECT cast(plan AS int) AS plan FROM visits"}
    with members_of(worlds, "spark-sql", code, installation=installation) as workloads:
        assert outcomes(worlds, workloads) == ["cast_error", "ok", "ok"], worlds.said()


def test_members_end_with_a_program_that_never_started_spark(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    code = {"main.py": 'OUTPUTS = {"report": {"plan": "string"}}\nraise ValueError("canary")\n'}
    with members_of(worlds, "spark-python", code, installation=installation) as workloads:
        assert outcomes(worlds, workloads) == ["job_failed", "ok", "ok"], worlds.said()
        assert not any(list(world.private.glob("conf/executor-options")) for world in worlds.members)


def test_a_member_with_another_secret_starts_no_executor(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    worlds.cluster(0).post(b"{}", turn=0)
    job = make_job(worlds.members[1], {"query.sql": "SELECT 1 AS n"})
    with worlds.prepared([job], name="spark-sql", first=1, installation=installation) as (executor,):
        found = worlds.start(executor, index=1, secret=bytes(31) + b"1").result(timeout=30)
        assert found.outcome == "input_corrupt"
        assert not (worlds.members[1].private / "conf" / "executor-options").exists()


@pytest.mark.slow
def test_an_executor_with_another_key_is_not_heard(worlds: SetWorld[JobWorld], installation: ImageInstallation) -> None:
    """As one that a stranger starts on this host: it knows where the driver is, and is of no use to it."""
    with members_of(worlds, "spark-sql", {"query.sql": SQL}, installation=installation) as workloads:
        leader = worlds.start(workloads[0], index=0)
        driver = driver_of(worlds)
        elsewhere = replace(worlds.cluster(0), folder=worlds.folder / "elsewhere")
        elsewhere.post(canonical.encode(msgspec.structs.replace(driver, key=bytes(32))), turn=0)
        keys = replace(worlds.members[1].keys(), cluster=replace(worlds.cluster(1), folder=elsewhere.folder))
        assert workloads[1].run(keys=keys, on_progress=lambda percent: None).outcome == "job_failed"
        assert "Authentication failed" in worlds.members[1].log.read_text()
        workloads[0].cancel()
        assert leader.result(timeout=30).outcome == "cancelled"


@pytest.mark.slow
def test_the_key_of_a_set_is_in_no_argument_and_no_environment(
    worlds: SetWorld[JobWorld], installation: ImageInstallation
) -> None:
    code = {"main.py": SLOWLY, "helpers.py": HELPERS}
    with members_of(worlds, "spark-python", code, installation=installation) as workloads:
        running = [worlds.start(workload, index=index) for index, workload in enumerate(workloads)]
        driver = driver_of(worlds)
        wait_until(lambda: all(processes_in(world.private, named=b"CoarseGrained") for world in worlds.members[1:]))
        told = b"".join(told_by(pid) for world in worlds.members for pid in processes_in(world.private))
        assert [result.result(timeout=150).outcome for result in running] == ["ok", "ok", "ok"], worlds.said()
    key = base64.b64encode(driver.key)
    assert b"CoarseGrainedExecutorBackend" in told
    assert key not in told
    assert driver.key not in told
    assert key.decode() not in worlds.said()


def told_by(pid: int) -> bytes:
    """What anybody who may look at a process sees of it; nothing if it is gone."""
    with suppress(OSError):
        return b"".join(Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))
    return b""
