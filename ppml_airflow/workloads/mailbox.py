"""What a job's process says to the other members of its set, and hears: files in memory, as all that it touches."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.units import MIB
from ppml_airflow.workloads.cluster import Cluster
from ppml_airflow.workloads.job import WorkloadJob
from ppml_airflow.workloads.memory_files import read_memory, seal_written, sealed_memory, writable_memory

_MOST_TURNS = 1_000_000
_MOST_OPEN = 64


class Mailbox:
    """Messages of one job. The descriptors that it gives out are copies, which the caller closes."""

    def __init__(self, job: WorkloadJob) -> None:
        self._limit = job.limits.memory_mib * MIB
        self._members = job.members
        self._cluster: Cluster | None = None
        self._written: dict[int, int] = {}
        self._next = 0
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def arm(self, cluster: Cluster | None) -> None:
        """Carry messages from now on, if the job is a set's."""
        self._cluster = cluster

    def close(self) -> None:
        """Wait for nothing any more, and forget what was not sent."""
        self._is_over.set()
        with self._lock:
            self._cluster = None
            for descriptor in self._written.values():
                os.close(descriptor)
            self._written = {}

    def new(self) -> tuple[int, int]:
        """A number, and the descriptor of an empty file, for a message that is going to be sent.

        Raises:
            PolicyDeniedError: no set, or too many at once.
        """
        self._require()
        with self._lock:
            if len(self._written) >= _MOST_OPEN:
                raise PolicyDeniedError("too many messages were begun and not sent", code="not_granted")
            self._next += 1
            self._written[self._next] = writable_memory()
            return self._next, os.dup(self._written[self._next])

    def post(self, mail: int, *, turn: int) -> None:
        """Send a message that was written.

        Raises:
            PolicyDeniedError: no set, no such message, no such turn.
            ConfigurationError: larger than the step's memory.
        """
        cluster = self._require(turn=turn)
        with self._lock:
            descriptor = self._written.pop(mail, None)
        if descriptor is None:
            raise PolicyDeniedError(f"message {mail} was not begun", code="not_granted")
        try:
            seal_written(descriptor, limit=self._limit)
            cluster.post(read_memory(descriptor), turn=turn)
        finally:
            os.close(descriptor)

    def hear(self, *, turn: int, sender: int) -> int:
        """Wait for a message; its descriptor.

        Raises:
            PolicyDeniedError: no set, no such member, no such turn.
            VerificationError: not a member's word.
            ConfigurationError: larger than the step's memory, or the job is over.
        """
        cluster = self._require(turn=turn)
        if not 0 <= sender < self._members:
            raise PolicyDeniedError(f"set has no member {sender}", code="not_granted")
        data = cluster.hear(turn=turn, sender=sender, limit=self._limit, is_over=self._is_over.is_set)
        return sealed_memory(lambda file: _write(file, data), limit=self._limit)

    def _require(self, *, turn: int = 0) -> Cluster:
        if self._cluster is None or not 0 <= turn < _MOST_TURNS:
            raise PolicyDeniedError("the job is no set's, or there is no such turn", code="not_granted")
        return self._cluster


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
