"""What a member of an engine's set does that does not lead: it computes at the leader's word, and commits nothing."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from ppml_airflow.domain.sets import LEADER
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.cluster import LEADERS_WORD_BYTES, Cluster
from ppml_airflow.workloads.job import JobKeys, JobResult
from ppml_airflow.workloads.params import typed_literals
from ppml_airflow.workloads.process import JobProcess, write_private
from ppml_airflow.workloads.vocabulary import Outcome

Process = TypeVar("Process", bound=JobProcess)


class Follower(ABC, Generic[Process]):
    """Runs a member's part of one job; see `job.Workload`.

    Args:
        process: the member's own, not started.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def prepare(self) -> Mapping[str, tuple[Column, ...]]:
        """Write what functions of the job's program may ask for here: params. A member has no outputs."""
        description = {"params": typed_literals(self.process.job.params), "inputs": {}, "views": [], "outputs": {}}
        write_private(self.process.private / "conf" / "job.json", json.dumps(description))
        return {}

    def run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> JobResult:
        """Work until the leader says that it is over; see `job.Workload`."""
        return self.process.answered(lambda: JobResult(outcome=self._run(keys=keys, on_progress=on_progress)))

    def cancel(self) -> None:
        """Make a `run` in another thread end with `cancelled`."""
        self.process.cancel()

    def close(self) -> None:
        """Kill what still runs. May be called twice."""
        self.process.close()

    @abstractmethod
    def follow(self, cluster: Cluster, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        """Do the member's part; how it ended."""

    def hear(self, cluster: Cluster, *, turn: int, is_over: Callable[[], bool]) -> bytes:
        """Wait for the leader's word.

        Raises:
            ConfigurationError: `input_corrupt`, what is there is not its word; `cancelled`, nobody waits any more.
        """
        try:
            return cluster.hear(turn=turn, sender=LEADER, limit=LEADERS_WORD_BYTES, is_over=is_over)
        except VerificationError as error:
            raise ConfigurationError("what the leader said is not its word", code="input_corrupt") from error

    def waiting(self, limit_s: float) -> Callable[[], bool]:
        """Whether nobody waits any more: after so many seconds, or when the run was cancelled."""
        until = time.monotonic() + limit_s
        return lambda: self.process.is_cancelled or time.monotonic() > until

    def _run(self, *, keys: JobKeys, on_progress: Callable[[int], None]) -> Outcome:
        if keys.cluster is None:
            raise ConfigurationError("a member of a set has no way to the others")
        return self.follow(keys.cluster, keys=keys, on_progress=on_progress)
