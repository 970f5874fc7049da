"""The chain in a real Airflow, in process: deferral inline, states, XComs. The services are fakes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading

import pytest
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG

from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.protocol.launches import GuestProblem
from tests.support.fake_pipeline import TOKEN, committed

pytestmark = pytest.mark.usefixtures("airflow_database", "connected")


@pytest.fixture
def guest(broker, agent, quoting):
    """Inputs come with the agent's seal, a preflight is granted, a job commits."""
    agent.on_done = lambda task: broker.put("count", waiting_for="grant") if task.verb == "seal" else None

    def work(request):
        if request.role == "preflight":
            broker.put("count", state="granted", waiting_for="lease", granted=True)
            yield committed(state="granted")
        broker.commit("count")
        yield committed()

    quoting.guest = work
    return quoting


def run(dag, **conf):
    lazy = LazyDeserializedDAG.from_dag(dag)
    SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy])
    SerializedDagModel.write_dag(lazy, bundle_name="dags-folder")
    finished = dag.test(run_conf=conf or None)
    return finished.state, {instance.task_id: instance for instance in finished.get_task_instances()}


def test_the_chain_runs_to_its_passport(dag, broker, agent, guest):
    state, tasks = run(dag, age=21)
    assert state == "success"
    assert [request.role for request in guest.launched] == ["preflight", "job"]
    assert [task.verb for task in agent.tasks] == ["seal", "deliver"]
    assert broker.opened[0].params == {"age": 21}
    assert len(broker.runs) == 1
    assert set(tasks["count"].xcom_pull("count")) == {"run_id", "step", "attempt", "outputs", "disclosed"}
    assert TOKEN not in "".join(json.dumps(tasks[name].xcom_pull(name)) for name in tasks)


def test_a_gate_that_waits_defers_and_goes_on(dag, broker, agent, guest):
    """Sealing is done, but the broker shows the inputs only after a while: the trigger runs inline."""
    agent.on_done = lambda task: threading.Timer(1.0, lambda: broker.put("count", waiting_for="grant")).start()
    state, _ = run(dag)
    assert state == "success"


def test_a_denied_gate_fails_the_run_and_leaves_a_passport(dag, broker, agent, guest, tmp_path):
    denial = PolicyDeniedError("measurement is not accepted", code="measurement")
    guest.guest = lambda request: iter([GuestProblem.of(denial)])
    state, tasks = run(dag)
    assert state == "failed"
    assert tasks["gate_before_count"].state == "failed"
    assert tasks["count"].state == "upstream_failed"
    assert tasks["passport"].state == "failed"
    assert len(list((tmp_path / "passports").iterdir())) == 1


def test_the_token_is_nowhere_in_the_metadata_database(dag, guest):
    run(dag)
    database = sqlite3.connect(f"{os.environ['AIRFLOW_HOME']}/airflow.db")
    dump = "\n".join(database.iterdump())
    assert "gate_before_count" in dump
    assert TOKEN not in dump
