"""Spark in a set: a driver in the leader, an executor in each other member, each with its own private directory."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

import ppml_airflow
from ppml_airflow import canonical
from ppml_airflow.workloads.cluster import Cluster, ClusterKeys
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobResult, TypedValue, Workload, WorkloadJob
from ppml_airflow.workloads.registry import find_workload
from ppml_airflow.workloads.spark.sets import hear_driver
from tests.support.small_images import wait_until
from tests.support.spark_jobs import JobWorld

MEMBERS = 3
ROWS = 1000
SECRET = bytes(32)
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
HELPERS = "def shout(text):\n    return text.upper()\n"


class SetWorld:
    """The folders of all members, which have the same sealed inputs."""

    def __init__(self, folder: Path) -> None:
        first = JobWorld(folder=folder / "0")
        numbers = [pa.table({"plan": ["a" if n % 2 else "b" for n in part], "n": part}) for part in shares()]
        first.seal("visits", *numbers)
        others = (
            JobWorld(folder=folder / str(index), data_key=first.data_key, read=first.read, inputs=first.inputs)
            for index in range(1, MEMBERS)
        )
        self.members = [first, *others]
        self.folder = folder

    def cluster(self, index: int, *, secret: bytes = SECRET) -> Cluster:
        keys = ClusterKeys.derive(secret)
        return Cluster(keys=keys, folder=self.folder / "sets", set_id="a" * 32, index=index, members=MEMBERS)

    def said(self) -> str:
        """All logs."""
        return "\n".join(world.log.read_text() for world in self.members if world.log.exists())


def shares() -> Iterator[list[int]]:
    """Two parts of the input."""
    yield list(range(0, ROWS, 2))
    yield list(range(1, ROWS, 2))


@pytest.fixture
def worlds(tmp_path: Path) -> SetWorld:
    for index in range(MEMBERS):
        (tmp_path / str(index)).mkdir()
    return SetWorld(tmp_path)


def make_job(world: JobWorld, *, name: str, code: Mapping[str, str], index: int, parts: int) -> WorkloadJob:
    params: dict[str, TypedValue] = {"since": 500}
    job = world.job(code, argv=(next(iter(code)),), params=params, parts=parts)
    if name == "spark-python":  # an image's environment would hold these
        package = Path(ppml_airflow.__file__).parent
        for file in ("__init__.py", "workloads/__init__.py", "workloads/spark/__init__.py", "workloads/job_api.py"):
            (job.code / "ppml_airflow" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(package / file, job.code / "ppml_airflow" / file)
        shutil.copy(package / "workloads/spark/api.py", job.code / "ppml_airflow/workloads/spark/api.py")
    return replace(job, members=MEMBERS, index=index)


@contextmanager
def members_of(
    worlds: SetWorld, *, name: str, code: Mapping[str, str], installation: ImageInstallation, parts: int = 1
) -> Iterator[list[Workload]]:
    """A workload for each member, prepared."""
    workloads: list[Workload] = []
    try:
        for index, world in enumerate(worlds.members):
            job = make_job(world, name=name, code=code, index=index, parts=parts)
            kind = find_workload(name, members=MEMBERS, index=index)
            workloads.append(kind(job, installation=installation, private=world.private, log=world.log))
            workloads[-1].prepare()
        yield workloads
    finally:
        for workload in workloads:
            workload.close()


class Running:
    """The members at work."""

    def __init__(self, worlds: SetWorld, workloads: list[Workload]) -> None:
        self._worlds = worlds
        self._threads = ThreadPoolExecutor(MEMBERS + 1)
        self.results = [self.start(workload, index=index) for index, workload in enumerate(workloads)]

    def start(self, workload: Workload, *, index: int, secret: bytes = SECRET) -> Future[JobResult]:
        keys = replace(self._worlds.members[index].keys(), cluster=self._worlds.cluster(index, secret=secret))
        return self._threads.submit(workload.run, keys=keys, on_progress=lambda percent: None)

    def outcomes(self) -> list[str]:
        return [result.result(timeout=150).outcome for result in self.results]


def rows_of(worlds: SetWorld, result: JobResult) -> list[dict[str, object]]:
    return [row for part in result.outputs["report"] for row in worlds.members[0].open(part).to_pylist()]


def test_a_query_over_two_executors_finds_what_one_process_finds(
    worlds: SetWorld, installation: ImageInstallation
) -> None:
    with members_of(worlds, name="spark-sql", code={"query.sql": SQL}, installation=installation, parts=2) as workloads:
        running = Running(worlds, workloads)
        assert running.outcomes() == ["ok", "ok", "ok"], worlds.said()
    late = range(500, ROWS)
    assert rows_of(worlds, running.results[0].result()) == [
        {"plan": plan, "visits": 250, "n": sum(n for n in late if n % 2 == rest)} for plan, rest in (("a", 1), ("b", 0))
    ]


def test_functions_of_a_program_run_in_both_executors(worlds: SetWorld, installation: ImageInstallation) -> None:
    code = {"main.py": PROGRAM, "helpers.py": HELPERS}
    with members_of(worlds, name="spark-python", code=code, installation=installation) as workloads:
        running = Running(worlds, workloads)
        assert running.outcomes() == ["ok", "ok", "ok"], worlds.said()
    rows = rows_of(worlds, running.results[0].result())
    assert {row["place"] for row in rows} == {str(world.private) for world in worlds.members[1:]}
    assert sum(int(str(row["visits"])) for row in rows) == 500


SLOWLY = PROGRAM.replace("def placed(row):", "def placed(row):\n    import time\n\n    time.sleep(0.02)")


@pytest.mark.slow
def test_an_executor_that_is_lost_is_replaced_and_no_row_is_counted_twice(
    worlds: SetWorld, installation: ImageInstallation, tmp_path: Path
) -> None:
    code = {"main.py": SLOWLY, "helpers.py": HELPERS}
    with members_of(worlds, name="spark-python", code=code, installation=installation) as workloads:
        running = Running(worlds, workloads)
        lost = worlds.members[1]
        wait_until(lambda: processes_in(lost.private, b"pyspark.daemon"), timeout_s=100)
        workloads[1].close()
        running.results.pop(1).result()
        worlds.members[1] = replace(lost, folder=tmp_path / "replacement")
        worlds.members[1].folder.mkdir()
        job = make_job(worlds.members[1], name="spark-python", code=code, index=1, parts=1)
        kind = find_workload("spark-python", members=MEMBERS, index=1)
        workloads[1] = kind(
            job, installation=installation, private=worlds.members[1].private, log=worlds.members[1].log
        )
        workloads[1].prepare()
        running.results.append(running.start(workloads[1], index=1))
        assert running.outcomes() == ["ok", "ok", "ok"], worlds.said()
    rows = rows_of(worlds, running.results[0].result())
    assert sum(int(str(row["visits"])) for row in rows) == 500


@pytest.mark.slow
def test_the_key_of_a_set_is_in_no_argument_and_no_environment(
    worlds: SetWorld, installation: ImageInstallation
) -> None:
    code = {"main.py": SLOWLY, "helpers.py": HELPERS}
    with members_of(worlds, name="spark-python", code=code, installation=installation) as workloads:
        running = Running(worlds, workloads)
        driver = hear_driver(worlds.cluster(1), is_over=lambda: False)
        assert driver is not None
        wait_until(lambda: all(processes_in(world.private, b"CoarseGrained") for world in worlds.members[1:]))
        told = b"".join(told_by(pid) for world in worlds.members for pid in processes_in(world.private))
        assert running.outcomes() == ["ok", "ok", "ok"], worlds.said()
    key = base64.b64encode(driver.key)
    assert b"CoarseGrainedExecutorBackend" in told
    assert key not in told
    assert driver.key not in told
    assert key.decode() not in worlds.said()


@pytest.mark.slow
def test_what_fails_in_an_executor_is_said_by_the_leader(worlds: SetWorld, installation: ImageInstallation) -> None:
    code = {"query.sql": "SELECT cast(plan AS int) AS plan FROM visits"}
    with members_of(worlds, name="spark-sql", code=code, installation=installation) as workloads:
        assert Running(worlds, workloads).outcomes() == ["cast_error", "ok", "ok"], worlds.said()


def test_members_end_with_a_program_that_never_started_spark(worlds: SetWorld, installation: ImageInstallation) -> None:
    code = {"main.py": 'OUTPUTS = {"report": {"plan": "string"}}\nraise ValueError("canary")\n'}
    with members_of(worlds, name="spark-python", code=code, installation=installation) as workloads:
        assert Running(worlds, workloads).outcomes() == ["job_failed", "ok", "ok"], worlds.said()
        assert not any(list(world.private.glob("conf/executor-options")) for world in worlds.members)


def test_a_member_with_another_secret_starts_no_executor(worlds: SetWorld, installation: ImageInstallation) -> None:
    worlds.cluster(0).post(b"{}", turn=0)
    with members_of(worlds, name="spark-sql", code={"query.sql": "SELECT 1 AS n"}, installation=installation) as found:
        keys = replace(worlds.members[1].keys(), cluster=worlds.cluster(1, secret=bytes(31) + b"1"))
        assert found[1].run(keys=keys, on_progress=lambda percent: None).outcome == "input_corrupt"
        assert not (worlds.members[1].private / "conf" / "executor-options").exists()


@pytest.mark.slow
def test_an_executor_with_another_key_is_not_heard(worlds: SetWorld, installation: ImageInstallation) -> None:
    """As one that a stranger starts on this host: it knows where the driver is, and is of no use to it."""
    with members_of(worlds, name="spark-sql", code={"query.sql": SQL}, installation=installation) as workloads:
        leader = Running(worlds, workloads[:1])
        driver = hear_driver(worlds.cluster(1), is_over=lambda: False)
        assert driver is not None
        elsewhere = replace(worlds.cluster(0), folder=worlds.folder / "elsewhere")
        elsewhere.post(canonical.encode(msgspec.structs.replace(driver, key=bytes(32))), turn=0)
        keys = replace(worlds.members[1].keys(), cluster=replace(worlds.cluster(1), folder=elsewhere.folder))
        assert workloads[1].run(keys=keys, on_progress=lambda percent: None).outcome == "job_failed"
        assert "Authentication failed" in worlds.members[1].log.read_text()
        workloads[0].cancel()
        assert leader.outcomes() == ["cancelled"]


def processes_in(private: Path, named: bytes = b"") -> list[int]:
    """Processes that work in a private directory, with such words in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == private:
                found += [int(entry.name)] if named in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def told_by(pid: int) -> bytes:
    """What anybody who may look at a process sees of it; nothing if it is gone."""
    with suppress(OSError):
        return b"".join(Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))
    return b""
