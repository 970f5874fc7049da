from __future__ import annotations

import pytest
from airflow.sdk import DAG, Param

from ppml_airflow.domain.documents import BooleanParam, DateParam, DecimalParam, EnumParam, IntegerParam
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.operators.params import approved_params, decimal_text, run_params


def approved(param: Param):
    return approved_params(DAG("d", schedule=None, params={"p": param}))["p"]


def test_each_bounded_kind_is_approved_with_its_bounds():
    date = Param("2026-01-02", type="string", format="date", formatMinimum="2026-01-01", formatMaximum="2026-12-31")
    assert approved(Param(3, type="integer", minimum=1, maximum=5)) == IntegerParam(minimum=1, maximum=5, default=3)
    assert approved(Param(0.50, type="number", minimum=0, maximum=1.0)) == DecimalParam(
        minimum="0", maximum="1", default="0.5"
    )
    assert approved(Param("a", type="string", enum=["a", "b"])) == EnumParam(choices=("a", "b"), default="a")
    assert approved(Param(True, type="boolean")) == BooleanParam(default=True)
    assert approved(date) == DateParam(minimum="2026-01-01", maximum="2026-12-31", default="2026-01-02")


@pytest.mark.parametrize(
    "param",
    [
        Param("x", type="string"),
        Param(1, type="integer"),
        Param(1, type="integer", minimum=0),
        Param(1.5, type="number", maximum=2),
        Param("2026-01-01", type="string", format="date"),
        Param([1], type="array"),
        Param(1),
        Param(None, type=["null", "integer"], minimum=1, maximum=2),
        Param("a", type="string", enum=[]),
    ],
)
def test_a_param_without_bounds_is_refused_by_name(param):
    with pytest.raises(ConfigurationError, match="param p") as refused:
        approved(param)
    assert refused.value.code == "param_unbounded"
    assert "Param(" in refused.value.hint


def test_a_param_without_default_is_refused():
    with pytest.raises(ConfigurationError, match="no default"):
        approved(Param(type="integer", minimum=1, maximum=2))


def test_numbers_of_a_run_become_decimal_strings_only_where_the_dag_says_number():
    dag = DAG(
        "d",
        schedule=None,
        params={
            "n": Param(1, type="number", minimum=0, maximum=9),
            "i": Param(1, type="integer", minimum=0, maximum=9),
        },
    )
    assert run_params({"n": 1, "i": 1, "b": True, "s": "x"}, dag=dag) == {"n": "1", "i": 1, "b": True, "s": "x"}
    assert run_params({"unknown": 0.25}, dag=dag) == {"unknown": "0.25"}


def test_a_list_as_param_is_refused():
    with pytest.raises(ConfigurationError, match="param p is a list"):
        run_params({"p": [1]}, dag=DAG("d", schedule=None))


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (1e-7, "0.0000001"), (100.0, "100"), (12, "12"), (0.0, "0")])
def test_a_number_has_one_spelling(value, text):
    assert decimal_text(value) == text
