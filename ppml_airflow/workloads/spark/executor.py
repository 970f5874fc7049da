"""What a member of a set does in a Spark job, unless it leads: one executor, for as long as the driver wants it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.cluster import Cluster
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobKeys, JobResult, WorkloadJob
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import write_private
from ppml_airflow.workloads.spark.process import SparkProcess
from ppml_airflow.workloads.spark.sets import Driver, hear_driver, hears_end
from ppml_airflow.workloads.spark.settings import executor_options
from ppml_airflow.workloads.vocabulary import Outcome

_MAIN = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
_HEAP_SHARE = 0.5
"""The rest is for Python workers and for what goes over the network."""
_LAST_WORD_S = 10.0
_IDS = 2**31 - 1


class SparkExecutor:
    """Runs a member's part of one job; see `job.Workload`. The leader judges and commits; a member only computes."""

    def __init__(self, job: WorkloadJob, *, installation: ImageInstallation, private: Path, log: Path) -> None:
        self._job = job
        self._process = SparkProcess(job, installation=installation, private=private, log=log, heap_share=_HEAP_SHARE)

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Write what the program's functions may ask for; a member has no outputs."""
        description = {"params": typed_literals(self._job.params), "inputs": {}, "outputs": {}}
        write_private(self._process.private / "conf" / "job.json", json.dumps(description))
        return {}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Run an executor until the driver is done; see `job.Workload`."""
        return self._process.answered(lambda: JobResult(outcome=self._run(keys=keys, on_progress=on_progress)))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self._process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self._process.close()

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        if keys.cluster is None:
            raise ConfigurationError("an executor is a member of a set, and has no way to the others")
        self._process.arm(keys, on_progress=on_progress)
        try:
            driver = hear_driver(keys.cluster, is_over=self._waiting(self._job.limits.wall_s))
        except VerificationError as error:
            raise ConfigurationError("what the leader said is not its word", code="input_corrupt") from error
        if driver is None:
            return "ok"
        options = self._process.private / "conf" / "executor-options"
        write_private(options, executor_options(driver.key))
        self._process.start_java(_arguments(driver, cores=self._job.limits.cores), options=(f"@{options}",))
        outcome = self._process.wait()
        # An executor whose driver is gone fails; if the leader ended it, what became of the job is the leader's to say.
        return "ok" if outcome == "ok" or self._is_at_end(keys.cluster, outcome) else outcome

    def _is_at_end(self, cluster: Cluster, outcome: Outcome) -> bool:
        return outcome == "job_failed" and hears_end(cluster, is_over=self._waiting(_LAST_WORD_S))

    def _waiting(self, limit_s: float) -> Callable[[], bool]:
        until = time.monotonic() + limit_s
        return lambda: self._process.is_cancelled or time.monotonic() > until


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
