"""A query from a file and a program that imports another: both tables are what DuckDB answers on the owner's files."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.answers import USE_OF_DOCTORS, person_years, require_use_of_doctors
from tests.support.commands import Commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PARAMS = {"minimum_diseases": 12, "smallest_group": 700}


@pytest.fixture(scope="module")
def said(ppml: Commands) -> str:
    return ppml("demo", "--dag", "spark_sql", "--conf", json.dumps(PARAMS)).stdout


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("output", USE_OF_DOCTORS)
def test_each_table_is_what_duckdb_answers(output: str, ppml: Commands) -> None:
    require_use_of_doctors(ppml.home, output, **PARAMS)


def test_the_passport_verifies_and_tells_the_disclosed_count(ppml: Commands, said: str) -> None:
    verify = next(line for line in said.splitlines() if line.startswith("verify: ")).removeprefix("verify: ")
    told = subprocess.run(shlex.split(verify), check=True, capture_output=True, text=True).stdout
    rows = person_years(ppml.home, minimum_diseases=PARAMS["minimum_diseases"])
    (count,) = rows.aggregate("count(*)").fetchall()[0]
    assert f"person_years {count}" in told.replace("=", " ").replace(":", "")


@pytest.mark.slow
def test_a_source_that_lacks_a_column_is_named_with_those_that_are_there(ppml: Commands, tmp_path: Path) -> None:
    (tmp_path / "plans.csv").write_text("coinsurance,plan\n0,free care\n")
    failed = ppml("demo", "--dag", "spark_sql", "--source", str(tmp_path / "plans.csv"), expect=1)
    assert "unknown_column" in failed.stdout
    assert "plans has coinsurance, plan" in failed.stdout
    assert "result:" not in failed.stdout
