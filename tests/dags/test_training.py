"""What the pipelines that train ask their owners to approve."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Approval, Disclosure, IntegerParam, Output, Step

DAGS = Path(__file__).parents[2] / "dags"
KINDS = {
    "mllib": ("spark-python", "training", "tumours", 2),
    "xgboost": ("spark-python", "training", "visits", 2),
    "torch": ("spark-python", "training", "digits", 3),
    "bigdl": ("python", "bigdl", "digits", 2),
}


def compiled(kind: str) -> Step:
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(DAGS / f"train_{kind}.py")]
    done = subprocess.run([*command, "--domain-id", "sha256:" + "0" * 64], capture_output=True, check=True)
    (step,) = canonical.decode(done.stdout, into=Approval).steps
    return step


@pytest.mark.parametrize("kind", KINDS)
def test_the_approval_bounds_every_number_and_names_the_one_count_that_leaves(kind: str) -> None:
    step = compiled(kind)
    workload, image, dataset, files = KINDS[kind]
    assert (step.workload, step.image) == (workload, image)
    assert [given.dataset for given in step.inputs] == [dataset]
    assert step.outputs == (Output(dataset="model", body="files", recipients=("analyst",), files=files),)
    assert step.disclosed == (Disclosure(name="accuracy_percent", minimum=0, maximum=100),)
    assert step.gates == ("before", "after")
    assert set(step.code) == {"train.py"}
    assert all(isinstance(param, IntegerParam) for param in step.params.values())
    assert {f"{{{name}}}" for name in step.params} < set(step.argv)


@pytest.mark.parametrize("kind", KINDS)
def test_the_job_file_pickles_nothing(kind: str) -> None:
    tree = ast.parse((DAGS / f"train_{kind}" / "train.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cloudpickle", "joblib"}
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.save"
    ]
