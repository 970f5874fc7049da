"""Guests started as a set end as one, and who died is started again as often as allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.enclaves.runtimes.sets import SetOfGuests
from ppml_airflow.errors import ConfigurationError, PpmlError, UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestResult
from ppml_airflow.protocol.messages import LaunchRequest, OpenedSet, members_of
from ppml_airflow.workloads.cluster import messages_folder
from tests.support.fake_pipeline import committed
from tests.support.small_images import launch_request

MEMBERS = 3
SET = OpenedSet(set_id="a" * 32, members=MEMBERS)
DIED = UnavailableError("the guest ended without an answer", code="guest_ended")


class PlayedGuests:
    """Plays the runtime: each member does as `parts` says, and ends when its connection is closed."""

    def __init__(self, parts: dict[int, list[PpmlError | str]]) -> None:
        self.parts = parts
        self.started: list[int] = []
        self.closed = threading.Event()
        self._lock = threading.Lock()

    def run(self, request: LaunchRequest, *, on_event: Callable[[GuestEvent], None]) -> GuestResult:
        with self._lock:
            self.started.append(request.index)
            part = self.parts[request.index].pop(0)
        on_event(GuestEvent(state="running", percent=request.index))
        if part == "waits":
            self.closed.wait(10)
            raise UnavailableError("the quoting service went away", code="service_gone")
        if isinstance(part, PpmlError):
            raise part
        if part == "commits, when all are there":
            while len(self.started) < MEMBERS + 1:
                self.closed.wait(0.01)
            part = "committed"
        return committed(state=part)

    def close(self) -> None:
        self.closed.set()


def run(guests: PlayedGuests, *, folder: Path, replacements: int = 0) -> tuple[GuestResult, list[GuestEvent]]:
    request = msgspec.structs.replace(launch_request("step"), storage=str(folder))
    requests = members_of(request, opened=SET)
    events: list[GuestEvent] = []
    members = SetOfGuests(lambda: guests, replacements=replacements)  # type: ignore[arg-type,return-value]  # plays one
    return members.run(requests, on_event=events.append), events


def test_the_leaders_result_is_the_sets(tmp_path: Path) -> None:
    guests = PlayedGuests({0: ["committed"], 1: ["ended"], 2: ["ended"]})
    result, events = run(guests, folder=tmp_path)
    assert result.state == "committed"
    assert sorted(guests.started) == [0, 1, 2]
    assert [event.percent for event in events] == [0]


def test_a_member_that_died_is_started_again(tmp_path: Path) -> None:
    guests = PlayedGuests({0: ["commits, when all are there"], 1: [DIED, "ended"], 2: ["ended"]})
    result, _ = run(guests, folder=tmp_path, replacements=1)
    assert result.state == "committed"
    assert sorted(guests.started) == [0, 1, 1, 2]


def test_one_that_died_once_too_often_ends_all(tmp_path: Path) -> None:
    guests = PlayedGuests({0: ["waits"], 1: [DIED, DIED], 2: ["waits"]})
    with pytest.raises(UnavailableError, match="ended without an answer"):
        run(guests, folder=tmp_path, replacements=1)
    assert guests.closed.is_set()


def test_one_that_failed_is_not_started_again_and_ends_all(tmp_path: Path) -> None:
    failed = ConfigurationError("the job's code failed", code="job_failed")
    guests = PlayedGuests({0: ["waits"], 1: ["waits"], 2: [failed]})
    with pytest.raises(ConfigurationError, match="the job's code failed"):
        run(guests, folder=tmp_path, replacements=1)
    assert sorted(guests.started) == [0, 1, 2]


def test_a_leader_that_died_ends_all(tmp_path: Path) -> None:
    guests = PlayedGuests({0: [DIED], 1: ["waits"], 2: ["waits"]})
    with pytest.raises(UnavailableError, match="ended without an answer"):
        run(guests, folder=tmp_path, replacements=1)
    assert 0 not in guests.started[MEMBERS:]


def test_no_message_is_left(tmp_path: Path) -> None:
    folder = messages_folder(tmp_path, set_id=SET.set_id)
    folder.mkdir(parents=True)
    (folder / "0-1").write_bytes(b"sealed")
    run(PlayedGuests({0: ["committed"], 1: ["ended"], 2: ["ended"]}), folder=tmp_path)
    assert not folder.exists()
