"""Airflow as processes of one home: its settings, its database, one run in process, and its four services.

Airflow is told everything through its environment and never imported here. It listens on 127.0.0.1 only, and sends no
usage data.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from ppml_airflow.cli.agents import agents_of
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.processes import die_with_parent
from ppml_airflow.cli.simulated import airflow_token
from ppml_airflow.cli.stack import free_port, service_environment
from ppml_airflow.cli.supervisor import Service
from ppml_airflow.cli.users import AIRFLOW, as_party, hand_over, party_environment
from ppml_airflow.enclaves.runtimes.registry import default_runtime
from ppml_airflow.errors import ConfigurationError, UnavailableError
from ppml_airflow.units import format_instant

USER = "admin"
CONNECTION = "ppml_default"
SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
_TASK_LOGGERS = ("task", "airflow.task", "ppml_airflow")
_NOT_WORTH_TELLING = ("::", "Pushing xcom")
_END_S = 15.0

Say = Callable[[str], None]


def password_file(home: Home) -> Path:
    """Where the password of the UI's user lies."""
    return home.airflow / "simple_auth_manager_passwords.json.generated"


def connection(home: Home, *, broker: str) -> dict[str, Any]:
    """The connection `ppml_default`."""
    return {
        "conn_type": "ppml",
        "host": broker,
        "password": airflow_token(home),
        "extra": {
            "storage": str(home.storage),
            "quoting": str(home.socket("quoting")),
            "passports": str(home.passports),
            "runtime": default_runtime(),
            **{f"{agent}_agent": f"unix:{home.socket(f'{agent}-agent')}" for agent in agents_of(home)},
        },
    }


def migrate(home: Home, *, database: str) -> None:
    """Have the database of this Airflow: made once, and again after another version of Airflow.

    Raises:
        ConfigurationError: Airflow cannot make it.
    """
    stamp = home.airflow / f"{database}.version"
    current = version("apache-airflow")
    if stamp.exists() and stamp.read_text() == current and (home.airflow / database).exists():
        return
    hand_over(home)
    _run(home, "db", "migrate", database=database)
    write_private(stamp, current.encode())


def store_connection(home: Home, *, broker: str, database: str) -> None:
    """Have `ppml_default` in Airflow's database, where the UI shows it."""
    path = home.airflow / "connections.json"
    write_private(path, json.dumps({CONNECTION: connection(home, broker=broker)}).encode())
    try:
        _run(home, "connections", "import", str(path), "--overwrite", database=database)
    finally:
        path.unlink()


def test_dag(home: Home, *, dag_id: str, moment: datetime, conf: str | None, broker: str, say: Say) -> bool:
    """Run a DAG once with `airflow dags test`, and say what its tasks say. Whether the run succeeded.

    Args:
        home: whose DAGs.
        dag_id: which one.
        moment: logical date, whole seconds.
        conf: params as JSON.
        broker: address for the connection.
        say: takes a line per stage.
    """
    given = json.dumps(connection(home, broker=broker))
    environment = airflow_environment(home, database="demo.db") | {
        "AIRFLOW__LOGGING__JSON_LOGS": "True",
        f"AIRFLOW_CONN_{CONNECTION.upper()}": given,
    }
    arguments = [*_airflow("dags", "test", dag_id, format_instant(moment)), *(("--conf", conf) if conf else ())]
    with (home.run / "airflow.log").open("wb") as log:
        hand_over(home)
        process = subprocess.Popen(
            as_party(home, AIRFLOW, arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        assert process.stdout is not None  # noqa: S101 - asked for above
        try:
            for line in process.stdout:
                log.write(line)
                for text in stages(line):
                    say(text)
            return process.wait() == 0
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Airflow, which does not always heed SIGTERM while it ends a task."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def airflow_services(home: Home) -> tuple[list[Service], str]:
    """Airflow's four services and the UI's address. The password is made here, so that no log shows it."""
    port = free_port()
    if not password_file(home).exists():
        write_private(password_file(home), json.dumps({USER: secrets.token_urlsafe(16)}).encode() + b"\n")
    environment = airflow_environment(home, database="airflow.db") | {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        # A busy machine makes Airflow sleep this long after a task has ended; a gate may be woken meanwhile and lost.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }
    services = [
        Service(
            name=f"airflow-{name}",
            arguments=as_party(home, AIRFLOW, _airflow(name)),
            environment=environment,
            dies_at_once=False,
        )
        for name in SERVICES
    ]
    return services, f"http://127.0.0.1:{port}"


def is_healthy(url: str) -> bool:
    """Whether the API server, scheduler, DAG processor and triggerer all say that they are well."""
    try:
        answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=5.0, trust_env=False)
        parts = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return False
    wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return all((parts.get(name) or {}).get("status") == "healthy" for name in wanted)


def airflow_environment(home: Home, *, database: str) -> dict[str, str]:
    """What every process of this Airflow is told."""
    environment = party_environment(home, AIRFLOW, service_environment(home))
    binaries = Path(sys.executable).parent
    return environment | {
        "PATH": f"{binaries}{os.pathsep}{environment.get('PATH', os.defpath)}",
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.airflow / database}",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _airflow(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "airflow", *arguments)


def _run(home: Home, *arguments: str, database: str) -> None:
    result = subprocess.run(
        as_party(home, AIRFLOW, _airflow(*arguments)),
        capture_output=True,
        text=True,
        env=airflow_environment(home, database=database),
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()[-400:]
        raise ConfigurationError(f"airflow {' '.join(arguments[:2])} failed: {said}")


def stages(line: bytes) -> Iterator[str]:
    """What a line of Airflow's log is worth telling: which task starts, what tasks say, why one failed."""
    try:
        entry: Mapping[str, Any] = json.loads(line)
        event, logger = str(entry["event"]), str(entry.get("logger", ""))
    except (ValueError, KeyError, TypeError):
        return
    if event.startswith("[DAG TEST] starting task_id="):
        yield "task " + event.removeprefix("[DAG TEST] starting task_id=").partition(" ")[0]
    elif logger.startswith(_TASK_LOGGERS) and entry.get("level") in ("info", "warning", "error", "critical"):
        reasons = [str(cause.get("exc_value", "")) for cause in entry.get("exception") or ()]
        if event and not event.startswith(_NOT_WORTH_TELLING):
            yield "  " + (f"{event}: {reasons[0]}" if reasons else event).replace("\n", "\n  ")


def require_url(home: Home) -> str:
    """The address of the UI that `ppml up` started here.

    Raises:
        UnavailableError: none was.
    """
    try:
        return (home.run / "ui").read_text().strip()
    except FileNotFoundError as error:
        raise UnavailableError("Airflow does not run here", hint="ppml up") from error
