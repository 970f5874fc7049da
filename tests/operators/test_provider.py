from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.operators.provider import get_provider_info


@pytest.mark.parametrize(
    ("command", "line"),
    [(["providers", "list"], "ppml-airflow"), (["providers", "hooks"], "ppml_airflow.operators.hook.PpmlHook")],
)
def test_airflow_lists_the_provider_and_its_hook(command, line):
    answer = subprocess.run(
        [sys.executable, "-m", "airflow", *command, "--output", "plain"],
        env={**os.environ, "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert line in answer.stdout


def test_the_form_has_a_field_for_everything_that_the_hook_reads():
    (kind,) = get_provider_info()["connection-types"]
    assert kind["connection-type"] == PpmlHook.conn_type
    assert kind["hook-name"] == PpmlHook.hook_name
    assert set(kind["conn-fields"]) == {
        "storage",
        "quoting",
        "owner_agent",
        "model_owner_agent",
        "recipient_agent",
        "passports",
        "runtime",
        "patience_s",
    }


def test_airflow_accepts_the_provider_by_its_own_schema():
    import json
    from importlib.resources import files

    import jsonschema

    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
