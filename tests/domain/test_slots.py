from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppml_airflow.domain.documents import Slots
from ppml_airflow.domain.slots import choose_slot, slot_of, window_end
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import format_instant, parse_instant

Period = Literal["hour", "day", "week", "month"]
MOMENTS = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001
    max_value=datetime(2035, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Havana", "Africa/Cairo",
         "Asia/Kolkata", "Asia/Beirut", "Pacific/Apia")  # fmt: skip


def make_slots(period: Period = "day", *, zone: str = "Europe/Berlin", backfill: int = 2) -> Slots:
    return Slots(period=period, zone=zone, window_hours=6, backfill=backfill)


@given(MOMENTS, st.sampled_from(get_args(Period)), st.sampled_from(ZONES))
def test_every_moment_lies_in_exactly_one_slot(moment: datetime, period: Period, zone: str) -> None:
    slots = make_slots(period, zone=zone)
    slot = slot_of(moment, slots=slots)
    end = window_end(slot, slots=slots) - timedelta(hours=6)
    assert parse_instant(slot) <= moment < end
    assert slot_of(parse_instant(slot), slots=slots) == slot
    assert slot_of(end, slots=slots) == format_instant(end)


@given(MOMENTS, st.sampled_from(get_args(Period)), st.sampled_from(ZONES))
def test_the_slot_of_a_moment_can_be_opened_then(moment: datetime, period: Period, zone: str) -> None:
    slots = make_slots(period, zone=zone)
    assert choose_slot(slot_of(moment, slots=slots), slots=slots, now=moment) == slot_of(moment, slots=slots)


@pytest.mark.parametrize(
    ("period", "start"),
    [
        ("hour", "2026-11-23T09:00:00Z"),
        ("day", "2026-11-22T23:00:00Z"),
        ("week", "2026-11-22T23:00:00Z"),
        ("month", "2026-10-31T23:00:00Z"),
    ],
)
def test_a_slot_starts_in_its_own_zone(period: Period, start: str) -> None:
    moment = datetime(2026, 11, 23, 9, 41, 12, tzinfo=UTC)
    assert slot_of(moment, slots=make_slots(period)) == start


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 7, 1), 24)])
def test_a_day_is_as_long_as_the_clocks_say(day: tuple[int, int, int], hours: int) -> None:
    slots = make_slots()
    slot = slot_of(datetime(*day, 12, tzinfo=UTC), slots=slots)
    assert window_end(slot, slots=slots) == parse_instant(slot) + timedelta(hours=hours + 6)


def test_a_day_whose_midnight_is_skipped_begins_after_the_gap() -> None:
    slots = make_slots(zone="America/Santiago")
    assert slot_of(datetime(2026, 9, 6, 12, tzinfo=UTC), slots=slots) == "2026-09-06T04:00:00Z"
    assert slot_of(datetime(2026, 9, 6, 3, 59, tzinfo=UTC), slots=slots) == "2026-09-05T04:00:00Z"


NOW = datetime(2026, 11, 23, 9, 41, tzinfo=UTC)


def test_the_current_slot_is_chosen_when_none_is_asked_for() -> None:
    assert choose_slot(None, slots=make_slots(), now=NOW) == "2026-11-22T23:00:00Z"


@pytest.mark.parametrize("asked", ["2026-11-22T23:00:00Z", "2026-11-21T23:00:00Z", "2026-11-20T23:00:00Z"])
def test_backfill_reaches_so_many_slots_back(asked: str) -> None:
    assert choose_slot(asked, slots=make_slots(), now=NOW) == asked


def test_a_slot_beyond_the_backfill_is_refused() -> None:
    with pytest.raises(PolicyDeniedError, match="back to 2026-11-20T23:00:00Z") as refused:
        choose_slot("2026-11-19T23:00:00Z", slots=make_slots(), now=NOW)
    assert refused.value.code == "slot_too_old"


def test_no_backfill_leaves_the_current_slot_only() -> None:
    with pytest.raises(PolicyDeniedError, match="too old"):
        choose_slot("2026-11-21T23:00:00Z", slots=make_slots(backfill=0), now=NOW)


def test_a_slot_in_the_future_is_refused() -> None:
    with pytest.raises(PolicyDeniedError) as refused:
        choose_slot("2026-11-23T23:00:00Z", slots=make_slots(), now=NOW)
    assert refused.value.code == "slot_in_future"


@pytest.mark.parametrize("asked", ["2026-11-23T00:00:00Z", "2026-11-22T23:00:01Z"])
def test_what_is_not_the_start_of_a_period_is_refused(asked: str) -> None:
    with pytest.raises(PolicyDeniedError, match="wanted 2026-11-22T23:00:00Z") as refused:
        choose_slot(asked, slots=make_slots(), now=NOW)
    assert refused.value.code == "slot_unknown"


@pytest.mark.parametrize("zone", ["", "Nowhere/City", "../../etc/passwd", "berlin"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="is not known"):
        slot_of(NOW, slots=make_slots(zone=zone))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize(
    ("asked", "code"), [("9999-12-31T23:59:59Z", "slot_in_future"), ("0001-01-01T00:00:00Z", "slot_too_old")]
)
def test_a_slot_at_the_end_of_time_is_refused(zone: str, asked: str, code: str) -> None:
    with pytest.raises(PolicyDeniedError) as refused:
        choose_slot(asked, slots=make_slots(zone=zone), now=NOW)
    assert refused.value.code == code
