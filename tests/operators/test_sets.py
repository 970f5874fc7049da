"""A step with members starts them as one set; where that cannot be, the DAG is refused."""

from __future__ import annotations

import pendulum
import pytest
from airflow.sdk import DAG

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import TrustedPythonOperator
from ppml_airflow.protocol.launches import GuestEvent
from tests.support.fake_pipeline import FakePipelineBroker, committed, connect
from tests.support.nightly import approval, context


def count(visits):
    return visits


def step(**changes):
    options = {"outputs": {"report": ["analyst"]}, "columns": {"report": {"n": "bigint"}}, "members": 3}
    return TrustedPythonOperator(**{"task_id": "count", "python_callable": count, **options, **changes})


@pytest.fixture
def dag():
    with DAG(
        "nightly", schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), max_active_runs=1
    ) as dag:
        step(replacements=1)
    return dag


@pytest.fixture
def broker(dag):
    with FakePipelineBroker(approval(dag)) as broker:
        yield broker


@pytest.mark.usefixtures("connected")
def test_every_member_is_started_with_its_index_and_the_sets_id(dag, broker, quoting):
    def work(request):
        if request.index:
            yield committed(state="ended")
            return
        yield GuestEvent(state="running", percent=40)
        broker.commit("count")
        yield committed()

    quoting.guest = work
    reference = dag.get_task("count").execute(context(dag))
    assert reference["step"] == "count"
    assert sorted(request.index for request in quoting.launched) == [0, 1, 2]
    assert {(request.role, request.set_id) for request in quoting.launched} == {("member", "5" * 32)}


def test_a_set_is_refused_where_containers_run_before_it_is_opened(dag, broker, agent, quoting, tmp_path, monkeypatch):
    connect(monkeypatch, broker=broker.url, agent=agent.url, folder=tmp_path, runtime="docker")
    with pytest.raises(Exception, match="the docker runtime starts no sets"):
        dag.get_task("count").execute(context(dag))
    assert quoting.launched == []


def test_a_set_in_containers_is_refused_when_the_dag_is_read():
    with pytest.raises(ConfigurationError) as caught:
        step(runtime="docker")
    assert caught.value.code == "set_unsupported"
