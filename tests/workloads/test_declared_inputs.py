"""What programs declare of their inputs, against what the step grants."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.workloads.declared_inputs import require_declared_inputs
from ppml_airflow.workloads.job import FilesInput, FilesOutput, TableInput, WorkloadJob
from ppml_airflow.workloads.programs import judge_program

COLUMNS = {"sick": "int64", "age": "double", "dose": "decimal128(9, 2)", "name": "string"}


def a_job(folder: Path, *, program: str = "") -> WorkloadJob:
    (folder / "train.py").write_text(program)
    columns = tuple(Column(name=name, type=kind) for name, kind in COLUMNS.items())
    return WorkloadJob(
        code=folder,
        argv=("train.py",),
        params={},
        environment={},
        inputs=(TableInput(view="people", columns=columns, parts=()),),
        outputs=(),
        limits=Limits(wall_s=60, memory_mib=1024, cores=1),
        files=(FilesInput(dataset="model"),),
        folders=(FilesOutput(dataset="better", files=1),),
    )


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"model": "files"},
        {"people": {}},
        {"people": {"sick": "bigint", "age": "double", "name": "string"}},
        {"people": {"sick": "whole number", "age": "number", "dose": "decimal(9,2)"}},
        {"people": {"name": "string", "*": "number"}},
    ],
    ids=str,
)
def test_inputs_that_are_as_declared_are_taken(declared: object, tmp_path: Path) -> None:
    require_declared_inputs(declared, job=a_job(tmp_path), program="train.py")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"visits": {}}, "reads visits as a table; the step's inputs are: model, people"),
        ({"people": "files"}, "reads people as a folder of files"),
        ({"model": {}}, "reads model as a table"),
        ({"people": {"ill": "bigint"}}, "input people has no column ill; it has: sick, age, dose, name"),
        ({"people": {"age": "whole number"}}, "column age of input people has type double; wanted is whole number"),
        ({"people": {"*": "number"}}, "column name of input people has type string; wanted is number"),
        ({"people": {"dose": "decimal(9,3)"}}, r"type decimal128\(9, 2\); wanted is decimal\(9,3\)"),
    ],
    ids=str,
)
def test_an_input_that_is_not_as_declared_is_named_with_what_was_wanted(
    declared: object, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        require_declared_inputs(declared, job=a_job(tmp_path), program="train.py")
    assert refused.value.code == "input_mismatch"


@pytest.mark.parametrize("declared", [..., [], {"people": "table"}, {"people": {"age": "text"}}], ids=str)
def test_a_declaration_that_says_nothing_is_refused(declared: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not say properly what its inputs are"):
        require_declared_inputs(declared, job=a_job(tmp_path), program="train.py")


@pytest.mark.parametrize("inputs", ["{'people': {'ill': 'bigint'}}", "dict(people={})"])
def test_a_program_is_judged_by_what_it_declares(inputs: str, tmp_path: Path) -> None:
    outputs = "OUTPUTS = {'better': 'files'}\n"
    assert judge_program(a_job(tmp_path, program=outputs)) == {}
    with pytest.raises(ConfigurationError, match=r"no column ill|not say properly"):
        judge_program(a_job(tmp_path, program=f"INPUTS = {inputs}\n{outputs}"))
