"""Who imports what: nobody the folder `operators` by its top-level name, and nothing Airflow before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ppml_airflow.operators

ROOT = Path(__file__).parents[2]
FOLDERS = ("ppml_airflow", "operators", "plugins", "dags", "tests", "benchmarks", "images")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_nobody_imports_operators_or_plugins_by_their_top_level_name():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    assert [str(path) for path in files if imported(path) & {"operators", "plugins"}] == []


@pytest.mark.parametrize(
    "module", ["ppml_airflow.operators", "ppml_airflow.operators.provider", "ppml_airflow.operators.compile"]
)
def test_airflow_is_not_loaded_before_an_operator_is_used(module):
    probe = f"import sys, {module}; sys.exit('airflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.parametrize("name", ppml_airflow.operators.__all__)
def test_every_name_of_the_public_list_is_there(name):
    assert getattr(ppml_airflow.operators, name).__name__ == name


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = ppml_airflow.operators.Nothing
