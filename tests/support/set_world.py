"""The members of one set, without a broker: folders of their own, the same sealed inputs, one cluster secret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ppml_airflow.workloads.cluster import Cluster, ClusterKeys
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobResult, Workload, WorkloadJob
from ppml_airflow.workloads.registry import find_workload
from tests.support.flink_jobs import StreamWorld
from tests.support.spark_jobs import JobWorld

SECRET = bytes(32)
World = TypeVar("World", JobWorld, StreamWorld)


class SetWorld(Generic[World]):
    """The members' folders, and what a lease brings each of them.

    Args:
        first: the leader's, whose sealed inputs are everybody's; the others get theirs beside it.
        members: how many there are.
    """

    def __init__(self, first: World, *, members: int) -> None:
        self.folder = first.folder.parent
        self.members = [first, *(self.new_member(first, named=str(index)) for index in range(1, members))]
        self._threads = ThreadPoolExecutor(members + 1)

    def new_member(self, like: World, *, named: str) -> World:
        """The folders of one more member, or of one that replaces another."""
        folder = self.folder / named
        folder.mkdir()
        return replace(like, folder=folder)

    def cluster(self, index: int, *, secret: bytes = SECRET) -> Cluster:
        """A member's way to the others."""
        keys = ClusterKeys.derive(secret)
        return Cluster(keys=keys, folder=self.folder / "sets", set_id="a" * 32, index=index, members=len(self.members))

    @contextmanager
    def prepared(
        self, jobs: Sequence[WorkloadJob], *, name: str, installation: ImageInstallation, first: int = 0
    ) -> Iterator[list[Workload]]:
        """The workloads of members from `first` on, prepared, and closed in the end."""
        with ExitStack() as opened:
            workloads = []
            for index, job in enumerate(jobs, start=first):
                job, world = replace(job, members=len(self.members), index=index), self.members[index]
                kind = find_workload(name, index=index)
                made = kind(job, installation=installation, private=world.private, log=world.log)
                opened.callback(made.close)
                made.prepare()
                workloads.append(made)
            yield workloads

    def start(self, workload: Workload, *, index: int, secret: bytes = SECRET, **keys: Any) -> Future[JobResult]:
        """Run a member's workload in a thread, with what its lease brings."""
        leased = replace(self.members[index].keys(), cluster=self.cluster(index, secret=secret), **keys)
        return self._threads.submit(workload.run, keys=leased, on_progress=lambda percent: None)

    def run(self, workloads: list[Workload], **keys: Any) -> list[JobResult]:
        """Run the workloads of all members; what became of each."""
        running = [self.start(workload, index=index, **keys) for index, workload in enumerate(workloads)]
        return [result.result(timeout=150) for result in running]

    def said(self) -> str:
        """All logs."""
        return "\n".join(world.log.read_text() for world in self.members if world.log.exists())
