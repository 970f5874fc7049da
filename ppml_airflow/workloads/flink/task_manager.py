"""What a member of a set does in a Flink job, unless it leads: one TaskManager, until the job is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.cluster import END, START, Cluster
from ppml_airflow.workloads.flink.cluster import FlinkProcess
from ppml_airflow.workloads.flink.sets import JobManager, post_segments
from ppml_airflow.workloads.follower import Follower
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, WorkloadJob
from ppml_airflow.workloads.vocabulary import Outcome


class TaskManager(Follower[FlinkProcess]):
    """Runs one TaskManager, and hands over what its subtasks wrote."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        super().__init__(FlinkProcess(job, installation=installation, private=private, log=log))

    def follow(self, cluster: Cluster, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        """Come to the JobManager, and work for it until it is over."""
        process = self.process
        said = self.hear(cluster, turn=START, is_over=self.waiting(process.job.limits.wall_s))
        manager = canonical.decode(said, into=JobManager)
        process.streams.key = manager.inside_key
        process.write_settings(manager)
        process.arm(keys, on_progress=on_progress)
        process.start(process.worker())
        try:
            word = self.hear(cluster, turn=END, is_over=lambda: not process.is_running() or process.remaining_s() == 0)
        except ConfigurationError as error:
            if error.code != "cancelled":
                raise
            return self._lost()
        process.kill()
        if word == b"ok":
            post_segments(cluster, process.streams.written())
        return "ok"

    def _lost(self) -> Outcome:
        """Why the TaskManager ended before its work did. A kill is taken for a lack of memory, as everywhere."""
        if self.process.is_running():
            self.process.kill()
            return "limit_time"
        outcome = self.process.end()
        return "job_failed" if outcome == "ok" else outcome
