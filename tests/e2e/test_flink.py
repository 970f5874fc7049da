"""`ppml demo` of the Flink DAGs: streams sealed by the owner's agent, counted in an enclave, opened by the recipient.

The tests share one home and run in the order in which they stand.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.commands import Commands, processes_of
from tests.support.stream_answers import page_windows, records, word_counts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def rows(ppml: Commands, *arguments: str) -> list[dict[str, str]]:
    told = ppml("demo", *arguments).stdout
    result = next(line for line in told.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    with Path(result).open(newline="") as file:
        return list(csv.DictReader(file))


def source(ppml: Commands, name: str) -> Path:
    return next(ppml.home.rglob(f"sources/{name}"))


def test_windows_of_event_time_are_those_that_python_counts(ppml: Commands) -> None:
    conf = {"window_s": 1800, "minimum_visitors": 10}
    found = rows(ppml, "--dag", "flink_windows", "--conf", json.dumps(conf))
    answer = {
        (row["window_start"].partition(".")[0], row["page"]): (int(row["clicks"]), int(row["visitors"]))
        for row in found
    }
    assert answer == page_windows(records(source(ppml, "clicks")), **conf)
    assert processes_of(ppml.home) == []


@pytest.mark.slow
def test_words_are_those_that_python_counts(ppml: Commands) -> None:
    conf = {"minimum": 7, "letters": 5}
    found = rows(ppml, "--dag", "flink_word_count", "--conf", json.dumps(conf))
    lines = [str(record["line"]) for record in records(source(ppml, "lines.jsonl"))]
    assert {row["word"]: int(row["n"]) for row in found} == word_counts(lines, **conf)
    assert processes_of(ppml.home) == []


@pytest.mark.slow
def test_a_stream_without_the_column_of_its_event_time_is_refused_in_full(ppml: Commands, tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_text('{"when": "2026-01-01T00:00:00Z", "page": "/", "visitor": 1}\n')
    said = ppml("demo", "--dag", "flink_windows", "--source", f"clicks={path}", expect=1)
    assert "no_event_time" in said.stdout + said.stderr + (ppml.home / "run" / "airflow.log").read_text()
