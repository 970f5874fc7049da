"""TrustedFlinkOperator: what it refuses when a DAG is written, by one line that says what is wanted."""

from __future__ import annotations

from typing import Any

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import TrustedFlinkOperator

SQL = "SELECT page FROM clicks"


def operator(**changed: Any) -> TrustedFlinkOperator:
    given = {"task_id": "count", "sql": SQL, "inputs": ["clicks"], "outputs": {"counts": ["analyst"]}}
    return TrustedFlinkOperator(**{**given, **changed})


def test_event_time_and_settings_stand_in_the_approved_environment() -> None:
    made = operator(event_time={"clicks": "at"}, out_of_order_s=7, conf={"execution.checkpointing.interval": "5 s"})
    assert made.environment == {"execution.checkpointing.interval": "5 s", "event_time.clicks": "at 7"}
    assert (made.workload, made.argv(), made.code_files()) == ("flink-sql", ("query.sql",), {"query.sql": SQL.encode()})


def test_an_output_is_a_table_unless_it_is_named_a_stream() -> None:
    assert operator().body_of("counts") == "table"
    assert operator(streams=["counts"]).body_of("counts") == "stream"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither sql nor application": ({"sql": None}, "exactly one of sql= and application="),
    "both": ({"application": "a.py"}, "exactly one of sql= and application="),
    "arguments to sql": ({"application_args": ["x"]}, "go with application="),
    "no python file": ({"sql": None, "application": "a.sh"}, "is not a .py file"),
    "a template": ({"sql": "SELECT {{ ds }}"}, "another code every night"),
    "two outputs of sql": ({"outputs": {"a": [], "b": []}}, "sql= writes one output"),
    "a folder": ({"folders": ["counts"]}, "folders= is for other engines"),
    "a stream that is no output": ({"streams": ["other"]}, "streams= names other"),
    "event time of no input": ({"event_time": {"other": "at"}}, "event_time= names other"),
    "a setting of somebody else": ({"conf": {"rest.port": "1"}}, "conf rest.port is not allowed"),
    "a container": ({"runtime": "docker"}, "that the docker runtime does not run"),
    "a manager that is replaced": ({"members": 3, "replacements": 1}, "replacements= is refused"),
    "too little memory": ({"memory": "1g"}, "at least 1536m"),
}


@pytest.mark.parametrize(("changed", "told"), REFUSED.values(), ids=REFUSED)
def test_what_a_step_cannot_be_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        operator(**changed)
    assert told in refused.value.message
