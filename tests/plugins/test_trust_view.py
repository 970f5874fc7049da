"""The Trust view shows, escapes, and gives nothing to strangers."""

from __future__ import annotations

from importlib.metadata import entry_points

from starlette.testclient import TestClient

from ppml_airflow.plugins.trust_view import TrustViewPlugin, app, render
from ppml_airflow.protocol.messages import RunView, StepStatus
from ppml_airflow.signing import Envelope

ENVELOPE = Envelope(payload=b"{}", payload_type="application/vnd.ppml.run.v1+json", signatures=())


def view(**changes: object) -> RunView:
    fields: dict[str, object] = {
        "run_id": "0" * 32,
        "step": "aggregate",
        "state": "denied",
        "waiting_for": "",
        "code": "gate_missing",
        "reason": "gate before aggregate has not been passed",
        "hint": "let the sensor run",
        "attempt": 0,
        "granted": False,
        "outputs": (),
        "disclosed": {},
        "trust": "simulated",
    }
    status = StepStatus(**{**fields, **changes})
    return RunView(
        run=ENVELOPE,
        run_id="0" * 32,
        pipeline="nightly",
        slot="2026-11-22T23:00:00Z",
        state="open",
        trust=status.trust,
        steps=(status,),
    )


def test_a_simulated_run_says_so() -> None:
    assert "trust: SIMULATED" in render(view(), refusal="")
    assert "SIMULATED" not in render(view(trust="hardware"), refusal="")


def test_the_clause_that_refused_is_shown() -> None:
    page = render(view(), refusal="")
    assert "gate_missing" in page
    assert "let the sensor run" in page


def test_texts_of_strangers_are_escaped() -> None:
    page = render(view(reason="<script>alert(1)</script>"), refusal="")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<img" not in render(None, refusal="<img src=x>")


def test_a_stranger_sees_nothing() -> None:
    response = TestClient(app, raise_server_exceptions=False).get("/dags/nightly/runs/manual")
    assert response.status_code in (401, 403)


def test_the_plugin_is_an_entry_point() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="airflow.plugins")}
    assert found.get("ppml") == f"{TrustViewPlugin.__module__}:TrustViewPlugin"


def test_the_view_can_only_be_read() -> None:
    methods = {method for route in app.routes for method in getattr(route, "methods", ())}
    assert methods <= {"GET", "HEAD"}
