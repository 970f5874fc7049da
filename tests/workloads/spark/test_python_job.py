"""A Python job on Spark: nothing of it runs before the lease, and one word of it is heard after."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ppml_airflow
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FilesInput, FilesOutput, JobResult, TypedValue
from ppml_airflow.workloads.spark.python import SparkPython
from tests.support.spark_jobs import JobWorld

PROGRAM = """
import sys

from ppml_airflow.workloads.spark.api import disclose, inputs, params, session, write
from helpers import shout

OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}

print("canary in stdout")
sign = sys.argv[1]
visits = inputs["visits"].where(inputs["visits"]["day"] >= params["since"])
report = visits.rdd.map(lambda row: (shout(row["plan"], sign), row["n"])).toDF(["plan", "n"])
report = report.groupBy("plan").sum("n").toDF("plan", "visits").orderBy("plan")
disclose("plans", session().sql("SELECT count(DISTINCT plan) AS plans FROM visits").first()["plans"])
write("report", report)
"""
HELPERS = "def shout(text, sign):\n    return text.upper() + sign\n"
OUTPUTS = 'OUTPUTS = {"report": {"plan": "string"}}\n'


@contextmanager
def python_job(
    world: JobWorld,
    files: dict[str, str],
    *,
    installation: ImageInstallation,
    argv: tuple[str, ...] = ("main.py",),
    params: dict[str, TypedValue] | None = None,
    parts: int = 1,
    changed: Mapping[str, Any] | None = None,
) -> Iterator[SparkPython]:
    """The image's environment would hold this package; here its few files lie beside the program."""
    package = Path(ppml_airflow.__file__).parent
    job = replace(world.job(files, argv=argv, params=params, parts=parts), **(changed or {}))
    for name in ("__init__.py", "workloads/__init__.py", "workloads/spark/__init__.py"):
        (job.code / "ppml_airflow" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, job.code / "ppml_airflow" / name)
    for name in ("workloads/job_api.py", "workloads/spark/api.py"):
        shutil.copy(package / name, job.code / "ppml_airflow" / name)
    workload = SparkPython(job, installation=installation, private=world.private, log=world.log)
    try:
        yield workload
    finally:
        workload.close()


def run(workload: SparkPython, world: JobWorld) -> JobResult:
    return workload.run(keys=world.keys(), on_progress=lambda percent: None)


def seal_visits(world: JobWorld) -> None:
    days = pa.array([date(2020, 1, 1 + number % 20) for number in range(100)], pa.date32())
    visits = {"plan": ["a" if number % 2 else "b" for number in range(100)], "n": range(100), "day": days}
    world.seal("visits", pa.table(visits))


def test_a_program_reads_its_inputs_and_writes_its_output(world: JobWorld, installation: ImageInstallation) -> None:
    seal_visits(world)
    files = {"main.py": PROGRAM, "helpers.py": HELPERS}
    params: dict[str, TypedValue] = {"since": date(2020, 1, 11)}
    with python_job(world, files, installation=installation, argv=("main.py", "!"), params=params, parts=2) as workload:
        columns = workload.prepare()["report"]
        assert [(column.name, column.type) for column in columns] == [("plan", "string"), ("visits", "int64")]
        result = run(workload, world)
    assert result.outcome == "ok", world.log.read_text()
    rows = [row for part in result.outputs["report"] for row in world.open(part).to_pylist()]
    late = [number for number in range(100) if number % 20 >= 10]
    assert rows == [
        {"plan": "A!", "visits": sum(number for number in late if number % 2)},
        {"plan": "B!", "visits": sum(number for number in late if not number % 2)},
    ]
    assert result.disclosed == {"plans": 2}
    assert "canary in stdout" in world.log.read_text()


MODEL_PROGRAM = """
from ppml_airflow.workloads.spark.api import files, inputs, read_file, save_file

OUTPUTS = {"model": "files"}

text = ",".join(f"{name}={len(read_file('weights', name))}" for name in files("weights"))
save_file("model", "model.txt", f"{text},{inputs['visits'].count()}".encode())
"""


def test_a_program_reads_and_writes_files(world: JobWorld, installation: ImageInstallation) -> None:
    seal_visits(world)
    changed = {
        "outputs": (),
        "files": (FilesInput(dataset="weights"),),
        "folders": (FilesOutput(dataset="model", files=1),),
    }
    weights = {"a": b"1", "b/c": bytes(300_000)}
    with python_job(world, {"main.py": MODEL_PROGRAM}, installation=installation, changed=changed) as workload:
        assert workload.prepare() == {}
        keys = replace(world.keys(), open_files=lambda dataset: iter(weights.items()))
        result = workload.run(keys=keys, on_progress=lambda percent: None)
    assert result.outcome == "ok", world.log.read_text()
    assert result.files == {"model": {"model.txt": b"a=1,b/c=300000,100"}}


FAILING = OUTPUTS + "from ppml_airflow.workloads.spark.api import inputs, session, write\n"
FAILURES = {
    "an exception of its own": ("raise ValueError('canary-55')", "job_failed", "canary-55"),
    "another exit code": ("raise SystemExit(3)", "job_failed", ""),
    "a value that is no number": (
        "write('report', inputs['visits'].selectExpr('string(CAST(plan AS int)) AS plan'))",
        "cast_error",
        "CAST_INVALID_INPUT",
    ),
    "a column that its input does not have": (
        "write('report', session().sql('SELECT plans AS plan FROM visits'))",
        "input_mismatch",
        "plans",
    ),
    "a table that is not granted": (
        "write('report', session().sql('SELECT plan FROM secrets'))",
        "input_mismatch",
        "secrets",
    ),
    "no output": ("pass", "output_mismatch", "report"),
    "other columns": ("write('report', inputs['visits'].select('n'))", "output_mismatch", "declared are"),
    "plain Parquet beside the output": (
        "write('report', inputs['visits'].select('plan'))\nopen('output/report/part-9-x', 'w').close()",
        "output_mismatch",
        "other files",
    ),
    "a write outside its output": (
        "inputs['visits'].write.parquet('output/elsewhere')",
        "input_corrupt",
        "not_granted",
    ),
}


MORE = ("another exit code", "a column that its input does not have", "no output", "other columns")
"""What takes the way of others in `FAILURES`: each of them starts Spark."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE else []) for name in FAILURES]
)
def test_a_program_that_fails_says_one_word(name: str, world: JobWorld, installation: ImageInstallation) -> None:
    statement, outcome, logged = FAILURES[name]
    seal_visits(world)
    with python_job(world, {"main.py": FAILING + statement}, installation=installation) as workload:
        workload.prepare()
        result = run(workload, world)
    assert result.outcome == outcome, world.log.read_text()
    assert result.outputs == {}
    assert logged in world.log.read_text()


def test_nothing_of_a_program_runs_before_the_lease(world: JobWorld, installation: ImageInstallation) -> None:
    mark = world.folder / "ran"
    program = OUTPUTS + f"open({str(mark)!r}, 'w')\n"
    with python_job(world, {"main.py": program, "other.py": program}, installation=installation) as workload:
        workload.prepare()
        assert not workload._process.is_running()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"main.py": OUTPUTS, "lib/tools.py": "x = 1\ndef f(:\n"}, r"lib/tools\.py: line 2, column 7: "),
        ({"main.py": OUTPUTS + "return 1"}, r"main\.py: line 2, column .*'return' outside function"),
        ({"main.py": OUTPUTS + "x = '\0'"}, "null bytes"),
        ({"other.py": OUTPUTS}, r"main\.py is not among the step's code files"),
        ({"main.py": "x = 1"}, "does not say what its outputs are"),
        ({"main.py": "OUTPUTS = dict(report={})"}, "does not say what its outputs are"),
        (
            {"main.py": "OUTPUTS = {'other': {'plan': 'string'}}"},
            r"declares outputs {'other': 'columns'}; the step has {'report': 'columns'}",
        ),
        ({"main.py": "OUTPUTS = {'report': {'plan': 'text'}}"}, "declares column plan as text; wanted one of boolean,"),
        ({"main.py": "OUTPUTS = {'report': {}}"}, "declares no column"),
        ({"main.py": "OUTPUTS = {'report': {'a': 'int', 'A': 'int'}}"}, "column A twice"),
    ],
)
def test_a_program_that_cannot_run_is_refused_in_full(
    files: dict[str, str], said: str, world: JobWorld, installation: ImageInstallation
) -> None:
    with (
        python_job(world, files, installation=installation) as workload,
        pytest.raises(ConfigurationError, match=said),
    ):
        workload.prepare()


def test_a_table_that_is_laid_out_after_the_lease_only_can_be_prepared_for(
    world: JobWorld, installation: ImageInstallation
) -> None:
    world.grant("visits", {"plan": "string"}, parts=(world.folder / "unpadded" / "part-00000",))
    with python_job(world, {"main.py": OUTPUTS}, installation=installation) as workload:
        assert set(workload.prepare()) == {"report"}


def test_a_job_that_was_not_prepared_fails(world: JobWorld, installation: ImageInstallation) -> None:
    with python_job(world, {"main.py": OUTPUTS}, installation=installation) as workload:
        assert run(workload, world).outcome == "job_failed"


@pytest.mark.parametrize("argv", [(), ("main.sql",)])
def test_a_step_of_another_shape_is_refused(
    argv: tuple[str, ...], world: JobWorld, installation: ImageInstallation
) -> None:
    job = world.job({"main.py": OUTPUTS}, argv=argv)
    with pytest.raises(ConfigurationError, match=r"wanted the name of a \.py file"):
        SparkPython(job, installation=installation, private=world.private, log=world.log)


def test_code_outside_the_private_directory_is_refused(
    world: JobWorld, installation: ImageInstallation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = world.job({"main.py": OUTPUTS}, argv=("main.py",))
    with pytest.raises(ConfigurationError, match="not inside the private directory"):
        SparkPython(job, installation=installation, private=tmp_path_factory.mktemp("elsewhere"), log=world.log).close()
