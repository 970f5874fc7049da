"""TPC-H from seal to answer: 22 of 22 are what DuckDB answers on the files that were sealed."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import duckdb
import pytest

from ppml_airflow.cli.sources import demo_source
from tests.support import tpch
from tests.support.commands import Commands
from tests.support.ready_images import CHECKOUT

DAG_FILE = str(CHECKOUT / "dags" / "tpch.py")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def opened(ppml: Commands, output: str) -> Path:
    return ppml.home / "agents" / "recipient" / "opened" / output


def tables(ppml: Commands, scale_factor: str) -> Path:
    return ppml.home / "agents" / "owner" / "sources" / f"tpch-{scale_factor}"


def run(ppml: Commands, *command: str, **params: object) -> str:
    said = ppml(*command, "--conf", json.dumps(params)).stdout
    verify = next(line for line in said.splitlines() if line.startswith("verify: ")).removeprefix("verify: ")
    assert subprocess.run(shlex.split(verify), check=False, capture_output=True).returncode == 0
    return said


def wrong_answers(ppml: Commands, scale_factor: str) -> dict[str, list[str]]:
    """Each answer that differs from DuckDB's, and how."""
    database = tpch.database(tables(ppml, scale_factor))
    found = {
        query: tpch.differences(
            tpch.opened_answer(opened(ppml, f"tpch_{query}.csv")), database.sql(tpch.query_text(query)).fetchall()
        )
        for query in tpch.QUERIES
    }
    return {query: differences for query, differences in found.items() if differences}


def test_22_of_22_answers_are_duckdbs_and_each_has_its_time(ppml: Commands) -> None:
    run(ppml, "demo", "--dag", "tpch", scale_factor="0.01")
    assert wrong_answers(ppml, "0.01") == {}
    timings = duckdb.sql(f"FROM read_csv('{opened(ppml, 'tpch_timings.csv')}')").fetchall()
    assert [(query, number) for query, number, _ in timings] == [(query, 1) for query in tpch.QUERIES]
    assert all(seconds > 0 for _, _, seconds in timings)
    report = (opened(ppml, "tpch_report") / "report.html").read_text()
    assert "TPC-H, scale factor 0.01" in report
    assert report.count("<rect") == 22


@pytest.mark.slow
def test_a_table_that_lacks_a_column_ends_the_run_before_any_key(ppml: Commands, tmp_path: Path) -> None:
    demo_source("nation", folder=tmp_path, params={"scale_factor": "0.01"})
    source, cut = tmp_path / "tpch-0.01" / "nation.parquet", tmp_path / "nation.parquet"
    duckdb.sql(f"COPY (SELECT * EXCLUDE (n_name) FROM '{source}') TO '{cut}' (FORMAT parquet)")  # noqa: S608
    failed = ppml("demo", "--dag", "tpch", "--source", str(cut), expect=1)
    assert "input nation has no column n_name" in failed.stdout
    assert "result:" not in failed.stdout


@pytest.mark.slow
def test_22_of_22_answers_are_duckdbs_at_scale_factor_a_tenth(ppml: Commands) -> None:
    run(ppml, "run", DAG_FILE, scale_factor="0.1")
    assert wrong_answers(ppml, "0.1") == {}


@pytest.mark.slow
def test_of_one_query_in_two_passes_there_are_two_times_and_no_rows_of_others(ppml: Commands) -> None:
    run(ppml, "run", DAG_FILE, query="q06", passes=2)
    wanted = tpch.database(tables(ppml, "0.01")).sql(tpch.query_text("q06")).fetchall()
    assert tpch.differences(tpch.opened_answer(opened(ppml, "tpch_q06.csv")), wanted) == []
    assert tpch.opened_answer(opened(ppml, "tpch_q01.csv")) == []
    timings = duckdb.sql(f"FROM read_csv('{opened(ppml, 'tpch_timings.csv')}')").fetchall()
    assert [(query, number) for query, number, _ in timings] == [("q06", 1), ("q06", 2)]
