"""Parameters of a run as typed values, so that a job gets a date and not the text of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from ppml_airflow.domain.documents import DateParam, DecimalParam, Param, ParamValue
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.job import TypedValue


def typed_params(values: Mapping[str, ParamValue], *, declared: Mapping[str, Param]) -> dict[str, TypedValue]:
    """Give each value the type that the step declares. Bounds are the business of who opened the run.

    Raises:
        ConfigurationError: a value is not declared, or is not of its type.
    """
    typed: dict[str, TypedValue] = {}
    for name, value in values.items():
        if name not in declared:
            raise ConfigurationError(f"param {name} is not declared by the step; declared are: {sorted(declared)}")
        typed[name] = _typed(name, value, declared[name])
    return typed


def typed_literals(params: Mapping[str, TypedValue]) -> dict[str, dict[str, Any]]:
    """Parameters as they cross the socket: a type and a JSON value each."""
    literals: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        match value:
            case bool():
                literals[name] = {"type": "boolean", "value": value}
            case int():
                literals[name] = {"type": "integer", "value": value}
            case Decimal():
                literals[name] = {"type": "decimal", "value": format(value, "f")}
            case date():
                literals[name] = {"type": "date", "value": value.isoformat()}
            case str():
                literals[name] = {"type": "string", "value": value}
    return literals


def _typed(name: str, value: ParamValue, param: Param) -> TypedValue:
    try:
        if isinstance(param, DateParam):
            return date.fromisoformat(str(value))
        if isinstance(param, DecimalParam):
            return Decimal(str(value))
    except (ValueError, InvalidOperation) as error:
        raise ConfigurationError(f"param {name} is {value!r}, not a {type(param).__name__[:-5].lower()}") from error
    return value
