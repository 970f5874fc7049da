"""Services live and die with their supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.supervisor import SERVICES, Service

SLEEP = "import time; time.sleep(600)"
LEAVES_A_GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(f"{child.pid} ")
time.sleep(600)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def start(*services: Service) -> subprocess.Popen[bytes]:
        (tmp_path / SERVICES).write_bytes(canonical.encode(services))
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "ppml_airflow.cli.supervisor", str(tmp_path)], stderr=subprocess.PIPE
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def service(name: str, program: str, *arguments: str, dies_at_once: bool = True) -> Service:
    return Service(
        name=name,
        arguments=(sys.executable, "-c", program, *arguments),
        environment={"PATH": os.defpath},
        dies_at_once=dies_at_once,
    )


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not is_so():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


def pid(folder: Path, name: str) -> int:
    path = folder / f"{name}.pid"
    eventually(lambda: path.exists() and path.read_text().strip() != "")
    return int(path.read_text())


def is_gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_sigterm_leaves_no_process(tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    supervisor = started(service("one", SLEEP), service("two", SLEEP))
    pids = [pid(tmp_path, "one"), pid(tmp_path, "two")]
    supervisor.terminate()
    assert supervisor.wait(10) == 0
    assert all(map(is_gone, pids))
    assert not list(tmp_path.glob("*.pid"))


def test_a_grandchild_whose_parent_is_gone_is_ended_too(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    noted = tmp_path / "grandchild"
    supervisor = started(service("one", LEAVES_A_GRANDCHILD, str(noted)))
    eventually(lambda: noted.exists() and noted.read_text().endswith(" "))
    grandchild = int(noted.read_text())
    supervisor.terminate()
    assert supervisor.wait(10) == 0
    assert is_gone(grandchild)


@pytest.mark.parametrize("dies_at_once", [True, False])
def test_services_end_when_their_supervisor_is_killed(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]], dies_at_once: bool
) -> None:
    supervisor = started(service("one", SLEEP, dies_at_once=dies_at_once))
    one = pid(tmp_path, "one")
    supervisor.kill()
    eventually(lambda: is_gone(one))


def test_a_service_that_ends_is_started_again(tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    started(service("one", SLEEP))
    first = pid(tmp_path, "one")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: (tmp_path / "one.pid").exists() and pid(tmp_path, "one") != first)


def test_a_service_that_never_stays_up_ends_everything(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    supervisor = started(service("good", SLEEP), service("bad", "print('no'); raise SystemExit(4)"))
    good = pid(tmp_path, "good")
    _, said = supervisor.communicate(timeout=15)
    assert supervisor.returncode == 3
    assert b"bad ended 3 times" in said
    assert is_gone(good)
    assert (tmp_path / "bad.log").read_text() == "no\n" * 3


def test_a_second_supervisor_is_refused(tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    started(service("one", SLEEP))
    pid(tmp_path, "one")
    _, said = started(service("one", SLEEP)).communicate(timeout=10)
    assert b"another supervisor" in said


def test_a_service_gets_only_the_environment_that_is_written_down(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "canary")
    started(service("one", f"import os, time; print(sorted(os.environ), flush=True); {SLEEP}"))
    eventually(lambda: "PATH" in (tmp_path / "one.log").read_text() if (tmp_path / "one.log").exists() else False)
    assert "SECRET_OF_THE_SHELL" not in (tmp_path / "one.log").read_text()
    assert (tmp_path / "one.log").stat().st_mode & 0o777 == 0o600
