"""The agent as a real process: its socket, its API, its end, and being killed in the middle."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from ppml_airflow import canonical
from ppml_airflow.agent.journal import Journal
from ppml_airflow.agent.service import MAX_BODY_BYTES, AgentHealth
from ppml_airflow.errors import MalformedInputError, UnavailableError
from ppml_airflow.protocol.messages import AgentTaskView, Problem
from ppml_airflow.sealing.manifest import Manifest
from tests.support.agent_home import DELIVER_REPORT, SEAL_VISITS, VISITS, write_agent
from tests.support.agent_process import ROOT, AgentProcess
from tests.support.enclave_output import EnclaveOutput
from tests.support.fake_broker import FakeBroker
from tests.support.owners import Owners

CANARY = "Josefine-Canary-7731"


@pytest.fixture
def owners() -> Owners:
    return Owners("visits", "report")


@pytest.fixture
def broker(owners: Owners) -> Iterator[FakeBroker]:
    with FakeBroker(owners) as broker:
        yield broker


@pytest.fixture
def config(tmp_path: Path, owners: Owners, broker: FakeBroker) -> Path:
    return write_agent(tmp_path / "agent", owners=owners, broker=broker.url, seals=SEAL_VISITS, delivers=DELIVER_REPORT)


@pytest.fixture
def agent(config: Path) -> Iterator[AgentProcess]:
    with AgentProcess(config) as agent:
        yield agent


def raw(agent: AgentProcess, method: str, path: str, content: bytes = b"") -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=agent.address.removeprefix("unix:"))) as client:
        return client.request(method, f"http://local{path}", content=content)


# ---------------------------------------------------------------- its API


def test_health_says_who_answers_and_which_names_it_knows(agent: AgentProcess, owners: Owners) -> None:
    with agent.client() as client:
        health = client.call("GET", "/v1/health", into=AgentHealth)
    assert health == AgentHealth(
        status="ok", agent="test", domain_id=owners.domain.domain_id, seals=("visits",), delivers=("report",)
    )


def test_only_its_own_user_may_open_the_socket(agent: AgentProcess) -> None:
    assert stat.S_IMODE(Path(agent.address.removeprefix("unix:")).stat().st_mode) == 0o600


def test_dataset_is_sealed_over_http_and_again_with_the_same_answer(agent: AgentProcess, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    first = agent.wait("seal", "visits", run_id)
    assert (first.state, first.percent, first.kind, first.location) == ("done", 100, "", "")
    assert first.published is not None
    assert agent.wait("seal", "visits", run_id) == first
    assert list(broker.manifests) == [first.published.manifest]


def test_refusal_is_told_with_class_code_and_hint(agent: AgentProcess, broker: FakeBroker) -> None:
    view = agent.wait("seal", "payroll", broker.open_run())
    assert (view.state, view.kind, view.code) == ("failed", "PolicyDeniedError", "not_in_map")
    assert "agent.yaml" in view.hint


def test_silent_broker_is_told_as_unavailable(config: Path, owners: Owners) -> None:
    write_agent(config.parent, owners=owners, broker="http://127.0.0.1:1", seals=SEAL_VISITS)
    with AgentProcess(config) as agent:
        view = agent.wait("seal", "visits", "0" * 32)
    assert (view.state, view.kind) == ("failed", "UnavailableError")


def test_unknown_task_is_unavailable(agent: AgentProcess) -> None:
    with agent.client() as client, pytest.raises(UnavailableError) as raised:
        client.call("GET", f"/v1/tasks/sha256:{'0' * 64}", into=AgentTaskView)
    assert raised.value.code == "unknown_task"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"name":"visits","run_id":"../../etc","verb":"seal"}',
        b'{"name":"../visits","run_id":"' + b"0" * 32 + b'","verb":"seal"}',
        b'{"name":"visits","run_id":"' + b"0" * 32 + b'","verb":"open"}',
        b'{"name":"visits","run_id":"' + b"0" * 32 + b'","source":"/etc/shadow","verb":"seal"}',
        b'{"verb":"seal","name":"visits","run_id":"' + b"0" * 32 + b'"}',
        b"x" * (MAX_BODY_BYTES + 1),
    ],
    ids=["empty", "no-fields", "run-path", "name-path", "verb", "unknown-field", "not-canonical", "too-long"],
)
def test_malformed_request_is_refused(agent: AgentProcess, content: bytes) -> None:
    response = raw(agent, "POST", "/v1/tasks", content)
    problem = canonical.decode(response.content, into=Problem)
    assert (response.status_code, problem.kind) == (422, MalformedInputError.__name__)


def test_there_are_no_other_routes(agent: AgentProcess) -> None:
    for path in ("/", "/docs", "/openapi.json", "/v1/tasks"):
        assert raw(agent, "GET", path).status_code in (404, 405)


def test_agent_serves_tcp(config: Path, owners: Owners, broker: FakeBroker) -> None:
    with httpx.Client() as client:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"http://127.0.0.1:{free.getsockname()[1]}"
        write_agent(config.parent, owners=owners, broker=broker.url, seals=SEAL_VISITS, listen=listen)
        with AgentProcess(config):
            assert client.get(f"{listen}/v1/health").status_code == 200


# ---------------------------------------------------------------- its end


def test_stopped_agent_removes_its_socket(config: Path) -> None:
    with AgentProcess(config) as agent:
        path = Path(agent.address.removeprefix("unix:"))
        assert path.exists()
        assert agent.stop() == 0
        assert not path.exists()


def test_second_agent_with_the_same_file_does_not_start(agent: AgentProcess) -> None:
    second = start(agent.config)
    assert second.returncode == 2
    assert "another agent runs" in second.stderr


def test_wrong_configuration_is_told_with_its_line(config: Path) -> None:
    config.write_text(config.read_text().replace("agent: test", "agent: 'te st'"))
    ended = start(config)
    assert ended.returncode == 2
    assert "agent.yaml:1: agent: " in ended.stderr
    assert "Traceback" not in ended.stderr


def start(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ppml_airflow.agent", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )


def test_agent_knows_nothing_of_airflow(config: Path) -> None:
    code = "import sys, ppml_airflow.agent.__main__; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# ---------------------------------------------------------------- killed in the middle


def wait_for(claim: Callable[[], bool]) -> None:
    for _ in range(5000):
        if claim():
            return
        time.sleep(0.002)
    raise AssertionError("it does not come")


def storage(config: Path) -> Path:
    return config.parent / "storage" / "visits"


def visible(config: Path) -> list[Path]:
    return [path for path in storage(config).glob("*") if not path.name.startswith(".")]


@pytest.mark.kill
def test_agent_killed_while_sealing_leaves_no_half_dataset(config: Path, broker: FakeBroker) -> None:
    (config.parent / "visits.csv").write_text("person,clinic\n" + "1234567,Mitte\n" * 4_000_000)
    with AgentProcess(config) as agent:
        agent.ask("seal", "visits", broker.open_run())
        wait_for(lambda: any(storage(config).glob(".unfinished-*/part-*")))
        agent.stop(signal.SIGKILL)
    assert visible(config) == []
    assert broker.manifests == {}
    (config.parent / "visits.csv").write_text(VISITS)
    with AgentProcess(config) as agent:
        assert list(storage(config).iterdir()) == []
        assert agent.wait("seal", "visits", broker.open_run()).state == "done"
    assert len(list(storage(config).iterdir())) == 1


@pytest.mark.kill
def test_agent_killed_before_publish_leaves_no_version(config: Path, broker: FakeBroker) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(manifest: Manifest) -> None:
        reached.set()
        go_on.wait(20)
        raise UnavailableError("the one who asked is gone")

    broker.before_publish = hold
    run_id = broker.open_run()
    with AgentProcess(config) as agent:
        agent.ask("seal", "visits", run_id)
        assert reached.wait(20)
        agent.stop(signal.SIGKILL)
    assert len(visible(config)) == 1
    go_on.set()
    broker.before_publish = lambda manifest: None
    with AgentProcess(config) as agent:
        assert visible(config) == []
        assert agent.wait("seal", "visits", run_id).state == "done"
    assert len(visible(config)) == 1


@pytest.mark.kill
def test_agent_killed_after_publish_keeps_the_committed_version(config: Path, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    reached, go_on = threading.Event(), threading.Event()
    broker.lose_replies = 1

    def hold(run_id: str, dataset: str) -> None:
        if broker.manifests:
            reached.set()
            go_on.wait(20)
        return None

    broker.answer_sealed = hold
    with AgentProcess(config) as agent:
        agent.ask("seal", "visits", run_id)
        assert reached.wait(20)
        agent.stop(signal.SIGKILL)
    go_on.set()
    broker.answer_sealed = broker.sealed
    with AgentProcess(config) as agent:
        view = agent.wait("seal", "visits", run_id)
        assert view.published is not None
        assert [view.published.manifest] == list(broker.manifests)
    assert len(visible(config)) == 1
    assert Journal(config.parent / "state").unfinished() == []


@pytest.mark.kill
def test_agent_killed_while_delivering_leaves_the_previous_result(
    config: Path, owners: Owners, broker: FakeBroker, tmp_path: Path
) -> None:
    delivers = DELIVER_REPORT.replace(".parquet", ".csv")
    write_agent(config.parent, owners=owners, broker=broker.url, delivers=delivers)
    opened = config.parent / "opened"
    opened.mkdir()
    (opened / "report.csv").write_text("yesterday")
    output = EnclaveOutput(owners=owners, run_id=broker.open_run(), storage=config.parent / "storage")
    output.seal(pa.table({"person": pa.array(range(5_000_000)), "clinic": ["Mitte"] * 5_000_000}))
    broker.releases[output.run_id, "report"] = output.answer
    with AgentProcess(config) as agent:
        agent.ask("deliver", "report", output.run_id)
        wait_for(lambda: any(opened.glob(".report.csv.ppml-*")))
        agent.stop(signal.SIGKILL)
    assert (opened / "report.csv").read_text() == "yesterday"
    with AgentProcess(config):
        assert [path.name for path in opened.iterdir()] == ["report.csv"]


def test_agent_that_is_stopped_while_sealing_leaves_nothing(config: Path, broker: FakeBroker) -> None:
    (config.parent / "visits.csv").write_text("person,clinic\n" + "1234567,Mitte\n" * 4_000_000)
    with AgentProcess(config) as agent:
        agent.ask("seal", "visits", broker.open_run())
        wait_for(lambda: any(storage(config).glob(".unfinished-*/part-*")))
        assert agent.stop() == 0
    assert list(storage(config).iterdir()) == []
    assert broker.manifests == {}


# ---------------------------------------------------------------- what it says


def test_log_and_answers_hold_no_value_of_the_data(config: Path, broker: FakeBroker) -> None:
    (config.parent / "visits.csv").write_text(f"person,clinic\n{CANARY},Mitte\n1,Nord\n2,Ost\n3,{CANARY},x\n")
    with AgentProcess(config) as agent:
        view = agent.wait("seal", "visits", broker.open_run())
        assert view.state == "failed"
        agent.stop()
        assert CANARY not in canonical.encode(view).decode()
        assert CANARY not in agent.log.read_text()
