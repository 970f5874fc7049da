"""Who may ask what: every route as docs/reference/broker-routes.md says, by direct HTTP."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.broker.service.routes import ROUTES, Route
from ppml_airflow.protocol.messages import OpenRun, ReleaseRequest
from tests.support.broker_world import PIPELINE, World
from tests.support.simulated_run import MEASUREMENT

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "broker-routes.md"
TOKEN_ROUTES = [route for route in ROUTES if route.needs_token]
STORES = ("sqlite",)
OF_RUNS = [route for route in TOKEN_ROUTES if "{since}" not in route.path and "{subject}" not in route.path]


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def documented() -> dict[str, str]:
    """Route -> who may ask, from the table."""
    rows = re.findall(r"^\| `([A-Z]+ /\S+)` \| ([^|]+) \|", TABLE.read_text(), flags=re.MULTILINE)
    return dict(rows)


def test_every_route_of_the_protocol_is_in_the_table_and_needs_a_token_where_it_says() -> None:
    found = {name: who.startswith("token") for name, who in documented().items() if "/ppml/v1/" in name}
    assert found == {name_of(route): route.needs_token for route in ROUTES}


def test_every_other_route_is_in_the_table_too(world: World) -> None:
    served = {f"{method} {route.path}" for route in world.app.routes for method in route.methods or ()}
    assert set(documented()) == served


@pytest.fixture
def asked(world: World) -> dict[str, str]:
    """A run with a sealed input and a grant, and what stands in the paths of routes about it."""
    run_id = world.ready_run()
    world.pass_gate(run_id)
    return {
        "run_id": run_id,
        "step": "aggregate",
        "dataset": "visits",
        "pipeline": "nightly",
        "dag_id": "nightly",
        "airflow_run_id": "manual",
        "since": "0",
        "kind": "measurement",
        "subject": MEASUREMENT.hex(),
    }


def contents(world: World) -> dict[str, int]:
    """How many rows each table has."""
    with world.broker.store.transaction() as connection:
        return {table.name: len(connection.execute(table.select()).all()) for table in store.SCHEMA.sorted_tables}


def ask(world: World, route: Route, *, path: dict[str, str], token: str | None) -> httpx.Response:
    """Ask by hand; a run to open is another than the one that there is."""
    claimed = {"dag_id": "nightly", "run_id": "by hand"}
    bodies = {
        OpenRun: OpenRun(pipeline=PIPELINE, slot=None, params={}, claimed=claimed),
        ReleaseRequest: ReleaseRequest(run_id=path["run_id"], dataset="report", recipient="0" * 32),
    }
    body = canonical.encode(bodies[route.body]) if route.body else b""
    client = TestClient(world.app, base_url="https://local", headers={"Authorization": token} if token else {})
    return client.request(route.method, route.path.format(**path), content=body)


@pytest.mark.parametrize("route", TOKEN_ROUTES, ids=name_of)
def test_who_has_no_token_of_this_broker_learns_and_changes_nothing(
    world: World, asked: dict[str, str], route: Route
) -> None:
    before = contents(world)
    for token in (None, "Bearer", "Bearer wrong", "Basic airflow", "bearer\tairflow", "Bearer airflow2"):
        answer = ask(world, route, path=asked, token=token)
        assert (answer.status_code, answer.json()["code"]) == (403, "token_unknown")
        assert asked["run_id"] not in answer.text
    assert contents(world) == before


@pytest.mark.parametrize("route", OF_RUNS, ids=name_of)
def test_a_user_of_another_pipeline_learns_and_changes_nothing(
    world: World, asked: dict[str, str], route: Route
) -> None:
    world.callers[hash_token("second")] = Caller(name="second", pipelines=("payroll",))
    before = contents(world)
    answer = ask(world, route, path=asked, token="Bearer second")
    assert (answer.status_code, answer.json()["code"]) == (403, "out_of_scope")
    assert contents(world) == before


def test_a_user_of_another_pipeline_hears_of_no_change_in_this_one(world: World, asked: dict[str, str]) -> None:
    world.callers[hash_token("second")] = Caller(name="second", pipelines=("payroll",))
    route = next(route for route in TOKEN_ROUTES if "{since}" in route.path)
    seen = ask(world, route, path=asked, token="Bearer airflow").json()["number"]
    world.pass_gate(asked["run_id"])
    told = {
        name: ask(world, route, path=asked | {"since": str(seen)}, token=f"Bearer {name}").json()["runs"]
        for name in ("airflow", "second")
    }
    assert told == {"airflow": [asked["run_id"]], "second": []}
