"""The shipped Flink DAGs: short, and their approvals say what runs, over which streams, within which bounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.sources import demo_source
from ppml_airflow.domain.documents import Approval, IntegerParam, Output, Step
from ppml_airflow.sealing.streams import open_stream_source
from tests.support.stream_answers import page_windows, records, word_counts

DAGS = Path(__file__).parents[2] / "dags"


def compiled(name: str) -> Step:
    command = [sys.executable, "-m", "ppml_airflow.operators.compile", str(DAGS / f"{name}.py")]
    done = subprocess.run([*command, "--domain-id", "sha256:" + "0" * 64], capture_output=True, check=True)
    (step,) = canonical.decode(done.stdout, into=Approval).steps
    return step


@pytest.mark.parametrize("name", ["flink_windows", "flink_word_count"])
def test_a_dag_has_at_most_45_lines(name: str) -> None:
    assert len((DAGS / f"{name}.py").read_text().splitlines()) <= 45


def test_the_approval_of_windows_names_query_stream_and_event_time() -> None:
    step = compiled("flink_windows")
    query = (DAGS / "flink_windows" / "windows.sql").read_bytes()
    assert (step.image, step.workload, step.argv) == ("flink", "flink-sql", ("query.sql",))
    assert step.code == {"query.sql": canonical.digest_bytes(query)}
    assert step.environment == {"event_time.clicks": "at 30"}
    assert step.params["window_s"] == IntegerParam(minimum=1, maximum=86_400, default=600)
    assert step.outputs == (Output(dataset="page_windows", body="stream", recipients=("analyst",), files=1),)
    assert step.gates == ("before", "after")


def test_the_approval_of_words_names_the_program() -> None:
    step = compiled("flink_word_count")
    program = (DAGS / "flink_word_count" / "count.py").read_bytes()
    assert (step.image, step.workload, step.argv) == ("flink", "flink-python", ("count.py",))
    assert step.code == {"count.py": canonical.digest_bytes(program)}
    assert step.outputs == (Output(dataset="words", body="table", recipients=("analyst",), files=1),)


def test_the_demos_streams_can_be_sealed_and_give_an_answer(tmp_path: Path) -> None:
    clicks, lines = (demo_source(name, folder=tmp_path) for name in ("clicks", "lines"))
    assert [len(files) for files in open_stream_source(clicks).partitions] == [3, 3]
    assert len(page_windows(records(clicks), window_s=3600, minimum_visitors=3)) > 100
    text = [str(record["line"]) for record in records(lines)]
    assert word_counts(text, minimum=5, letters=4)["airflow"] > 20
