"""A Python program in a child of the guest: nothing of it runs before the lease, and one word of it is heard after."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.job import FilesInput, FilesOutput, JobResult, TypedValue, WorkloadJob
from ppml_airflow.workloads.python.program import PythonProgram
from tests.support.spark_jobs import JobWorld

OUTPUTS = 'OUTPUTS = {"report": {"plan": "string", "visits": "bigint"}}\n'
API = "from ppml_airflow.workloads.job_api import *\n"
PROGRAM = (
    API
    + OUTPUTS
    + """
import sys
from helpers import shout

print("canary in stdout")
visits = table("visits").to_pandas()
report = visits.groupby("plan", as_index=False)["n"].sum().rename(columns={"n": "visits"})
report["plan"] = [shout(plan, sys.argv[1]) for plan in report["plan"]]
disclose("plans", len(report))
write("report", report[report["visits"] >= params["least"]])
"""
)
HELPERS = "def shout(text, sign):\n    return text.upper() + sign\n"
FILES = {"weights.bin": bytes(range(256))}
LIMITS = Limits(wall_s=60, memory_mib=512, cores=1)


@contextmanager
def python_job(
    world: JobWorld,
    code: Mapping[str, str],
    *,
    argv: tuple[str, ...] = ("main.py",),
    params: dict[str, TypedValue] | None = None,
    parts: int = 1,
    limits: Limits = LIMITS,
    **changed: Any,
) -> Iterator[PythonProgram]:
    """The image is the environment of the tests, which holds this package and all that the programs here import."""
    installation = ImageInstallation(environment=Path(sys.prefix), java_home=None, jars=world.folder)
    job: WorkloadJob = replace(world.job(code, argv=argv, params=params, parts=parts, limits=limits), **changed)
    workload = PythonProgram(job, installation=installation, private=world.private, log=world.log)
    try:
        yield workload
    finally:
        workload.close()


def run(workload: PythonProgram, world: JobWorld) -> JobResult:
    keys = replace(world.keys(), open_files=lambda dataset: iter(FILES.items()))
    return workload.run(keys=keys, on_progress=lambda percent: None)


def seal_visits(world: JobWorld) -> None:
    tables = [
        pa.table({"plan": ["a" if n % 2 else "b" for n in half], "n": half}) for half in (range(50), range(50, 99))
    ]
    world.seal("visits", *tables)


def test_a_program_reads_its_inputs_and_writes_its_output(world: JobWorld) -> None:
    seal_visits(world)
    files = {"main.py": PROGRAM, "helpers.py": HELPERS}
    with python_job(world, files, argv=("main.py", "!"), params={"least": 0}, parts=3) as workload:
        assert [(column.name, column.type) for column in workload.prepare()["report"]] == [
            ("plan", "string"),
            ("visits", "int64"),
        ]
        result = run(workload, world)
    assert result.outcome == "ok", world.log.read_text()
    assert [part.name for part in result.outputs["report"]] == ["part-00000", "part-00001", "part-00002"]
    rows = [row for part in result.outputs["report"] for row in world.open(part).to_pylist()]
    assert rows == [{"plan": "A!", "visits": sum(range(1, 99, 2))}, {"plan": "B!", "visits": sum(range(0, 99, 2))}]
    assert result.disclosed == {"plans": 2}
    assert "canary in stdout" in world.log.read_text()


def test_an_empty_table_is_an_answer_too(world: JobWorld) -> None:
    seal_visits(world)
    files = {"main.py": PROGRAM, "helpers.py": HELPERS}
    with python_job(world, files, argv=("main.py", "!"), params={"least": 10**9}) as workload:
        workload.prepare()
        result = run(workload, world)
    assert result.outcome == "ok", world.log.read_text()
    assert world.open(result.outputs["report"][0]).num_rows == 0


def test_a_program_reads_and_writes_files(world: JobWorld) -> None:
    program = (
        API + "OUTPUTS = {'model': 'files'}\nsave_file('model', 'm', read_file('weights', files('weights')[0])[::-1])"
    )
    folders = {"files": (FilesInput(dataset="weights"),), "folders": (FilesOutput(dataset="model", files=1),)}
    with python_job(world, {"main.py": program}, outputs=(), **folders) as workload:
        assert workload.prepare() == {}
        result = run(workload, world)
    assert result.files == {"model": {"m": FILES["weights.bin"][::-1]}}, world.log.read_text()


FAILURES = {
    "an exception of its own": ("raise ValueError('canary-55')", "job_failed", "canary-55"),
    "another exit code": ("raise SystemExit(3)", "job_failed", ""),
    "no output": ("pass", "output_mismatch", "report was not written"),
    "other columns": ("write('report', table('visits'))", "output_mismatch", "declared are"),
    "other columns behind the API's back": (
        "import os\nfrom ppml_airflow.workloads.job_api import ask\n"
        "_, file = ask({'op': 'create', 'dataset': 'report'})\nos.write(file, b'canary-56')",
        "output_mismatch",
        "is no table",
    ),
    "more memory than its step allows": ("bytes(600 * 2**20)", "out_of_memory", "MemoryError"),
    "killed": ("import os\nos.kill(os.getpid(), 9)", "out_of_memory", ""),
    "a folder that it was not granted": ("files('other')", "job_failed", "not_granted"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_program_that_fails_says_one_word(name: str, world: JobWorld) -> None:
    statement, outcome, logged = FAILURES[name]
    seal_visits(world)
    with python_job(world, {"main.py": API + OUTPUTS + statement}) as workload:
        workload.prepare()
        result = run(workload, world)
    assert result.outcome == outcome, world.log.read_text()
    assert result.outputs == {}
    assert logged in world.log.read_text()


def test_a_program_that_takes_too_long_is_killed(world: JobWorld) -> None:
    limits = Limits(wall_s=1, memory_mib=512, cores=1)
    with python_job(world, {"main.py": OUTPUTS + "import time\ntime.sleep(60)"}, limits=limits) as workload:
        workload.prepare()
        assert run(workload, world).outcome == "limit_time"


def test_a_cancelled_program_is_killed_with_its_children(world: JobWorld) -> None:
    program = OUTPUTS + "import subprocess, time\nsubprocess.Popen(['sleep', '61'])\nopen('up', 'w')\ntime.sleep(60)"
    with python_job(world, {"main.py": program}) as workload:
        workload.prepare()
        results: list[JobResult] = []
        running = threading.Thread(target=lambda: results.append(run(workload, world)))
        running.start()
        while not (world.private / "up").exists():
            time.sleep(0.01)
        workload.cancel()
        running.join(20)
        assert [result.outcome for result in results] == ["cancelled"]
    inside = [link for link in Path("/proc").glob("[0-9]*/cwd") if _target(link) == world.private]
    assert inside == []


def test_nothing_is_inherited(world: JobWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    program = OUTPUTS + "import os\nprint(sorted(os.environ), os.getcwd(), oct(os.stat('.').st_mode))"
    with python_job(world, {"main.py": program}, environment={"OF_THE_STEP": "1"}) as workload:
        workload.prepare()
        run(workload, world)
    assert "CANARY" not in world.log.read_text()
    assert "OF_THE_STEP" in world.log.read_text()
    assert f"{world.private} 0o40700" in world.log.read_text()


NETWORK = """
import socket, threading

try:
    socket.create_connection(("127.0.0.1", %d), timeout=5)
    print("the host was reached")
except OSError as error:
    print("the host was not reached:", error)
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), timeout=5)
print("its own loopback works", len(files("weights")))
"""


def test_a_program_does_not_reach_the_hosts_network(world: JobWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as host:
        program = API + OUTPUTS + NETWORK % host.getsockname()[1]
        with python_job(world, {"main.py": program}, files=(FilesInput(dataset="weights"),)) as workload:
            workload.prepare()
            run(workload, world)
    if not can_leave_network():
        pytest.skip("this kernel does not let a process make a network of its own")
    assert "the host was not reached" in world.log.read_text()
    assert "its own loopback works 1" in world.log.read_text()


def can_leave_network() -> bool:
    """Whether root or an unprivileged user namespace may."""
    done = subprocess.run(["unshare", *([] if os.getuid() == 0 else ["--user"]), "--net", "true"], check=False)
    return done.returncode == 0


def test_nothing_of_a_program_runs_before_the_lease(world: JobWorld) -> None:
    mark = world.folder / "ran"
    program = OUTPUTS + f"open({str(mark)!r}, 'w')\n"
    with python_job(world, {"main.py": program, "other.py": program}) as workload:
        workload.prepare()
    assert not mark.exists()


def test_a_syntax_error_is_named_in_full(world: JobWorld) -> None:
    with (
        python_job(world, {"main.py": OUTPUTS + "def f(:\n"}) as workload,
        pytest.raises(ConfigurationError, match=r"main\.py: line 2, column 7: "),
    ):
        workload.prepare()


def test_an_output_of_another_kind_is_refused(world: JobWorld) -> None:
    with (
        python_job(world, {"main.py": "OUTPUTS = {'report': 'files'}"}) as workload,
        pytest.raises(ConfigurationError, match=r"declares outputs .*'files'.*; the step has .*'columns'"),
    ):
        workload.prepare()


def test_a_variable_that_changes_which_code_runs_is_refused(world: JobWorld) -> None:
    with (
        pytest.raises(ConfigurationError, match="environment variable PYTHONPATH is refused"),
        python_job(world, {"main.py": OUTPUTS}, environment={"PYTHONPATH": "/tmp"}),
    ):
        pass


def test_a_job_that_was_not_prepared_fails(world: JobWorld) -> None:
    with python_job(world, {"main.py": OUTPUTS}) as workload:
        assert run(workload, world).outcome == "job_failed"


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None
