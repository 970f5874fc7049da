from __future__ import annotations

from datetime import timedelta

import pendulum
import pytest
from airflow.sdk import DAG, Asset

from ppml_airflow.domain.documents import Slots
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.schedules import period_of, slots_of

BERLIN = pendulum.datetime(2026, 1, 1, tz="Europe/Berlin")


@pytest.mark.parametrize(
    ("cron", "period"),
    [
        ("0 2 * * *", "day"),
        ("30 4 * * 1-5", "day"),
        ("0 2 1,15 * *", "day"),
        ("0 3 * * 0", "week"),
        ("0 3 * * sun", "week"),
        ("0 3 1 * *", "month"),
        ("0 3 1 * 1", "day"),
        ("5 * * * *", "hour"),
        ("0 3,15 * * *", "hour"),
        ("0 */6 * * *", "hour"),
    ],
)
def test_a_slot_is_the_longest_period_in_which_the_schedule_fires_once(cron, period):
    assert period_of(cron) == period


@pytest.mark.parametrize("cron", ["*/5 * * * *", "* * * * *", "0,30 * * * *", "0 0 2 * * *"])
def test_a_schedule_that_fires_several_times_an_hour_is_refused(cron):
    with pytest.raises(ConfigurationError, match="more often than once an hour"):
        period_of(cron)


@pytest.mark.parametrize(("schedule", "period"), [("0 2 * * *", "day"), ("@weekly", "week"), (None, "day")])
def test_the_zone_is_the_dags(schedule, period):
    dag = DAG("d", schedule=schedule, start_date=BERLIN)
    assert slots_of(dag, window_hours=6, backfill=2) == Slots(
        period=period, zone="Europe/Berlin", window_hours=6, backfill=2
    )


@pytest.mark.parametrize("schedule", [timedelta(hours=3), "@once", "@continuous", [Asset("x")]])
def test_a_schedule_without_cron_is_refused(schedule):
    dag = DAG("d", schedule=schedule, start_date=BERLIN, max_active_runs=1)
    with pytest.raises(ConfigurationError, match="has no slots"):
        slots_of(dag, window_hours=1, backfill=0)


def test_a_zone_without_name_is_refused():
    dag = DAG("d", schedule="0 2 * * *", start_date=pendulum.datetime(2026, 1, 1, tz=pendulum.FixedTimezone(7200)))
    with pytest.raises(ConfigurationError, match="time zone of d has no name"):
        slots_of(dag, window_hours=1, backfill=0)
