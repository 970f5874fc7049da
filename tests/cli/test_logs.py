"""The sealed log of a run opens with the owner's key, and only as what the receipt names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppml_airflow.cli.home import Home
from ppml_airflow.cli.main import cli
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.simulated import ensure_certified
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.sealing.logs import LogOrigin, seal_log
from ppml_airflow.sealing.wrapping import SealingKey
from tests.cli.conftest import NOW

RUN = "ab" * 16


@pytest.fixture
def sealed(home: Home, owner: Owner, approval: Approval, tmp_path: Path) -> Home:
    """Two attempts of one run, sealed to the owner's log key."""
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    certificate = owner.certificates().current(role="log", subject="owner", now=NOW)
    (tmp_path / "log").write_text("what the job printed\n")
    for attempt in (1, 2):
        origin = LogOrigin(
            domain_id=owner.domain.domain_id, run_id=RUN, step="aggregate", attempt=attempt, lease_id="cd" * 16
        )
        seal_log(tmp_path / "log", storage=home.storage, origin=origin, recipients=[certificate])
    return home


def logs(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["logs", *arguments])


def test_all_attempts_are_opened(sealed: Home) -> None:
    said = logs(RUN[:6]).output
    assert said.count("what the job printed") == 2
    assert said.index("aggregate-1") < said.index("aggregate-2")


def test_a_log_without_a_receipt_is_shown_with_a_warning(sealed: Home) -> None:
    assert "compared with nothing" in logs(RUN).output


def test_only_the_step_asked_for_is_shown(sealed: Home) -> None:
    assert "what the job printed" not in logs(RUN, "--step", "other").output


def test_a_changed_log_is_refused(sealed: Home) -> None:
    path = sealed.storage / "logs" / RUN / "aggregate-1" / "log"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert isinstance(logs(RUN).exception, VerificationError)


def test_an_uncertified_key_opens_nothing(sealed: Home, tmp_path: Path) -> None:
    SealingKey.generate().store(tmp_path / "other.key")
    assert isinstance(logs(RUN, "--key", str(tmp_path / "other.key")).exception, PolicyDeniedError)


@pytest.mark.parametrize("run", ["ff", "../../owner", "*"])
def test_a_run_that_has_no_logs_is_refused(sealed: Home, run: str) -> None:
    assert isinstance(logs(run).exception, ConfigurationError)
