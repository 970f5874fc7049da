"""The chain under Airflow's own scheduler, triggerer and API server. What it talks to are fakes; see test_nightly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval
from ppml_airflow.protocol.launches import GuestEvent
from tests.support.airflow_api import until
from tests.support.fake_pipeline import TOKEN, FakeAgent, FakePipelineBroker, FakeQuotingService, committed
from tests.support.standalone import Standalone

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
DAG = "from tests.support.nightly import nightly\n\ndag = nightly(schedule=None)  # a DAG of airflow\n"
BEFORE, AFTER = "gate_before_count", "gate_after_count"


class Services:
    """Airflow and the fakes; `connection` is what Airflow's own API was given."""

    def __init__(self, folder, broker, agent, quoting, airflow):
        self.broker, self.agent, self.quoting, self.airflow = broker, agent, quoting, airflow.api
        extra = {
            "storage": str(folder / "storage"),
            "quoting": str(quoting.path),
            "owner_agent": agent.url,
            "recipient_agent": agent.url,
            "passports": str(folder / "passports"),
        }
        self.connection = {
            "connection_id": "ppml_default",
            "conn_type": "ppml",
            "host": broker.url,
            "password": TOKEN,
            "extra": json.dumps(extra),
        }
        self.airflow.http.post("/api/v2/connections", json=self.connection).raise_for_status()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """One Airflow for all tests of this module."""
    folder = tmp_path_factory.mktemp("services")
    for name in ("dags", "storage"):
        (folder / name).mkdir()
    (folder / "dags" / "nightly.py").write_text(DAG)
    with (
        FakePipelineBroker(approval_of(folder / "dags" / "nightly.py")) as broker,
        FakeAgent() as agent,
        FakeQuotingService(folder / "quoting.sock") as quoting,
        Standalone(folder / "airflow", dags=folder / "dags", environment={"PYTHONPATH": str(ROOT)}) as airflow,
    ):
        yield Services(folder, broker, agent, quoting, airflow)


@pytest.fixture(autouse=True)
def _anew(services):
    """Every test begins with a step that waits for its inputs, and a guest that grants or commits."""
    broker = services.broker
    broker.put("count")
    broker.cancelled.clear()
    services.agent.on_done = lambda task: None
    services.quoting.launched.clear()
    services.quoting.ended.clear()

    def work(request):
        if request.role == "preflight":
            broker.put("count", state="granted", waiting_for="lease", granted=True)
            yield committed(state="granted")
        broker.commit("count")
        yield committed()

    services.quoting.guest = work


def approval_of(dag_file):
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(dag_file)]
    options = ["--domain-id", "sha256:" + "0" * 64, "--valid-from", "2026-01-01T00:00:00Z"]
    compiled = subprocess.run([*command, *options], capture_output=True, check=True, cwd=ROOT, env={"PYTHONPATH": "."})
    return canonical.decode(compiled.stdout, into=Approval)


def test_a_gate_waits_in_the_triggerer_and_the_chain_goes_on(services):
    airflow, broker = services.airflow, services.broker
    run = airflow.trigger("nightly", {"age": 21})
    airflow.wait_for_task("nightly", run, BEFORE, "deferred")
    assert services.quoting.launched == []
    broker.put("count", waiting_for="grant")
    assert airflow.wait_for_run("nightly", run) == "success", airflow.task_states("nightly", run)
    assert [request.role for request in services.quoting.launched] == ["preflight", "job"]
    assert broker.opened[-1].params == {"age": 21}
    assert "waits for inputs: visits" in airflow.task_log("nightly", run, BEFORE)
    assert TOKEN not in airflow.task_log("nightly", run, BEFORE) + airflow.task_log("nightly", run, "count")


def test_a_step_set_to_success_by_hand_opens_nothing_behind_it(services):
    airflow = services.airflow
    run = airflow.trigger("nightly")
    airflow.wait_for_task("nightly", run, BEFORE, "deferred")
    airflow.set_task_state("nightly", run, BEFORE, "success")
    airflow.set_task_state("nightly", run, "count", "success")
    assert airflow.wait_for_run("nightly", run) == "failed"
    assert "decrypt_report" not in [task.name for task in services.agent.tasks if task.verb == "deliver"]
    assert airflow.task_states("nightly", run)["decrypt_report"] == "upstream_failed"
    assert "the broker holds no receipt" in airflow.task_log("nightly", run, AFTER)


def test_a_task_killed_from_the_ui_ends_its_guest_and_fences_the_attempt(services):
    airflow, broker = services.airflow, services.broker
    running = threading.Event()

    def hang(request):
        if request.role == "preflight":
            broker.put("count", state="granted", waiting_for="lease", granted=True)
            yield committed(state="granted")
        running.set()
        yield GuestEvent(state="running")

    services.quoting.guest = hang
    broker.put("count", waiting_for="grant")
    run = airflow.trigger("nightly")
    assert running.wait(90)
    airflow.set_task_state("nightly", run, "count", "failed")
    assert services.quoting.ended.wait(60)
    until(lambda: broker.cancelled == ["count"], seconds=20)
    assert airflow.wait_for_run("nightly", run) == "failed"


def test_the_connection_form_has_our_fields_and_its_button_works(services):
    api = services.airflow.http
    (kind,) = [kind for kind in api.get("/ui/connections/hook_meta").json() if kind["connection_type"] == "ppml"]
    assert kind["hook_name"] == "PPML key broker"
    assert kind["standard_fields"]["host"]["title"] == "Broker"
    assert set(kind["extra_fields"]) >= {"storage", "quoting", "owner_agent", "recipient_agent", "passports"}
    answer = api.post("/api/v2/connections/test", json=services.connection).json()
    assert answer["status"], answer
    assert "trust: SIMULATED" in answer["message"]
    wrong = api.post("/api/v2/connections/test", json=services.connection | {"password": "another"}).json()
    assert wrong == {"status": False, "message": "caller has no valid token"}
