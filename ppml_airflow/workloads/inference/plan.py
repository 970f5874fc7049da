"""What an inference step binds: which columns feed which tensor of the model, and which tensors become which columns.

The plan is the step's only code file, so it is approved by its digest. Everything in it that concerns the data is
checked before the lease; the model is sealed until then, so what concerns the model can only be checked after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from ppml_airflow.canonical import Document
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.units import Name

PLAN_FILE = "inference.json"

Kind = Literal[
    "label",
    "argmax",
    "max",
    "boolean",
    "int",
    "bigint",
    "float",
    "double",
    "string",
    "array<int>",
    "array<bigint>",
    "array<float>",
    "array<double>",
]
ARROW_TYPES: Mapping[Kind, str] = {
    "label": "string",
    "argmax": "int64",
    "max": "double",
    "boolean": "bool",
    "int": "int32",
    "bigint": "int64",
    "float": "float",
    "double": "double",
    "string": "string",
    "array<int>": "list<element: int32>",
    "array<bigint>": "list<element: int64>",
    "array<float>": "list<element: float>",
    "array<double>": "list<element: double>",
}
_NUMBERS = ("argmax", "max", "int", "bigint", "float", "double")
_NUMBER = re.compile(r"bool|u?int\d+|float|double")
_ELEMENTS = re.compile(r"binary|list<element: (?:bool|u?int\d+|float|double)>")


class Result(Document, frozen=True, kw_only=True):
    """A column of the output: what is taken of a tensor that has a row for each row of the data.

    `argmax` and `max`: position and value of the largest of a row. `label`: the line of the labels file at that
    position. An `array<...>`: the whole row. Any other: the only value of the row.
    """

    column: str
    tensor: str
    kind: Kind


class InferencePlan(Document, frozen=True, kw_only=True):
    """One inference step."""

    model: Name
    """Dataset of the model, a folder of files."""
    model_file: str
    labels_file: str | None
    """A text file beside the model, a label a line."""
    data: Name
    """Dataset of the data, a table."""
    features: Mapping[str, tuple[str, ...]]
    """Tensor -> columns: several numbers, one after the other; or one column whose value is the tensor's row, as a list
    or as bytes (elements of the tensor's type, little-endian)."""
    results: tuple[Result, ...]
    keep: tuple[str, ...]
    """Columns of the data that the output has, too, before the results."""
    at_least: Mapping[str, str]
    """Column of the results -> param of the run: rows below it are left out."""
    batch_rows: int

    def __post_init__(self) -> None:
        if not self.features or not self.results:
            raise ValueError("an inference step binds at least one tensor to columns, and one column to a tensor")
        if not 1 <= self.batch_rows <= 1_000_000:
            raise ValueError(f"batch_rows is {self.batch_rows}; wanted 1 to 1000000")
        if self.labels_file is None and any(result.kind == "label" for result in self.results):
            raise ValueError("a result of kind label needs a labels file")
        numbers = {result.column for result in self.results if result.kind in _NUMBERS}
        if not set(self.at_least) <= numbers:
            raise ValueError(
                f"at_least names {sorted(set(self.at_least) - numbers)[0]}, which is no result with a number"
            )
        names = [name.casefold() for name in (*self.keep, *(result.column for result in self.results))]
        if len(set(names)) != len(names):
            raise ValueError("two columns of the output have the same name, or differ only by case")


def output_columns(plan: InferencePlan, *, data: tuple[Column, ...]) -> tuple[Column, ...]:
    """Check a plan against the data's columns; return those of the output.

    Raises:
        ConfigurationError: code `unknown_column` or `column_type`; says which column, and what there is.
    """
    found = {column.name: column for column in data}
    for tensor, names in plan.features.items():
        for name in names:
            _require_fit(_column(name, found=found, plan=plan).type, name=name, tensor=tensor, alone=len(names) == 1)
    kept = tuple(_column(name, found=found, plan=plan) for name in plan.keep)
    return (*kept, *(Column(name=result.column, type=ARROW_TYPES[result.kind]) for result in plan.results))


def _column(name: str, *, found: Mapping[str, Column], plan: InferencePlan) -> Column:
    if name not in found:
        raise ConfigurationError(
            f"dataset {plan.data} has no column {name}", code="unknown_column", hint=f"it has {', '.join(found)}"
        )
    return found[name]


def _require_fit(kind: str, *, name: str, tensor: str, alone: bool) -> None:
    if not _NUMBER.fullmatch(kind) and not (alone and _ELEMENTS.fullmatch(kind)):
        wanted = "a number, a list of numbers or bytes" if alone else "a number"
        raise ConfigurationError(
            f"column {name} of type {kind} cannot feed tensor {tensor}; wanted {wanted}", code="column_type"
        )
