"""`ppml revoke` at a real broker: seen first, signed by the owner, in force at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from ppml_airflow.cli.agents import write_agent_files
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.main import cli
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.revoke import describe_dependents
from ppml_airflow.cli.simulated import ensure_certified
from ppml_airflow.cli.stack import Stack
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError, PpmlError
from ppml_airflow.protocol.messages import Dependent, DependentOutput, Dependents, Published
from tests.cli.conftest import NOW


def ppml(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, input=answer)


@pytest.fixture
def stack(home: Home, owner: Owner, approval: Approval) -> Iterator[Stack]:
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    stack = Stack(home)
    write_agent_files(home, broker=stack.broker_socket, pipeline="nightly", sources={}, sinks={})
    with stack.attached():
        with stack.broker() as broker:
            owner.publish(broker)
        yield stack


def serials(stack: Stack) -> int:
    with stack.broker() as broker:
        return len(broker.domain().certificates)


def test_a_certificate_is_shown_and_revoked_and_its_key_certified_anew(stack: Stack, owner: Owner) -> None:
    known = next(one for one in owner.certificates().by_serial.values() if one.role == "producer")
    before = serials(stack)
    shown = ppml("revoke", "certificate", known.serial, "--show")
    assert (shown.exit_code, serials(stack)) == (0, before), shown.output
    assert "is not revoked" in shown.output
    declined = ppml("revoke", "certificate", known.serial, "--reason", "lost", answer="n\n")
    assert (declined.exit_code, serials(stack)) == (1, before)
    done = ppml("revoke", "certificate", known.serial, "--reason", "lost", answer="y\n")
    assert (done.exit_code, serials(stack)) == (0, before - 1), done.output
    assert "SIMULATED" in done.output
    assert known.serial not in owner.certificates().by_serial
    again = ppml("revoke", "certificate", known.serial, "--show", "--json")
    assert json.loads(again.output)["revoked"] is True
    made = owner.certify(known.key, role="producer", subject=known.subject, now=NOW)
    assert made.serial != known.serial


def test_a_revoked_key_is_not_certified_again(stack: Stack, owner: Owner) -> None:
    known = next(one for one in owner.certificates().by_serial.values() if one.role == "producer")
    done = ppml("revoke", "key", known.key.key_id, "--reason", "its laptop was stolen", "--yes")
    assert done.exit_code == 0, done.output
    with pytest.raises(ConfigurationError, match="its laptop was stolen"):
        owner.certify(known.key, role="producer", subject=known.subject, now=NOW)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("certificate", "0" * 32), "--reason is missing"),
        (("certificate", "x", "--show"), "Revocation is malformed"),
        (("measurement", "ab" * 48, "--show"), "subject is no measurement"),
        (("certificate", "0" * 32, "--reason", "lost", "--json"), "--json asks nothing"),
        (("measurement", "ab\ncd" * 20, "--reason", "no"), "Revocation is malformed"),
    ],
)
def test_what_is_no_revocation_is_refused_before_anything_is_asked(
    home: Home, owner: Owner, arguments: tuple[str, ...], told: str
) -> None:
    result = ppml("revoke", *arguments)
    assert isinstance(result.exception, PpmlError)
    assert told in str(result.exception)


def test_dependents_are_told_in_words() -> None:
    made = DependentOutput(
        dataset="report", version=3, manifest="sha256:" + "0" * 64, recipients=("analyst",), released=True
    )
    attempt = Dependent(
        run_id="a" * 32,
        pipeline="nightly",
        slot="2026-05-04T00:00:00Z",
        step="summarise",
        attempt=2,
        outcome="open",
        through="report",
        outputs=(made,),
    )
    sealed = Published(dataset="visits", version=7, manifest="sha256:" + "1" * 64)
    found = Dependents(kind="measurement", subject="ab" * 32, revoked=False, attempts=(attempt,), sealed=(sealed,))
    assert describe_dependents(found) == [
        f"measurement {'ab' * 32} is not revoked",
        "sealed with it: visits, version 7",
        f"nightly 2026-05-04T00:00:00Z, run {'a' * 32}: summarise, attempt 2, open, through its input report",
        "  made report, version 3, for analyst, who has its key",
        "depend on it: 1 attempts, 1 of them running, which end with it",
    ]
