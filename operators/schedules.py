"""From a DAG's schedule to the slots of an approval: the longest period in which the schedule fires at most once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppml_airflow.domain.documents import Slots
from ppml_airflow.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import DAG

Period = Literal["hour", "day", "week", "month"]
_HINT = 'write a cron expression that fires at most once an hour, such as schedule="0 2 * * *"'


def slots_of(dag: DAG, *, window_hours: int, backfill: int) -> Slots:
    """The slots of a DAG; a DAG without a schedule gets a slot a day in its own time zone.

    Raises:
        ConfigurationError: the schedule is not a cron expression, or fires several times an hour.
    """
    timetable = dag.timetable
    expression = getattr(timetable, "expression", None)
    if expression is None and dag.schedule is not None:
        raise ConfigurationError(
            f"schedule of {dag.dag_id} is a {type(timetable).__name__}, which has no slots",
            code="schedule",
            hint=_HINT,
        )
    zone = dag.timezone if expression is None else getattr(timetable, "timezone", None)
    return Slots(
        period="day" if expression is None else period_of(str(expression)),
        zone=_zone_name(zone, dag_id=dag.dag_id),
        window_hours=window_hours,
        backfill=backfill,
    )


def period_of(cron: str) -> Period:
    """The longest period in which a cron expression fires at most once.

    Raises:
        ConfigurationError: it has not five fields, or fires several times an hour.
    """
    fields = cron.split()
    if len(fields) != 5 or not fields[0].isdigit():
        raise ConfigurationError(f"schedule {cron!r} fires more often than once an hour", code="schedule", hint=_HINT)
    _, hour, day, _, weekday = fields
    if not hour.isdigit():
        return "hour"
    if day.isdigit() and weekday == "*":
        return "month"
    if day == "*" and _is_one_weekday(weekday):
        return "week"
    return "day"


def _is_one_weekday(field: str) -> bool:
    return field.isdigit() or field.lower() in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _zone_name(zone: object, *, dag_id: str) -> str:
    name = zone if isinstance(zone, str) else getattr(zone, "name", None)
    if not isinstance(name, str) or name[:1] in "+-":
        raise ConfigurationError(
            f"time zone of {dag_id} has no name",
            code="schedule",
            hint='give start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Berlin")',
        )
    return name
