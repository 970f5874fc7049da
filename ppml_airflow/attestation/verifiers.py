"""Verification on all cores. dcap-qvl holds the interpreter's lock, so threads take turns: processes do not.

Quote and collateral go to a process of the pool, claims or the refusal come back. The processes start when they are
first needed, hold no secret of who started them, and end with it, also when it is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from multiprocessing.process import parent_process
from typing import Protocol

from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.errors import UnavailableError


class Verifier(Protocol):
    """`verify_evidence`, or something that has it done elsewhere."""

    def __call__(
        self, evidence: Evidence, *, collateral: bytes, roots: tuple[TrustRoot, ...], now: datetime
    ) -> VerifiedEvidence:
        """Verify a quote; arguments and errors are those of `verify_evidence`."""


class VerifierPool:
    """Processes that verify. A `Verifier`, for many threads at once, each of which waits for its answer."""

    def __init__(self, *, processes: int) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._pool = self._start()

    @classmethod
    def of_all_cores(cls) -> VerifierPool:
        """One process for each core that this one may use."""
        return cls(processes=len(os.sched_getaffinity(0)))

    def __call__(
        self, evidence: Evidence, *, collateral: bytes, roots: tuple[TrustRoot, ...], now: datetime
    ) -> VerifiedEvidence:
        """Verify a quote in a process of the pool.

        Raises:
            UnavailableError: that process was killed; the next call has a new pool.
        """
        pool = self._pool
        try:
            return pool.submit(verify_evidence, evidence, collateral=collateral, roots=roots, now=now).result()
        except BrokenProcessPool as error:
            self._replace(pool)
            raise UnavailableError("verification was interrupted", code="verifier_lost", hint="ask again") from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                broken.shutdown(wait=False)
                self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit the keys of who forks
        return ProcessPoolExecutor(self._processes, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.join,), daemon=True).start()


def _wait_for(end: Callable[[], None]) -> None:
    end()
    os._exit(0)
