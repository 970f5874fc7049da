"""Params of a run against the bounds that the owners approved: numbers, dates, choices, true or false.

Free text is a query by another name. Only an adhoc step may have it, as its statement, and `domain.adhoc` sees to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation

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
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError

_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
"""`Decimal` reads more: white space, underscores, exponents, digits of other scripts; those would be free text."""

_HIDING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Characters that do not show themselves, or turn others around: a statement would read as another than it is."""


def approved_params(approval: Approval) -> dict[str, Param]:
    """All params of a pipeline's steps.

    Raises:
        ConfigurationError: two steps give the same param different bounds.
    """
    params: dict[str, Param] = {}
    for step in approval.steps:
        for name, param in step.params.items():
            if params.setdefault(name, param) != param:
                raise ConfigurationError(f"param {name} has different bounds in two steps of {approval.pipeline}")
    return params


def check_params(approval: Approval, *, given: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """The params of a run: what was given, checked against the approval, and defaults for the rest.

    Raises:
        PolicyDeniedError: unknown param, wrong type, or out of bounds.
    """
    params = approved_params(approval)
    unknown = sorted(set(given) - set(params))
    if unknown:
        raise PolicyDeniedError(
            f"param {unknown[0]} is not in the approval of {approval.pipeline}, which has: {', '.join(sorted(params))}",
            code="param_unknown",
        )
    return {name: _check(name, param, given.get(name, param.default)) for name, param in sorted(params.items())}


def _check(name: str, param: Param, value: ParamValue) -> ParamValue:
    allowed = describe_bounds(param)
    try:
        within = _is_within(param, value)
    except (ValueError, TypeError, InvalidOperation):
        within = False
    if not within:
        raise PolicyDeniedError(
            f"param {name} is {str(value)[:60]!r}; the approval allows {allowed}",
            code="param_out_of_bounds",
            hint="choose a value within the bounds, or ask the owner to approve wider ones",
        )
    return value


def _is_within(param: Param, value: ParamValue) -> bool:
    match param:
        case BooleanParam():
            return isinstance(value, bool)
        case IntegerParam():
            return isinstance(value, int) and not isinstance(value, bool) and param.minimum <= value <= param.maximum
        case EnumParam():
            return isinstance(value, str) and value in param.choices
        case DecimalParam():
            if not isinstance(value, str) or _PLAIN_DECIMAL.fullmatch(value) is None:
                return False
            return Decimal(param.minimum) <= Decimal(value) <= Decimal(param.maximum)
        case DateParam():
            if not isinstance(value, str) or date.fromisoformat(value).isoformat() != value:
                return False
            return param.minimum <= value <= param.maximum
        case TextParam():
            if not isinstance(value, str) or _HIDING.search(value):
                return False
            return 1 <= len(value) <= param.maximum_characters


def describe_bounds(param: Param) -> str:
    """The bounds in words, for people who approve or were refused."""
    match param:
        case BooleanParam():
            return "true or false"
        case EnumParam():
            return "one of " + ", ".join(map(repr, param.choices))
        case IntegerParam():
            return f"a whole number from {param.minimum} to {param.maximum}"
        case DecimalParam():
            return f"a decimal, as a string, from {param.minimum} to {param.maximum}"
        case DateParam():
            return f"a date from {param.minimum} to {param.maximum}"
        case TextParam():
            return f"any text of 1 to {param.maximum_characters} characters that show themselves"
