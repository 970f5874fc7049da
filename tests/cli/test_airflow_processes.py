"""What Airflow is told, and which of its words a person sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppml_airflow.cli.airflow_processes import (
    airflow_environment,
    airflow_services,
    connection,
    is_healthy,
    migrate,
    password_file,
    require_url,
    stages,
)
from ppml_airflow.cli.demo import find_passport
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import airflow_token
from ppml_airflow.errors import ConfigurationError, UnavailableError
from tests.cli.conftest import NOW


def line(**entry: object) -> bytes:
    return json.dumps(entry).encode()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (line(event="[DAG TEST] starting task_id=seal map_index=-1", level="info", logger="x"), ["task seal"]),
        (line(event="step a: leased", level="info", logger="airflow.task.operators.x"), ["  step a: leased"]),
        (
            line(event="Task failed", level="error", logger="task", exception=[{"exc_value": "gate_missing"}]),
            ["  Task failed: gate_missing"],
        ),
        (line(event="::endgroup::", level="info", logger="task"), []),
        (line(event="noise", level="info", logger="airflow.models.dag"), []),
        (line(event="noise", level="debug", logger="task"), []),
        (b"not JSON\n", []),
        (b'["not", "an", "entry"]', []),
    ],
)
def test_a_person_sees_tasks_and_what_they_say(written: bytes, told: list[str]) -> None:
    assert list(stages(written)) == told


def test_services_listen_on_this_machine_only_and_send_no_usage_data(home: Home, owner: Owner) -> None:
    services, url = airflow_services(home)
    assert url.startswith("http://127.0.0.1:")
    for service in services:
        assert service.environment["AIRFLOW__API__HOST"] == "127.0.0.1"
        assert service.environment["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"
        assert airflow_token(home) not in "".join(service.environment.values())


def test_the_password_is_kept_and_private(home: Home, owner: Owner) -> None:
    airflow_services(home)
    first = password_file(home).read_bytes()
    airflow_services(home)
    assert password_file(home).read_bytes() == first
    assert password_file(home).stat().st_mode & 0o777 == 0o600


def test_the_connection_holds_no_key(home: Home, owner: Owner) -> None:
    told = json.dumps(connection(home, broker="unix:/b"))
    for secret in (home.broker / "passphrase", home.owner / "root.pem", home.agent("recipient") / "recipient.key"):
        assert secret.read_text().strip() not in told


def test_what_is_in_the_shell_does_not_reach_airflow(home: Home, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "canary")
    assert "AIRFLOW__CORE__FERNET_KEY" not in airflow_environment(home, database="x.db")


def test_an_airflow_that_does_not_run_is_not_healthy(home: Home) -> None:
    assert not is_healthy("http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="ppml up"):
        require_url(home)


def test_a_database_that_cannot_be_made_is_named(home: Home, owner: Owner) -> None:
    (home.airflow / "demo.db").mkdir()
    with pytest.raises(ConfigurationError, match="airflow db migrate failed"):
        migrate(home, database="demo.db")
    assert not (home.airflow / "demo.db.version").exists()


def test_a_run_without_a_passport_has_none(home: Home, tmp_path: Path) -> None:
    assert find_passport(home, dag_id="nightly", moment=NOW) is None
