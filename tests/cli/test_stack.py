"""The services of a home, as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from ppml_airflow import canonical
from ppml_airflow.cli.agents import write_agent_files
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.processes import descendants
from ppml_airflow.cli.simulated import accept_measurement, airflow_token, ensure_certified
from ppml_airflow.cli.stack import Stack, core_services
from ppml_airflow.domain.documents import Approval, Input
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError
from ppml_airflow.protocol.client import JsonClient
from ppml_airflow.protocol.messages import OpenRun
from tests.cli.conftest import NOW


@pytest.fixture
def stack(home: Home, owner: Owner, approval: Approval, tmp_path: Path) -> Iterator[Stack]:
    ensure_certified(home, owner=owner, approval=approval, now=NOW)
    found = Stack(home)
    write_agent_files(
        home,
        broker=found.broker_socket,
        pipeline="nightly",
        sources={"visits": tmp_path / "v.csv"},
        sinks={"report": "opened/report.csv"},
    )
    yield found
    found.stop()


def seals(home: Home) -> list[str]:
    with JsonClient(f"unix:{home.socket('owner-agent')}") as agent:
        return list(agent.call("GET", "/v1/health", into=dict[str, object])["seals"])  # type: ignore[call-overload]


def test_services_are_ready_inside_the_block_and_gone_after_it(stack: Stack) -> None:
    with stack.attached():
        assert stack.is_running()
        pid = stack.supervisor_pid()
        assert pid is not None
        assert len(psutil.Process(pid).children()) == 4
        started = descendants(pid)
        assert seals(stack.home) == ["visits"]
    assert not stack.is_running()
    assert not any(Path(f"/proc/{process}").exists() for process in (pid, *started))


def test_what_runs_already_is_used_and_left_running(stack: Stack) -> None:
    stack.start(core_services(stack.home), stays=True)
    stack.wait_until_ready()
    pid = stack.supervisor_pid()
    with stack.attached():
        assert stack.supervisor_pid() == pid
    assert stack.supervisor_pid() == pid
    assert stack.stop()
    assert not stack.stop()


def test_agents_read_their_files_again(stack: Stack, tmp_path: Path) -> None:
    with stack.attached():
        write_agent_files(
            stack.home,
            broker=stack.broker_socket,
            pipeline="nightly",
            sources={"sales": tmp_path / "s.csv"},
            sinks={},
        )
        stack.restart_agents()
        stack.wait_until_ready()
        assert seals(stack.home) == ["sales", "visits"]


def test_the_broker_is_told_what_was_signed_and_once_more_does_no_harm(
    stack: Stack, owner: Owner, approval: Approval
) -> None:
    accept_measurement(stack.home, owner=owner, image="spark", measurement="a" * 64, names=["default"])
    first = owner.store_approval(canonical.encode(approval))
    second = owner.store_approval(
        canonical.encode(msgspec.structs.replace(approval, runs_per_slot=2, replaces=first.digest))
    )
    with stack.attached(), stack.broker() as broker:
        owner.publish(broker)
        owner.publish(broker)
        assert broker.approval("nightly") == second
        policy = broker.policy("default")
        assert policy is not None
        assert len(broker.domain().certificates) == len(owner.certificates().by_serial)


def test_only_a_caller_with_the_token_opens_a_run(stack: Stack, owner: Owner, approval: Approval) -> None:
    step = msgspec.structs.replace(approval.steps[0], inputs=(Input(dataset="visits", version="this-run"),))
    owner.store_approval(canonical.encode(msgspec.structs.replace(approval, steps=(step,))))
    request = OpenRun(pipeline="nightly", slot=None, params={}, claimed={"dag_id": "nightly", "run_id": "1"})
    with stack.attached():
        with stack.broker() as nobody:
            owner.publish(nobody)
            with pytest.raises(PolicyDeniedError, match="no valid token"):
                nobody.open_run(request)
        with stack.broker(token=airflow_token(stack.home)) as airflow:
            assert airflow.open_run(request).pipeline == "nightly"


def test_a_service_that_cannot_start_is_named_with_its_log(stack: Stack) -> None:
    write_private(stack.home.broker / "keystore.json", b"broken")
    with pytest.raises(UnavailableError, match=r"broker does not start.*broker\.log"), stack.attached():
        pytest.fail("never ready")
    assert not stack.is_running()


def test_a_broken_broker_file_is_named(home: Home, owner: Owner) -> None:
    (home.broker / "broker.yaml").write_text("a: [")
    with pytest.raises(ConfigurationError, match="not YAML"):
        core_services(home)


def test_the_broker_keeps_its_port(home: Home, owner: Owner) -> None:
    core_services(home)
    before = Stack(home).broker_url
    core_services(home)
    assert Stack(home).broker_url == before
