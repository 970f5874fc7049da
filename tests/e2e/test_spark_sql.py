"""A query from a file and a program that imports another: both tables are what DuckDB answers on the owner's files."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import duckdb
import pytest

from tests.support import tpch
from tests.support.commands import Commands

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PERSON_YEARS = """
    SELECT plan, mdvis, CASE WHEN hlthp = 1 THEN 'poor' WHEN hlthf = 1 THEN 'fair' WHEN hlthg = 1 THEN 'good'
        ELSE 'excellent' END AS health
    FROM read_csv('{sources}/visits.csv') JOIN read_csv('{sources}/plans.csv')
        ON individual_deductible = idp AND coinsurance = round(exp(lncoins)) - 1
    WHERE disea >= {diseases}
"""


@pytest.fixture(scope="module")
def said(ppml: Commands) -> str:
    conf = {"minimum_diseases": 12, "smallest_group": 700}
    return ppml("demo", "--dag", "spark_sql", "--conf", json.dumps(conf)).stdout


@pytest.fixture(scope="module")
def person_years(ppml: Commands, said: str) -> duckdb.DuckDBPyRelation:
    sources = ppml.home / "agents" / "owner" / "sources"
    return duckdb.sql(PERSON_YEARS.format(sources=sources, diseases=12))


def opened(ppml: Commands, output: str) -> tpch.Rows:
    return tpch.opened_answer(ppml.home / "agents" / "recipient" / "opened" / f"{output}.csv")


@pytest.mark.parametrize(
    ("output", "columns", "group"),
    [
        ("use_by_plan", "plan, count(*), avg(mdvis), median(mdvis)", "plan"),
        ("use_by_health", "health, count(*), avg(mdvis)", "health"),
    ],
)
def test_each_table_is_what_duckdb_answers(
    output: str, columns: str, group: str, ppml: Commands, person_years: duckdb.DuckDBPyRelation
) -> None:
    wanted = [row for row in person_years.aggregate(columns, group).order(group).fetchall() if row[1] >= 700]
    assert len(wanted) > 1
    assert tpch.differences(opened(ppml, output), wanted) == []


def test_the_passport_verifies_and_tells_the_disclosed_count(said: str, person_years: duckdb.DuckDBPyRelation) -> None:
    verify = next(line for line in said.splitlines() if line.startswith("verify: ")).removeprefix("verify: ")
    told = subprocess.run(shlex.split(verify), check=True, capture_output=True, text=True).stdout
    (count,) = person_years.aggregate("count(*)").fetchall()[0]
    assert f"person_years {count}" in told.replace("=", " ").replace(":", "")


@pytest.mark.slow
def test_a_source_that_lacks_a_column_is_named_with_those_that_are_there(ppml: Commands, tmp_path: Path) -> None:
    (tmp_path / "plans.csv").write_text("coinsurance,plan\n0,free care\n")
    failed = ppml("demo", "--dag", "spark_sql", "--source", str(tmp_path / "plans.csv"), expect=1)
    assert "unknown_column" in failed.stdout
    assert "plans has coinsurance, plan" in failed.stdout
    assert "result:" not in failed.stdout
