"""Airflow's params and the owners' params: one has free JSON schemas, the other closed bounds.

A param without bounds is refused: a differencing attack needs many values, and free text is a query by another name,
so only the statement of an adhoc step is text (`format="multiline"`, `maxLength`).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from ppml_airflow.domain.documents import (
    BooleanParam,
    DateParam,
    DecimalParam,
    EnumParam,
    IntegerParam,
    Param,
    ParamValue,
    TextParam,
)
from ppml_airflow.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import DAG
    from airflow.sdk import Param as AirflowParam

_WRITE = {
    "integer": 'Param(30, type="integer", minimum=1, maximum=100)',
    "number": 'Param(0.5, type="number", minimum=0, maximum=1)',
    "string": 'Param("a", type="string", enum=["a", "b"]), or for a date '
    'Param("2026-01-01", type="string", format="date", formatMinimum="2020-01-01", formatMaximum="2030-12-31")',
    "boolean": 'Param(False, type="boolean")',
}


def approved_params(dag: DAG) -> dict[str, Param]:
    """The params of a DAG as an approval lists them.

    Raises:
        ConfigurationError: a param has no type, no default or no bounds.
    """
    return {name: _approved_param(name, dag.params.get_param(name)) for name in sorted(dag.params)}


def run_params(given: Mapping[str, Any], *, dag: DAG) -> dict[str, ParamValue]:
    """The params of a DAG run as the broker wants them: a `number` becomes a decimal string.

    Raises:
        ConfigurationError: a value is neither number, text nor true or false.
    """
    return {name: _value(name, value, schema=_schema(dag, name)) for name, value in given.items()}


def _schema(dag: DAG, name: str) -> Mapping[str, Any]:
    return dag.params.get_param(name).schema if name in dag.params else {}


def _value(name: str, value: Any, *, schema: Mapping[str, Any]) -> ParamValue:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if schema.get("type") == "number" or isinstance(value, float):
            return decimal_text(value)
        return value
    if isinstance(value, bool | str):
        return value
    raise ConfigurationError(
        f"param {name} is a {type(value).__name__}; wanted a number, text, true or false", code="param_type"
    )


def decimal_text(value: int | float) -> str:
    """The one spelling of a number: no exponent, no trailing zeros."""
    return format(Decimal(repr(value)).normalize(), "f")


def _approved_param(name: str, param: AirflowParam) -> Param:
    schema = param.schema
    match schema:
        case {"type": "boolean"}:
            return BooleanParam(default=_default(name, param))
        case {"type": "integer", "minimum": int(minimum), "maximum": int(maximum)}:
            return IntegerParam(minimum=minimum, maximum=maximum, default=_default(name, param))
        case {"type": "number", "minimum": int() | float() as minimum, "maximum": int() | float() as maximum}:
            default = decimal_text(_default(name, param))
            return DecimalParam(minimum=decimal_text(minimum), maximum=decimal_text(maximum), default=default)
        case {"type": "string", "enum": [*choices]} if choices and all(isinstance(choice, str) for choice in choices):
            return EnumParam(choices=tuple(choices), default=_default(name, param))
        case {"type": "string", "format": "date", "formatMinimum": str(minimum), "formatMaximum": str(maximum)}:
            return DateParam(minimum=minimum, maximum=maximum, default=_default(name, param))
        case {"type": "string", "format": "multiline", "maxLength": int(longest)}:
            return TextParam(maximum_characters=longest, default=_default(name, param))
    _refuse(name, schema)


def _default(name: str, param: AirflowParam) -> Any:
    if not param.has_value:
        raise ConfigurationError(
            f"param {name} has no default, and a nightly run has nobody to ask", code="param_default"
        )
    return param.resolve()


def _refuse(name: str, schema: Mapping[str, Any]) -> NoReturn:
    kind = schema.get("type")
    wanted = _WRITE.get(str(kind))
    if wanted is None:
        raise ConfigurationError(
            f"param {name} is of type {kind!r}; an approval knows {', '.join(_WRITE)}",
            code="param_unbounded",
            hint=f"write for example {_WRITE['integer']}",
        )
    raise ConfigurationError(
        f"param {name} of type {kind} has no bounds", code="param_unbounded", hint=f"write for example {wanted}"
    )
