"""The shipped form: what it says to who fills it in, and what its owner is asked to sign."""

from __future__ import annotations

from pathlib import Path

from ppml_airflow.operators.compile import load_dag
from tests.support.nightly import approval

DAG_FILE = Path(__file__).parents[2] / "dags" / "adhoc_sql.py"


def test_the_form_has_a_text_area_and_says_who_can_read_the_statement() -> None:
    param = load_dag(DAG_FILE, dag_id=None).params.get_param("statement")
    assert (param.schema["type"], param.schema["format"], param.schema["maxLength"]) == ("string", "multiline", 4000)
    assert "Everybody who sees this Airflow can read the statement" in param.schema["description_md"]
    assert "certificates name both tables" in param.schema["description_md"]


def test_its_one_step_is_adhoc_and_gated() -> None:
    (step,) = approval(load_dag(DAG_FILE, dag_id=None)).steps
    assert (step.name, step.kind, step.gates) == ("ask", "adhoc", ("before", "after"))
    assert [(item.dataset, item.version) for item in step.inputs] == [("visits", "this-run"), ("plans", "this-run")]
