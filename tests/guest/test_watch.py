from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ppml_airflow.errors import PpmlError, UnavailableError, VerificationError
from ppml_airflow.guest.watch import Watch


def run_watch(ask: Callable[[], str], *, lifetime_s: float = 60.0, wait_s: float = 5.0) -> tuple[str, bool]:
    """Why a watch stopped its job, if it did within the time."""
    stopped = threading.Event()
    with Watch(ask=ask, stop=stopped.set, lifetime_s=lifetime_s, interval_s=0.01) as watch:
        stopped.wait(wait_s)
    return watch.reason, stopped.is_set()


@pytest.mark.parametrize("state", ["fenced", "cancelled", "closed", "revoked", "expired"])
def test_anything_but_current_stops_the_job(state: str) -> None:
    assert run_watch(lambda: state) == (f"lease_{state}", True)


def test_a_current_lease_goes_on() -> None:
    assert run_watch(lambda: "current", wait_s=0.1) == ("", False)


def fail_with(error: PpmlError) -> Callable[[], str]:
    def ask() -> str:
        raise error

    return ask


def test_a_broker_that_does_not_answer_stops_nothing() -> None:
    assert run_watch(fail_with(UnavailableError("no answer")), wait_s=0.1) == ("", False)


def test_a_broker_that_no_longer_knows_the_lease_stops_the_job() -> None:
    assert run_watch(fail_with(VerificationError("unknown"))) == ("lease_revoked", True)


def test_a_lease_expires_by_the_guests_own_clock_while_the_broker_is_silent() -> None:
    asked = fail_with(UnavailableError("no answer"))
    assert run_watch(asked, lifetime_s=0.05) == ("lease_expired", True)
