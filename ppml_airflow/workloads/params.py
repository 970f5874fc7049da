"""Parameters of a run as typed values, so that a job gets a date and not the text of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation

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


def _typed(name: str, value: ParamValue, param: Param) -> TypedValue:
    try:
        if isinstance(param, DateParam):
            return date.fromisoformat(str(value))
        if isinstance(param, DecimalParam):
            return Decimal(str(value))
    except (ValueError, InvalidOperation) as error:
        raise ConfigurationError(f"param {name} is {value!r}, not a {type(param).__name__[:-5].lower()}") from error
    return value
