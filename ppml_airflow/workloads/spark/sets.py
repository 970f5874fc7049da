"""Spark in a set: the leader's Java machine is the driver, that of every other member an executor.

The leader's guest tells the others where its driver listens, and the key under which both ends authenticate and encrypt
all that they send: a key of this job alone, which that guest made, carried by a sealed message of the set. Members
start their executors, which come to the driver; results go to the driver, and the leader alone writes them.

Source: https://spark.apache.org/docs/4.0.0/security.html (authentication, encryption of what is sent).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.sealing.wrapping import new_key
from ppml_airflow.workloads.cluster import END, START, Cluster
from ppml_airflow.workloads.guest_socket import Answer, GuestSocket
from ppml_airflow.workloads.job import WorkloadJob


class Driver(Document, frozen=True, kw_only=True):
    """How a member's executor finds the driver, and shows that it is of this set."""

    url: str
    """Of the driver's endpoint: `spark://CoarseGrainedScheduler@HOST:PORT`."""
    app_id: str
    key: bytes
    """32 bytes, under which both ends speak."""

    def __repr__(self) -> str:
        return f"Driver(url={self.url!r}, app_id={self.app_id!r})"


class DriverSocket(GuestSocket):
    """The guest's socket of the leader: there the driver says where it is, once."""

    def __init__(self, private: Path, *, job: WorkloadJob) -> None:
        self.key = new_key()
        self._drivers: queue.Queue[Driver | None] = queue.Queue()
        super().__init__(private, job=job)

    def answer(self, message: Mapping[str, Any]) -> Answer:
        """Answer one message of a job process."""
        match message:
            case {"op": "driver", "url": str(url), "app_id": str(app_id)}:
                self._drivers.put(Driver(url=url, app_id=app_id, key=self.key))
                return Answer({"done": True})
        return super().answer(message)

    @contextlib.contextmanager
    def leading(self, cluster: Cluster) -> Iterator[None]:
        """Tell the members where the driver is, as soon as it says so; at the end, that it is over."""
        teller = threading.Thread(target=self._tell, args=(cluster,), name="set", daemon=True)
        teller.start()
        try:
            yield
        finally:
            self._drivers.put(None)
            teller.join()
            cluster.post(b"", turn=END)

    def _tell(self, cluster: Cluster) -> None:
        driver = self._drivers.get()
        cluster.post(b"" if driver is None else canonical.encode(driver), turn=START)
