"""Slots: the periods of an approval for which a pipeline runs, called by the instant of their start.

Time zones and periods are pendulum's; a day is 23, 24 or 25 hours long where clocks change. An unknown time zone is a
ConfigurationError.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

import pendulum

from ppml_airflow.domain.documents import Slots
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.units import Instant, format_instant, parse_instant

_STEP = {"hour": {"hours": 1}, "day": {"days": 1}, "week": {"weeks": 1}, "month": {"months": 1}}


def slot_of(moment: datetime, *, slots: Slots) -> Instant:
    """The slot in which a moment lies."""
    return format_instant(_start(moment, slots))


@lru_cache(maxsize=1024)
def window_end(slot: Instant, *, slots: Slots) -> datetime:
    """When a slot's run must be over: the end of its period plus the window."""
    return _shift(_start(parse_instant(slot), slots), slots, 1).add(hours=slots.window_hours)


def choose_slot(asked: Instant | None, *, slots: Slots, now: datetime) -> Instant:
    """The slot to open: the current one, or the one asked for as far as `backfill` reaches.

    Raises:
        PolicyDeniedError: not the start of a period, in the future, or too old.
    """
    current = _start(now, slots)
    if asked is None:
        return format_instant(current)
    moment, oldest = parse_instant(asked), _shift(current, slots, -slots.backfill)
    if moment > now:
        raise PolicyDeniedError(f"slot {asked} lies in the future", code="slot_in_future")
    if moment < oldest:
        raise PolicyDeniedError(
            f"slot {asked} is too old; the approval allows back to {format_instant(oldest)}",
            code="slot_too_old",
            hint="ask the owner to approve a larger backfill",
        )
    start = slot_of(moment, slots=slots)
    if start != asked:
        raise PolicyDeniedError(
            f"slot {asked} is not the start of a {slots.period} in {slots.zone}; wanted {start}", code="slot_unknown"
        )
    return asked


def _start(moment: datetime, slots: Slots) -> pendulum.DateTime:
    local = pendulum.instance(moment).in_timezone(_zone(slots))
    return local.start_of("hour") if slots.period == "hour" else _midnight(local.date().start_of(slots.period), slots)


def _shift(start: pendulum.DateTime, slots: Slots, periods: int) -> pendulum.DateTime:
    """The start of another slot. Hours are real hours; days, weeks and months are those of the calendar."""
    step = {unit: count * periods for unit, count in _STEP[slots.period].items()}
    return start.add(**step) if slots.period == "hour" else _midnight(start.date().add(**step), slots)


def _midnight(day: pendulum.Date, slots: Slots) -> pendulum.DateTime:
    """When a day begins: at its first midnight, or after the gap where clocks skip midnight (Santiago, Cairo)."""
    zone = _zone(slots)
    first = pendulum.datetime(day.year, day.month, day.day, tz=zone, fold=0)
    return first if first.date() == day else pendulum.datetime(day.year, day.month, day.day, tz=zone, fold=1)


def _zone(slots: Slots) -> pendulum.Timezone:
    try:
        return pendulum.timezone(slots.zone)
    except ValueError as error:
        raise ConfigurationError(
            f"time zone {slots.zone[:60]!r} is not known", hint="write it like Europe/Berlin or UTC"
        ) from error
