from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppml_airflow.domain.documents import (
    Approval,
    BooleanParam,
    DateParam,
    DecimalParam,
    EnumParam,
    IntegerParam,
    Param,
    ParamValue,
    TextParam,
)
from ppml_airflow.domain.params import approved_params, check_params, describe_bounds
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from tests.domain.test_documents import make_approval

replace = msgspec.structs.replace

PARAMS: dict[str, Param] = {
    "limit": IntegerParam(minimum=1, maximum=100, default=10),
    "rate": DecimalParam(minimum="-0.50", maximum="1.5", default="0"),
    "since": DateParam(minimum="2026-01-01", maximum="2026-12-31", default="2026-06-01"),
    "plan": EnumParam(choices=("free", "25 percent"), default="free"),
    "exact": BooleanParam(default=False),
}


def approval_with(*params: dict[str, Param]) -> Approval:
    approval = make_approval()
    steps = tuple(replace(approval.steps[0], name=f"step{index}", params=own) for index, own in enumerate(params))
    return replace(approval, steps=steps, edges=())


APPROVAL = approval_with(PARAMS)


def test_defaults_stand_in_for_what_was_not_given() -> None:
    assert check_params(APPROVAL, given={}) == {
        "exact": False,
        "limit": 10,
        "plan": "free",
        "rate": "0",
        "since": "2026-06-01",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 1),
        ("limit", 100),
        ("rate", "-0.5"),
        ("rate", "1.500"),
        ("rate", "1"),
        ("since", "2026-01-01"),
        ("since", "2026-12-31"),
        ("plan", "25 percent"),
        ("exact", True),
    ],
)
def test_a_value_within_bounds_is_taken(name: str, value: ParamValue) -> None:
    assert check_params(APPROVAL, given={name: value})[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0),
        ("limit", 101),
        ("limit", True),
        ("limit", "10"),
        ("limit", None),
        ("rate", "1.51"),
        ("rate", "-0.51"),
        ("rate", 1),
        ("rate", "NaN"),
        ("rate", "Infinity"),
        ("rate", "1e0"),
        ("rate", "1_0"),
        ("rate", " 1"),
        ("rate", "1\n"),
        ("rate", "+1"),
        ("rate", ".5"),
        ("rate", "\uff11"),
        ("rate", ""),
        ("rate", "1; drop"),
        ("rate", "0." + "1" * 31),
        ("since", "2025-12-31"),
        ("since", "2027-01-01"),
        ("since", "2026-1-1"),
        ("since", "20260101"),
        ("since", "2026-W01-1"),
        ("since", "2026-02-30"),
        ("since", "2026-06-01T00:00:00"),
        ("since", 20260601),
        ("plan", "Free"),
        ("plan", ""),
        ("plan", 1),
        ("exact", 1),
        ("exact", "true"),
    ],
)
def test_a_value_out_of_bounds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(PolicyDeniedError, match=f"param {name} is") as refused:
        check_params(APPROVAL, given={name: value})
    assert refused.value.code == "param_out_of_bounds"
    assert describe_bounds(PARAMS[name]) in refused.value.message


@given(st.text(max_size=30))
def test_no_free_text_gets_through(text: str) -> None:
    for name in ("limit", "rate", "since", "plan", "exact"):
        try:
            value = check_params(APPROVAL, given={name: text})[name]
        except PolicyDeniedError:
            continue
        assert isinstance(value, str)
        assert value in ("free", "25 percent") or set(value) <= set("-.0123456789")


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_integers_are_judged_by_their_bounds(value: int) -> None:
    try:
        check_params(APPROVAL, given={"limit": value})
        taken = True
    except PolicyDeniedError:
        taken = False
    assert taken == (1 <= value <= 100)


def test_an_unknown_param_is_refused() -> None:
    with pytest.raises(PolicyDeniedError, match="param other is not in the approval") as refused:
        check_params(APPROVAL, given={"other": 1})
    assert refused.value.code == "param_unknown"


def test_a_default_out_of_bounds_is_refused() -> None:
    approval = approval_with({"limit": IntegerParam(minimum=1, maximum=2, default=3)})
    with pytest.raises(PolicyDeniedError, match="param limit is '3'"):
        check_params(approval, given={})


def test_two_steps_share_a_param_with_the_same_bounds() -> None:
    assert approved_params(approval_with(PARAMS, {"limit": PARAMS["limit"]})) == PARAMS


def test_two_steps_with_other_bounds_for_a_param_are_refused() -> None:
    other = IntegerParam(minimum=1, maximum=200, default=10)
    with pytest.raises(ConfigurationError, match="param limit has different bounds"):
        approved_params(approval_with(PARAMS, {"limit": other}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("limit", "a whole number from 1 to 100"),
        ("rate", "a decimal, as a string, from -0.50 to 1.5"),
        ("since", "a date from 2026-01-01 to 2026-12-31"),
        ("plan", "one of 'free', '25 percent'"),
        ("exact", "true or false"),
    ],
)
def test_bounds_are_described_in_words(name: str, words: str) -> None:
    assert describe_bounds(PARAMS[name]) == words


TEXT = approval_with({"statement": TextParam(maximum_characters=20, default="SELECT 1")})


@pytest.mark.parametrize("value", ["SELECT 1", "x" * 20, "SELECT\n\t'ü中' AS a"])
def test_text_within_its_length_is_taken_as_it_is(value: str) -> None:
    assert check_params(TEXT, given={"statement": value}) == {"statement": value}


@pytest.mark.parametrize(
    "value",
    ["", "x" * 21, 1, True, *(f"SELECT{hidden}1" for hidden in "\x1b\r\b\0\x7f\x9b\u202e\u200b\u2028\ufeff\ud800")],
)
def test_text_that_is_too_long_or_hides_something_is_refused(value: ParamValue) -> None:
    with pytest.raises(PolicyDeniedError, match="any text of 1 to 20 characters that show themselves") as refused:
        check_params(TEXT, given={"statement": value})
    assert refused.value.code == "param_out_of_bounds"
    assert refused.value.message.isprintable()


def test_text_without_a_bound_cannot_be_approved() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "text", "maximum_characters": 10_001, "default": "a"}, TextParam)
