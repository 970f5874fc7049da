"""A Python program on a real cluster: approved text in, a sealed table out, one word when it fails."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.flink.python import FlinkPython
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import JobResult, TableOutput, TypedValue
from tests.support.flink_jobs import CHECKOUT, StreamWorld, find_environment

COUNT = (CHECKOUT / "dags" / "flink_word_count" / "count.py").read_text()
TEXT = (CHECKOUT / "README.md").read_text().splitlines()


@pytest.fixture
def engine(tmp_path: Path, flink: ImageInstallation) -> ImageInstallation:
    """Only what lies in the engine's own environment is there for the program to import."""
    found = next(find_environment().glob("lib/python3.*/site-packages/ppml_airflow/workloads"))
    assert sorted(path.name for path in found.rglob("*.py")) == ["__init__.py", "__init__.py", "api.py", "job_api.py"]
    for name in ("job_api.py", "flink/api.py"):
        if (found / name).read_bytes() != (CHECKOUT / "ppml_airflow" / "workloads" / name).read_bytes():
            pytest.skip(f"the Flink image has an older {name}: ppml image set-up flink")
    return flink


def run(
    world: StreamWorld, program: str, *, flink: ImageInstallation, params: dict[str, TypedValue] | None = None
) -> JobResult:
    job = world.job({"count.py": program}, params=params)
    workload = FlinkPython(job, installation=flink, private=world.private, log=world.log)
    try:
        workload.prepare()
        return workload.run(keys=world.keys(), on_progress=lambda percent: None)
    finally:
        workload.close()


def test_the_shipped_program_counts_what_python_counts(world: StreamWorld, engine: ImageInstallation) -> None:
    world.output = TableOutput(dataset="words", files=2)
    world.seal("lines", {"line": "string"}, [[{"line": line} for line in TEXT]])
    result = run(world, COUNT, flink=engine, params={"minimum": 3, "letters": 3})
    assert result.outcome == "ok", world.log.read_text()[-3000:]
    rows = world.open(result.outputs["words"], columns=())
    words = Counter(word for line in TEXT for word in re.findall(r"[a-z]+", line.lower()) if len(word) >= 3)
    assert {row["word"]: row["n"] for row in rows} == {word: n for word, n in words.items() if n >= 3}
    assert len(rows) == len({row["word"] for row in rows})


@pytest.mark.slow
def test_a_program_that_fails_says_one_word(world: StreamWorld, engine: ImageInstallation) -> None:
    world.output = TableOutput(dataset="words", files=1)
    world.seal("lines", {"line": "string"}, [[{"line": "canary-77aa"}]])
    program = COUNT.replace("yield word", "raise ValueError(line)")
    result = run(world, program, flink=engine, params={"minimum": 1, "letters": 1})
    assert (result.outcome, result.outputs) == ("job_failed", {})


def test_a_stream_without_the_column_that_the_program_reads_is_refused_before_the_lease(
    world: StreamWorld, flink: ImageInstallation
) -> None:
    world.output = TableOutput(dataset="words", files=1)
    world.seal("lines", {"text": "string"}, [[{"text": "x"}]])
    workload = FlinkPython(world.job({"count.py": COUNT}), installation=flink, private=world.private, log=world.log)
    try:
        with pytest.raises(ConfigurationError, match="input lines has no column line; it has: text") as refused:
            workload.prepare()
    finally:
        workload.close()
    assert refused.value.code == "input_mismatch"


def test_a_program_is_compiled_and_not_run_before_the_lease(world: StreamWorld, flink: ImageInstallation) -> None:
    world.output = TableOutput(dataset="words", files=1)
    world.seal("lines", {"line": "string"}, [[{"line": "x"}]])
    job = world.job({"count.py": f"{COUNT}\nopen('{world.folder}/ran', 'w')\nif True\n"})
    workload = FlinkPython(job, installation=flink, private=world.private, log=world.log)
    try:
        with pytest.raises(ConfigurationError, match=r"count\.py: line \d+, column \d+") as refused:
            workload.prepare()
    finally:
        workload.close()
    assert refused.value.code == "python_syntax"
    assert not (world.folder / "ran").exists()
