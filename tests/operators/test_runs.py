from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ppml_airflow.errors import PolicyDeniedError, UnavailableError
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.runs import open_run
from tests.support.fake_pipeline import FakePipelineBroker, connect
from tests.support.nightly import context

pytestmark = pytest.mark.usefixtures("connected")


def opened(dag, *, pipeline=None, **changes):
    hook = PpmlHook()
    with hook.broker() as client:
        return open_run(client, context=context(dag, **changes), pipeline=pipeline, patience_s=hook.patience_s)


def test_a_run_is_named_by_pipeline_dag_and_airflows_run_id(dag, broker):
    opened(dag)
    request = broker.opened[0]
    assert request.pipeline == "nightly"
    assert request.params == {"age": 18}
    assert request.claimed == {
        "dag_id": "nightly",
        "run_id": "manual__1",
        "try_number": "1",
        "logical_date": "2026-05-04T00:30:00Z",
    }


def test_the_same_dag_run_opens_the_same_run(dag, broker):
    assert opened(dag).run_id == opened(dag).run_id
    assert opened(dag, dag_run={"run_id": "manual__2"}).run_id != opened(dag).run_id


def test_the_slot_is_the_logical_dates_period_in_the_approved_zone(dag, broker):
    opened(dag)
    assert broker.opened[0].slot == "2026-05-03T22:00:00Z"


def test_a_scheduled_run_belongs_to_the_slot_in_which_it_was_due(dag, broker):
    interval = {"logical_date": datetime(2026, 5, 3, tzinfo=UTC), "data_interval_end": datetime(2026, 5, 4, tzinfo=UTC)}
    opened(dag, dag_run={"run_type": "scheduled", **interval})
    assert broker.opened[0].slot == "2026-05-03T22:00:00Z"


def test_a_run_without_a_date_leaves_the_slot_to_the_broker(dag, broker):
    opened(dag, dag_run={"logical_date": None})
    assert broker.opened[0].slot is None
    assert "logical_date" not in broker.opened[0].claimed


def test_another_pipeline_name_is_asked_for(dag, broker):
    opened(dag, pipeline="other")
    assert broker.opened[0].pipeline == "other"


def test_a_pipeline_without_approval_is_denied_by_the_broker(dag, agent, tmp_path, monkeypatch):
    with FakePipelineBroker(None) as broker:
        connect(monkeypatch, broker=broker.url, agent=agent.url, folder=tmp_path)
        with pytest.raises(PolicyDeniedError) as denied:
            opened(dag)
    assert denied.value.code == "not_approved"
    assert broker.opened[0].slot is None


def test_a_broker_that_comes_back_is_waited_for(dag, broker):
    import threading

    broker.is_down = True
    threading.Timer(0.15, lambda: setattr(broker, "is_down", False)).start()
    assert opened(dag).run_id


def test_a_broker_that_stays_away_is_waited_for_a_bounded_time(dag, broker):
    broker.is_down = True
    with pytest.raises(UnavailableError):
        opened(dag)
