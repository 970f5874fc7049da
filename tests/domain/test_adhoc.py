"""What an approval may say of a step whose statement comes from the run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import open_right, require_adhoc_rules, statement_param
from ppml_airflow.domain.documents import Approval, Disclosure, Input, IntegerParam, Output, Step, TextParam
from ppml_airflow.errors import PolicyDeniedError
from tests.domain.test_documents import make_approval
from tests.domain.test_jobs import PINS, RUN, build
from tests.support.adhoc import ASK, ask
from tests.support.simulated_run import AGGREGATE, SUMMARISE

replace = msgspec.structs.replace
TEXT = TextParam(maximum_characters=10, default="a")


def approval_of(*steps: Step) -> Approval:
    return replace(make_approval(), steps=steps, edges=())


def test_a_step_that_is_all_statement_is_allowed() -> None:
    require_adhoc_rules(approval_of(ASK))


def test_an_adhoc_step_may_have_bounded_params_beside_its_statement() -> None:
    limit = IntegerParam(minimum=1, maximum=9, default=5)
    require_adhoc_rules(approval_of(ask(params={**ASK.params, "limit": limit})))


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((replace(AGGREGATE, params={"filter": TEXT}),), "is fixed; its param filter is free text"),
        ((ask(params={}),), "with 0 params of free text"),
        ((ask(params={"one": TEXT, "two": TEXT}),), "with 2 params of free text"),
        ((ask(workload="spark-python"),), "workload spark-python"),
        ((ask(code=AGGREGATE.code),), "has code or arguments"),
        ((ask(argv=("{statement}",)),), "has code or arguments"),
        ((ask(disclosed=(Disclosure(name="rows", minimum=0, maximum=9),)),), "lets out the count rows"),
        ((ASK, ask(name="again")), "is the second adhoc step"),
        ((ASK, SUMMARISE), "reads report, the answer to an adhoc question"),
        ((ask(inputs=(Input(dataset="report", version="head"),)),), "reads report, the answer"),
    ],
)
def test_a_statement_that_would_reach_further_than_its_recipients_is_refused(steps: tuple[Step, ...], why: str) -> None:
    with pytest.raises(PolicyDeniedError, match=why) as refused:
        require_adhoc_rules(approval_of(*steps))
    assert refused.value.code == "adhoc_rules"


def test_the_open_right_of_an_adhoc_step_is_all_that_it_reads() -> None:
    assert open_right(ASK) == {"visits", "plans"}
    assert open_right(AGGREGATE) == frozenset()


def test_only_an_adhoc_step_has_a_statement() -> None:
    assert statement_param(ASK) == "statement"
    assert statement_param(AGGREGATE) is None


def build_adhoc(statement: str) -> Any:
    step = ask(name="aggregate", outputs=(Output(dataset="answer", body="table", recipients=("analyst",), files=1),))
    approval = approval_of(step)
    run = replace(RUN, approval=canonical.digest(approval), params={"statement": statement})
    return build(approval=approval, run=run)


def test_one_changed_character_of_the_statement_is_another_job() -> None:
    first, second = build_adhoc("SELECT 1 FROM visits"), build_adhoc("SELECT 2 FROM visits")
    assert first.params == {"statement": "SELECT 1 FROM visits"}
    assert canonical.digest(first) != canonical.digest(second)


def test_an_approval_against_the_rules_makes_no_job() -> None:
    step = replace(ASK, name="aggregate", workload="spark-python")
    approval = approval_of(step)
    run = replace(RUN, approval=canonical.digest(approval), params={})
    with pytest.raises(PolicyDeniedError, match="only spark-sql"):
        build(approval=approval, run=run, pins=PINS)
