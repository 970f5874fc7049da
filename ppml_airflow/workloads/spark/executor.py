"""What a member of a set does in a Spark job, unless it leads: one executor, for as long as the driver wants it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.cluster import END, START, Cluster
from ppml_airflow.workloads.follower import Follower
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, WorkloadJob
from ppml_airflow.workloads.process import write_private
from ppml_airflow.workloads.spark.process import SparkProcess
from ppml_airflow.workloads.spark.sets import Driver
from ppml_airflow.workloads.spark.settings import executor_options
from ppml_airflow.workloads.vocabulary import Outcome

_MAIN = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
_HEAP_SHARE = 0.5
"""The rest is for Python workers and for what goes over the network."""
_LAST_WORD_S = 10.0
_IDS = 2**31 - 1


class SparkExecutor(Follower[SparkProcess]):
    """Runs one executor."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        super().__init__(SparkProcess(job, installation=installation, private=private, log=log, heap_share=_HEAP_SHARE))

    def follow(self, cluster: Cluster, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        """Come to the driver, if the job has one, and work for it until it is gone."""
        process, limits = self.process, self.process.job.limits
        process.arm(keys, on_progress=on_progress)
        said = self.hear(cluster, turn=START, is_over=self.waiting(limits.wall_s))
        if not said:
            return "ok"
        driver = canonical.decode(said, into=Driver)
        options = process.private / "conf" / "executor-options"
        write_private(options, executor_options(driver.key))
        process.start_java(_arguments(driver, cores=limits.cores), options=(f"@{options}",))
        outcome = process.wait()
        # An executor whose driver is gone fails; if the leader ended it, what became of the job is the leader's to say.
        return "ok" if outcome == "job_failed" and self._hears_end(cluster) else outcome

    def _hears_end(self, cluster: Cluster) -> bool:
        try:
            self.hear(cluster, turn=END, is_over=self.waiting(_LAST_WORD_S))
        except ConfigurationError:
            return False
        return True


def _arguments(driver: Driver, *, cores: int) -> list[str]:
    """Of the executor's main class. Its id is random: one that replaces another is not the one that the driver lost."""
    named = {
        "driver-url": driver.url,
        "executor-id": str(secrets.randbelow(_IDS)),
        "bind-address": "127.0.0.1",
        "hostname": "127.0.0.1",
        "cores": str(cores),
        "app-id": driver.app_id,
        "resourceProfileId": "0",
    }
    return [_MAIN, *(part for name, value in named.items() for part in (f"--{name}", value))]
