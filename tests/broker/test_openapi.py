"""Requests made up from the OpenAPI document: an answer for each, and nothing is changed by one that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from starlette.testclient import TestClient

from ppml_airflow import canonical
from ppml_airflow.protocol.messages import Problem
from tests.broker.test_routes import contents
from tests.support.broker_world import World

STORES = ("sqlite",)
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "broker-api.json"
OPERATIONS = {
    operation.ok().label: operation.ok()
    for operation in schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text())).get_all_operations()
}
unhurried = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


ASKED = [
    pytest.param(name, mode, id=f"{name}-{mode.value}")
    for name, operation in OPERATIONS.items()
    for mode in GenerationMode
    if operation.body or (operation.path_parameters and mode == GenerationMode.POSITIVE)
]
"""What is described as text can be no other than that, so there is nothing malformed to be made up of it."""


@pytest.mark.parametrize(("name", "mode"), ASKED)
def test_whatever_is_asked_is_answered_and_what_is_refused_changes_nothing(
    world: World, name: str, mode: GenerationMode
) -> None:
    world.pass_gate(world.ready_run())
    client = TestClient(
        world.app, base_url="https://local", headers={"Authorization": "Bearer airflow"}, raise_server_exceptions=False
    )

    @unhurried
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        before = contents(world)
        made = case.as_transport_kwargs(base_url="https://local")
        headers = {key: value for key, value in made["headers"].items() if key.lower() != "authorization"}
        answer = client.request(
            made["method"], made["url"], params=made.get("params"), json=made.get("json"), headers=headers
        )
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400 and answer.headers["content-type"] == "application/problem+json":
            assert canonical.decode(answer.content, into=Problem).code
        if answer.status_code >= 400:
            assert contents(world) == before

    ask()
