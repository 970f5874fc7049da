"""`@task.enclave` from DAG file to opened answer, which is what pandas computes on the same file outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support.answers import require_groups
from tests.support.commands import Commands, processes_of
from tests.support.ready_images import CHECKOUT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DAG_FILE = CHECKOUT / "dags" / "enclave_task.py"
FAILING = """
import pendulum
from airflow.sdk import DAG, task

from ppml_airflow.operators import EncryptOperator


@task.enclave(outputs={"groups": ["analyst"]}, columns={"groups": {"n": "bigint"}})
def fails(visits):
    raise ValueError(f"canary-{visits['mdvis'].sum()}")


with DAG("failing", schedule=None, start_date=pendulum.datetime(2026, 1, 1), max_active_runs=1):
    EncryptOperator(dataset="visits") >> fails()
"""


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(11)
    file = tmp_path_factory.mktemp("source") / "visits.csv"
    pd.DataFrame({"mdvis": random.poisson(4, 5000), "disea": random.gamma(2, 6, 5000).clip(0, 58)}).to_csv(
        file, index=False
    )
    return file


def test_the_answer_is_what_pandas_computes(ppml: Commands, visits: Path) -> None:
    params = {"minimum_people": 17, "often": 5}
    said = ppml("run", str(DAG_FILE), "--source", f"visits={visits}", "--conf", json.dumps(params)).stdout
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    require_groups(Path(result), visits=visits, **params)
    assert processes_of(ppml.home) == []


def test_a_function_that_fails_says_one_word_and_leaves_no_output(ppml: Commands, visits: Path, tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING)
    done = ppml("run", str(file), "--source", f"visits={visits}", expect=2)
    assert "the job's code failed; the sealed log says how" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    newest = ppml.newest_passport()
    assert f"canary-{pd.read_csv(visits)['mdvis'].sum()}" in ppml("logs", newest.stem).stdout


@pytest.mark.slow
def test_a_missing_column_is_named_before_anything_runs(ppml: Commands, tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    file.write_text("mdvis,age\n1,2\n")
    done = ppml("run", str(DAG_FILE), "--source", f"visits={file}", expect=2)
    assert "disea" in done.stderr
