"""Users of their own: what a task of Airflow finds when it turns against the installation that runs it.

The task is a real one, in a DAG that Airflow runs. It tries to read, change, trace and stop what is not Airflow's, and
to speak to those who do not listen to it, and writes down what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ppml_airflow.cli import airflow_processes
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.stack import Stack
from ppml_airflow.cli.users import seen_by_all, users_of
from ppml_airflow.confinement import can_confine, confined
from ppml_airflow.users import Users
from tests.support.commands import Commands

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_confine(), reason="users of their own need root with CAP_SYS_ADMIN"),
]
SERVICES = ("broker", "owner-agent", "recipient-agent", "quoting")
HOSTILE = """
import ctypes, json, os, signal, socket
from pathlib import Path

from airflow.sdk import dag, task

HOME, PIDS = Path({home!r}), {pids!r}


def tried(attempt):
    try:
        return repr(attempt())[:80]
    except Exception as error:
        return type(error).__name__


def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        raise PermissionError(ctypes.get_errno())




@dag(schedule=None)
def hostile():
    @task
    def attack():
        found = {{"user": os.getuid(), "groups": os.getgroups()}}
        closed = {closed!r}
        found["read"] = {{path: tried(lambda: (HOME / path).read_bytes()) for path in closed}}
        found["list"] = {{path: tried(lambda: os.listdir(HOME / path)) for path in ("owner", "broker", "agents/owner")}}
        found["write"] = {{
            path: tried(lambda: (HOME / path).write_text("x"))
            for path in ("dags/other.py", "dags/hostile.py", "images/spark/image/domain.json", "run/x", "run/passwd",
                         "run/owner-agent.sources", "owner/x", "storage/x", "tee/collateral.json")
        }}
        found["trace"] = {{name: tried(lambda: trace(pid)) for name, pid in PIDS.items()}}
        found["memory"] = {{name: tried(lambda: open(f"/proc/{{pid}}/mem", "rb")) for name, pid in PIDS.items()}}
        found["environment"] = {{
            name: tried(lambda: Path(f"/proc/{{pid}}/environ").read_bytes()) for name, pid in PIDS.items()
        }}
        found["stop"] = {{name: tried(lambda: os.kill(pid, signal.SIGTERM)) for name, pid in PIDS.items()}}
        found["become root"] = tried(lambda: os.setuid(0))
        Path(os.environ["AIRFLOW_HOME"], "found.json").write_text(json.dumps(found))

    attack()


hostile()
"""
CLOSED = (
    "owner/root.pem",
    "owner/airflow.token",
    "owner/log.key",
    "broker/signing.pem",
    "broker/passphrase",
    "broker/keystore.json",
    "broker/broker.db",
    "broker/tokens.json",
    "agents/owner/producer.pem",
    "agents/owner/token",
    "agents/owner/agent.yaml",
    "agents/recipient/recipient.key",
    "tee/pck.key",
    "run/broker.log",
    "run/services.json",
)
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(10)
    try:
        client.connect(sys.argv[1])
        client.sendall(b"GET /ppml/v1/health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        print(client.recv(12).decode() or "hung up")
    except ConnectionError:
        print("hung up")
"""


@pytest.fixture(scope="module")
def stack(ppml: Commands) -> Iterator[Stack]:
    """The services of a home, as users of their own."""
    before = os.environ.get("PPML_HOME")
    os.environ["PPML_HOME"] = str(ppml.home)
    ppml("domain", "create")
    ppml("demo")
    try:
        with Stack(Home(ppml.home)).attached():
            yield Stack(Home(ppml.home))
    finally:
        os.environ.pop("PPML_HOME") if before is None else os.environ.update(PPML_HOME=before)


@pytest.fixture(scope="module")
def users(stack: Stack) -> Users:
    found = users_of(stack.home)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def found(stack: Stack) -> dict[str, object]:
    """What the hostile task wrote down."""
    home = stack.home
    pids = {name: int((home.run / f"{name}.pid").read_text()) for name in SERVICES}
    pids["supervisor"] = stack.supervisor_pid() or 0
    (home.dags / "hostile.py").write_text(HOSTILE.format(home=str(home.path), pids=pids, closed=CLOSED))
    said: list[str] = []
    succeeded = airflow_processes.test_dag(
        home,
        dag_id="hostile",
        moment=datetime.now(UTC).replace(microsecond=0),
        conf=None,
        broker=stack.broker_socket,
        say=said.append,
    )
    assert succeeded, said
    found: dict[str, object] = json.loads((home.airflow / "found.json").read_text())
    return found


def test_the_task_is_airflows_user_and_nobody_else(found: dict[str, object], users: Users) -> None:
    assert found["user"] == users.of("airflow")
    assert found["groups"] == []
    assert found["become root"] == "PermissionError"


def test_the_task_reads_no_key_and_no_token_of_anybodys(found: dict[str, object]) -> None:
    assert found["read"] == dict.fromkeys(CLOSED, "PermissionError")
    assert set(found["list"].values()) == {"PermissionError"}  # type: ignore[attr-defined]


def test_the_task_changes_no_dag_no_image_and_no_file_of_anybodys(found: dict[str, object]) -> None:
    assert set(found["write"].values()) == {"PermissionError"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("attack", ["trace", "memory", "environment", "stop"])
def test_the_task_neither_traces_nor_stops_a_service(found: dict[str, object], attack: str) -> None:
    assert found[attack] == dict.fromkeys((*SERVICES, "supervisor"), "PermissionError")


def spoken_to(stack: Stack, service: str, *, by: int) -> str:
    command = (sys.executable, "-c", ASK, str(stack.home.socket(service)))
    done = subprocess.run(
        confined(command, user=by, see=seen_by_all(stack.home)), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_agents_and_the_quoting_service_hang_up_on_guests_and_on_each_other(stack: Stack, users: Users) -> None:
    for stranger in (users.guests[0], users.of("broker"), users.of("recipient-agent")):
        assert spoken_to(stack, "owner-agent", by=stranger) == "hung up"
        assert spoken_to(stack, "quoting", by=stranger) == "hung up"


def test_the_broker_hears_this_installation_and_nobody_else_on_the_machine(stack: Stack, users: Users) -> None:
    assert spoken_to(stack, "broker", by=users.of("airflow")).startswith("HTTP/1.1")
    assert spoken_to(stack, "broker", by=users.guests[0]).startswith("HTTP/1.1")
    for stranger in (65534, users.base + 1024, users.base - 1):
        assert spoken_to(stack, "broker", by=stranger) == "hung up"


def test_every_service_but_the_quoting_service_has_a_user_of_its_own(stack: Stack, users: Users) -> None:
    ran_by = {
        name: Path(f"/proc/{(stack.home.run / f'{name}.pid').read_text().strip()}").stat().st_uid for name in SERVICES
    }
    assert ran_by == {name: 0 if name == "quoting" else users.of(name) for name in SERVICES}
