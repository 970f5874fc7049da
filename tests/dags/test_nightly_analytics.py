"""The shipped DAG: short, quick to parse, and its SQL says what pandas says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import yaml

from ppml_airflow.cli.sources import demo_source, plan_name

DAG_FILE = Path(__file__).parents[2] / "dags" / "nightly_analytics.py"
QUESTION = yaml.safe_load(DAG_FILE.with_suffix(".yaml").read_text())
PARSE_TIME_BOUND_S = 1.0
PARSE = """
import importlib.util, os, sys, time
import airflow.sdk
for path in sys.argv[1:]:
    child = os.fork()  # each is parsed in a process that has imported Airflow and nothing else
    if child == 0:
        started = time.process_time()
        spec = importlib.util.spec_from_file_location("dag_file", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        print(path, time.process_time() - started, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
DAG_FILES = sorted(DAG_FILE.parent.glob("*.py"))


def write_sources(folder):
    return {name: demo_source(name, folder=folder) for name in ("plans", "visits")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def parse_times(tmp_path_factory):
    """Seconds of CPU that each DAG file takes, by its path."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    command = [sys.executable, "-c", PARSE, *map(str, DAG_FILES)]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    told = [line.split() for line in answer.stdout.splitlines() if line.startswith(str(DAG_FILE.parent))]
    return {path: float(seconds) for path, seconds in told}


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_is_parsed_within_a_second_of_cpu_after_airflow(path, parse_times):
    assert parse_times[str(path)] < PARSE_TIME_BOUND_S


def test_the_dag_has_at_most_40_lines():
    assert len(DAG_FILE.read_text().splitlines()) <= 40


def test_the_sources_are_the_whole_experiment(sources):
    visits = pd.read_csv(sources["visits"])
    assert visits.shape == (20190, 10)
    assert list(pd.read_csv(sources["plans"])["plan"]) == [
        "free care",
        "free care, individual deductible",
        "25% coinsurance",
        "50% coinsurance",
        "95% coinsurance",
        "100% coinsurance, individual deductible",
    ]


def test_sources_written_again_are_the_same_bytes(sources, tmp_path):
    again = write_sources(tmp_path)
    assert {name: path.read_bytes() for name, path in again.items()} == {
        name: path.read_bytes() for name, path in sources.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans.csv", "visits.csv"]


@pytest.mark.parametrize(("people", "diseases"), [(30, 0), (1000, 0), (100, 20), (10, 60)])
def test_the_query_answers_what_pandas_answers(sources, people, diseases):
    database = duckdb.connect()
    for name in QUESTION["tables"]:
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_csv('{sources[name]}')")  # noqa: S608
    query = re.sub(r":(minimum_\w+)", r"$\1", QUESTION["sql"])
    answer = database.execute(query, {"minimum_people": people, "minimum_diseases": diseases}).df()
    expected = by_pandas(pd.read_csv(sources["visits"]), people=people, diseases=diseases)
    assert list(answer.columns) == list(expected.columns)
    assert answer["plan"].tolist() == expected["plan"].tolist()
    assert answer["person_years"].tolist() == expected["person_years"].tolist()
    for column in expected.columns[2:]:
        np.testing.assert_allclose(answer[column].astype(float), expected[column], atol=0.0051)


def by_pandas(visits, *, people, diseases):
    kept = visits[visits["disea"] >= diseases]
    coinsurance = np.exp(kept["lncoins"]).round().astype(int) - 1
    plans = [plan_name(share, has_deductible=bool(idp)) for share, idp in zip(coinsurance, kept["idp"], strict=True)]
    groups = kept.assign(plan=plans, none=kept["mdvis"] == 0).groupby("plan")
    answer = groups.agg(
        person_years=("mdvis", "size"),
        visits_a_year=("mdvis", "mean"),
        share_without_visit=("none", "mean"),
        chronic_diseases=("disea", "mean"),
    )
    return answer[answer["person_years"] >= people].sort_index().reset_index()
