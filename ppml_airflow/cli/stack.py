"""The services of one home: which there are, how they are started, when they are ready, how they end.

Each is a process of its own with a folder of its own, kept alive by one supervisor (`cli.supervisor`). A supervisor is
either attached (it ends with the command that started it) or stays until `ppml down`. There is one per home at most;
a second command uses what runs already.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.cli import processes
from ppml_airflow.cli.agents import agents_of
from ppml_airflow.cli.home import Home, private_folder, write_private
from ppml_airflow.cli.supervisor import GRACE_S, LOCK, SERVICES, Service
from ppml_airflow.cli.users import BROKER, QUOTING, as_party, hand_over, party_environment, socket_users, users_of
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.protocol.client import BrokerClient, JsonClient

READY_WITHIN_S = 60.0
_POLL_S = 0.05


class Stack:
    """The services of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    @property
    def broker_url(self) -> str:
        """The broker's address for people and for Airflow."""
        return str(_broker_settings(self.home)["listen"][0])

    @property
    def broker_socket(self) -> str:
        """The broker's address on this machine."""
        return f"unix:{self.home.socket('broker')}"

    def broker(self, *, token: str | None = None) -> BrokerClient:
        """A client of the broker; close it after use."""
        return BrokerClient(self.broker_socket, token=token)

    # ---------------------------------------------------------------- starting and ending

    def is_running(self) -> bool:
        """Whether a supervisor holds this home."""
        return self.supervisor_pid() is not None

    def supervisor_pid(self) -> int | None:
        """The supervisor's process id, if one is alive."""
        try:
            handle = os.open(self.home.run / LOCK, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(handle, 32).strip()
            return int(written) if written else None
        finally:
            os.close(handle)
        return None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Have the services while the block runs: those that run already, else own ones that end with it."""
        if self.is_running():
            yield
            return
        process = self.start(core_services(self.home), stays=False)
        try:
            self.wait_until_ready()
            yield
        finally:
            process.terminate()
            process.wait(GRACE_S + 5)

    def start(self, services: Sequence[Service], *, stays: bool) -> subprocess.Popen[bytes]:
        """Start a supervisor for these services.

        Args:
            services: in the order in which they start.
            stays: goes on when the calling process ends.
        """
        folder = private_folder(self.home.run)
        write_private(folder / SERVICES, canonical.encode(tuple(services)))
        for service in services:
            (folder / f"{service.name}.log").unlink(missing_ok=True)
        return processes.start_process(
            (sys.executable, "-m", "ppml_airflow.cli.supervisor", str(folder)),
            environment=service_environment(self.home),
            log=folder / "supervisor.log",
            death_signal=None if stays else signal.SIGTERM,
        )

    def stop(self) -> bool:
        """End the supervisor and with it everything that it started; False if none was there.

        Raises:
            UnavailableError: it does not end.
        """
        pid = self.supervisor_pid()
        if pid is None:
            return False
        processes.send(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S + 10
        while self.is_running():
            if time.monotonic() > deadline:
                raise UnavailableError(f"supervisor {pid} does not end", hint=f"see {self.home.run}/supervisor.log")
            time.sleep(_POLL_S)
        return True

    def restart_agents(self) -> None:
        """Have the agents read their files again: the supervisor starts what ends."""
        hand_over(self.home)
        for agent in agents_of(self.home):
            path = self.home.run / f"{agent}-agent.pid"
            before = _read_pid(path)
            if before is not None:
                processes.send(before, signal.SIGTERM)
                _wait(partial(_is_replaced, path, before), what=f"{agent}-agent", is_alive=self.is_running)

    # ---------------------------------------------------------------- readiness

    def wait_until_ready(self) -> None:
        """Wait until every service answers.

        Raises:
            UnavailableError: one does not, or the supervisor has given up; names the log.
        """
        domain_id = self.home.load_domain().domain_id
        self.wait_for(lambda: _connects(self.home.socket("quoting")), service="quoting")
        self.wait_for(lambda: _answers(self.broker_socket, "/ppml/v1/health", domain_id=domain_id), service="broker")
        for agent in agents_of(self.home):
            address = f"unix:{self.home.socket(f'{agent}-agent')}"
            self.wait_for(partial(_answers, address, "/v1/health", domain_id=domain_id), service=f"{agent}-agent")

    def wait_for(self, is_ready: Callable[[], bool], *, service: str) -> None:
        """Wait for one service.

        Raises:
            UnavailableError: it is not ready in time, or the supervisor has given up; names the log.
        """
        _wait(is_ready, what=service, is_alive=self.is_running, log=self.home.run / f"{service}.log")


def core_services(home: Home) -> list[Service]:
    """Quoting service, broker and agents, their configuration written and handed over."""
    write_broker_settings(home)
    hand_over(home)
    broker, users = f"unix:{home.socket('broker')}", users_of(home)
    quoting = ["--home", str(home.path), "--socket", str(home.socket("quoting")), "--broker", broker]
    quoting += ["--users", str(users.base)] if users else []
    return [
        _service(home, QUOTING, "ppml_airflow.enclaves.quoting", *quoting),
        _service(home, BROKER, "ppml_airflow.broker", "--config", str(home.broker / "broker.yaml")),
        *(
            _service(home, f"{name}-agent", "ppml_airflow.agent", "--config", str(home.agent(name) / "agent.yaml"))
            for name in agents_of(home)
        ),
    ]


def service_environment(home: Home) -> dict[str, str]:
    """What a service gets of the environment: paths and language, nothing else of who started it."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "DOCKER_HOST")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PPML_HOME": str(home.path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNODEBUGRANGES": "1",
    }


def write_broker_settings(home: Home) -> str:
    """Write broker.yaml and return the broker's address: the port of the last time if it is free, else another."""
    root = home.broker / "tee-root.der"
    write_private(home.broker / "domain.json", home.domain_file.read_bytes())
    write_private(root, SimulatedPlatform.load(home.tee).root_der)
    url = f"http://127.0.0.1:{_choose_port(_broker_settings(home))}"
    settings = {
        "listen": [url, f"unix:{home.socket('broker')}"],
        "socket_users": socket_users(home, of=BROKER),
        "domain": "domain.json",
        "signing_key": "signing.pem",
        "database": "broker.db",
        "anchor": "anchor",
        "audit_log": "audit.log",
        "keystore": "keystore.json",
        "passphrase": "passphrase",
        "dataset_keys": "dataset-keys",
        "tokens": "tokens.json",
        "tee_roots": [root.name],
        "collateral": str(home.tee / "collateral.json"),
    }
    private_folder(home.broker / "dataset-keys")
    write_private(home.broker / "broker.yaml", yaml.safe_dump(settings, sort_keys=False).encode())
    return url


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _service(home: Home, name: str, module: str, *arguments: str) -> Service:
    command, environment = (sys.executable, "-m", module, *arguments), service_environment(home)
    return Service(
        name=name,
        arguments=command if name == QUOTING else as_party(home, name, command),
        environment=environment if name == QUOTING else party_environment(home, name, environment),
        dies_at_once=True,
    )


def _broker_settings(home: Home) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load((home.broker / "broker.yaml").read_text())
    except FileNotFoundError:
        return {"listen": [""]}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{home.broker}/broker.yaml is not YAML") from error
    return dict(settings)


def _choose_port(settings: Mapping[str, Any]) -> int:
    last = str(settings["listen"][0]).rpartition(":")[2]
    if last.isdigit():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(last)))
            except OSError:
                return free_port()
            return int(last)
    return free_port()


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _answers(address: str, path: str, *, domain_id: str) -> bool:
    try:
        with JsonClient(address, timeout_s=5.0) as client:
            health = client.call("GET", path, into=dict[str, Any])
    except UnavailableError:
        return False
    if health["domain_id"] != domain_id:
        raise ConfigurationError(f"{address} serves another domain", hint="another installation listens there")
    return True


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_replaced(path: Path, before: int) -> bool:
    return _read_pid(path) not in (None, before)


def _wait(
    is_ready: Callable[[], bool],
    *,
    what: str,
    is_alive: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    started = time.monotonic()
    where = f"see {log}" if log else ""
    while not is_ready():
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} is not ready after {READY_WITHIN_S:.0f} s", hint=where)
        if time.monotonic() > started + 2 and not is_alive():
            raise UnavailableError(f"{what} does not start", hint=where)
        time.sleep(_POLL_S)
