"""Flink in a set: a JobManager in the leader, a TaskManager in each other member, results in the leader's hands."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.workloads.cluster import Cluster, ClusterKeys
from ppml_airflow.workloads.flink.sets import JobManager, hear_segments, post_segments
from ppml_airflow.workloads.flink.streams import JobStreams, Segment
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import TableOutput, TypedValue, Workload
from tests.support.commands import processes_in
from tests.support.flink_jobs import CHECKOUT, StreamWorld, task_manager
from tests.support.set_world import SetWorld
from tests.support.small_images import wait_until

MEMBERS = 3
LIMITS = Limits(wall_s=120, memory_mib=1536, cores=1)
TEXT = (CHECKOUT / "README.md").read_text().splitlines()
COUNT = (CHECKOUT / "dags" / "flink_word_count" / "count.py").read_text()
PAGES = "SELECT page, COUNT(*) AS n, SUM(cost) AS cost FROM clicks GROUP BY page"
ENDLESS = "SELECT a.page, COUNT(*) AS n FROM clicks a JOIN clicks b ON a.cost <= b.cost GROUP BY a.page"


@pytest.fixture
def worlds(tmp_path: Path) -> SetWorld[StreamWorld]:
    (tmp_path / "0").mkdir()
    first = StreamWorld(folder=tmp_path / "0", output=TableOutput(dataset="report", files=2))
    clicks = [[{"page": f"p{number % 7}", "cost": number} for number in range(part, 1200, 4)] for part in range(4)]
    first.seal("clicks", {"page": "string", "cost": "int64"}, *([segment] for segment in clicks))
    return SetWorld(first, members=MEMBERS)


def members_of(
    worlds: SetWorld[StreamWorld],
    name: str,
    code: Mapping[str, str],
    *,
    flink: ImageInstallation,
    params: dict[str, TypedValue] | None = None,
) -> AbstractContextManager[list[Workload]]:
    """A workload for each member, prepared."""
    jobs = [world.job(code, params=params, limits=LIMITS) for world in worlds.members]
    return worlds.prepared(jobs, name=name, installation=flink)


def test_a_query_over_two_task_managers_finds_what_one_process_finds(
    worlds: SetWorld[StreamWorld], flink: ImageInstallation
) -> None:
    with members_of(worlds, "flink-sql", {"query.sql": PAGES}, flink=flink) as workloads:
        results = worlds.run(workloads)
        assert [result.outcome for result in results] == ["ok", "ok", "ok"], worlds.said()[-3000:]
        rows = worlds.members[0].open(results[0].outputs["report"], columns=())
        worked = [list((world.private / "output").rglob("part-*")) for world in worlds.members[1:]]
    assert all(worked), "each TaskManager had a share of the work"
    assert sorted((row["page"], row["n"], row["cost"]) for row in rows) == [
        (f"p{rest}", len(range(rest, 1200, 7)), sum(range(rest, 1200, 7))) for rest in range(7)
    ]
    assert not any(processes_in(world.private) for world in worlds.members)


@pytest.mark.slow
def test_functions_of_a_program_run_in_the_task_managers(
    worlds: SetWorld[StreamWorld], flink: ImageInstallation
) -> None:
    first = worlds.members[0]
    first.inputs.clear()
    first.seal("lines", {"line": "string"}, [[{"line": line} for line in TEXT]])
    for world in worlds.members:
        world.output = TableOutput(dataset="words", files=2)
    params: dict[str, TypedValue] = {"minimum": 3, "letters": 3}
    with members_of(worlds, "flink-python", {"count.py": COUNT}, flink=flink, params=params) as workloads:
        results = worlds.run(workloads)
        assert [result.outcome for result in results] == ["ok", "ok", "ok"], worlds.said()[-3000:]
    rows = first.open(results[0].outputs["words"], columns=())
    words = Counter(word for line in TEXT for word in re.findall(r"[a-z]+", line.lower()) if len(word) >= 3)
    assert {row["word"]: row["n"] for row in rows} == {word: n for word, n in words.items() if n >= 3}


@pytest.mark.slow
def test_a_task_manager_that_is_lost_ends_the_job_without_an_output(
    worlds: SetWorld[StreamWorld], flink: ImageInstallation
) -> None:
    with members_of(worlds, "flink-sql", {"query.sql": ENDLESS}, flink=flink) as workloads:
        leader, lost, other = (worlds.start(workload, index=index) for index, workload in enumerate(workloads))
        private = worlds.members[1].private
        wait_until(lambda: list((private / "output").rglob("part-*")), timeout_s=100)
        os.kill(task_manager(private), signal.SIGKILL)
        assert lost.result(timeout=60).outcome == "out_of_memory"
        found = leader.result(timeout=100)
        assert (found.outcome, found.outputs) == ("job_failed", {})
        assert other.result(timeout=60).outcome == "ok"


def test_a_member_with_another_secret_starts_nothing(worlds: SetWorld[StreamWorld], flink: ImageInstallation) -> None:
    worlds.cluster(0).post(b"{}", turn=0)
    job = worlds.members[1].job({"query.sql": PAGES}, limits=LIMITS)
    with worlds.prepared([job], name="flink-sql", first=1, installation=flink) as (member,):
        found = worlds.start(member, index=1, secret=bytes(31) + b"1").result(timeout=30)
    assert found.outcome == "input_corrupt"
    assert not (worlds.members[1].private / "conf" / "config.yaml").exists()


@pytest.fixture
def streams(tmp_path: Path) -> JobStreams:
    (tmp_path / "output").mkdir()
    world = StreamWorld(folder=tmp_path)
    return JobStreams(tmp_path, job=world.job({"query.sql": PAGES}))


@pytest.mark.parametrize("place", [("other", "part-00000"), ("report", "../part-00000"), ("report", "part-0")])
def test_a_segment_of_no_output_is_not_taken(place: tuple[str, str], streams: JobStreams) -> None:
    dataset, name = place
    with pytest.raises(VerificationError, match="has no segment"):
        streams.take(Segment(dataset=dataset, name=name, content=b""))


def test_a_subtask_hands_over_one_segment_only(streams: JobStreams) -> None:
    segment = Segment(dataset="report", name="part-00001", content=b"frames")
    streams.take(segment)
    assert streams.written() == [segment]
    with pytest.raises(VerificationError, match="was written twice"):
        streams.take(segment)


def test_segments_come_from_all_members_in_their_order(tmp_path: Path) -> None:
    keys = ClusterKeys.derive(bytes(32))
    leader, *others = (
        Cluster(keys=keys, folder=tmp_path / "sets", set_id="a" * 32, index=index, members=3) for index in range(3)
    )
    written = [Segment(dataset="report", name=f"part-0000{number}", content=bytes([number])) for number in range(3)]
    post_segments(others[0], written[:2])
    post_segments(others[1], written[2:])
    assert list(hear_segments(leader, limit=2**20, is_over=lambda: False)) == written


def test_nobody_waits_for_a_member_that_hands_over_nothing(tmp_path: Path) -> None:
    leader = Cluster(keys=ClusterKeys.derive(bytes(32)), folder=tmp_path, set_id="a" * 32, index=0, members=2)
    with pytest.raises(ConfigurationError, match="the job is over"):
        next(hear_segments(leader, limit=2**20, is_over=lambda: True))


def test_the_keys_of_a_set_are_not_shown() -> None:
    manager = JobManager(rpc_port=4711, key_store=b"canary", password="canary", inside_key=b"canary")
    assert "canary" not in repr(manager)
    assert "canary" not in repr(msgspec.structs.replace(manager, rpc_port=1))
