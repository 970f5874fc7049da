"""The small values: parameters, the vocabulary, the registry."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import get_args

import pytest

from ppml_airflow.domain.documents import BooleanParam, DateParam, DecimalParam, EnumParam, IntegerParam, Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.job import JobResult, TableInput, WorkloadJob, require_tables
from ppml_airflow.workloads.params import typed_params
from ppml_airflow.workloads.registry import WORKLOADS, find_workload
from ppml_airflow.workloads.vocabulary import MEANING, Outcome, outcome_of
from tests.support.spark_jobs import CHECKOUT

DECLARED = {
    "low": IntegerParam(minimum=0, maximum=9, default=1),
    "since": DateParam(minimum="2020-01-01", maximum="2030-01-01", default="2020-01-01"),
    "share": DecimalParam(minimum="0", maximum="1", default="0.5"),
    "kind": EnumParam(choices=("a",), default="a"),
    "all": BooleanParam(default=True),
}


def test_params_get_the_types_that_the_step_declares() -> None:
    given = {"low": 3, "since": "2021-02-03", "share": "0.25", "kind": "a", "all": False}
    typed = {"low": 3, "since": date(2021, 2, 3), "share": Decimal("0.25"), "kind": "a", "all": False}
    assert typed_params(given, declared=DECLARED) == typed


@pytest.mark.parametrize(("name", "value"), [("since", "2021-02-30"), ("share", "much"), ("since", 7)])
def test_a_param_of_another_type_is_refused(name: str, value: str | int) -> None:
    with pytest.raises(ConfigurationError, match=f"param {name} is .*, not a (date|decimal)"):
        typed_params({name: value}, declared=DECLARED)


def test_an_undeclared_param_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="param high is not declared by the step"):
        typed_params({"high": 3}, declared=DECLARED)


def test_a_word_outside_the_vocabulary_is_job_failed() -> None:
    words: list[object] = ["Smith, 47", "ok", None, 3, "", "OK", "job_failed"]
    assert {outcome_of(word) for word in words} == {"job_failed"}
    assert outcome_of("cast_error") == "cast_error"


def test_every_word_is_explained() -> None:
    assert set(MEANING) == set(get_args(Outcome))


def test_java_says_words_of_the_vocabulary_alone() -> None:
    source = (CHECKOUT / "jvm" / "src" / "ppml" / "spark" / "Failure.java").read_text()
    said = {word for line in re.findall(r"return .*;", source) for word in re.findall(r'"([a-z_]+)"', line)}
    assert {"cast_error", "input_corrupt", "input_mismatch", "job_failed", "out_of_memory"} == said <= set(MEANING)


def test_a_result_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="compare its outcome"):
        bool(JobResult(outcome="ok"))


def test_an_unknown_workload_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="workload spark-scala is unknown") as caught:
        find_workload("spark-scala")
    assert caught.value.hint == f"known are: {', '.join(WORKLOADS)}"


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_found_where_the_registry_says(name: str) -> None:
    assert callable(find_workload(name).prepare)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_has_a_part_for_members_that_do_not_lead(name: str) -> None:
    assert callable(find_workload(name, index=1).run)


def test_a_stream_is_refused_by_an_engine_that_reads_tables() -> None:
    job = WorkloadJob(
        code=CHECKOUT,
        argv=(),
        params={},
        environment={},
        inputs=(TableInput(view="clicks", columns=(), parts=(), is_stream=True),),
        outputs=(),
        limits=Limits(wall_s=1, memory_mib=1024, cores=1),
    )
    with pytest.raises(ConfigurationError, match="clicks is a stream; Spark reads and writes tables") as refused:
        require_tables(job, engine="Spark")
    assert refused.value.code == "unfit_input"
