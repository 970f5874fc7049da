"""What a member of a set does in a Flink job, unless it leads: one TaskManager, until the job is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.cluster import END, LEADERS_WORD_BYTES, START, Cluster
from ppml_airflow.workloads.flink.cluster import FlinkProcess
from ppml_airflow.workloads.flink.sets import JobManager, post_segments
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import write_private
from ppml_airflow.workloads.vocabulary import Outcome


class TaskManager:
    """Runs a member's part of one job; see `job.Workload`. The leader judges and commits; a member only computes."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        self._job = job
        self._process = FlinkProcess(job, installation=installation, private=private, log=log)

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Write what the program's functions may ask for; a member has no outputs."""
        description = {"params": typed_literals(self._job.params), "views": [], "outputs": {}}
        write_private(self._process.private / "conf" / "job.json", json.dumps(description))
        return {}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run a TaskManager until the leader says that it is over; see `job.Workload`."""
        return self._process.answered(lambda: JobResult(outcome=self._run(keys=keys, on_progress=on_progress)))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        cluster, process = keys.cluster, self._process
        if cluster is None:
            raise ConfigurationError("a TaskManager is a member of a set, and has no way to the others")
        until = time.monotonic() + self._job.limits.wall_s
        said = self._hear(cluster, turn=START, is_over=lambda: process.is_cancelled or time.monotonic() > until)
        manager = canonical.decode(said, into=JobManager)
        process.streams.key = manager.inside_key
        process.write_settings(manager)
        process.arm(keys, on_progress=on_progress)
        process.start(process.worker())
        try:
            word = self._hear(cluster, turn=END, is_over=lambda: not process.is_running() or not process.remaining_s())
        except ConfigurationError as error:
            if error.code != "cancelled":
                raise
            return self._lost()
        process.kill()
        if word == b"ok":
            post_segments(cluster, process.streams.written())
        return "ok"

    def _hear(self, cluster: Cluster, *, turn: int, is_over: Callable[[], bool]) -> bytes:
        try:
            return cluster.hear(turn=turn, sender=LEADER, limit=LEADERS_WORD_BYTES, is_over=is_over)
        except VerificationError as error:
            raise ConfigurationError("what the leader said is not its word", code="input_corrupt") from error

    def _lost(self) -> Outcome:
        """Why the TaskManager ended before its work did. A kill is taken for a lack of memory, as everywhere."""
        if self._process.is_running():
            self._process.kill()
            return "limit_time"
        outcome = self._process.end()
        return "job_failed" if outcome == "ok" else outcome
