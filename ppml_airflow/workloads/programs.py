"""Programs in Python, judged before the lease: every code file is compiled, nothing is imported, nothing runs.

The outputs stand in the program's text as a literal, the columns of tables as Spark SQL writes types:

    OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}, "model": "files"}

So may what it wants of its inputs (`declared_inputs`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.declared_inputs import FILES, SPARK_OF_SQL, require_declared_inputs
from ppml_airflow.workloads.job import WorkloadJob
from ppml_airflow.workloads.spark.types import arrow_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTable:
    """A table as a program declares it: its columns as written there, and as a manifest names them."""

    written: Mapping[str, str]
    columns: tuple[Column, ...]


def require_program(job: WorkloadJob, *, workload: str, private: Path) -> None:
    """Refuse a step whose argv names no program, or whose code lies outside the private directory.

    Raises:
        ConfigurationError: says which.
    """
    if not job.argv or not job.argv[0].endswith(".py") or not (job.outputs or job.folders):
        raise ConfigurationError(
            f"{workload} step has argv {list(job.argv)} and {len(job.outputs) + len(job.folders)} outputs; wanted the"
            " name of a .py file, its arguments, and at least one output"
        )
    if not job.code.resolve().is_relative_to(private.resolve()):
        raise ConfigurationError(f"code folder {job.code} is not inside the private directory")


def judge_program(job: WorkloadJob) -> dict[str, DeclaredTable]:
    """Compile every code file and read the tables that the program declares, which must be the step's.

    Raises:
        ConfigurationError: a syntax error (file, line, column); outputs missing, unknown or not literal;
            inputs that are not what the program wants.
    """
    trees = {file: _compiled(file, folder=job.code) for file in sorted(job.code.rglob("*.py"))}
    program = job.argv[0]
    if job.code / program not in trees:
        raise ConfigurationError(f"program {program} is not among the step's code files")
    declared = _declared_outputs(trees[job.code / program], program=program)
    inputs = _literal(trees[job.code / program], name="INPUTS")
    if inputs is not None:
        require_declared_inputs(inputs, job=job, program=program)
    folders = {name for name, columns in declared.items() if columns == FILES}
    if (set(declared) - folders, folders) != (
        {output.dataset for output in job.outputs},
        {output.dataset for output in job.folders},
    ):
        wanted = {output.dataset: "columns" for output in job.outputs} | {
            folder.dataset: FILES for folder in job.folders
        }
        raise ConfigurationError(f"{program} declares outputs {_shapes(declared)}; the step has {wanted}")
    return {
        name: DeclaredTable(written=columns, columns=_columns(name, columns))
        for name, columns in declared.items()
        if not isinstance(columns, str)
    }


def _shapes(declared: Mapping[str, Mapping[str, str] | str]) -> dict[str, str]:
    return {name: columns if isinstance(columns, str) else "columns" for name, columns in declared.items()}


def _compiled(file: Path, *, folder: Path) -> ast.Module:
    name = file.relative_to(folder).as_posix()
    try:
        tree = ast.parse(file.read_bytes(), filename=name)
        compile(tree, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigurationError(
            f"{name}: line {error.lineno}, column {error.offset}: {error.msg}", code="python_syntax"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} does not compile: {error}", code="python_syntax") from error
    return tree


def _declared_outputs(tree: ast.Module, *, program: str) -> dict[str, dict[str, str] | str]:
    value = _literal(tree, name="OUTPUTS")
    if isinstance(value, dict) and all(isinstance(found, dict) or found == FILES for found in value.values()):
        return {str(name): _written(found) for name, found in value.items()}
    raise ConfigurationError(
        f"{program} does not say what its outputs are",
        hint='write at the top, as a literal: OUTPUTS = {"report": {"plan": "string", "visits": "bigint"},'
        ' "model": "files"}',
    )


def _literal(tree: ast.Module, *, name: str) -> Any:
    """What a program assigns to a name at its top; None if nothing, or `...` if not a literal."""
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in targets] == [name]:
            try:
                return ast.literal_eval(statement.value)
            except ValueError:
                return ...
    return None


def _written(found: Any) -> dict[str, str] | str:
    return {str(name): str(kind) for name, kind in found.items()} if isinstance(found, dict) else FILES


def _columns(dataset: str, declared: Mapping[str, str]) -> tuple[Column, ...]:
    fields = []
    for name, type_name in declared.items():
        is_decimal = re.fullmatch(r"decimal\(\d{1,2},\d{1,2}\)", type_name)
        if type_name not in SPARK_OF_SQL and not is_decimal:
            raise ConfigurationError(
                f"output {dataset} declares column {name} as {type_name}; wanted one of"
                f" {', '.join(SPARK_OF_SQL)}, decimal(p,s)"
            )
        fields.append({"name": name, "type": type_name if is_decimal else SPARK_OF_SQL[type_name]})
    if not fields:
        raise ConfigurationError(f"output {dataset} declares no column")
    return arrow_columns(fields, dataset=dataset)
