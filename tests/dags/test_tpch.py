"""The shipped TPC-H: which files are approved, that its queries and tables fit, and its report."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.sources import demo_source
from ppml_airflow.domain.documents import Approval, EnumParam, IntegerParam
from tests.support import tpch

DAG_FILE = tpch.DAG_FOLDER.with_suffix(".py")


@pytest.fixture(scope="module")
def approval() -> Approval:
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(DAG_FILE)]
    done = subprocess.run([*command, "--domain-id", "sha256:" + "0" * 64], capture_output=True, check=True)
    return canonical.decode(done.stdout, into=Approval)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for table in tpch.TABLES:
        demo_source(table, folder=folder, params={"scale_factor": "0.01"})
    return folder / "tpch-0.01"


def declared(name: str) -> dict[str, dict[str, str]]:
    """A literal of the program, which is not imported: it runs in Spark alone."""
    for statement in ast.parse((tpch.DAG_FOLDER / "queries.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            found: dict[str, dict[str, str]] = ast.literal_eval(statement.value)
            return found
    raise AssertionError(f"queries.py has no {name}")


def test_the_approval_names_every_query_by_its_digest(approval: Approval) -> None:
    (step,) = approval.steps
    assert {name for name in step.code if name.endswith(".sql")} == {f"{query}.sql" for query in tpch.QUERIES}
    assert step.code == {name: canonical.digest_bytes((tpch.DAG_FOLDER / name).read_bytes()) for name in step.code}
    assert step.argv == ("queries.py",)


def test_the_approval_bounds_what_a_run_may_choose(approval: Approval) -> None:
    (step,) = approval.steps
    assert step.params == {
        "scale_factor": EnumParam(choices=("0.01", "0.1", "1"), default="0.01"),
        "query": EnumParam(choices=("all", *tpch.QUERIES), default="all"),
        "passes": IntegerParam(minimum=1, maximum=10, default=1),
    }


def test_answers_timings_and_report_have_outputs_of_their_own(approval: Approval) -> None:
    (step,) = approval.steps
    bodies = {output.dataset: output.body for output in step.outputs}
    assert bodies == {name: "files" if columns == "files" else "table" for name, columns in declared("OUTPUTS").items()}
    assert len(bodies) == 24


@pytest.mark.parametrize("query", tpch.QUERIES)
def test_a_query_runs_on_the_tables_and_has_the_declared_columns(query: str, tables: Path) -> None:
    answer = tpch.database(tables).sql(tpch.query_text(query))
    assert answer.columns == list(declared("OUTPUTS")[f"tpch_{query}"])
    assert answer.fetchall() != []


def test_the_tables_have_the_columns_that_the_program_wants(tables: Path) -> None:
    database = tpch.database(tables)
    for table, columns in declared("INPUTS").items():
        assert set(columns) <= set(database.table(table).columns)


def test_tables_of_other_scale_factors_lie_beside(tables: Path) -> None:
    database = tpch.database(tables.with_name("tpch-0.1"))
    assert database.sql("SELECT count(*) FROM lineitem").fetchall() == [(600_572,)]


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tpch_report", tpch.DAG_FOLDER / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_has_a_bar_for_each_query_as_long_as_its_median(report: ModuleType) -> None:
    timings = [("q01", 1, 9.0), ("q02", 1, 1.0), ("q01", 2, 2.0), ("q02", 2, 1.0), ("q01", 3, 4.0), ("q02", 3, 1.0)]
    page = report.page(timings, suppliers=100)
    assert "scale factor 0.01" in page
    assert "2 queries on sealed tables, 3 passes; all together 5.0 s" in page
    assert page.count("<rect") == 2
    assert 'width="640.0"' in page
    assert 'width="160.0"' in page


def test_the_report_needs_nothing_from_the_network(report: ModuleType) -> None:
    page = report.page([("q01", 1, 1.0)], suppliers=100).replace("http://www.w3.org/2000/svg", "")
    assert "http" not in page
    assert "<script" not in page
