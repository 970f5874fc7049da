from __future__ import annotations

import threading
import time

import pytest

from ppml_airflow.enclaves.quoting.holders import Watch, Watches
from ppml_airflow.errors import UnavailableError
from ppml_airflow.protocol.launches import GuestEvent, GuestProblem, WatchRequest

LAST = GuestProblem.of(UnavailableError("the guest ended", code="guest_ended"))


def is_gone(watch: Watch, *, within_s: float) -> bool:
    waiting = threading.Thread(target=watch.next_launch, daemon=True)
    waiting.start()
    waiting.join(within_s)
    return not waiting.is_alive()


def test_a_watch_that_nobody_renews_lapses() -> None:
    assert is_gone(Watch(lasts_s=0.1), within_s=5)


def test_a_watch_that_is_renewed_holds() -> None:
    watch = Watch(lasts_s=0.6)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        watch.renew(seen=0)
        assert not is_gone(watch, within_s=0.05)


def test_a_watch_tells_each_event_once_and_the_end_at_last() -> None:
    watch = Watch(lasts_s=60)
    watch.tell(GuestEvent(state="starting"))
    first = watch.renew(seen=0)
    watch.tell(GuestEvent(state="running"))
    watch.finish(LAST)
    second = watch.renew(seen=len(first.events))
    assert [event.state for event in first.events] == ["starting"]
    assert first.last is None
    assert [event.state for event in second.events] == ["running"]
    assert second.last == LAST
    assert watch.renew(seen=2) == watch.renew(seen=2)


def test_a_guest_cannot_fill_the_memory_of_the_service_with_events() -> None:
    watch = Watch(lasts_s=60)
    for _ in range(5000):
        watch.tell(GuestEvent(state="running"))
    assert len(watch.renew(seen=0).events) == 1000


def test_ending_a_watch_lets_its_guest_go_at_once() -> None:
    watches = Watches(lasts_s=60)
    watch_id, watch = watches.add()
    watches.answer(WatchRequest(watch_id=watch_id, seen=0, end=True))
    assert is_gone(watch, within_s=1)


def test_a_watch_of_an_unknown_id_is_refused_as_worth_another_try() -> None:
    with pytest.raises(UnavailableError) as refused:
        Watches().answer(WatchRequest(watch_id="0" * 32, seen=0))
    assert refused.value.code == "watch_lapsed"


def test_a_watch_whose_end_nobody_asked_for_is_forgotten() -> None:
    watches = Watches(lasts_s=0.05)
    watch_id, watch = watches.add()
    watch.finish(LAST)
    time.sleep(0.2)
    watches.add()
    with pytest.raises(UnavailableError):
        watches.answer(WatchRequest(watch_id=watch_id, seen=0))


def test_a_stopping_service_ends_every_watched_guest() -> None:
    watches = Watches(lasts_s=60)
    _, first = watches.add()
    _, second = watches.add()
    watches.end_all()
    assert is_gone(first, within_s=1)
    assert is_gone(second, within_s=1)
