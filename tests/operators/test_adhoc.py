"""A step that takes its statement from the run: what an author writes, and what its owner is asked to sign."""

from __future__ import annotations

from typing import Any

import pendulum
import pytest
from airflow.sdk import DAG, Param

from ppml_airflow.domain.documents import TextParam
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators import EncryptOperator, TrustedSparkSubmitOperator
from tests.support.nightly import approval

STATEMENT = Param("SELECT 1 AS one", type="string", format="multiline", maxLength=100)
ASK = {"task_id": "ask", "sql_param": "statement", "inputs": ["visits"], "outputs": {"answer": ["analyst"]}}
COUNT = {"task_id": "count", "sql": "SELECT count(*) AS n FROM visits", "inputs": ["visits"], "outputs": {"n": ["a"]}}


def dag_of(*steps: dict[str, Any], **params: Param) -> DAG:
    start = pendulum.datetime(2026, 1, 1, tz="UTC")
    with DAG("asked", schedule=None, start_date=start, catchup=False, params=params) as dag:
        sealed = EncryptOperator(dataset="visits")
        for step in steps:
            sealed >> TrustedSparkSubmitOperator(**step)
    return dag


def test_the_step_is_all_statement() -> None:
    (step,) = approval(dag_of(ASK, statement=STATEMENT)).steps
    assert (step.kind, step.workload, step.code, step.argv) == ("adhoc", "spark-sql", {}, ())
    assert step.params == {"statement": TextParam(maximum_characters=100, default="SELECT 1 AS one")}


def test_a_fixed_step_beside_it_never_sees_the_text() -> None:
    age = Param(18, type="integer", minimum=0, maximum=120)
    ask, count = approval(dag_of(ASK, COUNT, statement=STATEMENT, age=age)).steps
    assert set(ask.params) == {"statement", "age"}
    assert (count.kind, set(count.params)) == ("fixed", {"age"})


def test_text_that_is_no_statement_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="param statement is free text, and no step takes it") as refused:
        approval(dag_of(COUNT, statement=STATEMENT))
    assert "sql_param='statement'" in refused.value.hint


@pytest.mark.parametrize(
    "param",
    [
        Param("SELECT 1", type="string"),
        Param("SELECT 1", type="string", format="multiline"),
        Param("SELECT 1", type="string", maxLength=100),
    ],
)
def test_text_without_a_length_or_not_meant_as_text_is_refused(param: Param) -> None:
    with pytest.raises(ConfigurationError) as refused:
        approval(dag_of(ASK, statement=param))
    assert refused.value.code == "param_unbounded"


@pytest.mark.parametrize(
    ("changes", "params", "match"),
    [
        ({}, {}, "with 0 params of free text"),
        ({"disclosed": {"rows": (0, 9)}}, {"statement": STATEMENT}, "lets out the count rows"),
        ({"inputs": ["visits", "answer"]}, {"statement": STATEMENT}, "reads answer, the answer to an adhoc question"),
    ],
)
def test_what_breaks_the_rules_is_refused_when_compiled(
    changes: dict[str, Any], params: dict[str, Param], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match) as refused:
        approval(dag_of(ASK | changes, **params))
    assert refused.value.code == "adhoc_rules"


@pytest.mark.parametrize("more", [{"sql": "SELECT 1"}, {"application": "job.py"}])
def test_a_step_asks_in_one_way(more: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of"):
        TrustedSparkSubmitOperator(**ASK, **more)


@pytest.mark.parametrize("more", [{"application_args": ["1"]}, {"outputs": {"a": [], "b": []}}])
def test_a_statement_has_no_arguments_and_one_answer(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TrustedSparkSubmitOperator(**{**ASK, **more})
