"""When the guest is gone, none of a job's processes is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ppml_airflow.workloads import supervisor
from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.spark_jobs import CHECKOUT

FAMILY = """
import os, subprocess, sys, time
subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
print("up", flush=True)
time.sleep(float(sys.argv[1]))
"""


def start(folder: Path, *, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", supervisor.__file__, sys.executable, "-c", FAMILY, str(seconds)]
    started = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    return started


def processes_in(folder: Path) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder) and "Z" not in (entry / "stat").read_text():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def assert_all_gone(folder: Path) -> None:
    until = time.monotonic() + 10
    while processes_in(folder) and time.monotonic() < until:
        time.sleep(0.02)
    assert processes_in(folder) == set()


def test_the_end_of_the_lifeline_kills_all_descendants(tmp_path: Path) -> None:
    with start(tmp_path, seconds=60) as started:
        while len(processes_in(tmp_path)) < 4:
            time.sleep(0.01)
        started.stdin.close()  # type: ignore[union-attr]
        assert started.wait(timeout=10) == 128 + signal.SIGKILL
        assert_all_gone(tmp_path)


def test_orphans_do_not_outlive_the_command(tmp_path: Path) -> None:
    with start(tmp_path, seconds=0.1) as started:
        assert started.wait(timeout=10) == 0
        assert_all_gone(tmp_path)


def test_a_killed_supervisor_takes_the_command_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", supervisor.__file__, "/bin/sleep", "60"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE) as started:
        while len(processes_in(tmp_path)) < 2:
            time.sleep(0.01)
        started.kill()
        assert_all_gone(tmp_path)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("ulimit -c | grep -qx 0", 0)])
def test_the_exit_code_is_the_commands(tmp_path: Path, script: str, code: int) -> None:
    command = [sys.executable, "-I", "-S", supervisor.__file__, "/bin/sh", "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE) as started:
        assert started.wait(timeout=10) == code


GUEST = """
import sys
from pathlib import Path
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark.sql import SparkSql
from tests.support.spark_jobs import JobWorld

folder, environment, java_home, jars = map(Path, sys.argv[1:])
world = JobWorld(folder=folder)
installation = ImageInstallation(environment=environment, java_home=java_home, jars=jars)
job = world.job({"q.sql": "SELECT 1 AS one"}, argv=("q.sql",))
SparkSql(job, installation=installation, private=world.private, log=world.log).prepare()
print("prepared", flush=True)
sys.stdin.read()
"""


def test_a_killed_guest_takes_java_with_it(tmp_path: Path, installation: ImageInstallation) -> None:
    where = [str(tmp_path), str(installation.environment), str(installation.java_home), str(installation.jars)]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(GUEST), *where],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as guest:
        assert guest.stdout is not None
        assert guest.stdout.readline() == "prepared\n"
        running = processes_in(tmp_path / "private")
        assert any("java" in str(Path(f"/proc/{pid}/exe").readlink()) for pid in running)
        assert not any(b"authenticate.secret" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running)
        guest.kill()
        assert_all_gone(tmp_path / "private")
